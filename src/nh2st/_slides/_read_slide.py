"""A slide as SpatialData, whatever its file."""

from __future__ import annotations

import re
from pathlib import Path

from spatialdata import SpatialData, read_zarr

from nh2st._keys import MPP, NAMESPACE
from nh2st._settings import logger
from nh2st._slides._multiscale import multiscale
from nh2st._slides._plain import read_plain
from nh2st._slides._tiff import is_tiff, read_tiff
from nh2st._slides._zarr_store import is_store


def read_slide(path: str | Path) -> SpatialData:
    """Open a slide: a SpatialData zarr store, a TIFF of any kind (OME-TIFF, SVS, NDPI, ...), a PNG or a JPEG file.

    A TIFF is read lazily, and its pyramid is kept as scales of a multiscale image. The micrometres per pixel are taken
    from the file's metadata where they are there.

    Parameters
    ----------
    path
        The file or store.

    Returns
    -------
    The store's SpatialData, or one with a single image that is named after the file. The image is in the coordinate
    system ``global``, in pixels, and ``attrs["nh2st"]["mpp"]`` has its scale where this is known.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no such image, is damaged, is too large to be read whole and cannot be read in parts, or has no
        colours.
    ImportError
        If its compression needs a package that is not installed.
    """
    path = Path(path).expanduser()
    if not path.exists():
        msg = f"There is no file {path}."
        raise FileNotFoundError(msg)
    if path.is_dir():
        return _read_store(path)
    lazy = is_tiff(path)
    levels, mpp = read_tiff(path) if lazy else read_plain(path)
    key = _image_key(path)
    height, width = levels[0].shape[1:]
    known = "of unknown scale" if mpp is None else f"{mpp:.4g} um per pixel"
    logger.info("%s: %d x %d px, %s.", path.name, width, height, known)
    attrs = {} if mpp is None else {NAMESPACE: {MPP: {key: mpp}}}
    return SpatialData(images={key: multiscale(levels, in_memory=not lazy)}, attrs=attrs)


def _read_store(path: Path) -> SpatialData:
    if not is_store(path):
        msg = f"The folder {path} is no SpatialData zarr store."
        raise ValueError(msg)
    try:
        return read_zarr(path)
    except Exception as error:
        msg = f"{path} cannot be read as a SpatialData zarr store: {error}"
        raise ValueError(msg) from error


def _image_key(path: Path) -> str:
    """Name of the file without its ending, in the characters that SpatialData allows."""
    stem = re.sub(r"\.ome$", "", path.stem, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("._") or "slide"
