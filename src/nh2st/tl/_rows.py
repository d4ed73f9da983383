"""Training on some of the spots, and prediction of others, from arrays over all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from nh2st._device import autocast
from nh2st.models import Model
from nh2st.nn import ContextNetwork
from nh2st.tl._context import predict_tokens, tokens_of, train_context
from nh2st.tl._training._loop import Run, fit
from nh2st.tl._training._spots import TrainingSpots

_BATCH = 64


def train_rows(start: Model, run: Run, rows: np.ndarray, *, new: bool = True, baselines: bool = False) -> Model:
    """Train on some of the spots and give back the model with the best weights.

    Parameters
    ----------
    start
        The model to start from.
    run
        How and where to train; its `spots` are all spots, its `split` that of the rows alone.
    rows
        Boolean (n,): which spots train or validate. Nothing measured in others has a part.
    new
        Whether predictions start from the mean of the training spots, as they should in a new network.
    baselines
        Whether a context network gets baselines, which are linear in what it sees.
    """
    if isinstance(start.network, ContextNetwork):
        return train_context(start, run, rows, new=new, baselines=baselines)
    spots = run.spots.take(rows)
    if new:
        start.network.set_output_mean(spots.expression[~run.split.validation].mean(axis=0))
    return fit(start, replace(run, spots=spots))


def predict_rows(
    model: Model,
    spots: TrainingSpots,
    rows: np.ndarray,
    device: torch.device,
    precision: Literal["32", "bf16"],
) -> np.ndarray:
    """Predictions (n_rows, n_genes) float32 of the boolean `rows` (n,) among all spots, as :func:`nh2st.tl.predict`."""
    predicted = np.empty((int(rows.sum()), len(model.genes)), dtype=np.float32)
    members = np.flatnonzero(rows)
    if isinstance(model.network, ContextNetwork):
        tokens = tokens_of(model.network, spots)
        for part, prediction in predict_tokens(model.network, tokens, spots.neighbors, members, device):
            predicted[part] = prediction.mean.float().cpu().numpy()
        return predicted
    network = model.network.to(device).eval()
    for start in range(0, len(members), _BATCH):
        images = torch.as_tensor(spots.images[members[start : start + _BATCH]]).to(device)
        with torch.inference_mode(), autocast(device, precision):
            predicted[start : start + _BATCH] = network.predict(images).float().cpu().numpy()
    network.cpu()
    return predicted
