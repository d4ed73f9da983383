"""Spatial pattern of genes: Moran's I, and which genes have the most of it."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from nh2st._metrics._correlation import centered
from nh2st._metrics._subsets import best_genes


def morans_i(values: np.ndarray, graph: csr_matrix) -> np.ndarray:
    r"""Moran's I of each column of a (n, n_genes) array over a graph (n, n); NaN for constants and without edges.

    With weights :math:`w_{ij}` and deviations :math:`z_i` from the mean, :math:`\frac{n}{\sum_{ij} w_{ij}}
    \frac{\sum_{ij} w_{ij} z_i z_j}{\sum_i z_i^2}` (Moran, Biometrika 37, 1950), as in scanpy and squidpy.
    """
    deviations, norm = centered(values)
    if not graph.nnz:
        return np.full_like(norm, np.nan)
    products = np.einsum("ng,ng->g", deviations, graph.astype(np.float64) @ deviations)
    return len(values) / graph.sum(dtype=np.float64) * products / norm**2


def overlap_of_best(measured: np.ndarray, predicted: np.ndarray, n_genes: int) -> float:
    """Share of the `n_genes` genes of highest measured score that are among as many of highest predicted score.

    Both scores have the shape (n_genes,). Undefined ones are among neither; NaN where one has none that is defined.
    """
    truly = best_genes(measured, n_genes)
    supposedly = best_genes(predicted, len(truly))
    if not len(truly) or not len(supposedly):
        return float("nan")
    return len(np.intersect1d(truly, supposedly)) / len(truly)
