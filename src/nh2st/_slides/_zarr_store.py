"""Writing a SpatialData zarr store so that it is there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
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


def write_store(sdata: SpatialData, target: Path, check: Callable[[], None] | None = None) -> None:
    """Write under a temporary name beside the target and rename; an earlier store there goes only then.

    Where `check` refuses what has come to stand there meanwhile, the new store is kept beside it.

    Raises
    ------
    FileExistsError
        What `check` raises, with the place of what was computed.
    """
    target = target.resolve()
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="zarr v3 autosharding")
            sdata.write(folder / "new")
        try:
            if check is not None:
                check()
        except FileExistsError as error:
            kept = target.with_name(f"{target.stem}-{folder.name.rpartition('.')[2]}{target.suffix}")
            (folder / "new").rename(kept)
            msg = f"{error} What was computed is in {kept}."
            raise FileExistsError(msg) from error
        _exchange(folder / "new", target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exchange(new: Path, target: Path) -> None:
    """Put a store in the place of another, which comes back where that fails."""
    if not target.exists():
        new.rename(target)
        return
    # Outside of the temporary folder, so that an interruption here loses neither.
    old = target.with_name(f"{new.parent.name}.old")
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old) if old.is_dir() else old.unlink()
