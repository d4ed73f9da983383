"""What is written into tables: under which names, what it may replace, and how it is read again."""

from __future__ import annotations

from nh2st._results._evaluation import check_evaluation, read_evaluation, write_evaluation
from nh2st._results._kinds import FOLD_SUFFIX, OUT_OF_FOLD, Kind
from nh2st._results._names import check_name
from nh2st._results._reading import dense_columns, predicted_rows
from nh2st._results._records import (
    companion_layer,
    kind_at,
    places_of,
    provenance_of,
    record_of_layer,
    write_record,
)
from nh2st._results._replacing import MEMBERS, check_elements, check_gene_flag, check_replaceable, detach, make_room
from nh2st._results._scales import check_scale, write_scale
from nh2st._results._writing import editable, scatter_rows, write_layer, write_predictions

__all__ = [
    "FOLD_SUFFIX",
    "MEMBERS",
    "OUT_OF_FOLD",
    "Kind",
    "check_elements",
    "check_evaluation",
    "check_gene_flag",
    "check_name",
    "check_replaceable",
    "check_scale",
    "companion_layer",
    "dense_columns",
    "detach",
    "editable",
    "kind_at",
    "make_room",
    "places_of",
    "predicted_rows",
    "provenance_of",
    "read_evaluation",
    "record_of_layer",
    "scatter_rows",
    "write_evaluation",
    "write_layer",
    "write_predictions",
    "write_record",
    "write_scale",
]
