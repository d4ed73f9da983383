"""Reading predictions from tables."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from anndata import AnnData
from scipy.sparse import issparse

from nh2st._keys import PREDICTED_SUFFIX
from nh2st._sections import Spots


def dense_columns(table: AnnData, layer: str, rows: np.ndarray, genes: Iterable[str]) -> np.ndarray:
    """Values (rows, genes) of a layer as a dense array; the table must have the genes."""
    values = table.layers[layer]
    columns = table.var_names.get_indexer(list(genes))
    if not issparse(values):
        return np.asarray(values[:, columns][rows])
    if values.format != "csc":
        values, columns = values[:, columns].tocsc(), np.arange(len(columns))
    # One by one, as a sparse matrix of the same columns would take up more than the dense array.
    dense = np.empty((len(rows), len(columns)), dtype=values.dtype, order="F")
    for number, column in enumerate(columns):
        dense[:, number] = values[:, [column]].toarray()[rows, 0]
    return dense


def predicted_rows(spots: Spots, key: str) -> np.ndarray:
    """Positions within the section of the spots that have predictions, of all genes or of those of their fold."""
    matrix = spots.adata.layers.get(key)
    genes = spots.adata.var_names[spots.adata.var[f"{key}_{PREDICTED_SUFFIX}"].to_numpy(dtype=bool)]
    if matrix is None or len(genes) == 0:
        return np.arange(0)
    predicted = np.zeros(len(spots.rows), dtype=bool)
    for gene in genes:
        missing = np.flatnonzero(~predicted)
        predicted[missing] = np.isfinite(dense_columns(spots.adata, key, spots.rows[missing], [gene])[:, 0])
        if predicted.all():
            break
    return np.flatnonzero(predicted)
