"""Out-of-fold predictions in the tables: every spot by the model that did not see its group."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._estimators import BASELINES, FURTHER_BASELINES
from nh2st._expression import match_panel
from nh2st._keys import NAMESPACE, PREDICTED_SUFFIX
from nh2st._metrics import METRICS
from nh2st._results import check_ours, check_replaceable, write_predictions
from nh2st._sections import NATIVE, Section, resolve_mpp, tables_of
from nh2st.tl._evaluate import MODEL
from nh2st.tl._folds._data import FoldData
from nh2st.tl._folds._split import Fold
from nh2st.tl._folds._store import FoldResult
from nh2st.tl._training._settings import TrainingSettings

_FOLD_SUFFIX = "fold"
_LAYERS = "layers"


def layer_of(key: str, model: str) -> str:
    """Layer of a model's predictions: the key itself for the network, else followed by the name of the baseline."""
    return key if model == MODEL else f"{key}_{re.sub(r'[^a-z0-9]+', '_', model.lower()).strip('_')}"


def check_layers(sections: Sequence[Section], key: str, *, baselines: bool, overwrite: bool) -> None:
    """Refuse to replace what this package did not predict."""
    for table in tables_of(sections):
        for model in (MODEL, *((*BASELINES, *FURTHER_BASELINES.values()) if baselines else ())):
            check_replaceable(table, layer_of(key, model), overwrite=overwrite)
        ours = "folds" in table.uns.get(NAMESPACE, {}).get(key, {})
        check_ours(table, f"{key}_{_FOLD_SUFFIX}", ("obs",), ours=ours, overwrite=overwrite)


def record_folds(
    data: FoldData, key: str, folds: Sequence[Fold], results: Sequence[FoldResult], settings: TrainingSettings
) -> None:
    """Write predictions and how they came about into the sections' tables.

    The layers have the genes of all folds; those that a fold did not choose are NaN for the spots that it tested.
    """
    genes = list(dict.fromkeys(gene for result in results for gene in result.genes))
    for table in tables_of(data.sections):
        _forget(table, key)
        names = match_panel(table, genes).names
        records = table.uns.setdefault(NAMESPACE, {})
        written = []
        for model in results[0].predictions:
            name = layer_of(key, model)
            write_predictions(table, name, _on_all_rows(data, table, folds, results, model, genes), names)
            records[name] = _provenance(data, table, settings, folds) | {"model": model, "genes": names}
            written.append(name)
        if names != genes:
            records[key]["model_genes"] = genes
        records[key] |= {_LAYERS: written, "folds": _describe(folds, results, data)}
        table.obs[f"{key}_{_FOLD_SUFFIX}"] = _fold_of_rows(data, table, folds)


def _places(data: FoldData, table: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Which of all spots are in the table, boolean (n,), and the rows of these."""
    here = [one.adata is table for one in data.sections]
    rows = [one.rows for one, mine in zip(data.sections, here, strict=True) if mine]
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
    return pd.Categorical.from_codes(number, [str(one + 1) for one in range(len(folds))])


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
    mine = [one for one in data.sections if one.adata is table]
    return {
        "package_version": version("nh2st"),
        "target": settings.target_definition.to_dict(),
        "target_description": settings.target_definition.describe(),
        "encoder": settings.encoder,
        "patch_um": NATIVE if settings.mpp == NATIVE else settings.patch_um,
        "patch_px": settings.patch_px,
        "seed": settings.seed,
        "validation": f"out-of-fold predictions of {len(folds)} folds",
        "table_genes": min(one.adata.n_vars for one in data.sections),
        "mpp": {one.region: resolve_mpp(one, settings.mpp) for one in mine},
    }


def _forget(table: AnnData, key: str) -> None:
    """Take away earlier predictions of this name, their baselines and their metrics."""
    records = table.uns.get(NAMESPACE, {})
    for name in map(str, records.get(key, {}).get(_LAYERS, [key])):
        table.layers.pop(name, None)
        table.obsm.pop(name, None)
        records.pop(name, None)
        columns = [f"{name}_{suffix}" for suffix in (PREDICTED_SUFFIX, *METRICS)]
        table.var.drop(columns=columns, errors="ignore", inplace=True)
        for column in columns:
            table.varm.pop(column, None)
