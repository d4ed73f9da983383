"""How many micrometres a pixel spans, and the patches' windows that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from nh2st._keys import MICROMETRE_SYSTEMS, MPP, NAMESPACE, VISIUM_PITCH_UM
from nh2st._patches import Windows, plan_windows
from nh2st._sections import Section
from nh2st._sections._geometry import affine_to, length_scale, systems_of
from nh2st._settings import logger

Mpp: TypeAlias = float | Literal["native"] | None

NATIVE = "native"
_MAX_SIDE = 2
_LEAST_SIDE_PX = 2
_COARSE_SIDE_PX = 16


def resolve_mpp(section: Section, mpp: Mpp = None) -> float | Literal["native"]:
    """Micrometres per scale-0 pixel of the section's image.

    Taken from the argument, else ``sdata.attrs["nh2st"]["mpp"]``, else a coordinate system in micrometres, else a
    Visium array.

    Raises
    ------
    ValueError
        If the scale is unknown or not a positive number.
    """
    if mpp == NATIVE:
        return NATIVE
    if mpp is not None:
        return _positive(mpp, "mpp=", 'micrometres per pixel, or "native"')
    if (stored := _stored(section)) is not None:
        return stored
    found = _from_micrometres(section) or _from_visium_array(section)
    if found is None:
        msg = (
            f"The scale of image {section.image_key!r} (section {section.name!r}) is unknown. Ways out: pass its "
            "micrometres per pixel (`mpp=0.5`), estimate it from the spots (`nh.pp.estimate_mpp(sdata, pitch_um=200)`),"
            ' or cut patches in plain pixels (`mpp="native"`).'
        )
        raise ValueError(msg)
    return found


def _stored(section: Section) -> float | None:
    place = f"sdata.attrs[{NAMESPACE!r}][{MPP!r}]"
    scales = section.sdata.attrs.get(NAMESPACE, {}).get(MPP, {})
    if not isinstance(scales, Mapping):
        msg = f"{place} must be a dictionary from image to micrometres per pixel, not {scales!r}."
        raise ValueError(msg)
    key = section.image_key
    return _positive(scales[key], f"{place}[{key!r}]", "micrometres per pixel") if key in scales else None


def _positive(value: object, source: str, what: str) -> float:
    if isinstance(value, int | float | np.number) and math.isfinite(value) and value > 0:
        return float(value)
    msg = f"{source} must be a positive number of {what}, not {value!r}."
    raise ValueError(msg)


def _from_micrometres(section: Section) -> float | None:
    image = section.sdata.images[section.image_key]
    for name in systems_of(image):
        if name.lower() in MICROMETRE_SYSTEMS:
            mpp = length_scale(affine_to(image, name))
            logger.info("Section %r: %.4g um/px, from the coordinate system %r.", section.name, mpp, name)
            return mpp
    return None


def _from_visium_array(section: Section) -> float | None:
    from nh2st.pp._lattice import grid_kind
    from nh2st.pp._scale import array_mpp

    if section.array is None or grid_kind(section.pixels, section.array) != "hexagonal":
        return None
    mpp = array_mpp(section.pixels, section.array, VISIUM_PITCH_UM)
    logger.info("Section %r: %.4g um/px, from its Visium array of %g um pitch.", section.name, mpp, VISIUM_PITCH_UM)
    return mpp


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
    return [patch_windows(one, patch_um=patch_um, patch_px=patch_px, mpp=scale) for one, scale in pairs]


def scaled_windows(section: Section, windows: Windows, factor: float) -> Windows:
    """Windows of another side around the same spots, with as many pixels."""
    if factor == 1:
        return windows
    return plan_windows(section.image, section.pixels, factor * windows.side * windows.level.scale, windows.patch_px)


def patch_windows(section: Section, *, patch_um: float, patch_px: int, mpp: Mpp = None) -> Windows:
    """Windows of the section's patches, after checking that every spot lies on the image.

    Raises
    ------
    ValueError
        If spots lie wholly outside the image, the scale is unknown, or a patch would dwarf the image.
    """
    resolved = resolve_mpp(section, mpp)
    _positive(patch_px, "patch_px=", "pixels")
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
    side = _positive(patch_um, "patch_um=", "micrometres") / mpp
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
