"""The genes of a panel in a table, whichever identifiers the two use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._expression._identifiers import without_version

_VAR_NAMES = "var_names"


@dataclass(frozen=True)
class Found:
    """Genes that one kind of a table's identifiers holds: their positions in the table.

    `source` is ``"var_names"`` or a column of ``var``; `values` its identifiers. `ambiguous` genes fit several genes of
    the table, or share one, and are not in `positions`.
    """

    source: str
    values: pd.Index
    positions: dict[str, int] = field(default_factory=dict)
    ambiguous: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PanelMatch:
    """Where the genes of a panel are in a table.

    Attributes
    ----------
    genes
        The panel.
    columns
        Position of each gene in the table, shape (n_genes,); -1 where it lacks the gene.
    names
        The table's own name of each gene, the panel's name where it lacks the gene; none repeats.
    other
        How genes were found that the table does not name as the panel does; None where there are none.
    """

    genes: list[str]
    columns: np.ndarray
    names: list[str]
    other: Found | None = None

    @property
    def missing(self) -> list[str]:
        """Genes that the table lacks."""
        return [gene for gene, column in zip(self.genes, self.columns, strict=True) if column < 0]

    @property
    def n_found(self) -> int:
        """Number of genes that the table has."""
        return int((self.columns >= 0).sum())

    @property
    def other_versions(self) -> int:
        """Number of Ensembl ids that were found with another version, or without one."""
        if self.other is None:
            return 0
        return sum(self.other.values[position] != gene for gene, position in self.other.positions.items())


def match_panel(table: AnnData, genes: Iterable[str]) -> PanelMatch:
    """Find the genes in a table, by ``var_names`` or by the column of ``var`` that holds the panel's identifiers.

    A gene that ``var_names`` holds as it is written is taken from there. For the others, ``var_names`` and all columns
    of text are compared without versions of Ensembl ids, and the one that has most of them is used.

    Parameters
    ----------
    table
        Table whose ``var_names`` do not repeat.
    genes
        Panel, without repetitions.
    """
    genes = list(genes)
    columns = table.var_names.get_indexer(genes)
    other = None
    if (columns < 0).any():
        other = closest_identifiers(table, genes, columns, without_version)
        for number, gene in enumerate(genes):
            columns[number] = other.positions.get(gene, columns[number])
    names = [gene if column < 0 else str(table.var_names[column]) for gene, column in zip(genes, columns, strict=True)]
    return PanelMatch(genes, columns, names, other if other and (other.positions or other.ambiguous) else None)


def closest_identifiers(
    table: AnnData, genes: Sequence[str], columns: np.ndarray, simplify: Callable[[str], str]
) -> Found:
    """Identifiers of the table that hold most of the genes whose column is -1, both of them simplified.

    Genes of the table that other genes of the panel have already are disregarded.
    """
    free = np.ones(table.n_vars, dtype=bool)
    free[columns[columns >= 0]] = False
    wanted = defaultdict(list)
    for gene, column in zip(genes, columns, strict=True):
        if column < 0:
            wanted[simplify(gene)].append(gene)
    found = [_find(source, values, free, wanted, simplify) for source, values in identifiers_of(table)]
    return max(found, key=lambda match: (len(match.positions), len(match.ambiguous)))


def _find(
    source: str,
    values: pd.Index,
    free: np.ndarray,
    wanted: dict[str, list[str]],
    simplify: Callable[[str], str],
) -> Found:
    simplified = pd.Index([simplify(value) for value in values], dtype=object)
    places = defaultdict(list)
    for position in np.flatnonzero(simplified.isin(list(wanted)) & free):
        places[simplified[position]].append(int(position))
    found = Found(source, values)
    for name, positions in places.items():
        if len(positions) == len(wanted[name]) == 1:
            found.positions[wanted[name][0]] = positions[0]
        else:
            found.ambiguous.extend(wanted[name])
    return found


def identifiers_of(table: AnnData) -> Iterator[tuple[str, pd.Index]]:
    """Names of the table's genes, and every column of ``var`` that holds text."""
    yield _VAR_NAMES, table.var_names.astype(str)
    for name, values in table.var.items():
        if values.dtype == object or isinstance(values.dtype, pd.CategoricalDtype | pd.StringDtype):
            text = [value if isinstance(value, str) else "" for value in values]
            if any(text):
                yield str(name), pd.Index(text, dtype=object)


def place_of(source: str) -> str:
    """Text for a source of identifiers."""
    return "`var_names`" if source == _VAR_NAMES else f"var[{source!r}]"
