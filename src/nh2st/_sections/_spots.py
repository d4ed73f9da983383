"""Rows of a table that lie in one section, with their coordinates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from anndata import AnnData
from spatialdata import SpatialData

from nh2st._keys import ARRAY_COL, ARRAY_ROW, IN_TISSUE, SPATIAL
from nh2st._sections._geometry import (
    affine_to,
    apply_affine,
    centers_and_radii,
    length_scale,
    spots_element,
    systems_of,
)
from nh2st._sections._objects import Data, objects_of
from nh2st._sections._selection import EVERYTHING, Selection
from nh2st._sections._tables import (
    ATTRS,
    annotates_others,
    infer_table,
    no_row_of_regions,
    pair_rows,
    region_labels,
    regions_of,
    used_rows,
)
from nh2st._settings import logger
from nh2st._space import SpotGrid


@dataclass
class Spots:
    """The used rows of one table that lie in one section."""

    object_key: str | None
    region: str
    adata: AnnData
    rows: np.ndarray
    element: Any = None
    positions: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    coordinate_system: str = ""

    @property
    def name(self) -> str:
        """Name for messages and results: the region, after its object's key where there are several objects."""
        return ".".join(part for part in (self.object_key, self.region) if part) or "section"

    def take(self, positions: np.ndarray) -> Self:
        """Some of the spots, by their positions within the section, as if the others were masked."""
        paired = self.positions if self.element is None else self.positions[positions]
        return replace(self, rows=self.rows[positions], positions=paired)

    @property
    def array(self) -> np.ndarray | None:
        """Array row and column of each spot, shape (n, 2), where ``obs`` has both."""
        obs = self.adata.obs
        if ARRAY_ROW not in obs or ARRAY_COL not in obs:
            return None
        array = obs[[ARRAY_ROW, ARRAY_COL]].iloc[self.rows].to_numpy(dtype=np.float64)
        return np.rint(array).astype(np.int64) if np.isfinite(array).all() else None

    @cached_property
    def grid(self) -> SpotGrid:
        """The spots in the coordinate system, with the array that they lie on."""
        return SpotGrid(self.xy, self.array, self.name)

    @cached_property
    def xy(self) -> np.ndarray:
        """Spot centres in the coordinate system, shape (n, 2)."""
        return self._centers_and_radii[0]

    @cached_property
    def radius(self) -> np.ndarray:
        """Spot radii in the coordinate system, shape (n,); NaN where unknown."""
        return self._centers_and_radii[1]

    @cached_property
    def _centers_and_radii(self) -> tuple[np.ndarray, np.ndarray]:
        if self.element is None:
            centers, radii, matrix = self._spatial(), np.full(len(self.rows), np.nan), np.eye(3)
        else:
            centers, radii = centers_and_radii(self.element, self.positions)
            matrix = affine_to(self.element, self.coordinate_system)
        self._check_finite(centers)
        return apply_affine(matrix, centers), radii * length_scale(matrix)

    def _spatial(self) -> np.ndarray:
        if SPATIAL not in self.adata.obsm:
            msg = f"The AnnData has no spot coordinates: put x and y into `adata.obsm[{SPATIAL!r}]`."
            raise KeyError(msg)
        return np.asarray(self.adata.obsm[SPATIAL], dtype=np.float64)[self.rows, :2]

    def _check_finite(self, centers: np.ndarray) -> None:
        bad = ~np.isfinite(centers).all(axis=1)
        if bad.any():
            names = ", ".join(map(repr, self.adata.obs_names[self.rows[bad]][:5]))
            msg = (
                f"{bad.sum()} spots of section {self.name!r} have NaN or infinite coordinates (first: {names}). "
                "Remove them from the table, or mask them with `spots=` and a boolean column of obs."
            )
            raise ValueError(msg)


def tables_of(spots: Iterable[Spots]) -> list[AnnData]:
    """Distinct tables of the sections, in order."""
    return list({id(section.adata): section.adata for section in spots}.values())


def find_spots(data: Data, selection: Selection = EVERYTHING) -> list[Spots]:
    """Sections of the tables, without their images.

    Parameters
    ----------
    data
        A SpatialData or AnnData, or a list or dictionary of them.
    selection
        What of it.

    Returns
    -------
    One entry a section, in the order of the objects and of the regions of their tables.
    """
    found: list[Spots] = []
    for key, value in objects_of(data):
        if isinstance(value, AnnData):
            found += _spots_of_anndata(key, value, selection.spots)
            continue
        for spots in spots_of_object(key, value, selection):
            spots.coordinate_system = _own_system(spots, selection.coordinate_system)
            found.append(spots)
    return keep_sections(found, selection.sections)


def _own_system(spots: Spots, wanted: str | None) -> str:
    systems = systems_of(spots.element)
    if wanted is not None:
        if wanted not in systems:
            msg = f"Region {spots.name!r} is not in the coordinate system {wanted!r} (it is in: {', '.join(systems)})."
            raise KeyError(msg)
        return wanted
    identity = [name for name in systems if np.allclose(affine_to(spots.element, name), np.eye(3))]
    return (identity or systems)[0]


def _spots_of_anndata(key: str | None, adata: AnnData, mask: str | None) -> list[Spots]:
    used = used_rows(adata, mask)
    attrs = adata.uns.get(ATTRS) or {}
    regions, region_key = regions_of(attrs), attrs.get("region_key", "")
    if not regions or region_key not in adata.obs:
        return [Spots(key, "", adata, np.flatnonzero(used))]
    labels = region_labels(adata, regions, region_key)
    named = [name for name in regions if (labels == name).any()]
    if not named:
        raise ValueError(no_row_of_regions(adata))
    return [Spots(key, name, adata, np.flatnonzero(used & (labels == name))) for name in named]


def spots_of_object(key: str | None, sdata: SpatialData, selection: Selection) -> list[Spots]:
    """Sections of the table that is used, its rows paired with the spots by instance id."""
    shapes_key, mask = selection.shapes_key, selection.spots
    table_key = infer_table(sdata, selection.table_key, shapes_key)
    table = sdata.tables[table_key]
    attrs = table.uns[ATTRS]
    region_key, instance_key = attrs["region_key"], attrs["instance_key"]
    for name, column in (("region", region_key), ("instance", instance_key)):
        if column not in table.obs:
            msg = f"Table {table_key!r} names {column!r} as its {name} key, but obs has no such column."
            raise KeyError(msg)
    regions = regions_of(attrs)
    if shapes_key is not None:
        if shapes_key not in regions:
            raise ValueError(annotates_others(shapes_key, regions))
        regions = [shapes_key]
    labels = region_labels(table, regions_of(attrs), region_key)
    used = used_rows(table, mask)
    found = []
    for region in regions:
        rows = np.flatnonzero(labels == region)
        if len(rows) == 0:
            logger.warning("Region %r has no row in table %r and is left out.", region, table_key)
            continue
        element = spots_element(sdata, region, table_key)
        rows, positions = pair_rows(table, rows, element, region, instance_key)
        keep = used[rows]
        found.append(Spots(key, region, table, rows[keep], element, positions[keep]))
    if not found:
        raise ValueError(no_row_of_regions(table))
    if not any(len(section.rows) for section in found):
        msg = f"No spot is used: obs[{mask or IN_TISSUE!r}] masks every row. Name another column with `spots=`."
        raise ValueError(msg)
    return [section for section in found if len(section.rows)]


def keep_sections(found: list[Any], wanted: Iterable[str] | None) -> list[Any]:
    """Those of the sections that are asked for, in the order found.

    Raises
    ------
    KeyError
        If a name fits none.
    ValueError
        If there are no names.
    """
    if wanted is None:
        return found
    names = [wanted] if isinstance(wanted, str) else [str(name) for name in wanted]
    unknown = [name for name in names if not any(name in (section.name, section.region) for section in found)]
    there = ", ".join(repr(section.name) for section in found)
    if not names:
        msg = f"`sections=` is empty; the sections are: {there}."
        raise ValueError(msg)
    if unknown:
        msg = f"There is no section {', '.join(map(repr, unknown))}; the sections are: {there}."
        raise KeyError(msg)
    return [section for section in found if section.name in names or section.region in names]
