"""Writing results into tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from anndata import AnnData
from scipy.sparse import csr_matrix, vstack

from nh2st._keys import NAMESPACE
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


def check_free(tables: Iterable[AnnData], key: str) -> None:
    """Make sure that no layer of the user's is overwritten.

    Raises
    ------
    ValueError
        If a table has a layer of that name that this package did not write.
    """
    if any(key in table.layers and key not in table.uns.get(NAMESPACE, {}) for table in tables):
        msg = f"There is a layer {key!r} already, and nh2st did not write it. Choose another `key_added=` or delete it."
        raise ValueError(msg)


def write_record(adata: AnnData, key: str, values: Any, record: dict[str, Any]) -> None:
    """Put values into a layer, and what they are into ``uns["nh2st"][key]``."""
    adata.layers[key] = values
    adata.uns.setdefault(NAMESPACE, {})[key] = record


def scatter_rows(blocks: list[tuple[np.ndarray, csr_matrix]], n_obs: int) -> csr_matrix:
    """Matrix with `n_obs` rows that holds each block in its rows, and nothing elsewhere."""
    rows = np.concatenate([rows for rows, _ in blocks])
    place = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, np.arange(len(rows)))), shape=(n_obs, len(rows)))
    return csr_matrix(place @ vstack([values for _, values in blocks], format="csr"))
