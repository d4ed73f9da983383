"""The training loop: Lightning runs it, this module says what a step and an epoch are."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from nh2st._keys import UNDEFINED_SCORE
from nh2st._metrics import mean_over_genes, pearson
from nh2st._settings import logger
from nh2st._torch import channel_first
from nh2st.nn import NeighborBatch, Network, random_dihedral, random_stain
from nh2st.tl._training._compiled import Compiled
from nh2st.tl._training._data_module import SpotBatches, seed_of
from nh2st.tl._training._schedule import Schedule

_WEIGHT_DECAY = 0.05
_WARM_UP = 0.15
_TERMS = ("query", "neighbor", "mse")


class NetworkTraining(L.LightningModule):
    """Steps, validation scores and the optimiser of the network."""

    def __init__(self, network: Network, data: SpotBatches, schedule: Schedule) -> None:
        super().__init__()
        self.network, self.schedule, self._data = network, schedule, data
        self._compute = Compiled(network.forward) if schedule.compile else network
        self._measured = data.spots.expression[data.validation]
        self._sections = data.spots.section[data.validation]
        self._predicted: list[Tensor] = []
        self._steps: list[Tensor] = []
        self._validation: dict[str, float] = {}
        self.history: list[dict[str, float]] = []

    def on_train_epoch_start(self) -> None:
        # Seeded by epoch, so that a resumed run draws the same numbers as an uninterrupted one.
        seed = seed_of(self.schedule.seed, self.current_epoch, self.global_rank)
        self._augmentation = torch.Generator().manual_seed(seed)
        self._steps = []

    def on_train_batch_start(self, batch: NeighborBatch, batch_idx: int) -> None:
        # Data loaders draw from the same generator as dropout, at other times in a resumed run.
        torch.manual_seed(seed_of(self.schedule.seed, self.global_step, self.global_rank))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer.training and self._data.spots.images.encoded_in_steps:
            images = random_dihedral(channel_first(batch.images), self._augmentation)
            batch.images = random_stain(images, self.schedule.stain_jitter, self._augmentation)
        return batch

    def training_step(self, batch: NeighborBatch, batch_idx: int) -> Tensor:
        losses = self.network.losses(self._compute(batch), batch)
        loss = losses["loss"]
        terms = [losses[name].detach() * len(batch) for name in _TERMS]
        self._steps.append(torch.stack([loss.new_tensor(len(batch)), loss.detach(), *terms]))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._predicted.append(self.network.predict(batch).float())

    def on_validation_epoch_end(self) -> None:
        predicted = self._predicted_by_all()
        per_section = [self._sections == number for number in np.unique(self._sections)]
        pairs = [(self._measured[rows], predicted[rows]) for rows in per_section]
        score = mean_over_genes(np.array([mean_over_genes(pearson(*pair)) for pair in pairs]))
        self._validation = {
            "val_pearson": score if np.isfinite(score) else UNDEFINED_SCORE,
            "val_mse": float(np.mean(np.concatenate([((m - p) ** 2).ravel() for m, p in pairs]))),
        }
        self.log("val_pearson", self._validation["val_pearson"], prog_bar=True)

    def _predicted_by_all(self) -> np.ndarray:
        """Predictions of all validation spots, gathered from all processes."""
        here = torch.as_tensor(self._data.validated_here(), device=self.device)
        predicted = torch.zeros(self._measured.shape, device=self.device)
        predicted[here] = torch.cat(self._predicted)[: len(here)]
        self._predicted = []
        return self._sum(predicted).cpu().numpy()

    def on_train_epoch_end(self) -> None:
        # Terms are means over a process's own spots; the loss is scaled so that its mean over processes is that of all.
        spots, loss, *terms = self._sum(torch.stack(self._steps)).cpu().T
        sums = torch.stack([loss / self.trainer.world_size * spots, *terms]).sum(dim=1)
        means = dict(zip(("loss", *_TERMS), (sums / spots.sum()).tolist(), strict=True))
        self._check_finite(means["loss"])
        row = {"epoch": self.current_epoch, **means, **self._validation}
        self.history.append(row)
        validation = f", validation PCC {row['val_pearson']:.3f}" if "val_pearson" in row else ""
        logger.info(
            "Epoch %d%s: loss %.3f%s%s.",
            self.current_epoch + 1,
            "" if self.schedule.early_stopping else self._which_spots(),
            row["loss"],
            f", MSE {row['mse']:.3f}" if self.schedule.early_stopping else "",
            validation,
        )

    def _check_finite(self, loss: float) -> None:
        """Stop a training that has diverged, before its weights are kept.

        Raises
        ------
        FloatingPointError
            If the loss or a weight is NaN or infinite.
        """
        state = self.network.state_dict().values()
        if np.isfinite(loss) and all(bool(value.isfinite().all()) for value in state if value.is_floating_point()):
            return
        msg = (
            f"Training diverged in epoch {self.current_epoch + 1}: the loss is {loss:.3g}, or a weight is not finite. "
            f"Lower `learning_rate=`, which is {self.schedule.learning_rate:g}."
        )
        raise FloatingPointError(msg)

    def _which_spots(self) -> str:
        return " without the validation spots" if self._data.validation.any() else " with all spots"

    def _sum(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="sum")

    def configure_optimizers(self) -> Any:
        rate = self.schedule.learning_rate
        optimizer = _adamw([weight for weight in self.network.parameters() if weight.requires_grad], rate)
        steps = int(self.trainer.estimated_stepping_batches)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=_WARM_UP)
        return [optimizer], [{"scheduler": rates, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["nh2st_history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["nh2st_history"]


def _adamw(weights: list[torch.nn.Parameter], learning_rate: float) -> torch.optim.AdamW:
    """Fused where the device can do that: a step of 63 million weights takes 0.05 instead of 0.95 s on a processor."""
    try:
        return torch.optim.AdamW(weights, lr=learning_rate, weight_decay=_WEIGHT_DECAY, fused=True)
    except RuntimeError:
        return torch.optim.AdamW(weights, lr=learning_rate, weight_decay=_WEIGHT_DECAY)
