"""Batches that are divided over the processes (ranks) of a distributed run."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def n_ranks() -> int:
    """How many processes train together; 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Rows of all ranks, in their order, and where this rank's begin. Gradients flow back to every rank.

    Parameters
    ----------
    rows
        Rows (B, D) of this rank; ranks may have different B.
    """
    if n_ranks() == 1:
        return rows, 0
    sizes = _sizes(rows)
    padded = F.pad(rows, (0, 0, 0, max(sizes) - len(rows)))
    gathered = _AllGather.apply(padded)
    parts = [part[:size] for part, size in zip(gathered, sizes, strict=True)]
    return torch.cat(parts), sum(sizes[: dist.get_rank()])


def share_of_rows(rows: Tensor) -> float:
    """Factor that makes the mean over ranks of the losses' means the mean over all their rows."""
    if n_ranks() == 1:
        return 1.0
    sizes = _sizes(rows)
    return len(rows) * len(sizes) / sum(sizes)


def _sizes(rows: Tensor) -> list[int]:
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(n_ranks())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    return [int(size) for size in sizes]


class _AllGather(torch.autograd.Function):
    """All-gather whose gradient is summed over the ranks, on every backend."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(n_ranks())]
        dist.all_gather(parts, rows.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]
