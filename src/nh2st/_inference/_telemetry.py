"""Imports without reports to the makers of a package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_REPORTER = "openvino_telemetry"


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Context for imports of OpenVINO and NNCF, whose use is otherwise reported: nothing leaves this machine."""
    before = sys.modules.get(_REPORTER)
    if before is None:
        # An import of it fails then, for which its users are prepared.
        sys.modules[_REPORTER] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules[_REPORTER]
