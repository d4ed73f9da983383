"""Script that `test_ranks.py` runs: trains in two processes, one of which it starts itself, and notes what they saw."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from spatialdata import read_zarr

import nh2st as nh
from nh2st.nn import NH2ST
from nh2st.tl._training import _lightning_module

torch.set_num_threads(1)
SETTINGS: dict[str, Any] = {
    "variant": "paper",
    "encoder": "test_resnet",
    "encoder_weights": None,
    "network": {"width": 32, "heads": 2, "dropout": 0.5},
    "patch_px": 32,
    "patch_um": 32.0,
    "max_epochs": 2,
    "batch_size": 4,
    "seed": 3,
    "device": "cpu",
    "devices": 2,
    "strategy": "ddp",
}


CONTEXT: dict[str, Any] = SETTINGS | {
    "variant": "context",
    "network": {"width": 32, "heads": 2, "components": 8, "members": 2, "dropout": 0.0, "input_dropout": 0.0},
}


class Stopped(RuntimeError):
    pass


def main() -> None:
    sdata, out = read_zarr(sys.argv[1]), Path(sys.argv[2])
    seen: dict[str, Any] = {"start": [], "dropout": [], "augmentation": [], "targets": [], "saved": []}
    watch(seen)
    whole = nh.tl.train(sdata, checkpoint_dir=out / "whole", **SETTINGS)
    seen["whole"] = {"sha256": whole.sha256, "history": whole.history, "steps": len(seen["targets"])}
    stop_at(seen, len(seen["targets"]) + seen["whole"]["steps"] // 2)
    try:
        nh.tl.train(sdata, checkpoint_dir=out / "stopped", **SETTINGS)
    except Stopped:
        seen["stopped"] = True
    resumed = nh.tl.train(sdata, resume_from=out / "stopped" / "last.ckpt", **SETTINGS)
    seen["resumed"] = {"sha256": resumed.sha256, "history": resumed.history}
    frozen = nh.tl.train(sdata, fine_tune="none", **SETTINGS | {"network": SETTINGS["network"] | {"dropout": 0.0}})
    frozen.save(out / f"frozen{os.environ['LOCAL_RANK']}.safetensors")
    context = nh.tl.train(sdata, **CONTEXT)
    context.save(out / f"context{os.environ['LOCAL_RANK']}.safetensors")
    (out / f"rank{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(seen))


def watch(seen: dict[str, Any]) -> None:
    """Note what the processes train on, with which weights and random numbers, and what they write."""
    forward, turn, save = NH2ST.forward, _lightning_module.random_dihedral, nh.models.Model.save

    def watched_forward(self: NH2ST, batch: nh.nn.NeighborBatch) -> nh.nn.Output:
        if not seen["start"]:
            weights = b"".join(value.numpy().tobytes() for value in self.state_dict().values())
            seen["start"].append(hashlib.sha256(weights).hexdigest())
        seen["dropout"].append(torch.initial_seed())
        seen["targets"].append(batch.expression[batch.nodes[:, 0]].tolist())
        return forward(self, batch)

    def watched_turn(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen["augmentation"].append(generator.initial_seed())
        return turn(images, generator)

    def watched_save(self: nh.models.Model, path: Path) -> Path:
        seen["saved"].append(Path(path).name)
        return save(self, path)

    NH2ST.forward = watched_forward
    _lightning_module.random_dihedral = watched_turn
    nh.models.Model.save = watched_save


def stop_at(seen: dict[str, Any], step: int) -> None:
    forward = NH2ST.forward

    def stopping(self: NH2ST, batch: nh.nn.NeighborBatch) -> nh.nn.Output:
        if len(seen["targets"]) == step and "stopped" not in seen:
            seen["stopped"] = False
            raise Stopped
        return forward(self, batch)

    NH2ST.forward = stopping


if __name__ == "__main__":
    main()
