"""Scales of images in the attributes of objects: which were estimated by this package, and how they are written."""

from __future__ import annotations

import math

from spatialdata import SpatialData

from nh2st._keys import MPP, NAMESPACE
from nh2st._sections import scales_of

_ESTIMATED = "estimated_mpp"
"""In ``attrs["nh2st"]``: scales that were estimated, by which those are told apart that were given."""


def check_scale(sdata: SpatialData, image: str, mpp: float, *, overwrite: bool) -> None:
    """Refuse to replace a scale that was given by another one.

    Raises
    ------
    ValueError
        If there is one, this package did not estimate it, and `overwrite` is not set.
    """
    there = scales_of(sdata, MPP)
    estimated = scales_of(sdata, _ESTIMATED).get(image)
    if overwrite or image not in there or there[image] == estimated or _agree(there[image], mpp):
        return
    msg = (
        f"attrs[{NAMESPACE!r}][{MPP!r}][{image!r}] is {there[image]!r}, which nh2st did not estimate; the spots say "
        f"{mpp:.4f}. Keep it, or replace it with `overwrite=True`."
    )
    raise ValueError(msg)


def write_scale(sdata: SpatialData, image: str, mpp: float) -> None:
    """Keep the estimated micrometres per pixel of an image."""
    for name in (MPP, _ESTIMATED):
        sdata.attrs[NAMESPACE] = {**sdata.attrs.get(NAMESPACE, {}), name: {**scales_of(sdata, name), image: mpp}}


def _agree(given: object, mpp: float) -> bool:
    return isinstance(given, int | float) and math.isclose(given, mpp, rel_tol=1e-6)
