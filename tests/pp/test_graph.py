from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nh2st as nh

sq = pytest.importorskip("squidpy")


def matrices(adata, key="spatial"):
    return adata.obsp[f"{key}_connectivities"], adata.obsp[f"{key}_distances"]


def assert_equals_squidpy(adata, expected):
    for found, truth in zip(matrices(adata), (expected.connectivities, expected.distances), strict=True):
        assert found.dtype == truth.dtype
        assert found.nnz == truth.nnz
        np.testing.assert_array_equal(found.toarray(), truth.toarray())


@pytest.mark.parametrize(("kind", "n_neighs"), [("square", 4), ("checkerboard", 4), ("hexagonal", 6)])
@pytest.mark.parametrize("jitter", [0.0, 0.05])
@pytest.mark.parametrize("ids", [True, False])
def test_grids_equal_squidpy(make_grid, kind, n_neighs, jitter, ids):
    adata = make_grid(kind, jitter=jitter)
    if not ids:
        del adata.obs
    nh.pp.spatial_neighbors(adata)
    assert_equals_squidpy(adata, sq.gr.spatial_neighbors_grid(adata, n_neighs=n_neighs, copy=True))
    degrees = adata.obsp["spatial_connectivities"].sum(axis=1)
    assert degrees.max() == n_neighs
    parameters = adata.uns["spatial_neighbors"]["params"]
    assert (parameters["coord_type"], parameters["n_neighbors"]) == ("grid", n_neighs)


@pytest.mark.parametrize("n_neighs", [1, 4, 6, 15])
@pytest.mark.parametrize("rows", [30, 300])
def test_nearest_neighbors_equal_squidpy(make_points, n_neighs, rows):
    adata = make_points(np.random.default_rng(1).normal(size=(rows, 2)))
    nh.pp.spatial_neighbors(adata, n_neighs=n_neighs)
    assert_equals_squidpy(adata, sq.gr.spatial_neighbors_knn(adata, n_neighs=n_neighs, copy=True))


def test_nearest_neighbors_of_ties_equal_squidpy(make_grid):
    adata = make_grid("square", 12, 12)
    nh.pp.spatial_neighbors(adata, n_neighs=6, coord_type="generic")
    assert_equals_squidpy(adata, sq.gr.spatial_neighbors_knn(adata, n_neighs=6, copy=True))


def test_default_of_scattered_points_is_six_nearest(make_points):
    adata = make_points(np.random.default_rng(2).uniform(size=(300, 2)))
    nh.pp.spatial_neighbors(adata)
    assert_equals_squidpy(adata, sq.gr.spatial_neighbors_knn(adata, n_neighs=6, copy=True))


@pytest.mark.parametrize("radius", [0.05, 0.2, 10.0])
def test_radius_equals_squidpy(make_points, radius):
    adata = make_points(np.random.default_rng(3).uniform(size=(200, 2)))
    nh.pp.spatial_neighbors(adata, radius=radius)
    expected = sq.gr.spatial_neighbors_radius(adata, radius=radius, copy=True)
    np.testing.assert_array_equal(matrices(adata)[0].toarray(), expected.connectivities.toarray())
    np.testing.assert_allclose(matrices(adata)[1].toarray(), expected.distances.toarray(), rtol=1e-12)


def test_radius_that_equals_the_pitch_reaches_adjacent_spots(make_grid):
    adata = make_grid("square", pitch=3.0)
    nh.pp.spatial_neighbors(adata, radius=3.0)
    expected = sq.gr.spatial_neighbors_radius(adata, radius=3.0, copy=True)
    np.testing.assert_array_equal(matrices(adata)[0].toarray(), expected.connectivities.toarray())


def test_radius_prunes_nearest_neighbors(make_points):
    adata = make_points(np.random.default_rng(4).uniform(size=(100, 2)))
    expected = sq.gr.spatial_neighbors_knn(adata, n_neighs=6, copy=True).distances.toarray()
    nh.pp.spatial_neighbors(adata, n_neighs=6, radius=0.12)
    np.testing.assert_array_equal(matrices(adata)[1].toarray(), np.where(expected <= 0.12, expected, 0))


def test_radius_prunes_grids(make_grid):
    adata = make_grid("square", jitter=0.05)
    nh.pp.spatial_neighbors(adata, coord_type="grid")
    whole = adata.obsp["spatial_connectivities"].toarray()
    nh.pp.spatial_neighbors(adata, coord_type="grid", radius=10.0)
    xy = adata.obsm["spatial"]
    near = np.linalg.norm(xy[:, None] - xy, axis=2) <= 10.0
    np.testing.assert_array_equal(adata.obsp["spatial_connectivities"].toarray(), whole * near)


def test_isolated_spots_have_no_far_neighbors(make_points, caplog):
    xy = np.vstack([np.random.default_rng(5).uniform(size=(100, 2)), [[50.0, 50.0]]])
    adata = make_points(xy)
    with caplog.at_level(logging.INFO, logger="nh2st"):
        nh.pp.spatial_neighbors(adata)
    assert adata.obsp["spatial_connectivities"][100].nnz == 0
    assert adata.obsp["spatial_connectivities"][:100].nnz == 600
    assert "6 edges longer than" in caplog.text


@pytest.mark.parametrize("interleaved", [True, False])
def test_sections_are_not_connected(make_counts, interleaved):
    adata = make_counts(60, regions=3)
    if not interleaved:
        adata = adata[np.argsort(adata.obs["region"].to_numpy(), kind="stable")].copy()
    nh.pp.spatial_neighbors(adata, n_neighs=5)
    expected = sq.gr.spatial_neighbors_knn(adata, n_neighs=5, library_key="region", copy=True)
    assert_equals_squidpy(adata, expected)


def test_masked_spots_are_not_connected(make_grid):
    adata = make_grid("square", 6, 6)
    adata.obs["in_tissue"] = 1
    adata.obs.loc["14", "in_tissue"] = 0
    nh.pp.spatial_neighbors(adata)
    graph = adata.obsp["spatial_connectivities"]
    assert graph[14].nnz == graph[:, 14].nnz == 0
    used = np.delete(np.arange(36), 14)
    expected = sq.gr.spatial_neighbors_grid(adata[used].copy(), n_neighs=4, copy=True)
    np.testing.assert_array_equal(graph[used][:, used].toarray(), expected.connectivities.toarray())


def test_list_of_tables(make_grid):
    square, hexagonal = make_grid("square"), make_grid("hexagonal")
    nh.pp.spatial_neighbors([square, hexagonal])
    assert_equals_squidpy(square, sq.gr.spatial_neighbors_grid(square, n_neighs=4, copy=True))
    assert_equals_squidpy(hexagonal, sq.gr.spatial_neighbors_grid(hexagonal, n_neighs=6, copy=True))


def test_second_call_replaces_the_first(make_grid):
    adata = make_grid("square")
    nh.pp.spatial_neighbors(adata)
    first = adata.obsp["spatial_connectivities"].nnz
    nh.pp.spatial_neighbors(adata, radius=100.0)
    assert adata.obsp["spatial_connectivities"].nnz > first
    assert adata.uns["spatial_neighbors"]["params"]["coord_type"] == "generic"


def test_copy_leaves_the_original(make_grid):
    adata = make_grid("square")
    result = nh.pp.spatial_neighbors(adata, copy=True, key_added="near")
    assert "near_connectivities" in result.obsp
    assert not adata.obsp
    assert "near_neighbors" not in adata.uns


def test_graph_survives_writing(make_counts, tmp_path):
    import anndata as ad

    adata = make_counts(60, regions=2)
    nh.pp.spatial_neighbors(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    assert read.uns["spatial_neighbors"]["params"]["n_neighbors"] == 6
    np.testing.assert_array_equal(matrices(read)[1].toarray(), matrices(adata)[1].toarray())


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("arguments", [{}, {"n_neighs": 6}, {"radius": 1.0}, {"coord_type": "grid"}])
def test_few_spots(make_points, n, arguments):
    adata = make_points(np.zeros((n, 2)))
    nh.pp.spatial_neighbors(adata, **arguments)
    assert adata.obsp["spatial_connectivities"].shape == (n, n)
    assert n > 1 or adata.obsp["spatial_connectivities"].nnz == 0


def test_duplicate_coordinates_are_neighbors(make_points):
    xy = np.random.default_rng(6).uniform(size=(50, 2))
    xy[1] = xy[0]
    adata = make_points(xy)
    nh.pp.spatial_neighbors(adata, n_neighs=3)
    assert_equals_squidpy(adata, sq.gr.spatial_neighbors_knn(adata, n_neighs=3, copy=True))
    assert adata.obsp["spatial_connectivities"][0, 1] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_coordinates_must_be_finite(make_grid, value):
    adata = make_grid("square")
    adata.obsm["spatial"][[3, 5], 0] = value
    with pytest.raises(ValueError, match="2 spots .*NaN or infinite.*'3', '5'"):
        nh.pp.spatial_neighbors(adata)


@pytest.mark.parametrize("arguments", [{"n_neighs": 0}, {"radius": -1.0}, {"radius": np.nan}, {"coord_type": "hex"}])
def test_arguments_are_checked(make_grid, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        nh.pp.spatial_neighbors(make_grid("square"), **arguments)


def test_copy_of_spatialdata_is_refused(make_grid):
    with pytest.raises(TypeError, match="needs an AnnData, not list"):
        nh.pp.spatial_neighbors([make_grid("square")], copy=True)


angles = st.floats(0, 2 * np.pi)
shifts = st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
scales = st.floats(0.1, 100)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(angle=angles, shift=shifts, scale=scales, kind=st.sampled_from(["square", "hexagonal", "scattered"]))
def test_graph_does_not_depend_on_position_direction_or_unit(angle, shift, scale, kind):
    adata = moving(kind)
    nh.pp.spatial_neighbors(adata)
    expected = adata.obsp["spatial_connectivities"].toarray()
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    adata.obsm["spatial"] = scale * adata.obsm["spatial"] @ turn + shift
    nh.pp.spatial_neighbors(adata)
    np.testing.assert_array_equal(adata.obsp["spatial_connectivities"].toarray(), expected)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(["square", "hexagonal", "scattered"]))
def test_graph_follows_the_order_of_rows(seed, kind):
    adata = moving(kind)
    nh.pp.spatial_neighbors(adata)
    shuffled = adata[np.random.default_rng(seed).permutation(adata.n_obs)].copy()
    expected = shuffled.obsp["spatial_connectivities"].toarray()
    nh.pp.spatial_neighbors(shuffled)
    np.testing.assert_array_equal(shuffled.obsp["spatial_connectivities"].toarray(), expected)


def moving(kind):
    from anndata import AnnData

    row, col = (ids.ravel() for ids in np.indices((6, 7)))
    xy = np.column_stack([col, row]).astype(float)
    if kind == "hexagonal":
        xy = np.column_stack([col + 0.5 * (row % 2), row * np.sqrt(3) / 2])
    if kind == "scattered":
        xy = np.random.default_rng(7).uniform(size=(42, 2))
    return AnnData(np.zeros((42, 1)), obsm={"spatial": xy}, obs=pd.DataFrame(index=[f"s{i}" for i in range(42)]))


@pytest.mark.parametrize("name", ["B4", "C3", "MOB2"])
def test_real_st_sections_equal_squidpy(st_section, name):
    adata = st_section(name)
    nh.pp.spatial_neighbors(adata)
    assert_equals_squidpy(adata, sq.gr.spatial_neighbors_grid(adata, n_neighs=4, copy=True))


def test_real_visium_section_equals_squidpy(visium):
    nh.pp.spatial_neighbors(visium)
    adata = visium["table"]
    assert_equals_squidpy(adata, sq.gr.spatial_neighbors_grid(adata, n_neighs=6, copy=True))
    nh.pp.spatial_neighbors(visium, n_neighs=6, coord_type="generic")
    assert_equals_squidpy(adata, sq.gr.spatial_neighbors_knn(adata, n_neighs=6, copy=True))
