from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import uniform_filter
from scipy.sparse import csr_matrix
from spatialdata import deepcopy, read_zarr

import nh2st as nh


def weights(model: nh.models.Model) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.tensors().items() if name.startswith("network.")}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_learns_what_darkness_drives(trained, learnt):
    sdata, model = trained
    nh.tl.predict(sdata, model, sections=["D"])
    learnt(sdata)
    assert model.history[-1]["mse"] < model.history[0]["mse"]
    assert [row["epoch"] for row in model.history] == list(range(len(model.history)))


def test_seed_decides(make_sdata, train):
    sdata = make_sdata(("A", "B", "C"), side=4)
    first, again, other = (train(sdata, seed=seed) for seed in (1, 1, 2))
    assert first.sha256 == again.sha256
    assert first.history == again.history
    assert not same(weights(first), weights(other))
    layers = []
    for model in (first, again, other):
        nh.tl.predict(sdata, model)
        layers.append(sdata["table"].layers["nh2st"])
    np.testing.assert_array_equal(layers[0], layers[1])
    assert not np.allclose(layers[0], layers[2])


def test_session_is_left_as_it_was(make_sdata, train):
    assert not torch.are_deterministic_algorithms_enabled()
    train(make_sdata(("A",), side=3))
    assert not torch.are_deterministic_algorithms_enabled()


def test_default_target_is_log_of_scaled_counts(make_sdata, train):
    sdata = make_sdata(side=3)
    model = train(sdata, genes=["gene5", "gene2"])
    counts = sdata["table"].X.toarray()[:, [5, 2]]
    totals = sdata["table"].X.toarray().sum(axis=1, keepdims=True)
    expected = np.log1p(1e4 * counts / totals).mean(axis=0)
    np.testing.assert_allclose(model.baselines.mean, expected, rtol=1e-5)
    assert model.genes == ["gene5", "gene2"]


def test_predictions_start_from_the_mean_of_the_training_spots(make_sdata, train):
    sdata = make_sdata(("A", "B", "C"), side=4)
    model = train(sdata, learning_rate=1e-9)
    held_out = model.provenance["validation"].removeprefix("donors held out: ")
    counts = sdata["table"][sdata["table"].obs["donor"] != held_out].to_df()
    expected = np.log1p(1e4 * counts.div(counts.sum(axis=1), axis=0)).mean()[model.genes]
    nh.tl.predict(sdata, model)
    np.testing.assert_allclose(nh.get.predicted(sdata).X, np.tile(expected, (48, 1)), atol=0.3)
    np.testing.assert_allclose(model.network.head[-1].bias.detach(), expected, rtol=1e-4)


def test_paper_target_is_averaged_over_the_window(make_sdata, train):
    sdata = make_sdata(("A",), side=4)
    model = train(sdata, target="paper", genes=["gene5", "gene2"])
    counts = sdata["table"].X.toarray()[:, [5, 2]]
    logs = np.log10(1 + 1e4 * counts / counts.sum(axis=1, keepdims=True)).reshape(4, 4, 2)
    size = (3, 3, 1)
    inside = uniform_filter(np.ones_like(logs), size, mode="constant")
    expected = (uniform_filter(logs, size, mode="constant") / inside).mean(axis=(0, 1))
    np.testing.assert_allclose(model.baselines.mean, expected, rtol=1e-5)
    assert model.target.kind == "paper"
    assert "3x3" in model.summary()


def test_native_pixels_need_no_scale(make_sdata, train):
    sdata = make_sdata(("A", "B"), side=3, mpp=None)
    with pytest.raises(ValueError, match='is unknown.*mpp=0.5.*estimate_mpp.*mpp="native"'):
        train(sdata)
    native = train(sdata, mpp="native")
    assert native.patch_um is None
    assert native.provenance["mpp"] == ["native", "native"]
    scaled = train(sdata, mpp=2.0, patch_um=64.0)
    assert scaled.patch_um == 64
    assert same(weights(native), weights(scaled))
    nh.tl.predict(sdata, native)
    assert sdata["table"].uns["nh2st"]["nh2st"]["mpp"] == {"A": "native", "B": "native"}


@pytest.mark.parametrize("kind", [list, dict])
def test_objects_that_name_their_regions_alike(make_sdata, train, kind):
    objects = [make_sdata(("A",), side=3, seed=seed) for seed in range(3)]
    objects[2] = make_sdata(("A",), side=4, seed=2)
    data = objects if kind is list else dict(zip("xyz", objects, strict=True))
    model = train(data, groups={"0.A": "p", "1.A": "q", "2.A": "r"} if kind is list else "instance_id")
    keys = ["0.A", "1.A", "2.A"] if kind is list else ["x.A", "y.A", "z.A"]
    assert model.provenance["sections"] == keys
    assert model.provenance["spots"] == [9, 9, 16]
    nh.tl.predict(data)
    assert all(sdata["table"].uns["nh2st"]["nh2st"]["sha256"] == model.sha256 for sdata in objects)
    assert nh.get.predicted(data).n_obs == 34


def test_sections_and_masked_spots_are_left_out(make_sdata, train):
    sdata = make_sdata(side=4)
    table = sdata["table"]
    table.obs["good"] = table.obs["instance_id"] % 2 == 0
    table.X[np.flatnonzero(~table.obs["good"] | (table.obs["region"] == "A"))] = np.nan
    assert train(sdata, sections=["B"], spots="good").provenance["spots"] == [8]


def test_layer_with_counts(make_sdata, train):
    sdata = make_sdata(side=3)
    plain = train(sdata)
    table = sdata["table"]
    table.layers["raw"], table.X = table.X, csr_matrix(table.shape, dtype=np.float32)
    assert same(weights(train(sdata, layer="raw")), weights(plain))


def test_empty_spot_and_constant_gene(make_sdata, train, caplog):
    sdata = make_sdata(side=4)
    counts = sdata["table"].X.toarray()
    counts[:, 7] = 0
    counts[3] = 0
    sdata["table"].X = csr_matrix(counts)
    model = train(sdata, genes=["gene0", "gene7"], max_epochs=2)
    assert "1 spots of section 'A' have no count of any gene" in caplog.text
    assert all(torch.isfinite(value).all() for value in weights(model).values())
    assert np.isfinite([list(row.values()) for row in model.history]).all()
    assert model.baselines.mean[1] == 0


def test_smallest_batches(make_sdata, train):
    model = train(make_sdata(side=3), batch_size=1)
    assert model.history[0]["query"] == 0
    assert np.isfinite(model.history[0]["loss"])


def test_two_spots_train_without_validation(make_sdata, train, caplog):
    model = train(make_sdata(side=1), max_epochs=2)
    assert model.provenance["validation"] == "none: too few spots"
    assert "Too few spots (2) to validate" in caplog.text
    assert len(model.history) == 2
    assert "val_pearson" not in model.history[0]


def test_one_spot_is_too_few(make_sdata, train, unchanged):
    sdata = make_sdata(("A",), side=1)
    with unchanged(sdata), pytest.raises(ValueError, match="1 spot in the sections; training needs more"):
        train(sdata)


def test_patience_ends_training(make_sdata, train):
    model = train(make_sdata(("A", "B", "C"), side=4), max_epochs=30, patience=1, learning_rate=1e-9)
    scores = [row["val_pearson"] for row in model.history]
    assert len(scores) < 30
    assert scores[-1] <= max(scores[:-1])


def test_steps_of_half_precision(make_sdata, train):
    model = train(make_sdata(side=3), precision="bf16")
    assert np.isfinite(model.history[0]["loss"])
    assert all(value.dtype == torch.float32 for value in weights(model).values() if value.is_floating_point())


def test_provenance_is_written_and_survives_zarr(make_sdata, train, tmp_path):
    sdata = make_sdata(("A", "B", "C"), side=3)
    model = train(sdata, max_epochs=2, seed=5, genes=3)
    sdata.write(tmp_path / "sections.zarr")
    record = read_zarr(tmp_path / "sections.zarr")["table"].uns["nh2st"]["training"]
    assert list(record["genes"]) == model.genes
    assert list(record["training_sections"]) == ["A", "B", "C"]
    assert list(record["training_groups"]) == ["donor0", "donor1", "donor2"]
    assert record["validation"] == model.provenance["validation"]
    assert (record["seed"], record["patch_px"], record["patch_um"]) == (5, 32, 32)
    assert (record["encoder"], record["sha256"], record["model"]) == ("test_resnet", model.sha256, model.name)
    assert record["target"]["kind"] == "default"
    np.testing.assert_allclose(record["history"]["val_mse"], [row["val_mse"] for row in model.history])


def test_earlier_preprocessing_stays(make_sdata, train):
    sdata = make_sdata(side=3)
    nh.pp.normalize(sdata)
    nh.pp.select_genes(sdata, 4)
    before = deepcopy(sdata)
    train(sdata)
    table = sdata["table"]
    assert set(table.uns["nh2st"]) == {"nh2st_target", "training"}
    assert table.layers.keys() == before["table"].layers.keys()
    pd.testing.assert_frame_equal(table.var, before["table"].var)


def test_messages_follow_verbosity(make_sdata, train, caplog):
    nh.settings.verbosity = "error"
    try:
        train(make_sdata(side=3))
        assert not caplog.records
    finally:
        nh.settings.verbosity = "info"
    train(make_sdata(side=3))
    assert "Epoch 1: loss" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.INFO, logging.WARNING}


@pytest.mark.parametrize("variant", ["paper", "context"])
def test_training_that_diverges_is_an_error(make_sdata, train, train_context, unchanged, tmp_path, variant):
    sdata, run = make_sdata(), {"paper": train, "context": train_context}[variant]
    settings = {"learning_rate": 1e30, "max_epochs": 3, "checkpoint_dir": tmp_path}
    with (
        unchanged(sdata),
        pytest.raises(FloatingPointError, match=r"Training diverged in epoch \d.*`learning_rate=`.*1e\+30"),
    ):
        run(sdata, **settings)
    if (tmp_path / "best.safetensors").exists():
        model = nh.models.load(tmp_path / "best.safetensors")
        assert all(value.isfinite().all() for value in model.tensors().values())


def test_numbers_that_are_not_finite_are_refused(make_sdata, train, unread):
    with pytest.raises(ValueError, match="mse_weight must be a finite number, not nan"):
        train(make_sdata(), network={"mse_weight": float("nan")})
    with pytest.raises(ValueError, match="stain_jitter must be"):
        train(make_sdata(), stain_jitter=float("inf"))
