"""Every function that writes results, and everything that can stand where it writes."""

from __future__ import annotations

import functools
import itertools

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import nh2st as nh

# What is there: its name, what messages call it, and where its values are.
STANDING = {
    "normalized": ("normal", "normalised expression", "layers"),
    "smoothed": ("smooth", "a smoothed layer", "layers"),
    "embedding": ("embedded", "embeddings", "obsm"),
    "predictions": ("predicted", "predictions", "layers"),
    "cross-validation": ("folds", "a cross-validation", "layers"),
    "cross-validation baseline": ("folds_ridge", "a baseline of a cross-validation", "layers"),
}
PLACES = {
    "normalized": {"layers"},
    "smoothed": {"layers"},
    "embedding": {"obsm"},
    "predictions": {"layers", "obsm"},
    "cross-validation": {"layers", "obsm"},
}
WRITERS = tuple(PLACES)
QUICK = ("normalized", "smoothed", "embedding", "predictions")
SCORES = "pearson spearman mse mae nrmse ssim auc moran_measured moran_predicted ceiling".split()
TINY = {"network": {"width": 32, "components": 8, "members": 2}, "max_epochs": 1}


@pytest.fixture
def write(model, encoder):
    """Write a result of some kind under some name."""

    def run(kind, data, key, **settings):
        calls = {
            "normalized": functools.partial(nh.pp.normalize, data),
            "smoothed": functools.partial(nh.pp.smooth, data, layer="normal"),
            "embedding": functools.partial(nh.pp.embed, data, **encoder),
            "predictions": functools.partial(nh.tl.predict, data, model, device="cpu"),
            "cross-validation": functools.partial(nh.tl.cross_validate, data, genes=["gene1"], **encoder, **TINY),
        }
        torch.manual_seed(0)
        calls[kind](key_added=key, **settings)

    return run


def belongs_to(name, key):
    """Whether an entry is of this name, or of something beside it."""
    entry = name.split("/")[1]
    another = key == "folds_ridge" and entry.startswith(("folds_ridge_context", "folds_ridge_neighbours"))
    return entry == key or (entry.startswith(f"{key}_") and not another)


def test_each_record_says_its_kind(full):
    records = full["table"].uns["nh2st"]
    assert {key: records[key]["kind"] for key, _, _ in STANDING.values()} == {
        key: kind for kind, (key, _, _) in STANDING.items()
    }
    assert records["spatial"]["kind"] == "graph"
    assert all(type(record["kind"]) is str for record in records.values())


@pytest.mark.parametrize(
    ("kind", "standing"), [pair for pair in itertools.product(WRITERS, STANDING) if len(set(pair)) == 2]
)
def test_another_kind_is_refused_and_nothing_changes(full, write, contents, same, kind, standing):
    key, called, _ = STANDING[standing]
    before = contents(full["table"].copy())
    with pytest.raises(ValueError, match=f"key_added='{key}' is the name of {called}. Choose another"):
        write(kind, full, key)
    same(contents(full["table"]), before)


@pytest.mark.parametrize(
    ("kind", "standing"), [pair for pair in itertools.product(QUICK, STANDING) if len(set(pair)) == 2]
)
def test_on_request_another_kind_is_replaced_with_all_that_belongs_to_it(full, write, contents, same, kind, standing):
    key, _, place = STANDING[standing]
    settings = {"baselines": False} if kind == "predictions" else {}
    write(kind, full, "fresh", **settings)
    before = contents(full["table"].copy())
    if place not in PLACES[kind]:
        with pytest.raises(ValueError, match="Choose another name"):
            write(kind, full, key, overwrite=True, **settings)
        same(contents(full["table"]), before)
        return
    write(kind, full, key, overwrite=True, **settings)
    expected = {name: value for name, value in before.items() if not belongs_to(name, key)}
    for name in before:
        if belongs_to(name, "fresh"):
            expected[name.replace("fresh", key)] = renamed(before[name], key)
    if standing == "cross-validation baseline":
        expected["records/folds"]["layers"].remove("folds_ridge")
    same(contents(full["table"]), expected)


def renamed(values, key):
    return values.rename(values.name.replace("fresh", key)) if isinstance(values, pd.Series) else values


@pytest.mark.parametrize("kind", QUICK)
def test_the_same_function_twice_simply_works(full, write, contents, same, kind):
    key = STANDING[kind][0]
    expected = contents(full["table"].copy())
    write(kind, full, key)
    after = contents(full["table"])
    gone = {f"{place}/{key}_{metric}" for place in ("var", "varm") for metric in SCORES} | {f"var/{key}_ridge_pearson"}
    if kind == "predictions":
        expected = {name: value for name, value in expected.items() if name not in gone}
        for field in ("evaluation", "evaluation_by_section"):
            del expected[f"records/{key}"][field]
    same(after, expected)


def test_a_cross_validation_replaces_itself(full, write):
    write("cross-validation", full, "folds", baselines=False)
    table = full["table"]
    assert [name for name in table.layers if name.startswith("folds")] == ["folds"]
    assert [name for name in table.uns["nh2st"] if name.startswith("folds")] == ["folds"]
    assert {name for name in table.var if name.startswith("folds")} == {"folds_predicted"}
    assert not [name for name in table.varm if name.startswith("folds")]
    assert table.uns["nh2st"]["folds"]["genes"] == ["gene1"]
    assert table.var["folds_predicted"].sum() == 1


def test_a_cross_validation_replaces_predictions_on_request(full, write):
    write("cross-validation", full, "predicted", baselines=False, overwrite=True)
    table = full["table"]
    assert [name for name in table.layers if name.startswith("predicted")] == ["predicted"]
    assert {name for name in table.var if name.startswith("predicted")} == {"predicted_predicted"}
    assert not [name for name in table.varm if name.startswith("predicted")]
    assert table.uns["nh2st"]["predicted"]["kind"] == "cross-validation"
    assert set(table.obs["predicted_fold"]) == {"1", "2", "3"}
    assert "folds_ridge" in table.layers


def test_the_runs_of_two_names_do_not_share_layers(full, write):
    with pytest.raises(ValueError, match="'folds_ridge' is the name of a baseline of a cross-validation"):
        write("cross-validation", full, "folds_ridge", baselines=False)
    nh.pp.normalize(full, key_added="other_ridge")
    with pytest.raises(ValueError, match="'other_ridge' is the name of normalised expression"):
        write("cross-validation", full, "other")


@pytest.mark.parametrize("place", ["layers", "obsm"])
@pytest.mark.parametrize("kind", WRITERS)
def test_entries_of_the_user(full, write, contents, same, kind, place):
    table = full["table"]
    del getattr(table, "obsm" if place == "layers" else "layers")["mine"]
    before = contents(table.copy())
    if place not in PLACES[kind]:
        write(kind, full, "mine")
        np.testing.assert_array_equal(getattr(table, place)["mine"], before[f"{place}/mine"])
        return
    with pytest.raises(ValueError, match=rf"{place}\['mine'\] exists and was not written by nh2st.*`overwrite=True`"):
        write(kind, full, "mine")
    same(contents(table), before)
    if kind != "cross-validation":
        write(kind, full, "mine", overwrite=True)
        assert "mine" not in table.obsm or kind in ("embedding", "predictions")
        assert table.uns["nh2st"]["mine"]["kind"] == kind
        write(kind, full, "mine")


@pytest.mark.parametrize(
    ("kind", "key", "place"),
    [
        ("predictions", "ridged", r"layers\['ridged_ridge'\]"),
        ("cross-validation", "ridged", r"layers\['ridged_ridge'\]"),
        ("predictions", "marked", r"var\['marked_predicted'\]"),
        ("cross-validation", "marked", r"var\['marked_predicted'\]"),
        ("cross-validation", "own", r"obs\['own_fold'\]"),
    ],
)
def test_entries_of_the_user_beside_the_values(full, write, contents, same, kind, key, place):
    before = contents(full["table"].copy())
    with pytest.raises(ValueError, match=f"{place} exists and was not written by nh2st.*`overwrite=True`"):
        write(kind, full, key)
    same(contents(full["table"]), before)


def test_what_would_be_read_as_belonging_to_predictions_goes_on_request(full, write):
    write("predictions", full, "ridged", overwrite=True, baselines=False)
    assert "ridged_ridge" not in full["table"].layers
    write("predictions", full, "marked", overwrite=True)
    assert full["table"].var["marked_predicted"].tolist() == [True] * 6 + [False] * 2


@pytest.mark.parametrize("kind", ["normalized", "smoothed", "predictions"])
def test_layers_beside_predictions_belong_to_them(full, write, contents, kind):
    table = full["table"]
    with pytest.raises(ValueError, match=r"layers\['predicted_ridge'\] belongs to 'predicted'.*`overwrite=True`"):
        write(kind, full, "predicted_ridge")
    before = contents(table.copy())
    write(kind, full, "predicted_ridge", overwrite=True)
    assert "predicted_ridge_pearson" not in table.var
    np.testing.assert_array_equal(contents(table)["layers/predicted"], before["layers/predicted"])
    # From now on the name is that of the other result, which the predictions do not take back.
    with pytest.raises(ValueError, match=r"layers\['predicted_ridge'\] belongs to 'predicted_ridge'"):
        write("predictions", full, "predicted")
    write("predictions", full, "predicted", overwrite=True)
    assert "predicted_ridge" not in table.uns["nh2st"]
    np.testing.assert_array_equal(contents(table)["layers/predicted_ridge"], before["layers/predicted_ridge"])


def test_names_of_predictions_are_not_taken_by_their_target(full, write):
    with pytest.raises(ValueError, match="'nh2st_target' is reserved"):
        write("predictions", full, "nh2st_target")
    nh.pp.normalize(full)
    before = full["table"].layers["nh2st_target"].copy()
    with pytest.raises(ValueError, match="reserved"):
        write("predictions", full, "nh2st_target", overwrite=True)
    assert (full["table"].layers["nh2st_target"] != before).nnz == 0


def test_all_tables_are_checked_before_the_first_is_written(make_sdata, write, contents, same):
    good, bad = make_sdata(("A",), side=4), make_sdata(("A",), side=4, seed=1)
    bad["table"].layers["x"] = bad["table"].X.copy()
    bad["table"].obsm["x"] = np.zeros((16, 1))
    nh.pp.normalize([good, bad], key_added="normal")
    before = contents(good["table"].copy())
    for kind in QUICK:
        with pytest.raises(ValueError, match="was not written by nh2st"):
            write(kind, [good, bad], "x")
        same(contents(good["table"]), before)


@pytest.mark.parametrize("standing", STANDING)
def test_records_of_earlier_versions_are_told_apart(full, write, standing):
    key, called, _ = STANDING[standing]
    for record in full["table"].uns["nh2st"].values():
        record.pop("kind")
    kind = "normalized" if standing != "normalized" else "smoothed"
    with pytest.raises(ValueError, match=f"'{key}' is the name of {called}"):
        write(kind, full, key)
    if standing in QUICK:
        write(standing, full, key)
        assert full["table"].uns["nh2st"][key]["kind"] == standing


def test_kinds_survive_the_disk(full, write, contents, tmp_path):
    full["table"].write_h5ad(tmp_path / "table.h5ad")
    read = ad.read_h5ad(tmp_path / "table.h5ad")
    for kind in ("normalized", "smoothed"):
        write(kind, read, STANDING[kind][0])
        with pytest.raises(ValueError, match="is the name of predictions"):
            write(kind, read, "predicted")
    nh.pp.spatial_neighbors(read)
    nh.pp.normalize(read, key_added="folds", overwrite=True)
    assert not [name for name in contents(read) if "folds_" in name]


def test_records_of_the_user_are_not_replaced(full, write):
    full["table"].uns["nh2st"]["note"] = "by hand"
    with pytest.raises(ValueError, match=r"uns\['nh2st'\]\['note'\] exists and was not written by nh2st"):
        write("normalized", full, "note")
    write("normalized", full, "note", overwrite=True)
    assert full["table"].uns["nh2st"]["note"]["kind"] == "normalized"


def test_a_namespace_of_the_user_is_said(make_sdata):
    sdata = make_sdata(("A",))
    sdata["table"].uns["nh2st"] = "mine"
    with pytest.raises(ValueError, match=r"uns\['nh2st'\] was not written by nh2st.*Rename it"):
        nh.pp.normalize(sdata)


def test_results_in_a_view_leave_the_table_alone(full, contents, same):
    table = full["table"]
    before = contents(table.copy())
    view = table[::2]
    nh.pp.normalize(view, key_added="folds", overwrite=True)
    assert view.uns["nh2st"]["folds"]["kind"] == "normalized"
    assert "folds_ridge" not in view.layers
    same(contents(table), before)
