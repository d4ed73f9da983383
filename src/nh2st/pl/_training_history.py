"""Losses and validation score of each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nh2st._docs import documented
from nh2st._keys import TRAINING, UNDEFINED_SCORE
from nh2st._results import Kind, kind_at
from nh2st._sections import Data, Selection, find_spots, records_of, tables_of
from nh2st.pl._figure import ABOVE, BLUE, DARK, GREEN, GREY, ORANGE, check_path, finish, house_style

if TYPE_CHECKING:
    from nh2st.models import Model

_PANEL_INCHES: Final = (2.7, 2.5)
_PANELS: Final = {
    "loss": {"loss": ("total", DARK), "query": ("query", ORANGE), "neighbor": ("neighbour", GREEN)},
    "MSE": {"mse": ("training", BLUE), "val_mse": ("validation", ORANGE)},
    "validation PCC": {"val_pearson": ("mean over genes", BLUE)},
}


@house_style()
@documented
def training_history(
    model: Model | Data,
    *,
    table_key: str | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> np.ndarray | None:
    """Plot losses and validation score of each epoch, and mark the epoch with the best score.

    Of the published network the weights of this epoch are kept. The context network is trained for all epochs, and the
    score is that of the training without the validation spots.

    The loss is the weighted sum of the contrastive losses of the target (query) and of its neighbourhood, and of the
    MSE. The score is the Pearson correlation (PCC) over the validation spots, averaged over genes.

    Parameters
    ----------
    model
        A trained :class:`nh2st.models.Model`, or the data that it was trained on.
    %(table_key)s
    %(figure)s

    Returns
    -------
    Array of axes: loss, MSE and, where there was a validation split, PCC. `None` where the figure was shown.

    Raises
    ------
    ValueError
        If there is no history, or several models were trained on the data.
    %(no_folder)s

    Examples
    --------
    >>> import nh2st as nh
    >>> model = nh.tl.train(sdata)  # doctest: +SKIP
    >>> nh.pl.training_history(model)  # doctest: +SKIP
    """
    path = check_path(save)
    history = _history(model, table_key)
    drawn = {title: lines for title, lines in _PANELS.items() if history.columns.intersection(list(lines)).size}
    size = (_PANEL_INCHES[0] * len(drawn), _PANEL_INCHES[1])
    axes = plt.subplots(1, len(drawn), figsize=size, layout="constrained", squeeze=False)[1][0]
    for ax, (title, lines) in zip(axes, drawn.items(), strict=True):
        _draw_lines(ax, history, lines)
        ax.set(xlabel="epoch", ylabel=title)
    if "val_pearson" in history and history["val_pearson"].notna().any():
        _mark_best(axes, history)
    return finish(axes, path, show)


def _history(model: Model | Data, table_key: str | None) -> pd.DataFrame:
    rows = getattr(model, "history", None)
    history = pd.DataFrame(_recorded(model, table_key) if rows is None else rows)
    if history.empty:
        msg = "There is no history of epochs; `nh.tl.train(sdata)` returns a model that has one."
        raise ValueError(msg)
    scores = history.columns.intersection(["val_pearson"])
    history[scores] = history[scores].replace(UNDEFINED_SCORE, np.nan)
    return history.assign(epoch=history["epoch"] + 1)


def _recorded(data: Data, table_key: str | None) -> dict[str, list[float]]:
    records = {}
    for table in tables_of(find_spots(data, Selection(table_key=table_key))):
        if kind_at(table, TRAINING) is Kind.TRAINING:
            record = records_of(table)[TRAINING]
            records[record["sha256"]] = record["history"]
    if len(records) > 1:
        msg = "Several models were trained on these objects; give one of the models, or one of the objects."
        raise ValueError(msg)
    if not records:
        msg = (
            "No model was trained on this object. Call `nh.tl.train(sdata)` first, or give the model that it returned."
        )
        raise ValueError(msg)
    return next(iter(records.values()))


def _draw_lines(ax: Axes, history: pd.DataFrame, lines: dict[str, tuple[str, str]]) -> None:
    for name, (label, color) in lines.items():
        if name in history:
            ax.plot(history["epoch"], history[name], ".-", ms=4, lw=1.2, color=color, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    ax.legend(ncols=len(lines), **ABOVE)


def _mark_best(axes: np.ndarray, history: pd.DataFrame) -> None:
    best = history.loc[history["val_pearson"].idxmax()]
    for ax in axes:
        ax.axvline(best["epoch"], color=GREY, lw=0.8, ls=":", zorder=1)
    label = f"best: {best['val_pearson']:.3f}, epoch {best['epoch']:.0f}"
    axes[-1].plot(best["epoch"], best["val_pearson"], "o", ms=6, color=ORANGE, label=label, zorder=3)
    axes[-1].legend(*[part[-1:] for part in axes[-1].get_legend_handles_labels()], **ABOVE)
