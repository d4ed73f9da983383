from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, random_array
from spatialdata import SpatialData, read_zarr
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity

import nh2st as nh

mpl.use("Agg")

SIDE = 60
N_GENES = 10_000
N_SPOTS = SIDE**2
DENSE_BYTES = 4 * N_SPOTS * N_GENES
MASKED = 7


@pytest.fixture
def sdata(make_sdata) -> SpatialData:
    """Many spots close together, with many genes beside those of the panel."""
    sdata = make_sdata(("A",), side=6)
    rng = np.random.default_rng(0)
    place = rng.permutation(N_SPOTS)
    row, column = np.divmod(np.arange(N_SPOTS), SIDE)
    small = sdata["table"]
    names = [f"other{number}" for number in range(N_GENES - 8)]
    order = rng.permutation([*small.var_names, *names])
    counts = random_array(
        (N_SPOTS, N_GENES), density=0.002, rng=rng, data_sampler=lambda size: rng.integers(1, 9, size)
    )
    table = ad.AnnData(
        csr_matrix(counts, dtype=np.float32),
        obs=pd.DataFrame(
            {
                "region": pd.Categorical(["A"] * N_SPOTS),
                "instance_id": place,
                "array_row": row[place],
                "array_col": column[place],
                "in_tissue": place % MASKED != 0,
            },
            index=[f"bin{number}" for number in place],
        ),
        var=pd.DataFrame(index=order),
        uns=dict(small.uns),
    )
    del sdata["table"], sdata["A"]
    centers = 20.0 + 4 * np.column_stack([column, row])
    table.obsm["spatial"] = centers[place]
    sdata["A"] = ShapesModel.parse(centers, geometry=0, radius=2.0, transformations={"A": Identity()})
    sdata["table"] = table
    return sdata


@contextmanager
def memory_below(limit: float) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def columns_of(table: ad.AnnData, genes: list[str]) -> np.ndarray:
    """Predictions of used spots, by hand."""
    layer = table.layers["nh2st"].toarray()
    return layer[np.ix_(table.obs["in_tissue"], table.var_names.get_indexer(genes))]


def test_no_array_of_all_genes_is_made(sdata, model):
    with memory_below(DENSE_BYTES / 4):
        nh.tl.predict(sdata, model)
    table = sdata["table"]
    for name in ("nh2st", "nh2st_ridge"):
        layer = table.layers[name]
        assert layer.format == "csc"
        assert layer.indices.dtype == layer.indptr.dtype == np.int32
        filled = np.isin(table.var_names, model.genes)
        np.testing.assert_array_equal(np.diff(layer.indptr), N_SPOTS * filled)
        values = layer[:, filled].toarray()
        np.testing.assert_array_equal(np.isfinite(values), np.tile(table.obs[["in_tissue"]], len(model.genes)))


def test_layers_are_read_and_written_without_such_an_array(sdata, model, tmp_path, by_gene):
    nh.tl.predict(sdata, model, baselines=False)
    table, used = sdata["table"], sdata["table"].obs["in_tissue"].to_numpy()
    expected = columns_of(table, model.genes)
    with memory_below(DENSE_BYTES / 4):
        taken = nh.get.predicted(sdata)
    np.testing.assert_array_equal(taken.X, expected)
    assert list(taken.obs_names) == list(table.obs_names[used])

    with memory_below(DENSE_BYTES / 4):
        frame = nh.tl.evaluate(sdata)
    frame = by_gene(frame)
    found = frame[(frame["model"] == "model") & (frame["truth"] == "raw")].set_index("gene")["pearson"]
    counts = table.X[used].toarray()
    scaled = np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    for gene, values in zip(model.genes, expected.T, strict=True):
        measured = scaled[:, table.var_names.get_loc(gene)]
        assert found[gene] == pytest.approx(np.corrcoef(measured, values)[0, 1], abs=1e-4)

    with memory_below(DENSE_BYTES / 4):
        nh.pl.spatial_genes(sdata, ["gene3"], show=False)
    sdata.write(tmp_path / "bins.zarr")
    again = read_zarr(tmp_path / "bins.zarr")
    np.testing.assert_array_equal(columns_of(again["table"], model.genes), expected)
