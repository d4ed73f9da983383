"""Spatial graphs with the keys and the values of squidpy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from scipy.sparse import coo_matrix, csr_matrix

from nh2st._docs import documented
from nh2st._keys import CONNECTIVITIES_SUFFIX, DISTANCES_SUFFIX, NEIGHBORS_SUFFIX, SPATIAL_KEY
from nh2st._results import Kind, check_replaceable, editable, make_room, write_record
from nh2st._sections import Data, Selection, Spots, find_spots, tables_of
from nh2st._space import CoordType, EdgeRule, Edges, edge_rule, edges_of


@documented
def spatial_neighbors(
    data: Data,
    *,
    n_neighs: int | None = None,
    radius: float | None = None,
    coord_type: CoordType | None = None,
    key_added: str = SPATIAL_KEY,
    overwrite: bool = False,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Graph of neighbouring spots, block diagonal over the sections.

    Values equal those of squidpy's ``spatial_neighbors_grid``, ``spatial_neighbors_knn`` and
    ``spatial_neighbors_radius``. Spots that are masked, or in a section that was not asked for, have no neighbours.

    Parameters
    ----------
    %(data)s
    n_neighs
        Number of nearest neighbours: on grids the number of adjacent spots. Where absent, 6 on hexagonal arrays, 4 on
        square ones and checkerboards; elsewhere all within `radius`, or without a radius the 6 nearest, those left out
        that are further away than 5 times the median distance.
    radius
        Longest edge, in units of the coordinates.
    coord_type
        ``"grid"`` connects adjacent spots of a regular array, whose edges have length 1; ``"generic"`` connects nearest
        neighbours or all within `radius`, with Euclidean lengths. Where absent, it is ``"generic"`` if only `radius` is
        given, else what the array ids (``obs["array_row"]``, ``obs["array_col"]``) or the coordinates show.
    key_added
        Prefix of the keys written.
    overwrite
        Replace a graph under these keys that this package did not write, such as one of squidpy's.
    %(sections)s
    %(spots)s
    %(table_elements)s
    %(copy)s

    Returns
    -------
    ``None``, or the copy. Written into each table: ``obsp["spatial_connectivities"]``, ``obsp["spatial_distances"]``
    and the parameters, ``uns["spatial_neighbors"]`` and ``uns["nh2st"]["spatial"]``.

    Raises
    ------
    ValueError
        If `n_neighs` or `radius` is not positive, coordinates are NaN or infinite, or a graph would be replaced that
        is not ours.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic()
    >>> nh.pp.spatial_neighbors(sdata)
    >>> sdata["table"].obsp["spatial_connectivities"].dtype
    dtype('float32')
    """
    _check(n_neighs, radius, coord_type)
    data = editable(data, copy)
    found = find_spots(data, Selection(sections, spots, table_key, None, shapes_key, coordinate_system))
    check_replaceable(tables_of(found), key_added, Kind.GRAPH, overwrite=overwrite)
    for table, graph in graphs_of(found, n_neighs, radius, coord_type):
        write_graph(table, key_added, graph)
    return data if copy else None


@dataclass(frozen=True)
class TableGraph:
    """Graph of a table: matrices (n_obs, n_obs), and the parameters under squidpy's names."""

    connectivities: csr_matrix
    distances: csr_matrix
    params: dict[str, Any]


def _check(n_neighs: int | None, radius: float | None, coord_type: str | None) -> None:
    for name, value in (("n_neighs", n_neighs), ("radius", radius)):
        if value is not None and not value > 0:
            msg = f"`{name}` must be positive, not {value!r}."
            raise ValueError(msg)
    if coord_type not in (None, "grid", "generic"):
        msg = f"`coord_type` must be 'grid', 'generic' or None, not {coord_type!r}."
        raise ValueError(msg)


def graphs_of(
    sections: Sequence[Spots],
    n_neighs: int | None = None,
    radius: float | None = None,
    coord_type: CoordType | None = None,
) -> list[tuple[AnnData, TableGraph]]:
    """Graph of each table of the sections, as :func:`spatial_neighbors` takes these arguments."""
    rules = [edge_rule(section.grid, n_neighs, radius, coord_type) for section in sections]
    built = [(section, rule, edges_of(section.grid, rule)) for section, rule in zip(sections, rules, strict=True)]
    return [(table, _joined([part for part in built if part[0].adata is table])) for table in tables_of(sections)]


def _joined(built: Sequence[tuple[Spots, EdgeRule, Edges]]) -> TableGraph:
    source = np.concatenate([section.rows[edges.source] for section, _, edges in built])
    target = np.concatenate([section.rows[edges.target] for section, _, edges in built])
    length = np.concatenate([edges.length for _, _, edges in built])
    n_obs = built[0][0].adata.n_obs
    distances = coo_matrix((length, (source, target)), shape=(n_obs, n_obs)).tocsr()
    # As in squidpy: spots at the same place are connected, and their distance of 0 is not stored.
    distances.eliminate_zeros()
    ones = np.ones(len(source), dtype=np.float32)
    connectivities = coo_matrix((ones, (source, target)), shape=(n_obs, n_obs)).tocsr()
    return TableGraph(connectivities, distances, _common([rule.params for _, rule, _ in built]))


def write_graph(table: AnnData, key: str, graph: TableGraph) -> None:
    """Write a graph under squidpy's keys."""
    make_room(table, key, Kind.GRAPH)
    connectivities, distances = f"{key}_{CONNECTIVITIES_SUFFIX}", f"{key}_{DISTANCES_SUFFIX}"
    table.obsp[connectivities] = graph.connectivities
    table.obsp[distances] = graph.distances
    table.uns[f"{key}_{NEIGHBORS_SUFFIX}"] = {
        "connectivities_key": connectivities,
        "distances_key": distances,
        "params": graph.params,
    }
    write_record(table, key, Kind.GRAPH, {"params": dict(graph.params)})


def _common(params: list[dict[str, Any]]) -> dict[str, Any]:
    """Parameters that hold for all sections of a table; the others differ between its sections."""
    return {name: value for name, value in params[0].items() if all(other.get(name) == value for other in params)}
