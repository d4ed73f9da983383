from __future__ import annotations

import logging

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from PIL import Image
from spatialdata import read_zarr
from spatialdata.models import Image3DModel

from nh2st._patches import make_pyramid, plan_windows, read_patches
from nh2st._sections import patch_windows

RGB = ["r", "g", "b"]


def grid(height, width, step, margin):
    ys, xs = np.meshgrid(np.arange(margin, height - margin + 1, step), np.arange(margin, width - margin + 1, step))
    return np.column_stack([xs.ravel(), ys.ravel()]).astype(float)


@pytest.fixture
def smooth():
    """Image (c, y, x) of odd size without sharp edges, as a pyramid can represent it."""
    y, x = np.mgrid[:603, :707]
    waves = [np.sin(x / 19) + np.cos(y / 23), np.sin((x + y) / 31), np.cos((x - y) / 17)]
    return np.stack([110 + 50 * wave for wave in waves]).astype(np.uint8)


@pytest.mark.parametrize("center", [(50, 60), (50.4, 59.6), (8, 8), (142, 112)])
def test_native_patches_are_the_pixels(make_section, read, hand_cut, noise, center):
    (patch,) = read(make_section(noise, [center]), 16)
    assert patch.dtype == np.uint8
    np.testing.assert_array_equal(patch, hand_cut(noise.transpose(1, 2, 0), *np.rint(center).astype(int), 16))


def test_odd_patches_are_centred(make_section, read, noise):
    (patch,) = read(make_section(noise, [(50.5, 60.5)]), 15)
    np.testing.assert_array_equal(patch[7, 7], noise[:, 60, 50])


@pytest.mark.parametrize("center", [(0, 0), (150, 120), (3, 60), (75, 119)])
def test_beyond_the_border_is_white(make_section, read, hand_cut, noise, caplog, center):
    caplog.set_level(logging.INFO)
    sdata = make_section(noise, [center, (70, 60)])
    np.testing.assert_array_equal(read(sdata, 32)[0], hand_cut(noise.transpose(1, 2, 0), *center, 32))
    assert "Section 'spots': 1 of 2 patches reach beyond the image and are padded with white." in caplog.text


def test_patches_wholly_beyond_the_border_are_white(noise):
    pyramid = make_pyramid("image", [da.from_array(noise)], RGB)
    centers = np.array([[-500.0, 50], [60, 900], [400, -400], [60, 50]])
    for side in (16, 40.0):
        patches = read_patches(pyramid, plan_windows(pyramid, centers, side, 16))
        assert (patches[:3] == 255).all()
        assert (patches[3] != 255).any()


def test_spots_outside_the_image(make_section, read, noise):
    sdata = make_section(noise, [(70, 60), (-11, 50), (70, 131), (-9, 50)])
    message = r"2 of 4 spots of section 'spots' lie wholly outside the image 'image' of 150 x 120 px.*'spot1', 'spot2'"
    with pytest.raises(ValueError, match=message + r".*transformations.*`spots=`"):
        read(sdata, 16)
    read(make_section(noise, [(70, 60), (-9, 50)]), 16)
    with pytest.raises(ValueError, match="1 of 1 spots"):
        read(make_section(noise, [(-1, 50)], kind="points"), 16)


@pytest.mark.parametrize("mpp", [0.25, 0.35, 0.5, 0.68, 1.0, 2.0])
def test_patches_have_a_physical_size(make_section, read, smooth, mpp):
    """The square of 112 um around a spot, as PIL resizes it with the whole image in memory."""
    center, side, pad = np.array([330.0, 301.0]), 112 / mpp, 300
    patches = read(make_section(smooth, [center]), 224, mpp=mpp)
    padded = np.pad(smooth.transpose(1, 2, 0), ((pad, pad), (pad, pad), (0, 0)), constant_values=255)
    box = (*(center + pad - side / 2), *(center + pad + side / 2))
    expected = np.asarray(Image.fromarray(padded).resize((224, 224), Image.Resampling.BILINEAR, box=box))
    difference = np.abs(patches[0].astype(int) - expected)
    # PIL rounds after each of its two passes, and ties may fall either way.
    assert difference.max() <= 2
    assert (difference > 1).mean() < 1e-3


def test_resampled_patches_at_the_border(make_section, read, smooth):
    patches = read(make_section(smooth, [(5, 3), (707, 603)]), 64, um=100, mpp=0.7)
    padded = np.pad(smooth.transpose(1, 2, 0), ((200, 200), (200, 200), (0, 0)), constant_values=255)
    for patch, center in zip(patches, np.array([(5, 3), (707, 603)]) + 200, strict=True):
        box = (*(center - 50 / 0.7), *(center + 50 / 0.7))
        expected = np.asarray(Image.fromarray(padded).resize((64, 64), Image.Resampling.BILINEAR, box=box))
        assert np.abs(patch.astype(int) - expected).max() <= 1


def level_of(section, mpp, um=112.0, px=56):
    windows = patch_windows(section, patch_um=um, patch_px=px, mpp=mpp)
    return [level.array.shape for level in section.image.levels].index(windows.level.array.shape)


def test_coarsest_scale_that_is_fine_enough_is_read(make_section, only_section, smooth):
    section = only_section(make_section(smooth, [(300, 300)], scale_factors=[2, 2]))
    # A patch pixel spans 2 um.
    expected = {4.0: 0, 2.0: 0, 1.5: 0, 1.0: 1, 0.8: 1, 0.5: 2, 0.3: 2}
    assert {mpp: level_of(section, mpp) for mpp in expected} == expected
    assert level_of(section, "native") == 0


@pytest.mark.parametrize("center", [(150, 150), (560, 450)])
@pytest.mark.parametrize("mpp", [1.0, 0.5, 0.4])
def test_scales_agree_on_odd_sizes(make_section, read, smooth, center, mpp):
    """Halving drops odd rows, so that coarser scales are shifted, but by less than one pixel of the patch."""
    single = read(make_section(smooth, [center]), 56, mpp=mpp)
    multi = read(make_section(smooth, [center], scale_factors=[2, 2]), 56, mpp=mpp)
    gradient = max(np.abs(np.diff(single.astype(int), axis=axis)).max() for axis in (1, 2))
    assert np.abs(single.astype(int) - multi).max() <= gradient + 2


def test_whole_pixels_of_a_coarse_scale_are_copied(make_section, read, noise, hand_cut):
    sdata = make_section(noise, [(60, 40)], scale_factors=[2])
    coarse = sdata["image"]["scale1"]["image"].to_numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(read(sdata, 16, um=32, mpp=1.0)[0], hand_cut(coarse, 30, 20, 16))


def test_order_of_the_spots_is_kept(make_section, read, hand_cut, noise):
    centers = grid(120, 150, 14, 10)
    np.random.default_rng(3).shuffle(centers)
    patches = read(make_section(noise, centers), 8)
    expected = [hand_cut(noise.transpose(1, 2, 0), x, y, 8) for x, y in centers.astype(int)]
    np.testing.assert_array_equal(patches, expected)


def test_only_chunks_under_spots_are_read(make_section, make_counted, read):
    image, reads = make_counted(512, 512, 64)
    sdata = make_section(image, [(100, 100), (120, 110)], chunks=(3, 64, 64))
    reads.clear()
    read(sdata, 32)
    # Rows 84 to 126 and columns 84 to 136.
    assert dict(reads) == {(1, 1): 1, (1, 2): 1}


def test_nothing_is_read_before_patches_are(make_section, make_counted, only_section):
    image, reads = make_counted(128, 128, 64)
    sdata = make_section(image, [(50, 50)], chunks=(3, 64, 64))
    reads.clear()
    patch_windows(only_section(sdata), patch_um=32, patch_px=32, mpp=1.0)
    assert not reads


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_store_that_fails_in_mid_read(make_section, read, dtype):
    def block(part, block_id=None):
        if block_id[1] == 1:
            raise RuntimeError("checksum of chunk 0.1.0 is wrong")
        return part

    lazy = da.full((3, 256, 64), 7, dtype=dtype, chunks=(3, 64, 64))
    lazy = da.map_blocks(block, lazy, dtype=dtype, meta=np.empty((0, 0, 0), dtype=dtype))
    sdata = make_section(lazy, [(30, 30), (30, 100)], chunks=(3, 64, 64))
    with pytest.raises(OSError, match=r"Image 'image' could not be read \(rows .*\): checksum of chunk 0.1.0 is wrong"):
        read(sdata, 16)


@pytest.mark.parametrize(
    ("pixels", "white"),
    [
        (lambda image: image.astype(np.uint16) * 257, 65535),
        (lambda image: image.astype(np.uint16), 255),
        (lambda image: image.astype(np.int64), 255),
        (lambda image: (image / 255).astype(np.float32), 1),
        (lambda image: image / 255 * 1.001, 1),
        (lambda image: image.astype(np.float64), 255),
    ],
)
def test_every_depth_becomes_eight_bits(make_section, read, hand_cut, noise, caplog, pixels, white):
    patches = read(make_section(pixels(noise), [(50, 50)]), 16)
    assert patches.dtype == np.uint8
    expected = hand_cut(noise.transpose(1, 2, 0), 50, 50, 16).astype(int)
    assert np.abs(patches[0].astype(int) - expected).max() <= (1 if white == 1 else 0)
    assert f"'image' has pixels of type {pixels(noise).dtype}; {white} is taken as white" in caplog.text


def test_missing_pixels_are_white(make_section, read, noise):
    image = noise / 255
    image[:, 45:55, 45:55] = np.nan
    assert (read(make_section(image, [(50, 50)]), 8) == 255).all()


def test_depth_is_found_without_reading_the_whole_image(make_section, make_counted, only_section):
    image, reads = make_counted(3072, 3072, 256, dtype=np.uint16)
    section = only_section(make_section(image, [(50, 50)], chunks=(3, 256, 256)))
    reads.clear()
    assert section.image.shape == (3072, 3072)
    assert sum(reads.values()) <= 64


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((3, 40, 40), 70_000.0), "70000 to 70000; convert it to 8-bit RGB"),
        (np.full((3, 40, 40), -1, dtype=np.int16), "-1 to -1; convert"),
        (np.full((3, 40, 40), np.inf), "inf; convert"),
        (np.full((3, 40, 40), np.nan), "nan; convert"),
        (np.ones((3, 40, 40), dtype=bool), "pixels of type bool; 8-bit, 16-bit or float"),
        (np.zeros((1, 40, 40), dtype=np.uint8), "has 1 channel; H&E patches need the three colours.*`image_key=`"),
        (np.zeros((2, 40, 40), dtype=np.uint8), "has 2 channels; H&E"),
        (np.zeros((5, 40, 40), dtype=np.uint8), "has 5 channels; H&E"),
        (np.zeros((40, 50, 3), dtype=np.uint8), r"40 channels and is 50 x 3 px.*wrong order.*dims=\('y', 'x', 'c'\)"),
        (np.zeros((50, 3, 40), dtype=np.uint8), "50 channels and is 3 x 40 px.*wrong order"),
    ],
)
def test_images_that_are_not_colour_images(make_section, read, image, words):
    with pytest.raises(ValueError, match=f"Image 'image'.*{words}"):
        read(make_section(image, [(2, 2)]), 16)


@pytest.mark.parametrize("shape", [(3, 0, 5), (3, 5, 0)])
def test_empty_image(shape):
    with pytest.raises(ValueError, match=rf"Image 'slide' is empty \({shape[1]} x {shape[2]} px\)"):
        make_pyramid("slide", [np.zeros(shape, dtype=np.uint8)], RGB)


def test_image_with_depth(make_section, read, noise):
    sdata = make_section(noise, [(50, 50)])
    sdata["stack"] = Image3DModel.parse(noise[:, None], dims=("c", "z", "y", "x"))
    with pytest.raises(ValueError, match="'stack' has the axes c, z, y, x; a 2D image"):
        read(sdata, 16, image_key="stack")


@pytest.mark.parametrize(
    ("channels", "order"),
    [
        (["a", "b", "g", "r"], [3, 2, 1]),
        (["red", "green", "blue", "alpha"], [0, 1, 2]),
        (["0", "1", "2", "3"], [0, 1, 2]),
        (["B", "G", "R"], [2, 1, 0]),
    ],
)
def test_channels_are_chosen_by_name(make_section, read, hand_cut, caplog, channels, order):
    image = np.random.default_rng(0).integers(0, 255, (len(channels), 60, 60), dtype=np.uint8)
    patches = read(make_section(image, [(30, 30)], c_coords=channels), 16)
    np.testing.assert_array_equal(patches[0], hand_cut(image[order].transpose(1, 2, 0), 30, 30, 16))
    assert f"'image' has {len(channels)} channels; {[channels[i] for i in order]} are used as RGB" in caplog.text


def test_three_plain_channels_need_no_message(make_section, read, noise, caplog):
    read(make_section(noise, [(30, 30)]), 16)
    assert not caplog.text


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
def test_patches_from_disk(make_section, read, tmp_path, noise):
    make_section(noise, [(50, 50)], scale_factors=[2]).write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read(again, 16), read(make_section(noise, [(50, 50)]), 16))


@pytest.fixture
def stored(tmp_path, noise):
    """Lazy image on disk."""
    on_disk = zarr.create_array(tmp_path / "image.zarr", data=noise, chunks=(3, 64, 64))
    return da.from_zarr(on_disk)


def around_the_middle(array):
    pyramid = make_pyramid("image", [array], RGB)
    return read_patches(pyramid, plan_windows(pyramid, np.array([[70.0, 60.0]]), 100, 100))[0]


def test_stored_images_are_read_without_a_graph(stored, noise, monkeypatch):
    def compute(self, **kwargs):
        raise AssertionError("each graph costs milliseconds")

    pyramid = make_pyramid("image", [stored], RGB)
    monkeypatch.setattr(da.Array, "compute", compute)
    pixels = pyramid.read(pyramid.levels[0], slice(10, 80), slice(5, 130))
    np.testing.assert_array_equal(pixels, noise[:, 10:80, 5:130].transpose(1, 2, 0))


def blocks_of_a_data_set(image):
    """Computed by xarray, which names its result after the source."""
    named = xr.DataArray(image, dims=("c", "y", "x"))
    return named.to_dataset().map_blocks(np.invert, template=named.to_dataset())[named.name].data


@pytest.mark.parametrize(
    "change",
    [
        lambda image: 255 - image,
        lambda image: image[::-1],
        lambda image: image.map_blocks(np.invert),
        blocks_of_a_data_set,
        lambda image: dask.optimize(image.map_blocks(np.invert))[0],
        lambda image: da.concatenate([image[:, :50], image[:, 50:] // 2], axis=1),
    ],
    ids=["arithmetic", "order of channels", "blocks", "blocks of a data set", "optimized", "joined"],
)
def test_images_computed_from_stored_ones(stored, change):
    expected = change(stored).compute().transpose(1, 2, 0)
    np.testing.assert_array_equal(around_the_middle(change(stored)), expected[10:110, 20:120])
