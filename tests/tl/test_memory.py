"""Memory of the device: patches that fit are kept there, and batches that do not fit are halved once."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from nh2st._estimators import _paper
from nh2st._patches import stack_patches
from nh2st.nn import Encoder
from nh2st.tl._training import _data_module

SETTINGS = {"batch_size": 8, "max_epochs": 2, "seed": 1}


@pytest.fixture
def sdata(make_sdata):
    return make_sdata(("A", "B", "C"), side=4)


@pytest.fixture
def memory_for(monkeypatch):
    """Let encoding more patches than these with gradients run out of memory, from a call on."""

    def install(n_patches: int, first_call: int = 0, error: BaseException | None = None) -> list[int]:
        forward, calls = Encoder.forward, []

        def limited(self, images):
            if torch.is_grad_enabled():
                calls.append(len(images))
                if len(images) > n_patches and len(calls) > first_call:
                    raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(self, images)

        monkeypatch.setattr(Encoder, "forward", limited)
        return calls

    return install


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_batches_are_halved_once(sdata, train, memory_for, caplog, tmp_path):
    halved = SETTINGS | {"batch_size": 4}
    calls = memory_for(1000)
    plain = train(sdata, **halved)
    caplog.clear()
    calls = memory_for(max(calls), first_call=3)
    model = train(sdata, checkpoint_dir=tmp_path, **SETTINGS)
    assert warnings_of(caplog) == ["The GPU's memory does not suffice: training starts again with batch_size=4."]
    assert not [record for record in caplog.records if record.levelno == logging.ERROR]
    assert model.provenance["batch_size"] == 4
    assert model.sha256 == plain.sha256, "the second attempt starts from the same weights"
    resumed = train(sdata, resume_from=tmp_path / "last.ckpt", **halved)
    assert resumed.sha256 == model.sha256


def test_second_failure_says_what_to_change(sdata, train, unchanged, memory_for, tmp_path):
    memory_for(1)
    with (
        unchanged(sdata),
        pytest.raises(torch.OutOfMemoryError, match="of 4 spots.*32 px.*`batch_size=` or `patch_px=`"),
    ):
        train(sdata, checkpoint_dir=tmp_path / "run", **SETTINGS)
    assert not list((tmp_path / "run").iterdir())


def test_single_spots_cannot_be_halved(sdata, train, memory_for, caplog):
    memory_for(0)
    with pytest.raises(torch.OutOfMemoryError, match="batches of 1 spots"):
        train(sdata, **SETTINGS | {"batch_size": 1})
    assert not warnings_of(caplog)


def test_resumed_runs_keep_their_batches(sdata, train, memory_for, monkeypatch, tmp_path):
    memory_for(0, first_call=5, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(sdata, checkpoint_dir=tmp_path / "run", **SETTINGS)
    monkeypatch.undo()
    memory_for(0)
    with pytest.raises(torch.OutOfMemoryError, match="batches of 8 spots"):
        train(sdata, resume_from=tmp_path / "run" / "last.ckpt", **SETTINGS)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best.safetensors", "last.ckpt"]


def test_patches_are_kept_on_the_device_where_they_fit(sdata, train, monkeypatch, caplog):
    plain = train(sdata, **SETTINGS)
    assert "are kept on cpu" not in caplog.text
    monkeypatch.setattr(_data_module, "_free_bytes", lambda device: 2 * 48 * 32 * 32 * 3)
    model = train(sdata, **SETTINGS)
    assert "The patches (0.0 GB) are kept on cpu" in caplog.text
    assert model.sha256 == plain.sha256


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_half_of_the_free_memory_is_left(monkeypatch, dtype):
    images = np.arange(3000 * 4, dtype=dtype).reshape(3000, 4)
    images.flags.writeable = False
    monkeypatch.setattr(_data_module, "_free_bytes", lambda device: 2 * images.nbytes)
    kept = _data_module.beside_network(images, torch.device("cpu"))
    assert isinstance(kept, torch.Tensor)
    np.testing.assert_array_equal(kept, images)
    monkeypatch.setattr(_data_module, "_free_bytes", lambda device: 2 * images.nbytes - 1)
    assert _data_module.beside_network(images, torch.device("cpu")) is images


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_patches_in_a_file_train_the_same_model(sdata, train, monkeypatch, tmp_path):
    plain = train(sdata, **SETTINGS)

    def in_a_file(*arguments):
        np.save(tmp_path / "patches.npy", stack_patches(*arguments))
        return np.load(tmp_path / "patches.npy", mmap_mode="r")

    monkeypatch.setattr(_paper, "stack_patches", in_a_file)
    assert train(sdata, **SETTINGS).sha256 == plain.sha256
    assert (tmp_path / "patches.npy").exists()
