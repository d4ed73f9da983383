"""The correlation that sampling noise of the counts leaves attainable."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, diags

from nh2st._metrics._blocks import blocks
from nh2st._metrics._correlation import pearson

_SPLITS = 10


def noise_ceiling(counts: csr_matrix, others: np.ndarray, target_sum: float, seed: int = 0) -> np.ndarray:
    r"""Highest correlation over spots that a prediction can be expected to have with noisy counts, for each gene.

    Every count is divided at random into two halves (binomial thinning), which are independent given the expression
    where counts are Poisson (Neufeld et al., Biostatistics 25, 2024). The halves are normalised as the target is. From
    their Pearson correlation :math:`r`, mean over ten divisions, the reliability of whole counts is
    :math:`\rho = 2r / (1 + r)` (Spearman and Brown, Br. J. Psychol. 3, 1910), and noise-free expression correlates
    with whole counts by :math:`\sqrt\rho`.

    Parameters
    ----------
    counts
        Counts of the genes, (n, n_genes).
    others
        Counts of each spot that are not in `counts` but that it is scaled over too, shape (n,); 0 where there are none.
    target_sum
        Sum to which the counts of a spot are scaled before the logarithm; its base does not matter.
    seed
        Seed of the divisions.

    Returns
    -------
    Shape (n_genes,): 0 where the halves do not correlate positively; NaN where a half never varies (hardly any counts),
    and for all genes where counts are not whole numbers.
    """
    whole = [np.rint(values).astype(np.int64) for values in (counts.data, others)]
    if not (np.allclose(counts.data, whole[0]) and np.allclose(others, whole[1])):
        return np.full(counts.shape[1], np.nan)
    rng = np.random.default_rng(seed)
    totals, defined = np.zeros((2, counts.shape[1]))
    for _ in range(_SPLITS):
        taken, others_taken = (rng.binomial(values, 0.5) for values in whole)
        halves = (
            _normalised(counts, taken, others_taken, target_sum),
            _normalised(counts, whole[0] - taken, whole[1] - others_taken, target_sum),
        )
        parts = [pearson(*(half[:, columns].toarray() for half in halves)) for columns in blocks(*counts.shape)]
        r = np.concatenate(parts)
        totals += np.nan_to_num(r)
        defined += np.isfinite(r)
    mean = np.divide(totals, defined, out=np.full_like(totals, np.nan), where=defined > 0)
    of_halves = np.clip(mean, 0, 1)
    return np.sqrt(2 * of_halves / (1 + of_halves))


def _normalised(like: csr_matrix, counts: np.ndarray, others: np.ndarray, target_sum: float) -> csc_matrix:
    half = csr_matrix((counts.astype(np.float64), like.indices, like.indptr), shape=like.shape)
    sums = np.asarray(half.sum(axis=1)).ravel() + others
    factors = np.divide(target_sum, sums, out=np.zeros_like(sums), where=sums > 0)
    return csc_matrix((diags(factors) @ half).log1p())
