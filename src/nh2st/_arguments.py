"""Checks of numbers that users give, each an error that names the argument."""

from __future__ import annotations

import numpy as np


def not_negative(name: str, value: float) -> float:
    """Give the value back if it is 0 or more, and finite."""
    if not 0 <= value < np.inf:
        msg = f"{name} must be 0 or more, not {value}."
        raise ValueError(msg)
    return value


def at_least_one(name: str, value: int) -> int:
    """Give the value back if it is 1 or more."""
    if value < 1:
        msg = f"{name} must be at least 1, not {value}."
        raise ValueError(msg)
    return value


def positive(name: str, value: float) -> float:
    """Give the value back if it is positive and finite."""
    if not 0 < value < np.inf:
        msg = f"{name} must be a positive number, not {value}."
        raise ValueError(msg)
    return value
