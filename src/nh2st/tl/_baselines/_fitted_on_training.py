"""Fits the two baselines that every model carries."""

from __future__ import annotations

import numpy as np
import torch

from nh2st.models._baselines import Baselines
from nh2st.nn import Encoder
from nh2st.tl._baselines._columns import with_neighbors
from nh2st.tl._baselines._ridge import fit_ridge, inner_folds
from nh2st.tl._training._spots import TrainingSpots


def fit_context_baselines(spots: TrainingSpots, tokens: np.ndarray) -> Baselines:
    """Training mean, and ridge on the context network's tokens (n, n_components) beside those of the neighbours."""
    both = with_neighbors(tokens, spots.neighbors)
    return _baselines(spots, both, None, standardize=False)


def fit_baselines(spots: TrainingSpots, features: np.ndarray, encoder: Encoder) -> Baselines:
    """Training mean, and PCA + ridge on the pooled features (n, n_features) of the encoder as it is, frozen.

    The penalty of the ridge is chosen by cross-validation over sections (over halves of a single section).
    """
    return _baselines(spots, features, encoder)


def _baselines(
    spots: TrainingSpots, features: np.ndarray, encoder: Encoder | None, *, standardize: bool = True
) -> Baselines:
    folds = inner_folds(spots.coordinates, spots.section)
    ridge = fit_ridge(features, spots.expression, folds, standardize=standardize)
    return Baselines(
        mean=torch.from_numpy(spots.expression.mean(axis=0, dtype=np.float64)).float(),
        coefficients=torch.from_numpy(ridge.coefficients).float(),
        intercept=torch.from_numpy(ridge.intercept).float(),
        encoder=encoder,
    )
