"""Encoders in 8-bit integers, whose scales are set on made-up tissue: what a patch gives depends on no other patch."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nh2st._inference._telemetry import without_telemetry
from nh2st._phantom import draw_stain, grow_tissue, stain_tissue
from nh2st.nn import Encoder

_N_PATCHES = 64
_PATCHES_A_STAIN = 8
_TISSUE_UM = 600
_SIDES_UM = (112, 224, 448)
_LEAST_EXPLAINED = 0.5


def check_int8(place: torch.device) -> None:
    """Make sure that encoders can be run in 8-bit integers.

    Raises
    ------
    ValueError
        If the device is no CPU.
    ImportError
        If the packages for it are missing.
    """
    if place.type != "cpu":
        msg = f'precision="int8" is for CPUs, not for {str(place)!r}. Use device="cpu", or precision="auto".'
        raise ValueError(msg)
    if missing := [package for package in ("openvino", "nncf") if find_spec(package) is None]:
        msg = f'precision="int8" needs {" and ".join(missing)}: pip install "nh2st[int8]".'
        raise ImportError(msg)


def quantize(model: Any, patch_px: int, *, transformer: bool) -> Any:
    """A model of OpenVINO with weights and activations in 8-bit integers, calibrated on made-up tissue."""
    with without_telemetry():
        import nncf

    dataset = nncf.Dataset([patch[None] for patch in tissue_patches(patch_px, _N_PATCHES, seed=0)])
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    # It tells of its progress in both.
    with _at_level("nncf", logging.ERROR), redirect_stdout(io.StringIO()):
        return nncf.quantize(model, dataset, subset_size=_N_PATCHES, model_type=kind)


@contextmanager
def _at_level(logger_name: str, level: int) -> Iterator[None]:
    log = logging.getLogger(logger_name)
    before = log.level
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(before)


def compare_features(encoder: Encoder, given: Tensor, images: Tensor) -> float:
    """Share of the exact features' variance over patches that the rounded ones explain.

    Parameters
    ----------
    encoder
        What gives the exact features.
    given
        What the rounded encoder gives in place of the encoder's own map or tokens.
    images
        The patches.

    Raises
    ------
    ValueError
        If it is too little.
    """
    exact = encoder.features(images)
    error = (encoder.pool(given) - exact).square().sum() / (exact - exact.mean(dim=0)).square().sum()
    explained = 1 - float(error)
    if not explained >= _LEAST_EXPLAINED:
        msg = f"rounded features explain only {max(0, explained):.0%} of the variance of the exact ones."
        raise ValueError(msg)
    return explained


def tissue_patches(patch_px: int, n_patches: int, seed: int) -> np.ndarray:
    """Patches (n, patch_px, patch_px, 3) of synthetic tissue in several stains and magnifications."""
    rng = np.random.default_rng(seed)
    patches = np.empty((n_patches, patch_px, patch_px, 3), dtype=np.uint8)
    for number in range(n_patches):
        if number % _PATCHES_A_STAIN == 0:
            slide = Image.fromarray(stain_tissue(rng, grow_tissue(rng, _TISSUE_UM), draw_stain(rng)))
        side = _SIDES_UM[number % len(_SIDES_UM)]
        x, y = rng.integers(0, _TISSUE_UM - side, 2)
        box = (x, y, x + side, y + side)
        patches[number] = np.asarray(slide.resize((patch_px, patch_px), Image.Resampling.BILINEAR, box=box))
    return patches
