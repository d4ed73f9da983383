"""Values of a gene in a section, as predicted and as measured."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from matplotlib.colors import Normalize

from nh2st._expression import Target, has_counts, read_counts, target_values
from nh2st._metrics import pearson
from nh2st._results import dense_columns, provenance_of
from nh2st._sections import Spots
from nh2st._settings import logger
from nh2st.pl._canvas import Canvas

_PERCENTILES = (1, 99)


@dataclass(frozen=True)
class GeneMaps:
    """One gene in one section: values of the spots at `positions`, those that were predicted."""

    canvas: Canvas
    gene: str
    unit: str
    positions: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray | None

    @property
    def pearson(self) -> float:
        """Correlation over the spots; NaN where it is undefined."""
        if self.measured is None:
            return np.nan
        return float(pearson(self.measured[:, None], self.predicted[:, None])[0])

    def norm(self, vmin: float | None, vmax: float | None) -> Normalize:
        """Colour scale of both maps; extreme spots do not set its ends."""
        both = self.predicted if self.measured is None else np.concatenate([self.measured, self.predicted])
        low, high = np.percentile(both, _PERCENTILES)
        low, high = low if vmin is None else vmin, high if vmax is None else vmax
        return Normalize(low, high if high > low else low + 1)


def check_genes(table: AnnData, key: str, genes: Sequence[str]) -> None:
    """Refuse genes that were not predicted; a sparse layer would give zeros for them.

    Raises
    ------
    KeyError
        If there are no predictions, or a gene is not among them.
    ValueError
        If no gene was given.
    """
    if not genes:
        msg = "No gene was given; name at least one of the model's panel."
        raise ValueError(msg)
    panel = [str(gene) for gene in provenance_of(table, key)["genes"]]
    for gene in genes:
        if gene in panel:
            continue
        by_lower = {name.lower(): name for name in panel}
        close = [by_lower[name] for name in difflib.get_close_matches(gene.lower(), by_lower, n=5)]
        there = "is in the table, but not in the panel of" if gene in table.var_names else "is not among"
        hint = f" Close to it: {', '.join(close)}." if close else ""
        msg = (
            f"Gene {gene!r} was not predicted: it {there} the {len(panel)} genes of the model.{hint} All of them: "
            f"`nh.get.predicted(sdata, {key!r}).var_names`."
        )
        raise KeyError(msg)


def gene_maps(canvas: Canvas, genes: Sequence[str], key: str, layer: str | None, *, smoothed: bool) -> list[GeneMaps]:
    """Maps of the genes over the spots that were predicted; none where no spot was."""
    provenance = provenance_of(canvas.spots.adata, key)
    target = Target.from_dict(dict(provenance["target"]))
    predicted = {gene: _predicted(canvas.spots, key, gene) for gene in genes}
    positions = np.flatnonzero(np.isfinite(list(predicted.values())).all(axis=0))
    if len(positions) == 0:
        return []
    panel = [str(gene) for gene in provenance["genes"]]
    measured = _measured(canvas.spots, panel, target, layer, smoothed=smoothed)
    return [
        GeneMaps(
            canvas,
            gene,
            target.describe(smoothed=False),
            positions,
            predicted[gene][positions],
            measured[gene][positions] if gene in measured else None,
        )
        for gene in genes
    ]


def _predicted(spots: Spots, key: str, gene: str) -> np.ndarray:
    table = spots.adata
    if gene in table.var_names:
        return dense_columns(table, key, spots.rows, [gene])[:, 0].astype(np.float64)
    absent = table.obsm.get(key)
    if absent is None or gene not in absent:
        msg = f"Gene {gene!r} was predicted, but has been removed from the table since. Call `nh.tl.predict` again."
        raise KeyError(msg)
    return absent[gene].to_numpy(dtype=np.float64)[spots.rows]


def _measured(
    spots: Spots, panel: Sequence[str], target: Target, layer: str | None, *, smoothed: bool
) -> dict[str, np.ndarray]:
    """Measured values of the genes that the table has; none where it has no counts."""
    # The whole panel, because some targets are scaled to its sum.
    there = [gene for gene in panel if gene in spots.adata.var_names]
    if not there or (layer is None and not has_counts(spots.adata, spots.rows)):
        logger.info("Section %r has no counts of the panel; predictions are drawn alone.", spots.name)
        return {}
    values = target_values(read_counts(spots, layer), there, target, smoothed=smoothed)
    return dict(zip(there, values.T.astype(np.float64), strict=True))
