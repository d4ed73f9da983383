"""Spots of one section in the plane, with what their arrangement tells: fitted once, and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nh2st._space._lattice import GridKind, Lattice, fit_lattice, kind_of_points, pitch_of


@dataclass(frozen=True)
class SpotGrid:
    """Coordinates (n, 2) of the spots and, where known, their array rows and columns (n, 2); `name` is for messages."""

    xy: np.ndarray
    array: np.ndarray | None = None
    name: str = "section"

    @cached_property
    def lattice(self) -> Lattice | None:
        """Map from array ids to coordinates; None where there is none (see :func:`fit_lattice`)."""
        return fit_lattice(self.xy, self.array)

    @cached_property
    def kind(self) -> GridKind:
        """Kind of array, by the array ids, or by the coordinates where these do not tell."""
        return self.lattice.kind if self.lattice else kind_of_points(self.xy)

    @cached_property
    def pitch(self) -> float:
        """Distance of adjacent spots: that of the lattice where there is one, else the typical one; 0 where unknown."""
        return self.lattice.pitch if self.lattice else pitch_of(self.xy)
