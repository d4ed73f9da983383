"""Graphs of neighbouring spots, with the values of squidpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy.spatial import cKDTree
from sklearn.neighbors import NearestNeighbors

from nh2st._settings import logger
from nh2st._space._edges import Edges
from nh2st._space._grid import SpotGrid
from nh2st._space._lattice import BOND

CoordType: TypeAlias = Literal["grid", "generic"]

_GENERIC_NEIGHS = 6
_ISOLATED = 5.0


@dataclass(frozen=True)
class EdgeRule:
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


def default_graph(grid: SpotGrid) -> Edges:
    """Edges that :func:`nh2st.pp.spatial_neighbors` gives a section by default."""
    return edges_of(grid, edge_rule(grid, None, None, None))


def edge_rule(grid: SpotGrid, n_neighs: int | None, radius: float | None, coord_type: CoordType | None) -> EdgeRule:
    """How the graph of a section is built, as :func:`nh2st.pp.spatial_neighbors` takes these arguments."""
    only_radius = radius is not None and n_neighs is None
    if coord_type == "generic" or (coord_type is None and (only_radius or grid.kind == "generic")):
        if n_neighs is None and radius is None:
            return EdgeRule("generic", _GENERIC_NEIGHS, drop_isolated=True)
        return EdgeRule("generic", n_neighs, radius or np.inf)
    return EdgeRule("grid", n_neighs or (6 if grid.kind == "hexagonal" else 4), radius or np.inf)


def edges_of(grid: SpotGrid, rule: EdgeRule) -> Edges:
    """Edges of one section."""
    xy = grid.xy
    if rule.n_neighs is None:
        return _within(xy, rule.radius)
    length, source, target = _nearest(xy, rule.n_neighs)
    longest = rule.radius
    if rule.drop_isolated and len(length):
        # Where the median is 0, most spots share their place and none can be called far.
        longest = _ISOLATED * np.median(length) or np.inf
    keep = length <= longest
    if not keep.all():
        logger.info("Section %r: %d edges longer than %.4g are left out.", grid.name, (~keep).sum(), longest)
    if rule.coord_type == "grid" and len(length):
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
