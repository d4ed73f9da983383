from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from spatialdata import SpatialData, deepcopy
from spatialdata.models import TableModel

import nh2st as nh
from nh2st._results import write_predictions
from nh2st._sections import find_spots

ENCODER = {"encoder": "test_resnet", "encoder_weights": None, "patch_px": 32, "patch_um": 32.0, "device": "cpu"}
SETTINGS = ENCODER | {"network": {"width": 32, "heads": 2}, "max_epochs": 1}


@functools.cache
def _predicted(build: Callable[..., SpatialData]) -> tuple[SpatialData, nh.models.Model]:
    sdata = build(side=3)
    model = nh.tl.train(sdata, genes=["gene6", "gene1", "gene3"], **SETTINGS)
    nh.tl.predict(sdata, model)
    return sdata, model


@pytest.fixture
def sdata(make_sdata: Callable[..., SpatialData]) -> SpatialData:
    return deepcopy(_predicted(make_sdata)[0])


@pytest.fixture
def model(make_sdata: Callable[..., SpatialData]) -> nh.models.Model:
    return _predicted(make_sdata)[1]


def test_panel_as_dense_adata(sdata, model):
    table = sdata["table"]
    table.var["symbol"] = [f"S{number}" for number in range(8)]
    table.var["mito"] = [True, *[False] * 7]
    adata = nh.get.predicted(sdata)
    assert list(adata.var_names) == ["gene6", "gene1", "gene3"]
    assert isinstance(adata.X, np.ndarray)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.to_df(), table.to_df("nh2st")[model.genes])
    pd.testing.assert_frame_equal(adata.obs, table.obs)
    np.testing.assert_array_equal(adata.obsm["spatial"], table.obsm["spatial"])
    assert adata.var["symbol"].tolist() == ["S6", "S1", "S3"]
    assert adata.var["mito"].tolist() == [False, False, False]
    assert adata.uns["nh2st"]["nh2st"]["sha256"] == model.sha256


def test_result_is_a_copy(sdata):
    before = copy.deepcopy(sdata["table"].uns["nh2st"])
    values = sdata["table"].layers["nh2st"].copy()
    adata = nh.get.predicted(sdata)
    adata.X[:] = 0
    adata.obs["region"] = "?"
    adata.uns["nh2st"]["nh2st"]["seed"] = "?"
    assert sdata["table"].uns["nh2st"] == before
    assert set(sdata["table"].obs["region"]) == {"A", "B"}
    np.testing.assert_array_equal(sdata["table"].layers["nh2st"].toarray(), values.toarray())


def test_sections_and_masks(sdata):
    table = sdata["table"]
    assert list(nh.get.predicted(sdata, sections=["B"]).obs_names) == [f"B_{number}" for number in range(9)]
    table.obs["some"] = table.obs["instance_id"] < 2
    assert list(nh.get.predicted(sdata, spots="some").obs_names) == ["A_0", "A_1", "B_0", "B_1"]


def test_table_alone_is_enough(sdata):
    np.testing.assert_array_equal(nh.get.predicted(sdata["table"]).X, nh.get.predicted(sdata).X)


def test_several_objects(make_sdata, sdata, model):
    other = make_sdata(("A",), side=3, seed=3)
    nh.tl.predict(other, model)
    adata = nh.get.predicted({"x": sdata, "y": other})
    assert list(adata.obs_names[[0, -1]]) == ["A_0-x", "A_8-y"]
    np.testing.assert_array_equal(adata.X[:18], nh.get.predicted(sdata).X)
    np.testing.assert_array_equal(adata.X[18:], nh.get.predicted(other).X)
    assert adata.obsm["spatial"].shape == (27, 2)
    other["table"].uns["nh2st"]["nh2st"]["genes"] = ["gene1", "gene3"]
    with pytest.raises(ValueError, match="different panels under 'nh2st'"):
        nh.get.predicted([sdata, other])


def joined_spots(adata: AnnData, column: str = "region") -> pd.DataFrame:
    """Names, and sections, of the spots that the graph joins."""
    graph = adata.obsp["spatial_connectivities"].tocoo()
    ends = {"spot": graph.row, "neighbor": graph.col}
    names = {end: adata.obs_names[rows] for end, rows in ends.items()}
    return pd.DataFrame(names | {f"{end}_of": adata.obs[column].astype(str).to_numpy()[ends[end]] for end in ends})


def test_graph_joins_no_sections(sdata):
    adata = nh.get.predicted(sdata)
    TableModel().validate(adata)
    assert adata.uns["spatialdata_attrs"]["region"] == ["A", "B"]
    nh.pp.spatial_neighbors(adata)
    nh.pp.spatial_neighbors(sdata)
    joined = joined_spots(adata)
    assert (joined["spot_of"] == joined["neighbor_of"]).all()
    pd.testing.assert_frame_equal(joined, joined_spots(sdata["table"]))


def test_regions_are_those_taken(sdata):
    adata = nh.get.predicted(sdata, sections=["B"])
    TableModel().validate(adata)
    assert adata.uns["spatialdata_attrs"]["region"] == ["B"]
    assert list(adata.obs["region"].cat.categories) == ["B"]
    assert sdata["table"].uns["spatialdata_attrs"]["region"] == ["A", "B"]


def test_graph_joins_no_objects(make_sdata, sdata, model, tmp_path):
    other = make_sdata(("A",), side=3, seed=3)
    nh.tl.predict(other, model)
    adata = nh.get.predicted({"x": sdata, "y": other})
    TableModel().validate(adata)
    sections = ["x.A", "x.B", "y.A"]
    assert adata.uns["spatialdata_attrs"]["region"] == sections
    assert adata.obs["instance_id"].tolist() == [*range(9)] * 3
    adata.write_h5ad(tmp_path / "predicted.h5ad")
    read = ad.read_h5ad(tmp_path / "predicted.h5ad")
    assert [section.name for section in find_spots(read)] == sections
    nh.pp.spatial_neighbors(read)
    joined = joined_spots(read)
    assert (joined["spot_of"] == joined["neighbor_of"]).all()
    assert joined["spot_of"].value_counts().to_dict() == dict.fromkeys(sections, 24)


def test_objects_that_annotate_nothing_are_regions(make_sdata, model):
    objects = {}
    for seed, name in enumerate("xy"):
        sdata = make_sdata(("A",), side=3, seed=seed)
        nh.tl.predict(sdata, model)
        objects[name] = sdata["table"]
        del objects[name].uns["spatialdata_attrs"], objects[name].obs["region"]
    assert "spatialdata_attrs" not in nh.get.predicted(objects["x"]).uns
    adata = nh.get.predicted(objects)
    assert adata.obs["region"].tolist() == ["x"] * 9 + ["y"] * 9
    assert [section.name for section in find_spots(adata)] == ["x", "y"]


def test_graph_of_real_sections(data_dir):
    sdata = nh.datasets.her2st(["B4", "C2", "C3"], path=data_dir)
    table = sdata["table"]
    values = np.ones((table.n_obs, 2), dtype=np.float32)
    write_predictions(table, "nh2st", values, list(table.var_names[:2]))
    table.uns["nh2st"] = {"nh2st": {"genes": list(table.var_names[:2])}}
    adata = nh.get.predicted(sdata)
    nh.pp.spatial_neighbors(adata)
    nh.pp.spatial_neighbors(sdata)
    joined = joined_spots(adata)
    assert (joined["spot_of"] == joined["neighbor_of"]).all()
    pd.testing.assert_frame_equal(joined, joined_spots(table))


@pytest.mark.parametrize("suffix", ["ridge", "std"])
def test_layers_beside_the_predictions(sdata, model, suffix):
    table, key = sdata["table"], f"nh2st_{suffix}"
    table.layers[key] = table.layers["nh2st_ridge"]
    adata = nh.get.predicted(sdata, key)
    np.testing.assert_array_equal(adata.to_df(), table.to_df(key)[model.genes])
    assert adata.uns["nh2st"][key]["sha256"] == model.sha256
    assert "nh2st_predicted" not in adata.var
    assert adata.uns["spatialdata_attrs"] == nh.get.predicted(sdata).uns["spatialdata_attrs"]


def test_layers_beside_the_predictions_lack_what_the_table_lacks(sdata, model):
    new = sdata.subset(list(sdata.images) + list(sdata.shapes) + ["table"])
    new["table"].var_names = ["other" if gene == "gene1" else gene for gene in new["table"].var_names]
    nh.tl.predict(new, model)
    assert list(nh.get.predicted(new).var_names) == ["gene6", "gene1", "gene3"]
    assert list(nh.get.predicted(new, "nh2st_ridge").var_names) == ["gene6", "gene3"]


def test_layers_of_baselines_of_a_cross_validation(make_sdata):
    sdata = make_sdata(("A", "B"), side=4)
    nh.tl.cross_validate(sdata, genes=["gene6", "gene1"], **SETTINGS)
    table = sdata["table"]
    layers = [name for name in table.layers if name.startswith("nh2st_cv_")]
    assert {"nh2st_cv_ridge", "nh2st_cv_training_mean"} <= set(layers)
    for name in layers:
        adata = nh.get.predicted(sdata, name)
        np.testing.assert_array_equal(adata.to_df(), table.to_df(name)[["gene6", "gene1"]])
        assert adata.uns["nh2st"][name]["genes"] == ["gene6", "gene1"]
        assert adata.uns["spatialdata_attrs"]["region"] == ["A", "B"]


def test_without_predictions(make_sdata, sdata):
    with pytest.raises(KeyError, match="no predictions 'nh2st' .there are: none.*nh.tl.predict"):
        nh.get.predicted(make_sdata())
    nh.pp.normalize(sdata)
    for key in ("other", "nh2st_target"):
        with pytest.raises(KeyError, match=f"no predictions '{key}' .there are: 'nh2st', 'nh2st_ridge'."):
            nh.get.predicted(sdata, key)
