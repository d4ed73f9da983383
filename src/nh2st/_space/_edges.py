"""Edges between spots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Edges:
    """Directed edges of one section: row positions within it, and their lengths (1 on grids)."""

    n: int
    source: np.ndarray
    target: np.ndarray
    length: np.ndarray


def connectivities(edges: Edges) -> csr_matrix:
    """Matrix (n, n) with 1 where spots are connected."""
    ones = np.ones(len(edges.source), dtype=np.float32)
    return csr_matrix((ones, (edges.source, edges.target)), shape=(edges.n, edges.n))
