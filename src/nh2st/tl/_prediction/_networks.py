"""Predictions of whole sections: patch by patch, or from features of all patches and their neighbourhoods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nh2st._device import InferencePrecision, resolve_device
from nh2st._inference import Job, run
from nh2st._patches import Windows
from nh2st._sections import Section
from nh2st._space import neighborhood
from nh2st.models import Model
from nh2st.models._baselines import Baselines
from nh2st.nn import NH2ST, ContextNetwork
from nh2st.tl._baselines import with_neighbors
from nh2st.tl._context import predict_tokens, warn_of_few_spots
from nh2st.tl._frozen import context_features
from nh2st.tl._prediction._writing import Predicted


@dataclass(frozen=True)
class Encoding:
    """Where and how patches are encoded, as in :func:`nh2st.tl.predict`."""

    batch_size: int
    device: str
    precision: InferencePrecision
    client: Any


def predict_sections(
    model: Model,
    sections: Sequence[Section],
    windows: Sequence[Windows],
    with_ridge: Sequence[bool],
    encoding: Encoding,
) -> list[Predicted]:
    """Predictions of each section, and those of the ridge where it is wanted."""
    baselines = model.baselines if any(with_ridge) else None
    if isinstance(model.network, ContextNetwork):
        predicted = _with_context(model.network, baselines, sections, windows, encoding)
    else:
        predicted = _patch_by_patch(model.network, baselines, sections, windows, encoding)
    return [one if ridge else replace(one, ridge=None) for one, ridge in zip(predicted, with_ridge, strict=True)]


def _patch_by_patch(
    network: NH2ST,
    baselines: Baselines | None,
    sections: Sequence[Section],
    windows: Sequence[Windows],
    encoding: Encoding,
) -> list[Predicted]:
    """Predictions by the published network, which looks at each patch alone."""
    module = _PatchPrediction(network, baselines)
    job = Job(module, encoding.batch_size, encoding.device, encoding.precision, order="F")
    # A cluster is done with them in any order.
    rows = dict(run(job, sections, windows, "predict", encoding.client))
    return [Predicted(*rows[number]) for number in range(len(sections))]


def _with_context(
    network: ContextNetwork,
    baselines: Baselines | None,
    sections: Sequence[Section],
    windows: Sequence[Windows],
    encoding: Encoding,
) -> list[Predicted]:
    """Predictions by the context network: all patches are encoded, then spots predicted with their neighbourhoods."""
    tokens = [np.zeros((len(one), network.config.components), dtype=np.float32) for one in windows]
    scales = context_features(
        network,
        sections,
        windows,
        encoding.device,
        encoding.precision,
        batch_size=encoding.batch_size,
        client=encoding.client,
        keep=False,
    )
    for scale, features in enumerate(scales):
        for total, part in zip(tokens, features, strict=True):
            total += network.reduction.part(scale, part)
    device = resolve_device("auto" if encoding.client is not None else encoding.device)
    warn_of_few_spots(network, [one.name for one in sections], [len(one.rows) for one in sections])
    neighbors = [neighborhood(section.grid) for section in sections]
    return [_from_tokens(network, baselines, *pair, device) for pair in zip(tokens, neighbors, strict=True)]


def _from_tokens(
    network: ContextNetwork,
    baselines: Baselines | None,
    tokens: np.ndarray,
    neighbors: np.ndarray,
    device: torch.device,
) -> Predicted:
    shape = (len(tokens), network.config.n_genes)
    mean, std = (np.empty(shape, dtype=np.float32, order="F") for _ in range(2))
    for part, prediction in predict_tokens(network, tokens, neighbors, np.arange(len(tokens)), device):
        mean[part], std[part] = (values.float().cpu().numpy() for values in prediction)
    if baselines is None:
        return Predicted(mean, std=std)
    ridge = baselines.linear(torch.from_numpy(with_neighbors(tokens, neighbors))).numpy()
    return Predicted(mean, ridge, std)


class _PatchPrediction(nn.Module):
    """Expression by the network and, with baselines, by the ridge."""

    def __init__(self, network: NH2ST, baselines: Baselines | None) -> None:
        super().__init__()
        self.network, self.baselines = network, baselines
        self.ridge_encoder = None if baselines is None else baselines.encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        prediction = self.network.predict(images)
        if self.baselines is None:
            return (prediction,)
        # In the precision that it was fitted in, except where encoders compute in 8-bit integers.
        with torch.autocast(images.device.type, enabled=False):
            return prediction, self.baselines.ridge(images)
