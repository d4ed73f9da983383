from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy.sparse import issparse
from spatialdata import SpatialData, deepcopy

import nh2st as nh

SECTIONS = ("A", "B", "C")
ENCODER = {"encoder": "test_resnet", "encoder_weights": None, "patch_px": 32, "patch_um": 32.0, "device": "cpu"}
NETWORK = {"width": 32, "heads": 2, "components": 8, "members": 2, "dropout": 0.0, "input_dropout": 0.0}
TRAINING = ENCODER | {"network": NETWORK, "max_epochs": 1, "batch_size": 8}


@functools.cache
def _trained(build: Callable[..., SpatialData]) -> nh.models.Model:
    return nh.tl.train(build(SECTIONS, side=4), genes=[f"gene{number}" for number in range(6)], **TRAINING)


@functools.cache
def _full(build: Callable[..., SpatialData]) -> SpatialData:
    sdata = build(SECTIONS, side=4)
    table = sdata["table"]
    table.layers["mine"] = np.full(table.shape, 7.0)
    table.obsm["mine"] = np.full((table.n_obs, 2), 7.0)
    table.layers["ridged_ridge"], table.var["marked_predicted"], table.obs["own_fold"] = table.X.copy(), "x", 1
    nh.pp.normalize(sdata, key_added="normal")
    nh.pp.smooth(sdata, layer="normal", key_added="smooth")
    torch.manual_seed(0)
    nh.pp.embed(sdata, key_added="embedded", **ENCODER)
    nh.tl.predict(sdata, _trained(build), key_added="predicted", device="cpu")
    nh.tl.evaluate(sdata, "predicted")
    nh.tl.cross_validate(sdata, genes=["gene1", "gene2"], key_added="folds", **TRAINING)
    nh.tl.evaluate(sdata, "folds")
    return sdata


@pytest.fixture
def encoder() -> dict[str, Any]:
    """Settings of a tiny encoder."""
    return dict(ENCODER)


@pytest.fixture
def model(make_sdata: Callable[..., SpatialData]) -> nh.models.Model:
    """A context model of six of eight genes, with baselines."""
    return _trained(make_sdata)


@pytest.fixture
def full(make_sdata: Callable[..., SpatialData]) -> SpatialData:
    """Sections with a result of each kind under a name of its own, scores, and entries of the user's."""
    return deepcopy(_full(make_sdata))


@pytest.fixture
def contents() -> Callable[[AnnData], dict[str, Any]]:
    """Everything that a table holds, by its place."""
    return contents_of


def contents_of(table: AnnData) -> dict[str, Any]:
    found = {
        f"{place}/{name}": getattr(table, place)[name] for place in ("obs", "var") for name in getattr(table, place)
    }
    for place in ("layers", "obsm", "varm", "obsp"):
        found |= {f"{place}/{name}": _dense(values) for name, values in getattr(table, place).items()}
    found |= {f"uns/{name}": value for name, value in table.uns.items() if name != "nh2st"}
    return found | {f"records/{name}": value for name, value in table.uns.get("nh2st", {}).items()}


@pytest.fixture
def same() -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Make sure that two tables hold the same."""

    def check(found: dict[str, Any], expected: dict[str, Any]) -> None:
        assert set(found) == set(expected)
        for name, value in found.items():
            if isinstance(value, pd.Series):
                pd.testing.assert_series_equal(value, expected[name])
            elif isinstance(value, pd.DataFrame):
                pd.testing.assert_frame_equal(value, expected[name])
            else:
                np.testing.assert_equal(value, expected[name], err_msg=name)

    return check


def _dense(values: Any) -> Any:
    return values.toarray() if issparse(values) else values
