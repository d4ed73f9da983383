"""A linear head on an encoder that is trained with it: what the published network must beat."""

from __future__ import annotations

from typing import Any

from nh2st._estimators._interface import EstimatorConfig
from nh2st._estimators._paper import PaperEstimator
from nh2st.nn import NetworkConfig


class LinearHeadEstimator(PaperEstimator):
    """A linear layer on pooled features, trained with their encoder as the published network is."""

    variant = "linear_head"
    title = "linear head, fine-tuned"
    config_class = EstimatorConfig

    def configure(self, **values: Any) -> NetworkConfig:
        # What the published network refuses is refused here too.
        NetworkConfig.for_variant("paper", **values)
        only_mse = {"variant": self.variant, "map_px": 1, "query_weight": 0.0, "neighbor_weight": 0.0}
        return self.config_class.from_dict(only_mse | values)
