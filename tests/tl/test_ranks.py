"""Training in two processes that share the work: one script, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spatialdata import SpatialData

import nh2st as nh
from nh2st._keys import CACHE_DIR_VARIABLE

SCRIPT = Path(__file__).parent / "train_on_two_ranks.py"
N_SPOTS = 50
BATCH_SIZE = 4
EPOCHS = 2


def test_two_processes_train_one_model(make_sdata, train, train_context, tmp_path, by_gene):
    sdata = make_sdata(("A", "B", "C"), side=5)
    ranks = run(sdata, tmp_path)
    check_same_model(ranks)
    check_shares(ranks)
    check_random_numbers(ranks)
    check_files(ranks, tmp_path)
    check_validation(sdata, nh.models.load(tmp_path / "whole" / "best.safetensors"), by_gene)
    check_equals_one_process(sdata, train, tmp_path)
    check_context_equals_one_process(sdata, train_context, tmp_path)


def run(sdata: SpatialData, folder: Path) -> list[dict[str, Any]]:
    """What each rank saw, after the script."""
    sdata.write(folder / "sections.zarr")
    alone = {"LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {name: value for name, value in os.environ.items() if name not in alone}
    environment[CACHE_DIR_VARIABLE] = str(folder / "cache")
    command = [sys.executable, str(SCRIPT), str(folder / "sections.zarr"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("genes with the highest mean count were chosen") == 5, "rank 0 speaks for both"
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def check_same_model(ranks: list[dict[str, Any]]) -> None:
    first, second = ranks
    assert first["whole"] == second["whole"]
    assert len(first["whole"]["history"]) == EPOCHS
    assert first["stopped"]
    for name in ("sha256", "history"):
        assert first["resumed"][name] == second["resumed"][name] == first["whole"][name]


def check_shares(ranks: list[dict[str, Any]]) -> None:
    """Every spot is used once an epoch, in steps whose parts differ by at most one spot."""
    steps = ranks[0]["whole"]["steps"] // EPOCHS
    parts = [rank["targets"][:steps] for rank in ranks]
    sizes = np.array([[len(part) for part in parts[rank]] for rank in range(2)])
    assert sizes.sum() == N_SPOTS
    assert (abs(sizes[0] - sizes[1]) <= 1).all()
    assert sizes.max() <= BATCH_SIZE
    assert (sizes[0] != sizes[1]).any()
    spots = Counter(tuple(spot) for part in parts for step in part for spot in step)
    assert len(spots) == N_SPOTS


def check_random_numbers(ranks: list[dict[str, Any]]) -> None:
    first, second = ranks
    assert first["start"] == second["start"]
    for name in ("dropout", "augmentation"):
        assert len(first[name]) == len(second[name])
        assert not set(first[name]) & set(second[name])


def check_files(ranks: list[dict[str, Any]], folder: Path) -> None:
    """Only rank 0 writes, but for the models that the script saves in both."""
    assert set(ranks[0]["saved"]) == {"best.safetensors", "frozen0.safetensors", "context0.safetensors"}
    assert ranks[1]["saved"] == ["frozen1.safetensors", "context1.safetensors"]
    for name in ("whole", "stopped"):
        assert sorted(path.name for path in (folder / name).iterdir()) == ["best.safetensors", "last.ckpt"]


def check_validation(sdata: SpatialData, best: nh.models.Model, by_gene: Any) -> None:
    """Scores are those of all validation spots, not means over the processes."""
    donor = best.provenance["validation"].removeprefix("donors held out: ")
    (section,) = (name for name in "ABC" if (sdata["table"].obs.query("region == @name")["donor"] == donor).all())
    nh.tl.predict(sdata, best, sections=[section])
    frame = by_gene(nh.tl.evaluate(sdata)).query("model == 'model' and truth == 'raw'")
    assert best.history[-1]["val_mse"] == pytest.approx(frame["mse"].mean(), rel=1e-4)
    assert best.history[-1]["val_pearson"] == pytest.approx(frame["pearson"].mean(), abs=1e-4)


def check_equals_one_process(sdata: SpatialData, train: Any, folder: Path) -> None:
    """Without random numbers, two processes learn what one learns from batches of twice the size."""
    settings = {"max_epochs": EPOCHS, "batch_size": 2 * BATCH_SIZE, "seed": 3, "fine_tune": "none"}
    alone = train(sdata, **settings)
    first, second = (nh.models.load(folder / f"frozen{rank}.safetensors") for rank in range(2))
    assert first.sha256 == second.sha256
    assert first.history == second.history
    for row, expected in zip(first.history, alone.history, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)
    # Queries and keys of a single token have no gradient but rounding, which the optimiser scales up.
    learnt = {
        name: value for name, value in alone.network.named_parameters() if "query" not in name and "key" not in name
    }
    for name, value in learnt.items():
        torch.testing.assert_close(first.network.get_parameter(name), value, atol=1e-4, rtol=1e-3, msg=name)


def check_context_equals_one_process(sdata: SpatialData, train_context: Any, folder: Path) -> None:
    """The same, in its first training and in the final one."""
    alone = train_context(sdata, max_epochs=EPOCHS, batch_size=2 * BATCH_SIZE, seed=3, learning_rate=1e-3)
    first, second = (nh.models.load(folder / f"context{rank}.safetensors") for rank in range(2))
    assert first.sha256 == second.sha256
    for row, expected in zip(first.history, alone.history, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)
    for name, value in alone.network.state_dict().items():
        torch.testing.assert_close(first.network.state_dict()[name], value, atol=1e-4, rtol=1e-3, msg=name)
