"""Settings of the package, its logger and its progress bars."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nh2st._keys import CACHE_DIR_VARIABLE, NAMESPACE

logger = logging.getLogger(NAMESPACE)

_LEVELS = ("error", "warning", "info", "debug")


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
    """

    cache_dir: Path = field(default_factory=default_cache_dir)
    """Folder into which data sets and weights are downloaded."""

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


def progress(iterable: Iterable[Any] | None, description: str, total: int | None = None) -> Any:
    """Make a tqdm progress bar, silent when the output is not a terminal or verbosity is below info."""
    from tqdm.auto import tqdm

    disable = True if logger.level > logging.INFO else None
    return tqdm(iterable, desc=description, total=total, disable=disable, leave=False)


_install_handler()
settings = Settings()
