"""All metrics of one section: a row for each gene, and what holds for the section as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.stats import rankdata

from nh2st._metrics._blocks import blocks
from nh2st._metrics._correlation import gene_correlation_agreement, pearson
from nh2st._metrics._detection import auc
from nh2st._metrics._errors import errors
from nh2st._metrics._spatial import morans_i, overlap_of_best
from nh2st._metrics._structure import ssim
from nh2st._metrics._subsets import best_genes, mean_over_genes, median_over_genes, top_size

METRICS = (
    "pearson",
    "spearman",
    "mse",
    "mae",
    "nrmse",
    "ssim",
    "auc",
    "moran_measured",
    "moran_predicted",
    "ceiling",
)
"""Names of what is given for each gene."""


@dataclass(frozen=True)
class Truth:
    """Measured expression of one section, and what the metrics need to know of its spots.

    Attributes
    ----------
    values
        Measured target, (n, n_genes); above 0 where the gene was counted.
    graph
        Neighbouring spots (n, n), for Moran's I; without it that is NaN.
    window
        What :func:`nh2st._metrics.ssim_windows` gives, (n, n), for the structural similarity; without it that is NaN.
    ceiling
        What :func:`nh2st._metrics.noise_ceiling` gives, (n_genes,), for raw truth; NaN without it.
    """

    values: np.ndarray
    graph: csr_matrix | None = None
    window: csr_matrix | None = None
    ceiling: np.ndarray | None = None

    @cached_property
    def ranks(self) -> np.ndarray:
        """Ranks over spots, (n, n_genes)."""
        # Whole and half numbers, which single precision holds exactly where there are not too many.
        exact = np.float32 if len(self.values) < 2**23 else np.float64
        ranks = np.empty(self.values.shape, dtype=exact)
        for columns in blocks(*self.values.shape):
            ranks[:, columns] = rankdata(self.values[:, columns], axis=0)
        return ranks

    @cached_property
    def moran(self) -> np.ndarray:
        """Moran's I of the measured genes, (n_genes,)."""
        parts = [self.morans_i(self.values[:, columns]) for columns in blocks(*self.values.shape)]
        return np.concatenate([np.empty(0), *parts])

    def morans_i(self, values: np.ndarray) -> np.ndarray:
        """Moran's I of some columns (n, k) over the same graph."""
        return _undefined(values) if self.graph is None else morans_i(values, self.graph)


def gene_metrics(truth: Truth, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """All of :data:`METRICS` of predictions (n, n_genes), each of shape (n_genes,)."""
    parts = [_metrics_of(truth, predicted[:, columns], columns) for columns in blocks(*predicted.shape)]
    by_gene = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    ceiling = _undefined(predicted) if truth.ceiling is None else truth.ceiling
    return by_gene | {"moran_measured": truth.moran, "ceiling": ceiling}


def _metrics_of(truth: Truth, predicted: np.ndarray, columns: slice) -> dict[str, np.ndarray]:
    """What there is to compute of the predictions of some genes."""
    measured, ranks = truth.values[:, columns], rankdata(predicted, axis=0)
    return {
        "pearson": pearson(measured, predicted),
        "spearman": pearson(truth.ranks[:, columns], ranks),
        **errors(measured, predicted),
        "ssim": _undefined(measured) if truth.window is None else ssim(measured, predicted, truth.window),
        "auc": auc(measured > 0, ranks),
        "moran_predicted": truth.morans_i(predicted),
    }


def _undefined(values: np.ndarray) -> np.ndarray:
    """NaN for each column."""
    return np.full(values.shape[1], np.nan)


def score(
    truth: Truth,
    predicted: np.ndarray,
    genes: Sequence[str],
    gene_sets: Mapping[str, Sequence[str]] | None = None,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Score predictions of one section.

    Parameters
    ----------
    truth
        What was measured; use the same one for several models, as it keeps what it has computed.
    predicted
        Predictions (n, n_genes).
    genes
        Names of the genes.
    gene_sets
        Genes chosen on training sections, by the name of the set; those that are not among `genes` are left out.

    Returns
    -------
    A frame with a row for each gene and the columns ``gene`` and :data:`METRICS`, and the metrics of the section by
    name: for every one of :data:`METRICS` its mean over the genes for which it is defined, and those of
    :func:`section_metrics`.
    """
    by_gene = gene_metrics(truth, predicted)
    by_gene = {name: by_gene[name] for name in METRICS}
    frame = pd.DataFrame({"gene": list(genes), **by_gene})
    means = {name: mean_over_genes(values) for name, values in by_gene.items()}
    return frame, means | section_metrics(truth, predicted, frame, gene_sets or {})


def section_metrics(
    truth: Truth, predicted: np.ndarray, by_gene: pd.DataFrame, gene_sets: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Metrics of a section that are more than means over its genes.

    ``pearson_median``; mean and median of the correlation over each gene set (``pearson_highly_variable``,
    ``pearson_highly_variable_median``); ``pearson_best50_optimistic``, over the genes that are best in this very
    section; ``pearson_of_ceiling``, the mean correlation over the mean noise ceiling; ``svg_overlap``, the share of the
    top spatially variable genes found again; ``gene_correlation``, how alike genes correlate with each other; and
    ``n_genes``, ``n_genes_undefined``, how many genes there are and for how many the correlation is undefined.
    """
    correlation = by_gene["pearson"].to_numpy()
    n_top = top_size(len(correlation))
    found = {"pearson_median": median_over_genes(correlation)}
    for name in sorted(gene_sets):
        of_set = correlation[by_gene["gene"].isin(list(gene_sets[name])).to_numpy()]
        found[f"pearson_{name}"] = mean_over_genes(of_set)
        found[f"pearson_{name}_median"] = median_over_genes(of_set)
    return found | {
        "pearson_best50_optimistic": mean_over_genes(correlation[best_genes(correlation, n_top)]),
        "pearson_of_ceiling": _share(correlation, by_gene["ceiling"].to_numpy()),
        "svg_overlap": overlap_of_best(truth.moran, by_gene["moran_predicted"].to_numpy(), n_top),
        "gene_correlation": gene_correlation_agreement(truth.values, predicted),
        "n_genes": float(len(correlation)),
        "n_genes_undefined": float(np.isnan(correlation).sum()),
    }


def _share(correlation: np.ndarray, ceiling: np.ndarray) -> float:
    """Mean correlation over mean ceiling: single ceilings near 0 would make a mean of ratios run wild."""
    both = np.isfinite(correlation) & np.isfinite(ceiling)
    total = ceiling[both].sum()
    return float(correlation[both].sum() / total) if total > 0 else float("nan")
