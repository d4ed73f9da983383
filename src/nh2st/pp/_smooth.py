"""Means over neighbours in the spatial graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from anndata import AnnData
from scipy.sparse import issparse

from nh2st._keys import CONNECTIVITIES_SUFFIX, SMOOTH_SUFFIX, SPATIAL_KEY
from nh2st._results import check_free, editable, write_record
from nh2st._sections import Data, Selection, Spots, find_spots, tables_of
from nh2st._settings import logger
from nh2st._space import averaging
from nh2st.pp._spatial_neighbors import spatial_neighbors


def smooth(
    data: Data,
    *,
    layer: str,
    key_added: str | None = None,
    graph: str = SPATIAL_KEY,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    table_key: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Mean of a layer over each spot and its neighbours in the spatial graph.

    Neighbours weigh alike, whatever the weights of the graph. Sparse layers stay sparse. A NaN spreads to the
    neighbours. Spots without neighbours keep their values.

    Parameters
    ----------
    data
        SpatialData or AnnData, or a list or dictionary of them.
    layer
        Layer to smooth.
    key_added
        Layer to write; the name of `layer` followed by ``_smooth`` where absent.
    graph
        Prefix of the graph's keys in ``obsp``. The default one is computed where it is missing.
    sections
        Sections whose tables are smoothed; all where absent.
    spots
        Boolean column of ``obs`` that says which spots are used; ``in_tissue`` where absent.
    table_key
        Which table to use where several fit.
    copy
        Return a copy instead of writing into the AnnData given.

    Returns
    -------
    ``None``, or the copy. Written into each table: the layer `key_added`, float32 where `layer` is.

    Raises
    ------
    KeyError
        If there is no such layer, or no such graph.
    ValueError
        If a layer of the user's would be overwritten, or the graph leaves a section out.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic()
    >>> nh.pp.normalize(sdata)
    >>> nh.pp.smooth(sdata, layer="nh2st_target")
    >>> "nh2st_target_smooth" in sdata["table"].layers
    True
    """
    key_added = key_added or f"{layer}_{SMOOTH_SUFFIX}"
    data = editable(data, copy)
    found = find_spots(data, Selection(sections, spots, table_key))
    tables = tables_of(found)
    for table in tables:
        if layer not in table.layers:
            msg = f"There is no layer {layer!r}; the table has: {', '.join(map(repr, table.layers)) or 'none'}."
            raise KeyError(msg)
    check_free(tables, key_added)
    key = f"{graph}_{CONNECTIVITIES_SUFFIX}"
    if any(key not in table.obsp for table in tables):
        if graph != SPATIAL_KEY:
            msg = f"There is no graph obsp[{key!r}]: call `nh2st.pp.spatial_neighbors(data, key_added={graph!r})`."
            raise KeyError(msg)
        logger.info("There is no spatial graph: computing the default one, `nh2st.pp.spatial_neighbors(data)`.")
        spatial_neighbors(data, sections=sections, spots=spots, table_key=table_key)
    _check_graph(found, key)
    for table in tables:
        write_record(table, key_added, _mean(table, layer, key), {"smoothed": layer, "graph": key})
    return data if copy else None


def _check_graph(sections: Iterable[Spots], key: str) -> None:
    for one in sections:
        if len(one.rows) > 1 and one.adata.obsp[key][one.rows].nnz == 0:
            msg = (
                f"The graph obsp[{key!r}] has no edge in section {one.name!r}: it was computed for other sections. "
                "Call `nh2st.pp.spatial_neighbors(data)` for all."
            )
            raise ValueError(msg)


def _mean(adata: AnnData, layer: str, key: str) -> Any:
    values = adata.layers[layer]
    kind = values.dtype if np.issubdtype(values.dtype, np.floating) else np.float64
    mean = averaging(adata.obsp[key]) @ values
    return mean.asformat(values.format).astype(kind) if issparse(values) else np.asarray(mean, dtype=kind)
