from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData, deepcopy

import nh2st as nh


@functools.cache
def _predicted(build: Callable[..., SpatialData]) -> tuple[SpatialData, nh.models.Model]:
    sdata = build(side=3)
    model = nh.tl.train(
        sdata,
        genes=["gene6", "gene1", "gene3"],
        encoder="test_resnet",
        encoder_weights=None,
        network={"width": 32, "heads": 2},
        patch_px=32,
        patch_um=32.0,
        max_epochs=1,
        device="cpu",
    )
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


def test_without_predictions(make_sdata, sdata):
    with pytest.raises(KeyError, match="no predictions 'nh2st' .there are: none.*nh.tl.predict"):
        nh.get.predicted(make_sdata())
    nh.pp.normalize(sdata)
    for key in ("other", "nh2st_target"):
        with pytest.raises(KeyError, match=f"no predictions '{key}' .there are: 'nh2st'."):
            nh.get.predicted(sdata, key)
