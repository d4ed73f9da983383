"""The choice of the genes that are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._expression._counts import Counts
from nh2st._expression._identifiers import loose
from nh2st._expression._panel import match_panel, place_of
from nh2st._expression._ranking import dispersion_ranks, mean_counts, moran_scores, varies
from nh2st._expression._target import Target, log_scaled
from nh2st._settings import logger

RankingMethod: TypeAlias = Literal["mean_count", "highly_variable", "moran"]

_METHODS = {
    "mean_count": "highest mean count",
    "highly_variable": "highest dispersion",
    "moran": "highest Moran's I",
}


def choose_genes(counts: Sequence[Counts], n_genes: int, method: RankingMethod = "mean_count") -> list[str]:
    """Names of the genes that :func:`nh2st.pp.select_genes` marks, best first; nothing is written."""
    names = [check_unique_names(table) for table in {id(section.table): section.table for section in counts}.values()]
    if method not in _METHODS:
        msg = f"There is no method {method!r}; choose one of {', '.join(map(repr, _METHODS))}, or give `genes=`."
        raise ValueError(msg)
    common = _common(names)
    if not 0 < n_genes <= len(common):
        msg = f"{n_genes} genes were asked for, but the tables have {len(common)} in common. Ask for fewer."
        raise ValueError(msg)
    scores, informative = _scores(counts, common, n_genes, method)
    order = np.lexsort([-scores, ~informative])[:n_genes]
    if constant := int((~informative[order]).sum()):
        logger.warning("%d of the %d genes chosen are the same in all spots; ask for fewer genes.", constant, n_genes)
    logger.info("%d genes with the %s were chosen on %d sections.", n_genes, _METHODS[method], len(counts))
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
        check_unique_names(table)
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


def check_unique_names(adata: AnnData) -> pd.Index:
    """Give the names of a table's genes, which must not repeat."""
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
    counts: Sequence[Counts], common: pd.Index, n_genes: int, method: RankingMethod
) -> tuple[np.ndarray, np.ndarray]:
    """Score of each gene, and whether it varies at all."""
    used = [section for section in counts if len(section.rows)]
    if not used:
        msg = "No spot is used: all are masked. Choose others with `spots=` and a boolean column of obs."
        raise ValueError(msg)
    columns = [section.table.var_names.get_indexer(common) for section in used]
    pairs = list(zip(used, columns, strict=True))
    chosen = [section.matrix[:, mine] for section, mine in pairs]
    informative = varies(chosen)
    if method == "mean_count":
        return mean_counts(chosen), informative
    target = Target.named("default")
    logs = [log_scaled(section.matrix, mine, target, section.name) for section, mine in pairs]
    if method == "highly_variable":
        return dispersion_ranks(logs, n_genes), informative
    return moran_scores(used, logs), informative
