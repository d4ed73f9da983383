"""How a model is trained, apart from the data: the settings of `train`, checked, and the model that they start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from nh2st._arguments import at_least_one, not_negative, positive
from nh2st._expression import Target
from nh2st._patches import Windows, stack_patches
from nh2st._sections import NATIVE, Mpp, Section
from nh2st.models import Model
from nh2st.nn import ContextNetwork, Network, NetworkConfig
from nh2st.tl._training._starting_model import check_likelihood, new_network

if TYPE_CHECKING:
    from nh2st.tl._training._lightning_module import Schedule


_ARGUMENTS = {"variant": "variant", "encoder": "encoder", "patch_px": "patch_px", "n_genes": "genes"}
"""Fields of the network's configuration that are arguments of their own."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "context": {"fine_tune": "none", "max_epochs": 30, "batch_size": 64, "learning_rate": 1e-3},
    "paper": {"fine_tune": "all", "max_epochs": 50, "batch_size": 16, "learning_rate": 5e-4},
}


@dataclass(frozen=True)
class Recipe:
    """Settings of a training, named and meant as in :func:`nh2st.tl.train`; None stands for the variant's default."""

    target: Literal["default", "paper"]
    variant: str
    encoder: str
    encoder_weights: str | Path | None
    network: Mapping[str, Any] | None
    fine_tune: Literal["all", "none"] | int | None
    patch_um: float
    patch_px: int
    mpp: Mpp
    max_epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    stain_jitter: float
    patience: int
    seed: int
    compile: bool

    def __post_init__(self) -> None:
        if self.variant not in _DEFAULTS:
            msg = f"variant must be one of {', '.join(map(repr, _DEFAULTS))}, not {self.variant!r}."
            raise ValueError(msg)
        if own := [name for name in _ARGUMENTS if name in (self.network or {})]:
            instead = ", ".join(f"`{_ARGUMENTS[name]}=`" for name in own)
            msg = f"network= names {', '.join(own)}; give {instead} instead."
            raise ValueError(msg)
        if self.variant == "context" and self.fine_tune not in (None, "none"):
            msg = (
                "The 'context' network is trained on an encoder that stays as it is, so that fine_tune must be 'none'. "
                "To use an encoder of your own: fine-tune it with variant='paper', save the model, and name its file "
                "in `encoder_weights=`."
            )
            raise ValueError(msg)

    def value(self, name: str) -> Any:
        """A setting, or the variant's default where it is None."""
        given = getattr(self, name)
        return _DEFAULTS[self.variant].get(name) if given is None else given

    @property
    def frozen(self) -> bool:
        """Whether the encoder is left as it is."""
        return self.value("fine_tune") == "none"

    @property
    def definition(self) -> Target:
        """Definition of the target."""
        return Target.named(self.target)

    @property
    def largest_scale(self) -> float:
        """Side of the largest patch that the network sees of a spot, as a multiple of the patch size."""
        return max(NetworkConfig.for_variant(self.variant, **{**(self.network or {}), "n_genes": 1}).patch_scales)

    def linear_head(self) -> Recipe:
        """Recipe of a linear layer on pooled features, trained with their encoder as the published network is."""
        network = {"map_px": 1, "query_weight": 0.0, "neighbor_weight": 0.0}
        other: dict[str, Any] = (
            {} if self.variant == "paper" else dict.fromkeys(("max_epochs", "batch_size", "learning_rate"))
        )
        fine_tune = None if self.frozen else self.fine_tune
        return replace(self, variant="paper", network=network, fine_tune=fine_tune, **other)

    def schedule(self) -> Schedule:
        """How long and how fast to train.

        Raises
        ------
        ValueError
            If a number is out of range.
        """
        from nh2st.tl._training._lightning_module import Schedule

        return Schedule(
            max_epochs=at_least_one("max_epochs", self.value("max_epochs")),
            batch_size=at_least_one("batch_size", self.value("batch_size")),
            learning_rate=positive("learning_rate", self.value("learning_rate")),
            stain_jitter=not_negative("stain_jitter", self.stain_jitter),
            patience=at_least_one("patience", self.patience),
            seed=self.seed,
            compile=self.compile,
            early_stopping=self.variant == "paper",
        )

    def provenance(self) -> dict[str, Any]:
        """What a model keeps of the settings, as plain values."""
        names = ("seed", "max_epochs", "batch_size", "learning_rate", "stain_jitter", "fine_tune")
        return {name: self.value(name) for name in names} | {"encoder_weights": str(self.encoder_weights)}

    def new_model(self, panel: list[str]) -> Model:
        """Build the untrained model of a panel.

        Raises
        ------
        ValueError, RuntimeError
            If the settings make no network, or weights cannot be had.
        """
        values = {"n_genes": len(panel), "encoder": self.encoder, "patch_px": self.patch_px, **(self.network or {})}
        network = new_network(self.variant, values, self.encoder_weights, self.seed)
        network.encoder.fine_tune(self.value("fine_tune"))
        check_likelihood(network, self.definition)
        size = None if self.mpp == NATIVE else self.patch_um
        return Model(network=network, genes=panel, target=self.definition, patch_um=size)

    def read_images(
        self,
        network: Network,
        sections: Sequence[Section],
        windows: Sequence[Windows],
        device: torch.device,
        precision: Literal["32", "bf16"],
    ) -> np.ndarray:
        """Read what the network is trained on: patches (n, px, px, 3) uint8 of all sections.

        Where the encoder is frozen, the network's maps of them; for the context network features (n, n_features).
        """
        from nh2st.tl._frozen import context_features, frozen_maps

        if isinstance(network, ContextNetwork):
            scales = context_features(network, sections, windows, device, precision)
            return np.concatenate([np.concatenate(features) for features in scales], axis=1)
        if self.frozen:
            return frozen_maps(network, sections, windows, device, precision)
        return stack_patches([one.image for one in sections], windows)
