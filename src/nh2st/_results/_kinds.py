"""Kinds of results, how their records are told apart, and the places in a table that each takes up."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias

from nh2st._keys import (
    CONNECTIVITIES_SUFFIX,
    DISTANCES_SUFFIX,
    MODEL,
    NEIGHBORS_SUFFIX,
    PREDICTED_SUFFIX,
    RIDGE_SUFFIX,
    STD_SUFFIX,
    TRAINING_MEAN_SUFFIX,
)
from nh2st._metrics import METRICS

Place: TypeAlias = tuple[str, str]
"""Attribute of an AnnData, and the name of an entry there."""

KIND = "kind"
EVALUATION = "evaluation"
FOLD_SUFFIX = "fold"
OUT_OF_FOLD = "out-of-fold predictions"


class Kind(StrEnum):
    """What a record in ``uns["nh2st"]`` is about."""

    PREDICTIONS = "predictions"
    FOLDS = "cross-validation"
    FOLDS_BASELINE = "cross-validation baseline"
    NORMALIZED = "normalized"
    SMOOTHED = "smoothed"
    EMBEDDING = "embedding"
    GRAPH = "graph"
    TRAINING = "training"
    TILES = "tiles"

    @property
    def called(self) -> str:
        """Its name in messages."""
        return _CALLED.get(self, self.value)

    @property
    def main(self) -> str | None:
        """Attribute of the table that holds its values."""
        return _PLACES[self][0][0] if _PLACES[self] else None

    def places(self, key: str) -> list[Place]:
        """Where a result of this name and its companions are, values first."""
        return [(attribute, f"{key}_{suffix}" if suffix else key) for attribute, suffix in _PLACES[self]]


PREDICTED_KINDS = frozenset({Kind.PREDICTIONS, Kind.FOLDS, Kind.FOLDS_BASELINE})

_VALUES = (("layers", ""), ("obsm", ""), ("var", PREDICTED_SUFFIX))
_COMPANIONS = (("layers", RIDGE_SUFFIX), ("layers", STD_SUFFIX), ("var", TRAINING_MEAN_SUFFIX))
_PLACES: dict[Kind, tuple[Place, ...]] = {
    Kind.PREDICTIONS: (*_VALUES, *_COMPANIONS),
    Kind.FOLDS: (*_VALUES, ("obs", FOLD_SUFFIX)),
    Kind.FOLDS_BASELINE: _VALUES,
    Kind.NORMALIZED: (("layers", ""),),
    Kind.SMOOTHED: (("layers", ""),),
    Kind.EMBEDDING: (("obsm", ""),),
    Kind.GRAPH: (("obsp", CONNECTIVITIES_SUFFIX), ("obsp", DISTANCES_SUFFIX), ("uns", NEIGHBORS_SUFFIX)),
    Kind.TRAINING: (),
    Kind.TILES: (),
}
_CALLED = {
    Kind.FOLDS: "a cross-validation",
    Kind.FOLDS_BASELINE: "a baseline of a cross-validation",
    Kind.NORMALIZED: "normalised expression",
    Kind.SMOOTHED: "a smoothed layer",
    Kind.EMBEDDING: "embeddings",
    Kind.GRAPH: "a spatial graph",
    Kind.TRAINING: "the record of a training",
}


def evaluation_places(key: str) -> list[Place]:
    """Where the scores of predictions of this name are."""
    each = [(attribute, f"{key}_{metric}") for attribute in ("var", "varm") for metric in METRICS]
    return [*each, ("var", f"{key}_{RIDGE_SUFFIX}_pearson")]


def kind_of(record: object) -> Kind | None:
    """Kind of result that a record is about; `None` where this package did not write it."""
    if not isinstance(record, Mapping):
        return None
    if KIND not in record:
        return _inferred(record)
    return Kind(str(record[KIND])) if str(record[KIND]) in set(Kind) else None


def _inferred(record: Mapping[str, object]) -> Kind | None:
    """Kind of a record of an earlier version, which did not say it."""
    if "history" in record:
        return Kind.TRAINING
    if "genes" in record:
        if not str(record.get("validation", "")).startswith(OUT_OF_FOLD):
            return Kind.PREDICTIONS
        return Kind.FOLDS if str(record.get("model")) == MODEL else Kind.FOLDS_BASELINE
    if any(isinstance(tiles, Mapping) and "outline" in tiles for tiles in record.values()):
        return Kind.TILES
    fields = {"smoothed": Kind.SMOOTHED, "weights_sha256": Kind.EMBEDDING, "target": Kind.NORMALIZED}
    return next((kind for field, kind in fields.items() if field in record), None)
