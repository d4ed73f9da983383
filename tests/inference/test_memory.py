from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import nh2st as nh

N_SPOTS = 25


@contextmanager
def limited(model: nh.models.Model, limit: int) -> Iterator[list[int]]:
    """A network that runs out of memory with more patches, and the sizes of the batches that it was given."""
    sizes: list[int] = []

    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        sizes.append(len(inputs[0]))
        if sizes[-1] > limit:
            msg = "out of memory"
            raise torch.OutOfMemoryError(msg)

    handle = model.network.encoder.register_forward_pre_hook(hook)
    try:
        yield sizes
    finally:
        handle.remove()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_half_the_batch_is_taken_once_and_for_all(make_sdata, model, caplog):
    sdata = make_sdata(("A",))
    nh.tl.predict(sdata, model, batch_size=10, device="cpu")
    whole = {name: values.copy() for name, values in sdata["table"].layers.items()}
    with limited(model, 5) as sizes:
        nh.tl.predict(sdata, model, batch_size=10, device="cpu")
    assert sizes == [10, 5, 5, 5, 5, 3, 2]
    assert warnings_of(caplog) == ["cpu is out of memory with batches of 10 patches; going on with half of that."]
    for name, expected in whole.items():
        np.testing.assert_allclose(sdata["table"].layers[name], expected, rtol=1e-5, atol=1e-5)


def test_too_little_for_half_the_batch_is_an_error(make_sdata, model, caplog):
    sdata = make_sdata(("A",))
    with limited(model, 4) as sizes:
        with pytest.raises(RuntimeError, match=r"out of memory even with batches of 5 patches\. Lower `batch_size=`"):
            nh.tl.predict(sdata, model, batch_size=10, device="cpu")
    assert sizes == [10, 5]
    assert len(warnings_of(caplog)) == 1
    assert not sdata["table"].layers
    assert "nh2st" not in sdata["table"].uns


def test_embeddings_too(make_sdata, monkeypatch):
    sdata = make_sdata(("A",))
    sizes = []
    features = nh.nn.Encoder.features

    def limited_features(encoder: nh.nn.Encoder, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > 8:
            msg = "out of memory"
            raise torch.OutOfMemoryError(msg)
        return features(encoder, images)

    monkeypatch.setattr(nh.nn.Encoder, "features", limited_features)
    monkeypatch.setattr(nh.settings, "cache_limit", 0)
    settings = {"encoder": "test_resnet", "encoder_weights": None, "patch_um": 32, "patch_px": 32, "device": "cpu"}
    with pytest.raises(RuntimeError, match=r"batches of 9 patches"):
        nh.pp.embed(sdata, batch_size=17, **settings)
    assert list(sdata["table"].obsm) == ["spatial"]
    nh.pp.embed(sdata, batch_size=16, **settings)
    assert sizes == [17, 9, 16, 8, 8, 5, 4]
    assert np.isfinite(sdata["table"].obsm["nh2st_embedding"]).all()


def test_the_memory_limit_is_too_small_for_a_batch(make_sdata, model, monkeypatch):
    sdata = make_sdata(("A",))
    monkeypatch.setattr(nh.settings, "memory_limit", 1_000_000)
    with pytest.raises(
        ValueError, match=r"Batches of 1000 patches.*`nh2st.settings.memory_limit`.*lower `batch_size=`"
    ):
        nh.tl.predict(sdata, model, batch_size=1000)
    assert not sdata["table"].layers
    nh.tl.predict(sdata, model, batch_size=8)
    assert np.isfinite(sdata["table"].layers["nh2st"]).all()
