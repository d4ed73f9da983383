"""All patches of some sections in one array: in memory, or beyond the memory limit in a file of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from hashlib import blake2b

import numpy as np
import PIL

from nh2st._cache import Rows, cached
from nh2st._patches._batches import iter_batches
from nh2st._patches._plan import BATCH_SHARE
from nh2st._patches._pyramid import Pyramid
from nh2st._patches._windows import Windows
from nh2st._settings import format_bytes, logger, settings

_BATCH_BYTES = 8 * 2**20


def read_patches(pyramid: Pyramid, windows: Windows) -> np.ndarray:
    """All patches as uint8, shape (n, patch_px, patch_px, 3), in the order of the windows; white beyond the image.

    See :func:`stack_patches`.
    """
    return stack_patches([pyramid], [windows])


def stack_patches(pyramids: Sequence[Pyramid], windows: Sequence[Windows]) -> np.ndarray:
    """Patches of several images, one image after another, shape (n, patch_px, patch_px, 3).

    Patches that take up more than ``settings.memory_limit`` are a read-only memory map of a file in the cache, which is
    found again as long as images and windows stay the same.

    Raises
    ------
    ValueError
        If they exceed ``settings.cache_limit`` too, or the memory limit is too small to read the image; raised before
        anything is read.
    OSError
        If an image store cannot be read.
    """
    pairs = list(zip(pyramids, windows, strict=True))
    shape = (sum(map(len, windows)), windows[0].patch_px, windows[0].patch_px, 3)
    needed = sum(len(window) * window.patch_bytes for window in windows)
    if needed > settings.memory_limit:
        _check_cache(needed)
    batches = [_small_batches(pyramid, window) for pyramid, window in pairs]
    if needed > settings.memory_limit:
        logger.info("%s of patches are kept in %s.", format_bytes(needed), settings.cache_dir)
        key = {f"{name} {part}": value for part, pair in enumerate(pairs) for name, value in patches_key(*pair).items()}
        return cached(key, lambda: _joined(batches, windows), shape=shape, dtype=np.uint8)
    patches = np.empty(shape, dtype=np.uint8)
    for members, batch in _joined(batches, windows):
        patches[members] = batch
    return patches


def patches_key(pyramid: Pyramid, windows: Windows) -> dict[str, str | int | float]:
    """What the patches depend on, for :func:`nh2st._cache.cached`: pixels, positions, size and resampling.

    All pixels of the level are read for it.

    Raises
    ------
    OSError
        If the image store cannot be read.
    """
    return {
        "pixels": pyramid.fingerprint(windows.level),
        "start": blake2b(np.ascontiguousarray(windows.start, dtype=np.float64).data, digest_size=16).hexdigest(),
        "side": float(windows.side),
        "patch_px": int(windows.patch_px),
        "resampling": "none" if windows.exact else f"pillow {PIL.__version__}",
    }


def _small_batches(pyramid: Pyramid, windows: Windows) -> Rows:
    """Batches of a few megabytes, or of what the memory limit allows."""
    largest = min(_BATCH_BYTES, int(settings.memory_limit * BATCH_SHARE) // 2)
    return iter_batches(pyramid, windows, max(1, largest // windows.patch_bytes))


def _joined(batches: Sequence[Rows], windows: Sequence[Windows]) -> Rows:
    """Batches of all images, their positions counted over all of them."""
    offset = 0
    for parts, window in zip(batches, windows, strict=True):
        with closing(parts):
            for members, patches in parts:
                yield members + offset, patches
        offset += len(window)


def _check_cache(needed: int) -> None:
    if needed > settings.cache_limit:
        msg = (
            f"The patches take up {format_bytes(needed)}: more than `nh2st.settings.memory_limit` "
            f"({format_bytes(settings.memory_limit)}), so that they would be kept on disk, and more than "
            f"`nh2st.settings.cache_limit` ({format_bytes(settings.cache_limit)}). Raise one of them, lower "
            "`patch_px=`, or use fewer `sections=`."
        )
        raise ValueError(msg)
