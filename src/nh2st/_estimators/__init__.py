"""Whatever predicts expression from images, behind one interface: a file and an entry in the table for each."""

from __future__ import annotations

from nh2st._estimators._baselines import Baselines
from nh2st._estimators._encodings import frozen_features
from nh2st._estimators._estimator_table import (
    BASELINE_TITLES,
    BASELINES,
    ESTIMATORS,
    FURTHER_BASELINES,
    estimator_named,
    estimator_of,
)
from nh2st._estimators._images import FeatureMaps, Features, Patches, SpotImages, Tokens
from nh2st._estimators._interface import Encoding, Estimator, EstimatorConfig, Predicted, Run, Source
from nh2st._estimators._training_spots import TrainingSpots, joined_neighbors, section_numbers

__all__ = [
    "BASELINES",
    "BASELINE_TITLES",
    "ESTIMATORS",
    "FURTHER_BASELINES",
    "Baselines",
    "Encoding",
    "Estimator",
    "EstimatorConfig",
    "FeatureMaps",
    "Features",
    "Patches",
    "Predicted",
    "Run",
    "Source",
    "SpotImages",
    "Tokens",
    "TrainingSpots",
    "estimator_named",
    "estimator_of",
    "frozen_features",
    "joined_neighbors",
    "section_numbers",
]
