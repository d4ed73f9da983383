"""Sizes of the errors, in units of the target or of the gene's range."""

from __future__ import annotations

import numpy as np


def errors(measured: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Errors of two (n, n_genes) arrays, each of shape (n_genes,).

    ``mse`` and ``mae`` are the mean squared and the mean absolute error; ``nrmse`` is the root of the mean squared
    error over the range of the measured gene, NaN where that is 0.
    """
    error = predicted.astype(np.float64) - measured
    mse = np.square(error).mean(axis=0)
    return {"mse": mse, "mae": np.abs(error).mean(axis=0), "nrmse": np.sqrt(mse) / spread(measured)}


def spread(measured: np.ndarray) -> np.ndarray:
    """Range of each measured gene; NaN where it is constant."""
    width = np.ptp(measured, axis=0).astype(np.float64)
    return np.where(width > 0, width, np.nan)
