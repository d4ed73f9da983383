"""Whether the store that an image is read from is still there."""

from __future__ import annotations

from typing import Any

import zarr
from dask.array import Array
from dask.highlevelgraph import MaterializedLayer


def check_store(array: Any) -> None:
    """Open the zarr arrays behind a dask array anew: one that is gone, or not seen from this machine, reads as black.

    Raises
    ------
    OSError
        If one is not there.
    """
    if not isinstance(array, Array):
        return
    for layer in array.dask.layers.values():
        # Layers of chunks, which may be many, are made when they are needed; those of stores are there.
        for task in layer.values() if isinstance(layer, MaterializedLayer) else ():
            if isinstance(stored := getattr(task, "value", task), zarr.Array):
                zarr.open_array(stored.store_path, mode="r")
