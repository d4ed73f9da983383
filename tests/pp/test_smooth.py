from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy.sparse import csc_matrix

import nh2st as nh


def mean_over_neighbors(values, graph):
    near = (graph.toarray() != 0) | np.eye(len(values), dtype=bool)
    return np.array([values[row].mean(axis=0) for row in near])


@pytest.mark.parametrize("convert", [lambda x: x, csc_matrix, lambda x: x.toarray()])
def test_mean_over_neighbors_and_self(make_counts, convert):
    adata = make_counts(50, regions=2)
    values = adata.X.toarray()
    adata.layers["a"] = convert(adata.X)
    nh.pp.spatial_neighbors(adata, n_neighs=4)
    nh.pp.smooth(adata, layer="a")
    smoothed = adata.layers["a_smooth"]
    assert type(smoothed) is type(adata.layers["a"])
    assert smoothed.dtype == np.float32
    dense = smoothed if isinstance(smoothed, np.ndarray) else smoothed.toarray()
    expected = mean_over_neighbors(values, adata.obsp["spatial_connectivities"])
    np.testing.assert_allclose(dense, expected, rtol=1e-5, atol=1e-7)


def test_self_is_counted_once_where_the_graph_has_it(make_counts):
    adata = make_counts(20)
    adata.layers["a"] = adata.X.copy()
    nh.pp.spatial_neighbors(adata)
    nh.pp.smooth(adata, layer="a", key_added="without")
    adata.obsp["spatial_connectivities"].setdiag(1)
    nh.pp.smooth(adata, layer="a", key_added="with")
    np.testing.assert_array_equal(adata.layers["with"].toarray(), adata.layers["without"].toarray())


def test_missing_graph_is_computed_and_said(make_counts, caplog):
    adata = make_counts(20)
    adata.layers["a"] = adata.X.copy()
    with caplog.at_level(logging.INFO, logger="nh2st"):
        nh.pp.smooth(adata, layer="a")
    assert "no spatial graph" in caplog.text
    assert "spatial_connectivities" in adata.obsp
    with pytest.raises(KeyError, match="other_connectivities"):
        nh.pp.smooth(adata, layer="a", graph="other")


def test_integers_become_floats_and_masked_rows_stay(make_counts):
    adata = make_counts(30)
    adata.obs["in_tissue"] = np.arange(30) > 0
    adata.layers["a"] = adata.X.toarray().astype(int)
    nh.pp.smooth(adata, layer="a")
    assert np.issubdtype(adata.layers["a_smooth"].dtype, np.floating)
    np.testing.assert_array_equal(adata.layers["a_smooth"][0], adata.layers["a"][0])
    assert (adata.layers["a_smooth"] % 1).any()


def test_layers_are_checked(make_counts):
    adata = make_counts(20)
    adata.layers["a"], adata.layers["b"] = adata.X.copy(), adata.X.copy()
    with pytest.raises(KeyError, match="no layer 'c'.*'a', 'b'"):
        nh.pp.smooth(adata, layer="c")
    with pytest.raises(ValueError, match="'b' already"):
        nh.pp.smooth(adata, layer="a", key_added="b")
    nh.pp.smooth(adata, layer="a")
    nh.pp.smooth(adata, layer="a")


def test_copy(make_counts):
    adata = make_counts(20)
    adata.layers["a"] = adata.X.copy()
    assert "a_smooth" in nh.pp.smooth(adata, layer="a", copy=True).layers
    assert list(adata.layers) == ["a"]
    assert not adata.obsp


def test_graph_of_other_sections(make_sdata):
    sdata = make_sdata(("A", "B"), side=3)
    nh.pp.normalize(sdata)
    nh.pp.spatial_neighbors(sdata, sections=["A"])
    with pytest.raises(ValueError, match="no edge in section 'B'.*nh2st.pp.spatial_neighbors"):
        nh.pp.smooth(sdata, layer="nh2st_target")
