"""The one interface of everything that predicts expression from images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import torch

from nh2st._device import InferencePrecision, resolve_device, resolve_precision
from nh2st._estimators._baselines import Baselines
from nh2st._estimators._images import SpotImages
from nh2st._estimators._training_spots import TrainingSpots, joined_neighbors, section_numbers, unmeasured
from nh2st._expression import Target
from nh2st._patches import Windows, plan_windows
from nh2st._space import neighborhood
from nh2st.nn import Encoder, NetworkConfig

if TYPE_CHECKING:
    from nh2st._sections import Section


FeaturesOf: TypeAlias = Callable[[Encoder], np.ndarray] | None
"""Pooled features (n, n_features) of all patches by a frozen encoder."""


@dataclass(frozen=True)
class EstimatorConfig(NetworkConfig):
    """Configuration of an estimator that is none of the networks of :mod:`nh2st.nn`, whose rules it does without."""

    def _check_variant(self) -> None:
        pass


@dataclass(frozen=True)
class Source:
    """Sections, and the windows of their patches."""

    sections: Sequence[Section]
    windows: Sequence[Windows]

    def scaled(self, factor: float) -> list[Windows]:
        """Windows of another side around the same spots, with as many pixels."""
        pairs = zip(self.sections, self.windows, strict=True)
        return [windows if factor == 1 else _scaled(section, windows, factor) for section, windows in pairs]


def _scaled(section: Section, windows: Windows, factor: float) -> Windows:
    return plan_windows(section.image, section.pixels, factor * windows.side * windows.level.scale, windows.patch_px)


@dataclass(frozen=True)
class Encoding:
    """Where and how patches are encoded, as in :func:`nh2st.tl.predict`."""

    device: Any
    precision: InferencePrecision
    batch_size: int = 64
    client: Any = None

    @property
    def place(self) -> tuple[torch.device, Literal["32", "bf16"]]:
        """Device and precision of a network that is run here, not by an integer engine."""
        device = resolve_device(self.device)
        return device, resolve_precision("32" if self.precision == "int8" else self.precision, device)


@dataclass(frozen=True)
class Predicted:
    """What was predicted for some spots: arrays (n, n_genes), float32, those that there are."""

    mean: np.ndarray
    ridge: np.ndarray | None = None
    std: np.ndarray | None = None


class ModelLike(Protocol):
    """A model as far as estimators look into it: :class:`nh2st.models.Model`, which lies above them."""

    network: Any
    genes: list[str]
    target: Target
    baselines: Baselines | None
    history: list[dict[str, float]]


class Run(Protocol):
    """How and where a network is trained, whatever runs the loop."""

    @property
    def spots(self) -> TrainingSpots:
        """All spots, or those that train or validate."""

    @property
    def validation(self) -> np.ndarray:
        """Which of the spots that train or validate are held out, boolean."""

    @property
    def seed(self) -> int:
        """Seed of all random choices."""

    def on(self, spots: TrainingSpots, validation: np.ndarray | None = None) -> Run:
        """The same on other spots; with other ones held out, where they are given."""

    def trial(self, folder: Path) -> Run:
        """The same in another folder, for a model that is not kept."""

    def train(self, model: Any) -> Any:
        """Train the model's network, and give back the model with the best weights."""


class Estimator(ABC):
    """Predicts the expression of spots from their images.

    An estimator is a set of rules without a state; what it learns is in the network of a model. Training,
    cross-validation, prediction and evaluation know this interface alone.
    """

    variant: ClassVar[str]
    """Its name in ``variant=`` and in the files of its models."""
    title: ClassVar[str]
    """Name of a baseline for people; a network is the model of its table of scores."""
    config_class: ClassVar[type[NetworkConfig]] = NetworkConfig
    """Class of its network's configuration."""
    defaults: ClassVar[Mapping[str, Any]] = {
        "fine_tune": "none",
        "max_epochs": 1,
        "batch_size": 64,
        "learning_rate": 1e-3,
    }
    """Settings of :func:`nh2st.tl.train` that are not given."""
    early_stopping: ClassVar[bool] = False
    """Whether validation spots end the training, and choose its best epoch."""
    training_parts: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of weights that prediction does without."""
    ridge_has_encoder: ClassVar[bool] = False
    """Whether the linear baseline of its models looks at patches, through an encoder of its own."""

    def predicts(self, name: str) -> bool:
        """Whether a prediction needs a weight of the network, or of one of its members, by its name."""
        if name.startswith("members."):
            name = name.split(".", 2)[-1]
        return not name.startswith(self.training_parts) if self.training_parts else True

    def check_fine_tune(self, fine_tune: str | int | None) -> None:  # noqa: B027 - most take any
        """Refuse a trained part of the encoder that it cannot have."""

    def configure(self, **values: Any) -> NetworkConfig:
        """Configuration of its network, from fields that differ from the defaults."""
        return NetworkConfig.for_variant(self.variant, **values)

    @abstractmethod
    def build(self, config: NetworkConfig, encoder_weights: str | PathLike[str] | None) -> Any:
        """Untrained network, a torch module with `config` and `encoder`; None where weights are loaded afterwards."""

    @abstractmethod
    def read_key(self, network: Any) -> tuple:
        """What tells that which is read for one network from that for another; empty where it is the patches."""

    @abstractmethod
    def read(self, network: Any, source: Source, encoding: Encoding) -> SpotImages:
        """Read what the network takes of all patches."""

    @abstractmethod
    def fit(
        self, start: ModelLike, run: Run, rows: np.ndarray, *, new: bool = True, features: FeaturesOf = None
    ) -> Any:
        """Train on some of the spots and give back the model with the best weights.

        Parameters
        ----------
        start
            The model to start from.
        run
            How and where to train; its spots are all spots, its validation spots are among the rows alone.
        rows
            Boolean (n,): which spots train or validate. Nothing measured in others has a part.
        new
            Whether the network is new: what is set from the training spots before training is then set.
        features
            Encodes all patches by a frozen encoder; baselines are fitted where it is given.
        """

    @abstractmethod
    def predict(self, network: Any, spots: TrainingSpots, rows: np.ndarray, encoding: Encoding) -> Predicted:
        """Predict the boolean `rows` (n,) among all spots, from what was read of them."""

    def predict_all(
        self, model: ModelLike, source: Source, encoding: Encoding, *, ridge: bool = False
    ) -> list[Predicted]:
        """Predict all spots of each section; with `ridge` also by the linear baseline of the model, if it has one."""
        sizes = [len(windows) for windows in source.windows]
        numbers = section_numbers(sizes)
        neighbors = joined_neighbors([neighborhood(section.grid) for section in source.sections])
        images = self.read(model.network, source, encoding)
        spots = unmeasured(images, neighbors, numbers, len(model.genes))
        predicted = self.predict(model.network, spots, np.ones(len(numbers), dtype=bool), encoding)
        return [
            Predicted(predicted.mean[mine], std=None if predicted.std is None else predicted.std[mine])
            for mine in (numbers == number for number in range(len(sizes)))
        ]
