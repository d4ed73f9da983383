"""A trained model: the network and everything that is needed to use it on a new section."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nh2st.models._baselines import Baselines
from nh2st.models._file import write_file
from nh2st.nn import NH2ST, NetworkConfig
from nh2st.pp._target import Target


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

    network: NH2ST
    """The network, an instance of :class:`nh2st.nn.NH2ST`."""
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

    @property
    def config(self) -> NetworkConfig:
        """Settings of the network."""
        return self.network.config

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
        header = {name: value for name, value in self.header().items() if name != "history"}
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def header(self) -> dict[str, Any]:
        """Everything but the weights, as plain JSON values."""
        return {
            "config": self.config.to_dict(),
            "genes": self.genes,
            "target": self.target.to_dict(),
            "patch_um": self.patch_um,
            "baselines": self.baselines is not None,
            "history": self.history,
            "provenance": self.provenance,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name, on the CPU."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.baselines is not None:
            encoder = self.baselines.encoder.state_dict()
            tensors |= {f"baselines.encoder.{name}": tensor for name, tensor in encoder.items()}
            for name in ("mean", "coefficients", "intercept"):
                tensors[f"baselines.{name}"] = getattr(self.baselines, name)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def save(self, path: str | Path) -> Path:
        """Write the model to one safetensors file with a JSON header.

        The file is written under a temporary name and renamed, so that an interruption leaves no half file.

        Parameters
        ----------
        path
            File to write, such as ``model.safetensors``; replaced if it exists.

        Returns
        -------
        The path.

        Raises
        ------
        OSError
            If the folder cannot be written to, or the disk is full.
        """
        return write_file(Path(path), self.header(), self.tensors())

    def summary(self) -> str:
        """Describe the model in a few lines of text."""
        weights = sum(tensor.numel() for tensor in self.network.parameters())
        patch = f"{self.patch_px} px" + ("" if self.patch_um is None else f" of {self.patch_um:g} um")
        best = max((row["val_pearson"] for row in self.history if "val_pearson" in row), default=float("nan"))
        first = ", ".join(self.genes[:5]) + (", ..." if len(self.genes) > 5 else "")
        lines = [
            f"{self.name}",
            f"  panel        {len(self.genes)} genes: {first}",
            f"  target       {self.target.describe()}",
            f"  patches      {patch}",
            f"  encoder      {self.config.encoder}",
            f"  weights      {weights / 1e6:.1f} million",
            f"  trained on   {', '.join(self.provenance.get('sections', [])) or 'unknown'}",
            f"  validation   best mean PCC {best:.3f} ({self.provenance.get('validation', 'unknown split')})",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Model({self.name}: {len(self.genes)} genes, {len(self.history)} epochs)"
