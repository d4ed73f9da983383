"""What users hand over: one object, or a list or dictionary of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias

from anndata import AnnData
from spatialdata import SpatialData

Data: TypeAlias = SpatialData | AnnData | Sequence[SpatialData | AnnData] | Mapping[str, SpatialData | AnnData]
ImageData: TypeAlias = SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData]


def objects_of(data: Data, *, images: bool = False) -> list[tuple[str | None, Any]]:
    """Objects with their keys (`None` for a single one).

    Raises
    ------
    TypeError
        If something is neither SpatialData nor AnnData, or is an AnnData where images are needed.
    ValueError
        If the collection is empty or holds one object twice.
    """
    if isinstance(data, SpatialData | AnnData):
        pairs: list[tuple[str | None, Any]] = [(None, data)]
    elif isinstance(data, Mapping):
        pairs = [(str(key), value) for key, value in data.items()]
    elif isinstance(data, Sequence) and not isinstance(data, str):
        pairs = [(str(position), value) for position, value in enumerate(data)]
    else:
        pairs = [(None, data)]
    if not pairs:
        msg = "No data was given: the list or dictionary is empty."
        raise ValueError(msg)
    for key, value in pairs:
        _check_type(key, value, images=images)
    if len({id(value) for _, value in pairs}) < len(pairs):
        msg = "The same object was given twice; its spots would count twice. Pass each object once."
        raise ValueError(msg)
    return pairs


def _check_type(key: str | None, value: Any, *, images: bool) -> None:
    where = "" if key is None else f" under {key!r}"
    if isinstance(value, AnnData) and images:
        msg = (
            f"An AnnData was given{where}, but this function needs the image. Build a SpatialData: "
            "`SpatialData(images={...}, shapes={...}, tables={'table': adata})` (see spatialdata.models), or read the "
            "section with spatialdata_io, for example `spatialdata_io.visium(folder)`."
        )
        raise TypeError(msg)
    if not isinstance(value, SpatialData | AnnData):
        msg = f"Expected a SpatialData{'' if images else ' or AnnData'}, got {type(value).__name__}{where}."
        if isinstance(value, str | PathLike):
            msg += f" Read it first: `spatialdata.read_zarr({str(value)!r})`."
        raise TypeError(msg)
