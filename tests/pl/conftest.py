from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from spatialdata import SpatialData, deepcopy

import nh2st as nh
from nh2st._expression import Target
from nh2st._results import write_predictions

PANEL = 12


@pytest.fixture(autouse=True)
def no_figure_left() -> Iterator[None]:
    """Draw without a screen, and leave no figure behind."""
    matplotlib.use("Agg")
    plt.close("all")
    yield
    plt.close("all")


@cache
def _sections() -> SpatialData:
    return nh.datasets.synthetic(2, spots_per_side=5, n_genes=20)


@pytest.fixture
def sdata() -> SpatialData:
    """Two synthetic sections."""
    return deepcopy(_sections())


@pytest.fixture
def predicted(sdata: SpatialData) -> SpatialData:
    """The same with predictions of twelve genes, of which ``LOST`` is not in the table."""
    return put_predictions(sdata)


@pytest.fixture
def predict() -> Callable[..., SpatialData]:
    return put_predictions


def put_predictions(sdata: SpatialData, *, rows: slice = slice(None), target: str = "default") -> SpatialData:
    table = sdata["table"]
    genes = [*table.var_names[: PANEL - 1], "LOST"]
    values = np.full((table.n_obs, PANEL), np.nan, dtype=np.float32)
    drawn = np.random.default_rng(0).gamma(3, 1, size=values.shape)
    values[rows] = drawn[rows]
    write_predictions(table, "nh2st", values, genes)
    provenance = {"genes": genes, "target": Target.named(target).to_dict()}
    table.uns.setdefault("nh2st", {})["nh2st"] = provenance
    return sdata
