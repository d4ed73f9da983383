"""Agreement of measured and predicted expression, per gene."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

METRICS = ("pearson", "spearman", "mse", "mae")


def pearson(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column of two (n, n_genes) arrays; NaN where a column is constant."""
    measured = measured.astype(np.float64)
    predicted = predicted.astype(np.float64)
    centered_m = measured - measured.mean(axis=0)
    centered_p = predicted - predicted.mean(axis=0)
    norm_m = np.linalg.norm(centered_m, axis=0)
    norm_p = np.linalg.norm(centered_p, axis=0)
    # Rounding leaves a constant column with a tiny norm, whose correlation would be noise.
    varies = (norm_m > _least_norm(measured)) & (norm_p > _least_norm(predicted))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (centered_m * centered_p).sum(axis=0) / (norm_m * norm_p)
    return np.where(varies, np.clip(correlation, -1, 1), np.nan)


def _least_norm(values: np.ndarray) -> np.ndarray:
    return 1e-6 * np.sqrt(len(values)) * np.abs(values).max(axis=0, initial=0)


def spearman(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Pearson correlation of the ranks (ties share their mean rank)."""
    return pearson(rankdata(measured, axis=0), rankdata(predicted, axis=0))


def gene_metrics(measured: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """All metrics of two (n, n_genes) arrays, each of shape (n_genes,)."""
    error = predicted.astype(np.float64) - measured
    return {
        "pearson": pearson(measured, predicted),
        "spearman": spearman(measured, predicted),
        "mse": (error**2).mean(axis=0),
        "mae": np.abs(error).mean(axis=0),
    }


def mean_over_genes(values: np.ndarray) -> float:
    """Mean over the genes for which the metric is defined; NaN where there are none."""
    defined = np.isfinite(values)
    return float(values[defined].mean()) if defined.any() else float("nan")
