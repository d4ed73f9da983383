from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import torch

import nh2st as nh
from nh2st._estimators import Baselines
from nh2st._expression import Target


@functools.cache
def _made() -> nh.models.Model:
    """A model as training leaves it: its encoder is no longer that of the baselines."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = nh.nn.NetworkConfig(n_genes=8, encoder="test_efficientnet", patch_px=32, width=32, heads=2, dropout=0)
        network = nh.nn.NH2ST(config, encoder_weights=None)
        first = copy.deepcopy(network.encoder)
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.01 * torch.randn_like(weight)
        baselines = Baselines(torch.rand(8), torch.randn(first.n_features, 8), torch.rand(8), first.eval())
    return nh.models.Model(
        network=network.eval(),
        genes=[f"gene{number}" for number in range(8)],
        target=Target.named("default"),
        patch_um=32.0,
        baselines=baselines,
        history=[{"loss": 3.0, "val_pearson": 0.1}, {"loss": 2.0, "val_pearson": 0.3}],
        provenance={"sections": ["A", "B"], "validation": "spatial blocks inside the training sections", "seed": 0},
    )


@pytest.fixture
def model() -> nh.models.Model:
    return copy.deepcopy(_made())


@pytest.fixture
def file(model: nh.models.Model, tmp_path: Path) -> Path:
    return model.save(tmp_path / "model.safetensors")
