"""The published network, which predicts each patch by itself."""

from __future__ import annotations

import copy
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nh2st._device import autocast
from nh2st._estimators._baselines import Baselines, fit_baselines
from nh2st._estimators._images import FeatureMaps, Patches, SpotImages
from nh2st._estimators._interface import (
    Encoding,
    Estimator,
    FeaturesOf,
    ModelLike,
    Predicted,
    Run,
    Source,
)
from nh2st._estimators._training_spots import TrainingSpots
from nh2st._inference import Job, maps_of, run
from nh2st._patches import stack_patches
from nh2st._settings import logger
from nh2st.nn import NH2ST, Encoder, NetworkConfig


class PaperEstimator(Estimator):
    """NH2ST as published (MICCAI 2025, arXiv:2506.23827); the encoder may be trained, or left as it is."""

    variant = "paper"
    defaults = {"fine_tune": "all", "max_epochs": 50, "batch_size": 16, "learning_rate": 5e-4}
    early_stopping = True
    training_parts = ("gene_encoder.", "image_hypergraph.", "gene_hypergraph.", "cross_attention.")
    ridge_has_encoder = True

    def build(self, config: NetworkConfig, encoder_weights: str | PathLike[str] | None) -> NH2ST:
        return NH2ST(config, encoder_weights=encoder_weights)

    def read_key(self, network: NH2ST) -> tuple:
        return ("maps", network.config.map_px) if network.encoder.trained == "none" else ()

    def read(self, network: NH2ST, source: Source, encoding: Encoding) -> SpotImages:
        if network.encoder.trained != "none":
            return Patches(stack_patches([section.image for section in source.sections], source.windows))
        logger.info("The encoder is not trained: its feature maps are computed once, without augmentation.")
        device, precision = encoding.place
        of_all = (network, source.sections, source.windows)
        maps = maps_of(*of_all, batch_size=encoding.batch_size, device=device, precision=precision)
        network.cpu()
        return FeatureMaps(maps[0] if len(maps) == 1 else np.concatenate(maps))

    def fit(
        self, start: ModelLike, run: Run, rows: np.ndarray, *, new: bool = True, features: FeaturesOf = None
    ) -> Any:
        spots = run.spots.take(rows)
        if features is not None:
            encoder = _encoder_before_training(start)
            start.baselines = fit_baselines(spots, features(encoder)[rows], encoder)
        if new:
            start.network.set_output_mean(spots.expression[~run.validation].mean(axis=0))
        return run.on(spots).train(start)

    def predict(self, network: NH2ST, spots: TrainingSpots, rows: np.ndarray, encoding: Encoding) -> Predicted:
        members = np.flatnonzero(rows)
        predicted = np.empty((len(members), network.config.n_genes), dtype=np.float32)
        device, precision = encoding.place
        network = network.to(device).eval()
        for first in range(0, len(members), encoding.batch_size):
            part = slice(first, first + encoding.batch_size)
            images = torch.as_tensor(spots.images.values[members[part]]).to(device)
            with torch.inference_mode(), autocast(device, precision):
                predicted[part] = network.predict(images).float().cpu().numpy()
        network.cpu()
        return Predicted(predicted)

    def predict_all(
        self, model: ModelLike, source: Source, encoding: Encoding, *, ridge: bool = False
    ) -> list[Predicted]:
        """Predict patch by patch while they are read; network and ridge see each patch in turn."""
        module = _PatchPrediction(model.network, model.baselines if ridge else None)
        job = Job(module, encoding.batch_size, encoding.device, encoding.precision, order="F")
        # A cluster is done with them in any order.
        rows = dict(run(job, source.sections, source.windows, "predict", encoding.client))
        return [Predicted(*rows[number]) for number in range(len(source.sections))]


def _encoder_before_training(start: ModelLike) -> Encoder:
    """The encoder as it is before training; that of the earlier baselines where a model is fine-tuned."""
    if start.baselines is not None and start.baselines.encoder is not None:
        return start.baselines.encoder
    return copy.deepcopy(start.network.encoder).eval()


class _PatchPrediction(nn.Module):
    """Expression by the network and, with baselines, by the ridge."""

    def __init__(self, network: NH2ST, baselines: Baselines | None) -> None:
        super().__init__()
        self.network, self.baselines = network, baselines
        self.ridge_encoder = None if baselines is None else baselines.encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        prediction = self.network.predict(images)
        if self.baselines is None:
            return (prediction,)
        # In the precision that it was fitted in, except where encoders compute in 8-bit integers.
        with torch.autocast(images.device.type, enabled=False):
            return prediction, self.baselines.ridge(images)
