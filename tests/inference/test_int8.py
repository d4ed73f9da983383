"""Encoders in 8-bit integers on a CPU: close to the exact numbers, the same for a spot whatever is beside it."""

from __future__ import annotations

import importlib.util
import logging
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from dask.distributed import Client, LocalCluster

import nh2st as nh
from nh2st.nn import create_encoder

pytest.importorskip("openvino")
pytest.importorskip("nncf")

ROUNDED = "in 8-bit integers"


@pytest.fixture(autouse=True)
def nothing_is_cached(monkeypatch):
    monkeypatch.setattr(nh.settings, "_cache_limit", 0)


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, logger="nh2st")
    return caplog


@pytest.fixture
def weights(tmp_path):
    """Make a file of random weights."""

    def make(encoder: str) -> str:
        torch.manual_seed(0)
        path = tmp_path / f"{encoder}.pth"
        torch.save(create_encoder(encoder, None).model.state_dict(), path)
        return str(path)

    return make


def embedding(sdata, precision: str, encoder: str, encoder_weights: str | None, patch_px: int, **kwargs) -> np.ndarray:
    shape = {"encoder_weights": encoder_weights, "patch_px": patch_px}
    nh.pp.embed(sdata, encoder, **shape, precision=precision, device="cpu", overwrite=True, **kwargs)
    return sdata["table"].obsm["nh2st_embedding"].copy()


def explained(given: np.ndarray, expected: np.ndarray) -> float:
    """Share of the variance over spots."""
    return 1 - np.square(given - expected).sum() / np.square(expected - expected.mean(axis=0)).sum()


@pytest.mark.parametrize(("encoder", "patch_px"), [("test_vit", 160), ("resnet18", 64)])
def test_embeddings_are_close_to_the_exact_ones(weights, log, encoder, patch_px):
    sdata = nh.datasets.synthetic(1, spots_per_side=5, seed=3)
    file = weights(encoder)
    exact = embedding(sdata, "32", encoder, file, patch_px)
    assert ROUNDED not in log.text
    rounded = embedding(sdata, "int8", encoder, file, patch_px)
    assert re.search(rf"'{encoder}' is run by OpenVINO {ROUNDED}, which keep 9\d% of the variance", log.text)
    assert 0.9 < explained(rounded, exact) < 1 - 1e-6


def test_embeddings_of_real_tissue_are_close_to_the_exact_ones(data_dir):
    sdata = nh.datasets.her2st("C3", path=data_dir / "her2st")
    encoder = ("tf_efficientnet_lite0", "pretrained", 112)
    assert explained(embedding(sdata, "int8", *encoder), embedding(sdata, "32", *encoder)) > 0.7


@pytest.mark.parametrize("variant", ["paper", "context"])
def test_predictions_are_close_to_the_exact_ones(make_sdata, log, variant, model, context_model):
    sdata = make_sdata(side=6)
    chosen = {"paper": model, "context": context_model}[variant]
    for precision in ("32", "int8"):
        nh.tl.predict(sdata, chosen, key_added=f"in_{precision}", precision=precision, device="cpu")
    assert ROUNDED in log.text
    exact, rounded = (sdata["table"].layers[f"in_{precision}"] for precision in ("32", "int8"))
    assert 0.9 < explained(rounded, exact) < 1
    records = sdata["table"].uns["nh2st"]
    assert set(records["in_32"]["precision"].values()) == {"32"}
    assert set(records["in_int8"]["precision"].values()) == {"int8"}


def test_a_spot_does_not_depend_on_others(make_sdata, weights):
    sdata = make_sdata(side=5)
    encoder = ("test_resnet", weights("test_resnet"), 64)
    together = embedding(sdata, "int8", *encoder)
    alone = embedding(sdata, "int8", *encoder, sections="B", batch_size=3)
    of_b = (sdata["table"].obs["region"] == "B").to_numpy()
    np.testing.assert_array_equal(alone[of_b], together[of_b])
    assert np.isnan(alone[~of_b]).all()


@pytest.fixture
def client():
    """Client of a worker in this process."""
    threads = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with LocalCluster(**threads) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


def test_a_cluster_gives_the_same(make_sdata, weights, client):
    sdata = make_sdata(side=5)
    encoder = ("test_resnet", weights("test_resnet"), 64)
    here = embedding(sdata, "int8", *encoder)
    np.testing.assert_array_equal(embedding(sdata, "int8", *encoder, client=client), here)


def test_rounded_and_exact_embeddings_are_kept_apart(make_sdata, weights, log, monkeypatch):
    monkeypatch.setattr(nh.settings, "_cache_limit", 10**8)
    sdata = make_sdata(side=5)
    encoder = ("test_resnet", weights("test_resnet"), 64)
    exact, rounded, again = (embedding(sdata, precision, *encoder) for precision in ("32", "int8", "int8"))
    assert not np.array_equal(exact, rounded)
    np.testing.assert_array_equal(again, rounded)
    assert log.text.count(ROUNDED) == 1


def test_an_encoder_that_loses_too_much_is_refused(make_sdata, model, monkeypatch):
    sdata = make_sdata(side=5)
    monkeypatch.setattr("nh2st._inference._int8._LEAST_EXPLAINED", 1)
    said = r"'test_resnet' cannot .* explain only \d+% of the variance .* Use precision=\"auto\""
    with pytest.raises(RuntimeError, match=said):
        nh.tl.predict(sdata, model, precision="int8", device="cpu")
    monkeypatch.setattr("nncf.quantize", None)  # not tried again
    with pytest.raises(RuntimeError, match=said):
        nh.tl.predict(sdata, model, precision="int8", device="cpu")
    assert "nh2st" not in sdata["table"].layers


@pytest.fixture
def hide(monkeypatch):
    """Make a package seem not to be installed."""

    def call(missing: str) -> None:
        find = importlib.util.find_spec
        absent = lambda name, *rest: None if name == missing else find(name, *rest)  # noqa: E731
        monkeypatch.setattr("nh2st._inference._int8.find_spec", absent)

    return call


@pytest.mark.parametrize("missing", ["openvino", "nncf"])
def test_missing_packages_are_named(make_sdata, model, hide, missing):
    hide(missing)
    with pytest.raises(ImportError, match=rf'needs {missing}: pip install "nh2st\[int8\]"'):
        nh.tl.predict(make_sdata(), model, precision="int8", device="cpu")


def test_other_devices_are_refused(make_sdata, model):
    with pytest.raises(ValueError, match=r'precision="int8" is for CPUs, not for \'meta\'. Use device="cpu"'):
        nh.tl.predict(make_sdata(), model, precision="int8", device="meta")


def test_workers_without_the_packages_are_named(make_sdata, model, hide, client):
    hide("nncf")
    with pytest.raises(RuntimeError, match=r"A worker of the cluster cannot do this: .* needs nncf: pip install"):
        nh.tl.predict(make_sdata(), model, precision="int8", client=client)


def test_other_precisions_are_named(make_sdata, model):
    with pytest.raises(ValueError, match='precision must be "auto", "32", "bf16" or "int8", not \'int4\''):
        nh.tl.predict(make_sdata(), model, precision="int4")


def test_switching_openvino_off_does_not_concern_integers(make_sdata, model, log, monkeypatch):
    monkeypatch.setattr(nh.settings, "openvino", False)
    nh.tl.predict(make_sdata(), model, precision="int8", device="cpu")
    assert ROUNDED in log.text


def test_training_is_not_in_integers(make_sdata):
    with pytest.raises(ValueError, match='precision must be "auto", "32" or "bf16", not \'int8\''):
        nh.tl.train(make_sdata(), precision="int8")


def test_nothing_is_printed_or_reported_to_the_makers():
    code = """
import sys
import nh2st as nh
sdata = nh.datasets.synthetic(n_sections=1, spots_per_side=4)
nh.settings.cache_limit = 0
nh.settings.verbosity = "error"
nh.pp.embed(sdata, "test_resnet", encoder_weights=None, patch_px=64, device="cpu", precision="int8")
assert "nncf" in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
