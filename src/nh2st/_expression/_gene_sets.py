"""Genes over which scores are averaged, chosen on training sections so that no test section has a say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from nh2st._expression._counts import Counts
from nh2st._expression._panel import match_panel
from nh2st._expression._ranking import varies
from nh2st._expression._target import Target, log_scaled
from nh2st._metrics import best_genes, blocks, morans_i, top_size
from nh2st._space import connectivities, default_graph

HIGHLY_VARIABLE, SPATIALLY_VARIABLE = "highly_variable", "spatially_variable"


def gene_sets(counts: Sequence[Counts], panel: Sequence[str]) -> dict[str, list[str]]:
    """Top 50 genes of a panel (a fifth of panels under 250, at least one) in two ways, on these sections alone.

    Parameters
    ----------
    counts
        Those of the training sections, whose tables have all genes of the panel.
    panel
        Genes.

    Returns
    -------
    Two lists of genes, the best first. ``"highly_variable"``: the highest dispersion (variance over mean) of counts
    scaled to 10,000, which is high for genes that are both highly expressed and variable. ``"spatially_variable"``: the
    highest Moran's I over neighbouring spots of the natural ``log1p`` of these. Both are means over sections. Genes
    that are the same in all spots are in neither, so lists may be shorter.
    """
    target = Target.named("default")
    used = [section for section in counts if len(section.rows)]
    columns = [match_panel(section.table, panel).columns for section in used]
    pairs = list(zip(used, columns, strict=True))
    logs = [log_scaled(section.matrix, mine, target, section.name) for section, mine in pairs]
    informative = varies([csr_matrix(section.matrix[:, mine]) for section, mine in pairs])
    scores = {HIGHLY_VARIABLE: _dispersion(logs), SPATIALLY_VARIABLE: _morans_i(used, logs)}
    return {
        name: [panel[gene] for gene in best_genes(np.where(informative, values, np.nan), top_size(len(panel)))]
        for name, values in scores.items()
    }


def _dispersion(logs: Sequence[csr_matrix]) -> np.ndarray:
    """Variance over mean of what the logarithms are of, mean over sections, in which a gene without counts has 0."""
    scores = []
    for log in logs:
        scaled = log.astype(np.float64).expm1()
        mean = np.asarray(scaled.mean(axis=0)).ravel()
        variance = np.asarray(scaled.power(2).mean(axis=0)).ravel() - mean**2
        scores.append(np.divide(variance, mean, out=np.zeros_like(mean), where=mean > 0))
    return np.mean(scores, axis=0)


def _morans_i(sections: Sequence[Counts], logs: Sequence[csr_matrix]) -> np.ndarray:
    """Mean over sections, in which a constant gene has 0; NaN where no section has neighbouring spots."""
    graphs = [connectivities(default_graph(section.grid)) for section in sections]
    scores = [_morans_i_of(csc_matrix(log), graph) for log, graph in zip(logs, graphs, strict=True) if graph.nnz]
    return np.nan_to_num(scores).mean(axis=0) if scores else np.full(logs[0].shape[1], np.nan)


def _morans_i_of(log: csc_matrix, graph: csr_matrix) -> np.ndarray:
    return np.concatenate([morans_i(log[:, columns].toarray(), graph) for columns in blocks(*log.shape)])
