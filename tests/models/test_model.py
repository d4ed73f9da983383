from __future__ import annotations

import copy

import pytest
import torch

import nh2st as nh


def test_summary_names_what_matters(model):
    text = model.summary()
    weights = sum(value.numel() for value in model.network.parameters())
    best = max(row["val_pearson"] for row in model.history)
    for words in (
        model.name,
        f"8 genes: {', '.join(model.genes[:5])}, ...",
        "ln(1 + x), counts per 10,000 of all genes",
        "32 px of 32 um",
        "test_efficientnet",
        f"{weights / 1e6:.1f} million",
        "A, B",
        f"{best:.3f} (spatial blocks inside the training sections)",
    ):
        assert words in text


def test_summary_of_an_untrained_model(model):
    bare = nh.models.Model(model.network, model.genes[:3], model.target, None)
    assert "trained on   unknown" in bare.summary()
    assert "patches      32 px\n" in bare.summary()
    assert f"3 genes: {', '.join(model.genes[:3])}\n" in bare.summary()


def test_repr_is_short(model):
    assert repr(model) == f"Model(nh2st-paper-test_efficientnet-{model.sha256[:8]}: 8 genes, 2 epochs)"


@pytest.mark.parametrize("part", ["weight", "baseline", "gene", "target", "patch_um", "provenance"])
def test_checksum_covers_all_that_decides_predictions(model, part):
    other = copy.copy(model)
    other.__dict__.pop("sha256", None)
    other.history = []
    assert other.sha256 == model.sha256
    del other.__dict__["sha256"]
    if part == "weight":
        other.network = copy.deepcopy(model.network)
        with torch.no_grad():
            other.network.head[0].bias[3] += 1e-3
    elif part == "baseline":
        other.baselines = copy.deepcopy(model.baselines)
        other.baselines.mean[0] += 1e-3
    elif part == "gene":
        other.genes = model.genes[::-1]
    elif part == "target":
        other.target = type(model.target).named("paper")
    elif part == "patch_um":
        other.patch_um = 33.0
    else:
        other.provenance = {**model.provenance, "seed": 99}
    assert other.sha256 != model.sha256
