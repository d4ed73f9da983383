"""Runs the training loop, once more with smaller batches where memory runs out, and gives back the best model."""

from __future__ import annotations

import copy
import gc
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping

from nh2st._estimators import TrainingSpots
from nh2st._settings import logger
from nh2st.models import Model, load
from nh2st.nn import Network
from nh2st.tl._training._checkpoints import BEST_MODEL, LAST_CHECKPOINT, KeepBest
from nh2st.tl._training._data_module import SpotBatches
from nh2st.tl._training._hardware import Place
from nh2st.tl._training._lightning_module import NetworkTraining
from nh2st.tl._training._schedule import Schedule
from nh2st.tl._training._trainer import determinism_restored, make_trainer, quiet_lightning


@dataclass(frozen=True)
class LightningRun:
    """What is trained on, how and where, and the folder of the checkpoints (None in processes that write none)."""

    spots: TrainingSpots
    validation: np.ndarray
    schedule: Schedule
    place: Place
    world_size: int
    folder: Path | None
    resume_from: str | Path | None = None
    is_trial: bool = False
    """Whether the model is not kept, but only what is learnt of its errors."""

    @property
    def seed(self) -> int:
        """Seed of all random choices."""
        return self.schedule.seed

    def on(self, spots: TrainingSpots, validation: np.ndarray | None = None) -> LightningRun:
        """The same on other spots; with other ones held out, where they are given."""
        return replace(self, spots=spots, validation=self.validation if validation is None else validation)

    def trial(self, folder: Path) -> LightningRun:
        """The same in another folder, for a model that is not kept."""
        return replace(self, folder=folder, resume_from=None, is_trial=True)

    def train(self, model: Model) -> Model:
        """Train the model's network, as :func:`fit` does."""
        return fit(model, self)


def fit(model: Model, run: LightningRun) -> Model:
    """Train the model's network and return the model with the best weights, the same in all processes.

    Where a GPU's memory does not suffice, training starts again with batches of half the size.

    Raises
    ------
    torch.OutOfMemoryError
        If memory does not suffice for these either, or the run is one that cannot start again: a resumed one, whose
        batches are settled, or one of several processes, of which others have memory left.
    KeyboardInterrupt
        If the user interrupts; the message names the best model so far.
    """
    batch_size = run.schedule.batch_size
    try:
        return _fit(model, run)
    except torch.cuda.OutOfMemoryError as error:
        if run.resume_from is not None or run.world_size > 1 or batch_size == 1:
            raise _out_of_memory(model, batch_size) from error
    batch_size //= 2
    logger.warning("The GPU's memory does not suffice: training starts again with batch_size=%d.", batch_size)
    _free_memory()
    _forget(run)
    model = replace(model, provenance=model.provenance | {"batch_size": batch_size})
    try:
        return _fit(model, replace(run, schedule=replace(run.schedule, batch_size=batch_size)))
    except torch.cuda.OutOfMemoryError as error:
        raise _out_of_memory(model, batch_size) from error


def _out_of_memory(model: Model, batch_size: int) -> torch.cuda.OutOfMemoryError:
    return torch.cuda.OutOfMemoryError(
        f"The GPU's memory does not suffice for batches of {batch_size} spots and their neighbours, in patches of "
        f"{model.patch_px} px. Give a smaller `batch_size=` or `patch_px=`, a smaller `encoder=`, or train less of it "
        "(`fine_tune=`)."
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _forget(run: LightningRun) -> None:
    """Remove what the attempt with larger batches left, lest it be resumed with smaller ones."""
    for name in (BEST_MODEL, LAST_CHECKPOINT):
        if run.folder is not None:
            (run.folder / name).unlink(missing_ok=True)


def _fit(model: Model, run: LightningRun) -> Model:
    """Train a copy of the model's network."""

    def write_best(network: Network, history: list[dict[str, float]], path: Path) -> None:
        replace(model, network=network, history=list(history)).save(path)

    schedule = run.schedule
    data = SpotBatches(run.spots, run.validation, schedule.batch_size, schedule.seed)
    training = NetworkTraining(copy.deepcopy(model.network), data, schedule)
    keeper = KeepBest(run.folder, write_best, last=not schedule.early_stopping)
    callbacks: list[L.Callback] = [keeper]
    if run.validation.any() and schedule.early_stopping:
        callbacks.append(EarlyStopping("val_pearson", mode="max", patience=schedule.patience))
    with quiet_lightning(), determinism_restored(), torch.random.fork_rng(devices=[]):
        trainer = make_trainer(
            run.place,
            max_epochs=schedule.max_epochs,
            callbacks=callbacks,
            default_root_dir=run.folder,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
        )
        with _interruptible(trainer, keeper, trial=run.is_trial):
            trainer.fit(training, data, ckpt_path=run.resume_from, weights_only=True)
            best = _best_of_all(trainer, keeper.folder / BEST_MODEL)
    best.history = training.history
    return best


def _best_of_all(trainer: L.Trainer, path: Path) -> Model:
    """The best model that the process of rank 0 wrote; the others, perhaps on other machines, are sent its file."""
    first = trainer.is_global_zero
    content = trainer.strategy.broadcast(path.read_bytes() if first and trainer.world_size > 1 else b"")
    if first:
        return load(path)
    with tempfile.TemporaryDirectory(prefix="nh2st-") as folder:
        received = Path(folder) / BEST_MODEL
        received.write_bytes(content)
        return load(received)


@contextmanager
def _interruptible(trainer: L.Trainer, keeper: KeepBest, *, trial: bool) -> Iterator[None]:
    """Turn Lightning's exit on Ctrl+C back into a KeyboardInterrupt that names the checkpoints."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit as error:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt(_interruption(keeper, trial=trial)) from error
    except torch.cuda.OutOfMemoryError:
        raise
    except BaseException:
        logger.error(_interruption(keeper, trial=trial))
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)


def _interruption(keeper: KeepBest, *, trial: bool) -> str:
    if trial:
        return "Training stopped before its main run; nothing was kept, and the data are unchanged."
    if np.isneginf(keeper.best_score):
        return "Training stopped in its first epoch; nothing was kept, and the data are unchanged."
    folder = keeper.folder
    return (
        f"Training stopped early; the data are unchanged. The best model so far is {folder / BEST_MODEL} "
        f"(`nh.models.load`); `resume_from={str(folder / LAST_CHECKPOINT)!r}` continues the run."
    )
