"""Out-of-fold predictions in the tables: every spot by the model that did not see its group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._estimators import BASELINE_TITLES
from nh2st._expression import match_panel
from nh2st._keys import MODEL
from nh2st._results import (
    FOLD_SUFFIX,
    MEMBERS,
    OUT_OF_FOLD,
    Kind,
    check_replaceable,
    make_room,
    write_predictions,
    write_record,
)
from nh2st._sections import NATIVE, Section, records_of, resolve_mpp, tables_of
from nh2st.tl._folds._fold_data import FoldData
from nh2st.tl._folds._split import Fold
from nh2st.tl._folds._store import FoldResult
from nh2st.tl._training._training_settings import TrainingSettings


def layer_of(key: str, model: str) -> str:
    """Layer of a model's predictions: the key itself for the network, else followed by the name of the baseline."""
    return key if model == MODEL else f"{key}_{model}"


def check_layers(sections: Sequence[Section], key: str, *, baselines: bool, overwrite: bool) -> None:
    """Refuse to replace what this package did not predict by cross-validation."""
    tables = tables_of(sections)
    for model in (MODEL, *(BASELINE_TITLES if baselines else ())):
        check_replaceable(tables, layer_of(key, model), _kind_of(model), overwrite=overwrite)


def _kind_of(model: str) -> Kind:
    return Kind.FOLDS if model == MODEL else Kind.FOLDS_BASELINE


def record_folds(
    data: FoldData, key: str, folds: Sequence[Fold], results: Sequence[FoldResult], settings: TrainingSettings
) -> None:
    """Write predictions and how they came about into the sections' tables.

    The layers have the genes of all folds; those that a fold did not choose are NaN for the spots that it tested.
    """
    genes = list(dict.fromkeys(gene for result in results for gene in result.genes))
    models = list(results[0].predictions)
    for table in tables_of(data.sections):
        names = match_panel(table, genes).names
        provenance = _provenance(data, table, settings, folds) | {"genes": names}
        for model in models:
            name = layer_of(key, model)
            make_room(table, name, _kind_of(model))
            write_predictions(table, name, _on_all_rows(data, table, folds, results, model, genes), names)
            write_record(table, name, _kind_of(model), provenance | {"model": model})
        if names != genes:
            records_of(table)[key]["model_genes"] = genes
        written = [layer_of(key, model) for model in models]
        records_of(table)[key] |= {MEMBERS: written, "folds": _describe(folds, results, data)}
        table.obs[f"{key}_{FOLD_SUFFIX}"] = _fold_of_rows(data, table, folds)


def _places(data: FoldData, table: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Which of all spots are in the table, boolean (n,), and the rows of these."""
    here = [section.adata is table for section in data.sections]
    rows = [section.rows for section, mine in zip(data.sections, here, strict=True) if mine]
    return np.array(here)[data.section], np.concatenate(rows)


def _tested(data: FoldData, table: AnnData, folds: Sequence[Fold]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number of each fold, rows of the table that it tests, and which of its test spots, boolean, these are."""
    here, rows = _places(data, table)
    for number, fold in enumerate(folds):
        yield number, rows[fold.test[here]], here[fold.test]


def _on_all_rows(
    data: FoldData,
    table: AnnData,
    folds: Sequence[Fold],
    results: Sequence[FoldResult],
    model: str,
    genes: list[str],
) -> np.ndarray:
    values = np.full((table.n_obs, len(genes)), np.nan, dtype=np.float32, order="F")
    columns = pd.Index(genes)
    for number, rows, of_fold in _tested(data, table, folds):
        result = results[number]
        values[np.ix_(rows, columns.get_indexer(result.genes))] = result.predictions[model][of_fold]
    return values


def _fold_of_rows(data: FoldData, table: AnnData, folds: Sequence[Fold]) -> pd.Categorical:
    number = np.full(table.n_obs, -1)
    for fold, rows, _ in _tested(data, table, folds):
        number[rows] = fold
    return pd.Categorical.from_codes(number, [str(label + 1) for label in range(len(folds))])


def _describe(folds: Sequence[Fold], results: Sequence[FoldResult], data: FoldData) -> dict[str, Any]:
    """For each fold: groups and sections that it tested, its panel and gene sets, and the settings that were chosen."""
    return {
        str(number + 1): {
            "name": fold.name,
            "test_groups": sorted(set(data.group[fold.test])),
            "test_sections": [section.name for section in data.members(fold.test).sections],
            "training_spots": int(fold.training.sum()),
            "genes": result.genes,
            "gene_sets": result.gene_sets,
            **result.choice,
        }
        for number, (fold, result) in enumerate(zip(folds, results, strict=True))
    }


def _provenance(data: FoldData, table: AnnData, settings: TrainingSettings, folds: Sequence[Fold]) -> dict[str, Any]:
    """What all layers share: plain values that can be stored."""
    mine = [section for section in data.sections if section.adata is table]
    return {
        "package_version": version("nh2st"),
        "target": settings.target_definition.to_dict(),
        "target_description": settings.target_definition.describe(),
        "encoder": settings.encoder,
        "patch_um": NATIVE if settings.mpp == NATIVE else settings.patch_um,
        "patch_px": settings.patch_px,
        "seed": settings.seed,
        "validation": f"{OUT_OF_FOLD} of {len(folds)} folds",
        "table_genes": min(section.adata.n_vars for section in data.sections),
        "mpp": {section.region: resolve_mpp(section, settings.mpp) for section in mine},
    }
