"""From sections to the plain arrays that the network is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nh2st._sections import Section
from nh2st.pp._neighborhood import neighborhood
from nh2st.pp._target import Target, target_values


@dataclass(frozen=True)
class TrainingSpots:
    """All spots of all sections, one after another.

    `images` (n, px, px, 3) uint8, or feature maps (n, C, h, w) of an encoder that is not trained, perhaps read-only;
    `expression` (n, n_genes) float32; `neighbors` (n, 8) positions of each spot's neighbours, -1 where there are fewer;
    `coordinates` (n, 2); `section` (n,) number of the section.
    """

    images: np.ndarray
    expression: np.ndarray
    neighbors: np.ndarray
    coordinates: np.ndarray
    section: np.ndarray

    def neighbors_within(self, used: np.ndarray) -> np.ndarray:
        """Neighbours, those outside the boolean `used` (n,) taken away."""
        present = (self.neighbors >= 0) & used[self.neighbors]
        return np.where(present, self.neighbors, -1)


def prepare(
    sections: Sequence[Section],
    panel: list[str],
    target: Target,
    layer: str | None,
    images: Callable[[], np.ndarray],
) -> TrainingSpots:
    """Expression and neighbourhoods of the sections, and what `images` reads once these are known to be sound."""
    expression = np.concatenate([target_values(one, panel, target, layer=layer) for one in sections])
    sizes = [len(one.rows) for one in sections]
    neighbors = _stack_neighbors([neighborhood(one) for one in sections], sizes)
    return TrainingSpots(
        images=images(),
        expression=expression.astype(np.float32, copy=False),
        neighbors=neighbors,
        coordinates=np.concatenate([one.xy for one in sections]),
        section=np.repeat(np.arange(len(sections)), sizes),
    )


def _stack_neighbors(neighbors: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    offsets = np.cumsum([0, *sizes[:-1]])
    return np.concatenate([np.where(one >= 0, one + start, -1) for one, start in zip(neighbors, offsets, strict=True)])
