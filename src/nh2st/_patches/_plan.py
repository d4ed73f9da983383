"""In which order windows are read, and which pixels are held at a time, so that every chunk is decoded about once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import ceil

import numpy as np

from nh2st._patches._chunks import HOW_TO_CHUNK, largest_chunk
from nh2st._patches._pyramid import Level, Pyramid
from nh2st._patches._threads import MOST_WORKERS
from nh2st._patches._windows import Windows
from nh2st._settings import format_bytes, settings

BATCH_SHARE = 0.25
_SLAB_BYTES = 32 * 2**20
_PIECE_BYTES = 4 * 2**20
_DECODED_COPIES = 2


@dataclass(frozen=True)
class Slab:
    """Whole rows of chunks that are held at once, and the windows (`members`) that end in them.

    Rows `top` to `bottom` and columns `left` to `right` are held. Of the rows from `fresh` on, those `pieces` (rows and
    columns) are read that windows touch; rows above are kept from the slab before.
    """

    members: np.ndarray
    top: int
    fresh: int
    bottom: int
    left: int
    right: int
    pieces: list[tuple[slice, slice]]

    @property
    def nbytes(self) -> int:
        return 3 * (self.bottom - self.top) * (self.right - self.left)


@dataclass(frozen=True)
class _ChunkGrid:
    """Windows on the chunks of their level: bounds within the image, each (n, 2) as y, x, and edges of the chunks."""

    first: np.ndarray
    last: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    @cached_property
    def band(self) -> np.ndarray:
        """Row of chunks in which each window ends."""
        return np.searchsorted(self.rows, np.maximum(self.last[:, 0], 1), side="left") - 1

    @cached_property
    def column(self) -> np.ndarray:
        """Column of chunks in which each window begins."""
        begin = np.minimum(self.first[:, 1], self.columns[-1] - 1)
        return np.searchsorted(self.columns, begin, side="right") - 1

    @cached_property
    def begin(self) -> tuple[int, int]:
        """First row and column that any window needs."""
        return tuple(self.first.min(axis=0).tolist())

    @cached_property
    def end(self) -> tuple[int, int]:
        """One past the last row and column that any window needs."""
        return tuple(self.last.max(axis=0).tolist())

    def take(self, windows: np.ndarray) -> _ChunkGrid:
        return replace(self, first=self.first[windows], last=self.last[windows])

    def order(self, columns: int) -> np.ndarray:
        """Windows by groups of columns of chunks, therein by row, then column of chunks."""
        column = self.column
        keys = (self.first[:, 1], self.first[:, 0], column, self.band, column // columns)
        return np.lexsort(keys)


def reading_order(pyramid: Pyramid, windows: Windows) -> np.ndarray:
    """Positions of the windows in the order in which they are read.

    The same at every memory limit at which whole rows of chunks can be held.
    """
    parts = [slab.members for slab in plan_slabs(pyramid, windows)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def plan_slabs(pyramid: Pyramid, windows: Windows) -> list[Slab]:
    """Slabs in reading order, as large as is useful and fits into the memory limit.

    Raises
    ------
    ValueError
        If even the smallest do not fit.
    """
    limit = int((1 - BATCH_SHARE) * settings.memory_limit)
    grid = _grid(windows)
    peak = 0
    for bands, columns in _sizes(grid):
        slabs = _slabs(grid, windows.level, bands, columns)
        peak = _peak(slabs, grid, windows.level)
        if peak <= limit:
            return slabs
    raise ValueError(_too_small(pyramid.name, windows.level, ceil(peak / (1 - BATCH_SHARE))))


def _too_small(name: str, level: Level, needed: int) -> str:
    height, width = largest_chunk(level)
    return (
        f"Reading image {name!r}, stored in chunks of {height} x {width} px, needs {format_bytes(needed)}, but "
        f"`nh2st.settings.memory_limit` is {format_bytes(settings.memory_limit)}. Raise the limit "
        f'(`nh2st.settings.memory_limit = "{format_bytes(needed)}"`), or write the image in smaller chunks: '
        f"{HOW_TO_CHUNK}."
    )


def _grid(windows: Windows) -> _ChunkGrid:
    shape = windows.level.array.shape[1:]
    first, last = (np.clip(bound, 0, shape) for bound in windows.bounds)
    return _ChunkGrid(first, last, *windows.level.chunk_edges)


def _sizes(grid: _ChunkGrid) -> Iterator[tuple[int, int]]:
    """Rows and columns of chunks of a slab, from the largest worth having to the smallest possible."""
    columns = len(grid.columns) - 1
    bands = int(max(1, _SLAB_BYTES // (3 * np.diff(grid.rows).max() * grid.columns[-1])))
    while bands > 1:
        yield bands, columns
        bands //= 2
    while columns > 1:
        yield 1, columns
        columns = ceil(columns / 2)
    yield 1, 1


def _slabs(grid: _ChunkGrid, level: Level, bands: int, columns: int) -> list[Slab]:
    order = grid.order(columns)
    group = (grid.column // columns)[order]
    slabs: list[Slab] = []
    for strip in np.split(order, np.flatnonzero(np.diff(group)) + 1):
        slabs.extend(_strip(grid.take(strip), level, strip, bands))
    return slabs


def _strip(grid: _ChunkGrid, level: Level, order: np.ndarray, bands: int) -> Iterator[Slab]:
    """Slabs of one group of columns, from top to bottom; the grid holds its windows in their `order`."""
    if len(order) == 0:
        return
    slab = grid.band // bands
    read_to = 0
    for start, stop in pairwise([0, *(np.flatnonzero(np.diff(slab)) + 1).tolist(), len(order)]):
        top = int(grid.first[start:stop, 0].min())
        # Whole chunks are read even where only later windows need their last rows.
        end = int(grid.rows[min((int(slab[start]) + 1) * bands, len(grid.rows) - 1)])
        bottom = max(top, min(end, grid.end[0]))
        fresh = min(max(top, read_to), bottom)
        pieces = _pieces(grid, level, fresh, bottom)
        yield Slab(order[start:stop], top, fresh, bottom, grid.begin[1], grid.end[1], pieces)
        read_to = bottom


def _pieces(grid: _ChunkGrid, level: Level, fresh: int, bottom: int) -> list[tuple[slice, slice]]:
    """Chunks that windows touch within some rows, joined to pieces of a few megabytes."""
    near = grid.take((grid.first[:, 0] < bottom) & (grid.last[:, 0] > fresh))
    inner = grid.rows[(grid.rows > fresh) & (grid.rows < bottom)].tolist()
    pixel_bytes = 3 * level.array.dtype.itemsize
    bands: list[tuple[slice, list[slice]]] = []
    for top, end in pairwise([fresh, *inner, bottom]):
        runs = _runs(near, top, end, _PIECE_BYTES // (pixel_bytes * max(1, end - top)))
        width = max((run.stop - run.start for run in runs), default=0)
        if bands and bands[-1][1] == runs and (end - bands[-1][0].start) * width * pixel_bytes <= _PIECE_BYTES:
            bands[-1] = slice(bands[-1][0].start, end), runs
        else:
            bands.append((slice(top, end), runs))
    held = slice(grid.begin[1], grid.end[1])
    return [(rows, slice(max(run.start, held.start), min(run.stop, held.stop))) for rows, runs in bands for run in runs]


def _runs(grid: _ChunkGrid, top: int, end: int, longest: int) -> list[slice]:
    """Columns of chunks that windows touch between two rows, neighbours joined up to a length."""
    touching = (grid.first[:, 0] < end) & (grid.last[:, 0] > top) & (grid.first[:, 1] < grid.last[:, 1])
    depth = np.zeros(len(grid.columns), dtype=np.int64)
    np.add.at(depth, np.searchsorted(grid.columns, grid.first[touching, 1], side="right") - 1, 1)
    np.add.at(depth, np.searchsorted(grid.columns, grid.last[touching, 1], side="left"), -1)
    runs: list[slice] = []
    for chunk in np.flatnonzero(np.cumsum(depth)):
        low, high = grid.columns[chunk : chunk + 2].tolist()
        if runs and runs[-1].stop == low and high - runs[-1].start <= longest:
            runs[-1] = slice(runs[-1].start, high)
        else:
            runs.append(slice(low, high))
    return runs


def _peak(slabs: list[Slab], grid: _ChunkGrid, level: Level) -> int:
    """Bytes held at most: a slab that is cut, the next one, and what is decoded for it at a time."""
    before, peak = 0, 0
    for slab in slabs:
        peak = max(peak, before + slab.nbytes + _decoded(slab, grid, level))
        before = slab.nbytes
    return peak


def _decoded(slab: Slab, grid: _ChunkGrid, level: Level) -> int:
    """Bytes of the chunks that all threads together decode at a time."""
    areas = [_whole(grid.rows, rows) * _whole(grid.columns, columns) for rows, columns in slab.pieces]
    return _DECODED_COPIES * 3 * level.array.dtype.itemsize * sum(sorted(areas)[-MOST_WORKERS:])


def _whole(edges: np.ndarray, span: slice) -> int:
    """Length of the chunks that a span touches."""
    begin = np.searchsorted(edges, span.start, side="right") - 1
    return int(edges[np.searchsorted(edges, span.stop, side="left")] - edges[begin])
