"""Linear models on what is known of a patch without training: the baselines that every network must beat."""

from __future__ import annotations

from os import PathLike
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from nh2st._estimators._colour_texture import N_STATISTICS, colour_texture
from nh2st._estimators._columns import standardized_within, with_neighbors
from nh2st._estimators._encodings import frozen_features
from nh2st._estimators._images import Features
from nh2st._estimators._interface import (
    Encoding,
    Estimator,
    EstimatorConfig,
    FeaturesOf,
    ModelLike,
    Predicted,
    Run,
    Source,
)
from nh2st._estimators._linear_fit import fit_ridge, inner_folds
from nh2st._estimators._training_spots import TrainingSpots
from nh2st.nn import Encoder, NetworkConfig, create_encoder


class LinearNetwork(nn.Module):
    """A linear map from columns to expression, with the encoder that the columns come from, if one does."""

    coefficients: Tensor
    intercept: Tensor

    def __init__(self, config: NetworkConfig, encoder: Encoder | None, n_columns: int) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.register_buffer("coefficients", torch.zeros(n_columns, config.n_genes))
        self.register_buffer("intercept", torch.zeros(config.n_genes))

    def predict(self, columns: np.ndarray) -> np.ndarray:
        """Expression (n, n_genes), float32, from columns (n, n_columns), float32."""
        return columns @ self.coefficients.numpy() + self.intercept.numpy()

    def with_map(self, coefficients: np.ndarray, intercept: np.ndarray) -> LinearNetwork:
        """The same with another map."""
        network = LinearNetwork(self.config, self.encoder, len(coefficients))
        network.coefficients.copy_(torch.from_numpy(coefficients))
        network.intercept.copy_(torch.from_numpy(intercept))
        return network.eval()


class LinearEstimator(Estimator):
    """Ridge on columns of each spot; its penalty is chosen on the training spots alone."""

    config_class = EstimatorConfig
    patch_scales: ClassVar[tuple[float, ...]] = (1.0,)
    """Sides of the patches that are looked at, as multiples of the patch size."""

    def configure(self, **values: Any) -> NetworkConfig:
        if unused := sorted(values.keys() - {"n_genes", "encoder", "patch_px"}):
            msg = f"{self.variant!r} has no settings of a network ({', '.join(unused)}): leave `network=` out."
            raise ValueError(msg)
        return self.config_class.from_dict({"variant": self.variant, "patch_scales": self.patch_scales, **values})

    def check_fine_tune(self, fine_tune: str | int | None) -> None:
        if fine_tune not in (None, "none"):
            msg = f"{self.variant!r} is linear in what an encoder gives as it is, so that fine_tune must be 'none'."
            raise ValueError(msg)

    def build(self, config: NetworkConfig, encoder_weights: str | PathLike[str] | None) -> LinearNetwork:
        encoder = create_encoder(config.encoder, encoder_weights)
        encoder.map_shape(config.patch_px)
        return LinearNetwork(config, encoder, self.n_columns(encoder.n_features))

    def read_key(self, network: LinearNetwork) -> tuple:
        return ("features in single precision", network.config.patch_scales)

    def read(self, network: LinearNetwork, source: Source, encoding: Encoding) -> Features:
        if network.encoder is None:
            msg = f"{self.variant!r} reads features, but its network has no encoder."
            raise ValueError(msg)
        scales = network.config.patch_scales
        features = [frozen_features(network.encoder, source, encoding.device, scale) for scale in scales]
        return Features(features[0] if len(features) == 1 else np.concatenate(features, axis=1))

    def fit(
        self, start: ModelLike, run: Run, rows: np.ndarray, *, new: bool = True, features: FeaturesOf = None
    ) -> Any:
        """Fit in closed form. Neighbours and sections are those of all spots, whose images are known."""
        spots = run.spots
        folds = inner_folds(spots.coordinates[rows], spots.group[rows], spots.section[rows])
        fitted = fit_ridge(self._columns_of(spots)[rows], spots.expression[rows], folds)
        start.network = start.network.with_map(fitted.coefficients, fitted.intercept)
        return start

    def predict(self, network: LinearNetwork, spots: TrainingSpots, rows: np.ndarray, encoding: Encoding) -> Predicted:
        return Predicted(network.predict(self._columns_of(spots)[rows]))

    def n_columns(self, n_features: int) -> int:
        """Number of columns, from the number of features of the encoder."""
        return n_features

    def columns(self, values: np.ndarray, neighbors: np.ndarray, section: np.ndarray) -> np.ndarray:
        """Columns (n, n_columns), float32, of what was read (n, n_values) of all spots."""
        return values

    def _columns_of(self, spots: TrainingSpots) -> np.ndarray:
        return self.columns(spots.images.values, spots.neighbors, spots.section)


class PixelEstimator(LinearEstimator):
    """A linear model that needs no encoder."""

    def build(self, config: NetworkConfig, encoder_weights: str | PathLike[str] | None) -> LinearNetwork:
        return LinearNetwork(config, None, self.n_columns(0))

    def read_key(self, network: LinearNetwork) -> tuple:
        return (self.variant,)


class TrainingMeanEstimator(PixelEstimator):
    """The mean of the training spots, whatever the image shows."""

    variant = "training_mean"
    title = "training mean"

    def read(self, network: LinearNetwork, source: Source, encoding: Encoding) -> Features:
        return Features(np.empty((sum(map(len, source.windows)), 0), dtype=np.float32))


class ColourTextureEstimator(PixelEstimator):
    """Ridge on colours and textures of the patch (:func:`patch_statistics`)."""

    variant = "colour_texture"
    title = "colour and texture"

    def read(self, network: LinearNetwork, source: Source, encoding: Encoding) -> Features:
        return Features(colour_texture(source.sections, source.windows))

    def n_columns(self, n_features: int) -> int:
        return N_STATISTICS


class RidgeEstimator(LinearEstimator):
    """Ridge on pooled features of the frozen encoder (HEST-1k, arXiv:2406.16192)."""

    variant = "ridge"
    title = "ridge"


class NeighborsEstimator(LinearEstimator):
    """Ridge on the features of a spot beside the mean of those of its neighbours."""

    variant = "ridge_neighbours"
    title = "ridge + neighbours"

    def n_columns(self, n_features: int) -> int:
        return 2 * n_features

    def columns(self, values: np.ndarray, neighbors: np.ndarray, section: np.ndarray) -> np.ndarray:
        return with_neighbors(values, neighbors)


class RidgeContextEstimator(NeighborsEstimator):
    """The same on features that are standardised within each section."""

    variant = "ridge_context"
    title = "ridge + neighbours, standardised"

    def columns(self, values: np.ndarray, neighbors: np.ndarray, section: np.ndarray) -> np.ndarray:
        return standardized_within(super().columns(values, neighbors, section), section)


class RidgeContext2xEstimator(LinearEstimator):
    """The same beside features of patches of twice the side."""

    variant = "ridge_context_2x"
    title = "ridge + neighbours + 2x, standardised"
    patch_scales = (1.0, 2.0)

    def n_columns(self, n_features: int) -> int:
        return 3 * n_features

    def columns(self, values: np.ndarray, neighbors: np.ndarray, section: np.ndarray) -> np.ndarray:
        features, twice_the_side = np.split(values, 2, axis=1)
        both = np.concatenate([with_neighbors(features, neighbors), twice_the_side], axis=1)
        return standardized_within(both, section)
