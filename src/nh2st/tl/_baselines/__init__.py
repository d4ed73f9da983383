"""What a model must beat: the training mean, and linear models on colours, textures and frozen features."""

from __future__ import annotations

from nh2st.tl._baselines._columns import with_neighbors
from nh2st.tl._baselines._fitted_on_training import fit_baselines, fit_context_baselines
from nh2st.tl._baselines._inputs import BaselineInputs, baseline_inputs
from nh2st.tl._baselines._predict import BASELINES, predict_baselines

__all__ = [
    "BASELINES",
    "BaselineInputs",
    "baseline_inputs",
    "fit_baselines",
    "fit_context_baselines",
    "predict_baselines",
    "with_neighbors",
]
