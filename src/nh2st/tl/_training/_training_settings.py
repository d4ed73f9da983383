"""How a model is trained, apart from the data: the settings of `train`, checked, and the model that they start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from nh2st._arguments import at_least_one, not_negative, positive
from nh2st._device import Precision
from nh2st._estimators import Estimator, estimator_named
from nh2st._expression import Target
from nh2st._keys import ENCODER, VARIANT
from nh2st._sections import NATIVE, Mpp
from nh2st.models import Model
from nh2st.nn import NetworkConfig
from nh2st.tl._training._schedule import Schedule


class TrainingOptions(TypedDict, total=False):
    """Settings of :func:`nh2st.tl.train` that :func:`nh2st.tl.cross_validate` takes too."""

    batch_size: int | None
    compile: bool
    device: str
    encoder: str
    encoder_weights: str | Path | None
    fine_tune: Literal["all", "none"] | int | None
    learning_rate: float | None
    max_epochs: int | None
    mpp: Mpp
    network: Mapping[str, Any] | None
    patch_px: int
    patch_um: float
    patience: int
    precision: Precision
    stain_jitter: float
    variant: str | None


_ARGUMENTS = {"variant": "variant", "encoder": "encoder", "patch_px": "patch_px", "n_genes": "genes"}
"""Fields of the network's configuration that are arguments of their own."""


@dataclass(frozen=True)
class PatchSize:
    """Side of the patches, and at which scale they are cut, as in :func:`nh2st.tl.train`."""

    um: float
    px: int
    mpp: Mpp


@dataclass(frozen=True)
class TrainingSettings:
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
        self.estimator.check_fine_tune(self.fine_tune)
        if own := [name for name in _ARGUMENTS if name in (self.network or {})]:
            instead = ", ".join(f"`{_ARGUMENTS[name]}=`" for name in own)
            msg = f"network= names {', '.join(own)}; give {instead} instead."
            raise ValueError(msg)

    @property
    def estimator(self) -> Estimator:
        """What is trained."""
        return estimator_named(self.variant)

    def value(self, name: str) -> Any:
        """A setting, or the variant's default where it is None."""
        given = getattr(self, name)
        return self.estimator.defaults.get(name) if given is None else given

    @property
    def target_definition(self) -> Target:
        """Definition of the target."""
        return Target.named(self.target)

    @property
    def patch_size(self) -> PatchSize:
        """Size of the patches."""
        return PatchSize(self.patch_um, self.patch_px, self.mpp)

    @property
    def largest_scale(self) -> float:
        """Side of the largest patch that is seen of a spot, as a multiple of the patch size."""
        return max(self.estimator.configure(**{**(self.network or {}), "n_genes": 1}).patch_scales)

    def baseline(self, variant: str) -> TrainingSettings:
        """Settings of a baseline, on the same patches, target and encoder.

        One that is trained in the same way keeps the numbers of it, and what is trained of the encoder.
        """
        other = estimator_named(variant)
        trained = self.value("fine_tune") != "none" and other.defaults["fine_tune"] != "none"
        alike = other.defaults == self.estimator.defaults
        numbers: dict[str, Any] = {} if alike else dict.fromkeys(("max_epochs", "batch_size", "learning_rate"))
        return replace(self, variant=variant, network=None, fine_tune=self.fine_tune if trained else None, **numbers)

    def schedule(self) -> Schedule:
        """How long and how fast to train.

        Raises
        ------
        ValueError
            If a number is out of range.
        """
        return Schedule(
            max_epochs=at_least_one("max_epochs", self.value("max_epochs")),
            batch_size=at_least_one("batch_size", self.value("batch_size")),
            learning_rate=positive("learning_rate", self.value("learning_rate")),
            stain_jitter=not_negative("stain_jitter", self.stain_jitter),
            patience=at_least_one("patience", self.patience),
            seed=self.seed,
            compile=self.compile,
            early_stopping=self.estimator.early_stopping,
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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self.estimator.build(self.estimator.configure(**values), self.encoder_weights)
        if network.encoder is not None:
            network.encoder.fine_tune(self.value("fine_tune"))
        _check_likelihood(network.config, self.target_definition)
        size = None if self.mpp == NATIVE else self.patch_um
        return Model(network=network, genes=panel, target=self.target_definition, patch_um=size)


def _check_likelihood(config: NetworkConfig, target: Target) -> None:
    """Refuse count likelihoods of a target that is no function of a spot's own counts."""
    if config.needs_counts and target.smoothed:
        msg = (
            f"The likelihood {config.likelihood!r} is that of a spot's counts, but the target {target.kind!r} "
            "averages over neighbouring spots. Use target='default', or likelihood='mse'."
        )
        raise ValueError(msg)


def settings_of(given: Mapping[str, Any], source: Model | None) -> TrainingSettings:
    """Settings among the arguments of :func:`nh2st.tl.train`, checked; `source` is the model to be fine-tuned.

    Raises
    ------
    ValueError
        If a setting is out of range, or contradicts what the model has settled.
    """
    chosen = {field.name: given[field.name] for field in fields(TrainingSettings)}
    chosen["variant"] = chosen["variant"] or (VARIANT if source is None else source.config.variant)
    settings = TrainingSettings(**chosen)
    settings.schedule()
    if source is not None:
        _check_no_contradiction(source, given)
    return settings


def _check_no_contradiction(source: Model, given: Mapping[str, Any]) -> None:
    """Refuse arguments beside `init_from` that the model has settled already."""
    config = source.config.to_dict()
    given_network = (given["network"] or {}).items()
    network = {name: list(value) if isinstance(value, tuple) else value for name, value in given_network}
    settled = {
        "genes": given["genes"] is not None and given["genes"] != source.genes,
        "network": config | network != config,
        "variant": given["variant"] not in (None, source.config.variant),
        "encoder": given["encoder"] not in (ENCODER, source.config.encoder),
        "target": given["target"] not in ("default", source.target.kind),
        "mpp": given["mpp"] is not None and (given["mpp"] == NATIVE) != (source.patch_um is None),
    }
    if wrong := [name for name, contradicts in settled.items() if contradicts]:
        msg = f"init_from= settles {', '.join(f'{name}=' for name in wrong)}: leave it out, or train a new model."
        raise ValueError(msg)
