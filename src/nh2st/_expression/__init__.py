"""From what was measured to what is predicted: counts, panels and targets of tables."""

from __future__ import annotations

from nh2st._expression._choice import RankingMethod, check_genes, check_unique_names, choose_genes
from nh2st._expression._counts import Counts, check_counts, has_counts, read_counts
from nh2st._expression._gene_sets import gene_sets
from nh2st._expression._identifiers import loose, species_of
from nh2st._expression._panel import (
    Found,
    PanelMatch,
    closest_identifiers,
    identifiers_of,
    match_panel,
    place_of,
)
from nh2st._expression._target import Target, log_scaled, target_values

__all__ = [
    "Counts",
    "Found",
    "PanelMatch",
    "RankingMethod",
    "Target",
    "check_counts",
    "check_genes",
    "check_unique_names",
    "choose_genes",
    "closest_identifiers",
    "gene_sets",
    "has_counts",
    "identifiers_of",
    "log_scaled",
    "loose",
    "match_panel",
    "place_of",
    "read_counts",
    "species_of",
    "target_values",
]
