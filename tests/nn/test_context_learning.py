"""The context network learns from the neighbours' images where expression depends on them."""

from __future__ import annotations

import numpy as np
import torch

import nh2st.nn as nn_

N_SPOTS, N_GENES, COMPONENTS = 150, 12, 6


def _tissue(seed: int) -> dict[str, np.ndarray]:
    """Spots of a ring whose expression is that of the tissue at their four neighbours, with some noise."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(N_SPOTS, COMPONENTS)).astype(np.float32)
    neighbors = (np.arange(N_SPOTS)[:, None] + [-2, -1, 1, 2]) % N_SPOTS
    effects = np.random.default_rng(7).normal(size=(COMPONENTS, N_GENES))
    expression = 2 * tokens[neighbors].mean(1) @ effects + rng.normal(size=(N_SPOTS, N_GENES))
    return {"neighbors": neighbors, "images": tokens, "expression": (expression / expression.std(0)).astype(np.float32)}


def _score(neighbors: str) -> float:
    """Mean correlation per gene on tissue that was not trained on."""
    config = nn_.NetworkConfig.for_variant(
        "context",
        n_genes=N_GENES,
        encoder="test_resnet",
        patch_px=96,
        components=COMPONENTS,
        width=32,
        dropout=0.1,
        input_dropout=0.0,
        members=2,
        neighbors=neighbors,
    )
    network = nn_.create_network(config, encoder_weights=None)
    train, test = (nn_.collate(np.arange(N_SPOTS), **_tissue(seed)) for seed in (0, 1))
    optimizer = torch.optim.AdamW(network.members.parameters(), 3e-3, weight_decay=0.1)
    for _ in range(80):
        nn_.training_step(network, train, optimizer)
    predicted, measured = network.predict(test).numpy(), test.expression.numpy()
    return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(predicted.T, measured.T, strict=True)]))


def test_neighbors_are_learned_from_where_expression_depends_on_them():
    scores = {kind: _score(kind) for kind in ("attention", "mean", "none")}
    assert scores["none"] < 0.2
    assert min(scores["attention"], scores["mean"]) > 0.6
