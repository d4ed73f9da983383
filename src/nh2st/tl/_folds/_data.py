"""What all folds share: sections, groups, images and encodings, each read or computed once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nh2st._expression import Target, match_panel, read_counts
from nh2st._keys import GENE_FLAG
from nh2st._patches import Windows
from nh2st._sections import Section, resolve_mpp, tables_of, windows_of
from nh2st._settings import logger
from nh2st.models import Model
from nh2st.nn import Network
from nh2st.tl._folds._split import Fold, Layout
from nh2st.tl._training._hardware import Place
from nh2st.tl._training._settings import Recipe
from nh2st.tl._training._spots import TrainingSpots, counts_of, expression_of, neighbors_of, overlap_of, section_numbers
from nh2st.tl._training._starting_model import panel_of
from nh2st.tl._training._validation_split import Split, validation_split

if TYPE_CHECKING:
    from nh2st.tl._training._lightning_module import Schedule


@dataclass
class Bench:
    """Sections on which recipes are trained and tested, fold by fold.

    `labels` are the groups of each section's spots, `genes` and `layer` as in :func:`nh2st.tl.train`.
    """

    sections: list[Section]
    labels: list[np.ndarray]
    genes: int | Sequence[str] | None
    layer: str | None
    place: Place
    _images: dict[tuple, np.ndarray] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for one in self.sections:
            if read_counts(one, self.layer).matrix.sum() == 0:
                msg = (
                    f"Section {one.name!r} has no counts: nothing can be scored there. Name the layer that holds them "
                    "with `layer=`, or leave the section out with `sections=`."
                )
                raise ValueError(msg)
        self.section = section_numbers(self.sections)
        self.group = np.concatenate(self.labels)
        self.neighbors = neighbors_of(self.sections)
        self.pixels = np.concatenate([one.pixels for one in self.sections])
        self.coordinates = np.concatenate([one.xy for one in self.sections])

    def windows(self, recipe: Recipe) -> list[Windows]:
        """Windows of the patches of each section."""
        scales = [resolve_mpp(one, recipe.mpp) for one in self.sections]
        return windows_of(self.sections, patch_um=recipe.patch_um, patch_px=recipe.patch_px, mpp=scales)

    def layout(self, recipes: Sequence[Recipe], *, twice: bool) -> Layout:
        """Where the spots are; training keeps from test spots by a patch (or two) and the reach of their neighbours."""
        sides = np.max([self._sides(recipe, 2.0 if twice else 1.0) for recipe in recipes], axis=0)
        there = self.neighbors >= 0
        offsets = np.abs(self.pixels[np.where(there, self.neighbors, 0)] - self.pixels[:, None]).max(axis=2)
        reach = np.where(there, offsets, 0).max(axis=1, initial=0)
        reaches = [reach[self.section == number].max(initial=0) for number in range(len(self.sections))]
        return Layout(self.pixels, self.section, self.group, sides + np.array(reaches))

    def _sides(self, recipe: Recipe, least: float) -> list[float]:
        """Side of the largest patch, in pixels of each section's image, at least some multiple of the patch size."""
        factor = max(least, recipe.largest_scale)
        return [factor * one.side * one.level.scale for one in self.windows(recipe)]

    def members(self, rows: np.ndarray) -> list[Section]:
        """Sections with some of the spots, boolean (n,), as if the others were masked; those with none are left out."""
        parts = [rows[self.section == number] for number in range(len(self.sections))]
        pairs = zip(self.sections, parts, strict=True)
        return [one.take(np.flatnonzero(part)) for one, part in pairs if part.any()]

    def panel(self, fold: Fold) -> list[str]:
        """Genes to predict, chosen on the training spots alone.

        Raises
        ------
        ValueError
            If a section that is tested lacks some of them.
        """
        panel = panel_of(self.members(fold.training), self.genes, self.layer)
        for one in self.members(fold.test):
            if missing := match_panel(one.adata, panel).missing:
                msg = (
                    f"{len(missing)} of the {len(panel)} genes chosen on the training spots are not in the table of "
                    f"section {one.name!r}, which is tested ({fold.name}); first: "
                    f"{', '.join(map(repr, missing[:5]))}. Cut the tables to the genes that they have in common, or "
                    "give `genes=` that all have."
                )
                raise ValueError(msg)
        return panel

    def images(self, recipe: Recipe, network: Network) -> np.ndarray:
        """Patches of all spots, or their feature maps where the encoder is not trained."""
        config = network.config
        shape = (config.variant, config.map_px, config.patch_scales, config.orientations)
        kind = (recipe.encoder, str(recipe.encoder_weights), *shape, recipe.seed) if recipe.frozen else ()
        key = (recipe.patch_um, recipe.patch_px, recipe.mpp, kind)
        if key not in self._images:
            read = (network, self.sections, self.windows(recipe), self.place.device, self.place.precision)
            self._images[key] = recipe.read_images(*read)
        return self._images[key]

    def expression(self, rows: np.ndarray, panel: list[str], target: Target) -> np.ndarray:
        """Target values (n, n_genes) measured at some spots, as if there were no others, whose values are NaN."""
        values = np.full((len(self.section), len(panel)), np.nan, dtype=np.float32)
        values[rows] = expression_of(self.members(rows), panel, target, self.layer)
        return values

    def train(self, recipe: Recipe, fold: Fold, panel: list[str]) -> tuple[Model, TrainingSpots]:
        """Train on the training spots of a fold; panel and target know no other."""
        from nh2st.tl._rows import train_rows
        from nh2st.tl._training._loop import Run

        schedule = recipe.schedule()
        start = recipe.new_model(panel)
        expression = self.expression(fold.training, panel, start.target)
        images = self.images(recipe, start.network)
        overlap = overlap_of(self.sections, self.windows(recipe), recipe.largest_scale)
        spots = TrainingSpots(images, expression, self.neighbors, self.coordinates, self.section, overlap)
        if start.config.likelihood != "mse":
            counts, totals = counts_of(self.sections, panel, start.target, self.layer)
            spots = replace(spots, counts=counts, totals=totals)
        with tempfile.TemporaryDirectory(prefix="nh2st-") as folder:
            split = self._split(fold, schedule)
            run = Run(spots, split, schedule, self.place, 1, Path(folder), None)
            return train_rows(start, run, fold.training), spots

    def _split(self, fold: Fold, schedule: Schedule) -> Split:
        """Validation spots where they end the training; a fold has no other use for them."""
        if not schedule.early_stopping:
            return Split(np.zeros(int(fold.training.sum()), dtype=bool), "none")
        labels = [self.group[fold.training & (self.section == number)] for number in range(len(self.sections))]
        return validation_split(self.members(fold.training), [one for one in labels if len(one)], schedule.seed)


def warn_of_flagged_genes(sections: Sequence[Section], genes: object) -> None:
    """Say that a panel which was flagged before may have been chosen with the test sections in view."""
    if genes is None and all(GENE_FLAG in table.var for table in tables_of(sections)):
        logger.warning(
            "All folds use the genes of var[%r]. If they were chosen with the test sections in view, scores are "
            "optimistic; with a number, such as genes=250, each fold chooses its own.",
            GENE_FLAG,
        )
