"""How many micrometres a pixel of a section's image is, and where that is known from."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np

from nh2st._keys import MICROMETRE_SYSTEMS, MPP, NAMESPACE, VISIUM_PITCH_UM
from nh2st._sections._geometry import affine_to, length_scale, systems_of
from nh2st._sections._records import scales_of
from nh2st._sections._section import Section
from nh2st._settings import logger
from nh2st._space import array_mpp

Mpp: TypeAlias = float | Literal["native"] | None

NATIVE: Literal["native"] = "native"


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
        return check_positive(mpp, "mpp=", 'micrometres per pixel, or "native"')
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
    scales, key = scales_of(section.sdata, MPP), section.image_key
    place = f"sdata.attrs[{NAMESPACE!r}][{MPP!r}][{key!r}]"
    return check_positive(scales[key], place, "micrometres per pixel") if key in scales else None


def check_positive(value: object, source: str, what: str) -> float:
    """Give the number back if it is positive and finite; `source` and `what` name it in the error."""
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
    if section.array is None or section.pixel_grid.kind != "hexagonal":
        return None
    mpp = array_mpp(section.pixel_grid, VISIUM_PITCH_UM)
    logger.info("Section %r: %.4g um/px, from its Visium array of %g um pitch.", section.name, mpp, VISIUM_PITCH_UM)
    return mpp
