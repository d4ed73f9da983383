"""Files of a run: its best model, and the checkpoint from which it can be resumed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Checkpoint

from nh2st.models import Model, load
from nh2st.nn import Network
from nh2st.tl._training._lightning_module import NetworkTraining

BEST_MODEL = "best.safetensors"
LAST_CHECKPOINT = "last.ckpt"
_SECONDS_BETWEEN_CHECKPOINTS = 30.0
_SHARE_OF_CHECKPOINTS = 0.1
_SAME_SETTINGS = (
    "groups",
    "max_epochs",
    "batch_size",
    "learning_rate",
    "stain_jitter",
    "fine_tune",
    "encoder_weights",
    "seed",
    "world_size",
)


def checkpoint_folder(checkpoint_dir: str | Path | None, resume_from: str | Path | None, rank: int) -> Path | None:
    """Folder of the checkpoints: the one named, that of the run to be resumed, or a new temporary one.

    Only the process of rank 0 makes folders and writes to them; others get None for a temporary one.

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
        return _folder_of_run(Path(resume_from))
    if checkpoint_dir is not None:
        return _writable(Path(checkpoint_dir)) if rank == 0 else Path(checkpoint_dir)
    return Path(tempfile.mkdtemp(prefix="nh2st-")) if rank == 0 else None


def _folder_of_run(checkpoint: Path) -> Path:
    whole = checkpoint.is_file() and (checkpoint.parent / BEST_MODEL).is_file()
    if not whole or checkpoint.name != LAST_CHECKPOINT:
        msg = f"resume_from={str(checkpoint)!r} must be the {LAST_CHECKPOINT} of a run, with {BEST_MODEL} beside it."
        raise FileNotFoundError(msg)
    return checkpoint.parent


def _writable(folder: Path) -> Path:
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
        If an argument, the number of processes or the data differ.
    """
    before = load(folder / BEST_MODEL)
    pairs = {
        "genes": (before.genes, model.genes),
        "target": (before.target, model.target),
        "encoder or network": (before.config, model.config),
        "patch_um": (before.patch_um, model.patch_um),
        "data": tuple(run.provenance.get("fingerprints") for run in (before, model)),
    }
    pairs |= {name: (before.provenance.get(name), model.provenance.get(name)) for name in _SAME_SETTINGS}
    if changed := [name for name, (old, new) in pairs.items() if old != new]:
        first = changed[0]
        was = "" if first == "data" else f" ({first} was {pairs[first][0]!s:.60}, is {pairs[first][1]!s:.60})"
        msg = (
            f"resume_from= continues a run as it was started, but {', '.join(changed)} changed{was}. Give the same "
            f"arguments, or start a new run from its best model: `init_from={str(folder / BEST_MODEL)!r}`."
        )
        raise ValueError(msg)


def keep_model(model: Model, folder: Path | None) -> None:
    """Write a model into the folder of its run, where no training loop did; what an earlier run left there goes."""
    if folder is None:
        return
    path = folder / BEST_MODEL
    if not path.exists() or load(path).sha256 != model.sha256:
        model.save(path)


class KeepBest(Checkpoint):
    """Keeps the best network of the run, writes it to a file, and leaves a checkpoint to resume from.

    With `last` the best network is that of the last epoch.

    All processes know the folder of rank 0, which alone writes to it.
    """

    def __init__(
        self,
        folder: Path | None,
        write_best: Callable[[Network, list[dict[str, float]], Path], None],
        *,
        last: bool = False,
    ) -> None:
        self.folder, self.write_best, self.last = folder or Path(), write_best, last
        self.best_score = -np.inf
        self._due_at = -np.inf

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: NetworkTraining) -> None:  # type: ignore[override]
        history = pl_module.history
        epoch = float(trainer.current_epoch)
        score = epoch if self.last else history[-1].get("val_pearson", epoch)
        due = trainer.current_epoch + 1 == trainer.max_epochs or time.monotonic() > self._due_at
        if score > self.best_score and (due or not self.last):
            self.best_score = score
            if trainer.is_global_zero:
                self.write_best(pl_module.network, history, self.folder / BEST_MODEL)
        if trainer.strategy.broadcast(due):
            self._save_last(trainer)

    def _save_last(self, trainer: L.Trainer) -> None:
        """Write ``last.ckpt``; the next one is due when this one has cost no more than a tenth of the time."""
        started = time.monotonic()
        temporary = self.folder / f".{LAST_CHECKPOINT}.tmp"
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self.folder / LAST_CHECKPOINT)
        saved = time.monotonic()
        self._due_at = saved + max(_SECONDS_BETWEEN_CHECKPOINTS, (saved - started) / _SHARE_OF_CHECKPOINTS)

    def state_dict(self) -> dict[str, float]:
        return {"best_score": float(self.best_score)}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.best_score = state_dict["best_score"]
