from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import issparse
from spatialdata import SpatialData, deepcopy

import nh2st as nh

TRAINING = ("A", "B", "C")
HELD_OUT = "D"


def tiny_settings() -> dict[str, Any]:
    """Settings with which training takes a second; a patch lies within what the fixture darkens at a spot."""
    return {
        "encoder": "test_resnet",
        "encoder_weights": None,
        "network": {"width": 32, "heads": 2, "dropout": 0.0},
        "patch_px": 32,
        "patch_um": 32.0,
        "max_epochs": 1,
        "device": "cpu",
    }


@pytest.fixture
def train() -> Callable[..., nh.models.Model]:
    """`nh.tl.train` with tiny settings."""
    return lambda data, **settings: nh.tl.train(data, **tiny_settings() | settings)


@functools.cache
def _trained(build: Callable[..., SpatialData]) -> tuple[SpatialData, nh.models.Model]:
    sdata = build((*TRAINING, HELD_OUT), side=6)
    settings = tiny_settings() | {"max_epochs": 16, "batch_size": 8, "learning_rate": 2e-3, "patience": 16}
    return sdata, nh.tl.train(sdata, sections=TRAINING, **settings)


@pytest.fixture
def trained(make_sdata: Callable[..., SpatialData]) -> tuple[SpatialData, nh.models.Model]:
    """Sections A to D, and a model of all their genes that was trained on the first three."""
    sdata, model = _trained(make_sdata)
    return deepcopy(sdata), model


@pytest.fixture
def unchanged() -> Callable[[SpatialData], Any]:
    """Make sure that a block changes nothing in a SpatialData, whatever becomes of it."""

    @contextmanager
    def check(sdata: SpatialData) -> Iterator[None]:
        before = deepcopy(sdata)
        try:
            yield
        finally:
            assert {name for _, name, _ in sdata.gen_elements()} == {name for _, name, _ in before.gen_elements()}
            assert sdata.attrs == before.attrs
            for name, table in sdata.tables.items():
                assert_same_table(table, before.tables[name])

    return check


def assert_same_table(table: AnnData, before: AnnData) -> None:
    """Make sure that two tables hold the same in all places."""
    np.testing.assert_array_equal(_dense(table.X), _dense(before.X))
    for place in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(table, place), getattr(before, place))
    for place in ("layers", "obsm", "varm", "obsp"):
        assert set(getattr(table, place)) == set(getattr(before, place))
        for name, values in getattr(table, place).items():
            np.testing.assert_array_equal(_dense(values), _dense(getattr(before, place)[name]))
    np.testing.assert_equal(dict(table.uns), dict(before.uns))


def _dense(values: Any) -> Any:
    return values.toarray() if issparse(values) else np.asarray(values)
