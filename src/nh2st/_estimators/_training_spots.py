"""The plain arrays that estimators are trained on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from nh2st._estimators._images import SpotImages


@dataclass(frozen=True)
class TrainingSpots:
    """All spots of all sections, one after another.

    `expression` (n, n_genes) float32 is in units of the target; `labels` (n, n_genes) is what is learnt, the same
    unless an estimator standardises it; `neighbors` (n, 8) are positions of each spot's neighbours, -1 where there are
    fewer;
    `coordinates` (n, 2); `section` and `group` (n,) are numbers of section and donor; `overlap` (n,) is the distance,
    in units of the coordinates, within which patches overlap. For count likelihoods there are `counts` (n, n_genes),
    `totals` (n,) of all genes that they are scaled over, and `log_expected` (n, n_genes), what is expected of them.
    """

    images: SpotImages
    expression: np.ndarray
    labels: np.ndarray
    neighbors: np.ndarray
    coordinates: np.ndarray
    section: np.ndarray
    group: np.ndarray
    overlap: np.ndarray
    counts: np.ndarray | None = None
    totals: np.ndarray | None = None
    log_expected: np.ndarray | None = None

    def take(self, used: np.ndarray) -> Self:
        """Only the spots of the boolean `used` (n,); neighbours that are none of them are taken away."""
        if used.all():
            return self
        number = np.where(used, np.cumsum(used) - 1, -1)
        neighbors = self.neighbors_within(used)
        arrays = {field.name: getattr(self, field.name) for field in fields(self)[1:] if field.name != "neighbors"}
        kept: dict[str, Any] = {name: None if array is None else array[used] for name, array in arrays.items()}
        renumbered = np.where(neighbors >= 0, number[neighbors], -1)[used]
        return replace(self, images=self.images.take(used), neighbors=renumbered, **kept)

    def neighbors_within(self, used: np.ndarray) -> np.ndarray:
        """Neighbours, those outside the boolean `used` (n,) taken away."""
        present = (self.neighbors >= 0) & used[self.neighbors]
        return np.where(present, self.neighbors, -1)


def unmeasured(images: SpotImages, neighbors: np.ndarray, section: np.ndarray, n_genes: int) -> TrainingSpots:
    """Spots of which images and neighbourhoods alone are known, for prediction."""
    nothing = np.broadcast_to(np.zeros(1, dtype=np.float32), (len(section), n_genes))
    places = np.zeros((len(section), 2))
    return TrainingSpots(images, nothing, nothing, neighbors, places, section, section, np.zeros(len(section)))


def joined_neighbors(neighborhoods: list[np.ndarray]) -> np.ndarray:
    """Neighbours (n, 8) of all spots as positions among them, from those (n_section, 8) of each section."""
    offsets = np.cumsum([0, *(len(neighbors) for neighbors in neighborhoods[:-1])])
    pairs = zip(neighborhoods, offsets, strict=True)
    return np.concatenate([np.where(neighbors >= 0, neighbors + start, -1) for neighbors, start in pairs])


def section_numbers(sizes: list[int]) -> np.ndarray:
    """Number of the section (n,) of each spot, from the number of spots in each."""
    return np.repeat(np.arange(len(sizes)), sizes)
