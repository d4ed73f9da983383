"""The regular array that spots lie on: its kind, and its map to coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.spatial import cKDTree

GridKind: TypeAlias = Literal["square", "hexagonal", "checkerboard", "generic"]

BOND = 1.3
"""Spots further apart than this times the typical distance are not adjacent on a grid (the value of squidpy)."""

_MAX_RESIDUAL, _HEXAGONAL_RATIO, _ORDER = 0.25, 1.2, 0.8
_SAMPLE = 20_000


@dataclass(frozen=True)
class Lattice:
    """Affine map from array ids to coordinates: ``xy = array @ matrix + offset``."""

    kind: GridKind
    matrix: np.ndarray
    offset: np.ndarray

    @property
    def pitch(self) -> float:
        """Distance of adjacent spots: on a checkerboard along the diagonal of the array."""
        cell = {"square": 1.0, "checkerboard": 2.0, "hexagonal": 4.0 / np.sqrt(3.0)}[self.kind]
        return float(np.sqrt(cell * abs(np.linalg.det(self.matrix))))

    def positions(self, array: np.ndarray) -> np.ndarray:
        """Ideal coordinates of the array ids, shape (n, 2)."""
        return array @ self.matrix + self.offset


def fit_lattice(xy: np.ndarray, array: np.ndarray | None) -> Lattice | None:
    """Fit array ids, shape (n, 2), to coordinates, shape (n, 2), by least squares.

    ``None`` where there are no array ids, where they lie on one line, or where they do not describe the coordinates
    (root mean square residual above a quarter of the pitch).
    """
    if array is None or len(array) < 3:
        return None
    design = np.column_stack([array, np.ones(len(array))])
    centre = xy.mean(axis=0)
    solution, _, rank, _ = np.linalg.lstsq(design, xy - centre, rcond=None)
    if rank < 3 or np.linalg.matrix_rank(solution[:2]) < 2:
        return None
    lattice = Lattice(_array_kind(array, solution[:2]), solution[:2], solution[2] + centre)
    residual = xy - lattice.positions(array)
    rms = np.sqrt((residual**2).sum(axis=1).mean())
    return lattice if rms <= _MAX_RESIDUAL * lattice.pitch else None


def _array_kind(array: np.ndarray, matrix: np.ndarray) -> GridKind:
    """Arrays whose row + column is always even (or odd) are hexagonal or checkerboards, by the shape of their cell."""
    if len(np.unique(array.sum(axis=1) % 2)) > 1:
        return "square"
    row, col = matrix
    diagonal = (np.linalg.norm(row + col) + np.linalg.norm(row - col)) / 2
    straight = 2 * min(np.linalg.norm(row), np.linalg.norm(col))
    return "hexagonal" if straight < _HEXAGONAL_RATIO * diagonal else "checkerboard"


def kind_of_points(xy: np.ndarray) -> GridKind:
    """Kind of grid by the directions to adjacent points.

    Bonds of a square grid agree in exp(4i angle), those of a hexagonal one in exp(6i angle); those of points on a line
    agree in both, and of scattered points in neither.
    """
    distances, offsets = _bonds(xy)
    adjacent = (distances > 0) & (distances < BOND * _typical(distances))
    if adjacent.sum() < 6:
        return "generic"
    angles = np.arctan2(offsets[adjacent][:, 1], offsets[adjacent][:, 0])
    square, hexagonal = (abs(np.exp(1j * fold * angles).mean()) for fold in (4, 6))
    if min(square, hexagonal) > _ORDER or max(square, hexagonal) < _ORDER:
        return "generic"
    return "square" if square > hexagonal else "hexagonal"


def pitch_of(xy: np.ndarray) -> float:
    """Typical distance of adjacent points; 0 where there are no two distinct ones.

    The median over the four nearest neighbours, not over the nearest alone, which is too short on jittered grids.
    """
    distances, _ = _bonds(xy)
    return _typical(distances)


def _typical(distances: np.ndarray) -> float:
    distances = distances[distances > 0]
    if not len(distances):
        return 0.0
    return float(np.median(distances[distances < BOND * np.median(distances)]))


def _bonds(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances (m, k) and offsets (m, k, 2) to up to four nearest neighbours, of a sample of the points."""
    if len(xy) < 2:
        return np.empty((0, 0)), np.empty((0, 0, 2))
    chosen = xy[:: -(-len(xy) // _SAMPLE)]
    distances, neighbors = cKDTree(xy).query(chosen, k=np.arange(2, min(5, len(xy)) + 1))
    return distances, xy[neighbors] - chosen[:, None, :]
