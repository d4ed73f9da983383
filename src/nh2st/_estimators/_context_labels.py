"""What the context network learns: expression standardised within sections, or what is expected of counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from nh2st._estimators._interface import ModelLike
from nh2st._estimators._training_spots import TrainingSpots

LEAST_SPOTS = 10
"""In a section with fewer training spots, their standard deviation says little."""


def with_labels(model: ModelLike, spots: TrainingSpots, training: np.ndarray) -> TrainingSpots:
    """Spots with their standardised expression and, for count likelihoods, what is expected of the counts.

    Only the boolean `training` (n,) spots get labels; nothing is known of others.

    Level and spread of a gene differ between sections with depth and batch, which no image shows; the network learns
    what remains, and predicts around the mean level over the sections.
    """
    network = model.network
    sections = [training & (spots.section == number) for number in np.unique(spots.section[training])]
    levels = np.stack([spots.expression[rows].mean(axis=0) for rows in sections])
    large = [rows for rows in sections if rows.sum() >= LEAST_SPOTS] or sections
    pooled = np.mean([spots.expression[rows].std(axis=0) for rows in large], axis=0)
    labels = np.zeros_like(spots.expression)
    for rows, level in zip(sections, levels, strict=True):
        spread = spots.expression[rows].std(axis=0) if rows.sum() >= LEAST_SPOTS else pooled
        varies = spread > 0
        labels[rows] = np.where(varies, (spots.expression[rows] - level) / np.where(varies, spread, 1), 0)
    if spots.counts is None or spots.totals is None:
        network.set_output(torch.from_numpy(levels.mean(axis=0)), torch.from_numpy(pooled))
        return replace(spots, labels=labels)
    shares = [_log_shares(spots.counts[rows], spots.totals[rows]) for rows in sections]
    log_expected = np.zeros_like(spots.counts)
    for rows, share in zip(sections, shares, strict=True):
        log_expected[rows] = share + np.log(np.maximum(spots.totals[rows], 1))[:, None]
    network.set_output(torch.from_numpy(np.mean(shares, axis=0)), torch.from_numpy(pooled))
    network.set_count_scale(model.target.target_sum, model.target.log)
    return replace(spots, labels=labels, log_expected=log_expected)


def _log_shares(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Logarithm (n_genes,) of the genes' shares of all counts; half a count is added, as its logarithm is finite."""
    return np.log((counts.sum(axis=0) + 0.5) / max(totals.sum(), 1)).astype(np.float32)
