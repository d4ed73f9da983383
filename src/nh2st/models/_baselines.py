"""What a model must beat: the training mean, and a linear model on frozen features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nh2st.nn import Encoder


@dataclass
class Baselines:
    """Two predictors fitted on the training spots of a model.

    `mean` (n_genes,) is every gene's training mean. The ridge predictor is linear in the pooled features of the encoder
    as it was before training: `features @ coefficients + intercept`, with `coefficients` (n_features, n_genes).
    """

    mean: Tensor
    coefficients: Tensor
    intercept: Tensor
    encoder: Encoder

    @torch.inference_mode()
    def ridge(self, images: Tensor) -> Tensor:
        """Ridge prediction for uint8 patches, shape (n, n_genes)."""
        features = self.encoder.features(images).float()
        return features @ self.coefficients.to(features.device) + self.intercept.to(features.device)
