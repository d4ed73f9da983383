"""What the baselines know of each spot: from the images, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nh2st as nh
from nh2st._sections import find_sections, windows_of
from nh2st.nn import create_encoder
from nh2st.tl._baselines import BaselineInputs, baseline_inputs


@pytest.fixture
def made(make_sdata):
    sdata = make_sdata(("A", "B"), side=4)
    sections = find_sections(sdata)
    windows = windows_of(sections, patch_um=32.0, patch_px=32, mpp=[1.0, 1.0])
    return sdata, sections, windows, create_encoder("test_resnet", weights=None)


def inputs_of(made, **settings) -> BaselineInputs:
    _, sections, windows, encoder = made
    return baseline_inputs(sections, windows, encoder, torch.device("cpu"), **settings)


def test_inputs_are_those_of_the_images(made, tmp_path):
    sdata, _, _, encoder = made
    inputs = inputs_of(made, twice_the_side=True)
    torch.save(encoder.model.state_dict(), tmp_path / "weights.pth")
    for name, side in (("features", 32.0), ("features_2x", 64.0)):
        nh.pp.embed(
            sdata,
            "test_resnet",
            encoder_weights=tmp_path / "weights.pth",
            key_added=name,
            patch_um=side,
            patch_px=32,
            device="cpu",
            precision="32",
        )
        np.testing.assert_allclose(getattr(inputs, name), sdata["table"].obsm[name], rtol=1e-3, atol=1e-3)
    assert np.abs(inputs.features - inputs.features_2x).max() > 1e-3
    image = sdata["B_image"].transpose("y", "x", "c").values
    x, y = sdata["B"].geometry.iloc[5].x, sdata["B"].geometry.iloc[5].y
    patch = image[round(y) - 16 : round(y) + 16, round(x) - 16 : round(x) + 16]
    np.testing.assert_allclose(inputs.colour_texture[16 + 5, :3], patch.mean(axis=(0, 1)) / 255, rtol=1e-3)
    np.testing.assert_array_equal(inputs.section, np.repeat([0, 1], 16))
    assert (inputs.neighbors[:16] < 16).all()
    assert (inputs.neighbors[16] >= 16).sum() == 3, "the corner of a square grid"


def test_groups_of_the_inputs(made):
    assert inputs_of(made).features_2x is None
    np.testing.assert_array_equal(inputs_of(made).group, np.repeat([0, 1], 16))
    shared = inputs_of(made, groups=[np.full(16, "P7", dtype=object)] * 2)
    assert set(shared.group) == {0}
    np.testing.assert_array_equal(shared.folds(np.arange(32)), np.repeat([0, 1], 16))


def test_statistics_are_kept_in_the_cache(made, monkeypatch):
    before = inputs_of(made)

    def refuse(patch):
        raise AssertionError

    monkeypatch.setattr("nh2st.tl._baselines._colour_texture.patch_statistics", refuse)
    np.testing.assert_array_equal(inputs_of(made).colour_texture, before.colour_texture)
    monkeypatch.undo()
    monkeypatch.setattr(nh.settings, "cache_limit", 0)
    np.testing.assert_array_equal(inputs_of(made).colour_texture, before.colour_texture)
