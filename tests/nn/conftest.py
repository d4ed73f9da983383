from __future__ import annotations

import numpy as np
import pytest
import torch

import nh2st.nn as nn_


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config() -> nn_.NetworkConfig:
    return nn_.NetworkConfig(n_genes=12, encoder="test_resnet", patch_px=96, width=32, heads=4)


@pytest.fixture
def network(config: nn_.NetworkConfig) -> nn_.NH2ST:
    return nn_.NH2ST(config, encoder_weights=None).eval()


@pytest.fixture
def section() -> dict[str, np.ndarray]:
    """Spots of a 5 x 5 grid with blocky random patches, their eight or fewer grid neighbours, and expression."""
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.arange(25), 5)
    near = np.maximum(abs(row[:, None] - row), abs(col[:, None] - col)) == 1
    order = np.argsort(~near, axis=1, kind="stable")[:, :8]
    return {
        "neighbors": np.where(np.take_along_axis(near, order, 1), order, -1),
        "images": rng.integers(0, 256, (25, 12, 12, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2),
        "expression": rng.gamma(1, 1, (25, 12)).astype(np.float32),
    }
