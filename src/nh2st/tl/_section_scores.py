"""Scores of one section: what was measured there, beside what each model predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from nh2st._expression import Counts, Target, log_scaled, match_panel
from nh2st._keys import RAW, SMOOTHED
from nh2st._metrics import Truth, noise_ceiling, score, ssim_windows
from nh2st._sections import Spots
from nh2st._settings import logger
from nh2st._space import connectivities, default_graph, smoothing_window

_LEAST_SPOTS = 3
_LABELS = ["section", "gene", "model", "truth"]


def score_section(
    section: Spots,
    counts: Counts,
    rows: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    panel: Sequence[str],
    target: Target,
    *,
    gene_sets: Mapping[str, Sequence[str]] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score the predictions of several models for the spots of one section, on raw and on smoothed truth.

    Parameters
    ----------
    section
        Spots of the section.
    counts
        Their counts.
    rows
        Positions within the section of the spots that are scored, shape (n,). The truth is smoothed over all spots of
        the section.
    predictions
        Predictions (n, panel) in units of the target, by the name of the model.
    panel
        Genes. Those that the table lacks are left out, counted and named in the log; their predictions do not matter.
    target
        Definition of what was predicted.
    gene_sets
        Genes of the panel that were chosen on training sections, by the name of the set.

    Returns
    -------
    Two frames. One has a row for each model, truth and gene, and the columns ``section``, ``gene``, ``model``,
    ``truth`` and :data:`nh2st._metrics.METRICS`; the other a row for each model and truth, and the columns ``section``,
    ``model``, ``truth`` and the metrics of the section that :func:`nh2st._metrics.score` gives, with
    ``n_genes_missing``.

    Raises
    ------
    KeyError, ValueError
        If there are no valid counts, fewer than three spots, or no gene of the panel.
    """
    columns = _columns(section, panel)
    there = np.flatnonzero(columns >= 0)
    genes = [gene for gene, column in zip(panel, columns, strict=True) if column >= 0]
    truths = _truths(section, counts.matrix, rows, columns[there], target)
    _report_constant(section, genes, truths[RAW].values)
    by_gene, by_section = [], []
    for truth, measured in truths.items():
        for model, values in predictions.items():
            labels = {"section": section.name, "model": model, "truth": truth}
            frame, metrics = score(measured, values[:, there], genes, gene_sets)
            by_gene.append(frame.assign(**labels)[["section", "gene", "model", "truth", *frame.columns[1:]]])
            by_section.append(labels | metrics | {"n_genes_missing": float(len(panel) - len(genes))})
    return pd.concat(by_gene, ignore_index=True), pd.DataFrame(by_section)


def tidy_scores(by_gene: pd.DataFrame, by_section: pd.DataFrame) -> pd.DataFrame:
    """Join the two frames of :func:`score_section`.

    Returns
    -------
    A row for each score, with the columns ``section``, ``gene`` (empty for metrics of the section as a whole),
    ``model``, ``truth``, ``metric`` and ``value``.
    """
    frames = (by_gene, by_section.assign(gene=""))
    return pd.concat([frame.melt(_LABELS, var_name="metric") for frame in frames], ignore_index=True)


def _columns(section: Spots, panel: Sequence[str]) -> np.ndarray:
    """Positions of the genes in the table, -1 where it lacks them."""
    match = match_panel(section.adata, panel)
    if not match.n_found:
        raise ValueError(nothing_in_common(panel, f"the table of section {section.name!r}"))
    if match.missing:
        logger.warning(
            "%d of %d predicted genes are not in the table of section %r (%s); they are left out of all scores.",
            len(match.missing),
            len(panel),
            section.name,
            ", ".join(match.missing[:5]),
        )
    return match.columns


def nothing_in_common(panel: Sequence[str], where: str) -> str:
    """Message for a table that has no gene of the panel."""
    return (
        f"None of the {len(panel)} genes that were predicted (first: {', '.join(map(repr, panel[:5]))}) is in {where}, "
        "so there is nothing to compare them with. Evaluate on the table that was predicted, with all its genes."
    )


def _truths(
    section: Spots, counts: csr_matrix, rows: np.ndarray, columns: np.ndarray, target: Target
) -> dict[str, Truth]:
    if len(rows) < _LEAST_SPOTS:
        msg = f"Section {section.name!r} has {len(rows)} predicted spots; a correlation needs {_LEAST_SPOTS}."
        raise ValueError(msg)
    if not counts.sum():
        msg = (
            f"Section {section.name!r} has no counts, so there is nothing to compare predictions with. Name the layer "
            "that holds them with `layer=`, or the sections that have some with `sections=`."
        )
        raise ValueError(msg)
    measured = log_scaled(counts, columns, target, section.name).toarray()
    smoothed = (smoothing_window(section.grid) @ measured).astype(np.float32)
    # Of its own, not the one that may be stored, so that scores are comparable wherever they were computed.
    graph = csr_matrix(connectivities(default_graph(section.grid))[rows][:, rows])
    near = _windows(section, rows)
    ceiling = _ceiling(csr_matrix(counts[rows]), columns, target)
    return {
        RAW: Truth(measured[rows], graph, near, ceiling),
        SMOOTHED: Truth(smoothed[rows], graph, near),
    }


def _windows(section: Spots, rows: np.ndarray) -> csr_matrix | None:
    """Windows of the structural similarity, where there are array ids that describe the coordinates."""
    lattice, array = section.grid.lattice, section.grid.array
    if lattice is None or array is None:
        return None
    return ssim_windows(array[rows], np.linalg.norm(lattice.matrix, axis=1) / lattice.pitch)


def _ceiling(counts: csr_matrix, columns: np.ndarray, target: Target) -> np.ndarray:
    of_panel = counts[:, columns]
    totals = of_panel if target.scaled_over == "panel" else counts
    others = np.asarray(totals.sum(axis=1, dtype=np.float64) - of_panel.sum(axis=1, dtype=np.float64)).ravel()
    return noise_ceiling(of_panel, others, target.target_sum)


def _report_constant(section: Spots, genes: Sequence[str], measured: np.ndarray) -> None:
    constant = np.flatnonzero(np.ptp(measured, axis=0) == 0)
    if len(constant):
        logger.warning(
            "%d of %d genes do not vary in section %r (%s); their correlation is undefined and left out of means.",
            len(constant),
            len(genes),
            section.name,
            ", ".join(genes[position] for position in constant[:5]),
        )
