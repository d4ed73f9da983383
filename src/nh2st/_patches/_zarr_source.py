"""The zarr stores behind lazy images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import zarr
from dask.array import Array
from dask.highlevelgraph import MaterializedLayer


def stored_as(array: Any) -> Any:
    """The zarr array that a dask array is nothing but a view of, which costs less to read from; else the array."""
    if not isinstance(array, Array):
        return array
    # The name that dask gives to the source of this very array, not to one from which it is computed.
    source = array.dask.layers.get(f"original-{array.name}", {})
    return next((stored for stored in _stored([source]) if stored.shape == array.shape), array)


def check_store(array: Any) -> None:
    """Open the zarr arrays behind a dask array anew: one that is gone, or not seen from this machine, reads as black.

    Raises
    ------
    OSError
        If one is not there.
    """
    if isinstance(array, Array):
        for stored in _stored(array.dask.layers.values()):
            zarr.open_array(stored.store_path, mode="r")


def _stored(layers: Iterable[Any]) -> Iterator[zarr.Array]:
    for layer in layers:
        # Layers of chunks, which may be many, are made when they are needed; those of stores are there.
        for task in layer.values() if isinstance(layer, MaterializedLayer) else ():
            if isinstance(stored := getattr(task, "value", task), zarr.Array):
                yield stored
