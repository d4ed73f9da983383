"""Predict spatial gene expression from H&E histology with NH2ST, inside scverse."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nh2st import datasets, get, models, nn, pl, pp, tl
    from nh2st._settings import settings

__all__ = ["datasets", "get", "models", "nn", "pl", "pp", "settings", "tl"]

_SUBMODULES = frozenset(__all__) - {"settings"}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"nh2st.{name}")
    if name == "settings":
        from nh2st._settings import settings

        return settings
    if name == "__version__":
        from importlib.metadata import version

        return version("nh2st")
    msg = f"module 'nh2st' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
