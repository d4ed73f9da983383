"""Agreement of measured and predicted expression within one section: arrays in, scores out."""

from __future__ import annotations

from nh2st._metrics._blocks import blocks
from nh2st._metrics._ceiling import noise_ceiling
from nh2st._metrics._correlation import gene_correlation_agreement, pearson
from nh2st._metrics._detection import auc
from nh2st._metrics._score import METRICS, Truth, gene_metrics, score
from nh2st._metrics._spatial import morans_i, overlap_of_best
from nh2st._metrics._structure import ssim, ssim_windows
from nh2st._metrics._subsets import best_genes, mean_over_genes, median_over_genes, top_size

__all__ = [
    "METRICS",
    "Truth",
    "auc",
    "best_genes",
    "blocks",
    "gene_correlation_agreement",
    "gene_metrics",
    "mean_over_genes",
    "median_over_genes",
    "morans_i",
    "noise_ceiling",
    "overlap_of_best",
    "pearson",
    "score",
    "ssim",
    "top_size",
    "ssim_windows",
]
