"""Settings of the package, its logger and its progress bars."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nh2st._keys import CACHE_DIR_VARIABLE, NAMESPACE

logger = logging.getLogger(NAMESPACE)

_LEVELS = ("error", "warning", "info", "debug")
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(?:([kmgt])(i?))?b?", re.IGNORECASE)
_UNITS = ("B", "kB", "MB", "GB", "TB")
_MEMORY_LIMIT_VARIABLE = "NH2ST_MEMORY_LIMIT"
_CACHE_LIMIT_VARIABLE = "NH2ST_CACHE_LIMIT"


class _StderrHandler(logging.StreamHandler):
    """Writes to whatever ``sys.stderr`` is at the time, as notebooks and test runners exchange it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def _install_handler() -> None:
    if not logger.handlers:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def default_cache_dir() -> Path:
    """Folder for downloads: ``NH2ST_CACHE_DIR`` where set, else the user's cache folder."""
    if folder := os.environ.get(CACHE_DIR_VARIABLE):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / NAMESPACE


def parse_bytes(value: object, name: str) -> int:
    """Bytes of a whole number or a text such as ``"2GB"`` (1000**3 bytes each) or ``"2 GiB"`` (1024**3).

    Raises
    ------
    ValueError
        If it is neither, or negative; `name` is named.
    """
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        number, unit, binary = match.groups(default="")
        return round(float(number) * (1024 if binary else 1000) ** " kmgt".index(unit.lower() or " "))
    if hasattr(value, "__index__") and not isinstance(value, bool) and int(value) >= 0:
        return int(value)
    msg = f'{name} must be a number of bytes, such as 2_000_000_000 or "2GB", not {value!r}.'
    raise ValueError(msg)


def format_bytes(count: int) -> str:
    """Bytes as a text such as ``"1.3GB"``, rounded up so that a limit that is set to it is enough."""
    power = 0
    while power < len(_UNITS) - 1 and count >= 1000 ** (power + 1):
        power += 1
    tenths = -(-10 * count // 1000**power)
    return f"{tenths / 10:g}{_UNITS[power]}"


@dataclass
class Settings:
    """What holds for the whole session.

    Examples
    --------
    >>> import nh2st as nh
    >>> nh.settings.verbosity = "warning"
    >>> nh.settings.verbosity
    'warning'
    >>> nh.settings.verbosity = "info"
    >>> nh.settings.memory_limit = "4GB"
    >>> nh.settings.memory_limit
    4000000000
    >>> nh.settings.memory_limit = "2GB"
    """

    cache_dir: Path = field(default_factory=default_cache_dir)
    """Folder into which data sets and weights are downloaded, and in which patches and embeddings are kept."""
    weights_url: str | Path | None = None
    """Address or folder of the files of pretrained models; where `None`, the variable ``NH2ST_WEIGHTS_URL``, else the
    project's own repository."""
    openvino: bool = True
    """Whether encoders are run by OpenVINO on CPUs, several times as fast as by torch and with the same results but for
    rounding, where it is installed (``pip install "nh2st[openvino]"``) and the work is long enough. With
    ``precision="int8"`` they always are."""

    def __post_init__(self) -> None:
        self._memory_limit = parse_bytes(os.environ.get(_MEMORY_LIMIT_VARIABLE, "2GB"), _MEMORY_LIMIT_VARIABLE)
        self._cache_limit = parse_bytes(os.environ.get(_CACHE_LIMIT_VARIABLE, "20GB"), _CACHE_LIMIT_VARIABLE)

    @property
    def memory_limit(self) -> int:
        """Bytes that pixels may take up in memory while an image is read, and patches while they are kept.

        A number, or a text such as ``"500MB"``; 2 GB, or the variable ``NH2ST_MEMORY_LIMIT``. Patches that take up
        more are kept in a file of the cache.
        """
        return self._memory_limit

    @memory_limit.setter
    def memory_limit(self, limit: int | str) -> None:
        self._memory_limit = parse_bytes(limit, "memory_limit")

    @property
    def cache_limit(self) -> int:
        """Bytes that patches and embeddings may take up in the folder ``arrays`` of `cache_dir`; 0 keeps none.

        A number, or a text such as ``"500MB"``; 20 GB, or the variable ``NH2ST_CACHE_LIMIT``. Those that were not used
        for longest are removed first.
        """
        return self._cache_limit

    @cache_limit.setter
    def cache_limit(self, limit: int | str) -> None:
        self._cache_limit = parse_bytes(limit, "cache_limit")

    @property
    def verbosity(self) -> str:
        """Level of the messages: ``"error"``, ``"warning"``, ``"info"`` (default) or ``"debug"``."""
        return logging.getLevelName(logger.level).lower()

    @verbosity.setter
    def verbosity(self, level: str) -> None:
        if level not in _LEVELS:
            msg = f"verbosity must be one of {', '.join(map(repr, _LEVELS))}, not {level!r}."
            raise ValueError(msg)
        logger.setLevel(level.upper())


def progress(iterable: Iterable[Any] | None, description: str, total: int | None = None, *, unit: str = "it") -> Any:
    """Make a tqdm progress bar, silent when the output is not a terminal or verbosity is below info."""
    from tqdm.auto import tqdm

    disable = True if logger.level > logging.INFO else None
    scaled = unit != "it"
    return tqdm(iterable, desc=description, total=total, disable=disable, leave=False, unit=unit, unit_scale=scaled)


_install_handler()
settings = Settings()
