"""From sections to the plain arrays that the network is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from nh2st._expression import Target, match_panel, read_counts, target_values
from nh2st._patches import Windows
from nh2st._sections import Section, length_scale
from nh2st._space import neighborhood


@dataclass(frozen=True)
class TrainingSpots:
    """All spots of all sections, one after another.

    `images` (n, px, px, 3) uint8, or feature maps (n, C, h, w) of an encoder that is not trained, perhaps read-only;
    `expression` (n, n_genes) float32; `neighbors` (n, 8) positions of each spot's neighbours, -1 where there are fewer;
    `coordinates` (n, 2); `section` (n,) number of the section; `overlap` (n,) distance, in units of the coordinates,
    within which patches overlap. For the context network `images` are features (n, n_features) and later tokens,
    `labels` (n, n_genes) the standardised expression that it learns, and, for count likelihoods, `counts` (n, n_genes),
    `totals` (n,) of all genes that they are scaled over, and `log_expected` (n, n_genes) what is expected of them.
    """

    images: np.ndarray
    expression: np.ndarray
    neighbors: np.ndarray
    coordinates: np.ndarray
    section: np.ndarray
    overlap: np.ndarray
    labels: np.ndarray | None = None
    counts: np.ndarray | None = None
    totals: np.ndarray | None = None
    log_expected: np.ndarray | None = None

    def take(self, used: np.ndarray) -> Self:
        """Only the spots of the boolean `used` (n,); neighbours that are none of them are taken away."""
        if used.all():
            return self
        number = np.where(used, np.cumsum(used) - 1, -1)
        neighbors = self.neighbors_within(used)
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "neighbors"}
        kept: dict[str, Any] = {name: None if array is None else array[used] for name, array in values.items()}
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
    windows: Sequence[Windows],
    images: Callable[[], np.ndarray],
    *,
    largest_scale: float = 1.0,
    counted: bool = False,
) -> TrainingSpots:
    """Expression and neighbourhoods of the sections, and what `images` reads once these are known to be sound.

    With `counted` also the counts.
    """
    expression = expression_of(sections, panel, target, layer)
    counts, totals = counts_of(sections, panel, target, layer) if counted else (None, None)
    neighbors = neighbors_of(sections)
    return TrainingSpots(
        images=images(),
        expression=expression,
        neighbors=neighbors,
        coordinates=np.concatenate([one.xy for one in sections]),
        section=section_numbers(sections),
        overlap=overlap_of(sections, windows, largest_scale),
        counts=counts,
        totals=totals,
    )


def overlap_of(sections: Sequence[Section], windows: Sequence[Windows], scale: float) -> np.ndarray:
    """Side of the largest patch (n,) of each spot in units of the coordinates, `scale` times that of the windows."""
    pairs = zip(sections, windows, strict=True)
    sides = [scale * one.side * one.level.scale * length_scale(section.image_affine) for section, one in pairs]
    return np.repeat(sides, [len(one.rows) for one in sections])


def counts_of(
    sections: Sequence[Section], panel: list[str], target: Target, layer: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Counts (n, n_genes) of the panel, float32, and the totals (n,) of the genes that the target is scaled over."""
    counts, totals = [], []
    for one in sections:
        whole = read_counts(one, layer).matrix
        counts.append(whole[:, match_panel(one.adata, panel).columns].toarray().astype(np.float32))
        over = counts[-1] if target.scaled_over == "panel" else whole
        totals.append(np.asarray(over.sum(axis=1)).ravel())
    return np.concatenate(counts), np.concatenate(totals)


def expression_of(sections: Sequence[Section], panel: list[str], target: Target, layer: str | None) -> np.ndarray:
    """Target values (n, n_genes) float32 of the panel, one section after another."""
    values = [target_values(read_counts(one, layer), panel, target) for one in sections]
    return np.concatenate(values).astype(np.float32, copy=False)


def neighbors_of(sections: Sequence[Section]) -> np.ndarray:
    """Neighbours (n, 8) of each spot, as positions among the spots of all sections; -1 where there are fewer."""
    offsets = np.cumsum([0, *(len(one.rows) for one in sections[:-1])])
    found = [neighborhood(one.grid) for one in sections]
    return np.concatenate([np.where(one >= 0, one + start, -1) for one, start in zip(found, offsets, strict=True)])


def section_numbers(sections: Sequence[Section]) -> np.ndarray:
    """Number of the section (n,) of each spot."""
    return np.repeat(np.arange(len(sections)), [len(one.rows) for one in sections])
