"""Warnings of images whose chunks make reading slow."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from nh2st._patches._pyramid import Level, Pyramid
from nh2st._settings import logger

HOW_TO_CHUNK = (
    "`sdata[...] = Image2DModel.parse(image, chunks=(3, 1024, 1024), scale_factors=[2, 2, 2])`, then "
    "`sdata.write(...)` and read it from there"
)
_LARGE_CHUNK_BYTES = 2**28


def warn_of_chunks(pyramid: Pyramid, level: Level) -> None:
    """Say so where chunks are large, or where each is cut anew out of one that holds them all."""
    height, width = largest_chunk(level)
    if 3 * height * width * level.array.dtype.itemsize > _LARGE_CHUNK_BYTES:
        logger.warning(
            "Image %r is stored in chunks of %d x %d px, which are read whole. To read it in small parts: %s.",
            pyramid.name,
            height,
            width,
            HOW_TO_CHUNK,
        )
    elif _share_source(level.array):
        logger.warning(
            "The chunks of image %r are cut out of larger ones, which are decoded anew for each. To decode them "
            "once: %s.",
            pyramid.name,
            HOW_TO_CHUNK,
        )


def largest_chunk(level: Level) -> tuple[int, int]:
    """Height and width of the largest chunk."""
    rows, columns = level.chunk_edges
    return int(np.diff(rows).max()), int(np.diff(columns).max())


def _share_source(array: Any) -> bool:
    """Whether the first and the last chunk of a dask array are computed from the same chunk of another."""
    if getattr(array, "npartitions", 1) == 1:
        return False
    ends = [array.blocks[0, 0, 0], array.blocks[-1, -1, -1]]
    graphs = [dict(end.__dask_graph__().cull(set(chain(*chain(*end.__dask_keys__()))))) for end in ends]
    # Keys of chunks are tuples; stores, and files that were opened, are shared under other keys.
    shared = [key for key in graphs[0].keys() & graphs[1].keys() if isinstance(key, tuple)]
    return any(callable(getattr(graphs[0][key], "func", None)) for key in shared)
