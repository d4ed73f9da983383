from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Scale

import nh2st as nh
from nh2st._space import SpotGrid, array_mpp


def sdata_of(adata, *, image_scale=1.0, regions=("spots",), images=None):
    """One image; the regions' spots all lie on it unless each has an image of its own."""
    images = images or ["image"]
    shapes, tables = {}, []
    for region in regions:
        shapes[region] = ShapesModel.parse(adata.obsm["spatial"], geometry=0, radius=2.0)
        table = AnnData(adata.X, obs=adata.obs.assign(region=region, instance=np.arange(adata.n_obs)))
        table.obs_names = [f"{region}{name}" for name in table.obs_names]
        tables.append(table)
    table = tables[0] if len(tables) == 1 else concat(tables)
    table.obs["region"] = pd.Categorical(table.obs["region"])
    table = TableModel.parse(table, region=list(regions), region_key="region", instance_key="instance")
    scale = Scale([image_scale, image_scale], axes=("x", "y"))
    pictures = {
        name: Image2DModel.parse(
            np.zeros((3, 200, 200), dtype=np.uint8), dims=("c", "y", "x"), transformations={"global": scale}
        )
        for name in images
    }
    return SpatialData(images=pictures, shapes=shapes, tables={"table": table})


def mpp_of(sdata, image="image"):
    return sdata.attrs["nh2st"]["mpp"][image]


@pytest.mark.parametrize(
    ("kind", "pitch_um", "expected"),
    [("hexagonal", None, 10.0), ("hexagonal", 50, 5.0), ("square", 200, 20.0), ("checkerboard", 100, 100 / 50**0.5)],
)
@pytest.mark.parametrize("image_scale", [1.0, 0.5])
def test_scale_from_the_array(make_grid, kind, pitch_um, expected, image_scale):
    sdata = sdata_of(make_grid(kind), image_scale=image_scale)
    assert nh.pp.estimate_mpp(sdata, pitch_um) is None
    assert mpp_of(sdata) == pytest.approx(expected * image_scale)


def test_fit_is_not_biased_by_jitter(make_grid):
    adata = make_grid("square", 20, 20, jitter=0.07)
    array = adata.obs[["array_row", "array_col"]].to_numpy()
    assert array_mpp(SpotGrid(adata.obsm["spatial"], array), 200) == pytest.approx(20, rel=2e-3)
    assert array_mpp(SpotGrid(adata.obsm["spatial"], None), 200) == pytest.approx(20, rel=0.01)


def test_scale_without_ids(make_grid):
    adata = make_grid("hexagonal")
    del adata.obs
    sdata = sdata_of(adata)
    nh.pp.estimate_mpp(sdata)
    assert mpp_of(sdata) == pytest.approx(10)


def test_pitch_is_required_off_visium(make_grid):
    sdata = sdata_of(make_grid("square"))
    with pytest.raises(ValueError, match="not on a hexagonal.*pitch_um=200"):
        nh.pp.estimate_mpp(sdata)
    assert "nh2st" not in sdata.attrs


@pytest.mark.parametrize("pitch_um", [0, -1.0, np.nan, np.inf])
def test_pitch_is_checked(make_grid, pitch_um):
    with pytest.raises(ValueError, match="pitch_um"):
        nh.pp.estimate_mpp(sdata_of(make_grid("square")), pitch_um)


def test_one_spot_has_no_scale(make_points):
    with pytest.raises(ValueError, match="two spots at different places"):
        nh.pp.estimate_mpp(sdata_of(make_points(np.full((1, 2), 5.0), np.zeros((1, 2), dtype=int))), 100)


def test_unequal_axes_are_said(make_grid, caplog):
    adata = make_grid("square")
    adata.obsm["spatial"][:, 0] *= 1.21
    array = adata.obs[["array_row", "array_col"]].to_numpy()
    assert array_mpp(SpotGrid(adata.obsm["spatial"], array), 200) == pytest.approx(20 / 1.1)
    assert "not isotropic" in caplog.text


def test_second_call_replaces_and_other_images_stay(make_grid):
    sdata = sdata_of(make_grid("square"))
    sdata.attrs["nh2st"] = {"mpp": {"other": 0.5}}
    nh.pp.estimate_mpp(sdata, 100)
    nh.pp.estimate_mpp(sdata, 200)
    assert sdata.attrs["nh2st"]["mpp"] == {"other": 0.5, "image": pytest.approx(20)}


def test_sections_on_one_image_must_agree(make_grid):
    sdata = sdata_of(make_grid("square"), regions=("a", "b"))
    nh.pp.estimate_mpp(sdata, 200)
    assert mpp_of(sdata) == pytest.approx(20)
    sdata.shapes["b"] = ShapesModel.parse(make_grid("square", pitch=12.0).obsm["spatial"], geometry=0, radius=2.0)
    with pytest.raises(ValueError, match="disagree.*'a' 20.000.*'b' 16.667.*sections="):
        nh.pp.estimate_mpp(sdata, 200)


def test_anndata_has_no_image(make_grid):
    with pytest.raises(TypeError, match="needs the image"):
        nh.pp.estimate_mpp(make_grid("square"), 200)


@pytest.mark.parametrize(
    ("name", "pitch_um", "low", "high"), [("B4", 200, 0.68, 0.70), ("C3", 200, 0.68, 0.70), ("MOB1", 100, 4.35, 4.42)]
)
def test_real_sections(st_section, name, pitch_um, low, high):
    adata = st_section(name)
    array = adata.obs[["array_row", "array_col"]].to_numpy()
    assert low < array_mpp(SpotGrid(adata.obsm["spatial"], array), pitch_um) < high


def test_real_visium(visium, data_dir):
    nh.pp.estimate_mpp(visium, image_key="cytassist_lowres_image")
    folder = data_dir / "visium" / "spatial"
    scale = json.loads((folder / "scalefactors_json.json").read_text())["tissue_lowres_scalef"]
    spots = pd.read_csv(folder / "tissue_positions.csv").set_index(["array_row", "array_col"])
    # Two spots of one row, far apart: neighbours in a row are two columns and 100 um apart.
    first, last = (spots.loc[(20, col), ["pxl_row_in_fullres", "pxl_col_in_fullres"]].astype(float) for col in (0, 120))
    expected = 60 * 100 / (np.linalg.norm(last - first) * scale)
    assert mpp_of(visium, "cytassist_lowres_image") == pytest.approx(expected, rel=5e-3)
