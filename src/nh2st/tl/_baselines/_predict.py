"""Predictions of all baselines for test spots, from what was measured at the training spots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nh2st.tl._baselines._columns import standardized_within, with_neighbors
from nh2st.tl._baselines._inputs import BaselineInputs
from nh2st.tl._baselines._ridge import fit_ridge

BASELINES = (
    "training mean",
    "colour and texture",
    "ridge",
    "ridge + neighbours",
    "ridge + neighbours, standardised",
    "ridge + neighbours + 2x, standardised",
)
"""Names of the baselines, weakest first."""


def predict_baselines(
    inputs: BaselineInputs, expression: np.ndarray, train_rows: np.ndarray, test_rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Fit every baseline on some spots and predict others.

    Neighbours and sections are those of all spots, as their images are known without expression. Expression is read at
    the training rows alone.

    Parameters
    ----------
    inputs
        What is known of the images.
    expression
        Targets (n, n_genes); the test rows may hold anything.
    train_rows, test_rows
        Positions, or boolean masks (n,).

    Returns
    -------
    From the names of the baselines, weakest first, to predictions (n_test, n_genes), float32.

    Raises
    ------
    ValueError
        If there is a single training row.
    """
    measured, folds = expression[train_rows], inputs.folds(train_rows)
    predictions = {}
    for name, features in zip(BASELINES, _columns(inputs), strict=False):
        fitted = fit_ridge(features[train_rows], measured, folds)
        predictions[name] = fitted(features[test_rows])
    return predictions


def _columns(inputs: BaselineInputs) -> Iterator[np.ndarray]:
    """Columns (n, n_columns) of each baseline; those of the last where the larger patches were read."""
    yield np.empty((len(inputs.section), 0), dtype=np.float32)
    yield inputs.colour_texture
    yield inputs.features
    local = with_neighbors(inputs.features, inputs.neighbors)
    yield local
    yield standardized_within(local, inputs.section)
    if inputs.features_2x is not None:
        yield standardized_within(np.concatenate([local, inputs.features_2x], axis=1), inputs.section)
