"""How well predictions agree with measured expression, beside the baselines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._docs import documented
from nh2st._expression import Target, read_counts
from nh2st._keys import MODEL, PREDICTED_SUFFIX, PREDICTION, RIDGE_SUFFIX, TILES, TRAINING_MEAN_SUFFIX
from nh2st._results import (
    check_evaluation,
    companion_layer,
    dense_columns,
    predicted_rows,
    provenance_of,
    write_evaluation,
)
from nh2st._sections import Data, Selection, Spots, find_spots, records_of, tables_of
from nh2st._settings import logger
from nh2st.tl._section_scores import nothing_in_common, score_section, tidy_scores

_FAR_FEWER = 0.5


@documented
def evaluate(
    data: Data,
    key: str = PREDICTION,
    *,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    overwrite: bool = False,
    layer: str | None = None,
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
    %(key)s
    sections
        Sections to evaluate; all that were predicted where absent.
    %(spots)s
    overwrite
        Replace columns of the names below that are no scores of this package.
    %(layer)s
    %(table_elements)s

    Returns
    -------
    Tidy table with the columns ``section``, ``gene`` (empty for metrics of the section as a whole), ``model``
    (``"model"``, ``"ridge"``, ``"training_mean"``), ``truth`` (``"raw"``, ``"smoothed"``), ``metric`` and ``value``, as
    :func:`nh2st.tl.cross_validate` gives it for each fold; :func:`nh2st.tl.compare` takes it. The metrics of a gene:

    - ``pearson``, ``spearman``: correlation over spots; undefined with something constant, such as the training mean;
    - ``mse``, ``mae``: mean squared and mean absolute error, in the units of the model's target;
    - ``nrmse``: root of the mean squared error over the range of the measured gene;
    - ``ssim``: structural similarity of the maps on the array of spots; undefined where ``obs`` has no
      ``array_row`` and ``array_col`` that describe the coordinates;
    - ``auc``: how well predictions tell spots that express the gene from those that do not;
    - ``moran_measured``, ``moran_predicted``: Moran's I of the measured and of the predicted gene;
    - ``ceiling``: the correlation that the sampling noise of the counts leaves attainable; on raw truth only.

    What is undefined is NaN, and left out of means.

    The metrics of a section are the means over genes of all these, under the same names; the median correlation; means
    and medians over the gene sets that were chosen in training; the share of the noise ceiling that is reached; the
    overlap of the top spatially variable genes; the agreement of the correlations between genes; and how many genes
    could not be scored.

    Written into each table, for the model on raw truth: ``var[f"{key}_pearson"]`` and so on (mean over sections),
    ``varm[f"{key}_pearson"]`` and so on (a column a section), for the ridge ``var[f"{key}_ridge_pearson"]``. Metrics of
    whole sections, for every model and truth, are in ``uns["nh2st"][key]``: their means over sections in
    ``"evaluation"``, and each section's in ``"evaluation_by_section"``. :func:`nh2st.get.evaluation` reads them again.

    Raises
    ------
    KeyError
        If there are no predictions of this name.
    ValueError
        If counts are missing or not valid, spots are tiles without any, a section has fewer than three predicted
        spots, the table has none of the predicted genes, or a column would be replaced that is no score of ours.

    Examples
    --------
    >>> import nh2st as nh
    >>> scores = nh.tl.evaluate(sdata)  # doctest: +SKIP
    >>> whole = scores[scores["gene"] == ""]  # doctest: +SKIP
    >>> whole.pivot_table(index="metric", columns=["model", "truth"], values="value")  # doctest: +SKIP
    >>> nh.tl.compare(scores, "model", "ridge")  # doctest: +SKIP
    """
    found = find_spots(data, Selection(sections, spots, table_key, None, shapes_key, coordinate_system))
    for table in tables_of(found):
        _check_table(table, key)
    check_evaluation(found, key, overwrite=overwrite)
    predicted = [(section, rows) for section in found if len(rows := predicted_rows(section, key))]
    if not predicted:
        msg = f"None of the sections {', '.join(repr(section.name) for section in found)} was predicted under {key!r}."
        raise ValueError(msg)
    scores = pd.concat([_score(section, rows, key, layer) for section, rows in predicted], ignore_index=True)
    evaluated = [section for section, _ in predicted]
    for table in tables_of(evaluated):
        write_evaluation(table, key, scores, [section for section in evaluated if section.adata is table])
    return scores


def _check_table(table: AnnData, key: str) -> None:
    """Refuse tiles, and warn where counts are scaled over far fewer genes than in training, which shifts all values."""
    provenance = provenance_of(table, key)
    if TILES in records_of(table):
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


def _score(section: Spots, rows: np.ndarray, key: str, layer: str | None) -> pd.DataFrame:
    """Tidy scores of one section."""
    provenance = provenance_of(section.adata, key)
    panel = [str(gene) for gene in provenance["genes"]]
    predictions = _predictions(section, rows, key, panel)
    target = Target.from_dict(dict(provenance["target"]))
    sets, counts = _gene_sets(provenance, panel), read_counts(section, layer)
    return tidy_scores(*score_section(section, counts, rows, predictions, panel, target, gene_sets=sets))


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
    if layer_of_ridge := companion_layer(table, key, RIDGE_SUFFIX):
        ridge = dense_columns(table, layer_of_ridge, used, genes)
        if np.isfinite(ridge).all():
            predictions[RIDGE_SUFFIX] = spread_out(ridge)
    if f"{key}_{TRAINING_MEAN_SUFFIX}" in table.var:
        means = table.var.loc[genes, f"{key}_{TRAINING_MEAN_SUFFIX}"].to_numpy(dtype=np.float32)
        predictions[TRAINING_MEAN_SUFFIX] = spread_out(means)
    return predictions
