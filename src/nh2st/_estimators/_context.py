"""The context network: trained on features of a frozen encoder, and its predictions from them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nh2st._device import resolve_device
from nh2st._estimators._baselines import Baselines, fit_baselines
from nh2st._estimators._columns import with_neighbors
from nh2st._estimators._context_labels import LEAST_SPOTS, with_labels
from nh2st._estimators._encodings import context_features
from nh2st._estimators._images import Features, Tokens
from nh2st._estimators._interface import Encoding, Estimator, FeaturesOf, ModelLike, Predicted, Run, Source
from nh2st._estimators._training_spots import TrainingSpots
from nh2st._keys import MAX_EPOCHS
from nh2st._settings import logger
from nh2st._space import neighborhood
from nh2st.nn import ContextNetwork, NetworkConfig, Prediction, collate

if TYPE_CHECKING:
    from nh2st._sections import Section

_BATCH = 4096
_SPOTS_OF_COMPONENTS = 20_000


class ContextEstimator(Estimator):
    """An ensemble that predicts from a spot and its neighbours, with an encoder that stays as it is."""

    variant = "context"
    defaults = {"fine_tune": "none", "max_epochs": MAX_EPOCHS, "batch_size": 64, "learning_rate": 1e-3}
    training_parts = ("genes.", "log_dispersion")

    def check_fine_tune(self, fine_tune: str | int | None) -> None:
        if fine_tune not in (None, "none"):
            msg = (
                "The 'context' network is trained on an encoder that stays as it is, so that fine_tune must be 'none'. "
                "To use an encoder of your own: fine-tune it with variant='paper', save the model, and name its file "
                "in `encoder_weights=`."
            )
            raise ValueError(msg)

    def build(self, config: NetworkConfig, encoder_weights: str | PathLike[str] | None) -> ContextNetwork:
        return ContextNetwork(config, encoder_weights=encoder_weights)

    def read_key(self, network: ContextNetwork) -> tuple:
        return ("features", network.config.patch_scales, network.config.orientations)

    def read(self, network: ContextNetwork, source: Source, encoding: Encoding) -> Features:
        scales = context_features(network, source, encoding)
        return Features(np.concatenate([np.concatenate(features) for features in scales], axis=1))

    def fit(
        self, start: ModelLike, run: Run, rows: np.ndarray, *, new: bool = True, features: FeaturesOf = None
    ) -> Any:
        """Train without the validation spots, for the history and the size of the errors, then on all spots.

        As many epochs each time, as every spot counts where there are few. Of spots that are not among the rows the
        images alone are used, for their section's mean.
        """
        network = start.network
        if new:
            _fit_components(network, run.spots, rows, run.seed)
        spots = with_tokens(network, run.spots).take(rows)
        if features is not None:
            columns = with_neighbors(spots.images.values, spots.neighbors)
            start.baselines = fit_baselines(spots, columns, None, standardize=False)
        held_out = run.validation
        history = _calibrate(start, run.on(spots)) if held_out.any() else None
        labelled = with_labels(start, spots, np.ones(len(spots.section), dtype=bool))
        if history is None and new:
            network.set_residual(network.spread)
        model = run.on(labelled, np.zeros_like(held_out)).train(start)
        if history is not None:
            # Errors of validation spots are in other units than the loss, which is of standardised expression.
            scores = [row["val_pearson"] for row in history]
            model.history = [{**row, "val_pearson": score} for row, score in zip(model.history, scores, strict=False)]
        return model

    def predict(self, network: ContextNetwork, spots: TrainingSpots, rows: np.ndarray, encoding: Encoding) -> Predicted:
        tokens, members = with_tokens(network, spots), np.flatnonzero(rows)
        mean, std = (np.empty((len(members), network.config.n_genes), dtype=np.float32) for _ in range(2))
        for part, prediction in _predict_tokens(network, tokens, members, resolve_device(encoding.device)):
            mean[part], std[part] = (values.float().cpu().numpy() for values in prediction)
        return Predicted(mean, std=std)

    def predict_all(
        self, model: ModelLike, source: Source, encoding: Encoding, *, ridge: bool = False
    ) -> list[Predicted]:
        """Encode all patches, keeping components alone, then predict spots with their neighbourhoods."""
        network = model.network
        tokens = [np.zeros((len(part), network.config.components), dtype=np.float32) for part in source.windows]
        scales = context_features(network, source, encoding, keep=False)
        for scale, features in enumerate(scales):
            for total, part in zip(tokens, features, strict=True):
                total += network.reduction.part(scale, part)
        device = resolve_device("auto" if encoding.client is not None else encoding.device)
        _warn_of_few_spots(network, source.sections)
        neighbors = [neighborhood(section.grid) for section in source.sections]
        baselines = model.baselines if ridge else None
        return [_from_tokens(network, baselines, *pair, device) for pair in zip(tokens, neighbors, strict=True)]


def with_tokens(network: ContextNetwork, spots: TrainingSpots) -> TrainingSpots:
    """Spots with tokens (n, n_components) in place of their features, standardised within their sections."""
    tokens = np.empty((len(spots.section), network.config.components), dtype=np.float32)
    for number in np.unique(spots.section):
        rows = spots.section == number
        tokens[rows] = network.reduction.tokens(_scales(network, spots.images.values[rows]))
    return replace(spots, images=Tokens(tokens))


def _predict_tokens(
    network: ContextNetwork, spots: TrainingSpots, members: np.ndarray, device: torch.device
) -> Iterator[tuple[slice, Prediction]]:
    """Predictions of some spots, by their positions, a few thousand at a time."""
    network.to(device)
    nothing = np.broadcast_to(np.zeros(1, dtype=np.float32), (len(spots.section), network.config.n_genes))
    for first in range(0, len(members), _BATCH):
        part = slice(first, first + _BATCH)
        batch = collate(members[part], spots.neighbors, spots.images.values, nothing).to(device)
        yield part, network.predict_with_std(batch)
    network.cpu()


def _from_tokens(
    network: ContextNetwork,
    baselines: Baselines | None,
    tokens: np.ndarray,
    neighbors: np.ndarray,
    device: torch.device,
) -> Predicted:
    shape = (len(tokens), network.config.n_genes)
    mean, std = (np.empty(shape, dtype=np.float32, order="F") for _ in range(2))
    nothing = np.broadcast_to(np.zeros(1, dtype=np.float32), shape)
    places, numbers = np.zeros((len(tokens), 2)), np.zeros(len(tokens), dtype=np.int64)
    spots = TrainingSpots(Tokens(tokens), nothing, nothing, neighbors, places, numbers, numbers, places[:, 0])
    for part, prediction in _predict_tokens(network, spots, np.arange(len(tokens)), device):
        mean[part], std[part] = (values.float().cpu().numpy() for values in prediction)
    if baselines is None:
        return Predicted(mean, std=std)
    ridge = baselines.linear(torch.from_numpy(with_neighbors(tokens, neighbors))).numpy()
    return Predicted(mean, ridge, std)


def _scales(network: ContextNetwork, features: np.ndarray) -> list[np.ndarray]:
    return np.split(features, len(network.config.patch_scales), axis=1)


def _warn_of_few_spots(network: ContextNetwork, sections: Sequence[Section]) -> None:
    """Say of which sections too few spots are there to know what is common to all of them."""
    if network.config.normalize == "none":
        return
    for section in sections:
        if len(section.rows) < LEAST_SPOTS:
            logger.warning(
                "Section %r has %d spots: features are taken relative to their mean, which says little here. Give the "
                "whole section, or train with network={'normalize': 'none'}.",
                section.name,
                len(section.rows),
            )


def _fit_components(network: ContextNetwork, spots: TrainingSpots, rows: np.ndarray, seed: int) -> None:
    """Find the components on the training spots, a sample of them where there are many."""
    chosen = np.flatnonzero(rows)
    if len(chosen) > _SPOTS_OF_COMPONENTS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, _SPOTS_OF_COMPONENTS, replace=False))
    sections = [np.flatnonzero(spots.section == number) for number in np.unique(spots.section[chosen])]
    features = [_scales(network, spots.images.values[section]) for section in sections]
    network.reduction.fit(features, [np.flatnonzero(np.isin(section, chosen)) for section in sections])


def _calibrate(start: ModelLike, run: Run) -> list[dict[str, float]]:
    """Train without the validation spots; set the size of the errors there, and give back the history."""
    spots = run.spots
    with tempfile.TemporaryDirectory(prefix="nh2st-") as folder:
        logger.info("The network is first trained without the validation spots, then on all.")
        labelled = with_labels(start, spots, ~run.validation)
        trial = run.on(labelled).trial(Path(folder)).train(start)
    network = trial.network
    members = np.flatnonzero(run.validation)
    network.set_residual(torch.zeros(network.config.n_genes))
    squared = np.zeros(network.config.n_genes)
    for part, prediction in _predict_tokens(network, spots, members, torch.device("cpu")):
        error = (prediction.mean.numpy() - spots.expression[members[part]]) ** 2
        squared += (error - prediction.std.numpy() ** 2).sum(axis=0)
    residual = np.sqrt(np.maximum(squared / len(members), 0))
    start.network.set_residual(torch.from_numpy(residual).float())
    return trial.history
