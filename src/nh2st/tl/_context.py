"""Training of the context network on features of a frozen encoder, and its predictions from them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nh2st._settings import logger
from nh2st.models import Model
from nh2st.nn import ContextNetwork, Prediction, collate
from nh2st.tl._baselines import fit_context_baselines
from nh2st.tl._training._loop import Run, fit
from nh2st.tl._training._spots import TrainingSpots
from nh2st.tl._training._validation_split import Split

_BATCH = 4096
_SPOTS_OF_COMPONENTS = 20_000
_LEAST_SPOTS = 10
"""In a section with fewer training spots, their standard deviation says little."""


def train_context(start: Model, run: Run, rows: np.ndarray, *, new: bool, baselines: bool) -> Model:
    """Train on some of the spots.

    The network is first trained without the validation spots, for the history and the size of its errors, and then on
    all spots for as many epochs, as every spot counts where there are few.

    Parameters
    ----------
    start
        The model to start from.
    run
        How and where to train; its `spots` are all spots with their features, its `split` that of the rows alone.
    rows
        Boolean (n,): which spots train or validate. Of others the images alone are used, for their section's mean.
    new
        Whether the components are fitted, as they must be in a new network.
    baselines
        Whether the model gets baselines.
    """
    network = _context_network(start)
    if new:
        _fit_components(network, run.spots, rows, run.schedule.seed)
    spots = replace(run.spots, images=tokens_of(network, run.spots)).take(rows)
    if baselines:
        start.baselines = fit_context_baselines(spots, spots.images)
    tokens = replace(run, spots=spots)
    history = _calibrate(start, tokens) if run.split.validation.any() else None
    everything = Split(np.zeros(len(spots.section), dtype=bool), run.split.description)
    labelled = _with_labels(network, start, spots, ~everything.validation)
    if history is None and new:
        network.set_residual(network.spread)
    model = fit(start, replace(run, spots=labelled, split=everything))
    if history is not None:
        # Errors of validation spots are in other units than the loss, which is of standardised expression.
        scores = [row["val_pearson"] for row in history]
        model.history = [{**row, "val_pearson": score} for row, score in zip(model.history, scores, strict=False)]
    return model


def tokens_of(network: ContextNetwork, spots: TrainingSpots) -> np.ndarray:
    """Tokens (n, n_components) of all spots from their features, standardised within their sections."""
    tokens = np.empty((len(spots.section), network.config.components), dtype=np.float32)
    for number in np.unique(spots.section):
        rows = spots.section == number
        tokens[rows] = network.reduction.tokens(_scales(network, spots.images[rows]))
    return tokens


def predict_tokens(
    network: ContextNetwork, tokens: np.ndarray, neighbors: np.ndarray, members: np.ndarray, device: torch.device
) -> Iterator[tuple[slice, Prediction]]:
    """Predictions of some spots, by their positions, a few thousand at a time."""
    network.to(device)
    nothing = np.broadcast_to(np.zeros(1, dtype=np.float32), (len(tokens), network.config.n_genes))
    for start in range(0, len(members), _BATCH):
        part = slice(start, start + _BATCH)
        batch = collate(members[part], neighbors, tokens, nothing).to(device)
        yield part, network.predict_with_std(batch)
    network.cpu()


def _context_network(model: Model) -> ContextNetwork:
    if not isinstance(model.network, ContextNetwork):
        msg = "Only the context network is trained on features."
        raise TypeError(msg)
    return model.network


def _scales(network: ContextNetwork, features: np.ndarray) -> list[np.ndarray]:
    return np.split(features, len(network.config.patch_scales), axis=1)


def warn_of_few_spots(network: ContextNetwork, names: Sequence[str], sizes: Sequence[int]) -> None:
    """Say of which sections too few spots are there to know what is common to all of them."""
    if network.config.normalize == "none":
        return
    for name, size in zip(names, sizes, strict=True):
        if size < _LEAST_SPOTS:
            logger.warning(
                "Section %r has %d spots: features are taken relative to their mean, which says little here. Give the "
                "whole section, or train with network={'normalize': 'none'}.",
                name,
                size,
            )


def _fit_components(network: ContextNetwork, spots: TrainingSpots, rows: np.ndarray, seed: int) -> None:
    """Find the components on the training spots, a sample of them where there are many."""
    chosen = np.flatnonzero(rows)
    if len(chosen) > _SPOTS_OF_COMPONENTS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, _SPOTS_OF_COMPONENTS, replace=False))
    sections = [np.flatnonzero(spots.section == number) for number in np.unique(spots.section[chosen])]
    features = [_scales(network, spots.images[section]) for section in sections]
    network.reduction.fit(features, [np.flatnonzero(np.isin(section, chosen)) for section in sections])


def _with_labels(network: ContextNetwork, model: Model, spots: TrainingSpots, training: np.ndarray) -> TrainingSpots:
    """Spots with their standardised expression and, for count likelihoods, what is expected of the counts.

    Only the boolean `training` (n,) spots get labels; nothing is known of others.

    Level and spread of a gene differ between sections with depth and batch, which no image shows; the network learns
    what remains, and predicts around the mean level over the sections.
    """
    sections = [training & (spots.section == number) for number in np.unique(spots.section[training])]
    levels = np.stack([spots.expression[rows].mean(axis=0) for rows in sections])
    large = [rows for rows in sections if rows.sum() >= _LEAST_SPOTS] or sections
    pooled = np.mean([spots.expression[rows].std(axis=0) for rows in large], axis=0)
    labels = np.zeros_like(spots.expression)
    for rows, level in zip(sections, levels, strict=True):
        spread = spots.expression[rows].std(axis=0) if rows.sum() >= _LEAST_SPOTS else pooled
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


def _calibrate(start: Model, run: Run) -> list[dict[str, float]]:
    """Train without the validation spots; set the size of the errors there, and give back the history."""
    with tempfile.TemporaryDirectory(prefix="nh2st-") as folder:
        logger.info("The network is first trained without the validation spots, then on all.")
        labelled = _with_labels(_context_network(start), start, run.spots, ~run.split.validation)
        trial = fit(start, replace(run, spots=labelled, folder=Path(folder), resume_from=None, trial=True))
    network, spots = _context_network(trial), run.spots
    members = np.flatnonzero(run.split.validation)
    network.set_residual(torch.zeros(network.config.n_genes))
    squared = np.zeros(network.config.n_genes)
    for part, prediction in predict_tokens(network, spots.images, spots.neighbors, members, torch.device("cpu")):
        error = (prediction.mean.numpy() - spots.expression[members[part]]) ** 2
        squared += (error - prediction.std.numpy() ** 2).sum(axis=0)
    residual = np.sqrt(np.maximum(squared / len(members), 0))
    _context_network(start).set_residual(torch.from_numpy(residual).float())
    return trial.history
