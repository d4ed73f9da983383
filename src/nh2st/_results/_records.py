"""Records in ``uns["nh2st"]``: what this package wrote into a table, and which places of the table belong to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anndata import AnnData

from nh2st._keys import NAMESPACE
from nh2st._results._kinds import EVALUATION, KIND, PREDICTED_KINDS, Kind, Place, evaluation_places, kind_of
from nh2st._sections import records_of


def write_record(table: AnnData, key: str, kind: Kind, fields: Mapping[str, Any]) -> None:
    """Keep what a result of this name is: plain values that can be stored."""
    table.uns.setdefault(NAMESPACE, {})[key] = {KIND: kind.value, **fields}


def kind_at(table: AnnData, key: str) -> Kind | None:
    """Kind of the result of this name, if there is one."""
    return kind_of(records_of(table).get(key))


def places_of(table: AnnData, key: str) -> list[Place]:
    """Places that belong to the result of this name, whether or not they hold something."""
    record, kind = records_of(table).get(key), kind_at(table, key)
    if record is None or kind is None or (kind is Kind.GRAPH and not _is_this_graph(table, key)):
        return []
    scores = evaluation_places(key) if kind in PREDICTED_KINDS and EVALUATION in record else []
    return [place for place in (*kind.places(key), *scores) if not _holds_another(table, key, place)]


def _holds_another(table: AnnData, key: str, place: Place) -> bool:
    """Whether the values of a result of another name are there."""
    attribute, name = place
    other = kind_at(table, name)
    return name != key and other is not None and other.main == attribute


def _is_this_graph(table: AnnData, key: str) -> bool:
    """Whether the graph that is there is the one that was recorded: squidpy writes its own under the same keys."""
    _, _, (_, name) = Kind.GRAPH.places(key)
    there = table.uns.get(name)
    return isinstance(there, Mapping) and there.get("params") == records_of(table)[key].get("params")


def owners_of(table: AnnData, place: Place) -> list[str]:
    """Names of the results that a place belongs to."""
    return [key for key in list(records_of(table)) if place in places_of(table, key)]


def companion_layer(table: AnnData, key: str, suffix: str) -> str | None:
    """Layer beside predictions that belongs to them, such as that of their ridge; `None` where there is none."""
    name = f"{key}_{suffix}"
    of_same_run = kind_at(table, key) is Kind.FOLDS and kind_at(table, name) is Kind.FOLDS_BASELINE
    there = name in table.layers and (of_same_run or ("layers", name) in places_of(table, key))
    return name if there else None


def provenance_of(table: AnnData, key: str) -> dict[str, Any]:
    """What was recorded with the predictions of this name.

    Raises
    ------
    KeyError
        If there are none.
    """
    written = _predicted(table)
    if key not in written:
        raise KeyError(_no_predictions(key, written))
    return records_of(table)[key]


def record_of_layer(table: AnnData, layer: str) -> tuple[str, dict[str, Any]]:
    """Name and content of the record that a layer of predictions belongs to.

    That is its own, or for what :func:`nh2st.tl.predict` writes beside its predictions (ridge, standard deviation)
    that of these.

    Raises
    ------
    KeyError
        If this package wrote no such layer.
    """
    written = _predicted(table)
    beside = {
        name: key
        for key in written
        for attribute, name in places_of(table, key)
        if attribute == "layers" and name in table.layers
    }
    names = beside | {name: name for name in written}
    if layer not in names:
        raise KeyError(_no_predictions(layer, sorted(names)))
    return names[layer], records_of(table)[names[layer]]


def _predicted(table: AnnData) -> list[str]:
    """Names of the predictions that the table holds with what was recorded of them."""
    return [
        name
        for name in records_of(table)
        if kind_at(table, name) in PREDICTED_KINDS and (name in table.layers or name in table.obsm)
    ]


def _no_predictions(key: str, there: Iterable[str]) -> str:
    names = ", ".join(map(repr, there)) or "none"
    return f"There are no predictions {key!r} (there are: {names}). Call `nh.tl.predict(sdata, model)` first."
