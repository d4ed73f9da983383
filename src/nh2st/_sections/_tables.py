"""Which table annotates the spots, which of its rows are used, and which spot each row belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from spatialdata import SpatialData

from nh2st._keys import IN_TISSUE, TILES_TABLE
from nh2st._sections._geometry import instances
from nh2st._settings import logger

ATTRS = "spatialdata_attrs"


def regions_of(attrs: dict[str, Any] | None) -> list[str]:
    """Names of the regions that a table's attributes say it annotates."""
    region = (attrs or {}).get("region")
    if region is None:
        return []
    return [region] if isinstance(region, str) else [str(name) for name in region]


def infer_table(sdata: SpatialData, table_key: str | None, shapes_key: str | None) -> str:
    """Key of the table that annotates the spots.

    Raises
    ------
    KeyError
        If there is no such table.
    ValueError
        If none annotates anything, or several fit.
    """
    if table_key is not None:
        if table_key not in sdata.tables:
            msg = f"There is no table {table_key!r}; the object has: {', '.join(map(repr, sdata.tables)) or 'none'}."
            raise KeyError(msg)
        if not regions_of(sdata.tables[table_key].uns.get(ATTRS)):
            raise ValueError(annotates_nothing([table_key]))
        return table_key
    # Tiles that this package laid stand in for spots only where there are none.
    tables = {name: table for name, table in sdata.tables.items() if name != TILES_TABLE} or dict(sdata.tables)
    if not tables:
        msg = "The SpatialData has no table with expression. Add one: `sdata['table'] = TableModel.parse(adata, ...)`."
        raise ValueError(msg)
    regions = {name: regions_of(table.uns.get(ATTRS)) for name, table in tables.items()}
    if not any(regions.values()):
        raise ValueError(annotates_nothing(list(tables)))
    fitting = [name for name, there in regions.items() if there and (shapes_key is None or shapes_key in there)]
    if not fitting:
        raise ValueError(annotates_others(str(shapes_key), [region for there in regions.values() for region in there]))
    if len(fitting) > 1:
        msg = f"Several tables fit: {', '.join(map(repr, fitting))}. Name one with `table_key=`."
        raise ValueError(msg)
    return fitting[0]


def annotates_nothing(tables: list[str]) -> str:
    """Message about tables that annotate no element."""
    return (
        f"The table ({', '.join(map(repr, tables))}) annotates no element of the object. Say which shapes its rows "
        "belong to: `TableModel.parse(adata, region=..., region_key=..., instance_key=...)`, or "
        "`sdata.set_table_annotates_spatialelement(...)`."
    )


def annotates_others(shapes_key: str, regions: list[str]) -> str:
    """Message about `shapes_key=` that no table annotates."""
    return f"No table annotates shapes_key={shapes_key!r}; annotated are: {', '.join(map(repr, regions)) or 'none'}."


def region_labels(table: AnnData, regions: list[str], region_key: str) -> np.ndarray:
    """Region of each row; rows of regions that the table does not annotate are counted in the log."""
    labels = table.obs[region_key].astype(str).to_numpy()
    unlisted = ~np.isin(labels, regions)
    if unlisted.any():
        logger.warning(
            "%d of %d rows of the table name in obs[%r] a region that it does not annotate (%s); they are left out.",
            unlisted.sum(),
            len(labels),
            region_key,
            ", ".join(map(repr, np.unique(labels[unlisted])[:5].tolist())),
        )
    return labels


def region_column(table: AnnData) -> pd.Series:
    """Region of each row of a table that annotates elements."""
    return table.obs[table.uns[ATTRS]["region_key"]].astype(str)


def no_row_of_regions(table: AnnData) -> str:
    attrs = table.uns.get(ATTRS) or {}
    regions = ", ".join(map(repr, regions_of(attrs))) or "any"
    return (
        f"No spot is left: none of the table's {table.n_obs} rows names its regions ({regions}) in "
        f"obs[{attrs.get('region_key')!r}]. Correct that column, or uns[{ATTRS!r}]."
    )


def pair_rows(
    table: AnnData, rows: np.ndarray, element: Any, region: str, instance_key: str
) -> tuple[np.ndarray, np.ndarray]:
    index = instances(element)
    ids = table.obs[instance_key].iloc[rows]
    for what, duplicated in (
        (f"obs[{instance_key!r}]", ids[ids.duplicated()]),
        ("the element's index", index[index.duplicated()]),
    ):
        if len(duplicated):
            examples = ", ".join(map(repr, pd.Index(duplicated).unique()[:5].tolist()))
            msg = f"Instance ids repeat within region {region!r}, in {what} ({examples}). Give each spot its own id."
            raise ValueError(msg)
    positions = index.get_indexer(pd.Index(ids))
    missing = positions < 0
    if missing.all():
        there = repr(index[:1].tolist()[0]) if len(index) else "nothing"
        msg = (
            f"No instance id of region {region!r} in obs[{instance_key!r}] (such as {ids.tolist()[0]!r}) is in the "
            f"index of the element (such as {there}). Check the key; where one is text, the other a number, convert: "
            f"`table.obs[{instance_key!r}] = table.obs[{instance_key!r}].astype(int)`."
        )
        raise ValueError(msg)
    if missing.any():
        examples = ", ".join(map(repr, ids[missing].tolist()[:5]))
        logger.warning(
            "%d of %d rows of region %r have an instance id that is not in the element (first: %s); they are left out.",
            missing.sum(),
            len(rows),
            region,
            examples,
        )
    return rows[~missing], positions[~missing]


def used_rows(adata: AnnData, mask: str | None) -> np.ndarray:
    column = mask if mask is not None else IN_TISSUE
    if column not in adata.obs:
        if mask is not None:
            msg = f"`spots={mask!r}` names no column of obs; boolean columns: {_boolean_columns(adata)}."
            raise KeyError(msg)
        return np.ones(adata.n_obs, dtype=bool)
    values = adata.obs[column].astype(object)
    unclear = values[~values.isin([True, False, 0, 1])]
    if len(unclear):
        msg = (
            f"obs[{column!r}] must hold True/False or 1/0 to say which spots are used; {len(unclear)} values are "
            f"others, such as {unclear.iloc[0]!r}. Correct them, or name another column with `spots=`."
        )
        raise ValueError(msg)
    return values.astype(bool).to_numpy()


def _boolean_columns(adata: AnnData) -> str:
    return ", ".join(repr(name) for name in adata.obs.columns if adata.obs[name].dtype == bool) or "none"
