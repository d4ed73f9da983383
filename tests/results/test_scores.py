"""Columns that scores are written to, beside predictions."""

from __future__ import annotations

import numpy as np
import pytest

import nh2st as nh
from nh2st._results import check_evaluation, companion_layer, forget_evaluation
from nh2st._sections import find_spots


@pytest.fixture
def check(full):
    def run(key, *, overwrite=False, data=None):
        check_evaluation(find_spots(full if data is None else data), key, overwrite=overwrite)

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
    forget_evaluation(table, "new")
    assert "new_pearson" not in getattr(table, place)


def test_columns_that_differ_by_case(full, check):
    full["table"].var["Folds_pearson"] = 1.0
    with pytest.raises(ValueError, match=r"var\['folds_pearson'\], which differs from var\['Folds_pearson'\] by case"):
        check("folds", overwrite=True)


def test_keys_of_objects_that_become_columns_can_be_stored(full, check):
    table = full["table"].copy()
    del table.uns["spatialdata_attrs"]
    check("predicted", data={"a": table})
    with pytest.raises(ValueError, match="the key of an object='a/b' cannot be stored"):
        check("predicted", data={"a/b": table})


def test_there_must_be_predictions(check):
    with pytest.raises(KeyError, match="no predictions 'normal'"):
        check("normal")


def test_forgetting_takes_all_scores_away(full):
    table = full["table"]
    forget_evaluation(table, "predicted")
    assert {name for name in table.var if name.startswith("predicted_")} == {
        "predicted_predicted",
        "predicted_training_mean",
    }
    assert not any(name.startswith("predicted_") for name in table.varm)
    assert not {"evaluation", "evaluation_by_section"} & set(table.uns["nh2st"]["predicted"])
    assert "folds_pearson" in table.varm


def test_layers_beside_predictions(full):
    table = full["table"]
    assert companion_layer(table, "predicted", "ridge") == "predicted_ridge"
    assert companion_layer(table, "predicted", "std") == "predicted_std"
    assert companion_layer(table, "folds", "ridge") == "folds_ridge"
    assert companion_layer(table, "folds_ridge", "ridge") is None
    nh.pp.smooth(full, layer="normal", key_added="predicted_ridge", overwrite=True)
    assert companion_layer(table, "predicted", "ridge") is None
