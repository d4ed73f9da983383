from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


@dataclass
class NeighborBatch:
    """Targets with their neighbourhoods, every distinct patch held once.

    Examples
    --------
    >>> import torch
    >>> from nh2st.nn import NeighborBatch
    >>> batch = NeighborBatch(
    ...     images=torch.zeros(2, 32, 32, 3, dtype=torch.uint8),
    ...     expression=torch.zeros(2, 5),
    ...     nodes=torch.tensor([[0, 1], [1, 0]]),
    ...     mask=torch.ones(2, 2, dtype=torch.bool),
    ... )
    >>> len(batch)
    2
    """

    images: Tensor
    """Distinct patches (P, H, W, 3) or (P, 3, H, W), uint8; or their feature maps (P, C, h, w) or tokens, floating."""
    expression: Tensor
    """Expression (P, G) measured with the patches, float32."""
    nodes: Tensor
    """Patches (B, N) of each neighbourhood, the target first, int64."""
    mask: Tensor
    """Which nodes (B, N) are present, bool. The target always is."""
    counts: Tensor | None = None
    """Counts (P, G), for count likelihoods."""
    log_expected: Tensor | None = None
    """Logarithm (P, G) of the counts that are expected without a look at the image, for count likelihoods."""
    related: Tensor | None = None
    """Pairs (B, B) of targets whose patches overlap, bool, which contrastive losses take for no negatives."""

    def __len__(self) -> int:
        return len(self.nodes)

    def to(self, device: torch.device | str) -> Self:
        """Copy the batch to a device."""
        values = (getattr(self, field.name) for field in fields(self))
        copies: list[Any] = [None if value is None else value.to(device, non_blocking=True) for value in values]
        return type(self)(*copies)


def collate(
    targets: np.ndarray,
    neighbors: np.ndarray,
    images: np.ndarray | Tensor,
    expression: np.ndarray | Tensor,
    *,
    closed: bool = False,
    counts: np.ndarray | None = None,
    log_expected: np.ndarray | None = None,
) -> NeighborBatch:
    """Gather the distinct patches that some targets and their neighbours need.

    Parameters
    ----------
    targets
        Spots (B,) to predict, as positions among all S spots.
    neighbors
        Neighbours (S, K) of each spot, -1 where there are fewer than K.
    images
        Patches (S, H, W, 3) of all spots, uint8, or their feature maps (S, C, h, w).
    expression
        Expression (S, G) of all spots.
    closed
        Leave out neighbours that are not targets themselves, so that there are no more patches than targets.
    counts, log_expected
        Counts (S, G) of all spots and the logarithm (S, G) of what is expected, for count likelihoods.

    Returns
    -------
    The batch; its patches are in ascending order of their spots.

    Examples
    --------
    >>> import numpy as np
    >>> from nh2st.nn import collate
    >>> neighbors = np.array([[1, -1], [0, 2], [1, -1]])
    >>> batch = collate(np.array([0, 1]), neighbors, np.zeros((3, 32, 32, 3), np.uint8), np.zeros((3, 5)))
    >>> batch.nodes
    tensor([[0, 1, 0],
            [1, 0, 2]])
    >>> batch.mask
    tensor([[ True,  True, False],
            [ True,  True,  True]])
    """
    targets = np.asarray(targets)[:, None]
    spots = np.concatenate([targets, np.asarray(neighbors)[targets[:, 0]]], axis=1)
    mask = spots >= 0
    if closed:
        mask &= np.isin(spots, targets)
    distinct, nodes = np.unique(np.where(mask, spots, targets), return_inverse=True)
    return NeighborBatch(
        images=torch.as_tensor(images[distinct]),
        expression=torch.as_tensor(expression[distinct]).float(),
        nodes=torch.from_numpy(nodes.reshape(spots.shape)),
        mask=torch.from_numpy(mask),
        counts=None if counts is None else torch.as_tensor(counts[distinct]).float(),
        log_expected=None if log_expected is None else torch.as_tensor(log_expected[distinct]).float(),
    )
