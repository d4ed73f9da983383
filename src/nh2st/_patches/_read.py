"""Reads windows in the order of the image's chunks: a strip at a time, fetched ahead by one thread."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nh2st._patches._pyramid import Level, Pyramid
from nh2st._patches._windows import Windows
from nh2st._settings import logger

_STRIP_BYTES = 256 * 2**20
_WHITE = 255
_LARGE_CHUNK_BYTES = 2**30


@dataclass(frozen=True)
class _Strip:
    members: np.ndarray
    y: slice
    x: slice


def read_patches(pyramid: Pyramid, windows: Windows) -> np.ndarray:
    """All patches as uint8, shape (n, patch_px, patch_px, 3), in the order of the windows; white beyond the image."""
    px = windows.patch_px
    patches = np.empty((len(windows.start), px, px, 3), dtype=np.uint8)
    for members, cut in iter_patches(pyramid, windows):
        patches[members] = cut
    return patches


def iter_patches(
    pyramid: Pyramid, windows: Windows, strip_bytes: int = _STRIP_BYTES
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions and patches strip by strip; the next strip is read while the caller works on this one."""
    _warn_of_one_chunk(pyramid, windows.level)
    strips = _plan_strips(windows, strip_bytes)
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(workers) as cutters:
        ahead: Future[np.ndarray] | None = None
        for position, strip in enumerate(strips):
            pixels = (ahead or reader.submit(_read_strip, pyramid, windows.level, strip)).result()
            following = strips[position + 1] if position + 1 < len(strips) else None
            ahead = reader.submit(_read_strip, pyramid, windows.level, following) if following else None
            first, last = (bound[strip.members] - (strip.y.start, strip.x.start) for bound in windows.bounds)
            starts = windows.start[strip.members] - (strip.y.start, strip.x.start)
            cut = cutters.map(lambda f, e, s, pixels=pixels: _cut(pixels, f, e, s, windows), first, last, starts)
            yield strip.members, np.stack(list(cut))


def _read_strip(pyramid: Pyramid, level: Level, strip: _Strip) -> np.ndarray:
    return pyramid.read(level, strip.y, strip.x)


def _plan_strips(windows: Windows, strip_bytes: int) -> list[_Strip]:
    height, width = windows.level.array.shape[1:]
    first, last = windows.bounds
    side = int((last - first).max(initial=1))
    chunk_y, chunk_x = _chunk_shape(windows.level)
    item = 3 * windows.level.array.dtype.itemsize
    band = _band(chunk_y, height, side, strip_bytes // (item * width))
    column = _band(chunk_x, width, side, strip_bytes // (item * min(band + side, height)))
    cell = np.column_stack([np.clip(first[:, 0], 0, height) // band, np.clip(first[:, 1], 0, width) // column])
    order = np.lexsort((cell[:, 1], cell[:, 0]))
    edges = np.flatnonzero(np.diff(cell[order], axis=0).any(axis=1)) + 1
    return [_strip_of(members, first, last, (height, width)) for members in np.split(order, edges) if len(members)]


def _band(chunk: int, length: int, side: int, fitting: int) -> int:
    """Rows or columns of a strip: all, or as many whole chunks as fit into memory beside the overlap, at least one."""
    if length <= fitting:
        return max(length, 1)
    return min(max(chunk, (fitting - side) // chunk * chunk), length)


def _strip_of(members: np.ndarray, first: np.ndarray, last: np.ndarray, shape: tuple[int, int]) -> _Strip:
    low = np.clip(first[members].min(axis=0), 0, shape)
    high = np.clip(last[members].max(axis=0), low, shape)
    return _Strip(members, slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1])))


def _chunk_shape(level: Level) -> tuple[int, int]:
    chunks = getattr(level.array, "chunksize", None) or level.array.shape
    return max(1, chunks[1]), max(1, chunks[2])


def _warn_of_one_chunk(pyramid: Pyramid, level: Level) -> None:
    chunks = getattr(level.array, "chunksize", None)
    if chunks and np.prod(chunks, dtype=np.int64) * level.array.dtype.itemsize > _LARGE_CHUNK_BYTES:
        logger.warning(
            "Image %r is stored in chunks of %d x %d px, which are read whole. Reading is lighter from "
            "`Image2DModel.parse(image, chunks=(3, 1024, 1024), scale_factors=[2, 2, 2])`, written to zarr.",
            pyramid.name,
            chunks[1],
            chunks[2],
        )


def _cut(pixels: np.ndarray, first: np.ndarray, last: np.ndarray, start: np.ndarray, windows: Windows) -> np.ndarray:
    """One patch out of a strip; all positions are y, x relative to the strip."""
    window = _padded(pixels, first, last)
    if windows.exact:
        return window
    y, x = start - first
    box = (x, y, x + windows.side, y + windows.side)
    size = (windows.patch_px, windows.patch_px)
    return np.asarray(Image.fromarray(window).resize(size, Image.Resampling.BILINEAR, box=box))


def _padded(pixels: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    low, high = np.clip(first, 0, pixels.shape[:2]), np.clip(last, 0, pixels.shape[:2])
    inner = pixels[low[0] : high[0], low[1] : high[1]]
    if (low == first).all() and (high == last).all():
        return np.ascontiguousarray(inner)
    window = np.full((*(last - first), 3), _WHITE, dtype=np.uint8)
    offset = np.clip(low - first, 0, last - first)
    window[offset[0] : offset[0] + inner.shape[0], offset[1] : offset[1] + inner.shape[1]] = inner
    return window
