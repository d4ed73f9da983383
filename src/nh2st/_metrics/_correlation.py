"""Correlation of measured and predicted expression over spots, and of the genes with each other."""

from __future__ import annotations

import numpy as np

from nh2st._metrics._blocks import blocks


def pearson(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column of two (n, n_genes) arrays; NaN where a column is constant."""
    of_measured, norm_m = centered(measured)
    of_predicted, norm_p = centered(predicted)
    with np.errstate(invalid="ignore"):
        correlation = np.einsum("ng,ng->g", of_measured, of_predicted) / (norm_m * norm_p)
    return np.clip(correlation, -1, 1)


def gene_correlation_agreement(measured: np.ndarray, predicted: np.ndarray) -> float:
    """Pearson correlation of the correlations between genes in two (n, n_genes) arrays.

    Each pair of genes counts once; genes that are constant in either array are left out. NaN where fewer than three
    genes remain.
    """
    correlations = [_between_genes(values) for values in (measured, predicted)]
    varying = np.all([np.isfinite(np.diag(correlation)) for correlation in correlations], axis=0)
    if varying.sum() < 3:
        return float("nan")
    upper = np.triu_indices(int(varying.sum()), k=1)
    between = [correlation[np.ix_(varying, varying)][upper][:, None] for correlation in correlations]
    return float(pearson(*between)[0])


def _between_genes(values: np.ndarray) -> np.ndarray:
    """Correlations (n_genes, n_genes) of columns with each other; NaN for constant ones."""
    n_spots, n_genes = values.shape
    mean = values.mean(axis=0, dtype=np.float64)
    products = np.zeros((n_genes, n_genes))
    for rows in blocks(n_genes, n_spots):
        deviations = values[rows] - mean
        products += deviations.T @ deviations
    norm = _norm_or_nan(np.sqrt(np.diag(products)), values)
    return products / np.outer(norm, norm)


def centered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns less their means, and their norms; the norm of a constant column is NaN."""
    values = values.astype(np.float64)
    deviations = values - values.mean(axis=0)
    return deviations, _norm_or_nan(np.linalg.norm(deviations, axis=0), values)


def _norm_or_nan(norm: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Norms (n_genes,) of the columns' deviations; NaN of constant ones."""
    # Rounding leaves a constant column with a tiny norm, whose correlation would be noise.
    largest = np.maximum(values.max(axis=0, initial=0), -values.min(axis=0, initial=0))
    return np.where(norm > 1e-6 * np.sqrt(len(values)) * largest, norm, np.nan)
