from __future__ import annotations

import logging
from functools import partial

import numpy as np
import pytest
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity, Scale, Sequence, Translation

import nh2st as nh
from nh2st._sections import find_sections, patch_windows, resolve_mpp


def hexagonal(n_rows, n_cols, pitch):
    """Array ids as on Visium slides, where columns count by two, and pixels x, y."""
    row, half = np.divmod(np.arange(n_rows * n_cols), n_cols)
    col = 2 * half + row % 2
    xy = np.column_stack([col * pitch / 2, row * pitch * np.sqrt(3) / 2]) + 50
    return {"array_row": row, "array_col": col}, xy


@pytest.fixture
def grey():
    return np.full((3, 300, 300), 200, dtype=np.uint8)


def side_of(section, **size):
    windows = patch_windows(section, **{"patch_um": 112, "patch_px": 224, **size})
    return windows.side * windows.level.scale


def test_order_of_the_sources(make_section, only_section, grey):
    obs, xy = hexagonal(6, 6, 25)
    transformations = {"global": Identity(), "um": Scale([3, 3], axes=("x", "y"))}
    sdata = make_section(grey, xy, obs=obs, to_image=transformations)
    sdata.attrs["nh2st"] = {"mpp": {"image": 2.0, "another": 9.0}}
    section = only_section(sdata)
    assert resolve_mpp(section, 0.5) == 0.5
    assert resolve_mpp(section, np.float32(0.5)) == 0.5
    assert resolve_mpp(section, "native") == "native"
    assert resolve_mpp(section) == 2.0
    del sdata.attrs["nh2st"]["mpp"]["image"]
    assert resolve_mpp(section) == pytest.approx(3.0)
    only_global = only_section(make_section(grey, xy, obs=obs))
    assert resolve_mpp(only_global) == pytest.approx(100 / 25)


@pytest.mark.parametrize("name", ["um", "microns", "Micrometers", "µm", "\N{GREEK SMALL LETTER MU}m"])
def test_coordinate_systems_in_micrometres(make_section, only_section, grey, caplog, name):
    caplog.set_level(logging.INFO)
    to_um = Sequence([Scale([0.4, 0.4], axes=("y", "x")), Translation([5, 7], axes=("x", "y"))])
    section = only_section(make_section(grey, [(50, 50)], to_image={"global": Identity(), name: to_um}))
    assert resolve_mpp(section) == pytest.approx(0.4)
    assert f"Section 'spots': 0.4 um/px, from the coordinate system {name!r}" in caplog.text
    assert side_of(section) == pytest.approx(112 / 0.4)


def test_visium_array(make_section, only_section, grey, caplog):
    caplog.set_level(logging.INFO)
    obs, xy = hexagonal(8, 7, 25)
    section = only_section(make_section(grey, xy, obs=obs))
    assert side_of(section) == pytest.approx(28)
    assert "Section 'spots': 4 um/px, from its Visium array of 100 um pitch" in caplog.text


def test_image_is_smaller_than_the_system_of_the_spots(make_section, only_section, grey):
    obs, xy = hexagonal(8, 7, 25)
    section = only_section(make_section(grey, xy * 5, obs=obs, to_image={"global": Scale([5, 5], axes=("x", "y"))}))
    assert resolve_mpp(section) == pytest.approx(4)


@pytest.mark.parametrize("array", [False, True])
def test_unknown_scale_names_the_ways_out(make_sdata, array):
    """Square arrays have no standard pitch."""
    sdata = make_sdata(("A",), mpp=None)
    if not array:
        del sdata["table"].obs["array_row"]
    with pytest.raises(ValueError, match=r"image 'A_image' \(section 'A'\) is unknown") as error:
        patch_windows(find_sections(sdata)[0], patch_um=112, patch_px=224)
    for way in ("`mpp=0.5`", "nh.pp.estimate_mpp(sdata, pitch_um=200)", '`mpp="native"`'):
        assert way in str(error.value)
    nh.pp.estimate_mpp(sdata, pitch_um=200)
    assert resolve_mpp(find_sections(sdata)[0]) == pytest.approx(200 / 40)


@pytest.mark.parametrize("bad", [0, -0.5, np.nan, np.inf, "abc", "0.5", [0.5], (0.5, 0.5)])
def test_scales_that_are_no_scales(make_sdata, bad):
    sdata = make_sdata(("A",))
    (section,) = find_sections(sdata)
    with pytest.raises(ValueError, match='mpp= must be a positive number of micrometres per pixel, or "native", not'):
        resolve_mpp(section, bad)
    sdata.attrs["nh2st"]["mpp"]["A_image"] = bad
    with pytest.raises(ValueError, match=r"sdata.attrs\['nh2st'\]\['mpp'\]\['A_image'\] must be a positive number"):
        resolve_mpp(section)


def test_stored_scale_of_the_wrong_kind(make_sdata):
    sdata = make_sdata(("A",))
    sdata.attrs["nh2st"]["mpp"] = 0.5
    with pytest.raises(ValueError, match=r"\['mpp'\] must be a dictionary from image to .*, not 0.5"):
        resolve_mpp(find_sections(sdata)[0])


@pytest.mark.parametrize("size", [{"patch_um": 0}, {"patch_um": np.nan}, {"patch_px": 0}, {"patch_px": -3}])
def test_sizes_that_are_no_sizes(make_sdata, size):
    (name,) = size
    with pytest.raises(ValueError, match=f"{name}= must be a positive number of"):
        side_of(find_sections(make_sdata(("A",)))[0], **size)


def test_patches_that_dwarf_the_image(make_sdata):
    (section,) = find_sections(make_sdata(("A",)))
    with pytest.raises(ValueError, match=r"At 0.0005 um per pixel .* 224000 px wide.*'A_image'.*mpp="):
        side_of(section, mpp=0.0005)


def test_native_patches_are_pixels_whatever_the_scale(make_sdata):
    (section,) = find_sections(make_sdata(("A",), mpp=7.0))
    assert side_of(section, mpp="native", patch_px=64) == 64
    assert side_of(section, patch_um=112) == pytest.approx(16)


def test_each_image_has_a_scale_of_its_own(make_sdata):
    sdata = make_sdata(("A", "B"))
    sdata.attrs["nh2st"]["mpp"]["B_image"] = 0.7
    assert [side_of(section) for section in find_sections(sdata)] == pytest.approx([112, 160])


def test_scale_belongs_to_the_chosen_image(make_section, only_section, grey):
    sdata = make_section(grey, [(50, 50)])
    sdata["half"] = Image2DModel.parse(
        grey[:, ::2, ::2], dims=("c", "y", "x"), transformations={"global": Scale([2, 2], axes=("x", "y"))}
    )
    sdata.attrs["nh2st"] = {"mpp": {"image": 1.0, "half": 2.0}}
    assert side_of(only_section(sdata, image_key="half")) == pytest.approx(56)


def test_image_too_coarse_to_see_anything(make_sdata, caplog):
    (section,) = find_sections(make_sdata(("A",)))
    with pytest.raises(ValueError, match=r"patch of 112 um is 1.1 px of image 'A_image'.*full-resolution image"):
        side_of(section, mpp=100.0)
    side_of(section, mpp=10.0)
    assert "a patch of 112 um is only 11.2 px of image 'A_image'" in caplog.text


@pytest.mark.parametrize("read", [partial(nh.pp.estimate_mpp, pitch_um=100), nh.pp.embed, nh.tl.train])
def test_attributes_of_others_under_the_name_of_the_package(make_sdata, read):
    sdata = make_sdata(("A",))
    sdata.attrs["nh2st"] = "mine"
    with pytest.raises(ValueError, match=r"sdata.attrs\['nh2st'\] was not written by nh2st.*Rename it"):
        read(sdata)


@pytest.mark.parametrize("read", [nh.pp.normalize, nh.pp.embed, nh.tl.train, nh.tl.predict, nh.pl.training_history])
def test_records_of_others_under_the_name_of_the_package(make_sdata, read):
    sdata = make_sdata(("A",))
    sdata["table"].uns["nh2st"] = "mine"
    with pytest.raises(ValueError, match=r"uns\['nh2st'\] was not written by nh2st.*Rename it"):
        read(sdata)
