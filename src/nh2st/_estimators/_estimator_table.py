"""Every estimator by its name."""

from __future__ import annotations

from typing import Any

from nh2st._estimators._context import ContextEstimator
from nh2st._estimators._interface import Estimator
from nh2st._estimators._linear import (
    ColourTextureEstimator,
    NeighborsEstimator,
    RidgeContext2xEstimator,
    RidgeContextEstimator,
    RidgeEstimator,
    TrainingMeanEstimator,
)
from nh2st._estimators._linear_head import LinearHeadEstimator
from nh2st._estimators._paper import PaperEstimator

ESTIMATORS: dict[str, Estimator] = {
    estimator.variant: estimator
    for estimator in (
        ContextEstimator(),
        PaperEstimator(),
        LinearHeadEstimator(),
        TrainingMeanEstimator(),
        ColourTextureEstimator(),
        RidgeEstimator(),
        NeighborsEstimator(),
        RidgeContextEstimator(),
        RidgeContext2xEstimator(),
    )
}

BASELINES = ("training_mean", "colour_texture", "ridge", "ridge_neighbours", "ridge_context")
"""Those that are cheap enough to stand beside every cross-validated network, weakest first."""
FURTHER_BASELINES = {"2x": "ridge_context_2x", "fine-tuned": "linear_head"}
"""Those that take longer, by the names under which they are asked for."""
BASELINE_TITLES = {variant: ESTIMATORS[variant].title for variant in (*BASELINES, *FURTHER_BASELINES.values())}
"""All of them, with their names for people."""


def estimator_named(variant: str) -> Estimator:
    """Estimator of a name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if variant not in ESTIMATORS:
        msg = f"variant must be one of {', '.join(map(repr, ESTIMATORS))}, not {variant!r}."
        raise ValueError(msg)
    return ESTIMATORS[variant]


def estimator_of(network: Any) -> Estimator:
    """Estimator that a network belongs to."""
    return estimator_named(network.config.variant)
