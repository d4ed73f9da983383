from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from xarray import DataArray

from nh2st._slides import read_slide

TILED: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
HEIGHT, WIDTH = 700, 1300


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Smooth colours (y, x, 3), which compression changes little."""
    y, x = np.meshgrid(np.linspace(0, 1, HEIGHT), np.linspace(0, 1, WIDTH), indexing="ij")
    return (255 * np.stack([y, x, 1 - x * y], axis=-1)).astype(np.uint8)


@pytest.fixture
def save(tmp_path: Path, pixels: np.ndarray) -> Callable[..., Path]:
    """Write a one-page TIFF."""

    def write(name: str = "slide.tif", array: np.ndarray | None = None, **options: Any) -> Path:
        tifffile.imwrite(tmp_path / name, pixels if array is None else array, **(TILED | options))
        return tmp_path / name

    return write


def svs(path: Path, pixels: np.ndarray, compression: str = "jpeg") -> Path:
    """Pages of an Aperio file: image, thumbnail, coarse level, label, macro."""
    head = "Aperio Image Library v11.2.1\r\n1300x700 [0,0 1300x700] (256x256)"
    tiled = TILED | {"compression": compression}
    if compression == "jpeg":
        tiled["compressionargs"] = {"level": 95}
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, **tiled, description=f"{head} JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990|Left = 2")
        writer.write(
            pixels[::7, ::7], photometric="rgb", metadata=None, description=f"{head} -> 186x100 - |AppMag = 20"
        )
        writer.write(np.ascontiguousarray(pixels[::4, ::4]), **tiled, description=f"{head} -> 325x175 JPEG/RGB")
        for number, name in ((1, "label"), (9, "macro")):
            description = f"Aperio Image Library v11.2.1\r\n{name} 90x80"
            small = pixels[:80, :90]
            writer.write(small, photometric="rgb", metadata=None, subfiletype=number, description=description)
    return path


def ome(path: Path, pixels: np.ndarray, **metadata: Any) -> Path:
    """A pyramid in sub-files, and a label image."""
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(pixels, subifds=2, metadata={"axes": "YXS", **metadata}, **options)
        for step in (2, 4):
            writer.write(np.ascontiguousarray(pixels[::step, ::step]), subfiletype=1, **options)
        writer.write(pixels[:50, :70], photometric="rgb", metadata={"Name": "label"})
    return path


def levels_of(sdata: SpatialData, key: str) -> list[np.ndarray]:
    image = sdata.images[key]
    Image2DModel.validate(image)
    scales = [image] if isinstance(image, DataArray) else [image[name]["image"] for name in image.children]
    return [scale.transpose("y", "x", "c").data.compute() for scale in scales]


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for compression, which is worse at the border."""
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected)[:-16, :-16].max() < 12


def mpp_of(sdata: SpatialData) -> dict[str, float]:
    return sdata.attrs.get("nh2st", {}).get("mpp", {})


def test_svs_keeps_its_levels_and_scale(tmp_path, pixels):
    sdata = read_slide(svs(tmp_path / "case 12 (A).svs", pixels))
    assert list(sdata.images) == ["case_12_A"]
    finest, coarse = levels_of(sdata, "case_12_A")
    assert_close(finest, pixels)
    assert_close(coarse, pixels[::4, ::4])
    assert mpp_of(sdata) == {"case_12_A": pytest.approx(0.499)}
    assert list(sdata.images["case_12_A"]["scale0"]["image"]["c"].values) == ["r", "g", "b"]


def test_svs_of_jpeg_2000_in_rgb(tmp_path, pixels):
    finest, _ = levels_of(read_slide(svs(tmp_path / "slide.svs", pixels, "APERIO_JP2000_RGB")), "slide")
    assert_close(finest, pixels)


def test_ome_tiff_keeps_its_levels_and_scale(tmp_path, pixels):
    size = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    sdata = read_slide(ome(tmp_path / "slide.ome.tif", pixels, **size))
    for step, level in zip((1, 2, 4), levels_of(sdata, "slide"), strict=True):
        np.testing.assert_array_equal(level, pixels[::step, ::step])
    assert mpp_of(sdata) == {"slide": pytest.approx(0.25)}


@pytest.mark.parametrize(
    "size",
    [{}, {"PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "pixel", "PhysicalSizeY": 1.0, "PhysicalSizeYUnit": "pixel"}],
)
def test_ome_tiff_without_micrometres_has_no_scale(tmp_path, pixels, size):
    assert mpp_of(read_slide(ome(tmp_path / "slide.ome.tif", pixels, **size))) == {}


def test_planar_colours_are_put_together(save, pixels):
    path = save(array=pixels.transpose(2, 0, 1).copy(), planarconfig="separate")
    np.testing.assert_array_equal(levels_of(read_slide(path), "slide")[0], pixels)


def test_strips_are_read_in_parts(save, pixels):
    path = save(tile=None, rowsperstrip=16, compression="deflate")
    sdata = read_slide(path)
    np.testing.assert_array_equal(levels_of(sdata, "slide")[0], pixels)


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        ((20_000, 20_000), "CENTIMETER", 0.5),
        ((50_800, 50_800), "INCH", 0.5),
        ((300, 300), "INCH", None),
        ((20_000, 20_000), "NONE", None),
        ((0, 0), "CENTIMETER", None),
    ],
)
def test_resolution_tags_are_used_where_plausible(save, resolution, unit, mpp):
    found = mpp_of(read_slide(save(resolution=resolution, resolutionunit=unit)))
    assert found == ({} if mpp is None else {"slide": pytest.approx(mpp)})


def test_a_large_image_is_halved_until_it_is_small(tmp_path):
    rng = np.random.default_rng(0)
    large = rng.integers(0, 255, (301, 4203, 3), dtype=np.uint8)
    for name in ("slide.tif", "slide.png"):
        if name.endswith("tif"):
            tifffile.imwrite(tmp_path / name, large, **TILED)
        else:
            Image.fromarray(large).save(tmp_path / name, compress_level=0)
        found = levels_of(read_slide(tmp_path / name), "slide")
        assert [level.shape for level in found] == [(301, 4203, 3), (150, 2101, 3), (75, 1050, 3)]
        means = large[:300, :4202].astype(float).reshape(150, 2, 2101, 2, 3).mean(axis=(1, 3))
        assert np.abs(found[1] - means).max() <= 0.5


def test_png_and_jpeg(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "slide.png", dpi=(50_800, 50_800))
    Image.fromarray(pixels).save(tmp_path / "slide.jpg", quality=95, dpi=(72, 72))
    exact, lossy = (read_slide(tmp_path / name) for name in ("slide.png", "slide.jpg"))
    np.testing.assert_array_equal(levels_of(exact, "slide")[0], pixels)
    assert_close(levels_of(lossy, "slide")[0], pixels)
    assert mpp_of(exact) == {"slide": pytest.approx(0.5, rel=1e-3)}
    assert mpp_of(lossy) == {}


def test_transparency_is_white(tmp_path, pixels):
    alpha = np.full((HEIGHT, WIDTH, 1), 255, dtype=np.uint8)
    alpha[:100] = 0
    Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(tmp_path / "slide.png")
    (found,) = levels_of(read_slide(tmp_path / "slide.png"), "slide")
    assert (found[:100] == 255).all()
    np.testing.assert_array_equal(found[100:], pixels[100:])


def test_a_store_is_read_as_it_is(tmp_path, make_sdata):
    make_sdata(("A",)).write(tmp_path / "store.zarr")
    sdata = read_slide(tmp_path / "store.zarr")
    assert {name for _, name, _ in sdata.gen_elements()} == {"A_image", "A", "table"}


# Files that are damaged, hostile or something else.


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_slide(path)
    assert path.name in str(error.value)


@pytest.mark.parametrize("name", ["slide.svs", "slide.tif", "slide.png", "slide.jpg"])
@pytest.mark.parametrize(
    "content", [b"", b"<html>404 Not Found</html>", b"II*\0\x08\0\0\0", b"\x89PNG\r\n\x1a\n" + b"x" * 99]
)
def test_what_is_no_image_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "cannot be read")


@pytest.mark.parametrize("name", ["slide.svs", "slide.ome.tif", "slide.png", "slide.jpg"])
def test_a_file_that_is_cut_short_is_named(tmp_path, pixels, name):
    path = tmp_path / name
    if name.endswith("svs"):
        svs(path, pixels)
    elif name.endswith("tif"):
        ome(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    for share in (0.1, 0.4, 0.7):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path, "cannot be read")


def test_a_damaged_tile_fails_when_it_is_read_and_not_silently(tmp_path, pixels):
    path = svs(tmp_path / "slide.svs", pixels)
    with tifffile.TiffFile(path) as file:
        start, size = file.pages[0].dataoffsets[4], file.pages[0].databytecounts[4]
    content = bytearray(path.read_bytes())
    content[start : start + size] = bytes(size)
    path.write_bytes(bytes(content))
    with pytest.raises(Exception, match=r"(?i)jpeg"):
        levels_of(read_slide(path), "slide")


def test_an_image_too_large_to_be_decoded_whole_is_refused(tmp_path, monkeypatch, pixels):
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 3)
    refused(tmp_path / "slide.png", "too large to be decoded whole.*tiled TIFF")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 + 1)
    assert read_slide(tmp_path / "slide.png").images


def test_a_text_that_unpacks_to_gigabytes_is_refused(tmp_path):
    text = PngInfo()
    text.add_text("comment", "x" * 100_000_000, zip=True)
    Image.new("RGB", (50, 50)).save(tmp_path / "slide.png", pnginfo=text)
    refused(tmp_path / "slide.png", "cannot be read")


def test_a_tiff_in_one_huge_block_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, shape=(20_000, 20_000, 3), dtype=np.uint8, photometric="rgb", metadata=None)
    refused(path, r"blocks of 20000 x 20000 px \(1\.1 GiB\).*--tile")


def test_a_width_that_no_tiles_fill_is_refused(save):
    path = save()
    with tifffile.TiffFile(path) as file:
        place, kind = file.pages.first.tags["ImageWidth"].offset + 8, file.pages.first.tags["ImageWidth"].dtype
    content = bytearray(path.read_bytes())
    content[place : place + (2 if kind == 3 else 4)] = b"\xf0\xff" if kind == 3 else b"\xf0\xff\xff\x7f"
    path.write_bytes(bytes(content))
    refused(path, "damaged")


@pytest.mark.parametrize("place", ["description", "xmp"])
def test_xml_entities_are_refused(save, place):
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">{entities}]><OME>&a9;</OME>'
    if place == "description":
        path = save(description=bomb)
    else:
        path = save(extratags=[(700, "B", len(bomb), bomb.encode(), True)])
    refused(path, "entities")


def test_other_files_that_the_metadata_name_are_not_opened(tmp_path, pixels):
    path = ome(tmp_path / "slide.ome.tif", pixels)
    with tifffile.TiffFile(path) as file:
        xml = file.ome_metadata
    uuid = xml.split('UUID="')[1].split('"')[0]
    secret = tmp_path / "elsewhere" / "secret.tif"
    secret.parent.mkdir()
    tifffile.imwrite(secret, np.full_like(pixels, 7), **TILED)
    data = f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="elsewhere/secret.tif">{uuid}0</UUID></TiffData>'
    tifffile.tiffcomment(path, xml.replace('<TiffData IFD="0" PlaneCount="1"/>', data, 1).encode())
    finest = levels_of(read_slide(path), "slide")[0]
    np.testing.assert_array_equal(finest, pixels)


@pytest.mark.parametrize(
    ("shape", "photometric"), [((300, 400), "minisblack"), ((5, 300, 400), "minisblack"), ((2, 300, 400, 3), "rgb")]
)
def test_other_than_rgb_is_refused(tmp_path, shape, photometric):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, np.zeros(shape, dtype=np.uint8), photometric=photometric, tile=(256, 256))
    refused(path, "an RGB image is needed")


def test_a_grey_picture_is_refused(tmp_path, pixels):
    Image.fromarray(pixels).convert("L").save(tmp_path / "slide.png")
    refused(tmp_path / "slide.png", "grey image")


def test_jpeg_2000_in_ycbcr_is_refused(tmp_path, pixels):
    refused(svs(tmp_path / "slide.svs", pixels, "APERIO_JP2000_YCBC"), "YCbCr in JPEG 2000.*vips tiffsave")


def test_a_missing_decoder_names_the_extra(tmp_path, pixels, monkeypatch):
    path = svs(tmp_path / "slide.svs", pixels)
    monkeypatch.setattr("nh2st._slides._tiff.find_spec", lambda name: None)
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", {})
    with pytest.raises(ImportError, match=r"slide\.svs.*JPEG.*pip install 'nh2st\[slides\]'"):
        read_slide(path)


def test_missing_files_and_other_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nowhere\.svs"):
        read_slide(tmp_path / "nowhere.svs")
    refused(tmp_path, "no SpatialData zarr store")
    (tmp_path / "zarr.json").write_text("{")
    refused(tmp_path, "cannot be read as a SpatialData zarr store")
