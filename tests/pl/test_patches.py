from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import nh2st as nh


def image_of(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def test_patches_are_the_pixels_around_their_spots(predicted):
    axes = nh.pl.patches(predicted, n=6, patch_um=64, patch_px=64)
    assert len(axes) == 6
    table = predicted["table"]
    for ax in axes:
        row = table.obs_names.get_loc(ax.get_title())
        x, y = table.obsm["spatial"][row].astype(int)
        region = table.obs["region"].iloc[row]
        whole = predicted[f"{region}_image"]["scale0"]["image"].to_numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal(image_of(ax), whole[y - 32 : y + 32, x - 32 : x + 32])


def test_patches_are_shared_out_over_labelled_sections(predicted):
    axes = nh.pl.patches(predicted, n=5, patch_px=32)
    assert [ax.get_title()[:2] for ax in axes] == ["S1", "S1", "S1", "S2", "S2"]
    assert [ax.get_ylabel() for ax in axes if ax.get_ylabel()] == ["S1", "S2"]
    assert axes[0].figure.get_suptitle() == "Patches of 112 µm in 32 px"
    assert len(axes[0].figure.axes) == 5


def test_fewer_spots_than_patches_are_all_shown_once(predicted):
    axes = nh.pl.patches(predicted, n=40, patch_px=32, sections="S2")
    titles = [ax.get_title() for ax in axes]
    assert len(titles) == len(set(titles)) == 25


def test_the_choice_follows_the_seed(predicted):
    def names(seed: int) -> list[str]:
        return [ax.get_title() for ax in nh.pl.patches(predicted, n=4, patch_px=32, seed=seed)]

    assert names(1) == names(1)
    assert names(1) != names(2)


def test_outlines_are_the_spots_true_to_scale(predicted):
    (ax,) = nh.pl.patches(predicted, n=1, patch_um=200, patch_px=100)
    (circle,) = ax.patches
    # 50 um at 2 um per pixel of the patch.
    assert circle.get_radius() == pytest.approx(25)
    assert circle.get_center() == (50, 50)
    (ax,) = nh.pl.patches(predicted, n=1, patch_px=80, mpp="native")
    assert ax.patches[0].get_radius() == pytest.approx(50)
    assert ax.figure.get_suptitle() == "Patches of 80 px"
    (ax,) = nh.pl.patches(predicted, n=1, patch_px=80, outline=False)
    assert not ax.patches


def test_patches_are_resampled_as_for_the_network(predicted):
    (ax,) = nh.pl.patches(predicted, n=1, patch_um=100, patch_px=50, mpp=0.5)
    x, y = predicted["table"].obsm["spatial"][predicted["table"].obs_names.get_loc(ax.get_title())]
    whole = predicted["S1_image"]["scale0"]["image"].to_numpy().transpose(1, 2, 0)
    box = (x - 100, y - 100, x + 100, y + 100)
    expected = Image.fromarray(whole).resize((50, 50), Image.Resampling.BILINEAR, box=box)
    # A coarser scale of the pyramid is read, so values agree but for rounding and the filter's shape.
    assert np.abs(image_of(ax).astype(float) - np.asarray(expected)).mean() < 6


def test_bad_input_is_refused(predicted):
    with pytest.raises(ValueError, match="at least 1"):
        nh.pl.patches(predicted, n=0)
    with pytest.raises(TypeError, match="needs the image"):
        nh.pl.patches(predicted["table"])
    predicted.attrs = {}
    with pytest.raises(ValueError, match="scale of image"):
        nh.pl.patches(predicted)
