from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spatialdata import bounding_box_query
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Affine, Identity, Scale, Sequence, Translation, set_transformation

import nh2st as nh
from nh2st._sections import Selection, find_spots

HEIGHT, WIDTH = 120, 150
# A red square of 20 px, centred here (x, y).
SQUARE = (70, 40)
MOVES = {
    "translation": [[1, 0, 100], [0, 1, -50]],
    "scale": [[2, 0, 0], [0, 0.5, 0]],
    "rotation": [[0, -1, 0], [1, 0, 0]],
    "flip": [[1, 0, 0], [0, -1, 120]],
    "shear": [[1, 0.5, 0], [0, 1, 0]],
}
# Where each of them puts the centre of the square, worked out by hand.
MOVED = {"translation": (170, -10), "scale": (140, 20), "rotation": (-40, 70), "flip": (70, 80), "shear": (90, 40)}


def affine(matrix):
    return Affine(np.vstack([matrix, [0, 0, 1]]), input_axes=("x", "y"), output_axes=("x", "y"))


@pytest.fixture
def marked():
    image = np.full((3, HEIGHT, WIDTH), 230, dtype=np.uint8)
    image[:, 30:50, 60:80] = np.array([200, 10, 20], dtype=np.uint8)[:, None, None]
    return image


@pytest.mark.parametrize("move", MOVES)
def test_image_moves(make_section, read, marked, move):
    sdata = make_section(marked, [MOVED[move]], to_image={"global": affine(MOVES[move])})
    (patch,) = read(sdata, 20)
    assert (patch == [200, 10, 20]).all()


@pytest.mark.parametrize("move", MOVES)
def test_spots_move(make_section, read, marked, move):
    backward = np.linalg.inv(np.vstack([MOVES[move], [0, 0, 1]]))[:2]
    sdata = make_section(marked, [MOVED[move]], to_spots={"global": affine(backward)})
    (patch,) = read(sdata, 20)
    assert (patch == [200, 10, 20]).all()


def test_sequence_of_moves_in_axes_of_either_order(make_section, read, marked):
    # x: 70 * 3 + 5, y: 40 * 2 - 7
    to_image = Sequence([Scale([2, 3], axes=("y", "x")), Translation([5, -7], axes=("x", "y"))])
    (patch,) = read(make_section(marked, [(215, 73)], to_image={"global": to_image}), 20)
    assert (patch == [200, 10, 20]).all()


entries = st.floats(-3, 3, allow_subnormal=False)
maps = st.tuples(entries, entries, entries, entries).filter(lambda m: abs(m[0] * m[3] - m[1] * m[2]) > 0.2)
shifts = st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(maps, shifts, maps, shifts)
def test_any_affine_maps_of_image_and_spots(make_section, read, hand_cut, linear, shift, linear_spots, shift_spots):
    image = np.random.default_rng(1).integers(0, 255, (3, HEIGHT, WIDTH), dtype=np.uint8)
    pixels = np.array([[20, 30], [75, 60], [100, 100], [3, 118]])
    to_image, to_spots = (
        np.column_stack([np.reshape(m, (2, 2)), s]) for m, s in ((linear, shift), (linear_spots, shift_spots))
    )
    world = pixels @ to_image[:, :2].T + to_image[:, 2]
    own = np.linalg.solve(to_spots[:, :2], (world - to_spots[:, 2]).T).T
    sdata = make_section(image, own, to_image={"w": affine(to_image)}, to_spots={"w": affine(to_spots)}, radius=1)
    expected = [hand_cut(image.transpose(1, 2, 0), x, y, 16) for x, y in pixels]
    np.testing.assert_array_equal(read(sdata, 16), expected)


def test_radius_in_pixels_follows_the_scales(make_section, only_section, noise):
    double = Scale([2, 2], axes=("x", "y"))
    quarter = Scale([0.25, 0.25], axes=("x", "y"))
    section = only_section(make_section(noise, [(10, 10)], to_spots={"global": double}, to_image={"global": quarter}))
    np.testing.assert_allclose(section.pixels, [[80, 80]])
    np.testing.assert_allclose(section.pixel_radius, 80)
    np.testing.assert_allclose(section.xy, [[20, 20]])


def test_spatialdata_cuts_the_same_pixels(make_section, read, noise):
    """Its own query, in the coordinate system, of the square around a spot."""
    to_image = Sequence([Scale([2, 3], axes=("y", "x")), Translation([5, -7], axes=("x", "y"))])
    x, y = 60, 50
    center = np.array([x * 3 + 5, y * 2 - 7])
    sdata = make_section(noise, [center], to_image={"global": to_image})
    half = np.array([3 * 16, 2 * 16])
    queried = bounding_box_query(
        sdata["image"],
        axes=("x", "y"),
        min_coordinate=center - half,
        max_coordinate=center + half,
        target_coordinate_system="global",
    )
    np.testing.assert_array_equal(read(sdata, 32)[0], queried.transpose("y", "x", "c").to_numpy())


def test_systems_that_agree(make_section, read, marked, hand_cut):
    systems = {"pixels": Identity(), "doubled": Scale([2, 2], axes=("x", "y"))}
    sdata = make_section(marked, [SQUARE], to_image=systems, to_spots=systems)
    np.testing.assert_array_equal(read(sdata, 30)[0], hand_cut(marked.transpose(1, 2, 0), *SQUARE, 30))


def test_systems_that_disagree(make_section, read, only_section, marked):
    to_spots = {"global": Identity(), "aligned": Translation([20, -10], axes=("x", "y"))}
    to_image = {"global": Identity(), "aligned": Identity()}
    sdata = make_section(marked, [(50, 50)], to_image=to_image, to_spots=to_spots)
    with pytest.raises(ValueError, match="'spots'.*'image'.*'aligned', 'global'.*`coordinate_system=`"):
        nh.pp.estimate_mpp(sdata, 100)
    assert (read(sdata, 20, coordinate_system="aligned") == [200, 10, 20]).all()
    np.testing.assert_allclose(only_section(sdata, coordinate_system="global").pixels, [[50, 50]])


def test_image_in_another_system(make_section, noise):
    sdata = make_section(noise, [SQUARE], to_image={"microscope": Identity()})
    with pytest.raises(ValueError, match=r"No image shares.*'spots' \(global\).*'image'.*set_transformation"):
        nh.pp.estimate_mpp(sdata, 100)
    with pytest.raises(ValueError, match=r"'spots' \(in global\).*'image' \(in microscope\).*set_transformation"):
        nh.pp.estimate_mpp(sdata, 100, image_key="image")
    set_transformation(sdata["image"], Identity(), "global")
    nh.pp.estimate_mpp(make_section(noise, [(20, 20), (40, 20)]), 100)


def test_unknown_system(make_sdata):
    sdata = make_sdata(("A",))
    with pytest.raises(KeyError, match="'A' is not in coordinate system 'nowhere' .it is in: A"):
        nh.pp.estimate_mpp(sdata, 100, coordinate_system="nowhere")
    with pytest.raises(ValueError, match="'A'.*'A_image'.*no coordinate system named 'nowhere'"):
        nh.pp.estimate_mpp(sdata, 100, coordinate_system="nowhere", image_key="A_image")


def test_image_that_is_squashed_to_a_line(make_section, noise):
    flat = affine([[1, 0, 0], [0, 0, 0]])
    sdata = make_section(noise, [SQUARE, (1, 1)], to_image={"global": flat})
    with pytest.raises(ValueError, match="image 'image' to 'global' cannot be inverted"):
        nh.pp.estimate_mpp(sdata, 100)


def test_several_images(make_section, only_section, noise):
    sdata = make_section(noise, [SQUARE])
    sdata["lowres"] = Image2DModel.parse(noise[:, ::4, ::4], dims=("c", "y", "x"))
    with pytest.raises(ValueError, match="Several images fit region 'spots': 'image', 'lowres'.*`image_key=`"):
        nh.pp.estimate_mpp(sdata, 100)
    assert only_section(sdata, image_key="lowres").image_key == "lowres"
    assert only_section(sdata, image_key={"spots": "image"}).image_key == "image"
    with pytest.raises(KeyError, match="no image 'hires'; the object has: 'image', 'lowres'"):
        nh.pp.estimate_mpp(sdata, 100, image_key="hires")


def test_no_image(make_sdata):
    sdata = make_sdata(("A",))
    del sdata.images["A_image"]
    with pytest.raises(ValueError, match=r"No image.*'A'.*images: none.*Image2DModel.parse"):
        nh.pp.estimate_mpp(sdata, 100)


def test_without_an_image_the_identity_is_preferred(make_sdata):
    sdata = make_sdata(("A",))
    sdata.shapes["A"] = ShapesModel.parse(
        sdata["table"].obsm["spatial"],
        geometry=0,
        radius=15.0,
        transformations={"half": Scale([0.5, 0.5], axes=("x", "y")), "own": Identity()},
    )
    (spots,) = find_spots(sdata)
    assert spots.coordinate_system == "own"
    np.testing.assert_allclose(find_spots(sdata, Selection(coordinate_system="half"))[0].xy, spots.xy / 2)
    with pytest.raises(KeyError, match="'A' is not in the coordinate system 'A' .it is in: half, own"):
        find_spots(sdata, Selection(coordinate_system="A"))
