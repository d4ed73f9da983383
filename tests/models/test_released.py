"""Checkpoints of the code that the authors of NH2ST released, from files as Lightning writes them."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import nh2st as nh
from nh2st.nn import NH2ST, NetworkConfig
from nh2st.nn._released_weights import _released_names

GENES = [f"gene{i}" for i in range(5)]
CONFIG = NetworkConfig(n_genes=5, encoder="resnet18", patch_px=64, width=16, depth=2, heads=8, mlp_ratio=2.0)
BLOCK = "cross_encoder.fusion_layer.layers.1.0.fn.to_out.0.weight"


class AttributeDict(dict):
    """Lightning's own class for hyperparameters, which the reader need not have."""


@pytest.fixture
def network() -> NH2ST:
    torch.manual_seed(0)
    return NH2ST(CONFIG, encoder_weights=None).eval()


@pytest.fixture
def released(network: NH2ST) -> dict[str, torch.Tensor]:
    """The network's weights under the names of the released code, in Lightning's wrapper."""
    state = network.state_dict()
    state = {f"model.{old}": state[new] for old, new in _released_names([BLOCK]).items()}
    return state | {"model.fc_nuclei.weight": torch.ones(5, 16), "model.fc_global.bias": torch.ones(5)}


def _save(path: Path, state: dict[str, Any], **extra: Any) -> Path:
    hyperparameters = AttributeDict(
        root=Path("/data"), options=argparse.Namespace(lr=5e-4), model=AttributeDict(depth=2)
    )
    torch.save({"epoch": 12, "state_dict": state, "hyper_parameters": hyperparameters, **extra}, path)
    return path


def _images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))


def test_imported_network_is_the_released_one(tmp_path, network, released):
    model = nh.models.from_released(str(_save(tmp_path / "last.ckpt", released)), genes=GENES)
    assert model.config == CONFIG
    assert not model.network.training
    assert torch.equal(model.network.predict(_images()), network.predict(_images()))
    state = network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.network.state_dict().items())


def test_what_is_known_of_an_imported_model(tmp_path, released):
    model = nh.models.from_released(_save(tmp_path / "last.ckpt", released), genes=np.array(GENES))
    assert model.genes == GENES
    assert (model.target.kind, model.target.log, model.target.scaled_over) == ("paper", "log10", "panel")
    assert model.target.smoothed
    assert model.patch_um is None
    assert model.patch_px == 64
    assert model.baselines is None
    assert model.provenance["imported_from"] == "last.ckpt"
    assert "unknown" in model.summary()
    assert "5 genes" in repr(model)


def test_imported_model_can_be_saved(tmp_path, released):
    model = nh.models.from_released(_save(tmp_path / "last.ckpt", released), genes=GENES)
    loaded = nh.models.load(model.save(tmp_path / "model.safetensors"))
    assert loaded.sha256 == model.sha256
    assert torch.equal(loaded.network.predict(_images()), model.network.predict(_images()))


def test_imported_model_predicts(tmp_path, make_sdata, released):
    model = nh.models.from_released(_save(tmp_path / "last.ckpt", released), genes=GENES)
    sdata = make_sdata()
    nh.tl.predict(sdata, model, device="cpu")
    assert sdata["table"].uns["nh2st"]["nh2st"]["target"]["kind"] == "paper"
    assert np.isfinite(nh.get.predicted(sdata).X).all()


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("kind", ["bare", "safetensors", "before 1.6"])
def test_other_files_of_the_state_dict(tmp_path, released, network, kind, prefix):
    state = {prefix + key.removeprefix("model."): value.contiguous() for key, value in released.items()}
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "bare")
    model = nh.models.from_released(path, genes=GENES)
    assert torch.equal(model.network.predict(_images()), network.predict(_images()))


def test_one_attention_head_has_no_output_projection(tmp_path, released):
    state = {key: value for key, value in released.items() if ".to_out." not in key}
    model = nh.models.from_released(_save(tmp_path / "last.ckpt", state), genes=GENES)
    assert model.config.heads == 1


@pytest.mark.parametrize(
    ("genes", "expected"),
    [
        (GENES[:4], r"last\.ckpt predicts 5 genes, but genes= names 4"),
        ([*GENES[:4], "gene0"], "more than once: gene0"),
        ("gene0", "must be the 5 names in order"),
    ],
)
def test_genes_that_are_not_the_panel(tmp_path, released, genes, expected):
    with pytest.raises(ValueError, match=expected):
        nh.models.from_released(_save(tmp_path / "last.ckpt", released), genes=genes)


def test_other_checkpoints_are_refused(tmp_path, released):
    del released["model.fc.bias"]
    path = _save(tmp_path / "last.ckpt", released | {"model.other.weight": torch.ones(1)})
    with pytest.raises(
        ValueError, match=r"last\.ckpt cannot be imported.*Missing: fc\.bias\. Unexpected: other\.weight"
    ):
        nh.models.from_released(path, genes=GENES)


@pytest.mark.parametrize("name", ["model.fc.weight", "model.decoder.fc1.weight"])
def test_weights_that_do_not_fit_together(tmp_path, released, name):
    path = _save(tmp_path / "last.ckpt", released | {name: torch.ones(7)})
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be imported"):
        nh.models.from_released(path, genes=GENES)


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        nh.models.from_released(tmp_path / "nowhere.ckpt", genes=GENES)


def test_web_page_instead_of_a_checkpoint(tmp_path):
    (tmp_path / "last.ckpt").write_text("<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read as weights"):
        nh.models.from_released(tmp_path / "last.ckpt", genes=GENES)


class _Malicious:
    def __init__(self, path: Path, function: Any = os.mkdir) -> None:
        self.call = function, (str(path),)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("place", ["hyper_parameters", "callbacks", "state_dict", "file"])
def test_pickled_code_is_never_run(tmp_path, released, place):
    owned = tmp_path / "owned"
    path = tmp_path / "last.ckpt"
    if place == "file":
        path.write_bytes(pickle.dumps(_Malicious(owned)))
    elif place == "state_dict":
        _save(path, released | {"model.extra": _Malicious(owned)})
    else:
        _save(path, released, **{place: {"x": [_Malicious(owned)]}})
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read as weights"):
        nh.models.from_released(path, genes=GENES)
    assert not owned.exists()


def test_calls_that_are_no_code_are_passed_over(tmp_path, released, network):
    path = _save(tmp_path / "last.ckpt", released, callbacks=[_Malicious(tmp_path / "owned", Path.mkdir)])
    model = nh.models.from_released(path, genes=GENES)
    assert torch.equal(model.network.predict(_images()), network.predict(_images()))
    assert not (tmp_path / "owned").exists()
