"""Predictions of all baselines for test spots, from what was measured at the training spots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nh2st.tl._baselines._columns import standardized_within, with_neighbors
from nh2st.tl._baselines._inputs import BaselineInputs
from nh2st.tl._baselines._ridge import fit_ridge


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
    for name, features in _features(inputs):
        fitted = fit_ridge(features[train_rows], measured, folds)
        predictions[name] = fitted(features[test_rows])
    return predictions


def _features(inputs: BaselineInputs) -> Iterator[tuple[str, np.ndarray]]:
    """Names of the baselines and their columns (n, n_columns)."""
    yield "training mean", np.empty((len(inputs.section), 0), dtype=np.float32)
    yield "colour and texture", inputs.colour_texture
    yield "ridge", inputs.features
    local = with_neighbors(inputs.features, inputs.neighbors)
    yield "ridge + neighbours", local
    yield "ridge + neighbours, standardised", standardized_within(local, inputs.section)
    if inputs.features_2x is not None:
        both = np.concatenate([local, inputs.features_2x], axis=1)
        yield "ridge + neighbours + 2x, standardised", standardized_within(both, inputs.section)
