"""Results whose names are conventions: the marked genes, squidpy's graph, the scale of an image, tiles."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import Image2DModel

import nh2st as nh

GRAPH = ("spatial_connectivities", "spatial_distances")


@pytest.fixture
def table(make_sdata):
    return make_sdata(("A",))["table"]


def put_graph_of_another_tool(table):
    """One edge, under squidpy's keys, as squidpy does."""
    edge = csr_matrix(([1.0], ([0], [1])), shape=(table.n_obs, table.n_obs))
    for name in GRAPH:
        table.obsp[name] = edge.copy()
    params = {"coord_type": "generic", "n_neighbors": 1, "transform": None}
    keys = {"connectivities_key": GRAPH[0], "distances_key": GRAPH[1]}
    table.uns["spatial_neighbors"] = keys | {"params": params}


def test_a_graph_of_another_tool_is_replaced_on_request_alone(table, contents, same):
    put_graph_of_another_tool(table)
    before = contents(table.copy())
    message = r"obsp\['spatial_connectivities'\] exists and was not written by nh2st.*`key_added=`.*`overwrite=True`"
    with pytest.raises(ValueError, match=message):
        nh.pp.spatial_neighbors(table)
    same(contents(table), before)
    nh.pp.spatial_neighbors(table, key_added="other")
    assert table.obsp["spatial_connectivities"].nnz == 1
    nh.pp.spatial_neighbors(table, overwrite=True)
    for name in ("connectivities", "distances"):
        assert (table.obsp[f"spatial_{name}"] != table.obsp[f"other_{name}"]).nnz == 0
    assert table.uns["nh2st"]["spatial"] == {"kind": "graph", "params": table.uns["spatial_neighbors"]["params"]}
    nh.pp.spatial_neighbors(table, radius=100.0)
    assert table.uns["spatial_neighbors"]["params"]["radius"] == 100.0


def test_a_graph_that_took_the_place_of_ours_is_not_ours(table):
    nh.pp.spatial_neighbors(table)
    put_graph_of_another_tool(table)
    with pytest.raises(ValueError, match="was not written by nh2st"):
        nh.pp.spatial_neighbors(table)
    assert table.obsp["spatial_connectivities"].nnz == 1


@pytest.mark.parametrize("place", ["obsp", "uns"])
def test_part_of_a_graph_is_kept_too(table, place):
    name = "spatial_distances" if place == "obsp" else "spatial_neighbors"
    getattr(table, place)[name] = csr_matrix((25, 25)) if place == "obsp" else {"by": "hand"}
    with pytest.raises(ValueError, match=rf"{place}\['{name}'\] exists and was not written by nh2st"):
        nh.pp.spatial_neighbors(table)
    nh.pp.normalize(table)
    with pytest.raises(ValueError, match=r"The default graph has no place: call `nh2st.pp.spatial_neighbors` first"):
        nh.pp.smooth(table, layer="nh2st_target")
    assert list(table.layers) == ["nh2st_target"]
    assert "spatial_connectivities" not in table.obsp


def test_smoothing_computes_a_graph_where_there_is_none_and_keeps_that_of_another_tool(make_sdata):
    with_graph, without = make_sdata(("A",))["table"], make_sdata(("A",))["table"]
    put_graph_of_another_tool(with_graph)
    for table in (with_graph, without):
        table.layers["a"] = table.X.toarray()
    nh.pp.smooth([with_graph, without], layer="a")
    assert with_graph.obsp["spatial_connectivities"].nnz == 1
    expected = with_graph.layers["a"].copy()
    expected[0] = expected[:2].mean(axis=0)
    np.testing.assert_allclose(with_graph.layers["a_smooth"], expected)
    assert without.obsp["spatial_connectivities"].nnz == 80
    nh.pp.spatial_neighbors(without)


def test_smoothing_that_fails_keeps_no_graph(make_sdata, contents, same):
    table, other = make_sdata(("A",), side=3)["table"], make_sdata(("A", "B"), side=3)
    nh.pp.spatial_neighbors(other, sections=["A"])
    for adata in (table, other["table"]):
        adata.layers["a"] = adata.X.copy()
    before = contents(table.copy())
    with pytest.raises(ValueError, match="no edge in section '1.B'"):
        nh.pp.smooth([table, other], layer="a")
    same(contents(table), before)


def test_a_column_of_marked_genes_is_ours_by_name(table):
    nh.pp.select_genes(table, genes=["gene1"])
    table.var["nh2st_gene"] = table.var_names == "gene3"
    nh.pp.select_genes(table, genes=["gene2"])
    assert table.var_names[table.var["nh2st_gene"]].tolist() == ["gene2"]


def test_a_column_that_marks_nothing_is_replaced_on_request_alone(make_sdata):
    good, bad = make_sdata(("A",))["table"], make_sdata(("A",))["table"]
    bad.var["nh2st_gene"] = [f"ENSG{number}" for number in range(bad.n_vars)]
    with pytest.raises(ValueError, match=r"var\['nh2st_gene'\] exists and was not written.*`overwrite=True`"):
        nh.pp.select_genes([good, bad], genes=["gene2"])
    assert "nh2st_gene" not in good.var
    assert bad.var["nh2st_gene"].iloc[0] == "ENSG0"
    nh.pp.select_genes([good, bad], genes=["gene2"], overwrite=True)
    assert bad.var_names[bad.var["nh2st_gene"]].tolist() == ["gene2"]


def test_a_scale_that_was_given_is_replaced_on_request_alone(make_sdata):
    unknown, given = make_sdata(("A",), mpp=None), make_sdata(("A", "B"), mpp=1.0)
    with pytest.raises(ValueError, match=r"\['A_image'\] is 1.0, which nh2st did not estimate; the spots say 5.0000"):
        nh.pp.estimate_mpp([unknown, given], 200)
    assert "nh2st" not in unknown.attrs
    assert given.attrs["nh2st"] == {"mpp": {"A_image": 1.0, "B_image": 1.0}}
    nh.pp.estimate_mpp(given, 200, sections=["A"], overwrite=True)
    assert given.attrs["nh2st"]["mpp"] == {"A_image": pytest.approx(5), "B_image": 1.0}
    nh.pp.estimate_mpp(given, 100, sections=["A"])
    assert given.attrs["nh2st"]["mpp"] == {"A_image": pytest.approx(2.5), "B_image": 1.0}
    given.attrs["nh2st"]["mpp"]["A_image"] = 3.0
    with pytest.raises(ValueError, match="is 3.0, which nh2st did not estimate"):
        nh.pp.estimate_mpp(given, 100, sections=["A"])


def test_a_scale_that_the_spots_confirm_is_no_obstacle(make_sdata):
    sdata = make_sdata(("A",), mpp=5.0)
    nh.pp.estimate_mpp(sdata, 200)
    assert sdata.attrs["nh2st"]["mpp"] == {"A_image": pytest.approx(5)}


@pytest.fixture
def slide():
    """Stained tissue without spots, 1 um per pixel."""
    sdata = nh.datasets.synthetic(1, spots_per_side=6, seed=3)
    pixels = np.asarray(sdata.images["S1_image"]["scale0"]["image"].data)[:, :480, :480]
    return SpatialData(images={"slide": Image2DModel.parse(pixels)}, attrs={"nh2st": {"mpp": {"slide": 1.0}}})


def test_tiles_that_were_predicted_are_replaced_on_request_alone(slide, model, contents, same):
    nh.tl.predict(slide, model, tile_um=80, device="cpu")
    before, n_obs = contents(slide["nh2st"].copy()), slide["nh2st"].n_obs
    assert slide["nh2st"].uns["nh2st"]["tiles"]["kind"] == "tiles"
    with pytest.raises(ValueError, match="'nh2st' holds 'nh2st' of its tiles.*`overwrite=True`"):
        nh.pp.tissue_tiles(slide, tile_um=40)
    same(contents(slide["nh2st"]), before)
    nh.pp.tissue_tiles(slide, tile_um=40, overwrite=True)
    assert slide["nh2st"].n_obs > 3 * n_obs
    assert list(slide["nh2st"].uns["nh2st"]) == ["tiles"]
    nh.pp.tissue_tiles(slide, tile_um=80)


def test_what_was_made_of_predictions_on_tiles_is_kept(slide, model):
    nh.tl.predict(slide, model, tile_um=40, device="cpu")
    table = slide["nh2st"]
    nh.pp.smooth(slide, layer="nh2st")
    smoothed = table.layers["nh2st_smooth"].copy()
    other = dataclasses.replace(model, genes=["gene0", *(f"new{number}" for number in range(5))])
    nh.tl.predict(slide, other, device="cpu")
    assert slide["nh2st"] is table
    np.testing.assert_array_equal(table.layers["nh2st_smooth"], smoothed)
    assert list(nh.get.predicted(slide).var_names) == other.genes
    assert table.obsp["spatial_connectivities"].nnz


def test_the_graph_of_tiles_outlives_their_genes(slide, model):
    nh.pp.tissue_tiles(slide, tile_um=40)
    nh.pp.spatial_neighbors(slide)
    edges = slide["nh2st"].obsp["spatial_connectivities"].nnz
    nh.tl.predict(slide, model, device="cpu")
    assert list(slide["nh2st"].var_names) == model.genes
    assert slide["nh2st"].obsp["spatial_connectivities"].nnz == edges > 0
