"""Fits the two baselines that every model is shown beside."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

from nh2st._metrics import mean_over_genes, pearson
from nh2st.models._baselines import Baselines
from nh2st.nn import Encoder
from nh2st.tl._prepare import TrainingSpots

_COMPONENTS = 128
_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
_FOLDS = 5


def fit_baselines(spots: TrainingSpots, features: np.ndarray, encoder: Encoder) -> Baselines:
    """Training mean, and PCA + ridge on the pooled features (n, n_features) of the encoder as it is, frozen.

    The penalty of the ridge is chosen by cross-validation over sections (over halves of a single section).
    """
    expression = spots.expression.astype(np.float64)
    penalty = _choose_penalty(features, expression, _folds(spots))
    coefficients, intercept = _linear_map(features, expression, penalty)
    return Baselines(
        mean=torch.from_numpy(expression.mean(axis=0)).float(),
        coefficients=torch.from_numpy(coefficients).float(),
        intercept=torch.from_numpy(intercept).float(),
        encoder=encoder,
    )


def _pca(features: np.ndarray) -> PCA:
    return PCA(min(_COMPONENTS, *features.shape), random_state=0).fit(features)


def _ridge(scores: np.ndarray, expression: np.ndarray, penalty: float) -> Ridge:
    # In units of the scores' variance, so that one grid of penalties suits every encoder.
    return Ridge(alpha=penalty * max(scores.var(axis=0).sum(), 1e-12)).fit(scores, expression)


def _linear_map(features: np.ndarray, expression: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """PCA + ridge as one: coefficients (n_features, n_genes) and intercept (n_genes,)."""
    pca = _pca(features)
    ridge = _ridge(pca.transform(features), expression, penalty)
    coefficients = pca.components_.T @ ridge.coef_.reshape(expression.shape[1], -1).T
    return coefficients, ridge.intercept_ - pca.mean_ @ coefficients


def _folds(spots: TrainingSpots) -> np.ndarray:
    if spots.section.max() > 0:
        return spots.section
    return (spots.coordinates[:, 0] > np.median(spots.coordinates[:, 0])).astype(int)


def _choose_penalty(features: np.ndarray, expression: np.ndarray, folds: np.ndarray) -> float:
    n_folds = min(_FOLDS, len(np.unique(folds)))
    if n_folds < 2:
        return _PENALTIES[-1]
    score = np.zeros(len(_PENALTIES))
    for train, test in GroupKFold(n_folds).split(features, groups=folds):
        pca = _pca(features[train])
        inner, outer = pca.transform(features[train]), pca.transform(features[test])
        for number, penalty in enumerate(_PENALTIES):
            predicted = _ridge(inner, expression[train], penalty).predict(outer).reshape(len(test), -1)
            score[number] += np.nan_to_num(mean_over_genes(pearson(expression[test], predicted)))
    return _PENALTIES[int(score.argmax())]
