"""Spatial graphs with the keys and the values of squidpy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from anndata import AnnData
from scipy.sparse import coo_matrix, csr_matrix
from scipy.spatial import cKDTree
from sklearn.neighbors import NearestNeighbors

from nh2st._keys import CONNECTIVITIES_SUFFIX, DISTANCES_SUFFIX, NEIGHBORS_SUFFIX, SPATIAL_KEY
from nh2st._sections import Data, Spots, find_spots, tables_of
from nh2st._settings import logger
from nh2st.pp._lattice import BOND, grid_kind
from nh2st.pp._write import editable

CoordType: TypeAlias = Literal["grid", "generic"]

_GENERIC_NEIGHS = 6
_ISOLATED = 5.0


@dataclass(frozen=True)
class Edges:
    """Directed edges of one section: row positions within it, and their lengths (1 on grids)."""

    n: int
    source: np.ndarray
    target: np.ndarray
    length: np.ndarray


@dataclass(frozen=True)
class Recipe:
    """How the graph of one section is built."""

    coord_type: CoordType
    n_neighs: int | None
    radius: float = np.inf
    drop_isolated: bool = False

    @property
    def params(self) -> dict[str, Any]:
        """What ``uns`` records, under squidpy's names."""
        grid = {"n_rings": 1, "delaunay": False} if self.coord_type == "grid" else {}
        known = {"n_neighbors": self.n_neighs, "radius": self.radius if np.isfinite(self.radius) else None}
        given = {name: value for name, value in known.items() if value is not None}
        return {"coord_type": self.coord_type, **given, **grid, "transform": "none"}


def spatial_neighbors(
    data: Data,
    *,
    n_neighs: int | None = None,
    radius: float | None = None,
    coord_type: CoordType | None = None,
    key_added: str = SPATIAL_KEY,
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
    data
        SpatialData or AnnData, or a list or dictionary of them.
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
    sections
        Sections to connect; all where absent.
    spots
        Boolean column of ``obs`` that says which spots are used; ``in_tissue`` where absent.
    table_key, shapes_key, coordinate_system
        Which elements to use where several fit.
    copy
        Return a copy instead of writing into the AnnData given.

    Returns
    -------
    ``None``, or the copy. Written into each table: ``obsp["spatial_connectivities"]``, ``obsp["spatial_distances"]``
    and the parameters, ``uns["spatial_neighbors"]``.

    Raises
    ------
    ValueError
        If `n_neighs` or `radius` is not positive, or coordinates are NaN or infinite.

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
    found = find_spots(
        data,
        sections=sections,
        spots=spots,
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
    )
    built = [(one, recipe := _recipe(one, n_neighs, radius, coord_type), build(one, recipe)) for one in found]
    for table in tables_of(found):
        _write(table, [entry for entry in built if entry[0].adata is table], key_added)
    return data if copy else None


def default_graph(spots: Spots) -> Edges:
    """Edges that :func:`spatial_neighbors` gives a section by default."""
    return build(spots, _recipe(spots, None, None, None))


def connectivities(edges: Edges) -> csr_matrix:
    """Matrix (n, n) with 1 where spots are connected."""
    ones = np.ones(len(edges.source), dtype=np.float32)
    return csr_matrix((ones, (edges.source, edges.target)), shape=(edges.n, edges.n))


def _check(n_neighs: int | None, radius: float | None, coord_type: str | None) -> None:
    for name, value in (("n_neighs", n_neighs), ("radius", radius)):
        if value is not None and not value > 0:
            msg = f"`{name}` must be positive, not {value!r}."
            raise ValueError(msg)
    if coord_type not in (None, "grid", "generic"):
        msg = f"`coord_type` must be 'grid', 'generic' or None, not {coord_type!r}."
        raise ValueError(msg)


def _recipe(spots: Spots, n_neighs: int | None, radius: float | None, coord_type: CoordType | None) -> Recipe:
    only_radius = radius is not None and n_neighs is None
    if coord_type == "generic" or (
        coord_type is None and (only_radius or grid_kind(spots.xy, spots.array) == "generic")
    ):
        if n_neighs is None and radius is None:
            return Recipe("generic", _GENERIC_NEIGHS, drop_isolated=True)
        return Recipe("generic", n_neighs, radius or np.inf)
    return Recipe("grid", n_neighs or (6 if grid_kind(spots.xy, spots.array) == "hexagonal" else 4), radius or np.inf)


def build(spots: Spots, recipe: Recipe) -> Edges:
    """Edges of one section."""
    xy = spots.xy
    if recipe.n_neighs is None:
        return _within(xy, recipe.radius)
    length, source, target = _nearest(xy, recipe.n_neighs)
    longest = recipe.radius
    if recipe.drop_isolated and len(length):
        # Where the median is 0, most spots share their place and none can be called far.
        longest = _ISOLATED * np.median(length) or np.inf
    keep = length <= longest
    if not keep.all():
        logger.info("Section %r: %d edges longer than %.4g are left out.", spots.name, (~keep).sum(), longest)
    if recipe.coord_type == "grid" and len(length):
        keep &= length < BOND * np.median(length)
        length = np.ones(len(length), dtype=np.float32)
    return Edges(len(xy), source[keep], target[keep], length[keep])


def _nearest(xy: np.ndarray, n_neighs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, sources and targets of the edges to the nearest neighbours.

    The search is scikit-learn's, as squidpy's is: ties, which are frequent on grids, are broken alike.
    """
    k = min(n_neighs, len(xy) - 1)
    if k < 1:
        return np.empty(0), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    lengths, neighbors = NearestNeighbors(n_neighbors=k).fit(xy).kneighbors()
    return lengths.ravel(), np.repeat(np.arange(len(xy)), k), neighbors.ravel()


def _within(xy: np.ndarray, radius: float) -> Edges:
    pairs = cKDTree(xy).query_pairs(radius, output_type="ndarray")
    source, target = np.concatenate([pairs, pairs[:, ::-1]]).T
    return Edges(len(xy), source, target, np.linalg.norm(xy[source] - xy[target], axis=1))


def _write(adata: AnnData, built: list[tuple[Spots, Recipe, Edges]], key: str) -> None:
    source = np.concatenate([one.rows[edges.source] for one, _, edges in built])
    target = np.concatenate([one.rows[edges.target] for one, _, edges in built])
    length = np.concatenate([edges.length for _, _, edges in built])
    shape = (adata.n_obs, adata.n_obs)
    distances = coo_matrix((length, (source, target)), shape=shape).tocsr()
    # As in squidpy: spots at the same place are connected, and their distance of 0 is not stored.
    distances.eliminate_zeros()
    adata.obsp[f"{key}_{CONNECTIVITIES_SUFFIX}"] = coo_matrix(
        (np.ones(len(source), dtype=np.float32), (source, target)), shape=shape
    ).tocsr()
    adata.obsp[f"{key}_{DISTANCES_SUFFIX}"] = distances
    adata.uns[f"{key}_{NEIGHBORS_SUFFIX}"] = {
        "connectivities_key": f"{key}_{CONNECTIVITIES_SUFFIX}",
        "distances_key": f"{key}_{DISTANCES_SUFFIX}",
        "params": _common([recipe.params for _, recipe, _ in built]),
    }


def _common(params: list[dict[str, Any]]) -> dict[str, Any]:
    """Parameters that hold for all sections of a table; the others differ between its sections."""
    return {name: value for name, value in params[0].items() if all(other.get(name) == value for other in params)}
