"""Predictions in a table: how they are written, and how they are read again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csc_matrix, issparse

from nh2st._keys import COUNTS_LAYER, NAMESPACE, PREDICTED_SUFFIX, SPATIAL, TARGET_LAYER, TRAINING
from nh2st._sections import Spots

_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_RESERVED = frozenset({COUNTS_LAYER, TRAINING, TARGET_LAYER, SPATIAL})


def check_key(table: AnnData, key: str) -> None:
    """Refuse names that cannot be stored, or that mean something else.

    Raises
    ------
    ValueError
        If `key` has other characters than letters, digits and ``_.-``, is reserved, or is a layer's but for case.
    """
    if not _KEY.fullmatch(key):
        msg = f"key_added={key!r} cannot be stored: use letters, digits, '_', '.' and '-'."
        raise ValueError(msg)
    if key in _RESERVED:
        msg = f"key_added={key!r} is reserved; choose another name."
        raise ValueError(msg)
    clash = [name for name in table.layers if name != key and name.lower() == key.lower()]
    if clash:
        msg = f"key_added={key!r} differs from layers[{clash[0]!r}] by case alone; choose another name."
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
    there = [name for name in ("layers", "obsm") if key in getattr(table, name)]
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
    filled = values[:, there[np.argsort(columns[there])]]
    of_panel = np.zeros(table.n_vars, dtype=bool)
    of_panel[columns[there]] = True
    table.layers[key] = filled if of_panel.all() else _csc(filled, of_panel)


def _csc(filled: np.ndarray, of_panel: np.ndarray) -> csc_matrix:
    n_obs = len(filled)
    indptr = np.concatenate([[0], np.cumsum(of_panel * n_obs)])
    indices = np.tile(np.arange(n_obs), filled.shape[1])
    return csc_matrix((filled.ravel(order="F"), indices, indptr), shape=(n_obs, len(of_panel)))


def provenance_of(table: AnnData, key: str) -> dict[str, Any]:
    """What was recorded with the predictions of this name.

    Raises
    ------
    KeyError
        If there are none.
    """
    recorded = table.uns.get(NAMESPACE, {})
    written = [name for name in recorded if "genes" in recorded[name] and (name in table.layers or name in table.obsm)]
    if key not in written:
        there = ", ".join(map(repr, written)) or "none"
        msg = f"There are no predictions {key!r} (there are: {there}). Call `nh.tl.predict(sdata, model)` first."
        raise KeyError(msg)
    return recorded[key]


def dense_columns(table: AnnData, layer: str, rows: np.ndarray, genes: Iterable[str]) -> np.ndarray:
    """Values (rows, genes) of a layer as a dense array; the table must have the genes."""
    values = table.layers[layer][:, table.var_names.get_indexer(list(genes))][rows]
    return np.asarray(values.toarray() if issparse(values) else values)


def predicted_rows(spots: Spots, key: str) -> np.ndarray:
    """Positions within the section of the spots that have predictions."""
    matrix = spots.adata.layers.get(key)
    genes = spots.adata.var_names[spots.adata.var[f"{key}_{PREDICTED_SUFFIX}"].to_numpy(dtype=bool)]
    if matrix is None or len(genes) == 0:
        return np.arange(0)
    return np.flatnonzero(np.isfinite(dense_columns(spots.adata, key, spots.rows, genes[:1])[:, 0]))
