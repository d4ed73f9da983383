from __future__ import annotations

import importlib.util
import json
import pickle
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

import nh2st as nh
from nh2st.models import _registry

ROOT = Path(__file__).parents[2]


def entries(count: int = 1) -> list[dict[str, Any]]:
    entry = json.loads((Path(__file__).parent / "entry.json").read_text())
    return [
        entry
        | {
            "name": f"tiny-{number}",
            "patch_um": 16.0 if number else None,
            "bytes": 1000 + number,
            "sha256": f"{number}" * 64,
        }
        for number in range(count)
    ]


def changed(**fields: Any) -> list[dict[str, Any]]:
    return [entries()[0] | fields]


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of two models, whose files are nowhere."""
    path = tmp_path / "registry.json"
    path.write_text(json.dumps(entries(2)))
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(_registry, "REGISTRY_FILE", path)
    monkeypatch.setattr(_registry, "CHECKOUT", tmp_path / "no checkout")
    monkeypatch.setattr(_registry, "metadata", lambda _: Message())
    monkeypatch.setattr(nh.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.delenv("NH2ST_WEIGHTS_URL", raising=False)
    monkeypatch.chdir(tmp_path / "empty")
    return path


@pytest.mark.usefixtures("registered")
def test_available_lists_the_registry():
    table = nh.models.available()
    assert list(table.index) == ["tiny-0", "tiny-1"]
    for number, entry in enumerate(entries(2)):
        row = table.loc[entry.pop("name")]
        patch_um = entry.pop("patch_um")
        assert {name: row[name] for name in entry} == entry
        assert row["card"] == f"docs/models/tiny-{number}.md"
        assert pd.isna(row["mpp"]) if patch_um is None else row["mpp"] == 0.5


def test_available_without_models(registered):
    registered.write_text("[]")
    table = nh.models.available()
    assert len(table) == 0
    assert {"organism", "n_genes", "sha256", "card"} <= set(table.columns)
    with pytest.raises(FileNotFoundError, match="no pretrained model of this name: none yet"):
        nh.models.load("tiny-0")


def test_the_registry_of_the_package_is_valid():
    table = nh.models.available()
    assert table.index.is_unique
    assert (table["bytes"] <= 30_000_000).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "recursion"),
        ("{}", "no list of models"),
        ("[1]", "no list of models"),
        (json.dumps(entries(1) * 2), "two models named tiny-0"),
        (json.dumps(changed(name="../../tiny")), r"name '../../tiny' is not of the form"),
        (json.dumps(changed(name="..")), r"name '\.\.' is not of the form"),
        (json.dumps(changed(name="a/b")), "name 'a/b' is not of the form"),
        (json.dumps(changed(name="C:\\tiny")), "name 'C:.*tiny' is not of the form"),
        (json.dumps(changed(name="tiny\n")), "name 'tiny.*' is not of the form"),
        (json.dumps(changed(sha256="0" * 63)), "sha256 '0*' is not of the form"),
        (json.dumps(changed(bytes="many")), "bytes of 'tiny-0' is 'many'"),
        (json.dumps(changed(bytes=0)), "bytes of 'tiny-0' are 0"),
        (json.dumps(changed(patch_px=True)), "patch_px of 'tiny-0' is True"),
        (json.dumps(changed(tissue="")), "tissue of 'tiny-0' is ''"),
        (json.dumps(changed(sections=[1])), r"sections of 'tiny-0' are \[1\]"),
        (json.dumps(changed(url="http://elsewhere")), "unexpected keyword argument 'url'"),
        (json.dumps([{"name": "tiny"}]), "missing .* 'organism'"),
    ],
)
def test_damaged_registries_are_refused(registered, content, reason):
    registered.write_text(content)
    for call in (nh.models.available, lambda: nh.models.load("tiny-0")):
        with pytest.raises(ValueError, match=f"registry.json, is damaged (?s:.*){reason}.*Reinstall nh2st"):
            call()


class Payload:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (self.target, "w")


@pytest.mark.parametrize("protocol", [0, 5])
def test_code_in_a_registry_is_not_executed(registered, tmp_path, protocol):
    registered.write_bytes(pickle.dumps(Payload(str(tmp_path / "executed")), protocol=protocol))
    with pytest.raises(ValueError, match="is damaged"):
        nh.models.available()
    assert not (tmp_path / "executed").exists()


def test_files_are_loaded_whatever_the_registry(registered, file):
    registered.write_text("{")
    assert nh.models.load(file).genes
    assert nh.models.load(str(file)).genes


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", ["../../nowhere/passwd", "../tiny-0", "./tiny-0", "tiny-0.safetensors", "TINY-0", ""])
def test_paths_are_no_names(name):
    with pytest.raises(FileNotFoundError, match="There is no model file"):
        nh.models.load(name)


@pytest.mark.usefixtures("registered")
def test_unknown_names_list_the_known():
    with pytest.raises(FileNotFoundError, match="no model file tiny, and no pretrained .*: tiny-0, tiny-1"):
        nh.models.load("tiny")


def test_a_model_that_cannot_be_had_says_how_it_can(registered, tmp_path):
    target = tmp_path / "cache" / "weights" / "tiny-0.safetensors"
    with pytest.raises(FileNotFoundError, match="no address to download it from is known") as caught:
        nh.models.load("tiny-0")
    for part in ("nh.settings.weights_url", "NH2ST_WEIGHTS_URL", "weights` of a checkout", "0" * 64, str(target)):
        assert part in str(caught.value)
    assert not target.parent.exists()


@pytest.fixture
def published(registered: Path, model: nh.models.Model, tmp_path: Path) -> Path:
    """The file of ``tiny-0``, in a folder of its own."""
    file = model.save(tmp_path / "published" / "tiny-0.safetensors", inference_only=True)
    content = file.read_bytes()
    fields = {"bytes": len(content), "sha256": _sha256(content)}
    registered.write_text(json.dumps([entries()[0] | fields]))
    return file


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_a_file_put_by_hand_is_found(published, model, tmp_path):
    target = tmp_path / "cache" / "weights" / published.name
    target.parent.mkdir(parents=True)
    target.write_bytes(published.read_bytes())
    assert nh.models.load("tiny-0").genes == model.genes


def test_a_checkout_finds_its_own(published, model, tmp_path, monkeypatch):
    root = tmp_path / "checkout"
    (root / "weights").mkdir(parents=True)
    published.rename(root / "weights" / published.name)
    monkeypatch.setattr(_registry, "CHECKOUT", root)
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        nh.models.load("tiny-0")
    (root / "pyproject.toml").touch()
    assert nh.models.load("tiny-0").genes == model.genes


@pytest.mark.parametrize("how", ["folder", "checkout", "path", "file URL", "variable"])
def test_a_folder_as_mirror(published, model, tmp_path, monkeypatch, how):
    folder = published.parent
    if how == "variable":
        monkeypatch.setenv("NH2ST_WEIGHTS_URL", str(folder))
    elif how == "checkout":
        folder.rename(tmp_path / "weights")
        monkeypatch.setattr(nh.settings, "weights_url", str(tmp_path))
    else:
        given = {"folder": str(folder), "path": folder, "file URL": folder.as_uri()}[how]
        monkeypatch.setattr(nh.settings, "weights_url", given)
        monkeypatch.setenv("NH2ST_WEIGHTS_URL", "http://127.0.0.1:9")
    assert nh.models.load("tiny-0").genes == model.genes
    assert not (tmp_path / "cache").exists()


def test_other_files_of_the_name_are_not_used(published, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(nh.settings, "weights_url", published.parent)
    published.write_bytes(published.read_bytes()[:-1] + b"x")
    with pytest.raises(FileNotFoundError, match="not on this machine, and it is not in .*published either"):
        nh.models.load("tiny-0")
    assert f"{published} is not the model tiny-0 of the registry" in caplog.text


def test_names_go_before_files_of_the_current_folder(published, model, file, monkeypatch, caplog):
    monkeypatch.setattr(nh.settings, "weights_url", published.parent)
    other = nh.models.Model(model.network, model.genes, model.target, None)
    other.save(Path("tiny-0"))
    assert nh.models.load("tiny-0").patch_um == model.patch_um
    assert "the file in the current folder is './tiny-0'" in caplog.text
    for given in ("./tiny-0", Path("tiny-0")):
        assert nh.models.load(given).patch_um is None


@pytest.mark.usefixtures("registered")
def test_a_bare_name_of_a_file_alone(model):
    model.save(Path("mine"))
    assert nh.models.load("mine").sha256 == model.sha256


@pytest.mark.parametrize("source", ["https://github.com/owner/nh2st", "https://github.com/owner/nh2st.git", None])
def test_the_address_comes_from_the_project(monkeypatch, source):
    message = Message()
    message["Project-URL"] = "Homepage, https://elsewhere.org"
    if source:
        message["Project-URL"] = f"Source, {source}"
    monkeypatch.setattr(_registry, "metadata", lambda _: message)
    monkeypatch.delenv("NH2ST_WEIGHTS_URL", raising=False)
    assert _registry.weights_url() == (source and "https://github.com/owner/nh2st/raw/HEAD/weights")
    monkeypatch.setenv("NH2ST_WEIGHTS_URL", "https://mirror.org/a")
    assert _registry.weights_url() == "https://mirror.org/a"
    monkeypatch.setattr(nh.settings, "weights_url", "https://mirror.org/b")
    assert _registry.weights_url() == "https://mirror.org/b"


def test_nothing_is_downloaded_from_a_project_without_a_home(registered, monkeypatch):
    message = Message()
    message["Project-URL"] = f"Source, https://{_registry.NO_HOME}/nh2st"
    monkeypatch.setattr(_registry, "metadata", lambda _: message)
    assert _registry.weights_url() is None
    assert nh.models.available().loc["tiny-0", "card"] == "docs/models/tiny-0.md"
    with pytest.raises(FileNotFoundError, match="no address to download it from is known"):
        nh.models.load("tiny-0")


@pytest.fixture
def script() -> ModuleType:
    """``weights/register.py``, which is not part of the package."""
    path = ROOT / "weights" / "register.py"
    if not path.is_file():
        pytest.skip("no checkout")
    spec = importlib.util.spec_from_file_location("register", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SAID = {
    name: entries()[0][name]
    for name in ("organism", "tissue", "assay", "pearson", "ridge_pearson", "validation", "licence")
}


def test_registering_a_file(script, registered, published, model, monkeypatch):
    registered.write_text("[]")
    with pytest.raises(ValueError, match="tiny-0 is new to the registry: give --assay"):
        script.register(published, registered, **SAID | {"assay": None})
    script.register(published, registered, **SAID)
    monkeypatch.setattr(nh.settings, "weights_url", published.parent)
    row = nh.models.available().loc["tiny-0"]
    assert row["sections"] == ["A", "B"]
    assert (row["n_genes"], row["encoder"], row["target"]) == (8, "test_efficientnet", "default")
    assert (row["patch_um"], row["patch_px"], row["mpp"]) == (32.0, 32, 1.0)
    assert nh.models.load("tiny-0").genes == model.genes

    nh.models.load(published).save(published)
    script.register(published, registered, **dict.fromkeys(SAID), **{})
    assert nh.models.available().loc["tiny-0", "tissue"] == "olfactory bulb"
    assert sorted(path.name for path in registered.parent.glob("*.tmp")) == []


def test_files_that_are_not_to_be_published(script, registered, file, monkeypatch):
    with pytest.raises(ValueError, match="holds the parts for training; publish what .*inference_only=True"):
        script.register(file, registered, **SAID)
    monkeypatch.setattr(script, "MOST_BYTES", 1000)
    small = nh.models.load(file).save(file, inference_only=True)
    with pytest.raises(ValueError, match="of at most 1,000 bytes"):
        script.register(small, registered, **SAID)


def test_registry_and_files_of_the_checkout_agree(script):
    files = {path.stem: path for path in (ROOT / "weights").glob("*.safetensors")}
    table = nh.models.available()
    assert set(files) <= set(table.index)
    for name, path in files.items():
        facts = script.facts(path)
        assert facts.pop("name") == name
        assert {field: table.loc[name, field] for field in facts} == facts
        card = str(table.loc[name, "card"])
        assert (ROOT / (card.partition("HEAD/")[2] or card)).is_file()
