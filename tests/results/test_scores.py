"""Columns that scores are written to, beside predictions."""

from __future__ import annotations

import numpy as np
import pytest

import nh2st as nh
from nh2st._results import check_evaluation, companion_layer
from nh2st._sections import find_spots


@pytest.fixture
def check(full):
    def run(key, *, overwrite=False):
        check_evaluation(find_spots(full), key, overwrite=overwrite)

    return run


def test_own_scores_are_no_obstacle(check):
    for key in ("predicted", "folds", "folds_ridge"):
        check(key)


@pytest.mark.parametrize("place", ["var", "varm"])
def test_columns_of_the_user_are_replaced_on_request_alone(full, model, check, place):
    table = full["table"]
    nh.tl.predict(full, model, key_added="new", device="cpu")
    check("new")
    getattr(table, place)["new_pearson"] = np.ones(table.n_vars) if place == "var" else np.ones((table.n_vars, 1))
    with pytest.raises(
        ValueError, match=rf"{place}\['new_pearson'\] exists and was not written by nh2st.*overwrite=True"
    ):
        check("new")
    check("new", overwrite=True)


def test_columns_that_differ_by_case(full, check):
    full["table"].var["Folds_pearson"] = 1.0
    with pytest.raises(ValueError, match=r"var\['folds_pearson'\], which differs from var\['Folds_pearson'\] by case"):
        check("folds", overwrite=True)


def test_there_must_be_predictions(check):
    with pytest.raises(KeyError, match="no predictions 'normal'"):
        check("normal")


def test_another_evaluation_leaves_nothing_of_the_first(full):
    assert "predicted_ridge_pearson" in full["table"].var
    del full["table"].layers["predicted_ridge"]
    nh.tl.evaluate(full, "predicted", sections=["B"])
    table = full["table"]
    assert "predicted_ridge_pearson" not in table.var
    assert list(table.varm["predicted_pearson"].columns) == ["B"]
    assert not [name for name in table.uns["nh2st"]["predicted"]["evaluation"] if name.startswith("ridge")]
    assert list(table.varm["folds_pearson"].columns) == ["A", "B", "C"]


def test_layers_beside_predictions(full):
    table = full["table"]
    assert companion_layer(table, "predicted", "ridge") == "predicted_ridge"
    assert companion_layer(table, "predicted", "std") == "predicted_std"
    assert companion_layer(table, "folds", "ridge") == "folds_ridge"
    assert companion_layer(table, "folds_ridge", "ridge") is None
    nh.pp.smooth(full, layer="normal", key_added="predicted_ridge", overwrite=True)
    assert companion_layer(table, "predicted", "ridge") is None
