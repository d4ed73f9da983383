"""TIFF files of any kind, read lazily: OME-TIFF, SVS, NDPI, ..."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import dask.array as da
import tifffile
import zarr

from nh2st._slides._multiscale import CHUNK_PX
from nh2st._slides._stated_mpp import UM_PER_INCH, mpp_of_aperio, mpp_of_ome, mpp_of_resolution

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UM_PER_UNIT = {2: UM_PER_INCH, 3: 10_000.0}
"""Micrometres of an inch and a centimetre, by the value of TIFF's ResolutionUnit."""

_XMP = 700
_JPEG2000_YCBCR = 33003
_MOST_BLOCK_BYTES = 2**29
_CHUNK_BYTES = 2**26
_WHITE = 255
_CUT_SHORT = "it is cut short, or damaged. Copy or download it again."


def is_tiff(path: Path) -> bool:
    """Whether a file begins as TIFF files do."""
    with path.open("rb") as file:
        return file.read(4) in _SIGNATURES


def read_tiff(path: Path) -> tuple[list[da.Array], float | None]:
    """Levels (c, y, x) of the largest image, fine to coarse, and its micrometres per pixel where the file tells.

    Raises
    ------
    ValueError
        If the file is damaged or cut short, its XML defines entities, or it holds no RGB image that can be read in
        parts.
    ImportError
        If its compression needs imagecodecs, which is not installed.
    """
    file = None
    try:
        # Other files, which the metadata may name, are left alone.
        file = tifffile.TiffFile(path, _multifile=False)
        _refuse_entities(file)
        _check_end(file)
        series = max(file.series, key=lambda pages: math.prod(pages.shape))
        for level in series.levels:
            _check_page(level.keyframe, file.filehandle.size)
        levels = [_level(series, number) for number in range(len(series.levels))]
        return levels, _mpp(file, series.keyframe)
    except Exception as error:
        if file is not None:
            file.close()
        msg = f"{path} cannot be read as a TIFF slide: {error}"
        raise (ImportError if isinstance(error, ImportError) else ValueError)(msg) from error


def _refuse_entities(file: tifffile.TiffFile) -> None:
    """Refuse XML that could grow without bounds or name other files; slides' metadata have no use for it."""
    first = file.pages.first
    metadata = (first.description, str(first.tags.valueof(_XMP, default="")))
    if any(mark in text for text in metadata for mark in ("<!DOCTYPE", "<!ENTITY")):
        msg = "its metadata define XML entities, which is how harmful files are made."
        raise ValueError(msg)


def _check_end(file: tifffile.TiffFile) -> None:
    """Make sure that the chain of pages ends, rather than points to what is not there."""
    size = file.tiff.offsetsize
    file.filehandle.seek(file.pages.next_page_offset or 0)
    if file.filehandle.read(size) != bytes(size):
        raise ValueError(_CUT_SHORT)


def _check_page(page: tifffile.TiffPage, file_bytes: int) -> None:
    if page.compression == _JPEG2000_YCBCR:
        msg = (
            "its colours are stored as YCbCr in JPEG 2000, which is not read reliably. Convert it: "
            "`vips tiffsave IN.svs OUT.tif --tile --pyramid --compression jpeg`."
        )
        raise ValueError(msg)
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
    except KeyError as error:
        if find_spec("imagecodecs") is not None:
            raise ValueError(error.args[0]) from error
        name = tifffile.COMPRESSION(page.compression).name
        msg = f"its compression ({name}) needs imagecodecs: `pip install 'nh2st[slides]'`."
        raise ImportError(msg) from error
    blocks = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(blocks) < math.prod(page.chunked) or any(start + size > file_bytes for start, size in blocks):
        raise ValueError(_CUT_SHORT)


def _level(series: tifffile.TiffPageSeries, number: int) -> da.Array:
    """One level as (c, y, x), in chunks of whole blocks of the file."""
    axes, shape = series.levels[number].axes, series.levels[number].shape
    colours = next((axis for axis in "SC" if axis in axes and shape[axes.index(axis)] in (3, 4)), "")
    wanted = (colours, "Y", "X")
    others = [size for axis, size in zip(axes, shape, strict=True) if axis not in wanted]
    if not colours or math.prod(others) > 1 or 0 in shape:
        msg = f"it holds {' x '.join(map(str, shape))} values (axes {axes}); an RGB image is needed."
        raise ValueError(msg)
    # Blocks that were left out of the file are glass.
    stored = zarr.open_array(series.aszarr(level=number, fillvalue=_WHITE), mode="r")
    lazy = da.from_array(stored, chunks=_chunks(stored, axes), name=False)
    lazy = lazy[tuple(slice(None) if axis in wanted else 0 for axis in axes)]
    order = [axis for axis in axes if axis in wanted]
    return lazy.transpose([order.index(axis) for axis in wanted])[:3].rechunk({0: 3})


def _chunks(stored: zarr.Array, axes: str) -> tuple[int, ...]:
    """Whole blocks, about `CHUNK_PX` along y and x, and fewer rows where rows are long."""
    block = dict(zip(axes, stored.chunks, strict=True))
    if (block_bytes := math.prod(stored.chunks) * stored.dtype.itemsize) > _MOST_BLOCK_BYTES:
        msg = (
            f"it is stored in blocks of {block['X']} x {block['Y']} px ({block_bytes / 2**30:.1f} GiB), which can only "
            "be read whole. Convert it: `vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg`."
        )
        raise ValueError(msg)
    size = dict(zip(axes, stored.shape, strict=True))
    wide = min(size["X"], block["X"] * max(1, CHUNK_PX // block["X"]))
    rows = min(CHUNK_PX, _CHUNK_BYTES // (4 * wide * stored.dtype.itemsize))
    chunks = {"X": wide, "Y": min(size["Y"], block["Y"] * max(1, rows // block["Y"]))}
    return tuple(chunks.get(axis, block[axis]) for axis in axes)


def _mpp(file: tifffile.TiffFile, page: tifffile.TiffPage) -> float | None:
    if file.is_ome:
        return mpp_of_ome(file.pages.first.description, (page.imagelength, page.imagewidth))
    if file.is_svs and (found := mpp_of_aperio(file.pages.first.description)) is not None:
        return found
    if (unit := _UM_PER_UNIT.get(int(page.resolutionunit))) is None:
        return None
    return mpp_of_resolution(page.resolution, unit)
