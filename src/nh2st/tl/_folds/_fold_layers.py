"""Out-of-fold predictions in the tables: every spot by the model that did not see its group."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._expression import match_panel
from nh2st._results import (
    FOLD_SUFFIX,
    MEMBERS,
    OUT_OF_FOLD,
    Kind,
    check_replaceable,
    make_room,
    records_of,
    write_predictions,
    write_record,
)
from nh2st._sections import NATIVE, Section, resolve_mpp, tables_of
from nh2st.tl._baselines import BASELINES
from nh2st.tl._evaluate import MODEL
from nh2st.tl._folds._data import Bench
from nh2st.tl._folds._run import LINEAR_HEAD
from nh2st.tl._folds._split import Fold
from nh2st.tl._folds._store import FoldResult
from nh2st.tl._training._settings import Recipe


def layer_of(key: str, model: str) -> str:
    """Layer of a model's predictions: the key itself for the network, else followed by the name of the baseline."""
    return key if model == MODEL else f"{key}_{re.sub(r'[^a-z0-9]+', '_', model.lower()).strip('_')}"


def check_layers(sections: Sequence[Section], key: str, *, baselines: bool, overwrite: bool) -> None:
    """Refuse to replace what this package did not predict by cross-validation."""
    tables = tables_of(sections)
    for model in (MODEL, *((*BASELINES, LINEAR_HEAD) if baselines else ())):
        check_replaceable(tables, layer_of(key, model), _kind_of(model), overwrite=overwrite)


def _kind_of(model: str) -> Kind:
    return Kind.FOLDS if model == MODEL else Kind.FOLDS_BASELINE


def record_folds(bench: Bench, key: str, folds: Sequence[Fold], results: Sequence[FoldResult], recipe: Recipe) -> None:
    """Write predictions and how they came about into the sections' tables.

    The layers have the genes of all folds; those that a fold did not choose are NaN for the spots that it tested.
    """
    genes = list(dict.fromkeys(gene for result in results for gene in result.genes))
    models = list(results[0].predictions)
    for table in tables_of(bench.sections):
        names = match_panel(table, genes).names
        provenance = _provenance(bench, table, recipe, folds) | {"genes": names}
        for model in models:
            name = layer_of(key, model)
            make_room(table, name, _kind_of(model))
            write_predictions(table, name, _on_all_rows(bench, table, folds, results, model, genes), names)
            write_record(table, name, _kind_of(model), provenance | {"model": model})
        if names != genes:
            records_of(table)[key]["model_genes"] = genes
        written = [layer_of(key, model) for model in models]
        records_of(table)[key] |= {MEMBERS: written, "folds": _describe(folds, results, bench)}
        table.obs[f"{key}_{FOLD_SUFFIX}"] = _fold_of_rows(bench, table, folds)


def _places(bench: Bench, table: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Which of all spots are in the table, boolean (n,), and the rows of these."""
    here = [section.adata is table for section in bench.sections]
    rows = [section.rows for section, mine in zip(bench.sections, here, strict=True) if mine]
    return np.array(here)[bench.section], np.concatenate(rows)


def _tested(bench: Bench, table: AnnData, folds: Sequence[Fold]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number of each fold, rows of the table that it tests, and which of its test spots, boolean, these are."""
    here, rows = _places(bench, table)
    for number, fold in enumerate(folds):
        yield number, rows[fold.test[here]], here[fold.test]


def _on_all_rows(
    bench: Bench,
    table: AnnData,
    folds: Sequence[Fold],
    results: Sequence[FoldResult],
    model: str,
    genes: list[str],
) -> np.ndarray:
    values = np.full((table.n_obs, len(genes)), np.nan, dtype=np.float32, order="F")
    columns = pd.Index(genes)
    for number, rows, of_fold in _tested(bench, table, folds):
        result = results[number]
        values[np.ix_(rows, columns.get_indexer(result.genes))] = result.predictions[model][of_fold]
    return values


def _fold_of_rows(bench: Bench, table: AnnData, folds: Sequence[Fold]) -> pd.Categorical:
    number = np.full(table.n_obs, -1)
    for fold, rows, _ in _tested(bench, table, folds):
        number[rows] = fold
    return pd.Categorical.from_codes(number, [str(label + 1) for label in range(len(folds))])


def _describe(folds: Sequence[Fold], results: Sequence[FoldResult], bench: Bench) -> dict[str, Any]:
    """For each fold: groups and sections that it tested, its panel and gene sets, and the settings that were chosen."""
    return {
        str(number + 1): {
            "name": fold.name,
            "test_groups": sorted(set(bench.group[fold.test])),
            "test_sections": [section.name for section in bench.members(fold.test)],
            "training_spots": int(fold.training.sum()),
            "genes": result.genes,
            "gene_sets": result.gene_sets,
            **result.choice,
        }
        for number, (fold, result) in enumerate(zip(folds, results, strict=True))
    }


def _provenance(bench: Bench, table: AnnData, recipe: Recipe, folds: Sequence[Fold]) -> dict[str, Any]:
    """What all layers share: plain values that can be stored."""
    mine = [section for section in bench.sections if section.adata is table]
    return {
        "package_version": version("nh2st"),
        "target": recipe.definition.to_dict(),
        "target_description": recipe.definition.describe(),
        "encoder": recipe.encoder,
        "patch_um": NATIVE if recipe.mpp == NATIVE else recipe.patch_um,
        "patch_px": recipe.patch_px,
        "seed": recipe.seed,
        "validation": f"{OUT_OF_FOLD} of {len(folds)} folds",
        "table_genes": min(section.adata.n_vars for section in bench.sections),
        "mpp": {section.region: resolve_mpp(section, recipe.mpp) for section in mine},
    }
