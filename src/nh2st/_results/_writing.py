"""Writing values into tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csc_matrix, csr_matrix, vstack

from nh2st._keys import PREDICTED_SUFFIX
from nh2st._sections import Data


def editable(data: Data, copy: bool) -> Data:
    """Copy the AnnData where a copy is asked for.

    Raises
    ------
    TypeError
        If a copy of anything else is asked for.
    """
    if not copy:
        return data
    if not isinstance(data, AnnData):
        msg = f"`copy=True` needs an AnnData, not {type(data).__name__}. Copy it first: `spatialdata.deepcopy(sdata)`."
        raise TypeError(msg)
    return data.copy()


def scatter_rows(blocks: list[tuple[np.ndarray, csr_matrix]], n_obs: int) -> csr_matrix:
    """Matrix with `n_obs` rows that holds each block in its rows, and nothing elsewhere."""
    rows = np.concatenate([rows for rows, _ in blocks])
    place = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, np.arange(len(rows)))), shape=(n_obs, len(rows)))
    return csr_matrix(place @ vstack([values for _, values in blocks], format="csr"))


def write_predictions(table: AnnData, key: str, values: np.ndarray, genes: Sequence[str]) -> None:
    """Write predictions (n_obs, n_genes) of the genes into the layer and, for genes that the table lacks, into obsm.

    Where the table holds other genes too, the layer is sparse with the panel's columns filled.
    """
    write_layer(table, key, values, genes)
    table.var[f"{key}_{PREDICTED_SUFFIX}"] = table.var_names.isin(genes)
    absent = ~pd.Index(genes).isin(table.var_names)
    if absent.any():
        names = [gene for gene, missing in zip(genes, absent, strict=True) if missing]
        table.obsm[key] = pd.DataFrame(values[:, absent], index=table.obs_names, columns=names)


def write_layer(table: AnnData, key: str, values: np.ndarray, genes: Sequence[str]) -> None:
    """Write values (n_obs, n_genes) of those genes that the table has into a layer."""
    columns = table.var_names.get_indexer(list(genes))
    there = np.flatnonzero(columns >= 0)
    order = there[np.argsort(columns[there])]
    of_panel = np.zeros(table.n_vars, dtype=bool)
    of_panel[columns[there]] = True
    table.layers[key] = np.take(values, order, axis=1) if of_panel.all() else _csc(values, order, of_panel)


def _csc(values: np.ndarray, order: np.ndarray, of_panel: np.ndarray) -> csc_matrix:
    """Sparse matrix with some columns of the values, in this order, filled; the others are empty."""
    n_obs = len(values)
    indptr = np.concatenate([[0], np.cumsum(of_panel * n_obs, dtype=np.int64)])
    # The narrower index type where it reaches, as tables of many bins are held in memory several times.
    index_type = np.int32 if indptr[-1] <= np.iinfo(np.int32).max else np.int64
    indices = np.tile(np.arange(n_obs, dtype=index_type), len(order))
    filled = np.take(values.T, order, axis=0).reshape(-1)
    return csc_matrix((filled, indices, indptr.astype(index_type)), shape=(n_obs, len(of_panel)))
