from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

import nh2st as nh

PX = 32
KEY = "nh2st_embedding"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(nh.settings, "cache_dir", tmp_path / "cache")
    yield


@pytest.fixture
def weights(tmp_path) -> Callable[[int], Any]:
    """Files of weights of the encoder that the tests use."""

    def write(seed: int) -> Any:
        torch.manual_seed(seed)
        path = tmp_path / f"weights{seed}.safetensors"
        tensors = nh.nn.create_encoder("test_resnet", weights=None).model.state_dict()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        return path

    return write


@pytest.fixture
def embed(weights) -> Callable[..., None]:
    """`nh.pp.embed` with a tiny encoder, whose weights are always the same."""
    settings = {"encoder": "test_resnet", "encoder_weights": weights(0), "patch_um": PX, "patch_px": PX}
    return lambda data, **others: nh.pp.embed(data, **{**settings, "device": "cpu", **others})


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Sizes of all batches that encoders are given."""
    sizes: list[int] = []
    features = nh.nn.Encoder.features

    def counted(encoder: nh.nn.Encoder, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return features(encoder, images)

    monkeypatch.setattr(nh.nn.Encoder, "features", counted)
    return sizes


def change_pixel(sdata: SpatialData, image_key: str) -> None:
    image = sdata[image_key]
    pixels = image.values.copy()
    pixels[0, 40, 40] += 1
    systems = get_transformation(image, get_all=True)
    del sdata[image_key]
    sdata[image_key] = Image2DModel.parse(pixels, transformations=dict(systems), c_coords=["r", "g", "b"])


@pytest.mark.parametrize("batch_size", [7, 64])
def test_values_are_features_of_patches(make_sdata, embed, weights, batch_size):
    sdata = make_sdata(("A", "B"))
    embed(sdata, batch_size=batch_size)
    table = sdata["table"]
    encoder = nh.nn.create_encoder("test_resnet", weights(0))
    for section in "AB":
        image = sdata[f"{section}_image"].transpose("y", "x", "c").values
        rows = np.flatnonzero(table.obs["region"] == section)
        corners = table.obsm["spatial"][rows].astype(int) - PX // 2
        patches = np.stack([image[y : y + PX, x : x + PX] for x, y in corners])
        expected = encoder.features(torch.from_numpy(patches)).numpy()
        np.testing.assert_allclose(table.obsm[KEY][rows], expected, rtol=1e-3, atol=1e-4)
    assert table.obsm[KEY].dtype == np.float32
    assert table.obsm[KEY].shape == (table.n_obs, encoder.n_features)


def test_what_is_recorded(make_sdata, embed, tmp_path):
    sdata = make_sdata(("A", "B"))
    embed(sdata)
    record = sdata["table"].uns["nh2st"][KEY]
    assert {name: record[name] for name in ("encoder", "patch_um", "patch_px", "mpp")} == {
        "encoder": "test_resnet",
        "patch_um": PX,
        "patch_px": PX,
        "mpp": {"A": 1.0, "B": 1.0},
    }
    sdata.write(tmp_path / "sections.zarr")
    again = read_zarr(tmp_path / "sections.zarr")["table"]
    np.testing.assert_array_equal(again.obsm[KEY], sdata["table"].obsm[KEY])
    assert again.uns["nh2st"][KEY] == record
    embed(sdata, mpp="native")
    assert sdata["table"].uns["nh2st"][KEY]["patch_um"] == "native"


def test_nothing_is_computed_again(make_sdata, embed, encoded):
    sdata = make_sdata(("A", "B"))
    embed(sdata)
    first = sdata["table"].obsm[KEY]
    assert sum(encoded) == 50
    encoded.clear()
    embed(sdata, key_added="again", batch_size=3)
    embed(make_sdata(("B",), seed=5), key_added="other")
    assert sum(encoded) == 25, "only the other image's"
    np.testing.assert_array_equal(sdata["table"].obsm["again"], first)


@pytest.mark.parametrize("changed", ["pixel", "mpp", "spot", "weights", "patch_um", "precision"])
def test_what_changes_is_computed_anew(make_sdata, embed, weights, encoded, changed):
    sdata = make_sdata(("A", "B"))
    embed(sdata)
    encoded.clear()
    settings: dict[str, Any] = {}
    if changed == "pixel":
        change_pixel(sdata, "B_image")
    elif changed == "mpp":
        sdata.attrs["nh2st"]["mpp"]["B_image"] = 0.9
    elif changed == "spot":
        sdata["B"].geometry = sdata["B"].geometry.translate(1, 0)
    elif changed == "weights":
        settings["encoder_weights"] = weights(1)
    else:
        settings[changed] = {"patch_um": 40.0, "precision": "bf16"}[changed]
    embed(sdata, **settings)
    assert sum(encoded) == (25 if changed in ("pixel", "mpp", "spot") else 50)


def test_a_cache_of_no_bytes_keeps_nothing(make_sdata, embed, encoded, monkeypatch):
    sdata = make_sdata(("A",))
    monkeypatch.setattr(nh.settings, "cache_limit", 0)
    embed(sdata)
    embed(sdata)
    assert sum(encoded) == 50
    assert not nh.settings.cache_dir.exists()


def test_what_was_done_before_a_failure_is_kept(make_sdata, embed, encoded, monkeypatch):
    from nh2st._patches import Pyramid

    sdata = make_sdata(("A", "B"))
    read = Pyramid.read_into

    def fail_on_b(pyramid: Pyramid, *place: Any) -> None:
        # The hash of the pixels, by which the cache is searched, is made before the first patch is cut.
        if encoded and pyramid.name == "B_image":
            msg = "Image 'B_image' could not be read"
            raise OSError(msg)
        read(pyramid, *place)

    monkeypatch.setattr(Pyramid, "read_into", fail_on_b)
    with pytest.raises(OSError, match=r"Section 'B': Image 'B_image' could not be read"):
        embed(sdata)
    assert list(sdata["table"].obsm) == ["spatial"]
    assert "nh2st" not in sdata["table"].uns
    monkeypatch.setattr(Pyramid, "read_into", read)
    encoded.clear()
    embed(sdata)
    assert sum(encoded) == 25


def test_masked_spots_and_other_sections_are_nan(make_sdata, embed):
    sdata = make_sdata(("A", "B"))
    table = sdata["table"]
    table.obs["used"] = table.obs["instance_id"] % 2 == 0
    embed(sdata, sections=["B"], spots="used")
    there = np.isfinite(table.obsm[KEY]).all(axis=1)
    np.testing.assert_array_equal(there, (table.obs["region"] == "B") & table.obs["used"])
    assert np.isnan(table.obsm[KEY][~there]).all()


def test_several_objects(make_sdata, embed):
    large, small = make_sdata(("A",)), make_sdata(("A",), side=3, seed=1)
    embed({"one": large, "other": small})
    assert large["table"].obsm[KEY].shape[0] == 25
    assert small["table"].obsm[KEY].shape[0] == 9
    large["table"].uns["nh2st"][KEY]["patch_px"] = 0
    assert small["table"].uns["nh2st"][KEY]["patch_px"] == PX


def test_a_table_alone_has_no_image(make_sdata, embed):
    with pytest.raises(TypeError, match=r"AnnData was given.*needs the image"):
        embed(make_sdata()["table"])


def test_foreign_embeddings_are_replaced_on_request_alone(make_sdata, embed):
    sdata = make_sdata(("A",))
    table = sdata["table"]
    table.obsm["mine"] = np.zeros((table.n_obs, 2))
    with pytest.raises(ValueError, match=r"obsm\['mine'\] exists and was not written by nh2st.*`overwrite=True`"):
        embed(sdata, key_added="mine")
    assert table.obsm["mine"].shape == (25, 2)
    embed(sdata, key_added="mine", overwrite=True)
    embed(sdata, key_added="mine")
    assert table.obsm["mine"].shape[1] > 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_predictions_are_not_replaced(make_sdata, embed, overwrite):
    sdata = make_sdata(("A",))
    table = sdata["table"]
    record = {"genes": list(table.var_names)}
    table.layers["nh2st"] = np.zeros(table.shape, dtype=np.float32)
    table.uns["nh2st"] = {"nh2st": record}
    with pytest.raises(ValueError, match=r"'nh2st' is the name of predictions"):
        embed(sdata, key_added="nh2st", overwrite=overwrite)
    assert table.uns["nh2st"]["nh2st"] is record


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("my key", "use letters"),
        ("spatial", "reserved"),
        ("tiles", "reserved"),
        ("Mine", r"differs from obsm\['mine'\] by case alone"),
    ],
)
def test_names_that_cannot_be_used(make_sdata, embed, key, message):
    sdata = make_sdata(("A",))
    sdata["table"].obsm["mine"] = np.zeros((25, 2))
    with pytest.raises(ValueError, match=message):
        embed(sdata, key_added=key)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"device": "gpu0"}, "device='gpu0' is unknown"),
        ({"precision": "16"}, "precision must be"),
        ({"encoder": "no_such_encoder"}, "no_such_encoder"),
        ({"mpp": 0}, "mpp= must be a positive number"),
        ({"encoder": "vit_tiny_patch16_224", "encoder_weights": None, "patch_px": 40}, "cannot take patches of 40 px"),
    ],
)
def test_settings_are_checked(make_sdata, embed, settings, message):
    sdata = make_sdata(("A",))
    with pytest.raises(ValueError, match=message):
        embed(sdata, **settings)
    assert list(sdata["table"].obsm) == ["spatial"]


def test_preparation_does_without_torch():
    code = (
        "import sys, nh2st.pp as pp; assert 'torch' not in sys.modules; assert 'embed' in pp.__all__; "
        "from nh2st.pp import embed; assert embed is pp.embed; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
