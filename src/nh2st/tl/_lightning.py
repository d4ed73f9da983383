"""The training loop: Lightning runs it, this module says what a step, an epoch and a checkpoint are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from nh2st._keys import UNDEFINED_SCORE
from nh2st._metrics import mean_over_genes, pearson
from nh2st._settings import logger
from nh2st.nn import NH2ST, NeighborBatch, collate, random_dihedral, random_stain, spatial_batches
from nh2st.nn._images import channel_first
from nh2st.tl._prepare import TrainingSpots

_WEIGHT_DECAY = 0.05
_WARM_UP = 0.15
_SECONDS_BETWEEN_CHECKPOINTS = 30.0
_SHARE_OF_CHECKPOINTS = 0.1
LAST_CHECKPOINT = "last.ckpt"


class _Batches(IterableDataset):
    """Batches of one epoch, each with its distinct patches."""

    def __init__(self, spots: TrainingSpots, used: np.ndarray, batch_size: int, seed: int) -> None:
        self.spots = spots
        self.neighbors = spots.neighbors_within(used)
        members = np.flatnonzero(used)
        batches = spatial_batches(spots.coordinates[members], spots.section[members], batch_size, seed=seed)
        self.batches = [members[batch] for batch in batches]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[NeighborBatch]:
        for targets in self.batches:
            yield collate(targets, self.neighbors, self.spots.images, self.spots.expression)


class Spots(L.LightningDataModule):
    """Training batches, drawn anew every epoch, and the validation spots."""

    def __init__(self, spots: TrainingSpots, validation: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__()
        self.spots, self.validation, self.batch_size, self.seed = spots, validation, batch_size, seed

    def train_dataloader(self) -> DataLoader:
        epoch = self.trainer.current_epoch if self.trainer else 0
        seed = _seed_of(self.seed, epoch)
        return DataLoader(_Batches(self.spots, ~self.validation, self.batch_size, seed), batch_size=None)

    def val_dataloader(self) -> DataLoader | list[Any]:
        members = np.flatnonzero(self.validation)
        if len(members) == 0:
            return []
        parts = np.array_split(members, max(1, round(len(members) / self.batch_size)))
        images: Any = [torch.from_numpy(self.spots.images[part]) for part in parts]
        return DataLoader(images, batch_size=None)


def _seed_of(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class Training(L.LightningModule):
    """Steps, validation scores and the optimiser of the network."""

    def __init__(self, network: NH2ST, data: Spots, learning_rate: float, stain_jitter: float, seed: int) -> None:
        super().__init__()
        self.network, self.learning_rate, self.stain_jitter, self.seed = network, learning_rate, stain_jitter, seed
        measured = data.spots.expression[data.validation]
        section = data.spots.section[data.validation]
        self._measured = [measured[section == number] for number in np.unique(section)]
        self._sections = section
        self._predicted: list[Tensor] = []
        self._sums: dict[str, list[Tensor]] = {}
        self._validation: dict[str, float] = {}
        self.history: list[dict[str, float]] = []

    def on_train_epoch_start(self) -> None:
        # Seeded by epoch, so that a resumed run draws the same numbers as an uninterrupted one.
        self._augmentation = torch.Generator().manual_seed(_seed_of(self.seed, self.current_epoch))
        self._sums = {}

    def on_train_batch_start(self, batch: NeighborBatch, batch_idx: int) -> None:
        # Data loaders draw from the same generator as dropout, at other times in a resumed run.
        torch.manual_seed(_seed_of(self.seed, self.global_step))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer.training:
            images = random_dihedral(channel_first(batch.images), self._augmentation)
            batch.images = random_stain(images, self.stain_jitter, self._augmentation)
        return batch

    def training_step(self, batch: NeighborBatch, batch_idx: int) -> Tensor:
        losses = self.network.losses(self.network(batch), batch)
        for name, value in losses.items():
            self._sums.setdefault(name, []).append(value.detach() * len(batch.nodes))
        self._sums.setdefault("spots", []).append(torch.tensor(float(len(batch.nodes))))
        return losses["loss"]

    def validation_step(self, images: Tensor, batch_idx: int) -> None:
        self._predicted.append(self.network.predict(images).float().cpu())

    def on_validation_epoch_end(self) -> None:
        predicted = torch.cat(self._predicted).numpy()
        self._predicted = []
        per_section = [predicted[self._sections == number] for number in np.unique(self._sections)]
        pairs = list(zip(self._measured, per_section, strict=True))
        score = mean_over_genes(np.array([mean_over_genes(pearson(*pair)) for pair in pairs]))
        self._validation = {
            "val_pearson": score if np.isfinite(score) else UNDEFINED_SCORE,
            "val_mse": float(np.mean(np.concatenate([((m - p) ** 2).ravel() for m, p in pairs]))),
        }
        self.log("val_pearson", self._validation["val_pearson"], prog_bar=True)

    def on_train_epoch_end(self) -> None:
        spots = torch.stack(self._sums.pop("spots")).sum()
        row = {name: float(torch.stack(values).cpu().sum() / spots) for name, values in self._sums.items()}
        row = {"epoch": self.current_epoch, **row, **self._validation}
        self.history.append(row)
        validation = f", validation PCC {row['val_pearson']:.3f}" if "val_pearson" in row else ""
        logger.info("Epoch %d: loss %.3f, MSE %.3f%s.", self.current_epoch + 1, row["loss"], row["mse"], validation)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.learning_rate, weight_decay=_WEIGHT_DECAY)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=steps, pct_start=_WARM_UP
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["nh2st_history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["nh2st_history"]


class KeepBest(Checkpoint):
    """Keeps the best network of the run, writes it to a file, and leaves a checkpoint to resume from."""

    def __init__(self, folder: Path, write_best: Callable[[NH2ST, list[dict[str, float]]], None]) -> None:
        self.folder, self.write_best = folder, write_best
        self.best_score = -np.inf
        self._due_at = -np.inf

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Training) -> None:  # type: ignore[override]
        history = pl_module.history
        score = history[-1].get("val_pearson", float(trainer.current_epoch))
        if score > self.best_score:
            self.best_score = score
            self.write_best(pl_module.network, history)
        last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        if last_epoch or time.monotonic() > self._due_at:
            self._save_last(trainer)

    def _save_last(self, trainer: L.Trainer) -> None:
        """Write ``last.ckpt``; the next one is due when this one has cost no more than a tenth of the time."""
        started = time.monotonic()
        temporary = self.folder / f".{LAST_CHECKPOINT}.tmp"
        trainer.save_checkpoint(temporary)
        temporary.replace(self.folder / LAST_CHECKPOINT)
        saved = time.monotonic()
        self._due_at = saved + max(_SECONDS_BETWEEN_CHECKPOINTS, (saved - started) / _SHARE_OF_CHECKPOINTS)

    def state_dict(self) -> dict[str, float]:
        return {"best_score": float(self.best_score)}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.best_score = state_dict["best_score"]
