from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nh2st._sections import find_spots
from nh2st._space import SpotGrid, neighborhood, smoothing_window


def spots_of(adata):
    (found,) = find_spots(adata)
    return found


def sets(neighbors):
    return [set(row[row >= 0].tolist()) for row in neighbors]


def array_window(array, reach=1):
    near = np.abs(array[:, None] - array).max(axis=2) <= reach
    return [set(np.flatnonzero(row).tolist()) - {i} for i, row in enumerate(near)]


@pytest.mark.parametrize("kind", ["square", "hexagonal", "checkerboard"])
@pytest.mark.parametrize("jitter", [0.0, 0.06])
def test_kind_of_array(make_grid, kind, jitter):
    spots = spots_of(make_grid(kind, jitter=jitter))
    assert SpotGrid(spots.xy, spots.array).kind == kind
    # Without ids a checkerboard is a square grid that was turned.
    assert SpotGrid(spots.xy, None).kind == ("square" if kind == "checkerboard" else kind)
    assert spots.grid.pitch == pytest.approx(10, rel=0.02)
    assert SpotGrid(spots.xy).pitch == pytest.approx(10, rel=0.02)


def test_transposed_ids_of_a_hexagonal_array(make_grid):
    spots = spots_of(make_grid("hexagonal"))
    lattice = SpotGrid(spots.xy, spots.array[:, ::-1]).lattice
    assert lattice.kind == "hexagonal"
    assert lattice.pitch == pytest.approx(10)


def test_kind_of_points_that_are_on_no_array(make_points):
    rng = np.random.default_rng(0)
    assert SpotGrid(rng.uniform(size=(200, 2))).kind == "generic"
    assert SpotGrid(np.column_stack([np.arange(20), np.zeros(20)])).kind == "generic"
    assert SpotGrid(np.zeros((1, 2))).kind == "generic"
    assert SpotGrid(np.zeros((9, 2))).kind == "generic"


def test_ids_that_do_not_describe_the_coordinates_are_not_used(make_grid):
    adata = make_grid("square")
    shuffled = np.random.default_rng(1).permutation(adata.obs[["array_row", "array_col"]].to_numpy())
    assert SpotGrid(adata.obsm["spatial"], shuffled).lattice is None
    assert SpotGrid(adata.obsm["spatial"], shuffled).kind == "square"


@pytest.mark.parametrize("kind", ["square", "checkerboard"])
@pytest.mark.parametrize("ids", [True, False])
def test_neighborhood_of_square_grids_is_the_complete_window(make_grid, kind, ids):
    adata = make_grid(kind)
    spots = spots_of(adata)
    array = spots.array
    if kind == "checkerboard":
        array = np.column_stack([array.sum(axis=1), array[:, 0] - array[:, 1]]) // 2
    if not ids:
        del adata.obs
    neighbors = neighborhood(spots.grid)
    assert neighbors.shape == (len(array), 8)
    assert neighbors.dtype == np.int64
    assert sets(neighbors) == array_window(array)


def test_neighborhood_of_hexagons_has_six(make_grid):
    spots = spots_of(make_grid("hexagonal", jitter=0.03))
    neighbors = neighborhood(spots.grid)
    assert (neighbors[:, 6:] == -1).all()
    distances = np.linalg.norm(spots.xy[:, None] - spots.xy, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert sets(neighbors) == [set(np.flatnonzero(row < 13).tolist()) for row in distances]


def test_neighborhood_is_nearest_first_without_gaps(make_points):
    spots = spots_of(make_points(np.random.default_rng(2).uniform(size=(400, 2))))
    neighbors = neighborhood(spots.grid)
    there = neighbors >= 0
    assert (np.diff(there.astype(int), axis=1) <= 0).all()
    distances = np.linalg.norm(spots.xy[neighbors] - spots.xy[:, None], axis=2)
    distances[~there] = np.inf
    assert (np.diff(np.where(there, distances, 1e9), axis=1) >= 0).all()
    assert 3 < there.sum(axis=1).mean() < 8
    assert not (neighbors == np.arange(400)[:, None]).any()


def test_radius_limits_the_neighborhood(make_points):
    spots = spots_of(make_points(np.random.default_rng(3).uniform(size=(150, 2))))
    distances = np.linalg.norm(spots.xy[:, None] - spots.xy, axis=2)
    np.fill_diagonal(distances, np.inf)
    expected = [set(np.argsort(row)[: min(8, (row <= 0.15).sum())].tolist()) for row in distances]
    assert sets(neighborhood(spots.grid, radius=0.15)) == expected


@pytest.mark.parametrize("n", [1, 2, 5])
def test_neighborhood_of_few_or_coinciding_spots(make_points, n):
    neighbors = neighborhood(spots_of(make_points(np.zeros((n, 2)))).grid)
    assert neighbors.shape == (n, 8)
    assert sets(neighbors) == [set(range(n)) - {i} for i in range(n)]


def test_isolated_spot_has_no_neighbors(make_points):
    xy = np.vstack([np.random.default_rng(4).uniform(size=(100, 2)), [[9.0, 9.0]]])
    assert (neighborhood(spots_of(make_points(xy)).grid)[100] == -1).all()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), shift=st.floats(-1e4, 1e4))
def test_neighborhood_follows_the_order_of_rows(seed, shift):
    from anndata import AnnData

    xy = np.stack(np.meshgrid(np.arange(6.0), np.arange(5.0)), axis=-1).reshape(-1, 2)
    order = np.random.default_rng(seed).permutation(30)
    before = neighborhood(spots_of(AnnData(np.zeros((30, 1)), obsm={"spatial": xy})).grid)
    after = neighborhood(spots_of(AnnData(np.zeros((30, 1)), obsm={"spatial": xy[order] + shift})).grid)
    np.testing.assert_array_equal(np.where(after >= 0, order[after], -1), before[order])


@pytest.mark.parametrize("name", ["B4", "C2", "C3", "C4"])
def test_real_jittered_grid_has_complete_windows(st_section, name):
    spots = spots_of(st_section(name))
    assert SpotGrid(spots.xy, spots.array).kind == "square"
    assert sets(neighborhood(spots.grid)) == array_window(spots.grid.array)


@pytest.mark.parametrize("name", ["MOB1", "MOB2", "MOB3"])
def test_real_checkerboard_has_eight(st_section, name):
    spots = spots_of(st_section(name))
    assert SpotGrid(spots.xy, spots.array).kind == "checkerboard"
    turned = np.column_stack([spots.array.sum(axis=1), spots.array[:, 0] - spots.array[:, 1]]) // 2
    assert sets(neighborhood(spots.grid)) == array_window(turned)


def test_real_visium_has_six(visium):
    (spots,) = find_spots(visium)
    assert SpotGrid(spots.xy, spots.array).kind == "hexagonal"
    row, col = np.abs(spots.array[:, None] - spots.array).transpose(2, 0, 1)
    adjacent = ((row == 0) & (col == 2)) | ((row == 1) & (col == 1))
    assert sets(neighborhood(spots.grid)) == [set(np.flatnonzero(row).tolist()) for row in adjacent]


def test_window_is_the_mean_over_the_present_ids(make_grid):
    adata = make_grid("square", 5, 6, jitter=0.1)[np.r_[0:7, 9:30]].copy()
    spots = spots_of(adata)
    weights = smoothing_window(spots.grid).toarray()
    for i, near in enumerate(array_window(spots.grid.array)):
        expected = np.zeros(len(weights))
        expected[[i, *near]] = 1 / (len(near) + 1)
        np.testing.assert_allclose(weights[i], expected)


def test_window_of_hexagons_is_self_and_neighbors(make_grid):
    spots = spots_of(make_grid("hexagonal"))
    weights = smoothing_window(spots.grid).toarray()
    for i, near in enumerate(sets(neighborhood(spots.grid))):
        assert set(np.flatnonzero(weights[i])) == near | {i}
    np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_window_without_ids(make_points):
    spots = spots_of(make_points(np.random.default_rng(5).uniform(size=(50, 2))))
    weights = smoothing_window(spots.grid)
    assert (weights.diagonal() > 0).all()
    np.testing.assert_array_equal(np.diff(weights.indptr), (neighborhood(spots.grid) >= 0).sum(axis=1) + 1)


def test_window_of_one_spot(make_points):
    assert smoothing_window(spots_of(make_points(np.zeros((1, 2)), np.zeros((1, 2)))).grid).toarray() == [[1.0]]
