from __future__ import annotations

import dataclasses
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Identity

import nh2st as nh

mpl.use("Agg")

SIDE = 480


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """Stained tissue (y, x, 3), 1 um per pixel."""
    sdata = nh.datasets.synthetic(1, spots_per_side=6, seed=3)
    pixels = np.asarray(sdata.images["S1_image"]["scale0"]["image"].data)
    return pixels[:, :SIDE, :SIDE].transpose(1, 2, 0)


@pytest.fixture
def make_slide(tissue) -> Callable[..., SpatialData]:
    """Slides of white glass with tissue in the left half, and no spots."""

    def make(*names: str, mpp: float | None = 1.0) -> SpatialData:
        pixels = tissue.copy()
        pixels[:, SIDE // 2 :] = 250
        images = {
            name: Image2DModel.parse(
                pixels, dims=("y", "x", "c"), c_coords=["r", "g", "b"], transformations={name: Identity()}
            )
            for name in names or ("slide",)
        }
        return SpatialData(images=images, attrs={"nh2st": {"mpp": dict.fromkeys(images, mpp)}} if mpp else {})

    return make


def other_model(model: nh.models.Model, genes: list[str]) -> nh.models.Model:
    torch.manual_seed(1)
    config = dataclasses.replace(model.config, n_genes=len(genes))
    network = nh.nn.NH2ST(config, encoder_weights=None).eval()
    return dataclasses.replace(model, network=network, genes=genes, baselines=None)


def pitch_of(sdata: SpatialData) -> float:
    return 2 * sdata["nh2st_tiles"]["radius"].iloc[0]


def test_tiles_lie_at_the_pitch_of_training_and_have_the_whole_panel(make_slide, model, tissue):
    sdata = make_slide()
    nh.tl.predict(sdata, model, batch_size=7)
    table = sdata["nh2st"]
    # The median of the sections whose pitch is known.
    assert pitch_of(sdata) == 40
    assert list(table.var_names) == model.genes
    assert table.var["nh2st_predicted"].all()
    assert isinstance(table.layers["nh2st"], np.ndarray)
    assert not table.obsm.keys() - {"spatial"}
    assert set(table.uns["nh2st"]) == {"tiles", "nh2st"}
    centers = table.obsm["spatial"]
    assert centers[:, 0].max() < SIDE / 2 + 40
    assert table.n_obs > 40
    corners = [(round(x) - 16, round(y) - 16) for x, y in centers[centers[:, 0] < SIDE / 2 - 16]]
    patches = np.stack([tissue[y : y + 32, x : x + 32] for x, y in corners])
    expected = model.network.predict(torch.from_numpy(patches)).numpy()
    np.testing.assert_allclose(table.layers["nh2st"][centers[:, 0] < SIDE / 2 - 16], expected, rtol=1e-4, atol=1e-4)


def test_a_context_model_sees_the_tiles_around(make_slide, context_model, tissue):
    sdata = make_slide()
    nh.tl.predict(sdata, context_model)
    table, network = sdata["nh2st"], context_model.network
    centers = table.obsm["spatial"]
    glass = tissue.copy()
    glass[:, SIDE // 2 :] = 250
    tokens = network.reduction.tokens([features_by_hand(network, glass, centers, side) for side in (32, 64)])
    around = cKDTree(centers).query_ball_point(centers, 1.6 * 40)
    nodes = [[spot, *(other for other in others if other != spot)] for spot, others in enumerate(around)]
    assert sorted({len(row) for row in nodes})[-1] == 9 > min(map(len, nodes))
    for spot, node in enumerate(nodes):
        batch = nh.nn.NeighborBatch(
            torch.from_numpy(tokens), torch.zeros(len(tokens), 8), torch.tensor([node]), torch.ones(1, len(node)).bool()
        )
        mean, std = network.predict_with_std(batch)
        np.testing.assert_allclose(table.layers["nh2st"][spot], mean[0], atol=5e-3)
        np.testing.assert_allclose(table.layers["nh2st_std"][spot], std[0], rtol=1e-3)
    assert set(table.layers) == {"nh2st", "nh2st_std"}


def features_by_hand(network: nh.nn.ContextNetwork, pixels: np.ndarray, centers: np.ndarray, side: int) -> np.ndarray:
    whole = Image.fromarray(np.pad(pixels, ((side, side), (side, side), (0, 0)), constant_values=255))
    corners = [(round(x) - side // 2 + side, round(y) - side // 2 + side) for x, y in centers]
    boxes = [(x, y, x + side, y + side) for x, y in corners]
    patches = np.stack([np.asarray(whole.resize((32, 32), Image.Resampling.BILINEAR, box=box)) for box in boxes])
    with torch.inference_mode():
        return network.encoder.features(torch.from_numpy(patches)).half().numpy()


def test_training_records_the_pitch(make_sdata, tmp_path):
    sdata = make_sdata(("A", "B"), side=4)
    sdata.attrs["nh2st"]["mpp"] = {"A_image": 0.5, "B_image": 1.0}
    settings = {"encoder": "test_resnet", "encoder_weights": None, "network": {"width": 32, "heads": 2}}
    trained = nh.tl.train(sdata, patch_px=32, patch_um=32.0, max_epochs=1, device="cpu", **settings)
    assert trained.provenance["pitch"] == [20.0, 40.0]
    loaded = nh.models.load(trained.save(tmp_path / "model.safetensors"))
    assert loaded.provenance["pitch"] == [20.0, 40.0]


@pytest.mark.parametrize(
    ("pitches", "given", "expected"), [([40.0], 80, 80), ([None], None, 112), ([30.0, 50.0, 100.0], None, 50)]
)
def test_distance_of_tiles(make_slide, model, pitches, given, expected):
    sdata = make_slide()
    nh.tl.predict(sdata, dataclasses.replace(model, provenance={"pitch": pitches}), tile_um=given)
    assert pitch_of(sdata) == expected


def test_a_model_of_plain_pixels_needs_no_scale(make_slide, model):
    sdata = make_slide(mpp=None)
    with pytest.raises(ValueError, match=r"'slide'.*`mpp=0\.5`"):
        nh.tl.predict(sdata, model)
    nh.tl.predict(sdata, dataclasses.replace(model, patch_um=None))
    assert pitch_of(sdata) == 40
    assert sdata["nh2st"].uns["nh2st"]["nh2st"]["mpp"] == {"nh2st_tiles": "native"}


def test_tiles_that_are_there_get_the_panel(make_slide, model, caplog):
    sdata = make_slide()
    nh.pp.tissue_tiles(sdata, tile_um=60)
    shapes, n_obs = sdata["nh2st_tiles"], sdata["nh2st"].n_obs
    nh.pp.embed(sdata, "test_resnet", encoder_weights=None, patch_um=32, patch_px=32)
    nh.tl.predict(sdata, model, tile_um=80)
    table = sdata["nh2st"]
    assert sdata["nh2st_tiles"] is shapes
    assert "nh.pp.tissue_tiles(sdata, tile_um=80)" in caplog.text
    assert table.shape == (n_obs, 8)
    assert np.isfinite(table.layers["nh2st"]).all()
    assert "nh2st_embedding" in table.obsm


def test_another_model_replaces_the_panel(make_slide, model):
    sdata = make_slide()
    nh.tl.predict(sdata, model)
    n_obs = sdata["nh2st"].n_obs
    other = other_model(model, ["X", "gene3", "Y"])
    nh.tl.predict(sdata, other)
    table = sdata["nh2st"]
    assert list(table.var_names) == other.genes
    assert list(table.layers) == ["nh2st"]
    assert table.n_obs == n_obs
    assert table.uns["nh2st"]["nh2st"]["sha256"] == other.sha256
    nh.tl.predict(sdata, model)
    nh.tl.predict(sdata, model)
    assert list(sdata["nh2st"].var_names) == model.genes


def test_another_name_keeps_the_first_panel(make_slide, model):
    sdata = make_slide()
    nh.tl.predict(sdata, model)
    first = sdata["nh2st"].layers["nh2st"].copy()
    nh.tl.predict(sdata, other_model(model, ["X", "gene3", "Y"]), key_added="other")
    table = sdata["nh2st"]
    assert list(table.var_names) == model.genes
    np.testing.assert_array_equal(table.layers["nh2st"], first)
    assert list(table.obsm["other"].columns) == ["X", "Y"]
    assert list(nh.get.predicted(sdata, "other").var_names) == ["X", "gene3", "Y"]


def fail_to_read(monkeypatch: pytest.MonkeyPatch, image: str) -> None:
    """Let the patches of an image fail, not the overview in which tissue is looked for."""
    from nh2st._patches import Pyramid

    read = Pyramid.read_into

    def failing(pyramid: Pyramid, *place: object) -> None:
        if pyramid.name == image:
            msg = f"Image {image!r} could not be read"
            raise OSError(msg)
        read(pyramid, *place)

    monkeypatch.setattr(Pyramid, "read_into", failing)


def test_a_failure_leaves_no_tiles(make_slide, model, monkeypatch):
    first, second = make_slide("first"), make_slide("second")
    fail_to_read(monkeypatch, "second")
    with pytest.raises(OSError, match=r"Section '1\.nh2st_tiles': Image 'second' could not be read"):
        nh.tl.predict([first, second], model)
    for sdata in (first, second):
        assert not sdata.shapes
        assert not sdata.tables


def test_a_failure_leaves_what_was_there(make_slide, model, monkeypatch):
    laid, foreign = make_slide(), make_slide()
    nh.pp.tissue_tiles(laid)
    foreign["nh2st_tiles"] = ShapesModel.parse(np.array([[3.0, 4.0]]), geometry=0, radius=1.0)
    before = [dict(data.shapes) | dict(data.tables) for data in (laid, foreign)]
    fail_to_read(monkeypatch, "slide")
    with pytest.raises(OSError, match="could not be read"):
        nh.tl.predict([laid, foreign], model, overwrite=True)
    for data, elements in zip((laid, foreign), before, strict=True):
        after = dict(data.shapes) | dict(data.tables)
        assert after.keys() == elements.keys()
        assert all(after[name] is element for name, element in elements.items())
    assert laid["nh2st"].n_vars == 0
    assert set(laid["nh2st"].uns["nh2st"]) == {"tiles"}


def test_objects_with_and_without_spots(make_slide, make_sdata, model):
    spots, slide = make_sdata(("A",)), make_slide()
    nh.tl.predict({"spots": spots, "slide": slide}, model)
    assert "nh2st" not in spots.tables
    assert np.isfinite(spots["table"].layers["nh2st"]).all()
    assert "nh2st_ridge" in spots["table"].layers
    assert list(slide["nh2st"].layers) == ["nh2st"]
    taken = nh.get.predicted({"spots": spots, "slide": slide})
    assert taken.n_obs == spots["table"].n_obs + slide["nh2st"].n_obs


def test_images_of_sections_are_named_in_a_dictionary(make_slide, make_sdata, model):
    spots, slide = make_sdata(("A",)), make_slide("one", "two")
    nh.tl.predict([spots, slide], model, image_key={"A": "A_image", "slide": "two"})
    assert sorted(slide.shapes) == ["nh2st_tiles", "nh2st_tissue"]
    assert slide["nh2st"].uns["nh2st"]["tiles"]["nh2st_tiles"]["image"] == "two"


def test_tiles_are_read_from_the_image_that_they_were_laid_on(make_slide, model):
    sdata = make_slide()
    sdata["other"] = Image2DModel.parse(np.zeros((3, 20, 20), dtype=np.uint8), transformations={"slide": Identity()})
    with pytest.raises(ValueError, match=r"share a coordinate system.*`image_key=`"):
        nh.tl.predict(sdata, model)
    nh.tl.predict(sdata, model, image_key="slide")
    values = sdata["nh2st"].layers["nh2st"]
    nh.tl.predict(sdata, model, key_added="again")
    np.testing.assert_array_equal(sdata["nh2st"].layers["again"], values)


def test_several_images_are_one_region_each(make_slide, model):
    sdata = make_slide("one", "two")
    nh.tl.predict(sdata, model)
    table = sdata["nh2st"]
    regions = table.obs["region"]
    assert list(regions.cat.categories) == ["nh2st_tiles_one", "nh2st_tiles_two"]
    np.testing.assert_array_equal(
        table.layers["nh2st"][regions == "nh2st_tiles_one"], table.layers["nh2st"][regions == "nh2st_tiles_two"]
    )


def test_tiles_beside_spots_are_predicted_by_name(make_sdata, make_slide, model):
    sdata = make_sdata(("A",))
    sdata["slide"] = make_slide()["slide"]
    sdata.attrs["nh2st"]["mpp"]["slide"] = 1.0
    nh.pp.tissue_tiles(sdata, image_key="slide", tile_um=60)
    nh.tl.predict(sdata, model)
    assert sdata["nh2st"].n_vars == 0
    nh.tl.predict(sdata, model, table_key="nh2st")
    assert list(sdata["nh2st"].var_names) == model.genes
    assert np.isfinite(sdata["nh2st"].layers["nh2st"]).all()


def test_a_slide_without_tissue_is_left_as_it_is(make_slide, model):
    glass = Image2DModel.parse(np.full((3, SIDE, SIDE), 250, dtype=np.uint8))
    sdata = SpatialData(images={"slide": glass}, attrs={"nh2st": {"mpp": {"slide": 1.0}}})
    with pytest.raises(ValueError, match="No tissue was found in image 'slide'"):
        nh.tl.predict(sdata, model)
    assert not sdata.tables


def test_results_survive_zarr(make_slide, model, tmp_path):
    sdata = make_slide()
    nh.tl.predict(sdata, model)
    sdata.write(tmp_path / "slide.zarr")
    again = read_zarr(tmp_path / "slide.zarr")
    taken = nh.get.predicted(again)
    np.testing.assert_array_equal(taken.X, sdata["nh2st"].layers["nh2st"])
    pd.testing.assert_frame_equal(taken.obs, sdata["nh2st"].obs)
    nh.tl.predict(again, model)
    np.testing.assert_array_equal(again["nh2st"].layers["nh2st"], sdata["nh2st"].layers["nh2st"])


def test_maps_are_drawn(make_slide, model):
    sdata = make_slide()
    nh.tl.predict(sdata, model)
    axes = nh.pl.spatial_genes(sdata, ["gene1", "gene2"], show=False)
    drawn = [tiles.get_array() for ax in np.ravel(axes) for tiles in ax.collections]
    for gene in ("gene1", "gene2"):
        expected = sdata["nh2st"][:, gene].layers["nh2st"].ravel()
        assert any(values is not None and np.array_equal(np.sort(values), np.sort(expected)) for values in drawn)


def test_tiles_have_no_truth_to_compare_with(make_slide, model):
    sdata = make_slide()
    nh.tl.predict(sdata, model)
    with pytest.raises(ValueError, match="tiles cannot be evaluated"):
        nh.tl.evaluate(sdata)
