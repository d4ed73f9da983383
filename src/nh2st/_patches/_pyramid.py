"""An RGB image at one or several scales, read lazily and always seen as 8 bit."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np

from nh2st._patches._threads import n_workers
from nh2st._patches._zarr_source import check_store, stored_as
from nh2st._settings import logger

_SAMPLE_PX = 256
_SAMPLES = 4
_CHUNK_PX = 1024
_ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Level:
    """One scale of an image: lazy array (channel, y, x) and how many scale-0 pixels one of its pixels spans."""

    array: Any
    scale_y: float
    scale_x: float

    @property
    def scale(self) -> float:
        return (self.scale_y + self.scale_x) / 2

    @property
    def chunk_edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows, and columns, between which chunks lie, from 0 to the end; made up for an array that has no chunks."""
        chunks = getattr(self.array, "chunks", None)
        if chunks is None:
            height, width = self.array.shape[1:]
            return _regular_edges(height), _regular_edges(width)
        return np.cumsum([0, *chunks[1]]), np.cumsum([0, *chunks[2]])


def _regular_edges(length: int) -> np.ndarray:
    return np.append(np.arange(0, length, _CHUNK_PX), length)


@dataclass(frozen=True)
class Pyramid:
    """Scales of an RGB image from fine to coarse."""

    name: str
    levels: tuple[Level, ...]
    to_uint8: Callable[[np.ndarray], np.ndarray]
    _fingerprints: dict[tuple[int, ...], str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width at scale 0, in pixels."""
        _, height, width = self.levels[0].array.shape
        return height, width

    def level_for(self, scale: float) -> Level:
        """Coarsest level that is at least as fine as one pixel per `scale` scale-0 pixels."""
        # Halving an odd number of pixels makes a level up to one of its pixels coarser than its nominal scale.
        fitting = [level for level in self.levels if level.scale <= scale * 1.01]
        return fitting[-1] if fitting else self.levels[0]

    def read(self, level: Level, y: slice, x: slice) -> np.ndarray:
        """Pixels of a window as uint8, shape (height, width, 3).

        Raises
        ------
        OSError
            If the image store cannot be read; the image is named.
        """
        return self.to_uint8(_compute(self.name, level.array, y, x)).transpose(1, 2, 0)

    def read_into(self, pixels: np.ndarray, level: Level, y: slice, x: slice) -> None:
        """Read a window into an array (height, width, 3); what is computed, is in the calling thread alone."""
        window = _compute(self.name, level.array, y, x, scheduler="synchronous")
        # Some rows at a time: conversion takes up several times their memory, and transposing is fastest in the cache.
        for first in range(0, len(pixels), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            for channel, values in enumerate(self.to_uint8(window[:, rows])):
                pixels[rows, :, channel] = values

    def fingerprint(self, level: Level) -> str:
        """Hash of all pixels of a level, each chunk read once, one a thread at a time, and once for each pyramid.

        Equal pixels in other chunks have another hash.

        Raises
        ------
        OSError
            If the image store cannot be read.
        """
        shape = level.array.shape
        if shape not in self._fingerprints:
            self._fingerprints[shape] = self._hash(level)
        return self._fingerprints[shape]

    def _hash(self, level: Level) -> str:
        rows, columns = (_merged(edges) for edges in level.chunk_edges)
        with ThreadPoolExecutor(n_workers(), "nh2st-hash") as pool:
            digests = [pool.submit(self._digest, level, y, x) for y in rows for x in columns]
            try:
                total = blake2b(repr(level.array.shape).encode(), digest_size=16)
                for digest in digests:
                    total.update(digest.result())
            finally:
                pool.shutdown(cancel_futures=True)
        return total.hexdigest()

    def _digest(self, level: Level, y: slice, x: slice) -> bytes:
        pixels = np.empty((y.stop - y.start, x.stop - x.start, 3), dtype=np.uint8)
        self.read_into(pixels, level, y, x)
        return blake2b(pixels.data).digest()


def _merged(edges: np.ndarray) -> list[slice]:
    """Spans of whole chunks, small ones joined, as each reading costs about a millisecond."""
    spans, start = [], 0
    for edge in edges[1:].tolist():
        if edge - start >= _CHUNK_PX or edge == edges[-1]:
            spans.append(slice(start, edge))
            start = edge
    return spans


def _compute(name: str, array: Any, y: slice, x: slice, scheduler: str = "threads") -> np.ndarray:
    try:
        window = stored_as(array)[:, y, x]
        # In this process, whatever clients of clusters there are.
        window = window.compute(scheduler=scheduler) if hasattr(window, "compute") else np.asarray(window)
        if not window.any():
            check_store(array)
        return window
    except Exception as error:
        msg = f"Image {name!r} could not be read (rows {y.start}-{y.stop}, columns {x.start}-{x.stop}): {error}"
        raise OSError(msg) from error


def make_pyramid(name: str, arrays: list[Any], channels: list[str]) -> Pyramid:
    """Pyramid of lazy (c, y, x) arrays, finest first.

    Raises
    ------
    ValueError
        If the image is empty, has no three colour channels, its axes are mislabelled, or its values are no colours.
    OSError
        If the image store cannot be read.
    """
    arrays = [_rgb(name, array, channels) for array in arrays]
    height, width = arrays[0].shape[1:]
    levels = tuple(Level(array, height / array.shape[1], width / array.shape[2]) for array in arrays)
    return Pyramid(name, levels, _conversion(name, arrays[-1]))


def _rgb(name: str, array: Any, channels: list[str]) -> Any:
    count, height, width = array.shape
    if min(height, width) in (3, 4) and count > 4:
        msg = (
            f"Image {name!r} has {count} channels and is {height} x {width} px: its axes seem to be labelled in the "
            "wrong order. Name them as they are, `Image2DModel.parse(array, dims=('y', 'x', 'c'))` where the colours "
            "come last."
        )
        raise ValueError(msg)
    if height == 0 or width == 0:
        msg = f"Image {name!r} is empty ({height} x {width} px)."
        raise ValueError(msg)
    if count in (3, 4):
        order = _rgb_positions(channels)
        if order == list(range(count)):
            return array
        logger.warning("Image %r has %d channels; %s are used as RGB.", name, count, [channels[i] for i in order])
        return array[order]
    msg = (
        f"Image {name!r} has {count} channel{'s' if count > 1 else ''}; H&E patches need the three colours of an RGB "
        "image. Name another with `image_key=`."
    )
    raise ValueError(msg)


def _rgb_positions(channels: list[str]) -> list[int]:
    initials = [str(channel).strip().lower()[:1] for channel in channels]
    if all(colour in initials for colour in "rgb"):
        return [initials.index(colour) for colour in "rgb"]
    return [0, 1, 2]


def _conversion(name: str, coarsest: Any) -> Callable[[np.ndarray], np.ndarray]:
    dtype = coarsest.dtype
    if dtype == np.uint8:
        return _identity
    if dtype.kind not in "uif":
        msg = f"Image {name!r} has pixels of type {dtype}; 8-bit, 16-bit or float colours are needed."
        raise ValueError(msg)
    low, high = _value_range(name, coarsest)
    if not (low >= 0 and high <= 65535):
        msg = f"Image {name!r} holds values from {low:g} to {high:g}; convert it to 8-bit RGB."
        raise ValueError(msg)
    # Interpolation makes floats up to 1 overshoot; colours up to 255 that stay below 2 would be a black image.
    white = 1.0 if dtype.kind == "f" and high < 2 else 255.0 if high <= 255 else 65535.0
    logger.warning(
        "Image %r has pixels of type %s; %g is taken as white and scaled to 255 (the largest value seen is %g). "
        "Convert the image to 8-bit RGB if white is another value.",
        name,
        dtype,
        white,
        high,
    )
    return partial(_to_uint8, white=white)


def _value_range(name: str, array: Any) -> tuple[float, float]:
    """Smallest and largest value of a grid of samples, so that a large image is not read whole; NaN without any."""
    ys, xs = (
        np.unique(np.linspace(0, max(0, side - _SAMPLE_PX), _SAMPLES, dtype=int)).tolist() for side in array.shape[1:]
    )
    windows = [_compute(name, array, slice(y, y + _SAMPLE_PX), slice(x, x + _SAMPLE_PX)) for y in ys for x in xs]
    values = np.concatenate([window[~np.isnan(window)] for window in windows])
    return (float(values.min()), float(values.max())) if values.size else (np.nan, np.nan)


def _to_uint8(window: np.ndarray, white: float) -> np.ndarray:
    scaled = window.astype(np.float32)
    np.nan_to_num(scaled, copy=False, nan=white, posinf=white, neginf=0)
    scaled *= 255.0 / white
    return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)


def _identity(window: np.ndarray) -> np.ndarray:
    return window
