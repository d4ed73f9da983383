"""A multiscale image element from lazy arrays."""

from __future__ import annotations

from collections.abc import Sequence

import dask.array as da
import numpy as np
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity, set_transformation
from xarray import DataArray, Dataset, DataTree

CHUNK_PX = 1024
_COARSEST_PX = 2048
_DIMS = ("c", "y", "x")
_COLOURS = ["r", "g", "b"]


def multiscale(levels: Sequence[da.Array], *, in_memory: bool) -> DataTree | DataArray:
    """Image of RGB levels (c, y, x) from fine to coarse, halved further until the coarsest is small.

    The levels that are added are means of 2 x 2 pixels, computed now where the image is in memory, and otherwise when
    they are read.
    """
    scales = list(levels)
    while max(scales[-1].shape) > _COARSEST_PX and min(scales[-1].shape[1:]) > 1:
        coarser = _halved(scales[-1])
        scales.append(coarser.persist() if in_memory else coarser)
    images = [_scale(level, scales[0]) for level in scales]
    tree = DataTree.from_dict({f"scale{number}": Dataset({"image": image}) for number, image in enumerate(images)})
    whole = tree if len(images) > 1 else images[0]
    set_transformation(whole, {"global": Identity()}, set_all=True)
    Image2DModel.validate(whole)
    return whole


def _scale(level: da.Array, finest: da.Array) -> DataArray:
    coords = {
        axis: (np.arange(size) + 0.5) * (whole / size)
        for axis, size, whole in zip(_DIMS[1:], level.shape[1:], finest.shape[1:], strict=True)
    }
    return DataArray(level, dims=_DIMS, coords={"c": _COLOURS, **coords}, name="image")


def _halved(level: da.Array) -> da.Array:
    height, width = (side // 2 * 2 for side in level.shape[1:])
    even = level[:, :height, :width].rechunk((3, CHUNK_PX, CHUNK_PX))
    chunks = (even.chunks[0], *(tuple(size // 2 for size in axis) for axis in even.chunks[1:]))
    halved = da.map_blocks(_mean_of_four, even, chunks=chunks, dtype=level.dtype)
    return halved.rechunk((3, CHUNK_PX, CHUNK_PX))


def _mean_of_four(block: np.ndarray) -> np.ndarray:
    wide = block.astype(np.float32 if block.dtype.kind == "f" else np.uint32)
    total = wide[:, ::2, ::2] + wide[:, 1::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, 1::2]
    return (total / 4 if block.dtype.kind == "f" else (total + 2) // 4).astype(block.dtype)
