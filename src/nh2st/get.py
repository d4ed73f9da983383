"""Take results out of the data."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._keys import NAMESPACE, PREDICTED_SUFFIX, PREDICTION, SPATIAL
from nh2st._results import dense_columns, provenance_of, read_evaluation
from nh2st._sections import Data, Selection, find_spots, tables_of

__all__ = ["evaluation", "predicted"]


def predicted(
    data: Data,
    key: str = PREDICTION,
    *,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    table_key: str | None = None,
) -> AnnData:
    """Give the predicted panel as a dense AnnData of its own, for downstream work.

    Parameters
    ----------
    data
        SpatialData or AnnData with predictions, or a list or dictionary of them.
    key
        Name of the predictions (``key_added`` of :func:`nh2st.tl.predict`).
    sections
        Sections to take; all that were predicted where absent.
    spots
        Boolean column of ``obs`` that says which spots are used; ``in_tissue`` where there is one.
    table_key
        Which table to use where several fit.

    Returns
    -------
    AnnData of the predicted spots by the whole panel of the model, in its order, genes that the table lacks included.
    ``X`` is float32 in the model's target space; ``obs``, ``obsm["spatial"]`` and what is known of the genes in ``var``
    are copied; provenance is in ``uns["nh2st"]``.

    Raises
    ------
    KeyError
        If there are no predictions of this name.
    ValueError
        If several objects were predicted with different panels.

    Examples
    --------
    >>> import nh2st as nh
    >>> adata = nh.get.predicted(sdata)  # doctest: +SKIP
    >>> sc.pp.pca(adata)  # doctest: +SKIP
    """
    found = find_spots(data, Selection(sections, spots, table_key))
    parts = []
    for table in tables_of(found):
        mine = [one for one in found if one.adata is table]
        parts.append(_panel_of(table, key, np.sort(np.concatenate([one.rows for one in mine]))))
    if len(parts) == 1:
        return parts[0]
    if any(list(part.var_names) != list(parts[0].var_names) for part in parts[1:]):
        msg = f"The objects were predicted with different panels under {key!r}; take them one by one."
        raise ValueError(msg)
    from anndata import concat

    keys = [next(one.object_key for one in found if one.adata is table) for table in tables_of(found)]
    return concat(dict(zip(map(str, keys), parts, strict=True)), index_unique="-", merge="same", uns_merge="first")


def evaluation(
    data: Data,
    key: str = PREDICTION,
    *,
    sections: Iterable[str] | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Give the scores of whole sections that :func:`nh2st.tl.evaluate` kept, as a tidy table.

    Parameters
    ----------
    data
        SpatialData or AnnData with evaluated predictions, or a list or dictionary of them.
    key
        Name of the predictions (``key_added`` of :func:`nh2st.tl.predict`).
    sections
        Sections to take; all that were evaluated where absent.
    table_key
        Which table to use where several fit.

    Returns
    -------
    Table with the columns ``section``, ``model``, ``truth``, ``metric`` and ``value``. For each section, model and
    truth: the mean over genes of every metric of :func:`nh2st.tl.evaluate` under its name, and what is given for
    sections alone, such as ``pearson_median``, ``pearson_highly_variable``, ``pearson_of_ceiling``, ``svg_overlap``,
    ``gene_correlation`` and ``n_genes_undefined``.

    Raises
    ------
    KeyError
        If there are no predictions of this name, or they have not been evaluated.

    Examples
    --------
    >>> import nh2st as nh
    >>> scores = nh.get.evaluation(sdata)  # doctest: +SKIP
    >>> scores.pivot_table(index="metric", columns=["model", "truth"], values="value")  # doctest: +SKIP
    """
    found = find_spots(data, Selection(sections, table_key=table_key))
    parts = [read_evaluation(table, key, [one for one in found if one.adata is table]) for table in tables_of(found)]
    return pd.concat(parts, ignore_index=True)


def _panel_of(table: AnnData, key: str, rows: np.ndarray) -> AnnData:
    genes = pd.Index(list(map(str, provenance_of(table, key)["genes"])))
    known = genes.isin(table.var_names)
    values = np.empty((len(rows), len(genes)), dtype=np.float32)
    values[:, known] = dense_columns(table, key, rows, genes[known])
    if not known.all():
        values[:, ~known] = table.obsm[key][genes[~known]].to_numpy()[rows]
    there = np.isfinite(values).any(axis=1)
    chosen = rows[there]
    obsm = {SPATIAL: np.asarray(table.obsm[SPATIAL])[chosen]} if SPATIAL in table.obsm else {}
    uns = {NAMESPACE: {key: copy.deepcopy(provenance_of(table, key))}}
    return AnnData(
        X=values[there], obs=table.obs.iloc[chosen].copy(), var=_var_of(table, genes, key), obsm=obsm, uns=uns
    )


def _var_of(table: AnnData, genes: pd.Index, key: str) -> pd.DataFrame:
    """What the table knows of the genes; for those that it lacks, False, an empty string or NaN."""
    var = table.var.drop(columns=f"{key}_{PREDICTED_SUFFIX}", errors="ignore")
    known = var.reindex(genes)
    for name, dtype in var.dtypes.items():
        if pd.api.types.is_bool_dtype(dtype):
            known[name] = known[name].eq(True)
        elif pd.api.types.is_object_dtype(dtype):
            known[name] = known[name].fillna("")
    return known
