"""How patches lie in tensors: where their channels are, and the eight ways to turn them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_CHANNELS = 3


def channel_first(images: Tensor) -> Tensor:
    """View uint8 patches (P, H, W, 3) or (P, 3, H, W) as (P, 3, H, W).

    Raises
    ------
    ValueError
        If the images are of another shape or type.
    """
    if images.dtype != torch.uint8:
        msg = f"images must be uint8 (0 to 255), not {images.dtype}: they are scaled and normalised by the network."
        raise ValueError(msg)
    if images.ndim == 4 and images.shape[1] == _CHANNELS:
        return images
    if images.ndim == 4 and images.shape[-1] == _CHANNELS:
        return images.permute(0, 3, 1, 2)
    msg = f"images must be of shape (patches, height, width, 3) or (patches, 3, height, width), not {(*images.shape,)}."
    raise ValueError(msg)


def dihedral(images: Tensor) -> Iterator[Tensor]:
    """Yield square images (P, 3, H, H) in each of the eight flips and quarter turns of the square."""
    for flipped in (images, images.flip(-1)):
        for turns in range(4):
            yield torch.rot90(flipped, turns, (-2, -1))
