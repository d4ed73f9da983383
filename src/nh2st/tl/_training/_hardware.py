"""Where to train: on which devices, of how many machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from nh2st._arguments import at_least_one
from nh2st._device import Precision, resolve_device, resolve_precision

Devices: TypeAlias = int | list[int] | Literal["auto"]


@dataclass(frozen=True)
class Place:
    """Where to train: kind of device and precision, how many devices on how many nodes, and Lightning's strategy."""

    device: torch.device
    precision: Literal["32", "bf16"]
    devices: Devices
    num_nodes: int
    strategy: str


def resolve_place(
    device: str | torch.device, precision: Precision, devices: Devices, num_nodes: int, strategy: str
) -> Place:
    """Check that devices of the kind are there as asked for.

    Raises
    ------
    ValueError
        If the arguments contradict each other.
    RuntimeError
        If a device is not there.
    """
    resolved = resolve_device(device)
    several = devices != 1 or at_least_one("num_nodes", num_nodes) > 1
    if several and resolved.index is not None:
        msg = f'device="{device}" names a single device: for several, give their kind, device="{resolved.type}".'
        raise ValueError(msg)
    _check_devices(devices, resolved)
    return Place(resolved, resolve_precision(precision, resolved), devices, num_nodes, strategy)


def _check_devices(devices: Devices, device: torch.device) -> None:
    if devices == "auto":
        return
    numbers = list(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else devices
    if isinstance(numbers, int) and not isinstance(numbers, bool):
        needed = at_least_one("devices", numbers)
    elif isinstance(numbers, list) and numbers and all(isinstance(number, int) and number >= 0 for number in numbers):
        needed = max(numbers) + 1
        if device.type != "cuda" or len(set(numbers)) < len(numbers):
            msg = f"devices={numbers} must be different GPUs; training is to run on {device.type!r}."
            raise ValueError(msg)
    else:
        msg = f'devices must be a number of devices, a list of GPUs such as [0, 1], or "auto", not {devices!r}.'
        raise ValueError(msg)
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, needed)
    if needed > there:
        msg = f'devices={devices} was asked for, but torch sees {there} of type {device.type!r}. Use devices="auto".'
        raise RuntimeError(msg)
