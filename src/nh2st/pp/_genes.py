"""The panel: the genes that are predicted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from nh2st._identifiers import loose
from nh2st._keys import GENE_FLAG, N_GENES
from nh2st._panel import match_panel, place_of
from nh2st._sections import Data, Spots, find_spots, tables_of
from nh2st._settings import logger
from nh2st.pp import _rank
from nh2st.pp._counts import check_counts
from nh2st.pp._target import Target, log_scaled
from nh2st.pp._write import editable

Method: TypeAlias = Literal["mean_count", "highly_variable", "moran"]

_METHODS = {
    "mean_count": "highest mean count",
    "highly_variable": "highest dispersion",
    "moran": "highest Moran's I",
}


def select_genes(
    data: Data,
    n_genes: int = N_GENES,
    *,
    method: Method = "mean_count",
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    table_key: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Mark the genes that are to be predicted.

    Only genes that all tables have are chosen. Genes that are the same in all spots come last. To choose them without
    looking at test sections, name the training sections.

    Parameters
    ----------
    data
        SpatialData or AnnData, or a list or dictionary of them.
    n_genes
        Number of genes.
    method
        ``"mean_count"``: the highest mean count over all spots, as in the paper. ``"highly_variable"``: scanpy's highly
        variable genes (``"seurat"`` flavour, sections as batches). ``"moran"``: the highest Moran's I over the spatial
        graph, mean over sections. The latter two on natural ``log1p`` of counts scaled to 10,000.
    genes
        The genes themselves, in which case `n_genes` and `method` do not matter; named as in ``var_names``, or as in
        another column of ``var``, such as ``gene_ids``.
    layer
        Layer that holds the counts; ``layers["counts"]`` where there is one, else ``X``, where absent.
    sections
        Sections on which the genes are chosen; all where absent.
    spots
        Boolean column of ``obs`` that says which spots are used; ``in_tissue`` where absent.
    table_key
        Which table to use where several fit.
    copy
        Return a copy instead of writing into the AnnData given.

    Returns
    -------
    ``None``, or the copy. Written into each table: ``var["nh2st_gene"]``, boolean.

    Raises
    ------
    KeyError
        If genes were named that a table lacks.
    ValueError
        If more genes are asked for than the tables have in common, gene names repeat, or counts are not valid.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic()
    >>> nh.pp.select_genes(sdata, 10)
    >>> int(sdata["table"].var["nh2st_gene"].sum())
    10
    """
    data = editable(data, copy)
    chosen = find_spots(data, sections=sections, spots=spots, table_key=table_key)
    everywhere = chosen if sections is None else find_spots(data, spots=spots, table_key=table_key)
    panel = choose_genes(chosen, n_genes, method, genes, layer)
    for table in tables_of(everywhere):
        table.var[GENE_FLAG] = table.var_names.isin(match_panel(table, panel).names)
    return data if copy else None


def choose_genes(
    spots: Sequence[Spots],
    n_genes: int = N_GENES,
    method: Method = "mean_count",
    genes: Sequence[str] | None = None,
    layer: str | None = None,
) -> list[str]:
    """Names of the genes that :func:`select_genes` marks, best first; nothing is written."""
    tables = tables_of(spots)
    names = [_unique_names(table) for table in tables]
    if genes is not None:
        return check_genes(tables, genes)
    if method not in _METHODS:
        msg = f"There is no method {method!r}; choose one of {', '.join(map(repr, _METHODS))}, or give `genes=`."
        raise ValueError(msg)
    common = _common(names)
    if not 0 < n_genes <= len(common):
        msg = f"{n_genes} genes were asked for, but the tables have {len(common)} in common. Ask for fewer."
        raise ValueError(msg)
    scores, informative = _scores(spots, common, n_genes, method, layer)
    order = np.lexsort([-scores, ~informative])[:n_genes]
    if constant := int((~informative[order]).sum()):
        logger.warning("%d of the %d genes chosen are the same in all spots; ask for fewer genes.", constant, n_genes)
    logger.info("%d genes with the %s were chosen on %d sections.", n_genes, _METHODS[method], len(spots))
    return common[order].tolist()


def check_genes(tables: Sequence[AnnData], genes: Sequence[str]) -> list[str]:
    """Drop repetitions, and make sure that all tables have the genes, by ``var_names`` or another column of ``var``.

    Raises
    ------
    KeyError
        If a table lacks some, with the names that are close.
    ValueError
        If none was given.
    """
    panel = list(dict.fromkeys([genes] if isinstance(genes, str) else map(str, genes)))
    if not panel:
        msg = "`genes` is empty: give at least one gene, or leave it out to have genes chosen."
        raise ValueError(msg)
    for table in tables:
        match = match_panel(table, panel)
        if missing := match.missing:
            listed = ", ".join(_with_suggestion(gene, table.var_names) for gene in missing[:10])
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            msg = f"{len(missing)} of {len(panel)} genes are not in the table: {listed}{more}."
            raise KeyError(msg)
        if match.other is not None:
            logger.info("%d of the genes are found by %s.", len(match.other.positions), place_of(match.other.source))
    return panel


def _with_suggestion(gene: str, names: pd.Index) -> str:
    same = [name for name in names if loose(name) == loose(gene)]
    close = same or get_close_matches(gene, list(names), n=2, cutoff=0.75)
    return f"{gene!r} (did you mean {' or '.join(map(repr, close))}?)" if close else repr(gene)


def _unique_names(adata: AnnData) -> pd.Index:
    names = adata.var_names
    if not names.is_unique:
        repeated = names[names.duplicated()].unique()
        examples = ", ".join(map(repr, repeated[:5]))
        msg = f"{len(repeated)} gene names repeat in the table ({examples}). Call `adata.var_names_make_unique()`."
        raise ValueError(msg)
    return names


def _common(names: Sequence[pd.Index]) -> pd.Index:
    """Genes of all tables, in the order of the first."""
    common = names[0]
    for other in names[1:]:
        common = common[common.isin(other)]
    dropped = len(set().union(*names)) - len(common)
    if dropped:
        logger.info("%d genes that not all tables have are left out; %d are common.", dropped, len(common))
    return common


def _scores(
    spots: Sequence[Spots], common: pd.Index, n_genes: int, method: Method, layer: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Score of each gene, and whether it varies at all."""
    spots = [one for one in spots if len(one.rows)]
    if not spots:
        msg = "No spot is used: all are masked. Choose others with `spots=` and a boolean column of obs."
        raise ValueError(msg)
    counts = [check_counts(one.adata, layer, one.rows, name=f"section {one.name!r}") for one in spots]
    columns = [one.adata.var_names.get_indexer(common) for one in spots]
    chosen: list[csr_matrix] = [one[:, column] for one, column in zip(counts, columns, strict=True)]
    informative = _rank.varies(chosen)
    if method == "mean_count":
        return _rank.mean_counts(chosen), informative
    target = Target.named("default")
    logs = [
        log_scaled(one, column, target, section.name)
        for one, column, section in zip(counts, columns, spots, strict=True)
    ]
    if method == "highly_variable":
        return _rank.dispersion_ranks(logs, n_genes), informative
    return _rank.morans_i(spots, logs), informative
