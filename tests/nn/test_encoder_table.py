"""The encoders that are known by name: shapes, normalisation, and where their weights come from."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import nh2st as nh
import nh2st.nn as nn_
from nh2st.nn import _encoder_weights
from nh2st.nn._encoder_table import ENCODERS

# Published numbers of features and of weights, in millions.
SIZES = {
    "resnet18": (512, 11.177),
    "resnet18-ciga": (512, 11.177),
    "tf_efficientnet_lite0": (1280, 3.371),
    "lunit-dino-s16": (384, 21.666),
    "uni": (1024, 303.351),
    "uni2-h": (1536, 681.394),
    "virchow2": (2560, 631.239),
    "h-optimus-0": (1536, 1134.774),
    "prov-gigapath": (1536, 1134.954),
}
TOKENS = {
    "lunit-dino-s16": 1 + 14**2,
    "uni": 1 + 14**2,
    "uni2-h": 1 + 8 + 16**2,
    "virchow2": 1 + 4 + 16**2,
    "h-optimus-0": 1 + 4 + 16**2,
    "prov-gigapath": 1 + 14**2,
}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALISATION = dict.fromkeys(SIZES, IMAGENET) | {
    "tf_efficientnet_lite0": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "lunit-dino-s16": ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464)),
    "h-optimus-0": ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)),
}
TINY = "test_convnext"
TINY_REPOSITORY = "timm/test_convnext.r160_in1k"


@functools.cache
def _shaped(name: str) -> nn_.Encoder:
    """The encoder, its weights without memory: most would not fit a small machine."""
    with torch.device("meta"):
        return nn_.create_encoder(name, weights=None)


def test_table_lists_these():
    assert list(ENCODERS) == list(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_features_of_each_encoder(name):
    encoder = _shaped(name)
    spec = ENCODERS[name]
    n_features, millions = SIZES[name]
    images = torch.zeros(2, 224, 224, 3, dtype=torch.uint8, device="meta")
    assert encoder.name == name
    assert encoder.features(images).shape == (2, n_features)
    assert encoder.n_features == spec.dimension == n_features
    assert sum(value.numel() for value in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)
    if name in TOKENS:
        assert encoder(images).shape[1] == TOKENS[name]
        assert not encoder.convolutional
        assert encoder.map_shape(224) == (n_features, 1, 1)
    else:
        assert encoder.convolutional
        assert encoder.map_shape(224) == (n_features, 7, 7)


@pytest.mark.parametrize("name", ["resnet18", "resnet18-ciga", "tf_efficientnet_lite0", "lunit-dino-s16"])
def test_small_encoders_with_random_weights(name):
    encoder = nn_.create_encoder(name, weights=None)
    features = encoder.features(torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8))
    assert features.shape == (2, SIZES[name][0])
    assert features.isfinite().all()


@pytest.mark.parametrize("name", SIZES)
def test_normalisation_of_each_encoder(name):
    spec = ENCODERS[name]
    assert (spec.mean, spec.std) == NORMALISATION[name]


@pytest.mark.parametrize("name", ["resnet18", "lunit-dino-s16"])
def test_encoder_normalises_so(name):
    encoder = nn_.create_encoder(name, weights=None)
    for values, buffer in zip(NORMALISATION[name], (encoder.mean, encoder.std), strict=True):
        np.testing.assert_allclose(buffer.flatten(), values, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "side", "allowed"),
    [
        ("uni", 112, None),
        ("uni", 120, "a multiple of 16 px"),
        ("uni2-h", 280, None),
        ("virchow2", 224 + 8, "a multiple of 14 px"),
        ("prov-gigapath", 256, None),
        ("h-optimus-0", 112, "224 px"),
    ],
)
def test_patch_sizes(name, side, allowed):
    encoder = _shaped(name)
    if allowed is None:
        assert encoder.map_shape(side) == (SIZES[name][0], 1, 1)
    else:
        with pytest.raises(ValueError, match=f"'{name}' cannot take patches of {side} px: its side must be {allowed}"):
            encoder.map_shape(side)


@pytest.mark.parametrize("name", ["hf-hub:MahmoodLab/uni", "hf_hub:mahmoodlab/UNI"])
def test_names_on_the_hub_are_these_encoders(name):
    assert _shaped(name).name == "uni"


def test_last_blocks_of_a_large_transformer():
    encoder = copy.deepcopy(_shaped("virchow2"))
    encoder.fine_tune(2)
    trained = [name.split(".") for name, value in encoder.named_parameters() if value.requires_grad]
    assert {name[2] for name in trained if name[1] == "blocks"} == {"30", "31"}
    assert {name[1] for name in trained} == {"blocks", "norm"}


@pytest.fixture
def tiny_state() -> dict[str, torch.Tensor]:
    return timm.create_model(TINY, num_classes=1000).state_dict()


def test_published_resnet_of_the_paper(tmp_path, monkeypatch):
    """Its file, found in the cache by checksum, has other names than timm's and layers of its own."""
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    published = {f"model.resnet.{key}": value for key, value in state.items()} | {
        "model.resnet.fc.1.bias": torch.ones(2)
    }
    folder = tmp_path / "encoders"
    folder.mkdir()
    file = folder / "pytorchnative_tenpercent_resnet18.ckpt"
    torch.save({"state_dict": published}, file)
    monkeypatch.setattr(nh.settings, "cache_dir", tmp_path)
    monkeypatch.setattr(_encoder_weights, "CIGA_SHA256", _sha256(file))
    loaded = nn_.create_encoder("resnet18-ciga").model.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """What the Hugging Face hub answers for a repository with these files, or one that is gated or absent."""

    files: ClassVar[dict[str, bytes]] = {}
    error: ClassVar[str] = ""
    requests: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        name = self.path.rsplit("/", 1)[-1]
        self.requests.append(name)
        content = self.files.get(name, b"")
        known = name in self.files or self.path == "/"
        self.send_response(401 if self.error else 200 if known else 404)
        if self.error or not known:
            self.send_header("X-Error-Code", self.error or "EntryNotFound")
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[type[Hub]]:
    """A hub on this machine, with an empty cache."""

    class Here(Hub):
        files: ClassVar[dict[str, bytes]] = {}
        requests: ClassVar[list[str]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield Here
    server.shutdown()
    server.server_close()


def _bytes(save: Any, state: Any, path: Path) -> bytes:
    save(state, path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_of_the_hub_are_downloaded_once(tmp_path, hub, tiny_state, name):
    save = save_file if name.endswith("safetensors") else torch.save
    hub.files[name] = _bytes(save, tiny_state, tmp_path / name)
    for _ in range(2):
        loaded = nn_.create_encoder(TINY).model.state_dict()
        assert all(torch.equal(loaded[key], tiny_state[key]) for key in loaded)
        asked, hub.requests[:] = list(hub.requests), []
    assert not asked


def test_weights_in_the_cache_need_no_connection(tmp_path, hub, monkeypatch, tiny_state):
    hub.files["model.safetensors"] = _bytes(save_file, tiny_state, tmp_path / "w")
    nn_.create_encoder(TINY)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert torch.equal(nn_.create_encoder(TINY).model.state_dict()["stem.0.weight"], tiny_state["stem.0.weight"])


def test_weights_of_the_hub_that_do_not_fit(tmp_path, hub, tiny_state):
    del tiny_state["stem.0.weight"]
    hub.files["model.safetensors"] = _bytes(save_file, tiny_state, tmp_path / "w")
    with pytest.raises(ValueError, match=r"missing: stem\.0\.weight"):
        nn_.create_encoder(TINY)


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.path,)


def test_downloaded_pickles_are_not_run(tmp_path, hub, tiny_state):
    content = {"state_dict": tiny_state, "extra": _Malicious(tmp_path / "owned")}
    hub.files["pytorch_model.bin"] = _bytes(torch.save, content, tmp_path / "w")
    nn_.create_encoder(TINY)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("code", ["GatedRepo", "RepoNotFound"])
def test_access_that_was_not_given(hub, code):
    hub.error = code
    with pytest.raises(RuntimeError) as error:
        nn_.create_encoder("uni")
    page = f"{huggingface_hub.constants.ENDPOINT}/MahmoodLab/uni"
    ways = (f"accept the conditions on {page}", "huggingface_hub.login()", "HF_TOKEN", "encoder_weights=<local file>")
    assert [way for way in ways if way not in str(error.value)] == []


def test_repository_without_weights(hub):
    with pytest.raises(RuntimeError, match=r"it has no file model\.safetensors or pytorch_model\.bin"):
        nn_.create_encoder(TINY)


@pytest.mark.parametrize("name", ["uni", "resnet18", "hf-hub:someone/something"])
def test_without_a_connection_it_is_said_soon(monkeypatch, tmp_path, name):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=f"'{name}' could not be had: .*encoder_weights=<local file>") as error:
        nn_.create_encoder(name)
    assert time.monotonic() - start < 5
    assert ("accept the conditions" in str(error.value)) == (name == "uni")


def test_other_models_of_the_hub(tmp_path, hub):
    """Built as their configuration says, with what it says that could do harm left out."""
    state = timm.create_model("test_vit", num_classes=0, reg_tokens=2).state_dict()
    config = {
        "architecture": "test_vit",
        "model_args": {"reg_tokens": 2, "checkpoint_path": "/etc/passwd", "pretrained_cfg": {"url": "http://evil"}},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "url": "http://evil"},
    }
    hub.files["config.json"] = json.dumps(config).encode()
    hub.files["model.safetensors"] = _bytes(save_file, state, tmp_path / "w")
    encoder = nn_.create_encoder("hf-hub:someone/something")
    assert all(torch.equal(value, state[key]) for key, value in encoder.model.state_dict().items())
    np.testing.assert_allclose(encoder.mean.flatten(), [0.1, 0.2, 0.3])
    assert encoder.features(torch.zeros(1, 160, 160, 3, dtype=torch.uint8)).shape == (1, 64)


@pytest.mark.parametrize(
    ("config", "expected"),
    [(b'{"architecture": "evil"}', "'evil'"), (b"<html>", "config.json"), (b"[]", "config.json")],
)
def test_other_models_of_the_hub_that_cannot_be_built(hub, config, expected):
    hub.files["config.json"] = config
    with pytest.raises(ValueError, match=f"'hf-hub:someone/something' cannot be built: .*{expected}"):
        nn_.create_encoder("hf-hub:someone/something")


def test_interrupted_cache(tmp_path, hub, tiny_state):
    """A cache that was emptied is filled again."""
    hub.files["model.safetensors"] = _bytes(save_file, tiny_state, tmp_path / "w")
    nn_.create_encoder(TINY)
    shutil.rmtree(tmp_path / "cache")
    assert nn_.create_encoder(TINY).n_features == 64
