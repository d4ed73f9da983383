"""What frozen encoders give for the training spots: computed once, and kept in the cache for the next training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from nh2st._device import InferencePrecision
from nh2st._inference import checksum, features_of, maps_of
from nh2st._patches import Windows
from nh2st._sections import Section, scaled_windows
from nh2st._settings import logger
from nh2st.nn import NH2ST, ContextNetwork, Encoder

_BATCH = 64


def frozen_maps(
    network: NH2ST,
    sections: Sequence[Section],
    windows: Sequence[Windows],
    device: torch.device,
    precision: Literal["32", "bf16"],
) -> np.ndarray:
    """Feature maps (n, C, h, w) of all patches in half precision."""
    logger.info("The encoder is not trained: its feature maps are computed once, without augmentation.")
    maps = maps_of(network, sections, windows, batch_size=_BATCH, device=device, precision=precision)
    network.cpu()
    return maps[0] if len(maps) == 1 else np.concatenate(maps)


def context_features(
    network: ContextNetwork,
    sections: Sequence[Section],
    windows: Sequence[Windows],
    device: str | torch.device,
    precision: InferencePrecision,
    *,
    batch_size: int = _BATCH,
    client: Any = None,
    keep: bool = True,
) -> Iterator[list[np.ndarray]]:
    """Pooled features of each section's spots (n, C) in half precision, one patch scale after another.

    With `keep` they are looked for and kept in the cache.
    """
    encoder, config = network.encoder, network.config
    weights = checksum(encoder) if keep else ""
    for factor in config.patch_scales:
        yield features_of(
            encoder,
            sections,
            [scaled_windows(*pair, factor) for pair in zip(sections, windows, strict=True)],
            weights=weights,
            batch_size=batch_size,
            device=device,
            precision=precision,
            client=client,
            orientations=config.orientations,
            keep=keep,
        )
    encoder.cpu()


def frozen_features(
    encoder: Encoder, sections: Sequence[Section], windows: Sequence[Windows], device: torch.device
) -> np.ndarray:
    """Pooled features (n, n_features) of all patches."""
    features = features_of(
        encoder, sections, windows, weights=checksum(encoder), batch_size=_BATCH, device=device, precision="32"
    )
    encoder.cpu()
    return np.concatenate(features).astype(np.float64)
