"""Paired comparison of two models over genes and sections."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

import nh2st as nh


def tidy(values: dict[str, dict[str, list[float]]], metric: str = "pearson", **labels: object) -> pd.DataFrame:
    """Scores by model and section, each a list over genes; with the mean over genes of each section."""
    frames = [
        pd.DataFrame({"section": section, "gene": [*map("g{}".format, range(len(row))), ""], "model": model}).assign(
            value=[*row, np.nanmean(row)], truth="raw", metric=metric, **labels
        )
        for model, sections in values.items()
        for section, row in sections.items()
    ]
    return pd.concat(frames, ignore_index=True)


@pytest.fixture
def values() -> dict[str, dict[str, list[float]]]:
    rng = np.random.default_rng(0)
    ridge = {section: rng.normal(0.2, 0.1, 40) for section in ("A", "B", "C")}
    model = {section: row + rng.normal(0.03, 0.02, 40) for section, row in ridge.items()}
    return {name: {key: row.tolist() for key, row in of.items()} for name, of in (("model", model), ("ridge", ridge))}


def test_differences_of_each_section_and_of_all(values):
    frame = nh.tl.compare(tidy(values))
    assert list(frame.index) == ["A", "B", "C", "all"]
    differences = {name: np.subtract(values["model"][name], values["ridge"][name]) for name in "ABC"}
    for name, difference in differences.items():
        row = frame.loc[name]
        assert row["difference"] == pytest.approx(difference.mean())
        assert row["model"] == pytest.approx(np.mean(values["model"][name]))
        assert row["improved"] == pytest.approx((difference > 0).mean())
        assert row["p_value"] == pytest.approx(wilcoxon(difference).pvalue)
        # The percentile interval of a mean of 40 nearly normal values.
        mean, half = difference.mean(), 1.96 * difference.std() / np.sqrt(40)
        np.testing.assert_allclose([row["low"], row["high"]], [mean - half, mean + half], atol=4e-4)
    both = frame.loc["all"]
    assert both["difference"] == pytest.approx(np.mean([difference.mean() for difference in differences.values()]))
    assert both["p_value"] == pytest.approx(wilcoxon(np.mean(list(differences.values()), axis=0)).pvalue)
    assert both[["n_sections", "n_genes", "n_undefined"]].tolist() == [3, 40, 0]


def test_interval_covers_sections_that_disagree():
    same = {"ridge": {name: [0.1] * 20 for name in "ABCD"}}
    model = {"model": {name: [0.1 + shift] * 20 for name, shift in zip("ABCD", (0.3, -0.1, 0.2, 0.0), strict=True)}}
    both = nh.tl.compare(tidy(same | model), n_bootstrap=20_000).loc["all"]
    # Means of four draws from the sections' differences, of which 2.5 % lie beyond.
    assert both["difference"] == pytest.approx(0.1)
    assert both["low"] == pytest.approx(-0.05, abs=0.03)
    assert both["high"] == pytest.approx(0.25, abs=0.03)


def test_undefined_genes_are_left_out_in_pairs(values):
    values["model"]["A"][3] = values["ridge"]["A"][5] = values["ridge"]["B"][5] = np.nan
    frame = nh.tl.compare(tidy(values))
    assert frame["n_genes"].tolist() == [38, 39, 40, 40]
    assert frame["n_undefined"].tolist() == [2, 1, 0, 3]
    kept = [number for number in range(40) if number not in (3, 5)]
    expected = np.subtract(values["model"]["A"], values["ridge"]["A"])[kept].mean()
    assert frame.loc["A", "difference"] == pytest.approx(expected)


def test_seeds_are_averaged_first(values):
    other = {name: {key: (np.array(row) + 0.1).tolist() for key, row in of.items()} for name, of in values.items()}
    mean = {name: {key: (np.array(row) + 0.05).tolist() for key, row in of.items()} for name, of in values.items()}
    seeds = pd.concat([tidy(values, seed=0), tidy(other, seed=1)])
    pd.testing.assert_frame_equal(nh.tl.compare(seeds), nh.tl.compare(tidy(mean)))
    with pytest.raises(ValueError, match="given twice.*column `seed`"):
        nh.tl.compare(seeds.drop(columns="seed"))


def test_errors_improve_downwards(values):
    frame = nh.tl.compare(tidy(values, metric="mse"), metric="mse")
    assert (frame["difference"] > 0).all()
    assert (frame["improved"] < 0.2).all()


def test_same_scores_do_not_differ(values):
    row = nh.tl.compare(tidy(values), "ridge", "ridge").loc["all"]
    assert row[["difference", "low", "high", "improved", "p_value"]].tolist() == [0, 0, 0, 0, 1]


def test_seed_decides(values):
    first, again, other = (nh.tl.compare(tidy(values), n_bootstrap=100, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert (first["low"] != other["low"]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "network"}, KeyError, "no model 'network' that scores each gene; there are: 'model', 'ridge'"),
        ({"metric": "svg_overlap"}, KeyError, "no metric 'svg_overlap' that scores each gene; there are: 'pearson'"),
        ({"truth": "smoothed"}, KeyError, "no truth 'smoothed'"),
        ({"n_bootstrap": 0}, ValueError, "n_bootstrap must be at least 1"),
    ],
)
def test_what_cannot_be_compared(values, arguments, error, message):
    with pytest.raises(error, match=message):
        nh.tl.compare(tidy(values), **arguments)


def test_scores_read_from_a_file(values, tmp_path):
    tidy(values).to_csv(tmp_path / "scores.csv", index=False)
    pd.testing.assert_frame_equal(nh.tl.compare(pd.read_csv(tmp_path / "scores.csv")), nh.tl.compare(tidy(values)))


def test_tables_of_something_else(values):
    with pytest.raises(KeyError, match="lacks the columns 'metric', 'value'.*cross_validate.*evaluate"):
        nh.tl.compare(tidy(values).drop(columns=["metric", "value"]))
    nothing = {"model": {"A": [np.nan, 0.1]}, "ridge": {"A": [0.2, np.nan]}}
    with pytest.raises(ValueError, match="No gene has a defined 'pearson' of both"):
        nh.tl.compare(tidy(nothing))
