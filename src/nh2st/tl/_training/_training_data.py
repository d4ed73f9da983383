"""Sections that are trained on, assembled once: counts, neighbourhoods, windows, and what is read of the images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nh2st._estimators import (
    Encoding,
    Source,
    SpotImages,
    TrainingSpots,
    estimator_of,
    frozen_features,
    joined_neighbors,
    section_numbers,
)
from nh2st._expression import Counts, Target, match_panel, read_counts, target_values
from nh2st._patches import Windows
from nh2st._sections import Section, length_scale, resolve_mpp, windows_of
from nh2st._space import neighborhood
from nh2st.models import Model
from nh2st.nn import Encoder
from nh2st.tl._training._training_settings import PatchSize


@dataclass(frozen=True)
class Members:
    """Some of the spots, as if the others were masked: sections with their counts; those with no spot are left out."""

    sections: list[Section]
    counts: list[Counts]


@dataclass
class TrainingData:
    """Sections, each with the groups (donors) of its spots and its counts, which lie in `layer`."""

    sections: list[Section]
    labels: list[np.ndarray]
    layer: str | None
    device: Any
    precision: Any
    _windows: dict[PatchSize, list[Windows]] = field(default_factory=dict, init=False)
    _images: dict[tuple, SpotImages] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.counts = [read_counts(section, self.layer) for section in self.sections]
        self.section = section_numbers([len(section.rows) for section in self.sections])
        self.group = np.concatenate(self.labels)
        self.neighbors = joined_neighbors([neighborhood(section.grid) for section in self.sections])
        self.coordinates = np.concatenate([section.xy for section in self.sections])

    @property
    def everything(self) -> np.ndarray:
        """All spots, boolean (n,)."""
        return np.ones(len(self.section), dtype=bool)

    def windows(self, size: PatchSize) -> list[Windows]:
        """Windows of the patches of each section."""
        if size not in self._windows:
            scales = [resolve_mpp(section, size.mpp) for section in self.sections]
            self._windows[size] = windows_of(self.sections, patch_um=size.um, patch_px=size.px, mpp=scales)
        return self._windows[size]

    def members(self, rows: np.ndarray) -> Members:
        """Some of the spots, boolean (n,)."""
        parts = [np.flatnonzero(rows[self.section == number]) for number in range(len(self.sections))]
        triples = zip(self.sections, self.counts, parts, strict=True)
        pairs = [_part(*triple) for triple in triples if len(triple[2])]
        return Members([section for section, _ in pairs], [counts for _, counts in pairs])

    def images(self, model: Model, size: PatchSize, *encoder: Any) -> SpotImages:
        """What the model's network takes of all spots; `encoder` tells its encoder from others."""
        estimator = estimator_of(model.network)
        kind = estimator.read_key(model.network)
        key = (size, *((*encoder, *kind) if kind else ()))
        if key not in self._images:
            encoding = Encoding(self.device, self.precision)
            self._images[key] = estimator.read(model.network, Source(self.sections, self.windows(size)), encoding)
        return self._images[key]

    def features(self, size: PatchSize, encoder: Encoder) -> np.ndarray:
        """Pooled features (n, n_features) of all patches by a frozen encoder."""
        return frozen_features(encoder, Source(self.sections, self.windows(size)), self.device)

    def expression(self, rows: np.ndarray, panel: list[str], target: Target) -> np.ndarray:
        """Target values (n, n_genes) measured at some spots, as if there were no others, whose values are NaN."""
        values = np.full((len(self.section), len(panel)), np.nan, dtype=np.float32)
        values[rows] = np.concatenate([target_values(counts, panel, target) for counts in self.members(rows).counts])
        return values

    def spots(self, model: Model, size: PatchSize, rows: np.ndarray, *encoder: Any) -> TrainingSpots:
        """All spots, with what was measured at some, boolean (n,), for the training of a model."""
        expression = self.expression(rows, model.genes, model.target)
        counts, totals = self._panel_counts(model) if model.config.needs_counts else (None, None)
        return TrainingSpots(
            images=self.images(model, size, *encoder),
            expression=expression,
            labels=expression,
            neighbors=self.neighbors,
            coordinates=self.coordinates,
            section=self.section,
            group=np.unique(self.group, return_inverse=True)[1],
            overlap=self._overlap(size, max(model.config.patch_scales)),
            counts=counts,
            totals=totals,
        )

    def _panel_counts(self, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """Counts (n, n_genes) of the panel, float32, and totals (n,) of the genes that the target is scaled over."""
        counts, totals = [], []
        for section in self.counts:
            columns = match_panel(section.table, model.genes).columns
            counts.append(section.matrix[:, columns].toarray().astype(np.float32))
            over = counts[-1] if model.target.scaled_over == "panel" else section.matrix
            totals.append(np.asarray(over.sum(axis=1)).ravel())
        return np.concatenate(counts), np.concatenate(totals)

    def _overlap(self, size: PatchSize, scale: float) -> np.ndarray:
        """Side of the largest patch (n,) of each spot in units of the coordinates: `scale` times the windows'."""
        pairs = zip(self.sections, self.windows(size), strict=True)
        sides = [scale * part.side * part.level.scale * length_scale(section.image_affine) for section, part in pairs]
        return np.repeat(sides, [len(section.rows) for section in self.sections])


def _part(section: Section, counts: Counts, positions: np.ndarray) -> tuple[Section, Counts]:
    if len(positions) == len(section.rows):
        return section, counts
    part = section.take(positions)
    return part, counts.take(part, positions)
