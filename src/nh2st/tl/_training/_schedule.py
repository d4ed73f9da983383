"""How long and how fast a network is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train, and how a step is computed."""

    max_epochs: int
    batch_size: int
    learning_rate: float
    stain_jitter: float
    patience: int
    seed: int
    compile: bool
    early_stopping: bool = True
