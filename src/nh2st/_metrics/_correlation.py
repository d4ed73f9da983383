"""Correlation of measured and predicted expression over spots, and of the genes with each other."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def pearson(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column of two (n, n_genes) arrays; NaN where a column is constant."""
    of_measured, norm_m = centered(measured)
    of_predicted, norm_p = centered(predicted)
    with np.errstate(invalid="ignore"):
        correlation = np.einsum("ng,ng->g", of_measured, of_predicted) / (norm_m * norm_p)
    return np.clip(correlation, -1, 1)


def spearman(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Pearson correlation of the ranks (ties share their mean rank)."""
    return pearson(rankdata(measured, axis=0), rankdata(predicted, axis=0))


def gene_correlation_agreement(measured: np.ndarray, predicted: np.ndarray) -> float:
    """Pearson correlation of the correlations between genes in two (n, n_genes) arrays.

    Each pair of genes counts once; genes that are constant in either array are left out. NaN where fewer than three
    genes remain.
    """
    pairs = [deviations / norm for deviations, norm in map(centered, (measured, predicted))]
    varying = np.isfinite(pairs[0][0]) & np.isfinite(pairs[1][0])
    if varying.sum() < 3:
        return float("nan")
    upper = np.triu_indices(int(varying.sum()), k=1)
    between = [(values[:, varying].T @ values[:, varying])[upper][:, None] for values in pairs]
    return float(pearson(*between)[0])


def centered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns less their means, and their norms; the norm of a constant column is NaN."""
    values = values.astype(np.float64)
    deviations = values - values.mean(axis=0)
    norm = np.linalg.norm(deviations, axis=0)
    # Rounding leaves a constant column with a tiny norm, whose correlation would be noise.
    least = 1e-6 * np.sqrt(len(values)) * np.abs(values).max(axis=0, initial=0)
    return deviations, np.where(norm > least, norm, np.nan)
