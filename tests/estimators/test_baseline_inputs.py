"""What the baselines know of each spot: from the images, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nh2st as nh
from nh2st._estimators import Encoding, Source, estimator_named
from nh2st._estimators._linear import LinearNetwork
from nh2st._estimators._linear_fit import inner_folds
from nh2st._sections import find_sections, windows_of
from nh2st.nn import create_encoder
from nh2st.tl._training._training_data import TrainingData


@pytest.fixture
def made(make_sdata):
    sdata = make_sdata(("A", "B"), side=4)
    sections = find_sections(sdata)
    windows = windows_of(sections, patch_um=32.0, patch_px=32, mpp=[1.0, 1.0])
    return sdata, sections, windows, create_encoder("test_resnet", weights=None)


def read(made, name: str) -> np.ndarray:
    """What an estimator reads of all spots."""
    _, sections, windows, encoder = made
    estimator = estimator_named(name)
    network = LinearNetwork(estimator.configure(n_genes=1), encoder, 0)
    return estimator.read(network, Source(sections, windows), Encoding("cpu", "32")).values


def test_inputs_are_those_of_the_images(made, tmp_path):
    sdata, _, _, encoder = made
    torch.save(encoder.model.state_dict(), tmp_path / "weights.pth")
    found = np.split(read(made, "ridge_context_2x"), 2, axis=1)
    for values, side in zip(found, (32.0, 64.0), strict=True):
        nh.pp.embed(
            sdata,
            "test_resnet",
            encoder_weights=tmp_path / "weights.pth",
            key_added=f"of_{side:.0f}_um",
            patch_um=side,
            patch_px=32,
            device="cpu",
            precision="32",
        )
        np.testing.assert_allclose(values, sdata["table"].obsm[f"of_{side:.0f}_um"], rtol=1e-3, atol=1e-3)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    np.testing.assert_array_equal(read(made, "ridge"), found[0])
    np.testing.assert_array_equal(read(made, "ridge_neighbours"), found[0])
    image = sdata["B_image"].transpose("y", "x", "c").values
    x, y = sdata["B"].geometry.iloc[5].x, sdata["B"].geometry.iloc[5].y
    patch = image[round(y) - 16 : round(y) + 16, round(x) - 16 : round(x) + 16]
    np.testing.assert_allclose(read(made, "colour_texture")[16 + 5, :3], patch.mean(axis=(0, 1)) / 255, rtol=1e-3)
    assert read(made, "training_mean").shape == (32, 0)


def test_groups_and_neighbours_of_the_spots(made):
    _, sections, _, _ = made
    data = TrainingData(sections, [np.full(16, "P7", dtype=object)] * 2, None, "cpu", "32")
    np.testing.assert_array_equal(data.section, np.repeat([0, 1], 16))
    assert set(data.group) == {"P7"}
    assert (data.neighbors[:16] < 16).all()
    assert (data.neighbors[16] >= 16).sum() == 3, "the corner of a square grid"
    np.testing.assert_array_equal(inner_folds(data.coordinates, data.group, data.section), data.section)


def test_statistics_are_kept_in_the_cache(made, monkeypatch):
    before = read(made, "colour_texture")

    def refuse(patch):
        raise AssertionError

    monkeypatch.setattr("nh2st._estimators._colour_texture.patch_statistics", refuse)
    np.testing.assert_array_equal(read(made, "colour_texture"), before)
    monkeypatch.undo()
    monkeypatch.setattr(nh.settings, "cache_limit", 0)
    np.testing.assert_array_equal(read(made, "colour_texture"), before)
