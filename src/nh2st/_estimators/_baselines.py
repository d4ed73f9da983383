"""What a model carries to be compared with: the training mean, and a linear model on frozen features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nh2st._estimators._linear_fit import fit_ridge, inner_folds
from nh2st._estimators._training_spots import TrainingSpots
from nh2st.nn import Encoder


@dataclass
class Baselines:
    """Two predictors fitted on the training spots of a model.

    `mean` (n_genes,) is every gene's training mean. The ridge predictor is linear in the pooled features of the encoder
    as it was before training: `features @ coefficients + intercept`, with `coefficients` (n_features, n_genes). That of
    a context network has no encoder: it is linear in the network's tokens beside the mean of those of the neighbours.

    Examples
    --------
    >>> import torch
    >>> from nh2st.models import Baselines
    >>> baselines = Baselines(torch.zeros(2), torch.ones(3, 2), torch.zeros(2), encoder=None)
    >>> baselines.linear(torch.ones(1, 3))
    tensor([[3., 3.]])
    """

    mean: Tensor
    coefficients: Tensor
    intercept: Tensor
    encoder: Encoder | None

    @torch.inference_mode()
    def ridge(self, images: Tensor) -> Tensor:
        """Ridge prediction for uint8 patches, shape (n, n_genes)."""
        if self.encoder is None:
            msg = "This baseline is linear in tokens, not in what an encoder makes of images."
            raise ValueError(msg)
        return self.linear(self.encoder.features(images).float())

    def linear(self, features: Tensor) -> Tensor:
        """Ridge prediction from features (n, n_features), shape (n, n_genes)."""
        return features @ self.coefficients.to(features.device) + self.intercept.to(features.device)


def fit_baselines(
    spots: TrainingSpots, features: np.ndarray, encoder: Encoder | None, *, standardize: bool = True
) -> Baselines:
    """Training mean, and PCA + ridge on features (n, n_features) of the training spots.

    The penalty of the ridge is chosen by cross-validation over sections (over halves of a single section).
    """
    folds = inner_folds(spots.coordinates, spots.section)
    ridge = fit_ridge(features, spots.expression, folds, standardize=standardize)
    return Baselines(
        mean=torch.from_numpy(spots.expression.mean(axis=0, dtype=np.float64)).float(),
        coefficients=torch.from_numpy(ridge.coefficients).float(),
        intercept=torch.from_numpy(ridge.intercept).float(),
        encoder=encoder,
    )
