"""Files of the predicting part in half precision, and encoders that are stored once."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nh2st as nh

PREDICTING = ("encoder.", "image_projection.", "head.")


def images(n: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8))


@pytest.fixture
def small(model: nh.models.Model, tmp_path: Path) -> Path:
    return model.save(tmp_path / "small.safetensors", inference_only=True)


@pytest.fixture
def frozen(model: nh.models.Model) -> nh.models.Model:
    """A model whose encoder was not trained."""
    assert model.baselines is not None
    model.network.encoder = copy.deepcopy(model.baselines.encoder)
    return model


def test_prediction_needs_no_other_part(model):
    before = model.network.predict(images())
    with torch.no_grad():
        for name, weight in model.network.named_parameters():
            if not name.startswith(PREDICTING):
                weight.fill_(torch.nan)
    assert torch.equal(model.network.predict(images()), before)


def test_prediction_is_that_of_the_rounded_weights(model, small):
    loaded = nh.models.load(small)
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for module in (rounded.network, rounded.baselines.encoder):
            for weight in module.parameters():
                if weight.ndim > 1:
                    weight.copy_(weight.half())
    assert torch.equal(loaded.network.predict(images()), rounded.network.predict(images()))
    assert torch.equal(loaded.baselines.ridge(images()), rounded.baselines.ridge(images()))
    torch.testing.assert_close(loaded.network.predict(images()), model.network.predict(images()), atol=0.01, rtol=0.01)
    assert {value.dtype for value in loaded.network.parameters()} == {torch.float32}
    for name in ("genes", "target", "patch_um", "patch_px", "config", "history", "provenance"):
        assert getattr(loaded, name) == getattr(model, name), name


def test_only_what_predicts_is_stored(small, file):
    tensors = load_file(small)
    kept = (*(f"network.{part}" for part in PREDICTING), "baselines.")
    assert all(name.startswith(kept) for name in tensors)
    for name, tensor in tensors.items():
        large = tensor.ndim > 1 and name.endswith("weight")
        assert tensor.dtype == (torch.float16 if large else load_file(file)[name].dtype), name
    assert small.stat().st_size < 0.5 * file.stat().st_size


def test_saving_again_gives_the_same_file(small, tmp_path):
    loaded = nh.models.load(small)
    assert loaded.inference_only
    for inference_only in (False, True):
        again = loaded.save(tmp_path / "again.safetensors", inference_only=inference_only)
        assert again.read_bytes() == small.read_bytes()
    assert nh.models.load(again).sha256 == loaded.sha256


def test_exporting_leaves_the_model_as_it_is(model, small, file, tmp_path):
    assert not model.inference_only
    assert model.save(tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    assert nh.models.load(small).sha256 != model.sha256


def test_weights_too_large_for_half_precision(model, tmp_path):
    with torch.no_grad():
        model.network.head[0].weight[0, 0] = 1e6
    loaded = nh.models.load(model.save(tmp_path / "large.safetensors", inference_only=True))
    assert torch.equal(loaded.network.head[0].weight, model.network.head[0].weight)
    assert torch.equal(loaded.network.head[1].weight, model.network.head[1].weight.half())


def test_parts_that_are_not_there_start_the_same(small):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = nh.models.load(small).network.state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = nh.models.load(small).network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["gene_encoder.0.weight"].std() > 0


def test_summary_and_repr_say_so(model, small):
    loaded = nh.models.load(small)
    kept = sum(value.numel() for name, value in model.network.named_parameters() if name.startswith(PREDICTING))
    assert f"weights      {kept / 1e6:.1f} million, rounded to half precision, for prediction" in loaded.summary()
    assert repr(loaded).endswith("8 genes, 2 epochs, for prediction)")
    assert "half" not in model.summary()


@pytest.mark.parametrize("inference_only", [False, True])
def test_an_encoder_that_was_not_trained_is_stored_once(frozen, tmp_path, inference_only):
    path = frozen.save(tmp_path / "frozen.safetensors", inference_only=inference_only)
    assert not any(name.startswith("baselines.encoder") for name in load_file(path))
    loaded = nh.models.load(path)
    assert loaded.baselines.encoder is loaded.network.encoder
    assert loaded.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    if not inference_only:
        assert loaded.sha256 == frozen.sha256
        assert torch.equal(loaded.baselines.ridge(images()), frozen.baselines.ridge(images()))
        assert torch.equal(loaded.network.predict(images()), frozen.network.predict(images()))


def test_encoders_that_differ_are_both_stored(frozen, tmp_path):
    with torch.no_grad():
        frozen.baselines.encoder.model.bn1.running_mean[0] += 1e-6
    loaded = nh.models.load(frozen.save(tmp_path / "two.safetensors"))
    assert loaded.baselines.encoder is not loaded.network.encoder
    assert loaded.sha256 == frozen.sha256


def test_a_missing_encoder_is_not_taken_for_a_shared_one(file):
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = {name: value for name, value in load_file(file).items() if not name.startswith("baselines.encoder")}
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(ValueError, match="do not fit together.*Missing key"):
        nh.models.load(file)


def test_missing_weights_are_named(small):
    with safe_open(small, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(small)
    del tensors["network.image_projection.bias"]
    save_file(tensors, small, metadata=metadata)
    with pytest.raises(ValueError, match="do not fit together.*image_projection.bias"):
        nh.models.load(small)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_models_on_a_gpu_are_loaded_on_the_cpu(model, tmp_path):
    on_cpu = copy.deepcopy(model)
    model.network.cuda()
    model.baselines.encoder.cuda()
    assert model.sha256 == on_cpu.sha256
    loaded = nh.models.load(model.save(tmp_path / "gpu.safetensors"))
    assert torch.equal(loaded.network.predict(images()), on_cpu.network.predict(images()))


def test_fine_tuning_makes_a_whole_model_again(make_sdata, small, tmp_path):
    settings = {"device": "cpu", "max_epochs": 1, "learning_rate": 1e-9}
    first, second = (nh.tl.train(make_sdata(side=3), init_from=small, **settings) for _ in range(2))
    assert not first.inference_only
    assert first.sha256 == second.sha256
    start = nh.models.load(small).network.predict(images())
    torch.testing.assert_close(first.network.predict(images()), start, atol=1e-5, rtol=1e-5)
    whole = nh.models.load(first.save(tmp_path / "whole.safetensors"))
    assert {f"network.{name}" for name in whole.network.state_dict()} <= whole.tensors().keys()
