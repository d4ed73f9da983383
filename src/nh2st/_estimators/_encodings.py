"""What frozen encoders give for the patches of sections: computed once, and kept in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from nh2st._estimators._interface import Encoding, Source
from nh2st._inference import checksum, features_of
from nh2st.nn import ContextNetwork, Encoder


def context_features(
    network: ContextNetwork, source: Source, encoding: Encoding, *, keep: bool = True
) -> Iterator[list[np.ndarray]]:
    """Pooled features of each section's spots (n, C) in half precision, one patch scale after another.

    With `keep` they are looked for and kept in the cache.
    """
    encoder, config = network.encoder, network.config
    weights = checksum(encoder) if keep else ""
    for factor in config.patch_scales:
        yield features_of(
            encoder,
            source.sections,
            source.scaled(factor),
            weights=weights,
            batch_size=encoding.batch_size,
            device=encoding.device,
            precision=encoding.precision,
            client=encoding.client,
            orientations=config.orientations,
            keep=keep,
        )
    encoder.cpu()


def frozen_features(encoder: Encoder, source: Source, device: str | torch.device, factor: float = 1.0) -> np.ndarray:
    """Pooled features (n, n_features), float32, of all patches, computed in single precision.

    `factor` is the side of the patches as a multiple of that of the windows.
    """
    features = features_of(
        encoder,
        source.sections,
        source.scaled(factor),
        weights=checksum(encoder),
        batch_size=64,
        device=device,
        precision="32",
    )
    encoder.cpu()
    return np.concatenate(features).astype(np.float32)
