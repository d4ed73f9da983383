"""Means over neighbours in the spatial graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from scipy.sparse import csr_matrix, issparse

from nh2st._docs import documented
from nh2st._keys import CONNECTIVITIES_SUFFIX, SMOOTH_SUFFIX, SPATIAL_KEY
from nh2st._results import Kind, check_replaceable, editable, make_room, write_record
from nh2st._sections import Data, Selection, Spots, find_spots, tables_of
from nh2st._settings import logger
from nh2st._space import averaging
from nh2st.pp._spatial_neighbors import TableGraph, graphs_of, write_graph


@documented
def smooth(
    data: Data,
    *,
    layer: str,
    key_added: str | None = None,
    graph: str = SPATIAL_KEY,
    overwrite: bool = False,
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
    %(data)s
    layer
        Layer to smooth.
    key_added
        Layer to write; the name of `layer` followed by ``_smooth`` where absent.
    graph
        Prefix of the graph's keys in ``obsp``. The default one is computed where it is missing.
    overwrite
        Replace a layer of this name that is not a smoothed one of this package, with all that belongs to it.
    %(sections)s
    %(spots)s
    %(table_key)s
    %(copy)s

    Returns
    -------
    ``None``, or the copy. Written into each table: the layer `key_added`, float32 where `layer` is.

    Raises
    ------
    KeyError
        If there is no such layer, or no such graph.
    ValueError
        If something else than a smoothed layer would be replaced, or the graph leaves a section out.

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
    check_replaceable(tables, key_added, Kind.SMOOTHED, overwrite=overwrite)
    key = f"{graph}_{CONNECTIVITIES_SUFFIX}"
    missing = _missing_graphs(found, graph, key)
    edges = {id(table): table.obsp[key] for table in tables if key in table.obsp}
    edges |= {id(table): new.connectivities for table, new in missing}
    for section in found:
        _check_edges(section, edges[id(section.adata)], key)
    means = [_mean(table.layers[layer], edges[id(table)]) for table in tables]
    for table, new in missing:
        write_graph(table, graph, new)
    for table, mean in zip(tables, means, strict=True):
        make_room(table, key_added, Kind.SMOOTHED)
        table.layers[key_added] = mean
        write_record(table, key_added, Kind.SMOOTHED, {"smoothed": layer, "graph": key})
    return data if copy else None


def _missing_graphs(sections: Sequence[Spots], graph: str, key: str) -> list[tuple[AnnData, TableGraph]]:
    """Default graphs of the tables that have none, not written yet."""
    without = [section for section in sections if key not in section.adata.obsp]
    if not without:
        return []
    if graph != SPATIAL_KEY:
        msg = f"There is no graph obsp[{key!r}]: call `nh2st.pp.spatial_neighbors(data, key_added={graph!r})`."
        raise KeyError(msg)
    logger.info("There is no spatial graph: computing the default one, `nh2st.pp.spatial_neighbors(data)`.")
    try:
        check_replaceable(tables_of(without), graph, Kind.GRAPH, overwrite=False)
    except ValueError as error:
        msg = f"The default graph has no place: call `nh2st.pp.spatial_neighbors` first, or name a `graph=`. {error}"
        raise ValueError(msg) from error
    return graphs_of(without)


def _check_edges(section: Spots, graph: csr_matrix, key: str) -> None:
    if len(section.rows) > 1 and graph[section.rows].nnz == 0:
        msg = (
            f"The graph obsp[{key!r}] has no edge in section {section.name!r}: it was computed for other sections. "
            "Call `nh2st.pp.spatial_neighbors(data)` for all."
        )
        raise ValueError(msg)


def _mean(values: Any, graph: csr_matrix) -> Any:
    kind = values.dtype if np.issubdtype(values.dtype, np.floating) else np.float64
    mean = averaging(graph) @ values
    return mean.asformat(values.format).astype(kind) if issparse(values) else np.asarray(mean, dtype=kind)
