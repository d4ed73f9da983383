"""A trained model: the network and everything that is needed to use it on a new section."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nh2st._estimators import Baselines, Estimator, estimator_of
from nh2st._expression import Target
from nh2st._torch import add_tensors
from nh2st.models._file import write_file
from nh2st.nn import NetworkConfig

_BASELINE_ENCODER = "baselines.encoder."


@dataclass
class Model:
    """A trained NH2ST network with its gene panel, target, patch size, baselines and provenance.

    Returned by :func:`nh2st.tl.train` and :func:`nh2st.models.load`; used by :func:`nh2st.tl.predict`.

    Examples
    --------
    >>> import nh2st as nh
    >>> model = nh.models.load("model.safetensors")  # doctest: +SKIP
    >>> model.genes[:2], model.patch_um  # doctest: +SKIP
    (['ERBB2', 'FASN'], 112.0)
    """

    network: Any
    """The network: a :class:`nh2st.nn.ContextNetwork`, a :class:`nh2st.nn.NH2ST`, or that of another estimator."""
    genes: list[str]
    """The panel, in the order of the network's outputs."""
    target: Target
    """What the predictions are: normalisation and units."""
    patch_um: float | None
    """Side of the patches in micrometres; `None` for patches in plain pixels."""
    baselines: Baselines | None = None
    """Training mean and ridge, to be shown beside the model by :func:`nh2st.tl.evaluate`."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry an epoch: losses and validation scores."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Plain values: package version, seed, training sections and groups, scale of their images, settings."""
    inference_only: bool = False
    """Whether it came from a file of the predicting part in half precision; the other parts are then untrained."""

    @property
    def config(self) -> NetworkConfig:
        """Settings of the network."""
        return self.network.config

    @property
    def estimator(self) -> Estimator:
        """How the network is trained and predicts."""
        return estimator_of(self.network)

    @property
    def patch_px(self) -> int:
        """Side of the patches in pixels."""
        return self.config.patch_px

    @property
    def name(self) -> str:
        """Short name: variant, encoder and the first digits of the checksum."""
        return f"nh2st-{self.config.variant}-{self.config.encoder}-{self.sha256[:8]}"

    @cached_property
    def sha256(self) -> str:
        """Checksum over header (without the history) and weights, the same before and after saving."""
        tensors = self.tensors()
        header = {name: value for name, value in self._header(tensors).items() if name != "history"}
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        add_tensors(digest, tensors)
        return digest.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """The weights that a file holds, by name, on the CPU.

        An encoder that training left as it was is that of the ridge baseline too, and is there once.
        """
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.baselines is not None:
            if self.baselines.encoder is not None:
                encoder = self.baselines.encoder.state_dict()
                tensors |= {f"{_BASELINE_ENCODER}{name}": tensor for name, tensor in encoder.items()}
            for name in ("mean", "coefficients", "intercept"):
                tensors[f"baselines.{name}"] = getattr(self.baselines, name)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if self.inference_only:
            tensors = self._predicting_part(tensors)
        return _without_second_encoder(tensors)

    def save(self, path: str | Path, *, inference_only: bool = False) -> Path:
        """Write the model to one safetensors file with a JSON header.

        The file is written under a temporary name and renamed, so that an interruption leaves no half file.

        Parameters
        ----------
        path
            File to write, such as ``model.safetensors``; replaced if it exists.
        inference_only
            Leave out the parts that only training needs, and store matrices and kernels in half precision: a file to
            publish. The model that is loaded from it computes in single precision from these rounded weights, and
            always saves in this way. It can be fine-tuned; the parts that are not there start afresh.

        Returns
        -------
        The path.

        Raises
        ------
        OSError
            If the folder cannot be written to, or the disk is full.
        """
        model = replace(self, inference_only=True) if inference_only else self
        tensors = model.tensors()
        return write_file(Path(path), model._header(tensors), tensors)

    def _header(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Everything but the weights, as plain JSON values."""
        return {
            "config": self.config.to_dict(),
            "genes": self.genes,
            "target": self.target.to_dict(),
            "patch_um": self.patch_um,
            "baselines": self.baselines is not None,
            "shared_encoder": (
                self.baselines is not None
                and self.baselines.encoder is not None
                and not under(_BASELINE_ENCODER, tensors)
            ),
            "inference_only": self.inference_only,
            "history": self.history,
            "provenance": self.provenance,
        }

    def _predicting_part(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        modules: list[tuple[str, nn.Module]] = [("network.", self.network)]
        if self.baselines is not None and self.baselines.encoder is not None:
            modules.append((_BASELINE_ENCODER, self.baselines.encoder))
        # Biases and statistics of normalisations are few, and matter most.
        large = {
            prefix + name for prefix, module in modules for name, weight in module.named_parameters() if weight.ndim > 1
        }
        return {
            name: _halved(tensor) if name in large else tensor
            for name, tensor in tensors.items()
            if not name.startswith("network.") or self.estimator.predicts(name.removeprefix("network."))
        }

    def summary(self) -> str:
        """Describe the model in a few lines of text."""
        weights = sum(
            weight.numel()
            for name, weight in self.network.named_parameters()
            if not self.inference_only or self.estimator.predicts(name)
        )
        form = ", rounded to half precision, for prediction" if self.inference_only else ""
        patch = f"{self.patch_px} px" + ("" if self.patch_um is None else f" of {self.patch_um:g} um")
        scores = [row["val_pearson"] for row in self.history if "val_pearson" in row] or [float("nan")]
        kept = f"best mean PCC {max(scores):.3f}" if self.estimator.early_stopping else f"mean PCC {scores[-1]:.3f}"
        first = ", ".join(self.genes[:5]) + (", ..." if len(self.genes) > 5 else "")
        lines = [
            f"{self.name}",
            f"  panel        {len(self.genes)} genes: {first}",
            f"  target       {self.target.describe()}",
            f"  patches      {patch}",
            f"  encoder      {self.config.encoder}",
            f"  weights      {weights / 1e6:.1f} million{form}",
            f"  trained on   {', '.join(self.provenance.get('sections', [])) or 'unknown'}",
            f"  validation   {kept} ({self.provenance.get('validation', 'unknown split')})",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        form = ", for prediction" if self.inference_only else ""
        return f"Model({self.name}: {len(self.genes)} genes, {len(self.history)} epochs{form})"


def _halved(tensor: Tensor) -> Tensor:
    half = tensor.half()
    return half if torch.isfinite(half).all() else tensor


def _without_second_encoder(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the encoder of the baselines where the network's is equal."""
    encoder, second = (under(prefix, tensors) for prefix in ("network.encoder.", _BASELINE_ENCODER))
    if encoder.keys() != second.keys() or not all(torch.equal(encoder[name], second[name]) for name in encoder):
        return tensors
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_BASELINE_ENCODER)}


def not_finite(tensors: dict[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinite values; None where there is none."""
    floating = ((name, tensor) for name, tensor in tensors.items() if tensor.is_floating_point())
    return next((name for name, tensor in floating if not torch.isfinite(tensor).all()), None)


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
