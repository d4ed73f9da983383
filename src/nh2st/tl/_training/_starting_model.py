"""The model that training starts from: a new network, or a trained one to be fine-tuned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from nh2st._expression import Counts, check_genes, choose_genes
from nh2st._keys import GENE_FLAG, N_GENES
from nh2st._sections import tables_of
from nh2st._settings import logger
from nh2st.models import Model
from nh2st.models._file import SUFFIX, read_file
from nh2st.tl._compatibility._panel_check import check_panel

if TYPE_CHECKING:
    from nh2st.tl._training._training_data import TrainingData
    from nh2st.tl._training._training_settings import TrainingSettings


def trained_on(encoder_weights: str | Path | None) -> list[str]:
    """Fingerprints of the sections that an encoder was trained on, where it is taken from a model of this package."""
    file = Path(encoder_weights or "")
    if file.suffix != SUFFIX or not file.is_file():
        return []
    try:
        header, _ = read_file(file)
    except ValueError:
        return []
    return [str(known) for known in header.get("provenance", {}).get("fingerprints", [])]


def panel_of(counts: Sequence[Counts], genes: int | Sequence[str] | None) -> list[str]:
    """Genes to predict, chosen on these sections where they are not named."""
    tables = list({id(section.table): section.table for section in counts}.values())
    if genes is None and all(GENE_FLAG in table.var for table in tables):
        return check_genes(tables, _flagged(tables))
    if genes is not None and not isinstance(genes, int | np.integer):
        return check_genes(tables, genes)
    common = set.intersection(*(set(table.var_names) for table in tables))
    return choose_genes(counts, min(N_GENES, len(common)) if genes is None else int(genes))


def _flagged(tables: Sequence[AnnData]) -> list[str]:
    flagged = [table.var_names[table.var[GENE_FLAG].to_numpy(dtype=bool)] for table in tables]
    if any(set(names) != set(flagged[0]) for names in flagged[1:]):
        msg = f"var[{GENE_FLAG!r}] differs between the tables. Call `nh.pp.select_genes` on all, or give `genes=`."
        raise ValueError(msg)
    if not len(flagged[0]):
        msg = f"var[{GENE_FLAG!r}] flags no gene. Call `nh.pp.select_genes`, or give `genes=`."
        raise ValueError(msg)
    logger.info("The panel is the %d genes of var[%r].", len(flagged[0]), GENE_FLAG)
    return list(flagged[0])


def starting_model(
    training: TrainingData, settings: TrainingSettings, genes: int | Sequence[str] | None, source: Model | None
) -> Model:
    """Model that training starts from: an untrained one, or a copy of one that is to be fine-tuned.

    Raises
    ------
    KeyError, ValueError
        If genes are missing, or the settings make no network.
    """
    if source is None:
        return settings.new_model(panel_of(training.counts, genes))
    for table in tables_of(training.sections):
        check_panel(table, source)
    check_genes(tables_of(training.sections), source.genes)
    start = Model(
        network=copy.deepcopy(source.network),
        genes=list(source.genes),
        target=source.target,
        patch_um=source.patch_um,
        baselines=copy.deepcopy(source.baselines),
    )
    if start.network.encoder is not None:
        start.network.encoder.fine_tune(settings.value("fine_tune"))
    return start
