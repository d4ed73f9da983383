from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

import nh2st as nh


def evaluated(table, model, ridge=None):
    table.var["nh2st_pearson"] = np.nan
    table.var.iloc[: len(model), table.var.columns.get_loc("nh2st_pearson")] = model
    if ridge is not None:
        table.var["nh2st_ridge_pearson"] = np.nan
        table.var.iloc[: len(ridge), table.var.columns.get_loc("nh2st_ridge_pearson")] = ridge


def model_line(ax):
    (line,) = (curve for curve in ax.lines if str(curve.get_label()).startswith("model"))
    return line


MODEL = np.array([0.1, 0.5, -0.2, np.nan, 0.3])
RIDGE = np.array([0.2, 0.1, -0.1, np.nan, 0.4])


def test_genes_are_ranked_by_the_model_and_ridge_keeps_their_order(predicted):
    evaluated(predicted["table"], MODEL, RIDGE)
    ax = nh.pl.gene_correlation(predicted)
    np.testing.assert_array_equal(model_line(ax).get_xydata(), [[1, 0.5], [2, 0.3], [3, 0.1], [4, -0.2]])
    (ridge,) = ax.collections
    np.testing.assert_array_equal(ridge.get_offsets(), [[1, 0.1], [2, 0.4], [3, 0.2], [4, -0.1]])
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["model, mean 0.175", "ridge, mean 0.150"]
    assert any(np.array_equal(line.get_ydata(), [0, 0]) for line in ax.lines)


def test_the_best_genes_are_named_and_their_names_do_not_overlap(predicted):
    table = predicted["table"]
    evaluated(table, MODEL, RIDGE)
    ax = nh.pl.gene_correlation(predicted, n_labels=3)
    assert [text.get_text() for text in ax.texts] == list(table.var_names[[1, 4, 0]])
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert all(not box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])
    assert not nh.pl.gene_correlation(predicted, n_labels=0).texts


def test_names_stay_clear_of_the_points(predicted):
    evaluated(predicted["table"], np.linspace(0.9, 0.85, 20), np.linspace(0.8, 0.95, 20))
    ax = nh.pl.gene_correlation(predicted)
    ax.figure.draw_without_rendering()
    (ridge,) = ax.collections
    points = np.concatenate(
        [ridge.get_offsets(), *[line.get_xydata() for line in ax.lines if line.get_marker() == "."]]
    )
    on_screen = ax.transData.transform(points)
    for text in ax.texts:
        box = text.get_window_extent()
        assert not any(box.contains(*point) for point in on_screen)


def test_a_model_without_baselines_is_drawn_alone(predicted):
    evaluated(predicted["table"], MODEL)
    ax = nh.pl.gene_correlation(predicted)
    assert not ax.collections
    assert len(ax.get_legend().get_texts()) == 1


def test_correlations_of_several_objects_are_averaged(predicted, predict):
    other = predict(nh.datasets.synthetic(1, spots_per_side=3, n_genes=20))
    evaluated(predicted["table"], [0.4, 0.2])
    evaluated(other["table"], [0.0, np.nan])
    ax = nh.pl.gene_correlation([predicted, other])
    np.testing.assert_allclose(model_line(ax).get_ydata(), [0.2, 0.2])


def test_what_evaluate_writes_is_drawn(predicted):
    table = predicted["table"]
    nh.tl.evaluate(predicted)
    model = model_line(nh.pl.gene_correlation(predicted))
    scaled = np.log1p(1e4 * table.X.toarray() / np.asarray(table.X.sum(axis=1)))
    layer = table.layers["nh2st"].toarray()
    regions = table.obs["region"].to_numpy()
    truth = [
        np.mean([pearsonr(scaled[regions == name, gene], layer[regions == name, gene])[0] for name in ("S1", "S2")])
        for gene in range(11)
    ]
    np.testing.assert_allclose(model.get_ydata(), sorted(truth, reverse=True), atol=1e-5)


def test_what_is_missing_is_named(sdata, predict):
    with pytest.raises(KeyError, match=r"nh\.tl\.predict"):
        nh.pl.gene_correlation(sdata)
    predict(sdata)
    with pytest.raises(KeyError, match=r"nh\.tl\.evaluate\(sdata, 'nh2st'\)"):
        nh.pl.gene_correlation(sdata)
    evaluated(sdata["table"], [np.nan])
    with pytest.raises(ValueError, match="do not vary"):
        nh.pl.gene_correlation(sdata)
