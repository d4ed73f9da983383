from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr, rankdata, spearmanr
from skimage.metrics import structural_similarity
from sklearn.metrics import mean_absolute_error, mean_squared_error, roc_auc_score

from nh2st._metrics import (
    METRICS,
    Truth,
    auc,
    best_genes,
    gene_correlation_agreement,
    gene_metrics,
    mean_over_genes,
    morans_i,
    noise_ceiling,
    overlap_of_best,
    pearson,
    score,
    ssim,
    ssim_windows,
    top_size,
)

numbers = st.floats(-1e3, 1e3, allow_nan=False, width=32)
columns = arrays(np.float64, (12, 2), elements=numbers)
labels = arrays(np.bool_, 12)
repeatable = settings(max_examples=60, deadline=None, derandomize=True)

SQUARE = np.array([1.0, 1.0])
HEXAGONAL = np.array([np.sqrt(3) / 2, 0.5])


def square_array(side: int) -> np.ndarray:
    return np.column_stack(np.divmod(np.arange(side * side), side))


def maps(n: int, n_genes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Measured values, and predictions that follow them."""
    rng = np.random.default_rng(seed)
    measured = rng.gamma(2.0, size=(n, n_genes))
    return measured, 0.5 * measured + rng.random((n, n_genes))


def ring(n: int) -> csr_matrix:
    """Each spot between two neighbours."""
    return csr_matrix(np.roll(np.eye(n), 1, axis=1) + np.roll(np.eye(n), -1, axis=1))


@repeatable
@given(columns)
def test_correlations_agree_with_scipy(values):
    measured, predicted = values[:, :1], values[:, 1:]
    if min(np.ptp(measured), np.ptp(predicted)) < 1e-2:
        return
    assert pearson(measured, predicted)[0] == pytest.approx(pearsonr(*values.T).statistic, abs=1e-6)
    found = gene_metrics(Truth(measured), predicted)
    assert found["spearman"][0] == pytest.approx(spearmanr(*values.T).statistic, abs=1e-9)
    assert -1 <= pearson(measured, predicted)[0] <= 1


def test_columns_in_blocks_are_scored_as_alone(monkeypatch):
    rng = np.random.default_rng(0)
    measured, predicted = rng.random((2, 36, 7))
    measured[:, 3] = 0.5
    graph, window = ring(36), ssim_windows(square_array(6), SQUARE)
    counts, others = csr_matrix(rng.poisson(2, (36, 7)).astype(float)), np.full(36, 5)
    truth = Truth(measured, graph, window, noise_ceiling(counts, others, 1e4))
    whole, of_section = score(truth, predicted, list("abcdefg"))
    monkeypatch.setattr("nh2st._metrics._blocks._VALUES", 80)
    truth = Truth(measured, graph, window, noise_ceiling(counts, others, 1e4))
    in_blocks, also_of_section = score(truth, predicted, list("abcdefg"))
    pd.testing.assert_frame_equal(in_blocks, whole, rtol=1e-9)
    assert also_of_section == pytest.approx(of_section, rel=1e-9, nan_ok=True)


@repeatable
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
def test_constant_predictions(value):
    measured = np.random.default_rng(0).random((100, 1))
    constant = np.full((100, 1), value)
    found = gene_metrics(Truth(measured, ring(100)), constant)
    assert np.isnan([found[name] for name in ("pearson", "spearman", "moran_predicted")]).all()
    assert found["mse"] == pytest.approx(((measured - value) ** 2).mean(), rel=1e-5)
    assert np.isfinite(found["moran_measured"]).all()


def test_genes_that_are_measured_as_constant():
    measured, predicted = maps(100, 1)
    found = gene_metrics(Truth(np.full((100, 1), 0.1), ring(100), ssim_windows(square_array(10), SQUARE)), predicted)
    assert np.isfinite(found["mse"]) & np.isfinite(found["mae"]) & np.isfinite(found["moran_predicted"])
    for name in ("pearson", "spearman", "nrmse", "ssim", "auc", "moran_measured"):
        assert np.isnan(found[name])


def test_small_variation_of_large_values_is_a_correlation():
    measured = np.linspace(0, 1, 20)[:, None]
    assert pearson(measured, 100 + 1e-2 * measured)[0] == pytest.approx(1)


def test_errors_agree_with_scikit_learn():
    measured, predicted = maps(30, 4)
    found = gene_metrics(Truth(measured), predicted)
    for gene in range(4):
        mse = mean_squared_error(measured[:, gene], predicted[:, gene])
        assert found["mse"][gene] == pytest.approx(mse)
        assert found["mae"][gene] == pytest.approx(mean_absolute_error(measured[:, gene], predicted[:, gene]))
        assert found["nrmse"][gene] == pytest.approx(np.sqrt(mse) / np.ptp(measured[:, gene]))


@repeatable
@given(labels, arrays(np.float64, 12, elements=st.integers(0, 5)))
def test_auc_agrees_with_scikit_learn(expressed, predicted):
    found = auc(expressed[:, None], rankdata(predicted)[:, None])[0]
    if expressed.all() or not expressed.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(expressed, predicted))


def test_structural_similarity_agrees_with_scikit_image():
    side = 16
    measured, predicted = maps(side * side, 3)
    near = ssim_windows(square_array(side), SQUARE)
    inside = np.zeros((side, side), dtype=bool)
    inside[3:-3, 3:-3] = True
    for gene in range(3):
        images = [values[:, gene].reshape(side, side) for values in (measured, predicted)]
        _, each = structural_similarity(*images, data_range=np.ptp(measured[:, gene]), full=True)
        # Spots outside lose their windows, so that the mean is over those inside alone.
        of_inside = csr_matrix(near.multiply(inside.ravel()[:, None]))
        found = ssim(measured[:, [gene]], predicted[:, [gene]], of_inside)
        assert found[0] == pytest.approx(each[inside].mean())


def similarity_by_hand(x: np.ndarray, y: np.ndarray, near: np.ndarray, width: float) -> float:
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    found = []
    for window in near:
        if window.sum() >= 9:
            (var_x, both), (_, var_y) = np.cov(x[window], y[window])
            mean_x, mean_y = x[window].mean(), y[window].mean()
            luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
            found.append(luminance * (2 * both + c2) / (var_x + var_y + c2))
    return float(np.mean(found))


@pytest.mark.parametrize("kind", ["square", "hexagonal"])
def test_absent_spots_are_no_zeros(kind):
    array = square_array(9)
    steps, reach = SQUARE, (3, 3)
    if kind == "hexagonal":
        array[:, 1] = 2 * array[:, 1] + array[:, 0] % 2
        steps, reach = HEXAGONAL, (3, 6)
    rng = np.random.default_rng(1)
    array = array[np.sort(rng.permutation(81)[:50])]
    measured, predicted = maps(50, 2)
    near = (np.abs(array[:, None] - array[None]) <= reach).all(axis=2)
    found = ssim(measured, predicted, ssim_windows(array, steps))
    for gene in range(2):
        expected = similarity_by_hand(measured[:, gene], predicted[:, gene], near, np.ptp(measured[:, gene]))
        assert found[gene] == pytest.approx(expected)
    order = rng.permutation(50)
    np.testing.assert_allclose(ssim(measured[order], predicted[order], ssim_windows(array[order], steps)), found)


def test_structural_similarity_of_the_same_is_one():
    measured, predicted = maps(49, 5)
    near = ssim_windows(square_array(7), SQUARE)
    np.testing.assert_allclose(ssim(measured, measured, near), 1)
    assert (ssim(measured, predicted, near) < 1).all()


def test_too_few_spots_have_no_structure():
    measured, predicted = maps(8, 2)
    assert np.isnan(ssim(measured, predicted, ssim_windows(square_array(3)[:8], SQUARE))).all()


def test_morans_i_agrees_with_scanpy_and_squidpy():
    squidpy = pytest.importorskip("squidpy")
    array = square_array(8)
    near = np.abs(array[:, None] - array[None]).sum(axis=2) == 1
    graph = csr_matrix(near.astype(np.float32))
    values = np.column_stack([array[:, 0], maps(64, 3)[0]])
    found = morans_i(values, graph)
    np.testing.assert_allclose(found, sc.metrics.morans_i(graph.astype(float), values.T.copy()), rtol=1e-6)
    adata = AnnData(values, obsp={"spatial_connectivities": graph})
    squidpy.gr.spatial_autocorr(adata, mode="moran", n_perms=None, transformation=False, show_progress_bar=False)
    np.testing.assert_allclose(found, adata.uns["moranI"].loc[adata.var_names, "I"], rtol=1e-5)


def test_morans_i_without_edges():
    assert np.isnan(morans_i(maps(5, 2)[0], csr_matrix((5, 5)))).all()


def test_overlap_of_the_best_genes():
    measured = np.array([0.9, 0.8, np.nan, 0.1, 0.0])
    assert overlap_of_best(measured, measured, 2) == 1
    assert overlap_of_best(measured, np.array([0.9, 0.1, 5.0, 0.2, np.nan]), 2) == 0.5
    assert overlap_of_best(measured, np.array([0.0, np.nan, np.nan, 0.2, 0.3]), 2) == 0
    assert np.isnan(overlap_of_best(measured, np.full(5, np.nan), 2))


def test_agreement_of_the_correlations_between_genes():
    measured, predicted = maps(40, 6)
    measured[:, 1] += measured[:, 0]
    upper = np.triu_indices(5, k=1)
    expected = pearsonr(*(np.corrcoef(values[:, :5].T)[upper] for values in (measured, predicted))).statistic
    predicted[:, 5] = 0.1
    assert gene_correlation_agreement(measured, predicted) == pytest.approx(expected)
    assert gene_correlation_agreement(measured, measured) == pytest.approx(1)
    assert np.isnan(gene_correlation_agreement(measured[:, :2], predicted[:, :2]))


def noisy_counts(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poisson counts (spots, genes) of known expression, the counts of all other genes, and the expected counts."""
    rng = np.random.default_rng(seed)
    shares = np.exp(rng.normal(-6, 1.2, 40)) * np.exp(rng.normal(0, 0.6, (2000, 40)))
    expected = 5000 * shares
    others = rng.poisson(5000 * np.clip(1 - shares.sum(axis=1), 0.2, 1))
    return rng.poisson(expected), others, expected


def test_ceiling_is_the_correlation_of_noise_free_expression_with_counts():
    counts, others, expected = noisy_counts()
    scaled, without_noise = (
        np.log1p(1e4 * values / (values.sum(axis=1) + others)[:, None]) for values in (counts, expected)
    )
    attained = pearson(scaled, without_noise)
    ceiling = noise_ceiling(csr_matrix(counts), others, 1e4)
    assert attained.min() < 0.5 < 0.9 < attained.max()
    np.testing.assert_allclose(ceiling, attained, atol=0.05)
    assert np.abs(ceiling - attained).mean() < 0.02
    np.testing.assert_array_equal(noise_ceiling(csr_matrix(counts), others, 1e4), ceiling)


def test_ceiling_of_pure_noise_is_low():
    counts = np.random.default_rng(0).poisson(2.0, (3000, 20))
    ceiling = noise_ceiling(csr_matrix(counts), np.full(3000, 5000), 1e4)
    assert ceiling.mean() < 0.15


def test_ceiling_of_genes_with_hardly_any_counts():
    counts = np.random.default_rng(0).poisson(2.0, (50, 3))
    counts[:, 0], counts[:, 1] = 0, np.eye(50)[0]
    ceiling = noise_ceiling(csr_matrix(counts), np.full(50, 100), 1e4)
    np.testing.assert_array_equal(np.isnan(ceiling), [True, True, False])


def test_fractions_have_no_ceiling():
    counts = np.random.default_rng(0).poisson(2.0, (50, 3)) * 0.7
    assert np.isnan(noise_ceiling(csr_matrix(counts), np.zeros(50), 1e4)).all()


def test_mean_leaves_undefined_genes_out():
    assert mean_over_genes(np.array([0.5, np.nan, 0.1])) == pytest.approx(0.3)
    assert np.isnan(mean_over_genes(np.array([np.nan])))


@pytest.mark.parametrize(("n_genes", "size"), [(1, 1), (8, 1), (10, 2), (249, 49), (250, 50), (3000, 50)])
def test_number_of_top_genes(n_genes, size):
    assert top_size(n_genes) == size


def test_undefined_scores_are_not_among_the_best():
    assert best_genes(np.array([np.nan, 0.1, np.inf, 0.3, np.nan, 0.3]), 5).tolist() == [3, 5, 1]


def test_scores_of_a_section():
    measured, predicted = maps(64, 10)
    measured = np.maximum(measured - 1, 0)
    predicted[:, 9] = 1
    ceiling = np.linspace(0.5, 1, 10)
    truth = Truth(measured, ring(64), ssim_windows(square_array(8), SQUARE), ceiling)
    sets = {"highly_variable": ["g3", "g9", "g1", "absent"], "spatially_variable": ["absent"]}
    frame, found = score(truth, predicted, [f"g{number}" for number in range(10)], sets)
    assert list(frame) == ["gene", *METRICS]
    correlation = frame["pearson"].to_numpy()
    np.testing.assert_allclose(correlation[:9], pearson(measured, predicted)[:9])
    for name in METRICS:
        assert found[name] == pytest.approx(frame[name].mean())
    assert found["pearson_median"] == pytest.approx(np.median(correlation[:9]))
    assert found["pearson_highly_variable"] == pytest.approx(correlation[[1, 3]].mean())
    assert found["pearson_highly_variable_median"] == pytest.approx(np.median(correlation[[1, 3]]))
    assert np.isnan(found["pearson_spatially_variable"])
    assert found["pearson_best50_optimistic"] == pytest.approx(np.sort(correlation[:9])[-2:].mean())
    assert found["pearson_of_ceiling"] == pytest.approx(correlation[:9].sum() / ceiling[:9].sum())
    assert (found["n_genes"], found["n_genes_undefined"]) == (10, 1)
    truly = frame.nlargest(2, "moran_measured")["gene"]
    assert found["svg_overlap"] == frame.nlargest(2, "moran_predicted")["gene"].isin(truly).mean()


def test_what_is_not_known_of_the_spots_is_undefined():
    measured, predicted = maps(20, 5)
    frame, found = score(Truth(measured), predicted, list("abcde"))
    assert frame[["ssim", "moran_measured", "moran_predicted", "ceiling"]].isna().all(axis=None)
    assert np.isnan(found["pearson_of_ceiling"])
    assert np.isnan(found["svg_overlap"])
    assert frame[["pearson", "spearman", "mse", "mae", "nrmse"]].notna().all(axis=None)


def test_metrics_need_no_torch():
    code = "import sys, nh2st._metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
