"""A file of the cache while it is written, and whether one that is there is whole."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from errno import ENOSPC
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np
from numpy.lib import format as npy

TEMPORARY = ".tmp"
_DIGEST_BYTES = 32
_BLOCK_BYTES = 2**22


class Draft:
    """A file of the cache that is being written, under a temporary name."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self.temporary = path.parent / f"{uuid4().hex}{TEMPORARY}"
        self.file = self.temporary.open("xb+")
        try:
            header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(self.file, header)
            self.offset = self.file.tell()
            self.size = self.offset + nbytes(shape, dtype)
            if shutil.disk_usage(path.parent).free < self.size:
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            self.file.truncate(self.size)
        except OSError:
            self.discard()
            raise

    def write(self, members: np.ndarray, values: np.ndarray) -> None:
        """Write some rows; all of them, or an error, is known of when it returns."""
        length = nbytes(self.shape[1:], self.dtype)
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
        self.file.write(_checksum(self.file, self.size))
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


def nbytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Bytes of an array."""
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def is_sound(file: BinaryIO) -> bool:
    """Whether a file ends with the checksum of what is before it."""
    size = file.seek(0, os.SEEK_END) - _DIGEST_BYTES
    return size > 0 and _checksum(file, size) == file.read()


def _checksum(file: BinaryIO, size: int) -> bytes:
    """Checksum of the first bytes of a file, after which the file then stands."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    file.seek(0)
    while size and (block := file.read(min(size, _BLOCK_BYTES))):
        digest.update(block)
        size -= len(block)
    return digest.digest()
