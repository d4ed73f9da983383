"""Wide arrays a few columns at a time, so that what is computed of them takes little memory beside them."""

from __future__ import annotations

from collections.abc import Iterator

_VALUES = 2_000_000


def blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Columns in blocks of about two million values, at least one column each."""
    width = max(1, _VALUES // max(1, n_rows))
    for start in range(0, n_columns, width):
        yield slice(start, min(start + width, n_columns))
