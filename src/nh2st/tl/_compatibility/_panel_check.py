"""Whether the genes of a table are those of a model."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from anndata import AnnData

from nh2st._expression import (
    Found,
    PanelMatch,
    closest_identifiers,
    identifiers_of,
    loose,
    match_panel,
    place_of,
    species_of,
)
from nh2st._settings import logger
from nh2st.models import Model

_LEAST_OVERLAP = 0.1
_EXAMPLES = 3


def check_panel(table: AnnData, model: Model) -> PanelMatch:
    """Find the model's genes in the table, and say in the log what was not found as it is written.

    Raises
    ------
    ValueError
        If the table has fewer than a tenth of them.
    """
    match = match_panel(table, model.genes)
    near = closest_identifiers(table, match.genes, match.columns, loose) if match.missing else None
    if near is not None and match.n_found < _LEAST_OVERLAP * len(match.genes):
        raise ValueError(_another_panel(table, match, near))
    _report(match, near)
    return match


def _another_panel(table: AnnData, match: PanelMatch, near: Found) -> str:
    names = table.var_names
    found = (
        f"Only {match.n_found} of the model's {len(match.genes)} genes ({', '.join(match.genes[:3])}, ...) are in the "
        f"table ({', '.join(names[:3])}, ...)"
    )
    spelled = match.n_found + len(near.positions) >= _LEAST_OVERLAP * len(match.genes)
    if spelled:
        found += f", and {len(near.positions)} in another spelling ({_pairs(near, near.positions)})"
    if species := _species(table, match):
        return f"{found}. This is another species: {species}. Choose a model that was trained on the species."
    if spelled:
        return f"{found}. Rename them in {place_of(near.source)} where they are the same genes."
    return (
        f"{found}: another species, or other gene identifiers? Rename `var_names`, add the model's identifiers as a "
        "column of `var`, or choose a model that fits."
    )


def _species(table: AnnData, match: PanelMatch) -> str | None:
    """What tells that the table is of another species, going by identifiers of the same kind; else None."""
    trained = species_of(match.genes)
    if trained is None:
        return None
    # A column of text that says the same of most genes is no identifier.
    named = [values for _, values in identifiers_of(table) if values.nunique() > len(values) / 2]
    given = {kind: values[0] for values in named if (kind := species_of(values))}
    other = [kind for kind in given if kind.split()[-1] == trained.split()[-1]]
    if not other or trained in other:
        return None
    return f"the model has {trained} ({match.genes[0]!r}), the table {other[0]} ({given[other[0]]!r})"


def _report(match: PanelMatch, near: Found | None) -> None:
    if match.other is not None and match.other.positions:
        logger.info(
            "%d genes of the model are found by %s, %d of them with another version of the Ensembl id.",
            len(match.other.positions),
            place_of(match.other.source),
            match.other_versions,
        )
    if match.other is not None and match.other.ambiguous:
        logger.warning(
            "%d genes of the model fit several genes of %s, or one together, and are taken as missing: %s.",
            len(match.other.ambiguous),
            place_of(match.other.source),
            ", ".join(map(repr, match.other.ambiguous[:_EXAMPLES])),
        )
    if near is not None and near.positions:
        _report_spelling(near)


def _report_spelling(near: Found) -> None:
    case = [gene for gene, at in near.positions.items() if near.values[at].casefold() == gene.casefold()]
    rest = [gene for gene in near.positions if gene not in case]
    kinds = [
        f"{len(genes)} {how} ({_pairs(near, genes)})"
        for genes, how in ((case, "in case"), (rest, "in separators, or as dates made by a spreadsheet"))
        if genes
    ]
    logger.warning(
        "Genes that are not in the table as the model names them, but in another spelling: %s. Rename them in %s where "
        "they are the same genes.",
        ", ".join(kinds),
        place_of(near.source),
    )


def _pairs(near: Found, genes: Iterable[str]) -> str:
    """Examples of the model's and the table's names."""
    return ", ".join(f"{gene!r} is {near.values[near.positions[gene]]!r}" for gene in islice(genes, _EXAMPLES))
