"""What the cache lets go of."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from nh2st._cache._draft import TEMPORARY
from nh2st._settings import settings

_ABANDONED_AFTER = 24 * 3600


def evict(folder: Path) -> None:
    """Remove what was not used for longest until the rest fits the limit, and what killed processes left."""
    entries, total = [], 0
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            stat = entry.stat()
            abandoned = time.time() - stat.st_mtime > _ABANDONED_AFTER
            if entry.name.endswith(TEMPORARY) and abandoned and _remove(entry.path):
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
