"""Micrometres per pixel, from spots at known distances."""

from __future__ import annotations

import numpy as np

from nh2st._settings import logger
from nh2st._space._grid import SpotGrid
from nh2st._space._lattice import Lattice

_ISOTROPIC = 1.05


def array_mpp(grid: SpotGrid, pitch_um: float) -> float:
    """Micrometres per pixel of spots at known distances.

    Parameters
    ----------
    grid
        Spots, whose coordinates are in pixels.
    pitch_um
        As in :func:`nh2st.pp.estimate_mpp`.

    Raises
    ------
    ValueError
        If there are no two spots apart.
    """
    lattice = grid.lattice
    if lattice is None:
        if not grid.pitch:
            msg = "the scale needs at least two spots at different places. Give it instead: `mpp=`."
            raise ValueError(msg)
        return pitch_um / grid.pitch
    scale = np.linalg.inv(lattice.matrix) @ np.diag(_steps_um(lattice, pitch_um))
    largest, smallest = np.linalg.svd(scale, compute_uv=False)
    if largest > _ISOTROPIC * smallest:
        logger.warning(
            "The image is not isotropic: %.3f to %.3f um per pixel along its axes; the geometric mean is used.",
            smallest,
            largest,
        )
    return float(np.sqrt(largest * smallest))


def _steps_um(lattice: Lattice, pitch_um: float) -> tuple[float, float]:
    """Micrometres from one array row, and from one array column, to the next."""
    if lattice.kind != "hexagonal":
        return pitch_um, pitch_um
    wide, narrow = pitch_um * np.sqrt(3) / 2, pitch_um / 2
    row, col = np.linalg.norm(lattice.matrix, axis=1)
    return (wide, narrow) if row > col else (narrow, wide)
