"""What is made of features before a regression sees them: from images alone, so that test spots may have it too."""

from __future__ import annotations

import numpy as np

_LEAST_DEVIATION = 1e-6
"""Relative to the largest value: what rounding leaves of a constant column is below."""


def with_neighbors(features: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Features (n, p) beside the mean of those of the neighbours, shape (n, 2 p).

    `neighbors` (n, 8) are positions, -1 where there are fewer. A spot without any gets its own features twice.
    """
    total = np.zeros_like(features)
    for column in neighbors.T:
        total += np.where((column >= 0)[:, None], features[column], 0)
    count = (neighbors >= 0).sum(axis=1, keepdims=True)
    mean = np.where(count > 0, total / np.maximum(count, 1), features)
    return np.concatenate([features, mean], axis=1, dtype=features.dtype)


def standardized(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns with mean 0 and standard deviation 1; constant ones become 0.

    Returns
    -------
    Standardised features (n, p), mean (p,) and scale (p,): the inverse of the standard deviation, 0 where constant.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    centered = features - mean.astype(features.dtype)
    deviation = np.sqrt(np.einsum("np,np->p", centered, centered, dtype=np.float64) / len(features))
    constant = deviation <= _LEAST_DEVIATION * np.maximum(features.max(axis=0), -features.min(axis=0))
    scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    centered *= scale.astype(features.dtype)
    return centered, mean, scale


def standardized_within(features: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Features (n, p) standardised in each section apart, which takes away what staining and scanner add to all spots.

    `section` (n,) is the number of each spot's section.
    """
    result = np.empty_like(features)
    for number in np.unique(section):
        rows = section == number
        result[rows] = standardized(features[rows])[0]
    return result
