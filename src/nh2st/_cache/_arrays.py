"""Arrays by their keys: found in the cache, or computed and put there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nh2st._cache._draft import Draft, is_sound, nbytes
from nh2st._cache._evict import evict
from nh2st._settings import format_bytes, logger, settings

Key: TypeAlias = Mapping[str, str | int | float]
Rows: TypeAlias = Generator[tuple[np.ndarray, np.ndarray], None, None]

_FORMAT = 1


def cached(key: Key, rows: Callable[[], Rows], *, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Array of a key: a read-only memory map of its file in the cache, which is computed where it is not there yet.

    Each array is one ``.npy`` file of ``settings.cache_dir / "arrays"``, followed by a checksum: damaged, shortened and
    foreign files are computed anew. Files are complete when they get their name, so that processes may share the
    folder. Where they exceed ``settings.cache_limit``, those that were not used for longest are removed; whoever has
    opened them keeps them. Where the array exceeds the limit itself, or cannot be written (a warning says so), it is
    computed in memory.

    Parameters
    ----------
    key
        Everything that the values depend on, such as hashes of the inputs.
    rows
        Computes the array: a generator of positions (k,) along the first axis and their values (k, ...). Together they
        must cover the array.
    shape, dtype
        Of the array; part of the key.

    Raises
    ------
    Exception
        Whatever `rows` raises; nothing is kept then.
    """
    found = find_cached(key, shape=shape, dtype=dtype)
    if found is not None:
        return found
    path, dtype = _path(key, shape, dtype), np.dtype(dtype)
    draft = _begin(path, shape, dtype)
    with closing(rows()) as parts:
        if draft is None:
            return _fill(np.empty(shape, dtype), parts)
        try:
            return _write(draft, parts)
        finally:
            draft.discard()


def find_cached(key: Key, *, shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
    """Array of a key as a read-only memory map, `None` where the cache does not hold it."""
    return _load(_path(key, shape, dtype))


def _path(key: Key, shape: tuple[int, ...], dtype: Any) -> Path:
    whole = [_FORMAT, dict(key), [int(length) for length in shape], np.dtype(dtype).str]
    name = sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return Path(settings.cache_dir).expanduser() / "arrays" / f"{name}.npy"


def _load(path: Path) -> np.ndarray | None:
    """Array of a file, `None` where there is no sound one. The time of its use is noted in the file's times."""
    try:
        with path.open("rb") as file:
            sound = is_sound(file)
        array = np.load(path, mmap_mode="r", allow_pickle=False) if sound else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        array = None
    if array is None:
        logger.warning("%s of the cache is damaged and is computed anew.", path)
        return None
    with suppress(OSError):
        os.utime(path)
    return array


def _begin(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> Draft | None:
    """File to write an array into; `None` where it is not to be kept, or cannot be."""
    needed = nbytes(shape, dtype)
    if needed == 0 or settings.cache_limit == 0:
        return None
    if needed > settings.cache_limit:
        logger.info("%s are more than `nh2st.settings.cache_limit` and are not kept.", format_bytes(needed))
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Draft(path, shape, dtype)
        evict(path.parent)
    except OSError as error:
        _warn_of_cache(path.parent, error)
        return None
    return draft


def _write(draft: Draft, parts: Rows) -> np.ndarray:
    for members, values in parts:
        try:
            draft.write(members, values)
        except OSError as error:
            _warn_of_cache(draft.path.parent, error)
            array = draft.read()
            array[members] = values
            return _fill(array, parts)
    try:
        array = draft.keep()
    except OSError as error:
        _warn_of_cache(draft.path.parent, error)
        return draft.read()
    evict(draft.path.parent)
    return array


def _fill(array: np.ndarray, parts: Rows) -> np.ndarray:
    for members, values in parts:
        array[members] = values
    # As from the cache, so that what a caller may do does not depend on the disk.
    array.flags.writeable = False
    return array


def _warn_of_cache(folder: Path, error: OSError) -> None:
    logger.warning(
        "Nothing can be kept in the cache %s (%s): arrays are held in memory, and computed anew next time. Free some "
        "space, or name another folder with `nh2st.settings.cache_dir`.",
        folder,
        error,
    )
