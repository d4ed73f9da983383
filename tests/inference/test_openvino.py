"""Encoders run by OpenVINO on a CPU: the numbers of torch, and torch itself where OpenVINO cannot."""

from __future__ import annotations

import copy
import dataclasses
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from dask.distributed import Client, LocalCluster

import nh2st as nh
from nh2st.nn import create_encoder

RUN_BY_OPENVINO = "is run by OpenVINO"
RUN_BY_TORCH = "so that torch does"

openvino = pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def nothing_is_cached(monkeypatch):
    monkeypatch.setattr(nh.settings, "_cache_limit", 0)


@pytest.fixture(autouse=True)
def every_work_is_long_enough(monkeypatch):
    monkeypatch.setattr("nh2st._inference._openvino._LEAST_PIXELS", 1)


@pytest.fixture
def torch_alone(monkeypatch):
    """Call a function with OpenVINO switched off."""

    def call(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(nh.settings, "openvino", False)
            return function(*args, **kwargs)

    return call


@pytest.fixture
def sdata(make_sdata):
    return make_sdata(side=6)


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, logger="nh2st")
    return caplog


def embedding(sdata, encoder: str, weights: str, patch_px: int) -> np.ndarray:
    nh.pp.embed(sdata, encoder, encoder_weights=weights, patch_px=patch_px, device="cpu", overwrite=True)
    return sdata["table"].obsm["nh2st_embedding"]


def prediction(sdata, model, **kwargs) -> np.ndarray:
    nh.tl.predict(sdata, model, device="cpu", overwrite=True, **kwargs)
    layer = sdata["table"].layers["nh2st"]
    return layer.toarray() if hasattr(layer, "toarray") else np.asarray(layer)


def assert_close(given: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for rounding, which half precision makes of what is kept."""
    assert np.nanstd(expected) > 0
    np.testing.assert_allclose(given, expected, rtol=2e-3, atol=2e-3 * np.nanmax(np.abs(expected)))


@pytest.mark.parametrize(
    ("encoder", "patch_px"), [("test_resnet", 64), ("test_efficientnet", 64), ("test_vit", 160), ("resnet18", 64)]
)
def test_embeddings_are_those_of_torch(sdata, tmp_path, torch_alone, log, encoder, patch_px):
    torch.manual_seed(0)
    weights = str(tmp_path / "weights.pth")
    torch.save(create_encoder(encoder, None).model.state_dict(), weights)
    expected = torch_alone(embedding, sdata, encoder, weights, patch_px).copy()
    assert RUN_BY_OPENVINO not in log.text
    assert_close(embedding(sdata, encoder, weights, patch_px), expected)
    assert RUN_BY_OPENVINO in log.text


@pytest.mark.parametrize("variant", ["paper", "context"])
def test_predictions_are_those_of_torch(sdata, torch_alone, log, variant, model, context_model):
    chosen = {"paper": model, "context": context_model}[variant]
    expected = torch_alone(prediction, sdata, chosen)
    assert_close(prediction(sdata, chosen), expected)
    assert RUN_BY_OPENVINO in log.text


def test_the_callers_model_is_left_as_it_is(sdata, model, tmp_path):
    before = copy.deepcopy(model.network.state_dict())
    prediction(sdata, model)
    assert "forward" not in vars(model.network.encoder)
    model.save(tmp_path / "model.safetensors")
    after = nh.models.load(tmp_path / "model.safetensors").network.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_an_encoder_is_converted_once(sdata, model, log):
    first = prediction(sdata, model)
    log.clear()
    np.testing.assert_array_equal(prediction(sdata, model), first)
    assert RUN_BY_OPENVINO not in log.text


def test_changed_weights_are_seen(sdata, model, torch_alone):
    before = prediction(sdata, model)
    with torch.no_grad():
        for weight in model.network.encoder.parameters():
            weight *= 1.1
    after = prediction(sdata, model)
    assert not np.allclose(after, before, rtol=1e-3)
    assert_close(after, torch_alone(prediction, sdata, model))


def test_short_work_is_not_worth_a_conversion(sdata, model, log, monkeypatch):
    monkeypatch.setattr("nh2st._inference._openvino._LEAST_PIXELS", sdata["table"].n_obs * model.patch_px**2 + 1)
    prediction(sdata, model)
    assert RUN_BY_OPENVINO not in log.text


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_of_any_size(sdata, model, torch_alone, batch_size):
    expected = torch_alone(prediction, sdata, model)
    assert_close(prediction(sdata, model, batch_size=batch_size), expected)


def test_orientations_are_run_by_openvino(sdata, context_model, torch_alone, monkeypatch):
    network = context_model.network
    network.config = dataclasses.replace(network.config, orientations=8)
    expected = torch_alone(prediction, sdata, context_model)
    prediction(sdata, context_model)
    monkeypatch.setattr(type(network.encoder), "forward", failing)
    assert_close(prediction(sdata, context_model), expected)


def test_a_batch_that_fails_does_not_spoil_the_next(sdata, model, monkeypatch):
    expected = prediction(sdata, model)
    start = openvino.AsyncInferQueue.start_async
    with monkeypatch.context() as patch:
        patch.setattr(
            openvino.AsyncInferQueue, "start_async", lambda self, images, place: start(self, images[:, 1:], place)
        )
        with pytest.raises(RuntimeError):
            prediction(sdata, model)
    np.testing.assert_array_equal(prediction(sdata, model), expected)


def failing(*_, **__):
    msg = "No conversion rule.\nMany lines follow."
    raise RuntimeError(msg)


def test_torch_takes_over_where_openvino_cannot_convert(sdata, model, torch_alone, log, monkeypatch):
    expected = torch_alone(prediction, sdata, model)
    monkeypatch.setattr(openvino, "convert_model", failing)
    np.testing.assert_array_equal(prediction(sdata, model), expected)
    assert f"{RUN_BY_TORCH}: No conversion rule." in log.text
    assert "Many lines" not in log.text


def test_torch_takes_over_where_openvino_gives_other_numbers(sdata, model, torch_alone, log, monkeypatch):
    convert = openvino.convert_model

    class Wrong(torch.nn.Module):
        def __init__(self, right):
            super().__init__()
            self.right = right

        def forward(self, images):
            return self.right(images) + 1

    def wrong(traced, **kwargs):
        return convert(torch.jit.trace(Wrong(traced), kwargs["example_input"], check_trace=False), **kwargs)

    expected = torch_alone(prediction, sdata, model)
    monkeypatch.setattr(openvino, "convert_model", wrong)
    np.testing.assert_array_equal(prediction(sdata, model), expected)
    assert f"{RUN_BY_TORCH}: it gives other numbers." in log.text


def test_threads_of_a_worker_share_a_converted_encoder(sdata, model, torch_alone, log):
    expected = torch_alone(prediction, sdata, model)
    threads = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": ":0"}
    with LocalCluster(**threads) as cluster, Client(cluster, set_as_default=False) as client:
        given = prediction(sdata, model, client=client, batch_size=4)
    assert_close(given, expected)
    assert log.text.count(RUN_BY_OPENVINO) == len({id(model.network.encoder), id(model.baselines.encoder)})


def test_nothing_is_reported_to_the_makers_of_openvino():
    code = """
import sys
import nh2st as nh
sdata = nh.datasets.synthetic(n_sections=1)
nh.settings.cache_limit = 0
nh.pp.embed(sdata, "test_resnet", encoder_weights=None, patch_px=224, device="cpu")
assert "openvino" in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
