"""Take results out of the data."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from spatialdata.models import TableModel

from nh2st._docs import documented
from nh2st._keys import NAMESPACE, PREDICTED_SUFFIX, PREDICTION, SPATIAL
from nh2st._results import dense_columns, read_evaluation, record_of_layer
from nh2st._sections import Data, Selection, Spots, find_spots, tables_of

__all__ = ["evaluation", "predicted"]

_ATTRS = {TableModel.REGION_KEY_KEY: "region", TableModel.INSTANCE_KEY: "instance_id"}
"""Columns of region and instance where no table names its own."""


@documented
def predicted(
    data: Data,
    key: str = PREDICTION,
    *,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    table_key: str | None = None,
) -> AnnData:
    """Give the predicted panel as a dense AnnData of its own, for downstream work.

    Parameters
    ----------
    data
        SpatialData or AnnData with predictions, or a list or dictionary of them.
    key
        Name of the predictions (``key_added`` of :func:`nh2st.tl.predict` or :func:`nh2st.tl.cross_validate`), or of a
        layer beside them, such as ``"nh2st_std"``, ``"nh2st_ridge"`` or ``"nh2st_cv_ridge"``.
    sections
        Sections to take; all that were predicted where absent.
    %(spots)s
    %(table_key)s

    Returns
    -------
    AnnData of the predicted spots by the whole panel of the model, in its order. Genes that the table lacks are
    included, but for layers beside the predictions. ``X`` is float32 in the model's target space; ``obs``,
    ``obsm["spatial"]`` and what is known of the genes in ``var`` are copied; provenance is in ``uns["nh2st"]``.

    Regions and instances are those of the table, so that :func:`nh2st.pp.spatial_neighbors` joins no spots of different
    sections. Where several objects are given, a region is named after its object too, as in ``"object.region"``.

    Raises
    ------
    KeyError
        If there are no predictions of this name; those that there are are listed.
    ValueError
        If several objects were predicted with different panels.

    Examples
    --------
    >>> import nh2st as nh
    >>> adata = nh.get.predicted(sdata)  # doctest: +SKIP
    >>> sc.pp.pca(adata)  # doctest: +SKIP
    """
    found = find_spots(data, Selection(sections, spots, table_key))
    parts = [_panel_of(table, key, _sections_in(table, found)) for table in tables_of(found)]
    return parts[0] if len(parts) == 1 else _joined(parts, key, found)


@documented
def evaluation(
    data: Data,
    key: str = PREDICTION,
    *,
    genes: bool = False,
    sections: Iterable[str] | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Give the scores that :func:`nh2st.tl.evaluate` kept, in the table that it returns.

    Parameters
    ----------
    data
        SpatialData or AnnData with evaluated predictions, or a list or dictionary of them.
    %(key)s
    genes
        Give scores of each gene too. Those of the model on raw truth are kept.
    sections
        Sections to take; all that were evaluated where absent.
    %(table_key)s

    Returns
    -------
    Tidy table with the columns ``section``, ``gene`` (empty for metrics of the section as a whole), ``model``,
    ``truth``, ``metric`` and ``value``. For each section, model and truth: the mean over genes of every metric of
    :func:`nh2st.tl.evaluate` under its name, and what is given for sections alone, such as ``pearson_median``,
    ``pearson_highly_variable``, ``pearson_of_ceiling``, ``svg_overlap``, ``gene_correlation`` and
    ``n_genes_undefined``.

    Raises
    ------
    KeyError
        If there are no predictions of this name, or they have not been evaluated.

    Examples
    --------
    >>> import nh2st as nh
    >>> scores = nh.get.evaluation(sdata)  # doctest: +SKIP
    >>> scores.pivot_table(index="metric", columns=["model", "truth"], values="value")  # doctest: +SKIP
    """
    found = find_spots(data, Selection(sections, table_key=table_key))
    return pd.concat(
        [read_evaluation(table, key, _sections_in(table, found), genes=genes) for table in tables_of(found)],
        ignore_index=True,
    )


def _sections_in(table: AnnData, found: Sequence[Spots]) -> list[Spots]:
    return [section for section in found if section.adata is table]


def _panel_of(table: AnnData, key: str, sections: Sequence[Spots]) -> AnnData:
    """Predicted spots of one table, with the regions that they are in."""
    name, record = record_of_layer(table, key)
    genes = pd.Index(list(map(str, record["genes"])))
    known = genes.isin(table.var_names)
    if name != key:
        # What the table lacks is kept for the predictions alone, not for the layers beside them.
        genes, known = genes[known], known[known]
    rows = np.sort(np.concatenate([section.rows for section in sections]))
    values = np.empty((len(rows), len(genes)), dtype=np.float32)
    values[:, known] = dense_columns(table, key, rows, genes[known])
    if not known.all():
        values[:, ~known] = table.obsm[key][genes[~known]].to_numpy()[rows]
    there = np.isfinite(values).any(axis=1)
    obs = table.obs.iloc[rows[there]].copy()
    obsm = {SPATIAL: np.asarray(table.obsm[SPATIAL])[rows[there]]} if SPATIAL in table.obsm else {}
    uns: dict[str, Any] = {NAMESPACE: {key: copy.deepcopy(record)}}
    attrs = table.uns.get(TableModel.ATTRS_KEY)
    if attrs and attrs.get(TableModel.REGION_KEY_KEY) in obs:
        uns[TableModel.ATTRS_KEY] = _annotate(obs, attrs, obs[attrs[TableModel.REGION_KEY_KEY]])
    return AnnData(X=values[there], obs=obs, var=_var_of(table, genes, name), obsm=obsm, uns=uns)


def _annotate(obs: pd.DataFrame, attrs: Mapping[str, Any], regions: Iterable[str]) -> dict[str, Any]:
    """Write the region of each row; what a table then says of the elements that it annotates."""
    labels = pd.Categorical([str(region) for region in regions])
    obs[attrs[TableModel.REGION_KEY_KEY]] = labels
    return {**attrs, TableModel.REGION_KEY: labels.categories.tolist()}


def _joined(parts: Sequence[AnnData], key: str, found: Sequence[Spots]) -> AnnData:
    """Parts of several objects, with regions named after their objects, as these may name theirs alike."""
    from anndata import concat

    if any(list(part.var_names) != list(parts[0].var_names) for part in parts[1:]):
        msg = f"The objects were predicted with different panels under {key!r}; take them one by one."
        raise ValueError(msg)
    sections = [_sections_in(table, found) for table in tables_of(found)]
    objects = [str(members[0].object_key) for members in sections]
    joined = concat(dict(zip(objects, parts, strict=True)), index_unique="-", merge="same", uns_merge="first")
    attrs = _ATTRS | joined.uns.get(TableModel.ATTRS_KEY, {})
    regions = [name for part, members in zip(parts, sections, strict=True) for name in _section_names(part, members)]
    joined.obs[attrs[TableModel.INSTANCE_KEY]] = pd.concat([_instances(part) for part in parts]).to_numpy()
    joined.uns[TableModel.ATTRS_KEY] = _annotate(joined.obs, attrs, regions)
    return joined


def _section_names(part: AnnData, sections: Sequence[Spots]) -> Iterable[str]:
    """Name of the section of each row."""
    if TableModel.ATTRS_KEY not in part.uns:
        return [sections[0].name] * part.n_obs
    regions = part.obs[part.uns[TableModel.ATTRS_KEY][TableModel.REGION_KEY_KEY]]
    return regions.map({section.region: section.name for section in sections})


def _instances(part: AnnData) -> pd.Series:
    """Instance of each row, its number where the table annotates nothing."""
    column = part.uns.get(TableModel.ATTRS_KEY, {}).get(TableModel.INSTANCE_KEY)
    return part.obs[column] if column in part.obs else pd.Series(range(part.n_obs))


def _var_of(table: AnnData, genes: pd.Index, key: str) -> pd.DataFrame:
    """What the table knows of the genes; for those that it lacks, False, an empty string or NaN."""
    var = table.var.drop(columns=f"{key}_{PREDICTED_SUFFIX}", errors="ignore")
    known = var.reindex(genes)
    for name, dtype in var.dtypes.items():
        if pd.api.types.is_bool_dtype(dtype):
            known[name] = known[name].eq(True)
        elif pd.api.types.is_object_dtype(dtype):
            known[name] = known[name].fillna("")
    return known
