from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nh2st as nh


def images(n: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8))


def rewrite(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header of a model file."""
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["nh2st"])
    change(header)
    save_file(load_file(file), file, metadata={"nh2st": json.dumps(header)})


def test_loaded_model_is_the_saved_one(model, file):
    loaded = nh.models.load(str(file))
    assert torch.equal(loaded.network.predict(images()), model.network.predict(images()))
    assert torch.equal(loaded.baselines.ridge(images()), model.baselines.ridge(images()))
    assert torch.equal(loaded.baselines.mean, model.baselines.mean)
    for name in ("sha256", "name", "genes", "target", "patch_um", "patch_px", "config", "history", "provenance"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert loaded.summary() == model.summary()
    assert not loaded.network.training


def test_saving_again_gives_the_same_file(file, tmp_path):
    again = nh.models.load(file).save(tmp_path / "again.safetensors")
    assert again.read_bytes() == file.read_bytes()


def test_model_without_baselines_and_scale(model, tmp_path):
    bare = nh.models.Model(model.network, model.genes, model.target, None)
    loaded = nh.models.load(bare.save(tmp_path / "bare.safetensors"))
    assert loaded.baselines is None
    assert loaded.patch_um is None
    assert loaded.sha256 == bare.sha256 != model.sha256


def test_predictions_of_a_used_model_are_saved(make_sdata, model, file):
    """Predicting moves the network into another memory layout."""
    nh.tl.predict(make_sdata(), model)
    assert nh.models.load(model.save(file)).sha256 == model.sha256


def test_folders_are_made_and_files_replaced(model, tmp_path):
    path = tmp_path / "new" / "folder" / "model.safetensors"
    for _ in range(2):
        assert model.save(str(path)) == path
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("place", ["a folder", "below a file", "a full disk"])
def test_places_that_cannot_be_written(model, tmp_path, monkeypatch, place):
    path = tmp_path / "place"
    if place == "a folder":
        path.mkdir()
    elif place == "below a file":
        path.write_text("mine")
        path = path / "model.safetensors"
    else:
        path.write_text("mine")

        def full(*_: Any, **__: Any) -> None:
            (tmp_path / f".place.{os.getpid()}.tmp").write_text("half")
            msg = "No space left on device"
            raise OSError(msg)

        monkeypatch.setattr("nh2st.models._file.save_file", full)
    with pytest.raises(OSError, match="model could not be written to .*place.*name another file"):
        model.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["place"]
    assert place == "a folder" or (tmp_path / "place").read_text() == "mine"


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model file .*nowhere.safetensors"):
        nh.models.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match="no model file"):
        nh.models.load(tmp_path)


@pytest.mark.parametrize("kind", ["html", "empty", "truncated", "text"])
def test_files_that_are_no_safetensors(file, kind):
    content = file.read_bytes()
    html = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    file.write_bytes({"html": html, "empty": b"", "truncated": content[:-100], "text": b"x" * 1000}[kind])
    with pytest.raises(ValueError, match="model.safetensors cannot be read as a safetensors file.*truncated"):
        nh.models.load(file)


class Payload:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (self.target, "w")

    def __init__(self, target: str) -> None:
        self.target = target


@pytest.mark.parametrize("by", ["pickle", "torch"])
def test_code_in_a_file_is_not_executed(tmp_path, by):
    target, path = tmp_path / "executed", tmp_path / "model.safetensors"
    if by == "pickle":
        path.write_bytes(pickle.dumps(Payload(str(target))))
    else:
        torch.save({"state_dict": Payload(str(target))}, path)
    with pytest.raises(ValueError, match="cannot be read as a safetensors file"):
        nh.models.load(path)
    assert not target.exists()


def test_safetensors_of_others(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="other.safetensors is a safetensors file, but not a model saved by nh2st"):
        nh.models.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("metadata", ["{", "[]", "{}", '{"format": "x"}'])
def test_headers_that_cannot_be_read(file, metadata):
    save_file(load_file(file), file, metadata={"nh2st": metadata})
    with pytest.raises(ValueError, match="is damaged: its header is not valid"):
        nh.models.load(file)


def test_newer_format(file):
    rewrite(file, lambda header: header.update(format=2))
    with pytest.raises(ValueError, match="model format 2; this version of nh2st reads up to 1. Update nh2st"):
        nh.models.load(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["genes"].pop(),
        lambda header: header["config"].update(n_genes=9),
        lambda header: header["config"].update(width=64),
        lambda header: header["config"].update(encoder="test_resnet"),
        lambda header: header["config"].update(novelty=1),
        lambda header: header.update(config="paper"),
        lambda header: header.update(target={"kind": "default"}),
        lambda header: header.pop("history"),
        lambda header: header.update(genes=5),
    ],
    ids=["genes", "outputs", "width", "encoder", "field", "config", "target", "history", "type"],
)
def test_headers_that_do_not_fit_the_weights(file, change):
    rewrite(file, change)
    with pytest.raises(
        ValueError, match="model.safetensors cannot be loaded: its header and weights do not fit together"
    ):
        nh.models.load(file)


@pytest.mark.parametrize("name", ["genes", "target", "patch_um", "baselines", "history", "provenance"])
def test_header_fields_that_are_missing_or_wrong_are_named(file, name):
    content = file.read_bytes()
    rewrite(file, lambda header: header.pop(name))
    with pytest.raises(ValueError, match=f"do not fit together.*the header lacks {name}"):
        nh.models.load(file)
    file.write_bytes(content)
    rewrite(file, lambda header: header.update({name: "text"}))
    with pytest.raises(ValueError, match=f"do not fit together.*the header's {name} cannot be read"):
        nh.models.load(file)


def test_unknown_header_fields_are_ignored(model, file, caplog):
    rewrite(file, lambda header: header.update(novelty=1, another="x"))
    with caplog.at_level(logging.DEBUG, logger="nh2st"):
        assert nh.models.load(file).sha256 == model.sha256
    assert f"Unknown fields in the header of {file} are ignored: another, novelty." in caplog.text


def test_files_from_before_there_were_fields_for_prediction_alone(model, file):
    rewrite(file, lambda header: [header.pop("inference_only"), header.pop("shared_encoder")])
    assert nh.models.load(file).sha256 == model.sha256


def test_encoder_that_is_not_there(file):
    rewrite(file, lambda header: header["config"].update(encoder="resnet_of_the_future"))
    with pytest.raises(ValueError, match="not with the installed versions of nh2st and timm.*'resnet_of_the_future'"):
        nh.models.load(file)


@pytest.mark.parametrize("name", ["network.head.1.bias", "baselines.mean", "baselines.encoder.mean"])
def test_weights_that_are_missing(file, name):
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(ValueError, match=f"do not fit together.*{name.rsplit('.', 1)[-1]}"):
        nh.models.load(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["network.head.1.bias", "network.encoder.", "baselines.mean"])
def test_weights_that_are_not_finite(file, part, value):
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    name = next(name for name in tensors if name.startswith(part) and tensors[name].is_floating_point())
    tensors[name].view(-1)[0] = value
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(ValueError, match=f"cannot be used: its weights hold NaN or infinite values, first in '{name}'"):
        nh.models.load(file)


def test_file_has_the_permissions_of_any_other(file, tmp_path):
    other = tmp_path / "other"
    other.touch()
    assert file.stat().st_mode == other.stat().st_mode
