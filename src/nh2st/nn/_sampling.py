from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_REFINEMENTS = 4


def spatial_batches(
    coordinates: np.ndarray,
    sections: np.ndarray,
    batch_size: int,
    *,
    cluster_spots: int = 16,
    seed: int | Sequence[int],
) -> list[np.ndarray]:
    """Divide all spots into the batches of one epoch, spots that lie together in one batch.

    Every section is cut by a randomly shifted square grid into compact clusters, the clusters of all sections are
    shuffled, and their sequence is cut into batches. Spots of a cluster share neighbours, so that few patches are
    encoded per spot, and a batch still mixes many places and sections.

    Parameters
    ----------
    coordinates
        Positions (S, 2) of the spots, in any unit.
    sections
        Section (S,) of each spot.
    batch_size
        Targets in a batch. Batches differ by at most one spot, and are one spot larger where one would be left alone.
    cluster_spots
        Spots in a cluster, on average.
    seed
        Seed of the grid and the order; for a new order in every epoch, ``(seed, epoch)``.

    Returns
    -------
    Positions of the spots in each batch; every spot is in exactly one.

    Raises
    ------
    ValueError
        If coordinates are not finite, or ``batch_size`` or ``cluster_spots`` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from nh2st.nn import spatial_batches
    >>> coordinates = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 2)
    >>> batches = spatial_batches(coordinates, np.zeros(64), 32, seed=0)
    >>> [len(batch) for batch in batches]
    [32, 32]
    """
    coordinates = np.asarray(coordinates, dtype=float)
    if min(batch_size, cluster_spots) < 1:
        msg = f"batch_size and cluster_spots must be at least 1, not {batch_size} and {cluster_spots}."
        raise ValueError(msg)
    if not np.isfinite(coordinates).all():
        n_invalid = np.count_nonzero(~np.isfinite(coordinates).all(axis=1))
        msg = f"{n_invalid} of {len(coordinates)} spots have coordinates that are not finite."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    clusters = np.zeros(len(coordinates), dtype=np.int64)
    n_clusters = 0
    for section in np.unique(sections):
        rows = np.flatnonzero(sections == section)
        cells = _grid_cells(coordinates[rows], cluster_spots, rng)
        clusters[rows] = n_clusters + cells
        n_clusters += cells.max() + 1
    order = np.argsort(rng.permutation(n_clusters)[clusters], kind="stable")
    return _cut(order, batch_size)


def _grid_cells(xy: np.ndarray, cluster_spots: int, rng: np.random.Generator) -> np.ndarray:
    """Cell of each spot, the side of the cells fitted so that occupied ones hold ``cluster_spots`` on average."""
    shift = rng.random(2)
    side = (np.ptp(xy, axis=0).max() or 1.0) * min(1.0, np.sqrt(cluster_spots / len(xy)))
    for _ in range(_REFINEMENTS):
        n_cells = len(np.unique(np.floor(xy / side + shift), axis=0))
        side *= np.sqrt(cluster_spots * n_cells / len(xy))
    return np.unique(np.floor(xy / side + shift), axis=0, return_inverse=True)[1].reshape(-1)


def _cut(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    n_batches = -(-len(order) // batch_size)
    if batch_size > 1:
        n_batches = min(n_batches, max(len(order) // 2, 1))
    return np.array_split(order, n_batches)
