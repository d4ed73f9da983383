"""What is known of the assay that sections come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nh2st._sections import Section
from nh2st._space import GridKind
from nh2st._tissue import laid_tiles

_ORGANISM = ("organism", "species")
_ASSAY = ("assay",)
_LATIN = {
    "human": "Homo sapiens",
    "mouse": "Mus musculus",
    "rat": "Rattus norvegicus",
    "zebrafish": "Danio rerio",
    "pig": "Sus scrofa",
}


def assays_of(sections: Sequence[Section], mpp: Sequence[float | str]) -> dict[str, list[Any]]:
    """Plain values of each section, None where unknown.

    ``pitch``: distance of adjacent spots in micrometres, in pixels where the scale is ``"native"``. ``array``:
    ``"hexagonal"``, ``"square"``, ``"checkerboard"``, or ``"generic"`` where there is none. Both are unknown for tiles.
    ``organism`` and ``assay``: what ``obs`` or ``uns`` say, under the keys of the CELLxGENE schema.
    """
    laid = [_array(section) for section in sections]
    return {
        "pitch": [
            round(pitch * (1.0 if isinstance(scale, str) else scale), 3) if pitch else None
            for (_, pitch), scale in zip(laid, mpp, strict=True)
        ],
        "array": [kind for kind, _ in laid],
        "organism": [_organism(section) for section in sections],
        "assay": [_label(section, _ASSAY) for section in sections],
    }


def _array(section: Section) -> tuple[GridKind | None, float | None]:
    """Kind of the spots' array, and its pitch in pixels."""
    if section.region in laid_tiles(section.sdata):
        return None, None
    grid = section.pixel_grid
    return grid.kind, grid.pitch or None


def _organism(section: Section) -> str | None:
    label = _label(section, _ORGANISM)
    return None if label is None else _LATIN.get(label.casefold(), label)


def _label(section: Section, keys: Sequence[str]) -> str | None:
    """The one text that all rows of the section have in a column of ``obs``, or that ``uns`` holds."""
    table = section.adata
    for key in keys:
        if key in table.obs:
            there = table.obs[key].iloc[section.rows].dropna().unique()
            if len(there) == 1 and isinstance(there[0], str) and there[0].strip():
                return there[0].strip()
        elif isinstance(value := table.uns.get(key), str) and value.strip():
            return value.strip()
    return None
