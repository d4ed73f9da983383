"""Lightning's trainer, and which of the training processes this one is."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from nh2st._settings import logger
from nh2st._torch import n_ranks
from nh2st.tl._training._hardware import Place

_NODE_VARIABLES = ("NODE_RANK", "GROUP_RANK")


@dataclass(frozen=True)
class Process:
    """One of the processes that train together, each on a device of its own; a single one has rank 0 of 1."""

    rank: int
    world_size: int
    device: torch.device


def this_process(place: Place) -> Process:
    """Rank and device of this process, known before training starts.

    Raises
    ------
    ValueError
        If Lightning cannot train at this place.
    """
    with determinism_restored():
        trainer = make_trainer(place)
    if n_ranks() not in (1, trainer.world_size):
        msg = (
            f"{n_ranks()} processes were joined by torch.distributed before, but {_arguments(place)} trains on "
            f"{trainer.world_size}. Train in a process of its own."
        )
        raise ValueError(msg)
    return Process(trainer.global_rank, trainer.world_size, trainer.strategy.root_device)


def make_trainer(place: Place, **settings: Any) -> L.Trainer:
    """Make the trainer for a place; `settings` are further arguments of the trainer.

    Raises
    ------
    ValueError
        If the strategy is unknown, starts processes in a way that hides their results, or divides the network.
    """
    device = place.device
    with quiet_lightning():
        try:
            trainer = L.Trainer(
                accelerator={"cuda": "gpu"}.get(device.type, device.type),
                devices=place.devices if device.index is None else [device.index],
                num_nodes=place.num_nodes,
                strategy=place.strategy,
                precision="bf16-mixed" if place.precision == "bf16" else "32-true",
                use_distributed_sampler=False,
                logger=False,
                enable_model_summary=False,
                enable_progress_bar=sys.stderr.isatty() and logger.isEnabledFor(logging.INFO),
                deterministic="warn" if device.type == "cpu" else None,
                **settings,
            )
        except (MisconfigurationException, ValueError) as error:
            msg = f"Lightning cannot train with {_arguments(place)}: {error}"
            raise ValueError(msg) from error
    _check_strategy(trainer, place)
    return trainer


def _check_strategy(trainer: L.Trainer, place: Place) -> None:
    strategy = trainer.strategy
    # Spawned and forked processes keep what they trained to themselves; other strategies divide the network.
    scripts = type(strategy) is DDPStrategy and isinstance(strategy.launcher, _SubprocessScriptLauncher)
    if not (scripts or isinstance(strategy, SingleDeviceStrategy)):
        msg = (
            f'{_arguments(place)} is not supported: several devices train with strategy="ddp", in a script. In a '
            "notebook, train on one: devices=1."
        )
        raise ValueError(msg)
    alone = isinstance(getattr(strategy, "cluster_environment", None), LightningEnvironment)
    if place.num_nodes > 1 and alone and not any(name in os.environ for name in _NODE_VARIABLES):
        msg = f"num_nodes={place.num_nodes} needs something that starts the script on every node: `srun` or `torchrun`."
        raise ValueError(msg)


def _arguments(place: Place) -> str:
    return f"devices={place.devices!r}, num_nodes={place.num_nodes}, strategy={place.strategy!r}"


@contextmanager
def only_rank_zero_speaks(rank: int) -> Iterator[None]:
    """Let messages and progress bars of one process stand for all; errors come from any."""
    level = logger.level
    if rank > 0:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def determinism_restored() -> Iterator[None]:
    """Undo what the trainer sets for the whole session."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's own notices: the package says what users need to know."""
    chatter = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [source.level for source in chatter]
    for source in chatter:
        source.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for source, level in zip(chatter, levels, strict=True):
            source.setLevel(level)
