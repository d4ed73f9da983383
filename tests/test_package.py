from __future__ import annotations

import logging
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import nh2st as nh


@pytest.fixture
def verbosity() -> Iterator[None]:
    before = nh.settings.verbosity
    yield
    nh.settings.verbosity = before


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter loads for a statement, beyond its own."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in printed.split()}


@pytest.mark.parametrize("statement", ["import nh2st", "import nh2st; nh2st.settings.verbosity; dir(nh2st)"])
def test_import_loads_the_standard_library_alone(statement):
    loaded = modules_after(statement)
    assert "nh2st" in loaded
    assert loaded - {"nh2st"} <= sys.stdlib_module_names


def test_command_line_help_loads_little():
    assert modules_after("import nh2st._cli").isdisjoint({"torch", "spatialdata", "anndata", "lightning", "matplotlib"})


@pytest.mark.parametrize("room", ["_inference", "_patches", "_expression", "models", "nn"])
def test_rooms_below_the_sections_do_without_spatialdata(room):
    assert modules_after(f"import nh2st.{room}").isdisjoint({"spatialdata", "lightning", "matplotlib"})


def test_the_network_loads_neither_tables_nor_slides():
    assert modules_after("import nh2st.nn").isdisjoint({"anndata", "scanpy", "pandas", "xarray", "zarr", "dask"})


def test_models_need_no_spatial_data():
    assert modules_after("import nh2st.models").isdisjoint({"spatialdata", "scanpy", "lightning", "matplotlib"})


def test_modules_are_loaded_when_asked_for():
    assert {"datasets", "get", "models", "nn", "pl", "pp", "settings", "tl", "__version__"} == set(dir(nh))
    for name in nh.__all__:
        assert getattr(nh, name) is not None
    assert nh.__version__ == version("nh2st")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", nh.__version__)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="module 'nh2st' has no attribute 'predict'"):
        nh.predict  # noqa: B018
    assert not hasattr(nh, "tools")


@pytest.mark.usefixtures("verbosity")
def test_verbosity(capsys):
    logger = logging.getLogger("nh2st")
    for level in ("error", "warning", "info", "debug"):
        nh.settings.verbosity = level
        assert nh.settings.verbosity == level
        for said in ("debug", "info", "warning", "error"):
            getattr(logger, said)("said %s", said)
    heard = [line.removeprefix("nh2st: said ") for line in capsys.readouterr().err.splitlines()]
    levels = ["error", "warning", "info", "debug"]
    assert heard == [name for number in range(1, 5) for name in reversed(levels[:number])]


def test_unknown_verbosity():
    with pytest.raises(ValueError, match="verbosity must be one of 'error', 'warning', 'info', 'debug', not 'loud'"):
        nh.settings.verbosity = "loud"


def test_all_addresses_of_the_project_begin_with_its_home():
    path = Path(__file__).parents[1] / "pyproject.toml"
    if not path.is_file():
        pytest.skip("no checkout")
    urls = tomllib.loads(path.read_text())["project"]["urls"]
    assert set(urls) == {"Changelog", "Documentation", "Homepage", "Source"}
    assert all(url.startswith(urls["Homepage"]) for url in urls.values())
