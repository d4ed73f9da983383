from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import shapely
from PIL import Image, ImageDraw
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Affine, Identity, Scale

import nh2st as nh

SIDE, MPP = 600, 4.0
OUTLINE = [(125, 175), (375, 105), (500, 275), (425, 462), (200, 425), (225, 300)]
STROKES = ([(25, 38), (300, 65), (575, 33)], [(75, 560), (275, 250), (475, 60)])
WHITE, PINK, YELLOW, GREY = (255, 255, 255), (221, 208, 225), (235, 228, 196), (200, 200, 202)
INKS = {"blue": (30, 60, 180), "green": (20, 140, 70), "black": (35, 35, 40), "red": (200, 30, 40)}


@cache
def transmitted() -> np.ndarray:
    """Share of light that goes through a piece of H&E stained tissue."""
    sdata = nh.datasets.synthetic(1, spots_per_side=15, seed=3)
    finest = np.asarray(sdata.images["S1_image"]["scale0"]["image"].data).transpose(1, 2, 0)
    return np.asarray(Image.fromarray(finest).reduce(int(MPP))) / 255


def strokes(width: int) -> np.ndarray:
    canvas = Image.new("L", (SIDE, SIDE))
    for stroke in STROKES:
        ImageDraw.Draw(canvas).line(stroke, fill=1, width=width, joint="curve")
    return np.asarray(canvas, dtype=bool)


@cache
def known_tissue() -> np.ndarray:
    canvas = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(canvas).polygon(OUTLINE, fill=1)
    return np.asarray(canvas, dtype=bool)


@cache
def slide(background: tuple[int, int, int] = WHITE, ink: str | None = None) -> np.ndarray:
    """Slide (y, x, 3) of 2.4 mm with one piece of tissue, noise, and pen marks over both."""
    rng = np.random.default_rng(0)
    tissue, piece = np.ones((SIDE, SIDE, 3)), transmitted()
    tissue[100 : 100 + len(piece), 112 : 112 + len(piece)] = piece
    light = np.where(known_tissue()[..., None], tissue, 1) * background + rng.normal(0, 3, tissue.shape)
    if ink is not None:
        light[strokes(22)] = INKS[ink]
    return np.clip(light, 0, 255).astype(np.uint8)


def as_sdata(pixels: np.ndarray, mpp: float | None = MPP, key: str = "slide", **options) -> SpatialData:
    image = Image2DModel.parse(pixels, dims=("y", "x", "c"), c_coords=["r", "g", "b"], **options)
    attrs = {} if mpp is None else {"nh2st": {"mpp": {key: mpp}}}
    return SpatialData(images={key: image}, attrs=attrs)


def found_tissue(sdata: SpatialData) -> np.ndarray:
    """Stored outlines as a mask of the slide's pixels."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    return shapely.contains_xy(shapely.union_all(sdata["nh2st_tissue"].geometry.to_numpy()), x, y)


def assert_found(sdata: SpatialData, tissue: np.ndarray, nothing: np.ndarray) -> None:
    found = found_tissue(sdata)
    assert found[tissue].mean() > 0.95
    assert found[nothing].mean() < 0.03


@pytest.mark.parametrize("background", [WHITE, PINK, YELLOW, GREY])
def test_tissue_is_found_on_glass_of_any_colour(background):
    sdata = as_sdata(slide(background))
    nh.pp.tissue_tiles(sdata)
    assert_found(sdata, known_tissue(), ~known_tissue())


@pytest.mark.parametrize("background", [WHITE, PINK])
@pytest.mark.parametrize("colour", INKS)
def test_pen_marks_are_no_tissue(colour, background):
    sdata = as_sdata(slide(background, colour))
    nh.pp.tissue_tiles(sdata)
    # Within 50 um of ink either answer is right.
    near = strokes(22 + 2 * 13)
    assert_found(sdata, known_tissue() & ~near, ~known_tissue())
    assert found_tissue(sdata)[strokes(22)].mean() < 0.01


def test_smears_dust_shadows_and_borders_are_no_tissue():
    rng = np.random.default_rng(1)
    light = slide(PINK).astype(float)
    y, x = np.mgrid[:SIDE, :SIDE]
    smear = 0.3 * np.exp(-((x - 475) ** 2 + (y - 375) ** 2) / (2 * 62**2))
    shadow = 0.4 * np.exp(-((x - 100) ** 2 + (y - 500) ** 2) / (2 * 20**2))
    light *= (1 - smear[..., None] * (0.1, 1, 0.4)) * (1 - shadow[..., None])
    for row, column in rng.integers(25, SIDE - 25, (80, 2)):
        light[row : row + 3, column : column + 3] *= (0.5, 0.3, 0.6)
    light[:30] = rng.integers(0, 40, (30, SIDE, 3))
    light[:, -38:] = rng.integers(0, 40, (SIDE, 38, 3))
    sdata = as_sdata(np.clip(light, 0, 255).astype(np.uint8))
    nh.pp.tissue_tiles(sdata)
    assert_found(sdata, known_tissue(), ~known_tissue())


def test_tiles_lie_on_a_square_grid_over_the_tissue():
    sdata = as_sdata(slide())
    nh.pp.tissue_tiles(sdata, tile_um=80, min_tissue=0.8)
    table, shapes = sdata["nh2st"], sdata["nh2st_tiles"]
    centers = np.column_stack([shapes.geometry.x, shapes.geometry.y])
    np.testing.assert_allclose(centers, 10 + 20 * table.obs[["array_col", "array_row"]].to_numpy())
    np.testing.assert_array_equal(shapes["radius"], 10)
    np.testing.assert_array_equal(table.obsm["spatial"], centers)
    found = shapely.union_all(sdata["nh2st_tissue"].geometry.to_numpy())
    squares = shapely.box(*(centers - 10).T, *(centers + 10).T)
    shares = shapely.area(shapely.intersection(squares, found)) / 20**2
    np.testing.assert_allclose(table.obs["tissue_fraction"], shares, atol=0.05)
    assert (table.obs["tissue_fraction"] >= 0.8).all()
    assert shares.sum() * 20**2 > 0.85 * found.area


def test_all_tissue_is_tiled_whole():
    sdata = nh.datasets.synthetic(1, spots_per_side=9, seed=1)
    nh.pp.tissue_tiles(sdata, tile_um=100)
    assert len(sdata["nh2st_tiles"]) == 100
    assert (sdata["nh2st"].obs["tissue_fraction"] == 1).all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((400, 400, 3), 255, dtype=np.uint8),
        np.zeros((400, 400, 3), dtype=np.uint8),
        np.random.default_rng(0).integers(215, 230, (400, 400, 3), dtype=np.uint8),
    ],
    ids=["white", "black", "noise"],
)
def test_no_tissue_is_an_error_that_names_the_image(pixels):
    sdata = as_sdata(pixels)
    with pytest.raises(ValueError, match=r"No tissue was found in image 'slide'.*`mpp=`.*`image_key=`"):
        nh.pp.tissue_tiles(sdata)
    assert not sdata.tables
    assert not sdata.shapes


@pytest.mark.parametrize("shape", [(1, 800), (800, 1), (1, 1)])
def test_an_image_narrower_than_half_a_tile_is_an_error(shape):
    sdata = as_sdata(np.full((*shape, 3), 100, dtype=np.uint8))
    with pytest.raises(ValueError, match=rf"28 px wide, too large for image 'slide' of {shape[1]} x {shape[0]} px"):
        nh.pp.tissue_tiles(sdata)
    with pytest.raises(ValueError, match="No tissue"):
        nh.pp.tissue_tiles(sdata, tile_um=8)


def test_an_unknown_scale_is_an_error_with_the_ways_out():
    sdata = as_sdata(slide(), mpp=None)
    with pytest.raises(ValueError, match=r"'slide'.*`mpp=0\.5`.*`mpp=\"native\"`"):
        nh.pp.tissue_tiles(sdata)


def test_the_scale_is_that_of_argument_attrs_or_coordinate_system():
    pitches = []
    stored, um = (
        as_sdata(slide(), mpp=8.0),
        as_sdata(slide(), mpp=None, transformations={"um": Scale([8, 8], ("x", "y"))}),
    )
    for sdata, mpp in ((stored, None), (um, None), (stored, 4.0), (stored, "native")):
        nh.pp.tissue_tiles(sdata, mpp=mpp)
        pitches.append(2 * sdata["nh2st_tiles"]["radius"].iloc[0])
    assert pitches == pytest.approx([14, 14, 28, 224])


def test_in_plain_pixels_tissue_is_found_too():
    sdata = as_sdata(slide(), mpp=None)
    nh.pp.tissue_tiles(sdata, mpp="native", tile_um=30)
    assert sdata["nh2st_tiles"]["radius"].unique() == [15]
    assert_found(sdata, known_tissue(), ~known_tissue())


def test_tiles_are_in_the_coordinate_systems_of_the_image():
    turned = Affine([[0, -2, 5], [2, 0, 7], [0, 0, 1]], ("x", "y"), ("x", "y"))
    sdata = as_sdata(slide(), transformations={"aligned": turned})
    nh.pp.tissue_tiles(sdata)
    tiles = sdata.transform_element_to_coordinate_system("nh2st_tiles", "aligned")
    own = sdata["nh2st"].obsm["spatial"]
    np.testing.assert_allclose(tiles.geometry.x, -2 * own[:, 1] + 5)
    np.testing.assert_allclose(tiles.geometry.y, 2 * own[:, 0] + 7)


def test_several_images_are_one_region_each():
    large, small = slide(), slide(PINK)[:450, :500]
    sdata = SpatialData(
        images={
            key: Image2DModel.parse(pixels, dims=("y", "x", "c"), transformations={key: Identity()})
            for key, pixels in (("one", large), ("other", small))
        },
        attrs={"nh2st": {"mpp": {"one": 4.0, "other": 8.0}}},
    )
    nh.pp.tissue_tiles(sdata)
    table = sdata["nh2st"]
    assert list(table.obs["region"].cat.categories) == ["nh2st_tiles_one", "nh2st_tiles_other"]
    for key, radius in (("one", 14), ("other", 7)):
        shapes = sdata[f"nh2st_tiles_{key}"]
        assert shapes["radius"].unique() == [radius]
        assert (table.obs["region"] == f"nh2st_tiles_{key}").sum() == len(shapes)
        assert f"nh2st_tissue_{key}" in sdata.shapes
    nh.pp.tissue_tiles(sdata, image_key="other")
    assert sorted(sdata.shapes) == ["nh2st_tiles", "nh2st_tissue"]
    assert set(sdata["nh2st"].obs["region"]) == {"nh2st_tiles"}


def test_images_of_one_place_must_be_named():
    sdata = as_sdata(slide())
    sdata["small"] = Image2DModel.parse(slide()[::4, ::4], dims=("y", "x", "c"))
    with pytest.raises(ValueError, match=r"share a coordinate system.*'slide', 'small'.*`image_key=`"):
        nh.pp.tissue_tiles(sdata)
    with pytest.raises(KeyError, match="There is no image 'large'; the object has: 'slide', 'small'"):
        nh.pp.tissue_tiles(sdata, image_key=["slide", "large"])
    nh.pp.tissue_tiles(sdata, image_key="slide")
    assert "nh2st_tiles" in sdata.shapes


def test_a_list_of_objects_is_checked_before_the_first_is_changed():
    good, bad = as_sdata(slide()), as_sdata(slide(), mpp=None)
    with pytest.raises(ValueError, match="unknown"):
        nh.pp.tissue_tiles([good, bad])
    assert not good.shapes
    nh.pp.tissue_tiles([good, bad], mpp=4.0)
    assert good["nh2st"].n_obs == bad["nh2st"].n_obs > 0


def test_foreign_elements_are_replaced_only_on_request():
    sdata = as_sdata(slide())
    sdata["nh2st_tiles"] = ShapesModel.parse(np.array([[3.0, 4.0]]), geometry=0, radius=1.0)
    with pytest.raises(ValueError, match=r"'nh2st_tiles' already, and nh2st did not write it.*`overwrite=True`"):
        nh.pp.tissue_tiles(sdata)
    assert len(sdata["nh2st_tiles"]) == 1
    nh.pp.tissue_tiles(sdata, overwrite=True)
    many = len(sdata["nh2st_tiles"])
    nh.pp.tissue_tiles(sdata, tile_um=224)
    assert 1 < len(sdata["nh2st_tiles"]) < many


def test_tiles_survive_writing(tmp_path):
    sdata = as_sdata(slide())
    nh.pp.tissue_tiles(sdata)
    sdata.write(tmp_path / "slide.zarr")
    again = read_zarr(tmp_path / "slide.zarr")
    assert again["nh2st"].obs.equals(sdata["nh2st"].obs)
    assert again["nh2st"].n_vars == 0
    assert again["nh2st"].uns["nh2st"]["tiles"]["nh2st_tiles"]["image"] == "slide"
    # Known as our own, they are replaced without ado.
    nh.pp.tissue_tiles(again, tile_um=224)


@pytest.mark.parametrize(
    ("argument", "value"), [("tile_um", 0), ("tile_um", np.nan), ("min_tissue", 0), ("min_tissue", 1.1)]
)
def test_numbers_are_checked(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be"):
        nh.pp.tissue_tiles(as_sdata(slide()), **{argument: value})


def test_an_object_without_images_says_how_to_add_one():
    with pytest.raises(ValueError, match="has no image to lay tiles on"):
        nh.pp.tissue_tiles(SpatialData())


@pytest.mark.parametrize("section", ["B4", "C3"])
def test_her2st_tissue_is_where_the_spots_are(data_dir, section):
    sdata = nh.datasets.her2st([section], path=data_dir / "her2st")
    check_real(sdata, section)


@pytest.mark.parametrize("section", ["MOB1", "MOB3"])
def test_olfactory_bulb_is_where_the_spots_are(data_dir, section):
    sdata = nh.datasets.mouse_olfactory_bulb([section], path=data_dir / "mob")
    check_real(sdata, section)


def check_real(sdata: SpatialData, section: str) -> None:
    nh.pp.tissue_tiles(sdata)
    spots = np.column_stack([sdata[section].geometry.x, sdata[section].geometry.y])
    mpp = sdata.attrs["nh2st"]["mpp"][f"{section}_image"]
    tissue = shapely.union_all(sdata["nh2st_tissue"].geometry.to_numpy())
    assert shapely.contains_xy(tissue, spots).mean() > 0.98
    centers, half = sdata["nh2st"].obsm["spatial"], sdata["nh2st_tiles"]["radius"].iloc[0]
    assert (np.abs(spots[:, None] - centers).max(axis=2) <= half).any(axis=1).mean() > 0.95
    # Spots are 200 um apart: a tile further than that from all of them is not on the tissue that was measured.
    measured = shapely.MultiPoint(spots).buffer(200 / mpp)
    assert shapely.contains_xy(measured, centers).mean() > 0.97
