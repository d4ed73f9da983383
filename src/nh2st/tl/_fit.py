"""Runs the training loop and keeps its checkpoints."""

from __future__ import annotations

import dataclasses
import logging
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping

from nh2st._settings import logger
from nh2st.models import Model, load
from nh2st.nn import NH2ST
from nh2st.tl._lightning import LAST_CHECKPOINT, KeepBest, Spots, Training
from nh2st.tl._prepare import TrainingSpots
from nh2st.tl._split import Split

BEST_MODEL = "best.safetensors"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long, how fast and where to train."""

    max_epochs: int
    batch_size: int
    learning_rate: float
    stain_jitter: float
    patience: int
    seed: int
    device: torch.device
    precision: Literal["32", "bf16"]


def checkpoint_folder(checkpoint_dir: str | Path | None, resume_from: str | Path | None) -> Path:
    """Folder of the checkpoints: the one named, that of the run to be resumed, or a new temporary one.

    Raises
    ------
    FileNotFoundError
        If there is nothing to resume from.
    OSError
        If the folder cannot be written to.
    """
    if resume_from is not None and checkpoint_dir is not None:
        msg = "resume_from= continues in the folder of the run: leave `checkpoint_dir=` out."
        raise ValueError(msg)
    if resume_from is not None:
        checkpoint = Path(resume_from)
        whole = checkpoint.is_file() and (checkpoint.parent / BEST_MODEL).is_file()
        if not whole or checkpoint.name != LAST_CHECKPOINT:
            msg = (
                f"resume_from={str(resume_from)!r} must be the {LAST_CHECKPOINT} of a run, with {BEST_MODEL} beside it."
            )
            raise FileNotFoundError(msg)
        return checkpoint.parent
    if checkpoint_dir is None:
        return Path(tempfile.mkdtemp(prefix="nh2st-"))
    folder = Path(checkpoint_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"Checkpoints cannot be written to {folder}: {error}. Name another `checkpoint_dir=`."
        raise OSError(msg) from error
    return folder


def check_same_run(model: Model, folder: Path) -> None:
    """Make sure that a run is resumed as it was started.

    Raises
    ------
    ValueError
        If an argument or the data differ.
    """
    before = load(folder / BEST_MODEL)
    pairs = {
        "genes": (before.genes, model.genes),
        "target": (before.target, model.target),
        "encoder or network": (before.config, model.config),
        "patch_um": (before.patch_um, model.patch_um),
    }
    names = {"data": "fingerprints", "groups": "groups", "max_epochs": "max_epochs", "batch_size": "batch_size"}
    names |= {"learning_rate": "learning_rate", "stain_jitter": "stain_jitter", "seed": "seed"}
    pairs |= {name: (before.provenance.get(key), model.provenance.get(key)) for name, key in names.items()}
    if changed := [name for name, (old, new) in pairs.items() if old != new]:
        first = changed[0]
        was = "" if first == "data" else f" ({first} was {pairs[first][0]!s:.60}, is {pairs[first][1]!s:.60})"
        msg = (
            f"resume_from= continues a run as it was started, but {', '.join(changed)} changed{was}. Give the same "
            f"arguments, or start a new run from its best model: `init_from={str(folder / BEST_MODEL)!r}`."
        )
        raise ValueError(msg)


def fit(
    model: Model, spots: TrainingSpots, split: Split, schedule: Schedule, folder: Path, resume_from: str | Path | None
) -> Model:
    """Train the model's network and return the model with the best weights.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupts; the message names the best model so far.
    """

    def write_best(network: NH2ST, history: list[dict[str, float]]) -> None:
        dataclasses.replace(model, network=network, history=list(history)).save(folder / BEST_MODEL)

    data = Spots(spots, split.validation, schedule.batch_size, schedule.seed)
    training = Training(model.network, data, schedule.learning_rate, schedule.stain_jitter, schedule.seed)
    keeper = KeepBest(folder, write_best)
    callbacks: list[L.Callback] = [keeper]
    if split.validation.any():
        callbacks.append(EarlyStopping("val_pearson", mode="max", patience=schedule.patience))
    logger.info("Checkpoints are kept in %s.", folder)
    with _quiet_lightning(), _determinism_restored(), torch.random.fork_rng(devices=[]):
        trainer = _trainer(schedule, callbacks, folder)
        with _interruptible(trainer, keeper):
            trainer.fit(training, data, ckpt_path=resume_from, weights_only=True)
    best = load(folder / BEST_MODEL)
    best.history = training.history
    return best


def _trainer(schedule: Schedule, callbacks: list[L.Callback], folder: Path) -> L.Trainer:
    device = schedule.device
    return L.Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        devices=[device.index] if device.index is not None else 1,
        precision="bf16-mixed" if schedule.precision == "bf16" else "32-true",
        max_epochs=schedule.max_epochs,
        callbacks=callbacks,
        default_root_dir=folder,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty() and logger.isEnabledFor(logging.INFO),
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        deterministic="warn" if device.type == "cpu" else None,
    )


@contextmanager
def _interruptible(trainer: L.Trainer, keeper: KeepBest) -> Iterator[None]:
    """Turn Lightning's exit on Ctrl+C back into a KeyboardInterrupt that names the checkpoints."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit as error:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt(_interruption(keeper)) from error
    except BaseException:
        logger.error(_interruption(keeper))
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)


def _interruption(keeper: KeepBest) -> str:
    if np.isneginf(keeper.best_score):
        return "Training stopped in its first epoch; nothing was kept, and the data are unchanged."
    folder = keeper.folder
    return (
        f"Training stopped early; the data are unchanged. The best model so far is {folder / BEST_MODEL} "
        f"(`nh.models.load`); `resume_from={str(folder / LAST_CHECKPOINT)!r}` continues the run."
    )


@contextmanager
def _determinism_restored() -> Iterator[None]:
    """Undo what the trainer sets for the whole session."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's own notices: the package says what users need to know."""
    chatter = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [one.level for one in chatter]
    for one in chatter:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for one, level in zip(chatter, levels, strict=True):
            one.setLevel(level)
