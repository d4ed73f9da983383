"""Where the rows of all patches are collected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np


class RowCollector:
    """Rows of n patches for each output of a module, filled in any order, each once.

    With `order` "F" arrays are kept column by column, as sparse layers hold them.
    """

    def __init__(self, n: int, order: Literal["C", "F"]) -> None:
        self._n, self._order = n, order
        self._filled = 0
        self._arrays: list[np.ndarray] = []

    def put(self, members: np.ndarray, parts: Sequence[np.ndarray]) -> None:
        """Fill the rows of some patches."""
        if not self._arrays:
            self._arrays = [np.empty((self._n, part.shape[1]), dtype=part.dtype, order=self._order) for part in parts]
        for array, part in zip(self._arrays, parts, strict=True):
            array[members] = part
        self._filled += len(members)

    @property
    def full(self) -> bool:
        """Whether all rows are there."""
        return self._filled == self._n

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """One array (n, width) an output."""
        return tuple(self._arrays)
