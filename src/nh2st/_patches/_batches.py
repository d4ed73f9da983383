"""Patches in batches: images are read, and patches cut, by threads while the caller works on earlier ones."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from threading import Event

import numpy as np
from PIL import Image

from nh2st._patches._chunks import warn_of_chunks
from nh2st._patches._plan import BATCH_SHARE, Slab, plan_slabs
from nh2st._patches._pyramid import Level, Pyramid
from nh2st._patches._threads import Stopped, ahead, n_workers
from nh2st._patches._windows import Windows
from nh2st._settings import format_bytes, settings

_WHITE = 255
_MOST_AHEAD = 8


def iter_batches(
    pyramid: Pyramid, windows: Windows, batch_size: int
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Patches in the order of :func:`reading_order`, made ahead by threads.

    Each chunk of the image is decoded once, or nearly. Pixels and patches that are held, and those that were yielded
    last, take up at most ``settings.memory_limit``. The threads end with the generator: when it is exhausted, closed,
    or no longer referred to.

    Parameters
    ----------
    pyramid
        The image.
    windows
        Where the patches are.
    batch_size
        Patches in each batch, but for the last.

    Yields
    ------
    Positions within the windows, shape (k,), and their patches as uint8, shape (k, patch_px, patch_px, 3), white
    beyond the image.

    Raises
    ------
    ValueError
        If the memory limit is too small for a batch, or for the chunks of the image; raised before anything is read.
    OSError
        If the image store cannot be read.
    """
    depth = _batches_ahead(pyramid, windows, batch_size)
    slabs = plan_slabs(pyramid, windows)
    warn_of_chunks(pyramid, windows.level)
    return _batches(pyramid, windows, slabs, batch_size, depth)


def _batches_ahead(pyramid: Pyramid, windows: Windows, batch_size: int) -> int:
    """How many batches can wait beside the one that the caller has."""
    batch = batch_size * windows.patch_bytes
    fitting = int(BATCH_SHARE * settings.memory_limit) // batch
    if fitting < 2:
        msg = (
            f"Batches of {batch_size} patches of {windows.patch_px} px from image {pyramid.name!r} need "
            f"{format_bytes(int(2 * batch / BATCH_SHARE))}, but `nh2st.settings.memory_limit` is "
            f"{format_bytes(settings.memory_limit)}. Raise the limit, or lower `batch_size=`."
        )
        raise ValueError(msg)
    return min(fitting - 1, _MOST_AHEAD)


def _batches(
    pyramid: Pyramid, windows: Windows, slabs: list[Slab], batch_size: int, depth: int
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    stop = Event()
    with closing(ahead(_read_slabs(pyramid, windows.level, slabs, stop), 1, stop)) as held:
        with closing(ahead(_cut_batches(windows, slabs, held, batch_size, stop), depth, stop)) as batches:
            yield from batches


def _read_slabs(pyramid: Pyramid, level: Level, slabs: list[Slab], stop: Event) -> Generator[np.ndarray, None, None]:
    """Pixels of each slab, its first rows copied from the slab before."""

    def read(pixels: np.ndarray, slab: Slab, y: slice, x: slice) -> None:
        if stop.is_set():
            raise Stopped
        part = pixels[y.start - slab.top : y.stop - slab.top, x.start - slab.left : x.stop - slab.left]
        pyramid.read_into(part, level, y, x)

    before, pixels = None, np.empty((0, 0, 3), dtype=np.uint8)
    with ThreadPoolExecutor(n_workers(), "nh2st-read") as pool:
        for slab in slabs:
            earlier, pixels = pixels, np.empty((slab.bottom - slab.top, slab.right - slab.left, 3), dtype=np.uint8)
            if before is not None and slab.fresh > slab.top:
                pixels[: slab.fresh - slab.top] = earlier[slab.top - before.top : slab.fresh - before.top]
            del earlier
            _finish([pool.submit(read, pixels, slab, *piece) for piece in slab.pieces])
            yield pixels
            before = slab


def _cut_batches(
    windows: Windows, slabs: list[Slab], held: Iterator[np.ndarray], batch_size: int, stop: Event
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Cut batches, which may begin in one slab and end in the next."""
    order = np.concatenate([np.empty(0, dtype=np.int64), *(slab.members for slab in slabs)])
    starts, (firsts, lasts) = windows.start, windows.bounds

    def cut(slab: Slab, pixels: np.ndarray, members: np.ndarray, patches: np.ndarray) -> None:
        corner = (slab.top, slab.left)
        for member, patch in zip(members, patches, strict=True):
            if stop.is_set():
                raise Stopped
            first, last, start = (bound[member] - corner for bound in (firsts, lasts, starts))
            patch[:] = _cut(pixels, first, last, start, windows)

    done, workers = 0, n_workers()
    with ThreadPoolExecutor(workers, "nh2st-cut") as pool:
        for slab, pixels in zip(slabs, held, strict=True):
            end = done + len(slab.members)
            while done < end:
                filled = done % batch_size
                if filled == 0:
                    size = min(batch_size, len(order) - done)
                    patches = np.empty((size, windows.patch_px, windows.patch_px, 3), dtype=np.uint8)
                members = order[done : min(end, done + size - filled)]
                parts = zip(
                    np.array_split(members, workers),
                    np.array_split(patches[filled : filled + len(members)], workers),
                    strict=True,
                )
                _finish([pool.submit(cut, slab, pixels, *part) for part in parts])
                done += len(members)
                if filled + len(members) == size:
                    yield order[done - size : done], patches


def _finish(tasks: list[Future[None]]) -> None:
    try:
        for task in tasks:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


def _cut(pixels: np.ndarray, first: np.ndarray, last: np.ndarray, start: np.ndarray, windows: Windows) -> np.ndarray:
    """One patch out of a slab; all positions are y, x relative to the slab."""
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
        return inner
    window = np.full((*(last - first), 3), _WHITE, dtype=np.uint8)
    offset = np.clip(low - first, 0, last - first)
    window[offset[0] : offset[0] + inner.shape[0], offset[1] : offset[1] + inner.shape[1]] = inner
    return window
