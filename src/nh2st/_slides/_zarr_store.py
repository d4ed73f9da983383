"""Writing a SpatialData zarr store so that it is there whole or not at all."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from spatialdata import SpatialData

STORE_FILES = ("zarr.json", ".zgroup", ".zattrs")
"""A folder with one of these is a zarr store."""


def is_store(path: Path) -> bool:
    """Whether a folder is a zarr store."""
    return any((path / name).is_file() for name in STORE_FILES)


def check_target(target: Path, source: Path, *, overwrite: bool) -> None:
    """Make sure, before any work, that a store can be written there.

    Raises
    ------
    FileExistsError
        If there is something already that is not to be replaced, or is no zarr store.
    FileNotFoundError
        If the folder it is to be written into does not exist.
    ValueError
        If it is the source, or in it, or around it.
    """
    here, there = target.resolve(), source.resolve()
    if here == there or there in here.parents or here in there.parents:
        msg = f"{target} and {source} overlap: the slide itself is never changed. Choose another place to write to."
        raise ValueError(msg)
    if not here.parent.is_dir():
        msg = f"The folder {here.parent} does not exist; create it first."
        raise FileNotFoundError(msg)
    if not here.exists():
        return
    if not (here.is_dir() and is_store(here)):
        msg = f"{target} exists and is no zarr store; it is not replaced. Choose another name."
        raise FileExistsError(msg)
    if not overwrite:
        msg = f"{target} exists already. Choose another name, or replace it with --overwrite."
        raise FileExistsError(msg)


def write_store(sdata: SpatialData, target: Path) -> None:
    """Write under a temporary name beside the target and rename; an earlier store there goes only then."""
    target = target.resolve()
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="zarr v3 autosharding")
            sdata.write(Path(folder) / "new")
        if target.exists():
            target.rename(Path(folder) / "old")
        (Path(folder) / "new").rename(target)
