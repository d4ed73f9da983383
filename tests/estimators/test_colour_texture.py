"""Colour and texture of patches, against scikit-image and sums written out."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2hed

from nh2st._estimators._colour_texture import N_STATISTICS, patch_statistics

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def tissue(px: int = 64, *, seed: int = 0) -> np.ndarray:
    """Purple noise in blocks of 4 px."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (px // 4, px // 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
    return (coarse + rng.integers(0, 40, (px, px, 3))).astype(np.uint8)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[:, :, None], 3, axis=2).astype(np.uint8)


def test_colour():
    patch = tissue()
    colours = patch.reshape(-1, 3) / 255
    found = patch_statistics(patch)
    np.testing.assert_allclose(found[:3], colours.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found[5:8], colours.std(axis=0), rtol=1e-4)
    expected = np.quantile(colours, QUANTILES, axis=0, method="nearest").T
    np.testing.assert_allclose(found[10:25].reshape(3, 5), expected, atol=1e-3)


def test_stains_are_those_of_scikit_image():
    patch = tissue()
    # scikit-image gives them in units of the density of a transmission of 1e-6, without negative ones.
    stains = 6 * rgb2hed(patch)[..., :2].reshape(-1, 2)
    found = np.maximum(patch_statistics(patch)[25:35].reshape(2, 5), 0)
    np.testing.assert_allclose(found, np.quantile(stains, QUANTILES, axis=0, method="nearest").T, atol=2e-3)
    assert found.max() > 0.5


def test_gradients_tell_fine_from_coarse():
    columns = np.arange(64)[None, :].repeat(64, axis=0)
    stripes = {width: grey(np.where(columns // width % 2, 200, 100)) for width in (1, 16)}
    fine, coarse = (patch_statistics(patch)[35:37] for patch in stripes.values())
    jump, edges = 100 / 255, 63
    np.testing.assert_allclose(fine, [jump * np.sqrt(edges / 64), 0], atol=1e-6)
    np.testing.assert_allclose(coarse, [jump * np.sqrt(3 / 64), jump * np.sqrt(3 / 16)], rtol=1e-5)
    turned = patch_statistics(stripes[16].transpose(1, 0, 2).copy())
    np.testing.assert_allclose(turned[35:37], coarse, rtol=1e-5)


def test_co_occurrence_of_a_checkerboard():
    rows, columns = np.indices((32, 32)) // 2
    board = grey(np.where((rows + columns) % 2, 96, 32))  # levels 3 and 1 of 8
    contrast, homogeneity, energy, correlation = patch_statistics(board)[37:]
    # Neighbours along rows and columns differ by two levels, those along diagonals are the same.
    np.testing.assert_allclose(contrast, (4 + 0 + 4 + 0) / 4)
    np.testing.assert_allclose(homogeneity, (1 / 5 + 1 + 1 / 5 + 1) / 4, rtol=1e-6)
    np.testing.assert_allclose(energy, np.sqrt(0.5), rtol=1e-4)
    np.testing.assert_allclose(correlation, 0, atol=1e-6)


@pytest.mark.parametrize("px", [1, 2, 3, 7, 32])
@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_patch_of_one_colour_is_finite(px, value):
    found = patch_statistics(np.full((px, px, 3), value, dtype=np.uint8))
    assert found.shape == (N_STATISTICS,)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[5:10], 0, atol=1e-6)
