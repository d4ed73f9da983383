"""What all folds share: sections, groups, images and encodings, each read or computed once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nh2st._estimators import Encoding
from nh2st._expression import match_panel
from nh2st._keys import GENE_FLAG
from nh2st._sections import Section, tables_of
from nh2st._settings import logger
from nh2st.tl._folds._split import Fold, FoldLayout
from nh2st.tl._training._hardware import Place
from nh2st.tl._training._starting_model import panel_of
from nh2st.tl._training._training_data import TrainingData
from nh2st.tl._training._training_settings import TrainingSettings
from nh2st.tl._training._validation_split import validation_split


@dataclass
class FoldData(TrainingData):
    """Sections on which estimators are trained and tested, fold by fold; `genes` as in :func:`nh2st.tl.train`."""

    genes: int | Sequence[str] | None
    place: Place

    def __post_init__(self) -> None:
        super().__post_init__()
        for counts in self.counts:
            if counts.matrix.sum() == 0:
                msg = (
                    f"Section {counts.name!r} has no counts: nothing can be scored there. Name the layer that holds "
                    "them with `layer=`, or leave the section out with `sections=`."
                )
                raise ValueError(msg)
        self.pixels = np.concatenate([section.pixels for section in self.sections])

    def layout(self, trained: Sequence[TrainingSettings]) -> FoldLayout:
        """Where the spots are.

        Training keeps from test spots by the largest patch that any of what is trained sees, and the reach of their
        neighbours.
        """
        sides = np.max([self._sides(settings) for settings in trained], axis=0)
        there = self.neighbors >= 0
        offsets = np.abs(self.pixels[np.where(there, self.neighbors, 0)] - self.pixels[:, None]).max(axis=2)
        reach = np.where(there, offsets, 0).max(axis=1, initial=0)
        reaches = [reach[self.section == number].max(initial=0) for number in range(len(self.sections))]
        return FoldLayout(self.pixels, self.section, self.group, sides + np.array(reaches))

    def _sides(self, settings: TrainingSettings) -> list[float]:
        """Side of the largest patch, in pixels of each section's image, at least the patch size."""
        factor = max(1.0, settings.largest_scale)
        return [factor * part.side * part.level.scale for part in self.windows(settings.patch_size)]

    def panel(self, fold: Fold) -> list[str]:
        """Genes to predict, chosen on the training spots alone.

        Raises
        ------
        ValueError
            If a section that is tested lacks some of them.
        """
        panel = panel_of(self.members(fold.training).counts, self.genes)
        for section in self.members(fold.test).sections:
            if missing := match_panel(section.adata, panel).missing:
                msg = (
                    f"{len(missing)} of the {len(panel)} genes chosen on the training spots are not in the table of "
                    f"section {section.name!r}, which is tested ({fold.name}); first: "
                    f"{', '.join(map(repr, missing[:5]))}. Cut the tables to the genes that they have in common, or "
                    "give `genes=` that all have."
                )
                raise ValueError(msg)
        return panel

    def predict(self, settings: TrainingSettings, fold: Fold, panel: list[str]) -> np.ndarray:
        """Predictions (n_test, n_genes) of the test spots after training on the others; panel and target know none."""
        from nh2st.tl._training._loop import LightningRun

        schedule, start = settings.schedule(), settings.new_model(panel)
        encoder = (settings.encoder, str(settings.encoder_weights), settings.seed)
        spots = self.spots(start, settings.patch_size, fold.training, *encoder)
        with tempfile.TemporaryDirectory(prefix="nh2st-") as folder:
            run = LightningRun(spots, self._validation(fold, settings), schedule, self.place, 1, Path(folder))
            model = settings.estimator.fit(start, run, fold.training)
        encoding = Encoding(self.place.device, self.place.precision)
        return settings.estimator.predict(model.network, spots, fold.test, encoding).mean

    def _validation(self, fold: Fold, settings: TrainingSettings) -> np.ndarray:
        """Validation spots where they end the training; a fold has no other use for them."""
        if not settings.estimator.early_stopping:
            return np.zeros(int(fold.training.sum()), dtype=bool)
        labels = [self.group[fold.training & (self.section == number)] for number in range(len(self.sections))]
        sections = self.members(fold.training).sections
        return validation_split(sections, [part for part in labels if len(part)], settings.seed).validation


def warn_of_flagged_genes(sections: Sequence[Section], genes: object) -> None:
    """Say that a panel which was flagged before may have been chosen with the test sections in view."""
    if genes is None and all(GENE_FLAG in table.var for table in tables_of(sections)):
        logger.warning(
            "All folds use the genes of var[%r]. If they were chosen with the test sections in view, scores are "
            "optimistic; with a number, such as genes=250, each fold chooses its own.",
            GENE_FLAG,
        )
