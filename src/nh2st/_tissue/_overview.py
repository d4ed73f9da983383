"""A small picture of a whole slide, read in bands."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from nh2st._patches import Level, Pyramid

_BAND_BYTES = 128 * 2**20


def overview(pyramid: Pyramid, scale: float) -> np.ndarray:
    """Whole image with about one pixel for each `scale` x `scale` scale-0 pixels.

    Read from the coarsest level that is fine enough, a band at a time, so that a slide without coarse levels is read
    in bounded memory too.

    Returns
    -------
    uint8, shape (height, width, 3), at least one pixel high and wide.
    """
    level = pyramid.level_for(scale)
    # Bands of a power of two rows follow the chunks, so that each chunk is decoded once.
    factor = 2 ** int(np.log2(max(1.0, scale / level.scale)))
    reduced = Image.fromarray(np.concatenate(list(_reduced_bands(pyramid, level, factor))))
    height, width = (max(1, round(side / scale)) for side in pyramid.shape)
    box = (0, 0, level.array.shape[2] / factor, level.array.shape[1] / factor)
    return np.asarray(reduced.resize((width, height), Image.Resampling.BOX, box=box))


def _reduced_bands(pyramid: Pyramid, level: Level, factor: int) -> Iterator[np.ndarray]:
    height, width = level.array.shape[1:]
    chunk = (getattr(level.array, "chunksize", None) or (3, 1, width))[1]
    chunks = _BAND_BYTES // (level.array.dtype.itemsize * 3 * width * chunk)
    rows = max(1, -(-chunk * max(1, chunks) // factor)) * factor
    for top in range(0, height, rows):
        band = pyramid.read(level, slice(top, min(top + rows, height)), slice(0, width))
        yield np.asarray(Image.fromarray(np.ascontiguousarray(band)).reduce(factor))
