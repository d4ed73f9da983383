"""Two processes over halves of a batch compute what one process computes over the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from nh2st.nn import NH2ST, NetworkConfig, collate, contrastive_loss

N_SPOTS, N_GENES, PATCH_PX = 7, 6, 32


def _network() -> NH2ST:
    torch.manual_seed(0)
    # Without batch normalisation, whose statistics each rank takes over its own patches.
    config = NetworkConfig(n_genes=N_GENES, encoder="test_convnext", patch_px=PATCH_PX, width=32, heads=4, dropout=0)
    return NH2ST(config, encoder_weights=None).train()


def _gradients(targets: np.ndarray) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N_SPOTS, PATCH_PX, PATCH_PX, 3), dtype=np.uint8)
    expression = rng.random((N_SPOTS, N_GENES), dtype=np.float32)
    neighbors = np.column_stack([(np.arange(N_SPOTS) + step) % N_SPOTS for step in (1, 2, 3)])
    network = _network()
    batch = collate(targets, neighbors, images, expression)
    network.losses(network(batch), batch)["loss"].backward()
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def _joined_gradients(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    gradients = _gradients(np.arange(4) if rank == 0 else np.arange(4, 7))
    for value in gradients.values():
        dist.all_reduce(value)
        value /= 2
    if rank == 0:
        torch.save(gradients, f"{folder}/gradients.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_mean_gradient_of_uneven_ranks_is_that_of_the_joined_batch(tmp_path: Path) -> None:
    mp.spawn(_joined_gradients, args=(str(tmp_path),), nprocs=2)
    joined = torch.load(tmp_path / "gradients.pt", weights_only=True)
    alone = _gradients(np.arange(N_SPOTS))
    assert joined.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(joined[name], value, rtol=1e-3, atol=1e-6, msg=name)


def _gathered_loss(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    own = torch.eye(4)[2 * rank : 2 * rank + 2]
    loss = contrastive_loss(own, own, temperature=1.0, negative_scale=1.0)
    torch.save(loss, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_negatives_come_from_all_ranks(tmp_path: Path) -> None:
    mp.spawn(_gathered_loss, args=(str(tmp_path),), nprocs=2)
    # One of four equal to itself, three orthogonal: -log(e / (e + 3)).
    expected = torch.log(1 + 3 * torch.exp(torch.tensor(-1.0)))
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected)
