"""Patches of real sections equal what PIL cuts from the files."""

from __future__ import annotations

import json
import logging
from functools import cache

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.spatial import cKDTree
from spatialdata import SpatialData, bounding_box_query
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

import nh2st as nh
from nh2st._patches import read_patches
from nh2st._sections import Selection, find_sections, patch_windows, resolve_mpp

PX = 224


@pytest.fixture(scope="module")
def her2st(data_dir):
    return nh.datasets.her2st(["B4", "C3"], path=data_dir)


@pytest.fixture(scope="module")
def decode(data_dir):
    @cache
    def decode(name):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Image, "MAX_IMAGE_PIXELS", None)
            return np.asarray(Image.open(data_dir / f"her2st/images/{name}.jpg").convert("RGB"))

    return decode


def some_spots(pixels, shape):
    """The spots nearest to each border and some others."""
    distance = np.column_stack([pixels, np.array(shape)[::-1] - pixels])
    return np.unique([*distance.argmin(axis=0), *range(0, len(pixels), 40)])


@pytest.mark.parametrize("name", ["B4", "C3"])
def test_patches_are_the_pixels_of_the_file(her2st, data_dir, decode, hand_cut, name):
    (section,) = find_sections(her2st, Selection(sections=[name]))
    spots = pd.read_csv(data_dir / f"her2st/spots/{name}_selection.tsv", sep="\t")
    spots.index = spots["x"].round().astype(str) + "x" + spots["y"].round().astype(str)
    of_spot = section.adata.obs["spot"].iloc[section.rows].astype(str)
    pixels = spots.loc[of_spot, ["pixel_x", "pixel_y"]].to_numpy()
    np.testing.assert_allclose(section.pixels, pixels)
    image = decode(name)
    chosen = some_spots(pixels, image.shape[:2])
    windows = patch_windows(section, patch_um=112, patch_px=PX, mpp="native")
    patches = read_patches(section.image, windows)
    assert patches.shape == (len(of_spot), PX, PX, 3)
    for number in chosen:
        np.testing.assert_array_equal(patches[number], hand_cut(image, *pixels[number], PX))


def test_patches_of_a_physical_size_equal_pil(her2st, decode, hand_cut):
    (section,) = find_sections(her2st, Selection(sections=["C3"]))
    windows = patch_windows(section, patch_um=112, patch_px=PX)
    side, region = 112 / her2st.attrs["nh2st"]["mpp"]["C3_image"], 400
    assert windows.side == pytest.approx(side)
    chosen = some_spots(section.pixels, section.image.shape)
    patches = read_patches(section.image, windows)[chosen]
    for patch, (x, y) in zip(patches, section.pixels[chosen], strict=True):
        cut = Image.fromarray(hand_cut(decode("C3"), x, y, region))
        left, top = x - side / 2 - round(x - region / 2), y - side / 2 - round(y - region / 2)
        box = (left, top, left + side, top + side)
        expected = np.asarray(cut.resize((PX, PX), Image.Resampling.BILINEAR, box=box))
        # PIL rounds after each of its two passes, and ties may fall either way.
        assert np.abs(patch.astype(int) - expected).max() <= 2


def test_spatialdata_cuts_the_same_patch(her2st):
    (section,) = find_sections(her2st, Selection(sections=["C3"]))
    windows = patch_windows(section, patch_um=112, patch_px=PX, mpp="native")
    start = windows.start[50][::-1]
    queried = bounding_box_query(
        her2st["C3_image"]["scale0"]["image"],
        axes=("x", "y"),
        min_coordinate=start,
        max_coordinate=start + PX,
        target_coordinate_system="C3",
    )
    patch = read_patches(section.image, windows)[50]
    np.testing.assert_array_equal(patch, queried.transpose("y", "x", "c").to_numpy())


@pytest.fixture(scope="module")
def visium(data_dir):
    io = pytest.importorskip("spatialdata_io")
    return io.visium(data_dir / "visium", dataset_id="cytassist")


def positions(data_dir, section):
    table = pd.read_csv(data_dir / "visium/spatial/tissue_positions.csv", index_col="barcode")
    return table.loc[section.adata.obs_names[section.rows]]


@pytest.mark.filterwarnings("ignore")
def test_visium_as_spatialdata_io_reads_it(visium, data_dir, caplog):
    caplog.set_level(logging.INFO)
    (section,) = find_sections(visium)
    assert (section.name, section.image_key) == ("cytassist", "cytassist_lowres_image")
    assert len(section.rows) == 2898
    there = positions(data_dir, section)
    assert (there["in_tissue"] == 1).all()
    factors = json.loads((data_dir / "visium/spatial/scalefactors_json.json").read_text())
    full = there[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy() * factors["tissue_lowres_scalef"]
    np.testing.assert_allclose(section.pixels, full, atol=0.2)
    nearest, _ = cKDTree(full).query(full, k=2)
    assert resolve_mpp(section) == pytest.approx(100 / np.median(nearest[:, 1]), rel=0.01)
    assert "from its Visium array of 100 um pitch" in caplog.text
    windows = patch_windows(section, patch_um=112, patch_px=32)
    patches = read_patches(section.image, windows)
    image = np.asarray(Image.open(data_dir / "visium/spatial/tissue_lowres_image.png").convert("RGB"))
    for number in (0, 1000, 2897):
        box = (*(section.pixels[number] - windows.side / 2), *(section.pixels[number] + windows.side / 2))
        expected = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR, box=box))
        assert np.abs(patches[number].astype(int) - expected).max() <= 2


@pytest.mark.filterwarnings("ignore")
def test_visium_with_several_images(visium):
    image = visium["cytassist_lowres_image"]
    sdata = SpatialData(
        images={"cytassist_lowres_image": image}, shapes=dict(visium.shapes), tables=dict(visium.tables)
    )
    sdata["again"] = Image2DModel.parse(
        image.data, dims=image.dims, transformations=get_transformation(image, get_all=True)
    )
    with pytest.raises(ValueError, match="'cytassist': 'cytassist_lowres_image', 'again'.*`image_key=`"):
        find_sections(sdata)
    (section,) = find_sections(sdata, Selection(image_key="again"))
    assert section.image_key == "again"
    assert section.image.shape == (600, 600)
