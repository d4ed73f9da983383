"""Arrays kept on disk between runs: patches and embeddings, which take long to compute again."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from errno import ENOSPC
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from uuid import uuid4

import numpy as np
from numpy.lib import format as npy

from nh2st._settings import format_bytes, logger, settings

Key: TypeAlias = Mapping[str, str | int | float]
Rows: TypeAlias = Generator[tuple[np.ndarray, np.ndarray], None, None]

_FORMAT = 1
_DIGEST_BYTES = 32
_BLOCK_BYTES = 2**22
_ABANDONED_AFTER = 24 * 3600
_TEMPORARY = ".tmp"


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
            sound = _is_sound(file)
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


def _is_sound(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END) - _DIGEST_BYTES
    return size > 0 and _digest(file, size) == file.read()


def _digest(file: BinaryIO, size: int) -> bytes:
    """Checksum of the first bytes of a file, after which the file then stands."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    file.seek(0)
    while size and (block := file.read(min(size, _BLOCK_BYTES))):
        digest.update(block)
        size -= len(block)
    return digest.digest()


class _Draft:
    """A file of the cache that is being written, under a temporary name."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self.temporary = path.parent / f"{uuid4().hex}{_TEMPORARY}"
        self.file = self.temporary.open("xb+")
        try:
            header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(self.file, header)
            self.offset = self.file.tell()
            self.size = self.offset + _nbytes(shape, dtype)
            if shutil.disk_usage(path.parent).free < self.size:
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            self.file.truncate(self.size)
        except OSError:
            self.discard()
            raise

    def write(self, members: np.ndarray, values: np.ndarray) -> None:
        """Write some rows; all of them, or an error, is known of when it returns."""
        length = _nbytes(self.shape[1:], self.dtype)
        for member, row in zip(members.tolist(), np.ascontiguousarray(values, self.dtype), strict=True):
            self.file.seek(self.offset + member * length)
            self.file.write(row)
        self.file.flush()

    def read(self) -> np.ndarray:
        """The rows written so far, in memory."""
        count = int(np.prod(self.shape, dtype=np.int64))
        return np.fromfile(self.temporary, self.dtype, count, offset=self.offset).reshape(self.shape)

    def keep(self) -> np.ndarray:
        """Give the file its name, and map it."""
        self.file.write(_digest(self.file, self.size))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if os.name == "nt":  # Mapped files cannot be renamed there, nor removed.
            os.replace(self.temporary, self.path)
            return np.load(self.path, mmap_mode="r", allow_pickle=False)
        # Mapped first, as another process may remove the file as soon as it has its name.
        array = np.load(self.temporary, mmap_mode="r", allow_pickle=False)
        os.replace(self.temporary, self.path)
        return array

    def discard(self) -> None:
        """Remove the file, unless it was kept."""
        with suppress(OSError):
            self.file.close()
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)


def _nbytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _begin(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> _Draft | None:
    """File to write an array into; `None` where it is not to be kept, or cannot be."""
    needed = _nbytes(shape, dtype)
    if needed == 0 or settings.cache_limit == 0:
        return None
    if needed > settings.cache_limit:
        logger.info("%s are more than `nh2st.settings.cache_limit` and are not kept.", format_bytes(needed))
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _Draft(path, shape, dtype)
        _evict(path.parent)
    except OSError as error:
        _warn_of_cache(path.parent, error)
        return None
    return draft


def _write(draft: _Draft, parts: Rows) -> np.ndarray:
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
    _evict(draft.path.parent)
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


def _evict(folder: Path) -> None:
    """Remove what was not used for longest until the rest fits the limit, and what killed processes left."""
    entries, total = [], 0
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            stat = entry.stat()
            abandoned = time.time() - stat.st_mtime > _ABANDONED_AFTER
            if entry.name.endswith(_TEMPORARY) and abandoned and _remove(entry.path):
                continue
            total += stat.st_size
            if entry.name.endswith(".npy"):
                entries.append((stat.st_mtime_ns, stat.st_size, entry.path))
    for _, size, path in sorted(entries):
        if total <= settings.cache_limit:
            return
        total -= size if _remove(path) else 0


def _remove(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return True
    except PermissionError:
        # Opened by another process, where the system forbids to remove such files.
        return False
    return True
