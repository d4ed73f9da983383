"""How well predictions agree with measured expression, beside the baselines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._expression import Target
from nh2st._keys import NAMESPACE, PREDICTED_SUFFIX, PREDICTION, RIDGE_SUFFIX, TILES, TRAINING_MEAN_SUFFIX
from nh2st._metrics import METRICS, mean_over_genes
from nh2st._results import dense_columns, predicted_rows, provenance_of, write_evaluation
from nh2st._sections import Data, Selection, Spots, find_spots, tables_of
from nh2st._settings import logger
from nh2st.tl._section_scores import RAW, nothing_in_common, score_section

MODEL, RIDGE, TRAINING_MEAN = "model", "ridge", "training mean"
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
    training mean of each gene, and a ridge on frozen features of the same encoder (for the context network with those
    of the neighbours). Genes of the panel that the table lacks are counted, and named in the log.

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
    ``"smoothed"``), and a column for each metric:

    - ``pearson``, ``spearman``: correlation over spots; undefined with something constant, such as the training mean;
    - ``mse``, ``mae``: mean squared and mean absolute error, in the units of the model's target;
    - ``nrmse``: root of the mean squared error over the range of the measured gene;
    - ``ssim``: structural similarity of the maps on the array of spots; undefined where ``obs`` has no
      ``array_row`` and ``array_col`` that describe the coordinates;
    - ``auc``: how well predictions tell spots that express the gene from those that do not;
    - ``moran_measured``, ``moran_predicted``: Moran's I of the measured and of the predicted gene;
    - ``ceiling``: the correlation that the sampling noise of the counts leaves attainable; on raw truth only.

    What is undefined is NaN, and left out of means.

    Written into each table, for the model on raw truth: ``var[f"{key}_pearson"]`` and so on (mean over sections),
    ``varm[f"{key}_pearson"]`` and so on (a column a section), for the ridge ``var[f"{key}_ridge_pearson"]``. Metrics of
    whole sections, for every model and truth, are in ``uns["nh2st"][key]``: their means over sections in
    ``"evaluation"``, and each section's in ``"evaluation_by_section"``, which :func:`nh2st.get.evaluation` gives as a
    table. Besides the means over genes of everything above they are the median correlation, means and medians over the
    gene sets that were chosen in training, the share of the noise ceiling that is reached, the overlap of the top
    spatially variable genes, the agreement of the correlations between genes, and how many genes could not be scored.

    Raises
    ------
    KeyError
        If there are no predictions of this name.
    ValueError
        If counts are missing or not valid, spots are tiles without any, a section has fewer than three predicted
        spots, or the table has none of the predicted genes.

    Examples
    --------
    >>> import nh2st as nh
    >>> table = nh.tl.evaluate(sdata)  # doctest: +SKIP
    >>> table.groupby(["model", "truth"])["pearson"].mean()  # doctest: +SKIP
    >>> nh.get.evaluation(sdata).query("metric == 'pearson_of_ceiling'")  # doctest: +SKIP
    """
    found = find_spots(data, Selection(sections, spots, table_key, None, shapes_key, coordinate_system))
    for table in tables_of(found):
        _check_table(table, key)
    evaluated = [(one, rows) for one in found if len(rows := predicted_rows(one, key))]
    if not evaluated:
        msg = f"None of the sections {', '.join(repr(one.name) for one in found)} was predicted under {key!r}."
        raise ValueError(msg)
    scores = [_score(one, rows, key, layer) for one, rows in evaluated]
    by_gene, by_section = (pd.concat(frames, ignore_index=True) for frames in zip(*scores, strict=True))
    for table in tables_of(one for one, _ in evaluated):
        mine = [one for one, _ in evaluated if one.adata is table]
        names = [one.name for one in mine]
        _write(table, key, by_gene[by_gene["section"].isin(names)], mine)
        write_evaluation(table, key, by_section[by_section["section"].isin(names)], mine)
    return by_gene


def _check_table(table: AnnData, key: str) -> None:
    """Refuse tiles, and warn where counts are scaled over far fewer genes than in training, which shifts all values."""
    provenance = provenance_of(table, key)
    if TILES in table.uns[NAMESPACE]:
        msg = "Predictions of tiles cannot be evaluated: nothing was measured there. Evaluate on objects with spots."
        raise ValueError(msg)
    if not table.var[f"{key}_{PREDICTED_SUFFIX}"].any():
        raise ValueError(nothing_in_common([str(gene) for gene in provenance["genes"]], "the table"))
    in_training = int(provenance.get("table_genes", 0))
    if provenance["target"]["scaled_over"] == "all" and table.n_vars < _FAR_FEWER * in_training:
        logger.warning(
            "The table has %d genes, in training there were %d: counts are scaled over all genes, so measured values "
            "are higher here, and MSE and MAE say little. Evaluate on the whole table.",
            table.n_vars,
            in_training,
        )


def _score(section: Spots, rows: np.ndarray, key: str, layer: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    provenance = provenance_of(section.adata, key)
    panel = [str(gene) for gene in provenance["genes"]]
    return score_section(
        section,
        rows,
        _predictions(section, rows, key, panel),
        panel,
        Target.from_dict(dict(provenance["target"])),
        gene_sets=_gene_sets(provenance, panel),
        layer=layer,
    )


def _gene_sets(provenance: dict[str, Any], panel: Sequence[str]) -> dict[str, list[str]]:
    """Gene sets of the model under the table's names of the genes; none where the model has none."""
    names = dict(zip(map(str, provenance.get("model_genes", panel)), panel, strict=True))
    return {name: [names[str(gene)] for gene in genes] for name, genes in provenance.get("gene_sets", {}).items()}


def _predictions(section: Spots, rows: np.ndarray, key: str, panel: Sequence[str]) -> dict[str, np.ndarray]:
    """Predictions of model and baselines, each (n, panel), NaN for genes that the table lacks."""
    table, used = section.adata, section.rows[rows]
    known = pd.Index(panel).isin(table.var_names)
    genes = [gene for gene, there in zip(panel, known, strict=True) if there]

    def spread_out(values: np.ndarray) -> np.ndarray:
        every = np.full((len(used), len(panel)), np.nan, dtype=np.float32)
        every[:, known] = values
        return every

    predictions = {MODEL: spread_out(dense_columns(table, key, used, genes))}
    if f"{key}_{RIDGE_SUFFIX}" in table.layers:
        ridge = dense_columns(table, f"{key}_{RIDGE_SUFFIX}", used, genes)
        if np.isfinite(ridge).all():
            predictions[RIDGE] = spread_out(ridge)
    if f"{key}_{TRAINING_MEAN_SUFFIX}" in table.var:
        means = table.var.loc[genes, f"{key}_{TRAINING_MEAN_SUFFIX}"].to_numpy(dtype=np.float32)
        predictions[TRAINING_MEAN] = spread_out(means)
    return predictions


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over genes, then over sections, of every metric; rows are (model, truth)."""
    per_section = frame.groupby(["model", "truth", "section"], sort=False)[list(METRICS)].agg(
        lambda values: mean_over_genes(values.to_numpy())
    )
    return per_section.groupby(["model", "truth"], sort=False).mean()


def _write(table: AnnData, key: str, by_gene: pd.DataFrame, sections: Sequence[Spots]) -> None:
    columns = {one.name: one.region or one.name for one in sections}
    raw = by_gene[(by_gene["model"] == MODEL) & (by_gene["truth"] == RAW)]
    for metric in METRICS:
        wide = raw.pivot(index="gene", columns="section", values=metric).rename(columns=columns)
        wide = wide.reindex(table.var_names)
        wide.columns.name = wide.index.name = None
        table.varm[f"{key}_{metric}"] = wide
        table.var[f"{key}_{metric}"] = wide.mean(axis=1).to_numpy()
    of_models = by_gene[by_gene["truth"] == RAW].groupby(["model", "gene"])["pearson"].mean().unstack(0)
    for model in of_models.columns.drop([MODEL, TRAINING_MEAN], errors="ignore"):
        table.var[f"{key}_{model}_pearson"] = of_models[model].reindex(table.var_names).to_numpy()
