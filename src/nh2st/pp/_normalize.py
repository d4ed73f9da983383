"""Normalised expression as a layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from scipy.sparse import csr_matrix

from nh2st._docs import documented
from nh2st._expression import Target, check_genes, log_scaled, match_panel, read_counts
from nh2st._keys import GENE_FLAG, TARGET_LAYER
from nh2st._results import Kind, check_replaceable, editable, make_room, scatter_rows, write_record
from nh2st._sections import Data, Selection, Spots, find_spots, tables_of
from nh2st._space import smoothing_window


@documented
def normalize(
    data: Data,
    *,
    target: Literal["default", "paper"] = "default",
    genes: Sequence[str] | None = None,
    key_added: str = TARGET_LAYER,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    overwrite: bool = False,
    layer: str | None = None,
    table_key: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Normalise counts as the network's target is.

    Parameters
    ----------
    %(data)s
    target
        ``"default"``: natural ``log1p`` of counts scaled to 10,000 over all genes of the table, as by scanpy.
        ``"paper"``: counts of the panel scaled to 10,000, ``log10(1 + x)``, then the mean over the spots of the 3 x 3
        array window, self included (self and the six neighbours on hexagonal arrays).
    genes
        Panel of the ``"paper"`` target; the genes marked by :func:`nh2st.pp.select_genes` where absent.
    key_added
        Layer to write.
    %(sections)s
    %(spots)s
    overwrite
        Replace a layer of this name that is not normalised expression of this package, with all that belongs to it.
    %(layer)s
    %(table_key)s
    %(copy)s

    Returns
    -------
    ``None``, or the copy. Written into each table: a sparse float32 layer, nothing in the rows that are not used and,
    for ``"paper"``, in the columns outside the panel; the definition in ``uns["nh2st"][key_added]``.

    Raises
    ------
    ValueError
        If counts are negative, NaN, infinite or log-normalised already, the paper's panel is not known, or something
        else would be replaced.

    References
    ----------
    The ``"paper"`` target is that of NH2ST (arXiv 2506.23827).

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic()
    >>> nh.pp.normalize(sdata)
    >>> sdata["table"].layers["nh2st_target"].dtype
    dtype('float32')
    """
    chosen = Target.named(target)
    data = editable(data, copy)
    found = find_spots(data, Selection(sections, spots, table_key))
    tables = tables_of(found)
    check_replaceable(tables, key_added, Kind.NORMALIZED, overwrite=overwrite)
    panels = [_columns(table, chosen, genes) for table in tables]
    layers = [
        [(section.rows, _values(section, columns, chosen, layer)) for section in found if section.adata is table]
        for table, columns in zip(tables, panels, strict=True)
    ]
    for table, columns, blocks in zip(tables, panels, layers, strict=True):
        values = scatter_rows(blocks, table.n_obs)
        make_room(table, key_added, Kind.NORMALIZED)
        table.layers[key_added] = values if columns is None else values.tocsc()
        record: dict[str, Any] = {"target": chosen.to_dict()}
        if columns is not None:
            record["panel"] = table.var_names[columns].to_numpy(dtype=object)
        write_record(table, key_added, Kind.NORMALIZED, record)
    return data if copy else None


def _columns(adata: AnnData, target: Target, genes: Sequence[str] | None) -> np.ndarray | None:
    """Columns that the target is scaled over, ``None`` for all."""
    if target.scaled_over == "all":
        return None
    if genes is not None:
        return match_panel(adata, check_genes([adata], genes)).columns
    if GENE_FLAG not in adata.var:
        msg = f"The target {target.kind!r} is scaled over a panel: call `nh2st.pp.select_genes` or give `genes=`."
        raise ValueError(msg)
    return np.flatnonzero(adata.var[GENE_FLAG].to_numpy(dtype=bool))


def _values(spots: Spots, columns: np.ndarray | None, target: Target, layer: str | None) -> csr_matrix:
    counts = read_counts(spots, layer)
    values = log_scaled(counts.matrix, columns, target, spots.name)
    if target.smoothed:
        values = csr_matrix(smoothing_window(spots.grid) @ values).astype(np.float32)
    if columns is None:
        return values
    placed = values.tocoo()
    return csr_matrix((placed.data, (placed.row, columns[placed.col])), shape=counts.matrix.shape)
