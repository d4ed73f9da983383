from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr, spearmanr

from nh2st._metrics import gene_metrics, mean_over_genes, pearson, spearman

numbers = st.floats(-1e3, 1e3, allow_nan=False, width=32)
columns = arrays(np.float64, (12, 2), elements=numbers)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(columns)
def test_correlations_agree_with_scipy(values):
    measured, predicted = values[:, :1], values[:, 1:]
    if min(np.ptp(measured), np.ptp(predicted)) < 1e-2:
        return
    assert pearson(measured, predicted)[0] == pytest.approx(pearsonr(*values.T).statistic, abs=1e-6)
    assert spearman(measured, predicted)[0] == pytest.approx(spearmanr(*values.T).statistic, abs=1e-9)
    assert -1 <= pearson(measured, predicted)[0] <= 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(columns, st.floats(0.1, 100), st.floats(-100, 100))
def test_pearson_ignores_scale_and_shift(values, scale, shift):
    measured, predicted = values[:, :1], values[:, 1:]
    if min(np.ptp(measured), np.ptp(predicted)) < 1e-1:
        return
    plain = pearson(measured, predicted)[0]
    assert pearson(measured, scale * predicted + shift)[0] == pytest.approx(plain, abs=1e-6)
    assert pearson(shift + measured, -scale * predicted)[0] == pytest.approx(-plain, abs=1e-6)
    assert pearson(predicted, measured)[0] == pytest.approx(plain, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 / 3])
def test_constant_columns_have_no_correlation(value):
    measured = np.random.default_rng(0).random((100, 1))
    constant = np.full((100, 1), value)
    found = gene_metrics(measured, constant)
    assert np.isnan([found["pearson"], found["spearman"]]).all()
    assert found["mse"] == pytest.approx(((measured - value) ** 2).mean(), rel=1e-5)
    assert np.isnan(pearson(constant, measured)).all()


def test_small_variation_of_large_values_is_a_correlation():
    measured = np.linspace(0, 1, 20)[:, None]
    assert pearson(measured, 100 + 1e-2 * measured)[0] == pytest.approx(1)


def test_mean_leaves_undefined_genes_out():
    assert mean_over_genes(np.array([0.5, np.nan, 0.1])) == pytest.approx(0.3)
    assert np.isnan(mean_over_genes(np.array([np.nan])))
