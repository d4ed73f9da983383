"""Out-of-fold predictions and scores: what a fold knows, and what is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, issparse
from spatialdata import SpatialData, read_zarr

import nh2st as nh
from nh2st.nn import Encoder

SECTIONS = ("A", "B", "C")
BASELINES = ["training_mean", "colour_texture", "ridge", "ridge_neighbours", "ridge_context"]


@pytest.fixture
def cross_validate(paper_settings: dict[str, Any]) -> Callable[..., pd.DataFrame]:
    return lambda data, **settings: nh.tl.cross_validate(data, **paper_settings | {"baselines": False} | settings)


def layer(sdata: SpatialData, key: str = "nh2st_cv") -> np.ndarray:
    values = sdata["table"].layers[key]
    return values.toarray() if issparse(values) else np.asarray(values)


def of(sdata: SpatialData, section: str) -> np.ndarray:
    return (sdata["table"].obs["region"] == section).to_numpy()


def set_counts(sdata: SpatialData, change: Callable[[np.ndarray], None]) -> None:
    counts = sdata["table"].X.toarray()
    change(counts)
    sdata["table"].X = csr_matrix(counts)


@pytest.fixture
def sdata(make_sdata: Callable[..., SpatialData]) -> SpatialData:
    return make_sdata(SECTIONS, side=4)


@pytest.fixture
def genes(sdata: SpatialData) -> list[str]:
    return list(sdata["table"].var_names)


def test_fold_equals_training_on_the_other_sections(sdata, cross_validate, train, by_gene):
    frame = cross_validate(sdata, genes=5, seed=3)
    model = train(sdata, sections=["A", "C"], genes=5, seed=3)
    nh.tl.predict(sdata, model, sections=["B"])
    rows, columns = of(sdata, "B"), sdata["table"].var_names.get_indexer(model.genes)
    np.testing.assert_allclose(layer(sdata)[rows][:, columns], layer(sdata, "nh2st")[rows][:, columns], atol=1e-5)
    record = sdata["table"].uns["nh2st"]["nh2st_cv"]["folds"]["2"]
    assert (record["genes"], record["gene_sets"]) == (model.genes, model.provenance["gene_sets"])
    scores = by_gene(nh.tl.evaluate(sdata)).query("model == 'model'").set_index(["truth", "gene"])
    mine = frame.query("fold == 2 and model == 'model' and gene != ''").pivot(
        index=["truth", "gene"], columns="metric", values="value"
    )
    for metric in ("pearson", "mse", "ceiling"):
        np.testing.assert_allclose(mine[metric], scores[metric].reindex(mine.index), atol=1e-4)


def test_every_spot_is_tested_once(sdata, cross_validate, genes):
    frame = cross_validate(sdata, genes=genes)
    table = sdata["table"]
    assert list(frame.columns) == ["fold", "section", "gene", "model", "truth", "metric", "value"]
    assert not frame.duplicated(["section", "gene", "model", "truth", "metric"]).any()
    assert frame.groupby("fold")["section"].unique().map(list).to_dict() == {1: ["A"], 2: ["B"], 3: ["C"]}
    assert table.obs["nh2st_cv_fold"].astype(int).to_numpy().tolist() == np.repeat([1, 2, 3], 16).tolist()
    assert np.isfinite(layer(sdata)).all()
    means = frame.query("metric == 'mse' and truth == 'raw'").groupby(["section", frame["gene"] == ""])["value"].mean()
    np.testing.assert_allclose(means.xs(True, level=1), means.xs(False, level=1))


def test_counts_of_a_section_have_no_part_in_its_predictions(make_sdata, cross_validate):
    sdata, other = (make_sdata(SECTIONS, side=4) for _ in range(2))
    genes = list(sdata["table"].var_names)
    set_counts(other, lambda counts: counts.__setitem__(of(other, "C"), counts[of(other, "C")][::-1, ::-1]))
    frames = [cross_validate(data, genes=genes, baselines=True) for data in (sdata, other)]
    keys = sdata["table"].uns["nh2st"]["nh2st_cv"]["layers"]
    assert set(frames[0]["model"]) == {"model", *BASELINES}
    assert keys[3:5] == ["nh2st_cv_ridge", "nh2st_cv_ridge_neighbours"]
    for key in keys:
        first, second = (layer(data, key) for data in (sdata, other))
        np.testing.assert_array_equal(first[of(sdata, "C")], second[of(sdata, "C")])
        assert (np.abs(first - second).max(axis=1)[~of(sdata, "C")] > 1e-3).all()


def test_panel_is_chosen_on_training_spots(sdata, cross_validate):
    set_counts(sdata, lambda counts: counts.__setitem__((of(sdata, "C"), 7), 500))
    frame = cross_validate(sdata, genes=3)
    chosen = {fold: set(part["gene"]) - {""} for fold, part in frame.groupby("fold")}
    assert "gene7" in chosen[1] & chosen[2]
    assert "gene7" not in chosen[3]
    missing = np.isnan(layer(sdata)[:, 7])
    np.testing.assert_array_equal(missing, of(sdata, "C"))
    union = set().union(*chosen.values())
    assert set(sdata["table"].var_names[sdata["table"].var["nh2st_cv_predicted"]]) == union
    assert list(sdata["table"].uns["nh2st"]["nh2st_cv"]["folds"]["3"]["test_groups"]) == ["donor2"]


def test_groups_are_joined_in_folds(make_sdata, cross_validate):
    sdata = make_sdata(("A", "B", "C", "D"), side=3)
    frame = cross_validate(sdata, genes=["gene0"], groups={"A": "p", "B": "q", "C": "p", "D": "r"}, n_folds=2)
    assert frame.groupby("fold")["section"].unique().map(set).to_dict() in (
        {1: {"A", "C"}, 2: {"B", "D"}},
        {1: {"B", "D"}, 2: {"A", "C"}},
    )


def test_several_donors_in_a_section(make_sdata, cross_validate):
    sdata = make_sdata(("A",), side=8)
    table = sdata["table"]
    table.obs["patient"] = np.where(table.obs["array_col"] < 4, "p", "q")
    frame = cross_validate(sdata, groups="patient", genes=["gene0", "gene1"])
    assert table.obs["nh2st_cv_fold"].astype(str).tolist() == np.where(table.obs["patient"] == "p", "1", "2").tolist()
    # A patch of 32 px and a neighbour at 40 px keep the adjacent column out of training.
    folds = table.uns["nh2st"]["nh2st_cv"]["folds"]
    assert [folds[name]["training_spots"] for name in "12"] == [24, 24]
    assert set(zip(frame["fold"], frame["section"], strict=True)) == {(1, "A"), (2, "A")}


def test_single_donor_gives_spatial_blocks(make_sdata, cross_validate, caplog):
    sdata = make_sdata(("A", "B"), side=8)
    frame = cross_validate(sdata, groups={"A": "p", "B": "p"}, n_folds=2, genes=["gene0", "gene1"], target="paper")
    assert "All spots are of one group (p)" in caplog.text
    assert "optimistic" in caplog.text
    folds = sdata["table"].uns["nh2st"]["nh2st_cv"]["folds"]
    assert [(fold["test_sections"], fold["training_spots"]) for fold in folds.values()] == [(["A", "B"], 48)] * 2
    assert sdata["table"].obs["nh2st_cv_fold"].value_counts().to_dict() == {"1": 64, "2": 64}
    assert set(frame["fold"]) == {1, 2}


def test_smoothed_target_knows_no_test_spot(make_sdata, cross_validate):
    layers = []
    for change in (False, True):
        sdata = make_sdata(("A",), side=8)
        if change:
            left = (sdata["table"].obs["array_col"] < 4).to_numpy()
            set_counts(sdata, lambda counts, left=left: counts.__setitem__(left, counts[left] + 7))
        sdata["table"].obs["side"] = np.where(sdata["table"].obs["array_col"] < 4, "left", "right")
        cross_validate(sdata, groups="side", genes=["gene0", "gene5"], target="paper")
        layers.append(layer(sdata))
    left = (sdata["table"].obs["side"] == "left").to_numpy()
    np.testing.assert_array_equal(layers[0][left], layers[1][left])
    assert (layers[0][~left][:, [0, 5]] != layers[1][~left][:, [0, 5]]).all()


def test_patches_are_encoded_once_for_all_folds(sdata, cross_validate, genes, monkeypatch):
    monkeypatch.setattr(nh.settings, "cache_limit", 0)
    encoded, forward = [], Encoder.forward

    def counting(self, images):
        encoded.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Encoder, "forward", counting)
    cross_validate(sdata, genes=genes, fine_tune="none", max_epochs=2)
    assert sum(number for number in encoded if number > 1) == 48
    assert np.isfinite(layer(sdata)).all()


def test_settings_are_chosen_within_the_training_spots(make_sdata, cross_validate, caplog):
    sdata = make_sdata(SECTIONS, side=3)
    settings = {"idle": {"learning_rate": 1e-9}, "learning": {"learning_rate": 1e-2, "max_epochs": 4}}
    shared = {"genes": ["gene0", "gene1", "gene5"], "fine_tune": "none"}
    cross_validate(sdata, settings=settings, **shared)
    nested = layer(sdata)
    folds = sdata["table"].uns["nh2st"]["nh2st_cv"]["folds"]
    for record in folds.values():
        assert record["candidates"] == ["idle", "learning"]
        assert record["setting"] == record["candidates"][int(np.argmax(record["scores"]))]
    assert "over 2 inner folds" in caplog.text
    cross_validate(sdata, **shared, **settings[folds["2"]["setting"]])
    np.testing.assert_allclose(nested[of(sdata, "B")], layer(sdata)[of(sdata, "B")], atol=1e-6)


def test_what_is_written_is_read_by_others_and_survives_zarr(sdata, cross_validate, genes, tmp_path, by_gene):
    cross_validate(sdata, genes=genes[:4], baselines=True, settings={"a/b": {"learning_rate": 1e-4}})
    sdata.write(tmp_path / "sections.zarr")
    again = read_zarr(tmp_path / "sections.zarr")
    record = again["table"].uns["nh2st"]["nh2st_cv"]
    assert list(record["genes"]) == genes[:4]
    assert record["folds"]["1"]["setting"] == "a/b"
    for key in record["layers"]:
        predicted = nh.get.predicted(again, key)
        np.testing.assert_array_equal(predicted.X, layer(sdata, key)[:, :4])
    frame = by_gene(nh.tl.evaluate(again, "nh2st_cv")).query("model == 'ridge' and truth == 'raw'")
    assert np.isfinite(frame["pearson"]).any()
    axes = nh.pl.spatial_genes(again, ["gene0"], key="nh2st_cv_ridge", sections=["B"], show=False)
    assert "predicted (PCC" in np.ravel(axes)[-1].get_title(loc="left")


@pytest.mark.parametrize(
    "settings",
    [{"variant": "paper", "fine_tune": 1}, {"variant": "paper", "fine_tune": "none"}, {"variant": "context"}],
)
def test_fine_tuned_linear_head_is_the_published_network_without_its_losses(sdata, cross_validate, genes, settings):
    chosen = settings | {"genes": genes, "baselines": "fine-tuned"}
    if settings["variant"] == "context":
        chosen["network"] = {"components": 4, "members": 1, "patch_scales": [1.0], "width": 32, "heads": 2}
    frame = cross_validate(sdata, **chosen)
    given = layer(sdata, "nh2st_cv_linear_head")

    head = {"map_px": 1, "query_weight": 0.0, "neighbor_weight": 0.0}
    fine_tune = settings["fine_tune"] if settings.get("fine_tune") == 1 else "all"
    epochs = 1 if settings["variant"] == "paper" else 50
    cross_validate(sdata, genes=genes, network=head, fine_tune=fine_tune, max_epochs=epochs)
    np.testing.assert_allclose(given, layer(sdata), atol=1e-5)
    assert frame["model"].unique().tolist() == ["model", *BASELINES, "linear_head"]


def test_further_baselines_are_named_in_any_order(sdata, cross_validate, genes):
    frame = cross_validate(sdata, genes=genes, baselines=["fine-tuned", "2x"])
    models = ["model", *BASELINES, "ridge_context_2x", "linear_head"]
    assert frame["model"].unique().tolist() == models


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("baselines", ["3x", ["2x", "ridge"], 2, None])
def test_unknown_baselines(sdata, cross_validate, baselines):
    with pytest.raises(ValueError, match="baselines must be True, False, or some of '2x', 'fine-tuned', not"):
        cross_validate(sdata, baselines=baselines)


def test_earlier_results_are_replaced(sdata, cross_validate, genes):
    cross_validate(sdata, genes=genes, baselines=True)
    nh.tl.evaluate(sdata, "nh2st_cv")
    cross_validate(sdata, genes=genes[:2], groups={"A": "p", "B": "p", "C": "q"})
    table = sdata["table"]
    assert list(table.layers) == ["nh2st_cv"]
    assert set(table.uns["nh2st"]) == {"nh2st_cv"}
    assert set(table.var) == {"nh2st_cv_predicted"}
    assert table.obs["nh2st_cv_fold"].astype(int).tolist() == [1] * 32 + [2] * 16


def test_several_objects(make_sdata, cross_validate):
    objects = {name: make_sdata(("A",), side=3, seed=seed) for seed, name in enumerate("xyz")}
    for section in objects.values():
        section["table"].obs["good"] = section["table"].obs["instance_id"] != 4
    frame = cross_validate(objects, genes=["gene1"], groups={f"{name}.A": name for name in "xyz"}, spots="good")
    assert set(frame["section"]) == {"x.A", "y.A", "z.A"}
    for number, section in enumerate(objects.values(), start=1):
        assert set(section["table"].obs["nh2st_cv_fold"].dropna()) == {str(number)}
        np.testing.assert_array_equal(np.isnan(layer(section)[:, 1]), ~section["table"].obs["good"])


def test_flagged_genes_are_used_with_a_warning(sdata, cross_validate, caplog):
    nh.pp.select_genes(sdata, genes=["gene6", "gene1"])
    frame = cross_validate(sdata)
    assert set(frame["gene"]) == {"", "gene1", "gene6"}
    assert "If they were chosen with the test sections in view, scores are optimistic" in caplog.text


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_epoch": 3}, TypeError, "Unknown training setting 'max_epoch'. Did you mean 'max_epochs'"),
        ({"init_from": "x"}, ValueError, "init_from= has no place in cross-validation: .*seen the test sections"),
        ({"resume_from": "x"}, ValueError, "resume_from= has no place.*`folder=`"),
        ({"checkpoint_dir": "x"}, ValueError, "checkpoint_dir= has no place.*`folder=`"),
        ({"devices": 2}, ValueError, "devices= has no place.*one device"),
        ({"learning_rate": -1}, ValueError, "learning_rate must be a positive number"),
        ({"fine_tune": 99}, ValueError, "its trained part can be"),
        ({"network": {"heads": 5}}, ValueError, "heads"),
        ({"settings": {}}, ValueError, "settings= is empty"),
        ({"settings": {"a": 3}}, TypeError, "settings= must map names to settings"),
        ({"settings": {"a": {"epochs": 1}}}, TypeError, "Unknown training setting 'epochs' in settings.'a'."),
        ({"settings": {"a": {"target": "paper"}}}, TypeError, "Unknown training setting 'target' in settings.'a'."),
        ({"settings": {"a": {}, "b": {"max_epochs": 0}}}, ValueError, "max_epochs must be at least 1"),
        ({"target": "mine"}, ValueError, "no target 'mine'"),
        ({"groups": "patient"}, KeyError, "groups='patient' names no column of obs"),
        ({"groups": "holes"}, ValueError, "obs.'holes'. is empty for 2 spots of section 'A'"),
        ({"n_folds": 4}, ValueError, "n_folds=4, but there are 3 groups"),
        ({"n_folds": 1}, ValueError, "n_folds must be at least 2"),
        ({"groups": dict.fromkeys(SECTIONS, "p"), "patch_um": 200}, ValueError, "block 1 of 5 .* lie in the margin"),
        ({"genes": 9}, ValueError, "9 genes were asked for"),
        ({"layer": "raw"}, KeyError, "no layer 'raw'"),
        ({"layer": "empty"}, ValueError, "Section 'A' has no counts.*`layer=`"),
        ({"layer": "logs"}, ValueError, "negative values"),
        ({"key_added": "a b"}, ValueError, "cannot be stored"),
        ({"key_added": "logs"}, ValueError, "was not written by nh2st"),
        ({"key_added": "own"}, ValueError, "obs.'own_fold'. exists and was not written by nh2st"),
        ({"device": "abc"}, ValueError, "device='abc' is unknown"),
    ],
)
def test_arguments_are_checked_before_pixels_are_read(sdata, cross_validate, unchanged, settings, error, message):
    table = sdata["table"]
    table.obs["own_fold"], table.obs["holes"] = 1, table.obs["donor"].astype(object)
    table.obs.iloc[[0, 4], -1] = np.nan
    table.layers["empty"], table.layers["logs"] = table.X * 0, table.X * -0.5
    with unchanged(sdata), pytest.raises(error, match=message):
        cross_validate(sdata, **settings)


@pytest.mark.usefixtures("unread")
def test_test_section_without_genes_of_the_panel(make_sdata, cross_validate):
    objects = [make_sdata(("A",), side=3, n_genes=number, seed=number) for number in (8, 8, 3)]
    with pytest.raises(ValueError, match="5 of the 8 genes chosen.*section '2.A', which is tested.*'gene.*`genes="):
        cross_validate(objects, groups={"0.A": "p", "1.A": "q", "2.A": "r"})
