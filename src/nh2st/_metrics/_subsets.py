"""Summaries over genes, from which undefined values are left out, and subsets of genes."""

from __future__ import annotations

import numpy as np

_TOP_GENES = 50
_TOP_SHARE = 5


def top_size(n_genes: int) -> int:
    """Number of genes that are called the top ones of a panel: 50, a fifth of panels under 250, at least one."""
    return min(_TOP_GENES, max(1, n_genes // _TOP_SHARE))


def best_genes(scores: np.ndarray, n_genes: int) -> np.ndarray:
    """Positions of the highest scores, best first; undefined ones are never among them."""
    defined = np.flatnonzero(np.isfinite(scores))
    return defined[np.argsort(-scores[defined], kind="stable")][:n_genes]


def mean_over_genes(values: np.ndarray) -> float:
    """Mean over the genes for which the metric is defined; NaN where there are none."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def median_over_genes(values: np.ndarray) -> float:
    """Median over the genes for which the metric is defined; NaN where there are none."""
    defined = values[np.isfinite(values)]
    return float(np.median(defined)) if len(defined) else float("nan")
