"""Batches of the training spots, drawn anew every epoch, and the validation spots: each process gets its share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from nh2st._estimators import TrainingSpots
from nh2st._settings import logger
from nh2st.nn import NeighborBatch, collate, spatial_batches

_SHARE_OF_FREE_MEMORY = 0.5
_ROWS_COPIED = 1024


def seed_of(*numbers: int) -> int:
    """Mix a seed with an epoch or step, and a rank."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class SpotBatches(L.LightningDataModule):
    """Training batches and validation spots.

    All processes draw the same batches of ``batch_size`` spots for each of them, and every one takes its part of each.
    Every spot is thus used once an epoch, in steps whose parts differ by at most one spot; only a batch with fewer
    spots than there are processes is filled up by repeating them.
    """

    def __init__(self, spots: TrainingSpots, validation: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__()
        self.spots, self.validation, self.batch_size, self.seed = spots, validation, batch_size, seed
        self.images: np.ndarray | Tensor = spots.images.values
        self._neighbors = spots.neighbors_within(~validation)

    def setup(self, stage: str) -> None:
        self.images = beside_network(self.spots.images.values, self._trainer.strategy.root_device)

    def train_dataloader(self) -> DataLoader:
        members = np.flatnonzero(~self.validation)
        joined = spatial_batches(
            self.spots.coordinates[members],
            self.spots.section[members],
            self.batch_size * self._trainer.world_size,
            cluster_spots=self.spots.images.drawn_together,
            seed=seed_of(self.seed, self._trainer.current_epoch),
        )
        return DataLoader(_Batches(self._gather, [members[self._part(batch)] for batch in joined]), batch_size=None)

    def val_dataloader(self) -> DataLoader | list[Any]:
        members = np.flatnonzero(self.validation)
        if len(members) == 0:
            return []
        # DDP exchanges buffers in every step, so that all processes take the same number: with any spot, if need be.
        parts = [members[part if len(part) else [0]] for part in self._validation_parts()]
        return DataLoader(_Batches(self._to_predict, parts), batch_size=None)

    def validated_here(self) -> np.ndarray:
        """Validation spots of this process in the order of its batches, as positions among all validation spots."""
        return np.concatenate(self._validation_parts())

    def _gather(self, targets: np.ndarray) -> NeighborBatch:
        # Patches are costly to encode, maps are there for all. A single patch would have no batch statistics.
        closed = self.spots.images.encoded_in_steps and len(targets) > 1
        batch = self._collate(targets, self._neighbors, closed=closed)
        if not self.spots.images.alone:
            batch.related = torch.from_numpy(self._overlapping(targets))
        if self._trainer.strategy.root_device.type == "cuda" and batch.images.device.type == "cpu":
            batch.images = batch.images.pin_memory()
        return batch

    def _to_predict(self, part: np.ndarray) -> NeighborBatch | Tensor:
        if self.spots.images.alone:
            return torch.as_tensor(self.images[part])
        return self._collate(part, self.spots.neighbors)

    def _collate(self, targets: np.ndarray, neighbors: np.ndarray, *, closed: bool = False) -> NeighborBatch:
        spots = self.spots
        return collate(
            targets,
            neighbors,
            self.images,
            spots.labels,
            closed=closed,
            counts=spots.counts,
            log_expected=spots.log_expected,
        )

    def _overlapping(self, targets: np.ndarray) -> np.ndarray:
        """Pairs (B, B) of spots whose patches overlap."""
        spots = self.spots
        apart = np.abs(spots.coordinates[targets, None] - spots.coordinates[targets]).max(axis=-1)
        same_section = spots.section[targets, None] == spots.section[targets]
        return same_section & (apart < spots.overlap[targets])

    def _part(self, batch: np.ndarray) -> np.ndarray:
        world_size = self._trainer.world_size
        return np.array_split(np.resize(batch, max(len(batch), world_size)), world_size)[self._trainer.global_rank]

    def _validation_parts(self) -> list[np.ndarray]:
        n_spots, world_size = int(self.validation.sum()), self._trainer.world_size
        n_steps = max(1, round(n_spots / (self.batch_size * world_size)))
        return np.array_split(np.arange(n_spots), n_steps * world_size)[self._trainer.global_rank :: world_size]

    @property
    def _trainer(self) -> L.Trainer:
        if self.trainer is None:
            msg = "The data module is used by a trainer alone."
            raise RuntimeError(msg)
        return self.trainer


class _Batches(IterableDataset):
    """Batches of given spots, each gathered when it is its turn."""

    def __init__(self, gather: Callable[[np.ndarray], Any], spots: Sequence[np.ndarray]) -> None:
        self.gather, self.spots = gather, spots

    def __len__(self) -> int:
        return len(self.spots)

    def __iter__(self) -> Iterator[Any]:
        return map(self.gather, self.spots)


def beside_network(images: np.ndarray, device: torch.device) -> np.ndarray | Tensor:
    """Patches on the network's device, where they take up at most half of its free memory; else as they are."""
    if images.nbytes > _SHARE_OF_FREE_MEMORY * _free_bytes(device):
        return images
    logger.info("The patches (%.1f GB) are kept on %s.", images.nbytes / 1e9, device)
    resident = torch.empty(images.shape, dtype=torch.tensor(images[:0]).dtype, device=device)
    for rows in np.array_split(np.arange(len(images)), -(-len(images) // _ROWS_COPIED)):
        resident[rows] = torch.tensor(images[rows], device=device)
    return resident


def _free_bytes(device: torch.device) -> int:
    """Memory of a device to which batches would otherwise be copied; 0 where it is the same as the processor's."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
