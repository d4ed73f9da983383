"""Which part of the encoder is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nh2st as nh
from nh2st.nn import Encoder

SECTIONS = ("A", "B", "C")


@pytest.fixture
def sdata(make_sdata):
    return make_sdata(SECTIONS, side=4)


def changed(model: nh.models.Model) -> set[str]:
    """Parts of the encoder that differ from what training started with, which the baselines keep."""
    before = model.baselines.encoder.state_dict()
    after = model.network.encoder.state_dict()
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def test_all_of_the_encoder_is_trained_by_default(sdata, train):
    names = changed(train(sdata))
    assert "model.conv1.0.weight" in names
    assert any("running_mean" in name for name in names)


def test_last_stages(sdata, train):
    names = changed(train(sdata, fine_tune=1))
    assert names
    assert all(name.startswith("model.layer4") for name in names), names


def test_encoder_that_is_not_trained_computes_each_patch_once(sdata, train, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(nh.settings, "cache_dir", tmp_path)
    encoded, forward = [], Encoder.forward

    def counting(self, images):
        encoded.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Encoder, "forward", counting)
    model = train(sdata, fine_tune="none", max_epochs=5, learning_rate=2e-3)
    spots = len(SECTIONS) * 16
    assert sum(number for number in encoded if number > 1) <= 2 * spots, "for the ridge and for the network"
    assert not changed(model)
    assert "its feature maps are computed once, without augmentation" in caplog.text
    encoded.clear()
    assert train(sdata, fine_tune="none", max_epochs=5, learning_rate=2e-3).sha256 == model.sha256
    assert not [number for number in encoded if number > 1], "all of it is in the cache"
    assert model.provenance["fine_tune"] == "none"
    assert model.history[-1]["mse"] < model.history[0]["mse"]


def test_scores_of_kept_maps_are_those_of_the_patches(sdata, train, by_gene):
    model = train(sdata, fine_tune="none")
    section = SECTIONS[int(model.provenance["validation"][-1])]
    nh.tl.predict(sdata, model, sections=[section])
    frame = by_gene(nh.tl.evaluate(sdata)).query("model == 'model' and truth == 'raw'")
    assert model.history[0]["val_mse"] == pytest.approx(frame["mse"].mean(), rel=1e-2)


def test_without_augmentation_stain_has_no_part(sdata, train):
    first, second = (train(sdata, fine_tune="none", stain_jitter=jitter) for jitter in (0.0, 0.5))
    np.testing.assert_array_equal(first.network.head[-1].weight.detach(), second.network.head[-1].weight.detach())


def test_seed_decides(sdata, train):
    first, again = (train(sdata, fine_tune="none", seed=1) for _ in range(2))
    assert first.sha256 == again.sha256


def test_trained_model_is_fine_tuned_in_part(sdata, make_sdata, train):
    base = train(sdata)
    model = train(make_sdata(("X", "Y", "Z"), side=4, seed=9), init_from=base, fine_tune="none")
    before, after = base.network.state_dict(), model.network.state_dict()
    differing = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert differing
    assert not any(name.startswith("encoder.") for name in differing)


def test_runs_are_resumed_with_the_same_part(sdata, train, tmp_path):
    train(sdata, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="fine_tune changed .fine_tune was all, is none"):
        train(sdata, resume_from=tmp_path / "last.ckpt", fine_tune="none")
