"""How a model is trained, apart from the data: the settings of `train`, checked, and the model that they start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from nh2st._arguments import at_least_one, not_negative, positive
from nh2st._patches import Windows, stack_patches
from nh2st._scale import NATIVE, Mpp
from nh2st._sections import Section
from nh2st.models import Model
from nh2st.nn import NH2ST
from nh2st.pp._target import Target
from nh2st.tl._start import new_network

if TYPE_CHECKING:
    from nh2st.tl._lightning import Schedule


@dataclass(frozen=True)
class Recipe:
    """Settings of a training, named and meant as in :func:`nh2st.tl.train`."""

    target: Literal["default", "paper"]
    encoder: str
    encoder_weights: str | Path | None
    network: Mapping[str, Any] | None
    fine_tune: Literal["all", "none"] | int
    patch_um: float
    patch_px: int
    mpp: Mpp
    max_epochs: int
    batch_size: int
    learning_rate: float
    stain_jitter: float
    patience: int
    seed: int
    compile: bool

    @property
    def definition(self) -> Target:
        """Definition of the target."""
        return Target.named(self.target)

    def schedule(self) -> Schedule:
        """How long and how fast to train.

        Raises
        ------
        ValueError
            If a number is out of range.
        """
        from nh2st.tl._lightning import Schedule

        return Schedule(
            max_epochs=at_least_one("max_epochs", self.max_epochs),
            batch_size=at_least_one("batch_size", self.batch_size),
            learning_rate=positive("learning_rate", self.learning_rate),
            stain_jitter=not_negative("stain_jitter", self.stain_jitter),
            patience=at_least_one("patience", self.patience),
            seed=self.seed,
            compile=self.compile,
        )

    def provenance(self) -> dict[str, Any]:
        """What a model keeps of the settings, as plain values."""
        names = ("seed", "max_epochs", "batch_size", "learning_rate", "stain_jitter", "fine_tune")
        return {name: getattr(self, name) for name in names} | {"encoder_weights": str(self.encoder_weights)}

    def new_model(self, panel: list[str]) -> Model:
        """Build the untrained model of a panel.

        Raises
        ------
        ValueError, RuntimeError
            If the settings make no network, or weights cannot be had.
        """
        network = new_network(len(panel), self.encoder, self.encoder_weights, self.patch_px, self.network, self.seed)
        network.encoder.fine_tune(self.fine_tune)
        size = None if self.mpp == NATIVE else self.patch_um
        return Model(network=network, genes=panel, target=self.definition, patch_um=size)

    def read_images(
        self,
        network: NH2ST,
        sections: Sequence[Section],
        windows: Sequence[Windows],
        device: torch.device,
        precision: Literal["32", "bf16"],
    ) -> np.ndarray:
        """Patches (n, px, px, 3) uint8 of all sections, or the network's maps of them where its encoder is frozen."""
        from nh2st.tl._frozen import frozen_maps

        if self.fine_tune == "none":
            return frozen_maps(network, sections, windows, device, precision)
        return stack_patches([one.image for one in sections], windows)
