from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection

import nh2st as nh


def part(ax: Axes, kind: type):
    (found,) = (drawn for drawn in ax.collections if isinstance(drawn, kind))
    return found


def test_edges_and_degrees_are_those_of_the_stored_graph(sdata):
    nh.pp.spatial_neighbors(sdata)
    table = sdata["table"]
    axes = nh.pl.spatial_neighbors(sdata)
    assert len(axes) == 2
    for ax, section in zip(axes, ("S1", "S2"), strict=True):
        mine = (table.obs["region"] == section).to_numpy()
        graph = table.obsp["spatial_connectivities"][mine][:, mine].toarray()
        np.testing.assert_array_equal(part(ax, EllipseCollection).get_array(), (graph > 0).sum(axis=1))
        drawn = {tuple(sorted(map(tuple, segment))) for segment in part(ax, LineCollection).get_segments()}
        xy = [tuple(point) for point in table.obsm["spatial"][mine]]
        assert drawn == {tuple(sorted([xy[i], xy[j]])) for i, j in zip(*np.nonzero(graph), strict=True)}
        assert section in ax.get_title(loc="left")
        assert len(ax.images) == 1


def test_sections_share_one_scale_with_a_level_for_each_degree(sdata):
    nh.pp.spatial_neighbors(sdata)
    axes = nh.pl.spatial_neighbors(sdata)
    nodes = [part(ax, EllipseCollection) for ax in axes]
    assert {circles.get_clim() for circles in nodes} == {(1.5, 4.5)}
    assert nodes[-1].get_cmap().N == 3
    assert [circles.colorbar is None for circles in nodes] == [True, False]


def test_other_graphs_and_sections_can_be_named(sdata):
    nh.pp.spatial_neighbors(sdata, radius=150, coord_type="generic", key_added="wide")
    (ax,) = nh.pl.spatial_neighbors(sdata, key="wide", sections="S2")
    degrees = part(ax, EllipseCollection).get_array().reshape(5, 5)
    assert degrees[0, 0] == 3
    assert degrees[2, 2] == 8


def test_an_anndata_is_drawn_without_image(sdata):
    table = sdata["table"]
    nh.pp.spatial_neighbors(table)
    axes = nh.pl.spatial_neighbors(table, image=False)
    assert not axes[0].images
    assert len(part(axes[0], LineCollection).get_segments()) == 40


def test_a_graph_without_edges_is_drawn(sdata):
    nh.pp.spatial_neighbors(sdata, radius=1)
    (ax,) = nh.pl.spatial_neighbors(sdata, sections="S1")
    assert not part(ax, EllipseCollection).get_array().any()


def test_a_missing_graph_names_the_call_to_make(sdata):
    with pytest.raises(KeyError, match=r"nh\.pp\.spatial_neighbors\(sdata\)"):
        nh.pl.spatial_neighbors(sdata)
