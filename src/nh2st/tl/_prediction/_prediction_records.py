"""What is written into the user's objects: predictions, provenance, and which model was trained on what."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._device import InferencePrecision
from nh2st._estimators import Predicted
from nh2st._expression import PanelMatch
from nh2st._keys import RIDGE_SUFFIX, STD_SUFFIX, TRAINING, TRAINING_MEAN_SUFFIX
from nh2st._results import (
    Kind,
    companion_layer,
    dense_columns,
    detach,
    kind_at,
    make_room,
    write_layer,
    write_predictions,
    write_record,
)
from nh2st._sections import Data, Section, fingerprint, objects_of, records_of, region_column, tables_of
from nh2st.models import Model
from nh2st.tl._compatibility._assay import assays_of

_trained: weakref.WeakKeyDictionary[Any, Model] = weakref.WeakKeyDictionary()


def training_provenance(
    sections: Sequence[Section], groups: Sequence[np.ndarray], mpp: Sequence[float | str], **settings: Any
) -> dict[str, Any]:
    """Plain values that say what a model was trained on, and how."""
    return {
        "package_version": version("nh2st"),
        "sections": [section.name for section in sections],
        "fingerprints": [fingerprint(section) for section in sections],
        "groups": sorted({str(name) for labels in groups for name in np.unique(labels.astype(str))}),
        "mpp": [value if isinstance(value, str) else round(value, 6) for value in mpp],
        **assays_of(sections, mpp),
        "spots": [len(section.rows) for section in sections],
        "table_genes": min(section.adata.n_vars for section in sections),
        **settings,
    }


def record_training(data: Data, sections: Sequence[Section], model: Model) -> None:
    """Write provenance into the tables, and remember the model for these objects."""
    for table in tables_of(sections):
        detach(table)
        history = pd.DataFrame(model.history).to_dict("list")
        write_record(table, TRAINING, Kind.TRAINING, model_provenance(model) | {"history": history})
    remember(data, model)


def model_provenance(model: Model) -> dict[str, Any]:
    """The model's part of what is kept in ``uns``: strings, numbers, lists of strings and flat dictionaries."""
    return {
        "package_version": version("nh2st"),
        "model": model.name,
        "sha256": model.sha256,
        "genes": list(model.genes),
        "target": model.target.to_dict(),
        "target_description": model.target.describe(),
        "encoder": model.config.encoder,
        "patch_um": "native" if model.patch_um is None else model.patch_um,
        "patch_px": model.patch_px,
        "seed": model.provenance.get("seed", -1),
        "training_sections": list(model.provenance.get("sections", [])),
        "training_groups": list(model.provenance.get("groups", [])),
        "validation": model.provenance.get("validation", "unknown"),
        "table_genes": model.provenance.get("table_genes", 0),
        "gene_sets": {name: list(genes) for name, genes in model.provenance.get("gene_sets", {}).items()},
    }


def remember(data: Data, model: Model) -> None:
    """Keep which model was trained on these objects, for as long as it lives."""
    for _, value in objects_of(data):
        _trained[value] = model


def recorded_model(data: Data) -> Model | None:
    """Model that was trained on these objects in this session, if there is one.

    Raises
    ------
    ValueError
        If it is not the same for all.
    """
    values = [value for _, value in objects_of(data, images=True)]
    models = {id(model): model for value in values if (model := _trained.get(value)) is not None}
    if len(models) > 1:
        msg = (
            "Which model? None was given, and several were trained on these objects. Pass what `nh.tl.train` returned, "
            'or the file of a saved model: `nh.tl.predict(sdata, "model.safetensors")`.'
        )
        raise ValueError(msg)
    return next(iter(models.values()), None)


def record_predictions(
    sections: Sequence[Section],
    model: Model,
    key: str,
    predicted: Sequence[Predicted],
    scales: Sequence[float | str],
    precision: InferencePrecision,
    matches: Mapping[int, PanelMatch],
) -> None:
    """Write predictions of network and ridge, their standard deviations, training means and provenance into tables.

    `matches` say where the model's genes are in each table, by its id.
    """
    for table in tables_of(sections):
        mine = [number for number, section in enumerate(sections) if section.adata is table]
        regions = [sections[number].region for number in mine]
        rows = [sections[number].rows for number in mine]
        genes = matches[id(table)].names
        earlier = _earlier_results(table, key, model, regions)
        record = records_of(table).get(key, {}) if earlier else {}
        make_room(table, key, Kind.PREDICTIONS)
        _write_layers(table, key, genes, rows, [predicted[number] for number in mine], earlier)
        if model.baselines is not None:
            means = dict(zip(genes, model.baselines.mean.tolist(), strict=True))
            table.var[f"{key}_{TRAINING_MEAN_SUFFIX}"] = [means.get(gene, np.nan) for gene in table.var_names]
        of_regions = {
            "mpp": dict(record.get("mpp", {})) | {sections[number].region: scales[number] for number in mine},
            "precision": dict(record.get("precision", {})) | dict.fromkeys(regions, precision),
        }
        named = {"genes": genes} if genes == model.genes else {"genes": genes, "model_genes": list(model.genes)}
        write_record(table, key, Kind.PREDICTIONS, model_provenance(model) | of_regions | named)


def _write_layers(
    table: AnnData,
    key: str,
    genes: Sequence[str],
    rows: Sequence[np.ndarray],
    predicted: Sequence[Predicted],
    earlier: dict[str, np.ndarray],
) -> None:
    """Write what was predicted beside earlier predictions for other rows."""
    values = [part.mean for part in predicted]
    write_predictions(table, key, _on_all_rows(table, rows, values, earlier.get(key)), genes)
    further = {RIDGE_SUFFIX: [part.ridge for part in predicted], STD_SUFFIX: [part.std for part in predicted]}
    for suffix, parts in further.items():
        name = f"{key}_{suffix}"
        if np.isfinite(earlier.get(name, np.nan)).any() or any(part is not None for part in parts):
            write_layer(table, name, _on_all_rows(table, rows, parts, earlier.get(name)), genes)


def _earlier_results(table: AnnData, key: str, model: Model, regions: Sequence[str]) -> dict[str, np.ndarray]:
    """What the same model predicted before for other regions, on all rows."""
    record = records_of(table).get(key, {})
    if kind_at(table, key) is not Kind.PREDICTIONS or record.get("sha256") != model.sha256:
        return {}
    # In the model's order, as named at the time.
    genes = pd.Index(list(map(str, record["genes"])))
    replaced = region_column(table).isin(regions).to_numpy()
    if replaced.all():
        return {}
    results = {name: np.full((table.n_obs, len(model.genes)), np.nan, dtype=np.float32) for name in _layers(table, key)}
    known = table.var_names.isin(genes)
    positions = genes.get_indexer(table.var_names[known])
    for name, values in results.items():
        values[:, positions] = dense_columns(table, name, np.arange(table.n_obs), table.var_names[known])
    if key in table.obsm:
        absent = genes.get_indexer(table.obsm[key].columns)
        results[key][:, absent] = table.obsm[key].to_numpy()
    for values in results.values():
        values[replaced] = np.nan
    return results


def _layers(table: AnnData, key: str) -> list[str]:
    companions = [companion_layer(table, key, suffix) for suffix in (RIDGE_SUFFIX, STD_SUFFIX)]
    return [name for name in (key, *companions) if name is not None and name in table.layers]


def _on_all_rows(
    table: AnnData, rows: Sequence[np.ndarray], parts: Sequence[np.ndarray | None], earlier: np.ndarray | None
) -> np.ndarray:
    """Values on all rows of the table: those given, else earlier ones, else NaN."""
    if earlier is None and len(rows) == 1 and parts[0] is not None and np.array_equal(rows[0], np.arange(table.n_obs)):
        return parts[0]
    if earlier is None:
        n_genes = next(part.shape[1] for part in parts if part is not None)
        earlier = np.full((table.n_obs, n_genes), np.nan, dtype=np.float32, order="F")
    for mine, part in zip(rows, parts, strict=True):
        earlier[mine] = np.nan if part is None else part
    return earlier
