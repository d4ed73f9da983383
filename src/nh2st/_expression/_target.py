"""What the network learns to predict: the definition of the target, and its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_matrix, diags

from nh2st._expression._counts import Counts
from nh2st._expression._panel import match_panel
from nh2st._keys import TARGET_SUM
from nh2st._settings import logger
from nh2st._space import smoothing_window


@dataclass(frozen=True)
class Target:
    """Definition of a normalised expression: what a model predicts, and the units of its errors.

    Counts of a spot are scaled to a sum, and the logarithm of one more is taken.

    Examples
    --------
    >>> import nh2st as nh
    >>> nh.models.Target.named("default").describe()
    'ln(1 + x), counts per 10,000 of all genes'
    """

    kind: str
    """Name of the definition."""
    scaled_over: Literal["all", "panel"]
    """Genes whose counts are scaled to `target_sum`: all of the table, or the panel."""
    log: Literal["natural", "log10"]
    """Which logarithm is taken."""
    smoothed: bool
    """Whether values are the means over a spot and its neighbours on the array."""
    target_sum: float = TARGET_SUM
    """Sum of the scaled counts of a spot."""

    @classmethod
    def named(cls, target: Target | str) -> Target:
        """Find the target of a name: ``"default"`` or ``"paper"``.

        Raises
        ------
        ValueError
            If there is no such target.
        """
        if isinstance(target, Target):
            return target
        if target not in _TARGETS:
            msg = f"There is no target {target!r}; choose one of {', '.join(map(repr, _TARGETS))}."
            raise ValueError(msg)
        return _TARGETS[target]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Target:
        """Restore what :meth:`to_dict` gave.

        Raises
        ------
        ValueError
            If a field is missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            msg = f"A target has the fields {sorted(names)}, but {sorted(values)} were given."
            raise ValueError(msg)
        return cls(
            kind=str(values["kind"]),
            scaled_over="panel" if values["scaled_over"] == "panel" else "all",
            log="log10" if values["log"] == "log10" else "natural",
            smoothed=bool(values["smoothed"]),
            target_sum=float(values["target_sum"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON and for ``uns``."""
        return asdict(self)

    def describe(self, *, smoothed: bool | None = None) -> str:
        """Text for axes and tables, with the unit."""
        log = "log10(1 + x)" if self.log == "log10" else "ln(1 + x)"
        genes = "panel" if self.scaled_over == "panel" else "all genes"
        text = f"{log}, counts per {self.target_sum:,.0f} of {genes}"
        return text + ", mean of the 3x3 window" if (self.smoothed if smoothed is None else smoothed) else text


_TARGETS = {
    "default": Target("default", "all", "natural", smoothed=False),
    "paper": Target("paper", "panel", "log10", smoothed=True),
}


def target_values(counts: Counts, panel: Sequence[str], target: Target, *, smoothed: bool | None = None) -> np.ndarray:
    """Normalised expression of the panel in one section.

    Parameters
    ----------
    counts
        Counts of the section.
    panel
        Genes, in order.
    target
        Definition.
    smoothed
        Whether the values are averaged over the window of the paper's smoothing; as the target says where absent.

    Returns
    -------
    Array (spots, panel), float32; columns of genes that the table lacks are NaN.
    """
    columns = match_panel(counts.table, panel).columns
    there = columns >= 0
    values = np.full((len(counts.rows), len(columns)), np.nan, dtype=np.float32)
    scaled = log_scaled(counts.matrix, columns[there], target, counts.name).toarray()
    averaged = target.smoothed if smoothed is None else smoothed
    values[:, there] = smoothing_window(counts.grid) @ scaled if averaged else scaled
    return values


def log_scaled(counts: csr_matrix, columns: np.ndarray | None, target: Target, name: str) -> csr_matrix:
    """Scale the counts of the columns (all where absent) to the target sum, and take logarithms; not smoothed."""
    chosen = counts if columns is None else counts[:, columns]
    totals = np.asarray((chosen if target.scaled_over == "panel" else counts).sum(axis=1, dtype=np.float64)).ravel()
    if empty := int((totals == 0).sum()):
        which = "the panel" if target.scaled_over == "panel" else "any gene"
        logger.warning("%d spots of section %r have no count of %s; their values are 0.", empty, name, which)
    factors = np.divide(target.target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    scaled = csr_matrix(diags(factors) @ chosen.astype(np.float64)).log1p()
    return (scaled / np.log(10) if target.log == "log10" else scaled).astype(np.float32)
