"""What is written into the user's objects: predictions, provenance, and which model was trained on what."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st._device import InferencePrecision
from nh2st._estimators import Predicted
from nh2st._expression import match_panel
from nh2st._keys import NAMESPACE, RIDGE_SUFFIX, STD_SUFFIX, TRAINING, TRAINING_MEAN_SUFFIX
from nh2st._metrics import METRICS
from nh2st._results import dense_columns, write_layer, write_predictions
from nh2st._sections import Data, Section, fingerprint, objects_of, region_column, tables_of
from nh2st.models import Model
from nh2st.tl._compatibility._assay import assays_of

_trained: weakref.WeakKeyDictionary[Any, Model] = weakref.WeakKeyDictionary()


def training_provenance(
    sections: Sequence[Section], groups: Sequence[np.ndarray], mpp: Sequence[float | str], **settings: Any
) -> dict[str, Any]:
    """Plain values that say what a model was trained on, and how."""
    return {
        "package_version": version("nh2st"),
        "sections": [one.name for one in sections],
        "fingerprints": [fingerprint(one) for one in sections],
        "groups": sorted({str(name) for labels in groups for name in np.unique(labels.astype(str))}),
        "mpp": [value if isinstance(value, str) else round(value, 6) for value in mpp],
        **assays_of(sections, mpp),
        "spots": [len(one.rows) for one in sections],
        "table_genes": min(one.adata.n_vars for one in sections),
        **settings,
    }


def record_training(data: Data, sections: Sequence[Section], model: Model) -> None:
    """Write provenance into the tables, and remember the model for these objects."""
    for table in tables_of(sections):
        table.uns.setdefault(NAMESPACE, {})[TRAINING] = model_provenance(model) | {
            "history": pd.DataFrame(model.history).to_dict("list")
        }
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
) -> None:
    """Write predictions of network and ridge, their standard deviations, training means and provenance into tables."""
    for table in tables_of(sections):
        mine = [number for number, one in enumerate(sections) if one.adata is table]
        rows = [sections[number].rows for number in mine]
        values = [predicted[number].mean for number in mine]
        further = {
            f"{key}_{RIDGE_SUFFIX}": [predicted[number].ridge for number in mine],
            f"{key}_{STD_SUFFIX}": [predicted[number].std for number in mine],
        }
        regions = [sections[number].region for number in mine]
        genes = match_panel(table, model.genes).names
        earlier = _earlier_results(table, key, model, regions)
        _forget_evaluation(table, key)
        write_predictions(table, key, _on_all_rows(table, rows, values, earlier.get(key)), genes)
        for name, parts in further.items():
            table.layers.pop(name, None)
            if np.isfinite(earlier.get(name, np.nan)).any() or any(part is not None for part in parts):
                write_layer(table, name, _on_all_rows(table, rows, parts, earlier.get(name)), genes)
        table.var.drop(columns=f"{key}_{TRAINING_MEAN_SUFFIX}", errors="ignore", inplace=True)
        if model.baselines is not None:
            means = dict(zip(genes, model.baselines.mean.tolist(), strict=True))
            table.var[f"{key}_{TRAINING_MEAN_SUFFIX}"] = [means.get(gene, np.nan) for gene in table.var_names]
        records = table.uns.setdefault(NAMESPACE, {})
        mpp, precisions = (dict(records[key].get(name, {})) if earlier else {} for name in ("mpp", "precision"))
        mpp |= {sections[number].region: scales[number] for number in mine}
        precisions |= dict.fromkeys(regions, precision)
        records[key] = model_provenance(model) | {"mpp": mpp, "precision": precisions, "genes": genes}
        if genes != model.genes:
            records[key]["model_genes"] = list(model.genes)


def _earlier_results(table: AnnData, key: str, model: Model, regions: Sequence[str]) -> dict[str, np.ndarray]:
    """What the same model predicted before for other regions, on all rows."""
    record = table.uns.get(NAMESPACE, {}).get(key, {})
    if record.get("sha256") != model.sha256:
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
    return [name for name in (key, f"{key}_{RIDGE_SUFFIX}", f"{key}_{STD_SUFFIX}") if name in table.layers]


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


def _forget_evaluation(table: AnnData, key: str) -> None:
    """Take away the metrics of predictions that are replaced."""
    for name in (*METRICS, f"{RIDGE_SUFFIX}_{METRICS[0]}"):
        table.var.drop(columns=f"{key}_{name}", errors="ignore", inplace=True)
        table.varm.pop(f"{key}_{name}", None)
