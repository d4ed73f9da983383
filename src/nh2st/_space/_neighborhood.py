"""The neighbourhood that the network sees, and the window over which the paper's target is averaged."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, diags, identity
from scipy.spatial import cKDTree

from nh2st._keys import MAX_NEIGHBORS, MAX_NEIGHBORS_HEXAGONAL
from nh2st._space._grid import SpotGrid

_REACH = 1.6
"""In units of the pitch: beyond the diagonal of a square grid (1.41), short of the second ring of any (1.73)."""

_BLOCK = 100_000


def neighborhood(grid: SpotGrid, radius: float | None = None) -> np.ndarray:
    """Nearest spots of each spot: up to eight, six on hexagonal arrays.

    Parameters
    ----------
    grid
        Spots of one section.
    radius
        Largest distance, in units of the coordinates. Where absent, 1.6 times the distance of adjacent spots, measured
        between the ideal array positions where there are any, so that jitter does not drop a corner.

    Returns
    -------
    Positions within the section, shape (n, 8), nearest first, -1 where there is none. The spot itself is left out.
    """
    limit = MAX_NEIGHBORS_HEXAGONAL if grid.kind == "hexagonal" else MAX_NEIGHBORS
    points, reach = (grid.xy, radius) if radius is not None else _default_reach(grid)
    n = len(points)
    result = np.full((n, MAX_NEIGHBORS), -1, dtype=np.int64)
    tree, width = cKDTree(points), min(limit, n)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        result[rows, :width] = _nearest(tree, grid.xy, rows, reach)[:, :width]
    return result


def _default_reach(grid: SpotGrid) -> tuple[np.ndarray, float]:
    """Points between which distances are measured, and the largest distance."""
    if grid.lattice is None or grid.array is None:
        return grid.xy, _REACH * grid.pitch
    return grid.lattice.positions(grid.array), _REACH * grid.pitch


def _nearest(tree: cKDTree, xy: np.ndarray, rows: np.ndarray, reach: float) -> np.ndarray:
    """Candidates within reach, nearest first by their coordinates; ties by direction, so that row order has no say."""
    k = min(2 * MAX_NEIGHBORS + 1, tree.n)
    # Spots that are all at one place have no pitch; any reach then joins them.
    within = reach * (1 + 1e-9) or 1.0
    _, found = tree.query(tree.data[rows], k=np.arange(1, k + 1), distance_upper_bound=within)
    absent = (found == tree.n) | (found == rows[:, None])
    offsets = (xy[np.where(absent, 0, found)] - xy[rows][:, None, :]) / within
    distances = np.where(absent, np.inf, np.linalg.norm(offsets, axis=2))
    keys = (*np.moveaxis(offsets, 2, 0).round(6), distances.round(6))
    order = np.lexsort(keys, axis=1)
    return np.take_along_axis(np.where(absent, -1, found), order, axis=1)


def smoothing_window(grid: SpotGrid) -> csr_matrix:
    """Averaging matrix (n, n) of the paper's smoothing: rows sum to 1, the spot itself included.

    The 3 x 3 window of array ids where there are any; on hexagonal arrays the spot and its six neighbours, and
    elsewhere the spot and its :func:`neighborhood`.
    """
    if grid.array is not None and grid.kind != "hexagonal":
        source, target = cKDTree(grid.array).query_pairs(1.5, p=np.inf, output_type="ndarray").T
        source, target = np.concatenate([source, target]), np.concatenate([target, source])
    else:
        neighbors = neighborhood(grid)
        source, column = np.nonzero(neighbors >= 0)
        target = neighbors[source, column]
    n = len(grid.xy)
    return averaging(csr_matrix((np.ones(len(source)), (source, target)), shape=(n, n)))


def averaging(graph: csr_matrix) -> csr_matrix:
    """Row-normalised matrix of the mean over the neighbours in a graph and self."""
    adjacency = (graph != 0) + identity(graph.shape[0], dtype=bool)
    return csr_matrix(diags(1 / np.asarray(adjacency.sum(axis=1)).ravel()) @ adjacency)
