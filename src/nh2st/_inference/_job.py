"""What is computed for every patch, and how a batch is brought through the device."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from nh2st._device import InferencePrecision, autocast, resolve_device, resolve_precision
from nh2st._inference._int8 import check_int8
from nh2st._inference._openvino import with_openvino
from nh2st._patches import Pyramid, Windows
from nh2st._settings import logger

SectionPatches: TypeAlias = tuple[str, Pyramid, Windows]
"""Name of a section, its image, and the windows of its patches."""

_CONVERTING = Lock()
"""Threads of a cluster's worker share a job, each of them prepares it."""


def computed_in(device: str | torch.device, precision: InferencePrecision) -> Literal["32", "bf16", "int8"]:
    """The precision that a device computes in.

    Raises
    ------
    ValueError
        If device or precision are unknown or do not go together.
    ImportError
        If packages for 8-bit integers are missing.
    RuntimeError
        If the device is not there.
    """
    place = resolve_device(device)
    if precision != "int8":
        return resolve_precision(precision, place)
    check_int8(place)
    return precision


@dataclass
class Job:
    """A module that gives one or several rows for every patch.

    `module` takes uint8 patches (k, px, px, 3) and gives a tuple of tensors (k, width) of types that numpy knows.
    `device` and `precision` are resolved where the job runs, which may be another machine. With `order` "F" rows are
    collected column by column, as sparse layers hold them. With `openvino_px`, the side of the patches, encoders are
    run by OpenVINO where the job runs on a CPU; with `precision` "int8" in 8-bit integers.
    """

    module: nn.Module
    batch_size: int
    device: str | torch.device = "auto"
    precision: InferencePrecision = "auto"
    order: Literal["C", "F"] = "C"
    openvino_px: int | None = None
    _place: torch.device = field(default=torch.device("cpu"), init=False)
    _cast: Literal["32", "bf16"] = field(default="32", init=False)
    _halved: bool = field(default=False, init=False)

    def prepare(self) -> None:
        """Bring the module to the device, if it is not there yet."""
        self._place = resolve_device(self.device)
        computed = computed_in(self._place, self.precision)
        self._cast = "bf16" if computed == "bf16" else "32"
        self.module.to(self._place).eval()
        with _CONVERTING:
            if self.openvino_px is not None and self._place.type == "cpu" and computed != "bf16":
                self.module, self.openvino_px = with_openvino(self.module, self.openvino_px, computed), None

    def portable(self) -> Job:
        """The same job with its module on the CPU, as other machines may have no other device."""
        weights = (*self.module.parameters(), *self.module.buffers())
        on_cpu = all(weight.device.type == "cpu" for weight in weights)
        return self if on_cpu else replace(self, module=copy.deepcopy(self.module).cpu())

    def compute(self, patches: np.ndarray) -> tuple[Tensor, ...]:
        """Rows for a batch, left on the device. A GPU out of memory gets half the batch from then on.

        Raises
        ------
        RuntimeError
            If even half a batch does not fit.
        """
        if not self._halved:
            try:
                return self._forward(patches)
            except torch.OutOfMemoryError:
                self._halved = True
            logger.warning(
                "%s is out of memory with batches of %d patches; going on with half of that.",
                self._place,
                self.batch_size,
            )
            # Not within the handler, where the error still holds what the network had computed.
            torch.cuda.empty_cache()
        try:
            parts = [self._forward(half) for half in np.array_split(patches, 2) if len(half)]
        except torch.OutOfMemoryError as error:
            msg = (
                f"{self._place} is out of memory even with batches of {-(-self.batch_size // 2)} patches. Lower "
                '`batch_size=`, free its memory, or use `device="cpu"`.'
            )
            raise RuntimeError(msg) from error
        return tuple(torch.cat(rows) for rows in zip(*parts, strict=True))

    def _forward(self, patches: np.ndarray) -> tuple[Tensor, ...]:
        images = torch.from_numpy(patches).to(self._place)
        with torch.inference_mode(), autocast(self._place, self._cast):
            return self.module(images)
