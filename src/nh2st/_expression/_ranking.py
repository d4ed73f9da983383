"""Scores by which genes are ranked: higher ones come first."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix, vstack

from nh2st._expression._counts import Counts
from nh2st._keys import CONNECTIVITIES_SUFFIX, SPATIAL_KEY
from nh2st._space import connectivities, default_graph


def mean_counts(counts: Sequence[csr_matrix]) -> np.ndarray:
    """Mean count over the spots of all sections."""
    totals = sum(np.asarray(matrix.sum(axis=0, dtype=np.float64)).ravel() for matrix in counts)
    return totals / sum(matrix.shape[0] for matrix in counts)


def varies(counts: Sequence[csr_matrix]) -> np.ndarray:
    """Whether a gene has more than one value over the spots of all sections."""
    highest = np.max([matrix.max(axis=0).toarray().ravel() for matrix in counts], axis=0)
    lowest = np.min([matrix.min(axis=0).toarray().ravel() for matrix in counts], axis=0)
    return highest > lowest


def dispersion_ranks(logs: Sequence[csr_matrix], n_genes: int) -> np.ndarray:
    """Rank by scanpy's highly variable genes (``"seurat"`` flavour, sections as batches).

    With several sections genes are ordered by the number of sections in which they are highly variable, then by the
    mean of their normalised dispersions, as scanpy orders them.
    """
    import scanpy as sc

    sections = pd.Categorical(np.repeat([str(i) for i in range(len(logs))], [log.shape[0] for log in logs]))
    obs = pd.DataFrame({"section": sections}, index=[str(row) for row in range(len(sections))])
    adata = AnnData(vstack(logs, format="csr"), obs=obs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = sc.pp.highly_variable_genes(
            adata,
            n_top_genes=n_genes,
            flavor="seurat",
            batch_key="section" if len(logs) > 1 else None,
            inplace=False,
        )
    keys = [key for key in ("highly_variable", "highly_variable_nbatches", "dispersions_norm") if key in found]
    order = np.lexsort([-found[key].astype(float).fillna(-np.inf).to_numpy() for key in reversed(keys)])
    scores = np.empty(len(order))
    scores[order] = -np.arange(len(order))
    return scores


def moran_scores(counts: Sequence[Counts], logs: Sequence[csr_matrix]) -> np.ndarray:
    """Moran's I over the spatial graph, mean over sections; 0 in sections where a gene is constant.

    Raises
    ------
    ValueError
        If no section has neighbouring spots.
    """
    graphs = [_graph(section) for section in counts]
    scores = [_section_morans_i(graph, log) for graph, log in zip(graphs, logs, strict=True) if graph.nnz]
    if not scores:
        msg = "Moran's I needs neighbouring spots, and no section has any. Use `method='mean_count'`."
        raise ValueError(msg)
    return np.mean(scores, axis=0)


def _graph(counts: Counts) -> csr_matrix:
    key = f"{SPATIAL_KEY}_{CONNECTIVITIES_SUFFIX}"
    if key in counts.table.obsp:
        return csr_matrix(counts.table.obsp[key][counts.rows][:, counts.rows])
    return connectivities(default_graph(counts.grid))


def _section_morans_i(graph: csr_matrix, log: csr_matrix) -> np.ndarray:
    import scanpy as sc

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*constant")
        values = sc.metrics.morans_i(graph.astype(np.float64), log.T.tocsr().astype(np.float64))
    return np.nan_to_num(values)
