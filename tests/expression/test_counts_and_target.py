from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import scanpy as sc
from scipy.sparse import csc_matrix, issparse

import nh2st as nh
from nh2st._expression import Target, check_counts, read_counts, target_values
from nh2st._sections import find_spots


def spots_of(adata):
    return find_spots(adata)[0]


def values_of(adata, panel, target, **smoothing):
    return target_values(read_counts(spots_of(adata), None), panel, Target.named(target), **smoothing)


def scanpy_target(adata):
    other = adata.copy()
    sc.pp.normalize_total(other, target_sum=1e4)
    sc.pp.log1p(other)
    return other.X.toarray()


def paper_target(values, array, panel):
    """Written out spot by spot, as the paper's preprocessing reads."""
    values = np.asarray(values, dtype=float)[:, panel]
    totals = values.sum(axis=1, keepdims=True)
    logs = np.log10(1 + 1e4 * values / np.where(totals == 0, 1, totals))
    return np.array([logs[np.abs(array - place).max(axis=1) <= 1].mean(axis=0) for place in array])


@pytest.fixture
def gridded(make_grid, make_counts):
    adata = make_counts(56)
    spatial = make_grid("square", 7, 8)
    adata.obsm["spatial"] = spatial.obsm["spatial"]
    for key in ("array_row", "array_col"):
        adata.obs[key] = spatial.obs[key].to_numpy()
    return adata


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.toarray(), csc_matrix, lambda x: x.astype(np.int32)])
def test_default_target_equals_scanpy(make_counts, convert):
    adata = make_counts()
    expected = scanpy_target(adata)
    adata.X = convert(adata.X)
    nh.pp.normalize(adata)
    layer = adata.layers["nh2st_target"]
    assert issparse(layer)
    assert layer.dtype == np.float32
    np.testing.assert_allclose(layer.toarray(), expected, rtol=1e-5, atol=1e-6)
    values = values_of(adata, ["G7", "G2"], "default")
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected[:, [7, 2]], rtol=1e-5, atol=1e-6)


def test_paper_target_equals_its_definition(gridded):
    panel = [3, 5, 8]
    expected = paper_target(gridded.X.toarray(), spots_of(gridded).array, panel)
    names = [f"G{i}" for i in panel]
    nh.pp.normalize(gridded, target="paper", genes=names)
    layer = gridded.layers["nh2st_target"]
    assert layer.format == "csc"
    np.testing.assert_allclose(layer[:, panel].toarray(), expected, rtol=1e-5)
    assert layer.nnz == layer[:, panel].nnz
    np.testing.assert_allclose(values_of(gridded, names, "paper"), expected, rtol=1e-5)
    assert gridded.uns["nh2st"]["nh2st_target"]["panel"].tolist() == names


def test_paper_target_uses_the_marked_genes(gridded):
    with pytest.raises(ValueError, match="select_genes"):
        nh.pp.normalize(gridded, target="paper")
    nh.pp.select_genes(gridded, genes=["G3", "G5", "G8"])
    nh.pp.normalize(gridded, target="paper")
    expected = paper_target(gridded.X.toarray(), spots_of(gridded).array, [3, 5, 8])
    np.testing.assert_allclose(gridded.layers["nh2st_target"][:, [3, 5, 8]].toarray(), expected, rtol=1e-5)


def test_smoothing_can_be_chosen(gridded):
    spots = spots_of(gridded)
    plain = values_of(gridded, ["G4"], "default")
    smoothed = values_of(gridded, ["G4"], "default", smoothed=True)
    near = np.abs(spots.array[:, None] - spots.array).max(axis=2) <= 1
    np.testing.assert_allclose(smoothed[:, 0], [plain[row, 0].mean() for row in near], rtol=1e-5)
    rough = values_of(gridded, ["G4", "G5"], "paper", smoothed=False)
    assert rough.std() > values_of(gridded, ["G4", "G5"], "paper").std()


@pytest.mark.parametrize("target", ["default", "paper"])
def test_genes_that_are_missing_are_nan(make_counts, target):
    values = values_of(make_counts(), ["G1", "absent", "G2"], target)
    assert np.isnan(values[:, 1]).all()
    assert np.isfinite(values[:, [0, 2]]).all()


@pytest.mark.parametrize("target", ["default", "paper"])
def test_empty_spots_are_zero_and_counted(make_counts, caplog, target):
    adata = make_counts()
    dense = adata.X.toarray()
    dense[[3, 8]] = 0
    adata.X = dense
    with caplog.at_level(logging.WARNING, logger="nh2st"):
        values = values_of(adata, adata.var_names.tolist(), target, smoothed=False)
    assert (values[[3, 8]] == 0).all()
    assert np.isfinite(values).all()
    assert "2 spots of section 'section' have no count" in caplog.text


def test_rows_that_are_not_used_stay_empty(make_counts):
    adata = make_counts(30, regions=3)
    adata.obs["in_tissue"] = np.arange(30) % 5 > 0
    nh.pp.normalize(adata, sections=["r1"])
    used = (adata.obs["region"] == "r1").to_numpy() & adata.obs["in_tissue"].to_numpy()
    layer = adata.layers["nh2st_target"].toarray()
    assert (layer[~used] == 0).all()
    np.testing.assert_allclose(layer[used], scanpy_target(adata)[used], rtol=1e-5, atol=1e-6)


def test_counts_come_from_the_layer_named_else_from_counts_else_from_x(make_counts):
    adata = make_counts()
    rows = np.arange(adata.n_obs)
    assert (check_counts(adata, None, rows) != adata.X).nnz == 0
    adata.layers["counts"] = adata.X * 2
    assert (check_counts(adata, None, rows) != adata.X * 2).nnz == 0
    adata.layers["other"] = adata.X * 3
    assert (check_counts(adata, "other", rows[5:9]) != adata.X[5:9] * 3).nnz == 0
    with pytest.raises(KeyError, match="no layer 'missing'.*'counts', 'other'"):
        nh.pp.normalize(adata, layer="missing")


@pytest.mark.parametrize(
    ("value", "message"), [(-1.0, "negative values in 1 genes .*'G4'"), (np.nan, "NaN or inf"), (np.inf, "NaN or inf")]
)
@pytest.mark.parametrize("function", [nh.pp.normalize, lambda adata: nh.pp.select_genes(adata, 3)])
def test_invalid_counts_are_refused(make_counts, value, message, function):
    adata = make_counts()
    dense = adata.X.toarray()
    dense[2, 4] = value
    adata.X = dense
    with pytest.raises(ValueError, match=message):
        function(adata)
    assert not adata.layers
    assert "nh2st_gene" not in adata.var


@pytest.mark.parametrize("with_record", [True, False])
def test_log_normalised_values_are_refused(make_counts, with_record):
    adata = make_counts()
    adata.layers["raw"] = adata.X.copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    if not with_record:
        del adata.uns["log1p"]
    with pytest.raises(ValueError, match="log-normalised already.*layer="):
        nh.pp.normalize(adata)
    nh.pp.normalize(adata, layer="raw")


def test_counts_beside_a_logarithm_are_accepted(make_counts):
    adata = make_counts()
    adata.layers["log"] = adata.X.copy()
    sc.pp.log1p(adata, layer="log")
    assert "log1p" in adata.uns
    nh.pp.normalize(adata)


def test_corrected_counts_are_accepted_with_a_warning(make_counts, caplog):
    adata = make_counts()
    adata.X = adata.X * 7.3
    with caplog.at_level(logging.WARNING, logger="nh2st"):
        nh.pp.normalize(adata)
    assert "holds fractions" in caplog.text


def test_layers_of_the_user_are_not_overwritten(make_counts):
    adata = make_counts()
    nh.pp.normalize(adata)
    nh.pp.normalize(adata)
    adata.layers["mine"] = adata.X.copy()
    with pytest.raises(ValueError, match="'mine' already"):
        nh.pp.normalize(adata, key_added="mine")


def test_copy(make_counts):
    adata = make_counts()
    assert "nh2st_target" in nh.pp.normalize(adata, copy=True).layers
    assert not adata.layers
    assert "nh2st" not in adata.uns


def test_written_and_read(make_counts, tmp_path):
    import anndata as ad

    adata = make_counts()
    nh.pp.normalize(adata, target="paper", genes=["G1", "G2"])
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    assert Target.from_dict(read.uns["nh2st"]["nh2st_target"]["target"]) == Target.named("paper")
    assert (read.layers["nh2st_target"] != adata.layers["nh2st_target"]).nnz == 0


@pytest.mark.parametrize("name", ["default", "paper"])
def test_target_is_plain_data(name):
    target = Target.named(name)
    assert Target.from_dict(json.loads(json.dumps(target.to_dict()))) == target
    assert "10,000" in target.describe()
    with pytest.raises(ValueError, match="fields"):
        Target.from_dict({"kind": name})


def test_unknown_target(make_counts):
    with pytest.raises(ValueError, match="'default', 'paper'"):
        nh.pp.normalize(make_counts(), target="papers")
