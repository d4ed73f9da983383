"""Scores of predictions in a table: what they may replace, how they are written, and how they are read again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._keys import MODEL, PREDICTED_SUFFIX, RAW, TRAINING_MEAN_SUFFIX
from nh2st._metrics import METRICS
from nh2st._results._kinds import EVALUATION, Place, evaluation_places
from nh2st._results._names import same_but_for_case
from nh2st._results._records import owners_of, provenance_of
from nh2st._results._replacing import detach, drop
from nh2st._sections import Spots, tables_of

EVALUATION_BY_SECTION = "evaluation_by_section"
_COLUMNS = ["section", "gene", "model", "truth", "metric", "value"]


def check_evaluation(sections: Iterable[Spots], key: str, *, overwrite: bool) -> None:
    """Refuse to replace columns that are no scores of predictions.

    All sections are to be checked before anything is written.

    Raises
    ------
    ValueError
        If there is such a column and `overwrite` is not set, or one whose name differs by case alone.
    KeyError
        If there are no predictions of this name.
    """
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


def write_evaluation(table: AnnData, key: str, scores: pd.DataFrame, sections: Sequence[Spots]) -> None:
    """Write scores of the table's sections: of each gene into ``var`` and ``varm``, of sections into the record.

    The scores are tidy: columns ``section``, ``gene`` (empty for the section as a whole), ``model``, ``truth``,
    ``metric`` and ``value``. Earlier scores of these predictions go.
    """
    _forget(table, key)
    mine = scores[scores["section"].isin([section.name for section in sections])]
    mine = mine.assign(section=mine["section"].map({section.name: _label(section) for section in sections}))
    whole = mine["gene"] == ""
    _write_genes(table, key, mine[~whole & (mine["truth"] == RAW)])
    _write_sections(table, key, mine[whole].drop(columns="gene"))


def _forget(table: AnnData, key: str) -> None:
    """Take away earlier scores, so that none of another evaluation is left beside new ones."""
    detach(table)
    record = provenance_of(table, key)
    for place in evaluation_places(key):
        drop(table, place)
    for name in (EVALUATION, EVALUATION_BY_SECTION):
        record.pop(name, None)


def _write_genes(table: AnnData, key: str, raw: pd.DataFrame) -> None:
    """Write all metrics of the model, and the correlation of the baselines that have one."""
    of_model = raw[raw["model"] == MODEL]
    for metric in METRICS:
        chosen = of_model[of_model["metric"] == metric]
        wide = chosen.pivot(index="gene", columns="section", values="value").reindex(table.var_names)
        wide.columns.name = wide.index.name = None
        table.varm[f"{key}_{metric}"] = wide
        table.var[f"{key}_{metric}"] = wide.mean(axis=1).to_numpy()
    pearson = raw[raw["metric"] == "pearson"].groupby(["model", "gene"])["value"].mean().unstack("model")
    for baseline in pearson.columns.drop([MODEL, TRAINING_MEAN_SUFFIX], errors="ignore"):
        table.var[f"{key}_{baseline}_pearson"] = pearson[baseline].reindex(table.var_names).to_numpy()


def _write_sections(table: AnnData, key: str, scores: pd.DataFrame) -> None:
    """Write scores of sections, and their means over sections for each model and truth."""
    record = provenance_of(table, key)
    means = scores.groupby(["model", "truth", "metric"], sort=False)["value"].mean()
    record[EVALUATION] = {
        f"{model}_{truth}": values.droplevel(["model", "truth"]).to_dict()
        for (model, truth), values in means.groupby(["model", "truth"], sort=False)
    }
    # As rows, since neither the order of keys nor every character of a section's name would survive on disk.
    record[EVALUATION_BY_SECTION] = {str(name): np.asarray(values) for name, values in scores.items()}


def read_evaluation(table: AnnData, key: str, sections: Sequence[Spots], *, genes: bool) -> pd.DataFrame:
    """Tidy scores of those of the table's sections that were evaluated; with `genes`, of each gene too.

    Raises
    ------
    KeyError
        If there are no predictions of this name, or they have not been evaluated.
    """
    record = provenance_of(table, key)
    if EVALUATION_BY_SECTION not in record:
        msg = f"The predictions {key!r} have not been evaluated. Call `nh.tl.evaluate(sdata, {key!r})` first."
        raise KeyError(msg)
    stored = {str(name): np.asarray(values) for name, values in record[EVALUATION_BY_SECTION].items()}
    scores = pd.DataFrame(stored).assign(gene="")[_COLUMNS]
    if genes:
        scores = pd.concat([_read_genes(table, key), scores], ignore_index=True)
    scores["section"] = scores["section"].map({_label(section): section.name for section in sections})
    return scores.dropna(subset="section")


def _read_genes(table: AnnData, key: str) -> pd.DataFrame:
    """Tidy scores of each gene: those of the model on raw truth."""
    predicted = table.var_names[table.var[f"{key}_{PREDICTED_SUFFIX}"].to_numpy(dtype=bool)]
    frames = []
    for metric in METRICS:
        wide = table.varm[f"{key}_{metric}"].loc[predicted]
        labels = {"section": np.repeat(wide.columns, len(wide)), "gene": np.tile(wide.index, wide.shape[1])}
        frames.append(pd.DataFrame({**labels, "metric": metric, "value": wide.to_numpy().ravel(order="F")}))
    return pd.concat(frames, ignore_index=True).assign(model=MODEL, truth=RAW)[_COLUMNS]


def _label(section: Spots) -> str:
    """Name of a section within its table, which does not know the name of the object that it is in."""
    return section.region or "section"
