"""What this package keeps in ``uns`` of a table and in ``attrs`` of a SpatialData."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anndata import AnnData
from spatialdata import SpatialData

from nh2st._keys import NAMESPACE


def records_of(table: AnnData) -> dict[str, Any]:
    """Records of the table by the name of the result; an empty dictionary where there are none.

    Raises
    ------
    ValueError
        If ``uns["nh2st"]`` holds something else.
    """
    return _ours(table.uns, "uns")


def scales_of(sdata: SpatialData, name: str) -> Mapping[str, Any]:
    """Micrometres per pixel by the name of the image; `name` tells given ones from those that were estimated.

    Raises
    ------
    ValueError
        If something else is kept there.
    """
    scales = _ours(sdata.attrs, "sdata.attrs").get(name, {})
    if not isinstance(scales, Mapping):
        place = f"sdata.attrs[{NAMESPACE!r}][{name!r}]"
        msg = f"{place} must be a dictionary from image to micrometres per pixel, not {scales!r}."
        raise ValueError(msg)
    return scales


def _ours(kept: Mapping[str, Any], called: str) -> dict[str, Any]:
    ours = kept.get(NAMESPACE, {})
    if not isinstance(ours, dict):
        msg = f"{called}[{NAMESPACE!r}] was not written by nh2st, which keeps its records there. Rename it."
        raise ValueError(msg)
    return ours
