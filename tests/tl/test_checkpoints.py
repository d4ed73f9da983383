"""Interrupted, resumed and fine-tuned runs."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

import numpy as np
import pytest
import torch
from spatialdata import SpatialData

import nh2st as nh

EPOCHS = 4
SETTINGS = {
    "max_epochs": EPOCHS,
    "batch_size": 8,
    "seed": 3,
    "network": {"width": 32, "heads": 2, "dropout": 0.5},
}
STEPS_PER_EPOCH = 4


@pytest.fixture
def sdata(make_sdata: Callable[..., SpatialData]) -> SpatialData:
    return make_sdata(("A", "B", "C"), side=4)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """Raise an exception in the middle of an epoch."""

    def install(epoch: int, error: BaseException) -> None:
        losses, calls = nh.nn.NH2ST.losses, []

        def stopping(self, *arguments):
            calls.append(1)
            if len(calls) == epoch * STEPS_PER_EPOCH + 2:
                raise error
            return losses(self, *arguments)

        monkeypatch.setattr(nh.nn.NH2ST, "losses", stopping)

    return install


def test_resumed_run_equals_the_uninterrupted(sdata, train, stop_at, monkeypatch, tmp_path, same_run):
    whole = train(sdata, **SETTINGS)
    stop_at(2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(sdata, checkpoint_dir=tmp_path, **SETTINGS)
    monkeypatch.undo()
    resumed = train(sdata, resume_from=tmp_path / "last.ckpt", **SETTINGS)
    assert len(whole.history) == EPOCHS
    same_run(resumed, whole, tmp_path)


def test_interruption_names_the_best_model(sdata, train, stop_at, unchanged, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    stop_at(2, KeyboardInterrupt())
    with unchanged(sdata), pytest.raises(KeyboardInterrupt) as caught:
        train(sdata, checkpoint_dir=tmp_path, **SETTINGS)
    message = str(caught.value)
    assert str(tmp_path / "best.safetensors") in message
    assert f"resume_from={str(tmp_path / 'last.ckpt')!r}" in message
    assert "data are unchanged" in message
    assert signal.getsignal(signal.SIGINT) is handler
    best = nh.models.load(tmp_path / "best.safetensors")
    assert 1 <= len(best.history) <= 2
    nh.tl.predict(sdata, best)
    assert np.isfinite(sdata["table"].layers["nh2st"]).all()
    assert "training" not in sdata["table"].uns["nh2st"]


def test_failure_names_the_best_model(sdata, train, stop_at, unchanged, tmp_path, caplog):
    stop_at(1, RuntimeError("CUDA out of memory"))
    with unchanged(sdata), pytest.raises(RuntimeError, match="CUDA out of memory"):
        train(sdata, checkpoint_dir=tmp_path, **SETTINGS)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert str(tmp_path / "best.safetensors") in record.getMessage()
    assert len(nh.models.load(tmp_path / "best.safetensors").history) == 1


def test_models_of_an_earlier_run_are_not_called_the_best(sdata, train, stop_at, tmp_path):
    (tmp_path / "best.safetensors").write_text("of an earlier run")
    stop_at(0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="first epoch; nothing was kept"):
        train(sdata, checkpoint_dir=tmp_path, **SETTINGS)


def test_best_epoch_is_returned(sdata, train, tmp_path):
    folder = tmp_path / "run"
    model = train(sdata, checkpoint_dir=folder, **SETTINGS)
    scores = [row["val_pearson"] for row in model.history]
    kept = nh.models.load(folder / "best.safetensors")
    assert len(kept.history) == np.argmax(scores) + 1
    assert kept.sha256 == model.sha256
    assert sorted(path.name for path in folder.iterdir()) == ["best.safetensors", "last.ckpt"]


def test_best_model_is_no_checkpoint(sdata, train, tmp_path):
    train(sdata, checkpoint_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="must be the last.ckpt of a run"):
        train(sdata, resume_from=tmp_path / "best.safetensors")
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="with best.safetensors beside it"):
        train(sdata, resume_from=tmp_path / "last.ckpt")


@pytest.mark.parametrize("as_file", [False, True])
def test_fine_tuning_starts_from_the_model(make_sdata, train, tmp_path, as_file):
    base = train(make_sdata(side=4), genes=["gene5", "gene1"], target="paper", patch_um=28.0)
    new = make_sdata(("X", "Y", "Z"), side=4, seed=9)
    source = base.save(tmp_path / "base.safetensors") if as_file else base
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    model = train(new, init_from=source, learning_rate=1e-9, patch_px=64, patch_um=64.0)
    assert (model.genes, model.target, model.config) == (base.genes, base.target, base.config)
    assert (model.patch_um, model.patch_px) == (28.0, 32)
    assert model.provenance["init_from"] == base.name
    for name, value in model.network.named_parameters():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0, msg=name)
        assert torch.equal(base.network.get_parameter(name), before[name]), name
    assert not torch.equal(model.baselines.mean, base.baselines.mean)


def test_fine_tuned_model_remembers_all_sections_it_saw(make_sdata, train, caplog):
    old, new = make_sdata(("A", "B"), side=3), make_sdata(("X", "Y"), side=3, seed=9)
    model = train(new, init_from=train(old))
    nh.tl.predict(old, model)
    assert "was trained on sections 'A', 'B'" in caplog.text


def test_fine_tuning_on_a_table_without_the_genes(make_sdata, train):
    base = train(make_sdata(side=3))
    with pytest.raises(KeyError, match="2 of 8 genes are not in the table.*'gene6'"):
        train(make_sdata(side=3, n_genes=6), init_from=base)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_epochs": 4}, "max_epochs changed .max_epochs was 1, is 4"),
        ({"batch_size": 3}, "batch_size changed"),
        ({"genes": 3}, "genes"),
        ({"sections": ["A"]}, "data"),
    ],
)
def test_runs_are_resumed_as_they_were_started(make_sdata, train, tmp_path, changed, message):
    sdata = make_sdata(side=3)
    train(sdata, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=f"continues a run as it was started, but .*{message}"):
        train(sdata, resume_from=tmp_path / "last.ckpt", **changed)


def test_resuming_has_its_folder(make_sdata, train, tmp_path):
    with pytest.raises(ValueError, match="leave `checkpoint_dir=` out"):
        train(make_sdata(side=3), resume_from=tmp_path / "last.ckpt", checkpoint_dir=tmp_path / "other")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"genes": 3}, "genes="),
        ({"network": {"width": 64}}, "network="),
        ({"encoder": "resnet18"}, "encoder="),
        ({"target": "paper"}, "target="),
        ({"mpp": "native"}, "mpp="),
    ],
)
def test_fine_tuning_refuses_what_the_model_settles(trained, train, given, name):
    sdata, model = trained
    with pytest.raises(ValueError, match=f"init_from= settles {name}"):
        train(sdata, init_from=model, **given)


def test_temporary_checkpoints_are_removed_when_training_is_done(sdata, train, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    train(sdata, max_epochs=1)
    assert list(tmp_path.iterdir()) == []
