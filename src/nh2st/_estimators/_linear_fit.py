"""Principal components and ridge regression as one linear map, its penalty chosen on the training rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.model_selection import GroupKFold

from nh2st._estimators._columns import standardized
from nh2st._metrics import mean_over_genes, pearson

_COMPONENTS = 256
_PENALTIES = 10.0 ** np.arange(4, -2.5, -0.5)
"""Strongest first: that is taken where none is better than another."""
_MOST_FOLDS = 5
_LEAST_ROWS = 2


@dataclass(frozen=True)
class LinearMap:
    """Predictions ``features @ coefficients + intercept``: (n_features, n_genes) and (n_genes,), float64."""

    coefficients: np.ndarray
    intercept: np.ndarray


def fit_ridge(
    features: np.ndarray, expression: np.ndarray, folds: np.ndarray, *, standardize: bool = True
) -> LinearMap:
    """Standardised columns, 256 principal components (or as many as there are), and ridge regression.

    This is the recipe of HEST-Benchmark, but for the penalty: that with the highest mean PCC per gene in
    cross-validation over `folds`, within each of them; the strongest where there is a single one. Penalties are in
    units of the summed variance of the components, so that one grid suits all features.

    Parameters
    ----------
    features
        Training rows (n, n_features).
    expression
        Training rows (n, n_genes).
    folds
        Which group each training row belongs to (n,); groups are not divided.
    standardize
        Whether columns are brought to the same variance; not where they are components, whose variance is telling.

    Raises
    ------
    ValueError
        If there is a single row.

    References
    ----------
    Jaume et al., HEST-1k, NeurIPS 2024 (arXiv:2406.16192).
    """
    if len(features) < _LEAST_ROWS:
        msg = f"The baselines need at least {_LEAST_ROWS} spots to be fitted on, not {len(features)}."
        raise ValueError(msg)
    columns, mean, scale = standardized(features.astype(np.float32, copy=False))
    varies = scale > 0
    if not standardize:
        columns, scale = features - mean.astype(np.float32), varies.astype(float)
    coefficients = np.zeros((features.shape[1], expression.shape[1]))
    if varies.any():
        pca = PCA(min(_COMPONENTS, len(columns), varies.sum()), random_state=0)
        # Principal components know nothing of expression, so that all folds can share them.
        scores = pca.fit_transform(columns if varies.all() else columns[:, varies]).astype(np.float64)
        weights = _Path(scores, expression).weights(_choose_penalty(scores, expression, folds))
        coefficients[varies] = scale[varies, None] * (pca.components_.T.astype(np.float64) @ weights)
    return LinearMap(coefficients, expression.mean(axis=0, dtype=np.float64) - mean @ coefficients)


class _Path:
    """Ridge regression for any penalty, from one eigendecomposition."""

    def __init__(self, scores: np.ndarray, expression: np.ndarray) -> None:
        self._center, self._expected = scores.mean(axis=0), expression.mean(axis=0, dtype=np.float64)
        centered = scores - self._center
        values, self._vectors = np.linalg.eigh(centered.T @ centered)
        self._values = np.maximum(values, 0)
        self._unit = max(self._values.sum() / len(scores), 1e-12)
        self._projected = self._vectors.T @ (centered.T @ (expression - self._expected))

    def weights(self, penalty: float) -> np.ndarray:
        """Weights of the components, shape (n_components, n_genes)."""
        return self._vectors @ self._shrunk(penalty)

    def predictions(self, scores: np.ndarray) -> Iterator[np.ndarray]:
        """Predictions for other rows with each of the penalties."""
        rotated = (scores - self._center) @ self._vectors
        for penalty in _PENALTIES:
            yield rotated @ self._shrunk(penalty) + self._expected

    def _shrunk(self, penalty: float) -> np.ndarray:
        return self._projected / (self._values + penalty * self._unit)[:, None]


def _choose_penalty(scores: np.ndarray, expression: np.ndarray, folds: np.ndarray) -> float:
    n_folds = min(_MOST_FOLDS, len(np.unique(folds)))
    if n_folds < 2:
        return float(_PENALTIES[0])
    score = np.zeros(len(_PENALTIES))
    for train, test in GroupKFold(n_folds).split(scores, groups=folds):
        predictions = _Path(scores[train], expression[train]).predictions(scores[test])
        score += [_correlation(expression[test], predicted, folds[test]) for predicted in predictions]
    return float(_PENALTIES[score.argmax()])


def _correlation(measured: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> float:
    """Mean PCC per gene within each group, summed over the groups; 0 where it is not defined."""
    within = [groups == group for group in np.unique(groups)]
    return sum(np.nan_to_num(mean_over_genes(pearson(measured[rows], predicted[rows]))) for rows in within)


def inner_folds(coordinates: np.ndarray, *labels: np.ndarray) -> np.ndarray:
    """Groups of the training rows for :func:`fit_ridge`: the first of the labels that tells rows apart.

    Where none does, the two halves of the section along its longer side. `coordinates` (n, 2) are those of the rows.
    """
    for label in labels:
        if len(np.unique(label)) > 1:
            return label
    along = coordinates[:, np.ptp(coordinates, axis=0).argmax()]
    return (along > np.median(along)).astype(int)
