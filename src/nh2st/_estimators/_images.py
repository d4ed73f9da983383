"""What estimators read from the images of spots: a class a kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np


@dataclass(frozen=True)
class SpotImages:
    """Values (n, ...) of all spots, one section after another, perhaps read-only."""

    values: np.ndarray

    drawn_together: ClassVar[int] = 1
    """Spots that share neighbours are drawn into a batch in clusters of so many; 1 where neighbours cost nothing."""
    encoded_in_steps: ClassVar[bool] = False
    """Whether they are encoded, and augmented, in every step, with those neighbours alone that are in the batch."""
    alone: ClassVar[bool] = True
    """Whether a spot is predicted from its own values, without those of its neighbours."""

    def take(self, used: np.ndarray) -> Self:
        """Only those of the boolean or integer `used`."""
        return replace(self, values=self.values[used])


class Patches(SpotImages):
    """Patches (n, px, px, 3), uint8, of an encoder that is trained."""

    drawn_together = 16
    encoded_in_steps = True


class FeatureMaps(SpotImages):
    """Maps (n, C, h, w), half precision, of an encoder that is not trained."""

    drawn_together = 16


class Features(SpotImages):
    """Numbers (n, n_features) of each patch: pooled features of a frozen encoder, or statistics of its pixels."""


class Tokens(SpotImages):
    """Components (n, n_components), float32, of the features, which the context network takes."""

    alone = False
