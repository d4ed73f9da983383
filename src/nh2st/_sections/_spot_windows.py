"""Windows of the patches around a section's spots, at a physical size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from nh2st._patches import Windows, plan_windows
from nh2st._sections._image_scale import Mpp, check_positive, resolve_mpp
from nh2st._sections._section import Section
from nh2st._settings import logger

_MAX_SIDE = 2
_LEAST_SIDE_PX = 2
_COARSE_SIDE_PX = 16


def windows_of(
    sections: Sequence[Section], *, patch_um: float, patch_px: int, mpp: Sequence[float | Literal["native"]]
) -> list[Windows]:
    """Windows of the patches of each section, at the scale that :func:`resolve_mpp` gave for it.

    Raises
    ------
    ValueError
        As :func:`patch_windows` does.
    """
    pairs = zip(sections, mpp, strict=True)
    return [patch_windows(section, patch_um=patch_um, patch_px=patch_px, mpp=scale) for section, scale in pairs]


def patch_windows(section: Section, *, patch_um: float, patch_px: int, mpp: Mpp = None) -> Windows:
    """Windows of the section's patches, after checking that every spot lies on the image.

    Raises
    ------
    ValueError
        If spots lie wholly outside the image, the scale is unknown, or a patch would dwarf the image.
    """
    resolved = resolve_mpp(section, mpp)
    check_positive(patch_px, "patch_px=", "pixels")
    side = float(patch_px) if isinstance(resolved, str) else _side(section, patch_um, resolved)
    pixels = section.pixels
    _check_inside(section, pixels)
    windows = plan_windows(section.image, pixels, side, patch_px)
    if beyond := int(windows.beyond_border.sum()):
        logger.info(
            "Section %r: %d of %d patches reach beyond the image and are padded with white.",
            section.name,
            beyond,
            len(pixels),
        )
    return windows


def _side(section: Section, patch_um: float, mpp: float) -> float:
    """Side of a patch in scale-0 pixels."""
    side = check_positive(patch_um, "patch_um=", "micrometres") / mpp
    if side > _MAX_SIDE * max(section.image.shape):
        height, width = section.image.shape
        msg = (
            f"At {mpp:g} um per pixel a patch of {patch_um:g} um is {side:.0f} px wide, but image "
            f"{section.image_key!r} has only {width} x {height} px. Check the scale (`mpp=`), or lower `patch_um=`."
        )
        raise ValueError(msg)
    if side < _LEAST_SIDE_PX:
        msg = (
            f"At {mpp:g} um per pixel a patch of {patch_um:g} um is {side:.2g} px of image {section.image_key!r}: it "
            "shows nothing. Check the scale (`mpp=`), or use the full-resolution image."
        )
        raise ValueError(msg)
    if side < _COARSE_SIDE_PX:
        logger.warning(
            "Section %r: a patch of %g um is only %.1f px of image %r, too coarse to see cells. Use the "
            "full-resolution image.",
            section.name,
            patch_um,
            side,
            section.image_key,
        )
    return side


def _check_inside(section: Section, pixels: np.ndarray) -> None:
    height, width = section.image.shape
    radius = np.nan_to_num(section.pixel_radius)
    nearest = np.clip(pixels, 0, (width, height))
    outside = np.linalg.norm(pixels - nearest, axis=1) > radius
    if outside.any():
        names = ", ".join(map(repr, section.adata.obs_names[section.rows[outside]][:5]))
        msg = (
            f"{outside.sum()} of {len(pixels)} spots of section {section.name!r} lie wholly outside the image "
            f"{section.image_key!r} of {width} x {height} px (first: {names}). Check the transformations, or mask "
            "these spots with `spots=` and a boolean column of obs."
        )
        raise ValueError(msg)
