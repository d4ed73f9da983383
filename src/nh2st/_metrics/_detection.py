"""Whether predictions tell spots that express a gene from those that do not."""

from __future__ import annotations

import numpy as np


def auc(expressed: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Area under the receiver operating characteristic of each gene, by the Mann-Whitney statistic.

    Parameters
    ----------
    expressed
        Whether a spot expresses a gene, (n, n_genes).
    ranks
        Ranks of the predictions over spots, (n, n_genes); ties share their mean rank.

    Returns
    -------
    Shape (n_genes,): the probability that a spot with the gene is predicted higher than one without, ties counting
    half; NaN where all spots or none express the gene.
    """
    positive = expressed.sum(axis=0)
    pairs = (positive * (len(expressed) - positive)).astype(np.float64)
    above = np.where(expressed, ranks, 0).sum(axis=0) - positive * (positive + 1) / 2
    return np.divide(above, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
