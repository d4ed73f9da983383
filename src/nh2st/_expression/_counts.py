"""The counts that are used, checked where they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from anndata import AnnData
from scipy.sparse import csr_matrix

from nh2st._keys import COUNTS_LAYER
from nh2st._settings import logger
from nh2st._space import SpotGrid

if TYPE_CHECKING:
    from nh2st._sections import Spots

_LARGEST_LOGARITHM = 15.0
"""Just above ``log1p(1e6)``: whole tables of fractions below this are logarithms, not corrected counts."""


@dataclass(frozen=True)
class Counts:
    """Checked counts of the used spots of one section: `matrix` (n, n_vars) over all genes of its table.

    `rows` (n,) are the spots' rows of the table, `grid` is where they lie, `name` that of the section.
    """

    matrix: csr_matrix
    table: AnnData
    rows: np.ndarray
    grid: SpotGrid
    name: str

    def take(self, spots: Spots, positions: np.ndarray) -> Self:
        """Counts of some of the spots, by their positions; `spots` are these, as if the others were masked."""
        return replace(self, matrix=self.matrix[positions], rows=self.rows[positions], grid=spots.grid)


def read_counts(spots: Spots, layer: str | None) -> Counts:
    """Read the counts of a section's spots, and check them as :func:`check_counts` does."""
    matrix = check_counts(spots.adata, layer, spots.rows, name=f"section {spots.name!r}")
    return Counts(matrix, spots.adata, spots.rows, spots.grid, spots.name)


def check_counts(adata: AnnData, layer: str | None, rows: np.ndarray, *, name: str = "the table") -> csr_matrix:
    """Take the counts of some rows over all genes and check them.

    Parameters
    ----------
    adata
        Table.
    layer
        Layer that holds the counts; ``layers["counts"]`` where there is one, else ``X``, where absent.
    rows
        Positions of the rows.
    name
        Name of the section, for messages.

    Returns
    -------
    Sparse matrix (rows, genes).

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If counts are negative, NaN or infinite, or have been log-normalised already.
    """
    key = layer or _default_layer(adata)
    counts = csr_matrix(_matrix(adata, key)[rows])
    where = f"{'X' if key is None else f'layers[{key!r}]'} of {name}"
    if not np.isfinite(counts.data).all():
        bad = np.unique(counts.indices[~np.isfinite(counts.data)])
        msg = f"{where} holds NaN or infinite values in {len(bad)} genes ({_first(adata, bad)}). Remove or fill them."
        raise ValueError(msg)
    if (counts.data < 0).any():
        bad = np.unique(counts.indices[counts.data < 0])
        msg = (
            f"{where} holds negative values in {len(bad)} genes ({_first(adata, bad)}): these are not counts. Name the "
            "layer that holds the counts with `layer=`."
        )
        raise ValueError(msg)
    _check_whole(adata, counts, where, explicit=layer is not None)
    return counts


def has_counts(adata: AnnData, rows: np.ndarray, genes: Sequence[str] | None = None) -> bool:
    """Whether the default counts of some rows hold anything, of the genes where given."""
    key = _default_layer(adata)
    matrix = adata.X if key is None else adata.layers[key]
    if matrix is None:
        return False
    used = matrix[rows]
    return bool(abs(used if genes is None else used[:, adata.var_names.isin(genes)]).sum() > 0)


def _default_layer(adata: AnnData) -> str | None:
    """Layer of the counts where none is named; ``None`` stands for ``X``."""
    return COUNTS_LAYER if COUNTS_LAYER in adata.layers else None


def _matrix(adata: AnnData, key: str | None) -> Any:
    if key is not None and key not in adata.layers:
        msg = f"There is no layer {key!r}; the table has: {', '.join(map(repr, adata.layers)) or 'none'}."
        raise KeyError(msg)
    matrix = adata.X if key is None else adata.layers[key]
    if matrix is None:
        msg = "The table has no X. Name the layer that holds the counts with `layer=`."
        raise ValueError(msg)
    return matrix.compute() if hasattr(matrix, "compute") else matrix


def _check_whole(adata: AnnData, counts: csr_matrix, where: str, *, explicit: bool) -> None:
    """Refuse logarithms and warn of other fractions; a layer named by the user is believed to hold counts."""
    if np.issubdtype(counts.dtype, np.integer) or (counts.data == np.rint(counts.data)).all():
        return
    largest = counts.data.max()
    if not explicit and ("log1p" in adata.uns or largest < _LARGEST_LOGARITHM):
        msg = (
            f"{where} is log-normalised already (fractions up to {largest:.3g}). Counts are needed: name the layer "
            'that holds them, for example `layer="counts"`.'
        )
        raise ValueError(msg)
    logger.warning(
        "%s holds fractions (up to %.4g). They are used as they are, which is right for corrected counts only; name "
        "the layer that holds the counts with `layer=` otherwise.",
        where,
        largest,
    )


def _first(adata: AnnData, genes: np.ndarray) -> str:
    return "first: " + ", ".join(map(repr, adata.var_names[genes[:5]]))
