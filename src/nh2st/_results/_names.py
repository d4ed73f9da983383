"""Names that zarr, h5ad and every file system can store."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CHARACTERS = re.compile(r"[A-Za-z0-9_.-]+")
_LONGEST = 100
"""Leaves room for what is appended to the names of results that belong together: file names end at 255 bytes."""
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))}
)


def check_name(name: object, argument: str) -> str:
    """Give a name back if it can be stored everywhere; `argument` says in the error what it was given as.

    Raises
    ------
    ValueError
        If it has other characters than letters, digits and ``_.-``, is too long, hidden, or a device of Windows.
    """
    if not isinstance(name, str) or not _CHARACTERS.fullmatch(name):
        advice = "use letters, digits, '_', '.' and '-'"
    elif len(name) > _LONGEST:
        advice = f"use at most {_LONGEST} characters"
    elif name.startswith((".", "__")) or name.endswith("."):
        advice = "use a name that does not start with '.' or '__', and does not end with '.'"
    elif name.lower().split(".")[0] in _DEVICES:
        advice = "Windows keeps this name for a device, use another"
    else:
        return name
    msg = f"{argument}={name!r} cannot be stored: {advice}."
    raise ValueError(msg)


def same_but_for_case(name: str, others: Iterable[object]) -> str | None:
    """First of the other names that a file system without upper and lower case takes for this one."""
    return next((str(other) for other in others if str(other) != name and str(other).lower() == name.lower()), None)
