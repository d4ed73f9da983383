from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from spatialdata import SpatialData, read_zarr

import nh2st as nh
from nh2st._expression import Target
from nh2st.models import Model

HISTORY = [
    {"epoch": 0, "loss": 5.0, "query": 2.0, "neighbor": 2.5, "mse": 1.75, "val_pearson": -1.0, "val_mse": 2.0},
    {"epoch": 1, "loss": 4.0, "query": 1.5, "neighbor": 2.2, "mse": 1.40, "val_pearson": 0.3, "val_mse": 1.5},
    {"epoch": 2, "loss": 3.0, "query": 1.0, "neighbor": 2.0, "mse": 1.00, "val_pearson": 0.2, "val_mse": 1.6},
]


def trained(history) -> Model:
    return Model(network=None, genes=["A"], target=Target.named("default"), patch_um=112.0, history=history)


def line(ax: Axes, label: str) -> np.ndarray:
    (found,) = (curve for curve in ax.lines if curve.get_label() == label)
    return found.get_xydata()


def record(sdata: SpatialData, history, sha256: str = "0") -> SpatialData:
    training = {"sha256": sha256, "history": pd.DataFrame(history).to_dict("list")}
    sdata["table"].uns.setdefault("nh2st", {})["training"] = training
    return sdata


def test_losses_and_scores_are_drawn_by_epoch_counted_from_one():
    loss, mse, score = nh.pl.training_history(trained(HISTORY))
    np.testing.assert_array_equal(line(loss, "total"), [[1, 5], [2, 4], [3, 3]])
    np.testing.assert_array_equal(line(loss, "query")[:, 1], [2, 1.5, 1])
    np.testing.assert_array_equal(line(loss, "neighbour")[:, 1], [2.5, 2.2, 2])
    np.testing.assert_array_equal(line(mse, "training")[:, 1], [1.75, 1.4, 1])
    np.testing.assert_array_equal(line(mse, "validation")[:, 1], [2, 1.5, 1.6])
    # The score that stands for an undefined correlation is not drawn.
    np.testing.assert_array_equal(line(score, "mean over genes")[:, 1], [np.nan, 0.3, 0.2])


def test_the_best_epoch_is_marked():
    axes = nh.pl.training_history(trained(HISTORY))
    np.testing.assert_array_equal(line(axes[-1], "best: 0.300, epoch 2"), [[2, 0.3]])
    assert [text.get_text() for text in axes[-1].get_legend().get_texts()] == ["best: 0.300, epoch 2"]


def test_without_validation_there_is_no_score():
    rows = [{name: value for name, value in row.items() if not name.startswith("val_")} for row in HISTORY]
    axes = nh.pl.training_history(trained(rows))
    assert [ax.get_ylabel() for ax in axes] == ["loss", "MSE"]


def test_scores_that_are_all_undefined_are_survived():
    assert len(nh.pl.training_history(trained(HISTORY[:1]))) == 3


def test_the_history_is_found_in_the_data_also_after_writing(sdata, tmp_path):
    record(sdata, HISTORY).write(tmp_path / "sections.zarr")
    for data in (sdata, sdata["table"], read_zarr(tmp_path / "sections.zarr")):
        loss, _, _ = nh.pl.training_history(data)
        np.testing.assert_array_equal(line(loss, "total")[:, 1], [5, 4, 3])


def test_what_is_missing_is_named(sdata):
    with pytest.raises(ValueError, match=r"nh\.tl\.train\(sdata\)"):
        nh.pl.training_history(sdata)
    with pytest.raises(ValueError, match="no history"):
        nh.pl.training_history(trained([]))


def test_histories_of_different_models_are_not_mixed(sdata):
    other = nh.datasets.synthetic(1, spots_per_side=2, n_genes=5)
    with pytest.raises(ValueError, match="Several models"):
        nh.pl.training_history([record(sdata, HISTORY, "1"), record(other, HISTORY, "2")])
