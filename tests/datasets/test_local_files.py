from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import spatialdata
from PIL import Image
from spatialdata.transformations import Identity, get_transformation

import nh2st as nh


@pytest.fixture(autouse=True)
def no_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NH2ST_DATA_DIR", raising=False)


def test_counts_are_paired_with_spots_by_identity(her2st_flat: Path):
    table = nh.datasets.her2st("Q1", path=her2st_flat)["table"]
    assert list(table.obs_names) == ["Q1_2x3", "Q1_3x3", "Q1_2x4"]
    assert list(table.obs["spot"]) == ["2x3", "3x3", "2x4"]
    np.testing.assert_array_equal(table.X.toarray(), [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(table.obs["array_col"], [2, 3, 2])
    np.testing.assert_array_equal(table.obs["array_row"], [3, 3, 4])
    np.testing.assert_allclose(table.obsm["spatial"], [[91, 140], [125, 146], [87, 200]])
    assert table.X.dtype == np.float32
    assert (table.obs["in_tissue"] == 1).all()


def test_unpaired_spots_are_counted_in_the_log(her2st_flat: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="nh2st"):
        nh.datasets.her2st("Q1", path=her2st_flat)
    assert "Q1: 3 spots; left out 1 with counts but no position under tissue and 1 with a position" in caplog.text


def test_an_id_that_occurs_twice_is_left_out(her2st_flat: Path):
    file = her2st_flat / "her2st/spots/Q1_selection.tsv"
    file.write_text(file.read_text() + "2.2\t3\t2.2\t3.0\t95\t145\t1\n")
    assert list(nh.datasets.her2st("Q1", path=her2st_flat)["table"].obs["spot"]) == ["3x3", "2x4"]


def test_sections_share_a_table_with_the_union_of_genes(her2st_flat: Path):
    sdata = nh.datasets.her2st(["Q1", "Q2"], path=her2st_flat)
    table = sdata["table"]
    assert set(table.var_names) == {"ERBB2", "ACTB", "FASN"}
    assert table[table.obs["section"] == "Q2", "ACTB"].X.sum() == 0
    assert table[table.obs["section"] == "Q2", "FASN"].X.sum() == 2 + 4 + 6
    assert table.obs_names.is_unique
    assert list(table.obs["donor"].unique()) == ["Q"]
    assert table.uns["spatialdata_attrs"]["region"] == ["Q1", "Q2"]
    for name in ("Q1", "Q2"):
        rows = table.obs["region"] == name
        np.testing.assert_array_equal(table.obs.loc[rows, "instance_id"], sdata[name].index)
        centres = np.column_stack([sdata[name].geometry.x, sdata[name].geometry.y])
        np.testing.assert_allclose(centres, table.obsm["spatial"][rows])


def test_each_section_has_a_coordinate_system_of_its_own(her2st_flat: Path):
    sdata = nh.datasets.her2st(["Q1", "Q2"], path=her2st_flat)
    assert set(sdata.coordinate_systems) == {"Q1", "Q2"}
    for element in ("Q1", "Q1_image"):
        assert get_transformation(sdata[element], get_all=True) == {"Q1": Identity()}


def test_scale_follows_from_the_array(her2st_flat: Path):
    sdata = nh.datasets.her2st("Q1", path=her2st_flat)
    mpp = sdata.attrs["nh2st"]["mpp"]["Q1_image"]
    assert mpp == pytest.approx(200 / np.sqrt(40 * 50))
    np.testing.assert_allclose(sdata["Q1"].radius, 50 / mpp)


def test_image_is_the_decoded_file_at_every_scale(her2st_flat: Path):
    truth = np.asarray(Image.open(her2st_flat / "her2st/images/Q1.jpg")).transpose(2, 0, 1)
    image = nh.datasets.her2st("Q1", path=her2st_flat)["Q1_image"]
    assert list(image["scale0"].image.coords["c"].values) == ["r", "g", "b"]
    np.testing.assert_array_equal(image["scale0"].image.values, truth)
    for level in (1, 2, 3):
        pixels, factor = image[f"scale{level}"].image.values, 2**level
        _, height, width = pixels.shape
        blocks = truth[:, : height * factor, : width * factor].reshape(3, height, factor, width, factor)
        assert (height, width) == (480 // factor, 500 // factor)
        assert np.abs(blocks.mean(axis=(2, 4)) - pixels).max() <= 0.5 * level


@pytest.mark.parametrize("inner", [".", "data"])
def test_the_repository_can_be_given_as_it_is(her2st_repository: Path, inner: str):
    assert nh.datasets.her2st("Q1", path=her2st_repository / inner)["table"].n_obs == 3


def test_the_data_set_or_its_parent_can_be_given(her2st_flat: Path, monkeypatch: pytest.MonkeyPatch):
    assert nh.datasets.her2st("Q2", path=str(her2st_flat / "her2st"))["table"].n_obs == 3
    monkeypatch.setenv("NH2ST_DATA_DIR", str(her2st_flat))
    assert nh.datasets.her2st("Q2")["table"].n_obs == 3


def test_path_goes_before_the_environment(her2st_flat: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NH2ST_DATA_DIR", "/nonexistent")
    assert nh.datasets.her2st("Q1", path=her2st_flat)["table"].n_obs == 3


@pytest.mark.parametrize("flat", [False, True])
def test_bulb_keeps_spots_under_tissue_only(bulb_repository: Path, flat: bool):
    path = bulb_repository
    if flat:
        path = shutil.copytree(bulb_repository / "inst/extdata/counts", bulb_repository / "mob").parent
    sdata = nh.datasets.mouse_olfactory_bulb("MOB1", path=path)
    table = sdata["table"]
    assert list(table.obs["spot"]) == ["2x3", "3x3"]
    assert "donor" not in table.obs


def test_round_trip_through_zarr(her2st_flat: Path, tmp_path: Path):
    sdata = nh.datasets.her2st(["Q1", "Q2"], path=her2st_flat)
    sdata.write(tmp_path / "sections.zarr")
    again = spatialdata.read_zarr(tmp_path / "sections.zarr")
    assert again.attrs["nh2st"]["mpp"] == sdata.attrs["nh2st"]["mpp"]
    np.testing.assert_array_equal(again["table"].X.toarray(), sdata["table"].X.toarray())
    assert list(again["table"].obs["spot"]) == list(sdata["table"].obs["spot"])
    for level in ("scale0", "scale3"):
        np.testing.assert_array_equal(again["Q2_image"][level].image.values, sdata["Q2_image"][level].image.values)


def test_missing_file_is_named_with_the_ways_out(her2st_flat: Path):
    (her2st_flat / "her2st/spots/Q2_selection.tsv").unlink()
    message = r"'Q2' is not complete.*spots: .*Q2_selection\.tsv.*Complete sections there: Q1\..*path="
    with pytest.raises(FileNotFoundError, match=message):
        nh.datasets.her2st(["Q1", "Q2"], path=her2st_flat)


def test_missing_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"path\) does not exist"):
        nh.datasets.her2st(path=tmp_path / "nowhere")
    monkeypatch.setenv("NH2ST_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"NH2ST_DATA_DIR\) does not exist"):
        nh.datasets.mouse_olfactory_bulb()


def test_wildcards_in_a_name_match_nothing(her2st_flat: Path):
    with pytest.raises(FileNotFoundError, match="Complete sections there: Q1, Q2"):
        nh.datasets.her2st("*", path=her2st_flat)


def test_no_sections():
    with pytest.raises(ValueError, match="sections is empty"):
        nh.datasets.her2st([])
