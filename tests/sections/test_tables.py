from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from spatialdata import SpatialData
from spatialdata.models import Labels2DModel, TableModel

import nh2st as nh
from nh2st._sections import Selection, find_sections, find_spots, tables_of

CENTERS = [[40.0, 40.0], [80.0, 40.0], [40.0, 80.0], [80.0, 80.0]]


def check(data, **keys):
    """A public function that needs sections and their images, and fails before any work."""
    nh.pp.estimate_mpp(data, pitch_um=100, overwrite=True, **keys)


def names(data, **keys):
    return [section.name for section in find_sections(data, Selection(**keys))]


def test_each_region_is_a_section(make_sdata):
    sdata = make_sdata(("A", "B"))
    first, second = find_sections(sdata)
    assert (first.name, second.name) == ("A", "B")
    assert (first.image_key, second.image_key) == ("A_image", "B_image")
    assert (first.coordinate_system, second.coordinate_system) == ("A", "B")
    assert sdata["table"].obs["region"].iloc[second.rows].eq("B").all()
    np.testing.assert_allclose(second.pixels, sdata["table"].obsm["spatial"][second.rows])
    np.testing.assert_allclose(second.pixel_radius, 15)
    np.testing.assert_array_equal(second.array, sdata["table"].obs[["array_row", "array_col"]].iloc[second.rows])
    assert tables_of([first, second]) == [sdata["table"]]


@pytest.mark.filterwarnings("ignore:The index of the dataframe is not monotonic")
@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        ("circles", [7, 3, 9, 1]),
        ("circles", ["x", "AACT-1", "b", "0"]),
        ("polygons", ["x", "AACT-1", "b", "0"]),
        ("points", [7, 3, 9, 1]),
    ],
)
def test_rows_are_paired_by_instance_id(make_section, only_section, noise, kind, ids):
    sdata = make_section(noise, CENTERS, ids=ids, kind=kind, obs={"x": [40, 80, 40, 80], "y": [40, 40, 80, 80]})
    sdata["table"] = sdata["table"][[2, 0, 3, 1]].copy()
    section = only_section(sdata)
    np.testing.assert_allclose(section.pixels, sdata["table"].obs[["x", "y"]].iloc[section.rows])
    radius = {"circles": 10, "polygons": 20 / np.pi**0.5, "points": np.nan}[kind]
    np.testing.assert_allclose(section.pixel_radius, radius)


def test_mask_leaves_rows_out(make_section, only_section, noise):
    obs = {"in_tissue": [1, 0, 1, 1], "good": [False, True, True, False]}
    sdata = make_section(noise, CENTERS, obs=obs)
    assert only_section(sdata).rows.tolist() == [0, 2, 3]
    assert only_section(sdata, spots="good").rows.tolist() == [1, 2]
    assert find_spots(sdata["table"], Selection(spots="good"))[0].rows.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 0.0, 1.0, np.nan], "1 values are others, such as nan"),
        (["True", "False", "True", "True"], "4 values are others, such as 'True'"),
        ([0, 1, 2, 1], "such as 2"),
        (pd.array([True, None, True, True], dtype="boolean"), "<NA>"),
    ],
)
def test_unclear_mask(make_section, noise, values, words):
    sdata = make_section(noise, CENTERS, obs={"in_tissue": values})
    with pytest.raises(ValueError, match=rf"in_tissue.*True/False or 1/0.*{words}.*`spots=`"):
        check(sdata)


def test_mask_that_is_missing_or_masks_all(make_section, noise):
    sdata = make_section(noise, CENTERS, obs={"in_tissue": [0] * 4, "good": [True] * 4})
    with pytest.raises(ValueError, match=r"'in_tissue'\] masks every row.*`spots=`"):
        check(sdata)
    with pytest.raises(KeyError, match="nice.* names no column of obs.*boolean columns.*good"):
        check(sdata, spots="nice")


def test_objects_name_their_sections(make_sdata):
    first, second = make_sdata(("A",)), make_sdata(("A", "B"))
    assert names([first, second]) == ["0.A", "1.A", "1.B"]
    assert names({"first": first, "second": second}) == ["first.A", "second.A", "second.B"]
    assert names([first, second], sections=["1.A"]) == ["1.A"]
    assert names([first, second], sections="A") == ["0.A", "1.A"]
    assert names([first, second], sections=["B", "0.A"]) == ["0.A", "1.B"]
    assert tables_of(find_sections([first, second])) == [first["table"], second["table"]]


def test_unknown_sections(make_sdata):
    sdata = make_sdata(("A", "B"))
    with pytest.raises(KeyError, match="no section 'C'; the sections are: 'A', 'B'"):
        check(sdata, sections=["A", "C"])
    with pytest.raises(ValueError, match="`sections=` is empty; the sections are: 'A', 'B'"):
        check(sdata, sections=[])


def test_collections_that_make_no_sense(make_sdata, tmp_path):
    sdata = make_sdata(("A",))
    with pytest.raises(ValueError, match="same object was given twice"):
        check([sdata, sdata])
    for empty in ([], {}):
        with pytest.raises(ValueError, match="No data was given"):
            check(empty)
    with pytest.raises(TypeError, match="Expected a SpatialData, got int under 'b'"):
        check({"a": sdata, "b": 3})
    for path in ("my.zarr", tmp_path):
        with pytest.raises(TypeError, match=r"Read it first: `spatialdata.read_zarr\("):
            check(path)


def test_anndata_where_an_image_is_needed(make_sdata):
    table = make_sdata(("A",))["table"]
    for data, where in ((table, ""), ([table], " under '0'")):
        with pytest.raises(TypeError, match=rf"AnnData was given{where}.*needs the image.*SpatialData\(images="):
            nh.tl.train(data)


def test_anndata_with_and_without_regions(make_sdata):
    table = make_sdata(("A", "B"))["table"].copy()
    first, second = find_spots({"x": table})
    assert (first.name, second.name) == ("x.A", "x.B")
    np.testing.assert_allclose(second.xy, table.obsm["spatial"][second.rows])
    del table.uns["spatialdata_attrs"]
    (only,) = find_spots(table)
    assert (only.name, only.region, len(only.rows)) == ("section", "", table.n_obs)
    del table.obsm["spatial"]
    with pytest.raises(KeyError, match=r"no spot coordinates.*obsm\['spatial'\]"):
        _ = only.xy


def test_anndata_whose_rows_name_other_regions(make_sdata):
    table = make_sdata(("A", "B"))["table"].copy()
    table.obs["region"] = "other"
    with pytest.raises(ValueError, match=r"none of the table's 50 rows names its regions \('A', 'B'\) in obs\['region"):
        find_spots(table)


def test_no_table(make_sdata):
    sdata = make_sdata(("A",))
    del sdata.tables["table"]
    with pytest.raises(ValueError, match=r"no table with expression.*TableModel.parse"):
        check(sdata)
    with pytest.raises(KeyError, match="no table 'counts'; the object has: none"):
        check(sdata, table_key="counts")


def test_table_that_annotates_nothing(make_sdata):
    sdata = make_sdata(("A",))
    bare = AnnData(np.ones((3, 2)))
    sdata["table"] = TableModel.parse(bare)
    for key in (None, "table"):
        with pytest.raises(ValueError, match=r"'table'.*annotates no element.*set_table_annotates_spatialelement"):
            check(sdata, table_key=key)


def test_several_tables(make_sdata):
    sdata = make_sdata(("A", "B"))
    sdata["other"] = sdata["table"].copy()
    with pytest.raises(ValueError, match="Several tables fit: 'table', 'other'.*`table_key=`"):
        check(sdata)
    check(sdata, table_key="other")


def test_shapes_key_chooses_a_region(make_sdata):
    sdata = make_sdata(("A", "B"))
    assert names(sdata, shapes_key="B") == ["B"]
    with pytest.raises(ValueError, match="No table annotates shapes_key='C'; annotated are: 'A', 'B'"):
        check(sdata, shapes_key="C")
    with pytest.raises(ValueError, match="No table annotates shapes_key='C'; annotated are: 'A', 'B'"):
        check(sdata, shapes_key="C", table_key="table")


def test_own_elements_stand_in_only_where_there_is_nothing_else(make_sdata):
    sdata = make_sdata(("A",))
    sdata["nh2st_tiles"] = sdata["A"].copy()
    tiles = sdata["table"].copy()
    tiles.obs["region"] = pd.Categorical(["nh2st_tiles"] * tiles.n_obs)
    del tiles.uns["spatialdata_attrs"]
    sdata["nh2st"] = TableModel.parse(tiles, region="nh2st_tiles", region_key="region", instance_key="instance_id")
    assert names(sdata) == ["A"]
    del sdata.tables["table"]
    assert names(sdata) == ["nh2st_tiles"]


def test_region_that_is_not_in_the_object(make_sdata):
    sdata = make_sdata(("A", "B"))
    del sdata.shapes["B"]
    with pytest.raises(KeyError, match=r"'table' annotates the region 'B', which is not in the object.*'A'"):
        check(sdata)


def test_region_without_rows_is_left_out(make_sdata, caplog):
    sdata = make_sdata(("A",))
    sdata["table"].uns["spatialdata_attrs"]["region"] = ["A", "gone"]
    assert names(sdata) == ["A"]
    assert "Region 'gone' has no row in table 'table'" in caplog.text


def test_rows_of_regions_that_are_not_annotated(make_sdata, caplog):
    sdata = make_sdata(("A", "B"))
    sdata["table"].uns["spatialdata_attrs"]["region"] = ["A"]
    assert names(sdata) == ["A"]
    assert "25 of 50 rows" in caplog.text
    assert "does not annotate ('B')" in caplog.text
    sdata["table"].uns["spatialdata_attrs"]["region"] = ["C"]
    with pytest.raises(ValueError, match=r"none of the table's 50 rows names its regions \('C'\) in obs\['region'\]"):
        check(sdata)


@pytest.mark.parametrize("column", ["region", "instance_id"])
def test_missing_key_columns(make_sdata, column):
    sdata = make_sdata(("A",))
    del sdata["table"].obs[column]
    with pytest.raises(KeyError, match=f"'table' names '{column}' as its .* key, but obs has no such column"):
        check(sdata)


def test_categorical_instance_ids(make_section, only_section, noise):
    sdata = make_section(noise, CENTERS, ids=pd.Categorical(["d", "a", "c", "b"]))
    sdata["table"] = sdata["table"][[3, 2, 1, 0]].copy()
    np.testing.assert_allclose(only_section(sdata).pixels, CENTERS[::-1])


def test_instance_ids_that_match_in_part_or_not_at_all(make_section, only_section, noise, caplog):
    sdata = make_section(noise, CENTERS)
    sdata["table"].obs["instance"] = [0, 11, 2, 12]
    assert only_section(sdata).rows.tolist() == [0, 2]
    assert "2 of 4 rows of region 'spots' have an instance id that is not in the element (first: 11, 12)" in caplog.text
    sdata["table"].obs["instance"] = ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match=r"No instance id of region 'spots' in obs\['instance'\] \(such as 'a'\).*0"):
        check(sdata)


def test_repeated_instance_ids(make_section, noise):
    sdata = make_section(noise, CENTERS)
    sdata["table"].obs["instance"] = [0, 1, 1, 2]
    with pytest.raises(ValueError, match=r"repeat within region 'spots', in obs\['instance'\] \(1\)"):
        check(sdata)
    sdata = make_section(noise, CENTERS)
    sdata.shapes["spots"].index = [0, 1, 2, 2]
    with pytest.raises(ValueError, match=r"repeat within region 'spots', in the element's index \(2\)"):
        check(sdata)


def test_labels_as_region(make_section, noise):
    sdata = make_section(noise, CENTERS)
    del sdata.shapes["spots"]
    labels = Labels2DModel.parse(np.arange(120 * 150).reshape(120, 150) // 6000, dims=("y", "x"))
    sdata = SpatialData(images=dict(sdata.images), labels={"spots": labels}, tables=dict(sdata.tables))
    with pytest.raises(TypeError, match=r"'table' annotates the labels 'spots'.*spatialdata.to_circles"):
        check(sdata)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_coordinates_that_are_not_finite(make_section, only_section, noise, bad):
    centers = np.array(CENTERS)
    centers[2, 1] = bad
    sdata = make_section(noise, centers, obs={"good": [True, True, False, True]})
    with pytest.raises(ValueError, match=r"1 spots of section 'spots' have NaN or infinite.*'spot2'.*`spots=`"):
        check(sdata)
    assert np.isfinite(only_section(sdata, spots="good").pixels).all()


def test_errors_come_before_any_writing(make_sdata):
    sdata = make_sdata(("A",), mpp=None)
    with pytest.raises(ValueError, match="scale of image 'A_image'.*unknown"):
        nh.tl.train(sdata, encoder_weights=None)
    assert "nh2st" not in sdata.attrs
    assert "nh2st" not in sdata["table"].uns
