"""From sections to the plain arrays that the network is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

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

    def take(self, used: np.ndarray) -> Self:
        """Only the spots of the boolean `used` (n,); neighbours that are none of them are taken away."""
        if used.all():
            return self
        number = np.where(used, np.cumsum(used) - 1, -1)
        neighbors = self.neighbors_within(used)
        kept = {name: getattr(self, name)[used] for name in ("images", "expression", "coordinates", "section")}
        return replace(self, neighbors=np.where(neighbors >= 0, number[neighbors], -1)[used], **kept)

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
    expression = expression_of(sections, panel, target, layer)
    neighbors = neighbors_of(sections)
    return TrainingSpots(
        images=images(),
        expression=expression,
        neighbors=neighbors,
        coordinates=np.concatenate([one.xy for one in sections]),
        section=section_numbers(sections),
    )


def expression_of(sections: Sequence[Section], panel: list[str], target: Target, layer: str | None) -> np.ndarray:
    """Target values (n, n_genes) float32 of the panel, one section after another."""
    values = [target_values(one, panel, target, layer=layer) for one in sections]
    return np.concatenate(values).astype(np.float32, copy=False)


def neighbors_of(sections: Sequence[Section]) -> np.ndarray:
    """Neighbours (n, 8) of each spot, as positions among the spots of all sections; -1 where there are fewer."""
    offsets = np.cumsum([0, *(len(one.rows) for one in sections[:-1])])
    found = [neighborhood(one) for one in sections]
    return np.concatenate([np.where(one >= 0, one + start, -1) for one, start in zip(found, offsets, strict=True)])


def section_numbers(sections: Sequence[Section]) -> np.ndarray:
    """Number of the section (n,) of each spot."""
    return np.repeat(np.arange(len(sections)), [len(one.rows) for one in sections])
