"""What is written into tables, and how it is read again."""

from __future__ import annotations

from nh2st._results._evaluation import read_evaluation, write_evaluation
from nh2st._results._layers import check_free, editable, scatter_rows, write_record
from nh2st._results._predictions import (
    check_key,
    check_ours,
    check_replaceable,
    dense_columns,
    predicted_rows,
    provenance_of,
    record_of_layer,
    write_layer,
    write_predictions,
)

__all__ = [
    "check_free",
    "check_key",
    "check_ours",
    "check_replaceable",
    "dense_columns",
    "editable",
    "predicted_rows",
    "provenance_of",
    "read_evaluation",
    "record_of_layer",
    "scatter_rows",
    "write_evaluation",
    "write_layer",
    "write_predictions",
    "write_record",
]
