"""Where to compute and in which precision."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import torch

Precision: TypeAlias = Literal["auto", "32", "bf16"]
InferencePrecision: TypeAlias = Literal["auto", "32", "bf16", "int8"]


def resolve_device(device: str | torch.device) -> torch.device:
    """Device by name; ``"auto"`` takes CUDA, then Apple's MPS, then the CPU.

    Raises
    ------
    ValueError
        If the name is no device of torch.
    RuntimeError
        If the device is not there.
    """
    if device == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        msg = f'device={device!r} is unknown; use "auto", "cpu", "cuda", "cuda:1" or "mps".'
        raise ValueError(msg) from error
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(resolved.type, 1)
    if (resolved.index or 0) >= count:
        msg = f'device="{device}" was asked for, but torch sees {count} such device(s). Use device="auto" or "cpu".'
        raise RuntimeError(msg)
    return resolved


def resolve_precision(precision: Precision, device: torch.device) -> Literal["32", "bf16"]:
    """``"auto"`` is bfloat16 where the GPU computes in it, and float32 elsewhere."""
    check_precision(precision, Precision)
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32"


def check_precision(precision: str, known: Any) -> None:
    """Make sure that a precision is one of a type of literals.

    Raises
    ------
    ValueError
        If it is not.
    """
    if precision not in get_args(known):
        *names, last = (f'"{name}"' for name in get_args(known))
        msg = f"precision must be {', '.join(names)} or {last}, not {precision!r}."
        raise ValueError(msg)


def autocast(device: torch.device, precision: Literal["32", "bf16"]) -> torch.autocast:
    """Context in which the network runs."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
