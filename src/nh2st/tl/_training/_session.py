"""One training, from the model that it starts from to the one that is kept."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nh2st._expression import gene_sets
from nh2st._sections import resolve_mpp
from nh2st._settings import logger
from nh2st.models import Model
from nh2st.tl._compatibility._differences import warn_of_differences
from nh2st.tl._prediction._prediction_records import training_provenance
from nh2st.tl._training._hardware import Place
from nh2st.tl._training._starting_model import trained_on
from nh2st.tl._training._training_data import TrainingData
from nh2st.tl._training._training_settings import PatchSize, TrainingSettings
from nh2st.tl._training._validation_split import validation_split

if TYPE_CHECKING:
    from nh2st.tl._training._trainer import Process


@dataclass(frozen=True)
class TrainingSession:
    """Sections, settings and place of a training; `source` is the model that is fine-tuned, if one is."""

    training: TrainingData
    settings: TrainingSettings
    source: Model | None
    place: Place
    process: Process

    def train(self, start: Model, checkpoint_dir: str | Path | None, resume_from: str | Path | None) -> Model:
        """Train the model that was started with, after all checks."""
        from nh2st.tl._training._checkpoints import check_same_run, checkpoint_folder, keep_model
        from nh2st.tl._training._loop import LightningRun

        training, size, schedule = self.training, self._patch_size(start), self.settings.schedule()
        training.windows(size)
        split = validation_split(training.sections, training.labels, self.settings.seed)
        folder = checkpoint_folder(checkpoint_dir, resume_from, self.process.rank)
        start.provenance = self._provenance(start, size, split.description)
        if resume_from is not None and folder is not None:
            check_same_run(start, folder)
        spots = training.spots(start, size, training.everything)
        world_size = self.process.world_size
        run = LightningRun(spots, split.validation, schedule, self.place, world_size, folder, resume_from)
        logger.info("Checkpoints are kept in %s.", folder)
        features = partial(training.features, size)
        model = start.estimator.fit(start, run, training.everything, new=self.source is None, features=features)
        if self.process.rank == 0:
            keep_model(model, folder)
        if folder is not None and checkpoint_dir is None and resume_from is None:
            shutil.rmtree(folder)
        return model

    def _patch_size(self, start: Model) -> PatchSize:
        """Patches as the model takes them, which one that is fine-tuned has settled."""
        native = start.patch_um is None
        um = start.patch_um or self.settings.patch_um
        return PatchSize(um, start.patch_px, "native" if native else self.settings.mpp)

    def _provenance(self, start: Model, size: PatchSize, validation: str) -> dict[str, Any]:
        training, source = self.training, self.source
        scales = [resolve_mpp(section, size.mpp) for section in training.sections]
        if source is not None:
            warn_of_differences(training.sections, scales, source)
        provenance = training_provenance(
            training.sections,
            training.labels,
            scales,
            validation=validation,
            gene_sets=gene_sets(training.counts, start.genes),
            world_size=self.process.world_size,
            init_from="" if source is None else source.name,
            **self.settings.provenance(),
        )
        provenance["fingerprints"] += trained_on(self.settings.encoder_weights)
        if source is not None:
            provenance["fingerprints"] += source.provenance.get("fingerprints", [])
        return provenance
