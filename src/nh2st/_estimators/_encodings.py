"""What frozen encoders give for the patches of sections: computed once, and kept in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from nh2st._estimators._interface import Encoding
from nh2st._inference import checksum, features_of
from nh2st._patches import Windows, plan_windows
from nh2st.nn import ContextNetwork, Encoder

if TYPE_CHECKING:
    from nh2st._sections import Section


def scaled_windows(section: Section, windows: Windows, factor: float) -> Windows:
    """Windows of another side around the same spots, with as many pixels."""
    if factor == 1:
        return windows
    return plan_windows(section.image, section.pixels, factor * windows.side * windows.level.scale, windows.patch_px)


def context_features(
    network: ContextNetwork,
    sections: Sequence[Section],
    windows: Sequence[Windows],
    encoding: Encoding,
    *,
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
            batch_size=encoding.batch_size,
            device=encoding.device,
            precision=encoding.precision,
            client=encoding.client,
            orientations=config.orientations,
            keep=keep,
        )
    encoder.cpu()


def frozen_features(
    encoder: Encoder, sections: Sequence[Section], windows: Sequence[Windows], device: str | torch.device
) -> np.ndarray:
    """Pooled features (n, n_features), float32, of all patches, computed in single precision."""
    features = features_of(
        encoder, sections, windows, weights=checksum(encoder), batch_size=64, device=device, precision="32"
    )
    encoder.cpu()
    return np.concatenate(features).astype(np.float32)
