"""Correlation of every gene, ranked, beside the baseline."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nh2st._docs import documented
from nh2st._keys import MODEL, PREDICTION, RIDGE_SUFFIX
from nh2st._results import provenance_of
from nh2st._sections import Data, Selection, find_spots, tables_of
from nh2st.pl._figure import ABOVE, BLUE, DARK, GREY, ORANGE, check_path, finish, house_style

_SIZE_INCHES = (5.6, 3.4)
_LABEL_AT, _LABEL_WIDTH, _LABEL_HEIGHT = 0.10, 0.25, 0.055
"""Where the names stand, how wide and how high they are; fractions of the axes."""


@house_style()
@documented
def gene_correlation(
    data: Data,
    *,
    key: str = PREDICTION,
    n_labels: int = 5,
    table_key: str | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Plot the Pearson correlation (PCC) of every gene, ranked, with the ridge baseline of the same genes.

    Parameters
    ----------
    data
        SpatialData or AnnData after :func:`nh2st.tl.evaluate`, or a list or dictionary of them, over which each gene's
        correlation is averaged.
    %(key)s
    n_labels
        How many of the best genes are named.
    %(table_key)s
    %(figure)s

    Returns
    -------
    The axes, or `None` where the figure was shown. Genes whose correlation is undefined are left out.

    Raises
    ------
    KeyError
        If there are no predictions of this name, or they have not been evaluated.
    ValueError
        If no gene has a correlation.
    %(no_folder)s

    Examples
    --------
    >>> import nh2st as nh
    >>> nh.tl.evaluate(sdata)  # doctest: +SKIP
    >>> nh.pl.gene_correlation(sdata)  # doctest: +SKIP
    """
    path = check_path(save)
    scores = _scores(data, key, table_key)
    _, ax = plt.subplots(figsize=_SIZE_INCHES, layout="constrained")
    ranks = np.arange(1, len(scores) + 1)
    ax.axhline(0, color=GREY, lw=0.8, zorder=1)
    if RIDGE_SUFFIX in scores:
        label = f"{RIDGE_SUFFIX}, mean {scores[RIDGE_SUFFIX].mean():.3f}"
        ax.scatter(ranks, scores[RIDGE_SUFFIX], s=10, color=ORANGE, alpha=0.6, lw=0, label=label, zorder=2)
    label = f"{MODEL}, mean {scores[MODEL].mean():.3f}"
    ax.plot(ranks, scores[MODEL], ".-", color=BLUE, ms=4, lw=1, label=label, zorder=3)
    margin = 0.02 * len(ranks)
    ax.set(xlabel="gene, ranked by the model", ylabel="PCC over spots", xlim=(1 - margin, len(ranks) + margin))
    _label_best(ax, scores, n_labels)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], ncols=2, **ABOVE)
    return finish(ax, path, show)


def _scores(data: Data, key: str, table_key: str | None) -> pd.DataFrame:
    """Correlations of the genes, the best first; mean over the tables."""
    columns = {MODEL: f"{key}_pearson", RIDGE_SUFFIX: f"{key}_{RIDGE_SUFFIX}_pearson"}
    found: dict[str, list[pd.Series]] = {name: [] for name in columns}
    for table in tables_of(find_spots(data, Selection(table_key=table_key))):
        provenance_of(table, key)
        if columns[MODEL] not in table.var:
            msg = f"The predictions {key!r} have not been evaluated. Call `nh.tl.evaluate(sdata, {key!r})` first."
            raise KeyError(msg)
        for name, column in columns.items():
            if column in table.var:
                found[name].append(table.var[column])
    means = {name: pd.concat(parts, axis=1).mean(axis=1) for name, parts in found.items() if parts}
    scores = pd.DataFrame(means).dropna(subset=MODEL).sort_values(MODEL, ascending=False, kind="stable")
    if scores.empty:
        msg = f"No gene of {key!r} has a correlation: measured or predicted values do not vary."
        raise ValueError(msg)
    return scores


def _label_best(ax: Axes, scores: pd.DataFrame, n_labels: int) -> None:
    """Name the best genes in a column right of them, above everything that lies there."""
    best = scores[MODEL].iloc[: max(n_labels, 0)]
    start = 1 + _LABEL_AT * len(scores)
    low, _ = ax.get_ylim()
    passed = scores.iloc[int(start) - 1 : int(start + _LABEL_WIDTH * len(scores)) + 1].to_numpy()
    below = np.nanmax(passed, initial=low)
    share = _LABEL_HEIGHT * (len(best) + 0.5)
    top = max((below - share * low) / (1 - share), np.nanmax(scores.to_numpy()) + 0.03 * (below - low))
    ax.set_ylim(low, top)
    for rank, (gene, value) in enumerate(best.items(), start=1):
        height = top - (rank - 0.5) * _LABEL_HEIGHT * (top - low)
        ax.plot([rank, start - 0.01 * len(scores)], [value, height], color=GREY, lw=0.5, zorder=1)
        ax.text(start, height, str(gene), ha="left", va="center", fontsize=8, fontstyle="italic", color=DARK)
