from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from nh2st._torch import channel_first
from nh2st.nn._augmentation import random_dihedral
from nh2st.nn._batch import NeighborBatch
from nh2st.nn._build import Network

PRECISIONS = ("32", "bf16-mixed")


def training_step(
    network: Network,
    batch: NeighborBatch,
    optimizer: Optimizer,
    *,
    generator: torch.Generator | None = None,
    precision: str = "32",
) -> dict[str, Tensor]:
    """Improve a network by one batch: augment, compute the losses, step. For training loops without Lightning.

    Parameters
    ----------
    network
        The network; put into training mode.
    batch
        Targets with their neighbourhoods, on the network's device. Each distinct patch is flipped and turned once;
        feature maps are taken as they are.
    optimizer
        Optimizer of the network's parameters.
    generator
        Source of the augmentation, as in :func:`random_dihedral`.
    precision
        ``"32"``, or ``"bf16-mixed"`` for bfloat16 where it is safe.

    Returns
    -------
    The losses of :meth:`NH2ST.losses` before the step, detached.

    Raises
    ------
    ValueError
        If the precision is unknown.

    Examples
    --------
    >>> import torch
    >>> from nh2st.nn import NH2ST, NeighborBatch, NetworkConfig, training_step
    >>> network = NH2ST(NetworkConfig(n_genes=5, encoder="resnet18", patch_px=32), encoder_weights=None)
    >>> batch = NeighborBatch(
    ...     images=torch.zeros(2, 32, 32, 3, dtype=torch.uint8),
    ...     expression=torch.zeros(2, 5),
    ...     nodes=torch.tensor([[0, 1], [1, 0]]),
    ...     mask=torch.ones(2, 2, dtype=torch.bool),
    ... )
    >>> sorted(training_step(network, batch, torch.optim.Adam(network.parameters(), lr=5e-4)))
    ['loss', 'mse', 'neighbor', 'query']
    """
    if precision not in PRECISIONS:
        msg = f"precision must be one of {', '.join(map(repr, PRECISIONS))}, not {precision!r}."
        raise ValueError(msg)
    network.train()
    if not batch.images.is_floating_point():
        batch = replace(batch, images=random_dihedral(channel_first(batch.images), generator))
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        losses = network.losses(network(batch), batch)
    optimizer.zero_grad()
    losses["loss"].backward()
    optimizer.step()
    return {name: value.detach() for name, value in losses.items()}
