from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image
from spatialdata import SpatialData, read_zarr

import nh2st as nh
from nh2st._cli import main

TINY = {
    "encoder": "test_resnet",
    "encoder_weights": None,
    "network": {"width": 32, "heads": 2},
    "patch_px": 32,
    "patch_um": 56.0,
    "genes": 6,
    "max_epochs": 1,
    "batch_size": 16,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def section() -> SpatialData:
    """A slide that is tissue all over, 600 um wide."""
    return nh.datasets.synthetic(1, spots_per_side=5, n_genes=12, seed=5)


@pytest.fixture(scope="session")
def pixels(section: SpatialData) -> np.ndarray:
    return np.asarray(section.images["S1_image"]["scale0"]["image"].data).transpose(1, 2, 0)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sdata = nh.datasets.synthetic(2, spots_per_side=4, n_genes=12)
    return nh.tl.train(sdata, **TINY).save(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def slide(tmp_path: Path, pixels: np.ndarray) -> Path:
    """The slide as TIFF, 1 um per pixel."""
    path = tmp_path / "slide 1.tif"
    resolution = {"resolution": (10_000, 10_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **resolution)
    return path


@pytest.fixture
def predict(tmp_path: Path, model: Path) -> Callable[..., Result]:
    def run(slide: Path, *options: object, model: Path = model, out: Path = tmp_path / "out.zarr") -> Result:
        arguments = ["predict", slide, model, "--out", out, "--device", "cpu", *options]
        return CliRunner().invoke(main, list(map(str, arguments)))

    return run


def failed(result: Result, message: str, *, code: int = 1) -> None:
    assert result.exit_code == code
    assert "Traceback" not in result.output
    assert message in " ".join(result.output.split())


def test_an_image_file_becomes_a_store_with_tiles_and_predictions(predict, slide, model, tmp_path, pixels):
    before = slide.read_bytes()
    result = predict(slide, "--tile-um", 100)
    assert result.exit_code == 0, result.output
    assert "out.zarr: 6 genes predicted for 36 spots of table 'nh2st'" in " ".join(result.output.split())
    assert slide.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {slide.name, "out.zarr"}
    sdata = read_zarr(tmp_path / "out.zarr")
    table = sdata["nh2st"]
    genes = nh.models.load(model).genes
    assert list(table.var_names) == genes
    assert table.layers["nh2st"].shape == (36, 6)
    assert np.isfinite(nh.get.predicted(table).X).all()
    assert len(sdata["nh2st_tiles"]) == 36
    assert sdata.attrs["nh2st"]["mpp"] == {"slide_1": 1.0}
    np.testing.assert_array_equal(sdata.images["slide_1"].transpose("y", "x", "c"), pixels)


def test_the_result_is_that_of_the_function(predict, slide, model, tmp_path, pixels):
    predict(slide, "--tile-um", 100, "--batch-size", 7)
    written = read_zarr(tmp_path / "out.zarr")
    assert predict(tmp_path / "out.zarr", "--tile-um", 100, out=tmp_path / "again.zarr").exit_code == 0
    sdata = SpatialData(images={"slide_1": written.images["slide_1"]})
    nh.tl.predict(sdata, model, tile_um=100, mpp=1.0, device="cpu")
    for other in (written, read_zarr(tmp_path / "again.zarr")):
        found = other["nh2st"].layers["nh2st"]
        np.testing.assert_allclose(found, sdata["nh2st"].layers["nh2st"], atol=1e-5)


def test_encoders_can_compute_in_integers(predict, slide, tmp_path):
    pytest.importorskip("nncf")
    layers = []
    for precision in ("32", "int8"):
        result = predict(slide, "--tile-um", 100, "--precision", precision, "--overwrite")
        assert result.exit_code == 0, result.output
        layers.append(read_zarr(tmp_path / "out.zarr")["nh2st"].layers["nh2st"])
    exact, rounded = layers
    assert 0 < np.abs(rounded - exact).max() < 0.5 * np.ptp(exact)


def test_spots_of_a_store_are_predicted(predict, section, tmp_path):
    section.write(tmp_path / "section.zarr")
    result = predict(tmp_path / "section.zarr")
    assert result.exit_code == 0, result.output
    sdata = read_zarr(tmp_path / "out.zarr")
    assert "nh2st" not in sdata.tables
    assert nh.get.predicted(sdata).shape == (25, 6)
    assert "nh2st" not in read_zarr(tmp_path / "section.zarr")["table"].layers


def test_the_image_can_be_left_out(predict, slide, tmp_path):
    assert predict(slide, "--no-image").exit_code == 0
    sdata = read_zarr(tmp_path / "out.zarr")
    assert not sdata.images
    assert sdata["nh2st"].n_obs == len(sdata["nh2st_tiles"])


def test_an_unknown_scale_can_be_given(predict, tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    failed(predict(tmp_path / "slide.png"), "The scale of image 'slide'")
    assert not (tmp_path / "out.zarr").exists()
    assert predict(tmp_path / "slide.png", "--mpp", 2).exit_code == 0
    assert read_zarr(tmp_path / "out.zarr").attrs["nh2st"]["mpp"] == {"slide": 2.0}
    assert predict(tmp_path / "slide.png", "--mpp", "native", "--overwrite").exit_code == 1


def test_a_store_that_is_there_is_replaced_only_on_request(predict, slide, tmp_path):
    assert predict(slide, "--tile-um", 200).exit_code == 0
    few = read_zarr(tmp_path / "out.zarr")["nh2st"].n_obs
    failed(predict(slide, "--tile-um", 100), "out.zarr exists already")
    assert read_zarr(tmp_path / "out.zarr")["nh2st"].n_obs == few
    assert predict(slide, "--tile-um", 100, "--overwrite").exit_code == 0
    assert read_zarr(tmp_path / "out.zarr")["nh2st"].n_obs > few


def test_a_slide_without_tissue_leaves_no_store(predict, tmp_path):
    Image.new("RGB", (600, 600), "white").save(tmp_path / "blank.png")
    failed(predict(tmp_path / "blank.png", "--mpp", 1), "No tissue was found in image 'blank'")
    assert not (tmp_path / "out.zarr").exists()


def test_what_is_no_slide_or_no_model_is_named(predict, slide, tmp_path):
    (tmp_path / "page.svs").write_text("<html>404</html>")
    failed(predict(tmp_path / "page.svs"), "page.svs cannot be read")
    failed(predict(slide, model=tmp_path / "page.svs"), "page.svs")
    assert not (tmp_path / "out.zarr").exists()


def test_the_slide_is_never_overwritten(predict, section, tmp_path):
    section.write(tmp_path / "out.zarr")
    failed(predict(tmp_path / "out.zarr", "--overwrite"), "the slide itself is never changed")
    assert "nh2st" not in read_zarr(tmp_path / "out.zarr")["table"].layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mpp", "0"], "'--mpp'"),
        (["--mpp", "small"], "'--mpp'"),
        (["--tile-um", "-1"], "'--tile-um'"),
        (["--batch-size", "0"], "'--batch-size'"),
        (["--precision", "8"], "'--precision'"),
    ],
)
def test_options_are_checked(predict, slide, options, message):
    failed(predict(slide, *options), message, code=2)


def test_help_shows_the_options():
    shown = CliRunner().invoke(main, ["predict", "--help"])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in ("SLIDE", "MODEL", "--out", "--mpp", "--tile-um", "--no-image"))
