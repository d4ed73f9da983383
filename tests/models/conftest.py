from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from spatialdata import SpatialData

import nh2st as nh


@functools.cache
def _trained(build: Callable[..., SpatialData]) -> nh.models.Model:
    return nh.tl.train(
        build(side=4),
        encoder="test_efficientnet",
        encoder_weights=None,
        network={"width": 32, "heads": 2, "dropout": 0.0},
        patch_px=32,
        patch_um=32.0,
        max_epochs=2,
        device="cpu",
    )


@pytest.fixture
def model(make_sdata: Callable[..., SpatialData]) -> nh.models.Model:
    return copy.deepcopy(_trained(make_sdata))


@pytest.fixture
def file(model: nh.models.Model, tmp_path: Path) -> Path:
    return model.save(tmp_path / "model.safetensors")
