"""The one rule of what may be replaced: a result of the same kind and name that this package wrote.

Everything else needs ``overwrite=True``, and then goes entirely.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from anndata import AnnData
from spatialdata import SpatialData

from nh2st._keys import COUNTS_LAYER, GENE_FLAG, NAMESPACE, SPATIAL, TARGET_LAYER, TILES, TRAINING, TRAINING_MEAN_SUFFIX
from nh2st._results._kinds import PREDICTED_KINDS, Kind, Place, kind_of
from nh2st._results._names import check_name, same_but_for_case
from nh2st._results._records import kind_at, owners_of, places_of
from nh2st._sections import records_of

MEMBERS = "layers"
"""In the record of a cross-validation: names of its layers, those of its baselines included."""

_KEPT_FOR: dict[str, Kind | None] = {
    COUNTS_LAYER: None,
    TRAINING: None,
    TILES: None,
    SPATIAL: Kind.GRAPH,
    TARGET_LAYER: Kind.NORMALIZED,
}
"""Names that mean something, and the kind of result that may bear them."""

_RECORDS = f"uns[{NAMESPACE!r}]"
_WAYS_OUT = "Choose another `key_added=`, or replace it with `overwrite=True`."


def check_replaceable(tables: Iterable[AnnData], key: str, kind: Kind, *, overwrite: bool) -> None:
    """Refuse a name that cannot be used, and to replace anything but a result of the same kind and name.

    All tables are to be checked before the first is written to.

    Raises
    ------
    ValueError
        If `key` cannot be stored, is reserved, or differs from another name by case alone; something else is there and
        `overwrite` is not set; a result of this name is kept where this kind writes nothing; or gene names repeat in
        a table that gets predictions.
    """
    check_name(key, "key_added")
    if _KEPT_FOR.get(key, kind) is not kind:
        msg = f"key_added={key!r} is reserved; choose another name."
        raise ValueError(msg)
    for table in tables:
        _check_case(table, key, kind)
        if kind in PREDICTED_KINDS:
            _check_unique_genes(table)
        _check_name_is_free(table, key, kind, overwrite=overwrite)
        if not overwrite:
            _check_places(table, key, kind)


def _check_case(table: AnnData, key: str, kind: Kind) -> None:
    there = [(attribute, name, getattr(table, attribute)) for attribute, name in kind.places(key)]
    for attribute, name, others in (*there, (_RECORDS, key, records_of(table))):
        if clash := same_but_for_case(name, others):
            msg = f"key_added={key!r} differs from {attribute}[{clash!r}] by case alone; choose another name."
            raise ValueError(msg)


def _check_unique_genes(table: AnnData) -> None:
    if not table.var_names.is_unique:
        examples = ", ".join(map(repr, table.var_names[table.var_names.duplicated()][:5]))
        msg = f"Gene names repeat in the table ({examples}). Call `adata.var_names_make_unique()`."
        raise ValueError(msg)


def _check_name_is_free(table: AnnData, key: str, kind: Kind, *, overwrite: bool) -> None:
    holder = kind_at(table, key)
    if holder is None and key in records_of(table) and not overwrite:
        raise ValueError(_foreign(key, _RECORDS, key))
    if holder is None or holder is kind:
        return
    msg = f"key_added={key!r} is the name of {holder.called}."
    if holder.main not in {attribute for attribute, _ in kind.places(key)}:
        # Nothing is taken away from where nothing is put.
        msg = f"{msg} Choose another name for {kind.called}."
        raise ValueError(msg)
    if not overwrite:
        msg = f"{msg} {_WAYS_OUT}"
        raise ValueError(msg)


def _check_places(table: AnnData, key: str, kind: Kind) -> None:
    ours = places_of(table, key)
    for place in kind.places(key):
        attribute, name = place
        for owner in owners_of(table, place):
            if owner != key:
                msg = f"{attribute}[{name!r}] belongs to {owner!r}, which nh2st wrote before. {_WAYS_OUT}"
                raise ValueError(msg)
        if name in getattr(table, attribute) and place not in ours and not _ours_by_name(table, place):
            raise ValueError(_foreign(key, attribute, name))


def _ours_by_name(table: AnnData, place: Place) -> bool:
    """Whether a column of genes bears this package's name and holds what it would: left where a layer was deleted."""
    attribute, name = place
    if attribute != "var" or not name.startswith(f"{NAMESPACE}_"):
        return False
    is_such = pd.api.types.is_float_dtype if name.endswith(TRAINING_MEAN_SUFFIX) else pd.api.types.is_bool_dtype
    return is_such(table.var[name])


def _foreign(key: str, attribute: str, name: str) -> str:
    return (
        f"key_added={key!r} already names something: {attribute}[{name!r}] exists and was not written by nh2st. "
        f"{_WAYS_OUT}"
    )


def make_room(table: AnnData, key: str, kind: Kind) -> None:
    """Take away what a new result of this kind and name replaces, so that nothing stale is left beside it.

    What is there was found replaceable before, by :func:`check_replaceable`.
    """
    detach(table)
    remove(table, key)
    for place in kind.places(key):
        for owner in owners_of(table, place):
            _take_from(table, owner, place)
        drop(table, place)


def detach(table: AnnData) -> None:
    """Make a table of its own of a view, whose records are those of the table that it is a view of."""
    if table.is_view:
        # Any assignment makes a copy of all of it.
        table.obs = table.obs.copy()


def remove(table: AnnData, key: str) -> None:
    """Take a result away: values, companions, scores and record, and of a cross-validation its baselines too."""
    records, kind = records_of(table), kind_at(table, key)
    for place in places_of(table, key):
        drop(table, place)
    record = records.pop(key, None)
    _drop_scores_beside(table, key)
    if kind is Kind.FOLDS:
        for name in map(str, record.get(MEMBERS, [])):
            if kind_at(table, name) is Kind.FOLDS_BASELINE:
                remove(table, name)
    if kind is Kind.FOLDS_BASELINE:
        for run in (other for other in records.values() if kind_of(other) is Kind.FOLDS):
            run[MEMBERS] = [str(name) for name in run.get(MEMBERS, []) if name != key]


def _take_from(table: AnnData, owner: str, place: Place) -> None:
    """Take one place from a result: all of the result where its values are there."""
    kind = kind_at(table, owner)
    if kind is not None and place == kind.places(owner)[0]:
        remove(table, owner)
    else:
        _drop_scores_beside(table, place[1])


def _drop_scores_beside(table: AnnData, name: str) -> None:
    """Take away what the evaluation of other predictions says of this layer, as of the ridge beside a network."""
    place = ("var", f"{name}_pearson")
    if owners_of(table, place):
        drop(table, place)


def drop(table: AnnData, place: Place) -> None:
    """Take away what is in a place, if there is something."""
    attribute, name = place
    if attribute in ("obs", "var"):
        getattr(table, attribute).drop(columns=name, errors="ignore", inplace=True)
    else:
        getattr(table, attribute).pop(name, None)


def check_gene_flag(tables: Iterable[AnnData], *, overwrite: bool) -> None:
    """Refuse to replace a column under the name of the marked genes that marks nothing: one that is not boolean.

    Raises
    ------
    ValueError
        If there is one and `overwrite` is not set, or a name differs by case alone.
    """
    for table in tables:
        if clash := same_but_for_case(GENE_FLAG, table.var):
            msg = f"var[{GENE_FLAG!r}] differs from var[{clash!r}] by case alone; rename that column."
            raise ValueError(msg)
        if GENE_FLAG in table.var and not _ours_by_name(table, ("var", GENE_FLAG)) and not overwrite:
            msg = (
                f"var[{GENE_FLAG!r}] exists and was not written by nh2st: it is not boolean. Rename it, or replace it "
                "with `overwrite=True`."
            )
            raise ValueError(msg)


def check_elements(sdata: SpatialData, names: Iterable[str], ours: Iterable[str], *, overwrite: bool) -> None:
    """Refuse to replace elements of an object that this package did not write.

    Raises
    ------
    ValueError
        If there is one and `overwrite` is not set.
    """
    foreign = sorted(name for name in set(names) - set(ours) if name in sdata)
    if foreign and not overwrite:
        msg = (
            f"There is {', '.join(map(repr, foreign))} already, and nh2st did not write it. Rename it, or replace it "
            "with `overwrite=True`."
        )
        raise ValueError(msg)
