"""How well predictions agree with measured expression, beside the baselines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._keys import NAMESPACE, PREDICTION, RIDGE_SUFFIX, TILES, TRAINING_MEAN_SUFFIX
from nh2st._metrics import METRICS, gene_metrics, mean_over_genes
from nh2st._results import dense_columns, predicted_rows, provenance_of
from nh2st._sections import Data, Spots, find_spots, tables_of
from nh2st._settings import logger
from nh2st.pp._target import Target, target_values

MODEL, RIDGE, TRAINING_MEAN = "model", "ridge", "training mean"
RAW, SMOOTHED = "raw", "smoothed"
_LEAST_SPOTS = 3
_FAR_FEWER = 0.5


def evaluate(
    data: Data,
    key: str = PREDICTION,
    *,
    layer: str | None = None,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> pd.DataFrame:
    """Compare predictions with measured expression, gene by gene within each section.

    Each metric is computed over the spots of one section, for each gene of the panel that the table has, and then
    averaged over sections. It is given on raw truth (every spot as measured) and on smoothed truth (each spot averaged
    with its neighbours), and for the two baselines that :func:`nh2st.tl.train` fitted on the training sections: the
    training mean of each gene, and PCA + ridge on frozen features of the same encoder.

    Parameters
    ----------
    data
        SpatialData or AnnData with predictions and counts, or a list or dictionary of them.
    key
        Name of the predictions (``key_added`` of :func:`nh2st.tl.predict`).
    layer
        Layer with the counts; ``layers["counts"]`` where there is one, else ``X``.
    sections
        Sections to evaluate; all that were predicted where absent.
    spots
        Boolean column of ``obs`` that says which spots are used; ``in_tissue`` where there is one.
    table_key, shapes_key, coordinate_system
        Which elements to use where several fit.

    Returns
    -------
    Table with a row for each section, gene, model (``"model"``, ``"ridge"``, ``"training mean"``) and truth (``"raw"``,
    ``"smoothed"``), and the columns ``pearson``, ``spearman``, ``mse`` and ``mae``. A correlation with something
    constant, such as the training mean, is undefined: NaN, and left out of means. MSE and MAE are in the units of the
    model's target.

    Written into each table, for the model on raw truth: ``var[f"{key}_pearson"]`` and so on (mean over sections),
    ``varm[f"{key}_pearson"]`` and so on (a column a section), for the ridge
    ``var[f"{key}_ridge_pearson"]``, and the means of everything in
    ``uns["nh2st"][key]["evaluation"]``.

    Raises
    ------
    KeyError
        If there are no predictions of this name.
    ValueError
        If counts are missing or not valid, spots are tiles without any, or a section has fewer than three predicted
        spots.

    Examples
    --------
    >>> import nh2st as nh
    >>> table = nh.tl.evaluate(sdata)  # doctest: +SKIP
    >>> table.groupby(["model", "truth"])["pearson"].mean()  # doctest: +SKIP
    """
    found = find_spots(
        data,
        sections=sections,
        spots=spots,
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
    )
    for table in tables_of(found):
        _check_table(table, provenance_of(table, key))
    evaluated = [(one, rows) for one in found if len(rows := predicted_rows(one, key))]
    if not evaluated:
        msg = f"None of the sections {', '.join(repr(one.name) for one in found)} was predicted under {key!r}."
        raise ValueError(msg)
    frame = pd.concat([_section_metrics(one, rows, key, layer) for one, rows in evaluated], ignore_index=True)
    for table in tables_of(one for one, _ in evaluated):
        names = {one.name: one.region or one.name for one, _ in evaluated if one.adata is table}
        _write(table, key, frame[frame["section"].isin(names)], names)
    return frame


def _check_table(table: AnnData, provenance: dict[str, Any]) -> None:
    """Refuse tiles, and warn where counts are scaled over far fewer genes than in training, which shifts all values."""
    if TILES in table.uns[NAMESPACE]:
        msg = "Predictions of tiles cannot be evaluated: nothing was measured there. Evaluate on objects with spots."
        raise ValueError(msg)
    in_training = int(provenance.get("table_genes", 0))
    if provenance["target"]["scaled_over"] == "all" and table.n_vars < _FAR_FEWER * in_training:
        logger.warning(
            "The table has %d genes, in training there were %d: counts are scaled over all genes, so measured values "
            "are higher here, and MSE and MAE say little. Evaluate on the whole table.",
            table.n_vars,
            in_training,
        )


def _section_metrics(section: Spots, rows: np.ndarray, key: str, layer: str | None) -> pd.DataFrame:
    if len(rows) < _LEAST_SPOTS:
        msg = f"Section {section.name!r} has {len(rows)} predicted spots; a correlation needs {_LEAST_SPOTS}."
        raise ValueError(msg)
    table = section.adata
    provenance = provenance_of(table, key)
    panel = [gene for gene in map(str, provenance["genes"]) if gene in table.var_names]
    target = Target.from_dict(dict(provenance["target"]))
    predictions = _predictions(section, rows, key, panel)
    frames = []
    for truth, smoothed in ((RAW, False), (SMOOTHED, True)):
        measured = target_values(section, panel, target, layer, smoothed=smoothed)[rows]
        if truth == RAW:
            _report_constant(section, panel, measured)
        for name, values in predictions.items():
            columns = {"section": section.name, "gene": panel, "model": name, "truth": truth}
            frames.append(pd.DataFrame(columns | gene_metrics(measured, values)))
    return pd.concat(frames, ignore_index=True)


def _predictions(section: Spots, rows: np.ndarray, key: str, panel: Sequence[str]) -> dict[str, np.ndarray]:
    """Predictions of model and baselines, each (n, n_genes)."""
    table, used = section.adata, section.rows[rows]
    predictions = {MODEL: dense_columns(table, key, used, panel)}
    if f"{key}_{RIDGE_SUFFIX}" in table.layers:
        ridge = dense_columns(table, f"{key}_{RIDGE_SUFFIX}", used, panel)
        if np.isfinite(ridge).all():
            predictions[RIDGE] = ridge
    if f"{key}_{TRAINING_MEAN_SUFFIX}" in table.var:
        means = table.var.loc[panel, f"{key}_{TRAINING_MEAN_SUFFIX}"].to_numpy(dtype=np.float32)
        predictions[TRAINING_MEAN] = np.broadcast_to(means, (len(used), len(panel)))
    return predictions


def _report_constant(section: Spots, panel: Sequence[str], measured: np.ndarray) -> None:
    constant = np.flatnonzero(np.ptp(measured, axis=0) == 0)
    if len(constant):
        logger.warning(
            "%d of %d genes do not vary in section %r (%s); their correlation is undefined and left out of means.",
            len(constant),
            len(panel),
            section.name,
            ", ".join(panel[position] for position in constant[:5]),
        )


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over genes, then over sections, of every metric; rows are (model, truth)."""
    per_section = frame.groupby(["model", "truth", "section"], sort=False)[list(METRICS)].agg(
        lambda values: mean_over_genes(values.to_numpy())
    )
    return per_section.groupby(["model", "truth"], sort=False).mean()


def _write(table: AnnData, key: str, frame: pd.DataFrame, names: dict[str, str]) -> None:
    raw = frame[(frame["model"] == MODEL) & (frame["truth"] == RAW)]
    for metric in METRICS:
        wide = raw.pivot(index="gene", columns="section", values=metric).rename(columns=names)
        wide = wide.reindex(table.var_names)
        wide.columns.name = wide.index.name = None
        table.varm[f"{key}_{metric}"] = wide
        table.var[f"{key}_{metric}"] = wide.mean(axis=1).to_numpy()
    summary: dict[str, Any] = {}
    for (model, truth), row in summarize(frame).iterrows():
        summary[f"{model}_{truth}".replace(" ", "_")] = {name: float(value) for name, value in row.items()}
    by_gene = frame[frame["truth"] == RAW].groupby(["model", "gene"])["pearson"].mean().unstack(0)
    for model in by_gene.columns.drop([MODEL, TRAINING_MEAN], errors="ignore"):
        table.var[f"{key}_{model}_pearson"] = by_gene[model].reindex(table.var_names).to_numpy()
    table.uns[NAMESPACE][key]["evaluation"] = summary
