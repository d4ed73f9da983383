"""Predictions in a table: how they are written, and how they are read again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csc_matrix, issparse

from nh2st._keys import (
    COUNTS_LAYER,
    NAMESPACE,
    PREDICTED_SUFFIX,
    RIDGE_SUFFIX,
    SPATIAL,
    STD_SUFFIX,
    TARGET_LAYER,
    TILES,
    TRAINING,
)
from nh2st._sections import Spots

_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_RESERVED = frozenset({COUNTS_LAYER, TRAINING, TARGET_LAYER, SPATIAL, TILES})


def check_key(table: AnnData, key: str) -> None:
    """Refuse names that cannot be stored, or that mean something else.

    Raises
    ------
    ValueError
        If `key` has other characters than letters, digits and ``_.-``, is reserved, or is that of a layer
        or of an entry of obsm but for case.
    """
    if not _KEY.fullmatch(key):
        msg = f"key_added={key!r} cannot be stored: use letters, digits, '_', '.' and '-'."
        raise ValueError(msg)
    if key in _RESERVED:
        msg = f"key_added={key!r} is reserved; choose another name."
        raise ValueError(msg)
    for place in ("layers", "obsm"):
        clash = [name for name in getattr(table, place) if name != key and name.lower() == key.lower()]
        if clash:
            msg = f"key_added={key!r} differs from {place}[{clash[0]!r}] by case alone; choose another name."
            raise ValueError(msg)


def check_replaceable(table: AnnData, key: str, *, overwrite: bool) -> None:
    """Refuse to replace a layer or obsm entry that this package did not predict.

    Raises
    ------
    ValueError
        If there is one and `overwrite` is not set, gene names repeat, or the name cannot be used.
    """
    check_key(table, key)
    if not table.var_names.is_unique:
        examples = ", ".join(map(repr, table.var_names[table.var_names.duplicated()][:5]))
        msg = f"Gene names repeat in the table ({examples}). Call `adata.var_names_make_unique()`."
        raise ValueError(msg)
    ours = "genes" in table.uns.get(NAMESPACE, {}).get(key, {})
    check_ours(table, key, ("layers", "obsm"), ours=ours, overwrite=overwrite)


def check_ours(table: AnnData, key: str, places: Iterable[str], *, ours: bool, overwrite: bool) -> None:
    """Refuse to replace what is in these places under a name if it is not ours.

    Raises
    ------
    ValueError
        If there is something and `overwrite` is not set.
    """
    there = [name for name in places if key in getattr(table, name)]
    if there and not ours and not overwrite:
        msg = (
            f"{there[0]}[{key!r}] exists and was not written by nh2st. Choose another `key_added=`, or replace it with "
            "`overwrite=True`."
        )
        raise ValueError(msg)


def write_predictions(table: AnnData, key: str, values: np.ndarray, genes: Sequence[str]) -> None:
    """Write predictions (n_obs, n_genes) of the genes into the layer and, for genes that the table lacks, into obsm.

    Where the table holds other genes too, the layer is sparse with the panel's columns filled.
    """
    write_layer(table, key, values, genes)
    table.var[f"{key}_{PREDICTED_SUFFIX}"] = table.var_names.isin(genes)
    table.obsm.pop(key, None)
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


def provenance_of(table: AnnData, key: str) -> dict[str, Any]:
    """What was recorded with the predictions of this name.

    Raises
    ------
    KeyError
        If there are none.
    """
    written = _written(table)
    if key not in written:
        raise KeyError(_no_predictions(key, written))
    return table.uns[NAMESPACE][key]


def record_of_layer(table: AnnData, layer: str) -> tuple[str, dict[str, Any]]:
    """Name and content of the record that a layer of predictions belongs to.

    That is its own, or for what :func:`nh2st.tl.predict` writes beside its predictions (ridge, standard deviation)
    that of these.

    Raises
    ------
    KeyError
        If this package wrote no such layer.
    """
    written = _written(table)
    beside = {f"{name}_{suffix}": name for name in written for suffix in (RIDGE_SUFFIX, STD_SUFFIX)}
    names = {name: of for name, of in beside.items() if name in table.layers} | {name: name for name in written}
    if layer not in names:
        raise KeyError(_no_predictions(layer, sorted(names)))
    return names[layer], table.uns[NAMESPACE][names[layer]]


def _written(table: AnnData) -> list[str]:
    """Names of the predictions that the table holds with what was recorded of them."""
    recorded = table.uns.get(NAMESPACE, {})
    return [name for name in recorded if "genes" in recorded[name] and (name in table.layers or name in table.obsm)]


def _no_predictions(key: str, there: Iterable[str]) -> str:
    names = ", ".join(map(repr, there)) or "none"
    return f"There are no predictions {key!r} (there are: {names}). Call `nh.tl.predict(sdata, model)` first."


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
