from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import nh2st.nn as nn_
from nh2st.nn import _encoder_weights
from nh2st.nn._encoder_table import EncoderSpec

TINY = "test_resnet"


@pytest.fixture
def tiny_state() -> dict[str, torch.Tensor]:
    return timm.create_model(TINY, num_classes=10).state_dict()


def _backbone(encoder: nn_.Encoder) -> dict[str, torch.Tensor]:
    return encoder.model.state_dict()


@pytest.mark.parametrize(("picture", "label"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_default_weights_recognise_pictures(picture, label):
    """The classifier of the same file, on our pooled features, sees a palace and a daisy."""
    samples = pytest.importorskip("sklearn.datasets")
    image = torch.tensor(samples.load_sample_image(picture).copy()).permute(2, 0, 1)[None].float()
    image = torch.nn.functional.interpolate(image, (256, 384), mode="bilinear", antialias=True)
    features = nn_.create_encoder("tf_efficientnet_lite0").features(image[:, :, 16:240, 80:304].round().byte())
    folder = Path(pytest.importorskip(_encoder_weights.LITE0_PACKAGE).__file__).parent
    state = torch.load(folder / _encoder_weights.LITE0_FILE, weights_only=True)
    assert (features @ state["_fc.weight"].T + state["_fc.bias"]).argmax() == label


def test_damaged_default_weights_are_refused(monkeypatch):
    monkeypatch.setattr(_encoder_weights, "LITE0_SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match="sha256"):
        nn_.create_encoder("tf_efficientnet_lite0")


def test_features_are_the_pooled_normalised_map():
    encoder = nn_.create_encoder("resnet18", weights=None)
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    features = encoder.features(images)
    assert encoder.training
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scaled = torch.from_numpy((images.numpy() / 255 - mean) / std).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = encoder.eval().model.forward_features(scaled)
        torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoder(images.permute(0, 3, 1, 2)), encoder(images))
    torch.testing.assert_close(features, expected.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert encoder.map_shape(64) == (*expected.shape[1:],)
    assert encoder.n_features == features.shape[1]


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 8, 8, 4), (2, 1, 8, 8)])
def test_images_of_other_shapes(shape):
    with pytest.raises(ValueError, match="shape"):
        nn_.create_encoder(TINY, weights=None)(torch.zeros(shape, dtype=torch.uint8))


def test_images_of_other_types():
    with pytest.raises(ValueError, match="uint8"):
        nn_.create_encoder(TINY, weights=None)(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("test_resnet", (96, 3, 3)), ("test_convnext", (64, 3, 3)), ("tf_efficientnet_lite0", (1280, 3, 3))],
)
def test_maps_of_convolutional_encoders(name, shape):
    encoder = nn_.create_encoder(name, weights=None).eval()
    images = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    assert encoder.convolutional
    assert encoder.map_shape(96) == shape
    assert torch.equal(encoder.maps(images), encoder(images))
    assert encoder.maps(images).requires_grad


@pytest.mark.parametrize(("name", "side"), [("test_vit", 160), ("test_vit", 96), ("test_mambaout", 160)])
def test_maps_of_transformers_are_their_features(name, side):
    encoder = nn_.create_encoder(name, weights=None).eval()
    images = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    maps = encoder.maps(images)
    assert not encoder.convolutional
    assert encoder.map_shape(side) == (encoder.n_features, 1, 1) == maps.shape[1:]
    assert maps.requires_grad
    assert torch.equal(maps[:, :, 0, 0], encoder.features(images))


def test_class_token_beside_the_mean_of_the_patch_tokens():
    model = timm.create_model("test_vit", num_classes=0, reg_tokens=4, global_pool="").eval()
    encoder = nn_.Encoder(model, pooling="class+mean")
    images = torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8)
    features = encoder.features(images)
    with torch.no_grad():
        tokens = encoder(images).numpy()
    assert tokens.shape == (2, 1 + 4 + 100, 64)
    assert encoder.n_features == 128
    np.testing.assert_allclose(features[:, :64], tokens[:, 0])
    np.testing.assert_allclose(features[:, 64:], tokens[:, 5:].mean(1), rtol=1e-5, atol=1e-6)


def test_normalisation_of_its_own():
    model = timm.create_model("test_resnet", num_classes=0).eval()
    encoder = nn_.Encoder(model, mean=(0.7, 0.5, 0.6), std=(0.2, 0.3, 0.1)).eval()
    images = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    scaled = (images.double() / 255 - torch.tensor([0.7, 0.5, 0.6])) / torch.tensor([0.2, 0.3, 0.1])
    with torch.no_grad():
        expected = model.forward_features(scaled.permute(0, 3, 1, 2).float())
        torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "side", "allowed"),
    [
        ("vit_tiny_patch16_224", 100, "its side must be a multiple of 16 px"),
        ("deit_tiny_distilled_patch16_224", 112, "its side must be 224 px"),
    ],
)
def test_patch_size_that_the_encoder_cannot_take(name, side, allowed):
    with pytest.raises(ValueError, match=f"'{name}' cannot take patches of {side} px: {allowed}"):
        nn_.create_encoder(name, weights=None).map_shape(side)


def test_unknown_name_suggests_close_ones():
    with pytest.raises(ValueError, match=r"no encoder 'resnet_18'.*Close names: resnet18, .*"):
        nn_.create_encoder("resnet_18")


def test_no_connection_names_the_way_out(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", os.devnull)
    with pytest.raises(RuntimeError, match="encoder_weights=<local file>"):
        nn_.create_encoder("test_convnext")


@pytest.mark.parametrize("prefix", ["", "model.", "model.resnet.", "module.encoder."])
@pytest.mark.parametrize("kind", ["safetensors", "torch", "nested"])
def test_local_files(tmp_path, tiny_state, prefix, kind):
    state = {prefix + key: value for key, value in tiny_state.items() if not key.endswith("num_batches_tracked")}
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.ckpt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "nested" else state, path)
    loaded = _backbone(nn_.create_encoder(TINY, weights=path))
    assert all(torch.equal(loaded[key], tiny_state[key]) for key in loaded)


def test_names_that_timm_knows_to_rename(tmp_path):
    """Those of DINOv2, whose position of the class token timm has in the token."""
    state = timm.create_model("test_vit", num_classes=0, reg_tokens=4, no_embed_class=True).state_dict()
    published = state | {"mask_token": torch.zeros(1, 64), "register_tokens": state.pop("reg_token")}
    published["pos_embed"] = torch.cat([torch.ones(1, 1, 64), state["pos_embed"]], dim=1)
    torch.save(published, tmp_path / "dinov2.pth")
    spec = EncoderSpec("dinov2", "test_vit", None, {"reg_tokens": 4, "no_embed_class": True})
    loaded = _encoder_weights.filled_model(spec, tmp_path / "dinov2.pth").state_dict()
    assert torch.equal(loaded["reg_token"], published["register_tokens"])
    assert torch.equal(loaded["pos_embed"], state["pos_embed"])
    torch.testing.assert_close(loaded["cls_token"], published["cls_token"] + 1)


def test_projection_heads_are_ignored(tmp_path, tiny_state):
    torch.save(tiny_state | {"fc.3.weight": torch.zeros(2), "projector.0.weight": torch.zeros(2)}, tmp_path / "w.pth")
    loaded = _backbone(nn_.create_encoder(TINY, weights=str(tmp_path / "w.pth")))
    assert torch.equal(loaded["conv1.0.weight"], tiny_state["conv1.0.weight"])


def test_no_matching_weight(tmp_path):
    torch.save({"trunk.stem.kernel": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth fits the encoder\. Expected conv1.*; found trunk\.stem\.kernel"):
        nn_.create_encoder(TINY, weights=tmp_path / "other.pth")


def test_weights_of_another_encoder(tmp_path, tiny_state):
    del tiny_state["conv1.0.weight"]
    tiny_state |= {"bn1.weight": torch.zeros(5), "layer1.7.conv1.weight": torch.zeros(2)}
    torch.save(tiny_state, tmp_path / "w.pth")
    expected = (
        r"missing: conv1\.0\.weight; not in the encoder: layer1\.7\.conv1\.weight; of another shape: bn1\.weight\."
    )
    with pytest.raises(ValueError, match=expected):
        nn_.create_encoder(TINY, weights=tmp_path / "w.pth")


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["zip.pth", "pickle.pth", "zip.safetensors", "pickle.safetensors"])
def test_pickled_code_is_never_run(tmp_path, tiny_state, name):
    content = {"state_dict": tiny_state, "extra": _Malicious(tmp_path / "owned")}
    if name.startswith("zip"):
        torch.save(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=f"{name} cannot be read as weights"):
        nn_.create_encoder(TINY, weights=tmp_path / name)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", ["html", "truncated", "empty"])
def test_files_that_are_no_weights(tmp_path, tiny_state, suffix, damage):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tiny_state, path)
    content = {"html": b"<!DOCTYPE html><html>404</html>", "truncated": path.read_bytes()[:-2000], "empty": b""}
    path.write_bytes(content[damage])
    with pytest.raises(ValueError, match=f"weights{suffix} cannot be read as weights"):
        nn_.create_encoder(TINY, weights=path)


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        nn_.create_encoder(TINY, weights=tmp_path / "nowhere.pth")


def test_file_without_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no state dict of named tensors"):
        nn_.create_encoder(TINY, weights=tmp_path / "w.pth")


def test_random_weights_only_on_request(tiny_state):
    torch.manual_seed(1)
    random = _backbone(nn_.create_encoder(TINY, weights=None))
    assert not torch.equal(random["conv1.0.weight"], tiny_state["conv1.0.weight"])
