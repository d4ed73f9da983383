from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import shapely
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import PathPatch
from PIL import Image
from spatialdata import SpatialData
from spatialdata.transformations import Affine, set_transformation

import nh2st as nh


@pytest.fixture
def tiled(sdata: SpatialData) -> SpatialData:
    """Two slides with tiles of 100 um on their tissue."""
    nh.pp.tissue_tiles(sdata, tile_um=100)
    return sdata


def squares(ax: Axes) -> np.ndarray:
    (drawn,) = (shapes for shapes in ax.collections if isinstance(shapes, PolyCollection))
    return np.array([path.vertices[:4] for path in drawn.get_paths()])


def outlines(ax: Axes) -> shapely.Geometry:
    paths = [patch.get_path() for patch in ax.patches if isinstance(patch, PathPatch)]
    return shapely.union_all([shapely.Polygon(path.vertices) for path in paths])


def test_each_slide_is_drawn_with_its_tissue_and_tiles(tiled):
    axes = nh.pl.tissue(tiled)
    assert len(axes) == 2
    for ax, image in zip(axes, ("S1_image", "S2_image"), strict=True):
        tiles = tiled[f"nh2st_tiles_{image}"]
        centers = np.column_stack([tiles.geometry.x, tiles.geometry.y])
        drawn = squares(ax)
        np.testing.assert_allclose(drawn.mean(axis=1), centers)
        np.testing.assert_allclose(np.ptp(drawn, axis=1), 100)
        stored = shapely.union_all(tiled[f"nh2st_tissue_{image}"].geometry.to_numpy())
        assert shapely.area(shapely.symmetric_difference(outlines(ax), stored)) < 1e-6 * stored.area
        assert ax.get_title(loc="left") == f"{image}: {len(tiles)} tiles of 100 µm"
        (picture,) = ax.images
        assert picture.get_extent() == [0, 600, 600, 0]
        assert any("µm" in text.get_text() for text in ax.texts)


def test_one_slide_without_tiles(tiled):
    (ax,) = nh.pl.tissue(tiled, sections="nh2st_tiles_S2_image", tiles=False)
    assert not ax.collections
    assert ax.patches


def test_tiles_and_outlines_follow_the_transformations(sdata):
    moved = Affine([[0, -3, 40], [3, 0, 2], [0, 0, 1]], ("x", "y"), ("x", "y"))
    set_transformation(sdata.images["S1_image"], {"aligned": moved}, set_all=True)
    nh.pp.tissue_tiles(sdata, image_key="S1_image", tile_um=100)
    (ax,) = nh.pl.tissue(sdata)
    np.testing.assert_allclose(squares(ax).mean(axis=1), sdata["nh2st"].obsm["spatial"])
    assert shapely.box(0, 0, 600, 600).buffer(1).contains(outlines(ax))


def test_tiles_in_plain_pixels_have_no_scale_bar(sdata):
    nh.pp.tissue_tiles(sdata, image_key="S1_image", mpp="native", tile_um=60)
    (ax,) = nh.pl.tissue(sdata)
    assert ax.get_title(loc="left").endswith("tiles of 60 px")
    assert not ax.texts


def test_several_objects_are_drawn_side_by_side(tiled):
    other = nh.datasets.synthetic(1, spots_per_side=5, n_genes=20, seed=9)
    nh.pp.tissue_tiles(other, tile_um=100)
    axes = nh.pl.tissue(
        {"first": tiled, "second": other}, sections=["first.nh2st_tiles_S1_image", "second.nh2st_tiles"]
    )
    assert len(axes) == 2


def test_the_figure_is_saved(tiled, tmp_path):
    nh.pl.tissue(tiled, save=tmp_path / "tissue.png")
    with Image.open(tmp_path / "tissue.png") as figure:
        assert min(figure.size) > 300
    assert not plt.get_fignums()


def test_missing_tiles_name_the_call_to_make(sdata):
    with pytest.raises(KeyError, match=r"nh\.pp\.tissue_tiles\(sdata\)"):
        nh.pl.tissue(sdata)
