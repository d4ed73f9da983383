"""Scores of predictions in a table: what they may replace, and how those of whole sections are written and read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._results._kinds import EVALUATION, Place, evaluation_places
from nh2st._results._names import check_name, same_but_for_case
from nh2st._results._records import owners_of, provenance_of
from nh2st._results._replacing import detach, drop
from nh2st._sections import Spots, tables_of

EVALUATION_BY_SECTION = "evaluation_by_section"
_LABELS = ["section", "model", "truth"]


def check_evaluation(sections: Iterable[Spots], key: str, *, overwrite: bool) -> None:
    """Refuse to replace columns that are no scores of predictions, and names of objects that cannot be stored.

    All sections are to be checked before anything is written.

    Raises
    ------
    ValueError
        If there is such a column or name, and `overwrite` is not set for a column.
    KeyError
        If there are no predictions of this name.
    """
    sections = list(sections)
    for section in sections:
        if not section.region and section.object_key is not None:
            check_name(section.object_key, "the key of an object")
    for table in tables_of(sections):
        provenance_of(table, key)
        for place in evaluation_places(key):
            _check_place(table, place, overwrite=overwrite)


def _check_place(table: AnnData, place: Place, *, overwrite: bool) -> None:
    attribute, name = place
    there = getattr(table, attribute)
    if clash := same_but_for_case(name, there):
        msg = f"Scores go to {attribute}[{name!r}], which differs from {attribute}[{clash!r}] by case alone. Rename it."
        raise ValueError(msg)
    if name in there and not owners_of(table, place) and not overwrite:
        msg = (
            f"{attribute}[{name!r}] exists and was not written by nh2st. Rename it, or replace it with "
            "`overwrite=True`."
        )
        raise ValueError(msg)


def forget_evaluation(table: AnnData, key: str) -> None:
    """Take away earlier scores of these predictions, so that none of another evaluation is left beside new ones."""
    detach(table)
    record = provenance_of(table, key)
    for place in evaluation_places(key):
        drop(table, place)
    for name in (EVALUATION, EVALUATION_BY_SECTION):
        record.pop(name, None)


def write_evaluation(table: AnnData, key: str, by_section: pd.DataFrame, sections: Sequence[Spots]) -> None:
    """Write scores of the table's sections, and their means over sections for each model and truth.

    The frame has the columns ``section``, ``model``, ``truth``, and one for each metric.
    """
    record = provenance_of(table, key)
    means = by_section.drop(columns="section").groupby(["model", "truth"], sort=False).mean()
    record[EVALUATION] = {
        f"{model}_{truth}".replace(" ", "_"): row.to_dict() for (model, truth), row in means.iterrows()
    }
    tidy = by_section.melt(_LABELS, var_name="metric")
    tidy["section"] = tidy["section"].map({section.name: _label(section) for section in sections})
    # As rows, since neither the order of keys nor every character of a section's name would survive on disk.
    record[EVALUATION_BY_SECTION] = {str(name): np.asarray(values) for name, values in tidy.items()}


def read_evaluation(table: AnnData, key: str, sections: Sequence[Spots]) -> pd.DataFrame:
    """Tidy scores of those of the table's sections that were evaluated.

    Raises
    ------
    KeyError
        If there are no predictions of this name, or they have not been evaluated.
    """
    record = provenance_of(table, key)
    if EVALUATION_BY_SECTION not in record:
        msg = f"The predictions {key!r} have not been evaluated. Call `nh.tl.evaluate(sdata, {key!r})` first."
        raise KeyError(msg)
    stored = record[EVALUATION_BY_SECTION]
    tidy = pd.DataFrame({name: np.asarray(stored[name]) for name in [*_LABELS, "metric", "value"]})
    tidy["section"] = tidy["section"].map({_label(section): section.name for section in sections})
    return tidy.dropna(subset="section")


def _label(section: Spots) -> str:
    """Name of a section within its table, which does not know the name of the object that it is in."""
    return section.region or "section"
