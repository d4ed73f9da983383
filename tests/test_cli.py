from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from spatialdata import SpatialData, read_zarr

import nh2st as nh
from nh2st._cli import main
from nh2st._commands import _demo
from nh2st._estimators import estimator_named
from nh2st._keys import VARIANT

FIGURES = ("spatial_genes.png", "gene_correlation.png", "training_history.png", "patches.png")


@pytest.fixture
def demo(make_sdata: Callable[..., SpatialData], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The demo, on sections as small as can be."""

    def tiny(seed: int, epochs: int | None) -> _demo._Plan:
        patch = {"patch_px": 32, "patch_um": 32.0}
        network = {"encoder": "test_resnet", "encoder_weights": None, "network": {"width": 32, "heads": 2}}
        settings = network | patch | {"max_epochs": epochs or 2}
        return _demo._Plan(make_sdata(("S1", "S2", "S3"), side=4, seed=seed), ["S1", "S2"], "S3", ["gene1"], settings)

    monkeypatch.setattr(_demo, "_synthetic", tiny)
    return lambda *arguments: CliRunner().invoke(main, ["demo", "--device", "cpu", *map(str, arguments)])


def test_help_names_the_commands():
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    assert "demo" in shown.output
    options = CliRunner().invoke(main, ["demo", "-h"]).output
    assert all(name in options for name in ("--data", "--output", "--epochs", "--device", "--seed"))
    assert version("nh2st") in CliRunner().invoke(main, ["--version"]).output


def test_help_names_the_epochs_of_the_demo():
    shown = " ".join(CliRunner().invoke(main, ["demo", "--help"], terminal_width=200).output.split())
    settings = _demo._synthetic(seed=0, epochs=None).settings
    default = estimator_named(VARIANT).defaults["max_epochs"]
    assert f"[default: {settings['max_epochs']}; {default} on real sections]" in shown


def test_module_is_the_program():
    shown = subprocess.run([sys.executable, "-m", "nh2st", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: nh2st" in shown.stdout


def test_demo_writes_what_it_says(demo, tmp_path):
    output = tmp_path / "results"
    (output / "sections.zarr").mkdir(parents=True)
    (output / "sections.zarr" / "old").write_text("of an earlier demo")
    result = demo("--output", output, "--epochs", 1, "--seed", 3)
    assert result.exit_code == 0, result.output
    files = sorted(["metrics.csv", "model.safetensors", "sections.zarr", *FIGURES])
    assert sorted(path.name for path in output.iterdir()) == files
    assert all(f"  {name}\n" in result.output for name in files)
    for name in FIGURES:
        with Image.open(output / name) as figure:
            figure.load()
            assert min(figure.size) > 100
    model = nh.models.load(output / "model.safetensors")
    assert len(model.history) == 1
    assert model.provenance["seed"] == 3
    assert model.provenance["sections"] == ["S1", "S2"]
    assert not (output / "sections.zarr" / "old").exists()
    table = read_zarr(output / "sections.zarr")["table"]
    predicted = nh.get.predicted(table)
    assert set(predicted.obs["region"]) == {"S3"}
    assert predicted.uns["nh2st"]["nh2st"]["sha256"] == model.sha256


def test_demo_prints_the_metrics(demo, tmp_path):
    result = demo("--output", tmp_path)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    of_genes = metrics[metrics["gene"].notna()]
    means = of_genes.pivot_table(index=["model", "truth"], columns="metric", values="value", dropna=False)
    assert "Held-out section S3: means over 8 genes. MSE and MAE in units of ln(1 + x)" in result.output
    for (model, truth), row in means.iterrows():
        correlations = [f"{row[name]:.3f}" for name in ("pearson", "spearman")]
        if model == "training_mean":
            correlations = ["undefined", "undefined"]
        errors = [f"{row[name]:.3f}" for name in ("mse", "mae")]
        line = " ".join([model.replace("_", " "), truth, *correlations, *errors])
        assert line in [" ".join(printed.split()) for printed in result.output.splitlines()]
    assert len(means) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "abc"], 'Error: device=\'abc\' is unknown; use "auto", "cpu"'),
        (["--data", "{folder}"], "{folder}"),
        (["--output", "{file}/results"], "{file}/results"),
    ],
)
def test_error_is_one_line_with_the_fix(demo, tmp_path, arguments, message):
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("mine")
    places = {"folder": tmp_path / "data", "file": tmp_path / "file"}
    result = demo("--output", tmp_path / "results", *(argument.format(**places) for argument in arguments))
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    _, _, error = result.output.rpartition("\nError: ")
    assert error.strip().count("\n") == 0
    assert message.format(**places).removeprefix("Error: ") in error


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--epochs", "0"], "'--epochs'"), (["--data", "nowhere"], "'nowhere' does not exist")]
)
def test_options_are_checked(demo, arguments, message):
    result = demo(*arguments)
    assert result.exit_code == 2
    assert message in result.output
