from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import nh2st.nn as nn_

EMBEDDINGS = ("z_image_query", "z_gene_query", "z_image_neighbor", "z_gene_neighbor", "prediction")


def _assert_same(output: nn_.Output, expected: nn_.Output, rows: object = slice(None)) -> None:
    for name in EMBEDDINGS:
        torch.testing.assert_close(getattr(output, name), getattr(expected, name)[rows], rtol=1e-4, atol=1e-5)


def test_each_patch_is_encoded_once(network, section, monkeypatch):
    seen = []
    monkeypatch.setattr(
        network.encoder.model,
        "forward_features",
        lambda x, original=network.encoder.model.forward_features: seen.append(len(x)) or original(x),
    )
    batch = nn_.collate(np.arange(25), **section)
    network(batch)
    assert seen == [25]
    assert batch.nodes.numel() == 225


@torch.no_grad()
def test_shared_patches_equal_separate_neighborhoods(network, section):
    together = network(nn_.collate(np.arange(25), **section))
    for spot in (0, 2, 12, 24):
        _assert_same(network(nn_.collate(np.array([spot]), **section)), together, slice(spot, spot + 1))


@torch.no_grad()
@pytest.mark.parametrize("n_neighbors", range(8))
def test_masked_nodes_are_as_if_absent(network, section, n_neighbors):
    few = section["neighbors"][[12]].copy()
    few[0, n_neighbors:] = -1
    neighbors = section["neighbors"].copy()
    neighbors[12] = few
    masked = network(nn_.collate(np.array([11, 12]), **section | {"neighbors": neighbors}))
    alone = nn_.collate(np.array([12]), **section | {"neighbors": neighbors[:, :n_neighbors]})
    assert alone.mask.all()
    _assert_same(network(alone), masked, slice(1, 2))


@torch.no_grad()
def test_absent_nodes_may_point_anywhere(network, section):
    batch = nn_.collate(np.array([0, 12]), **section)
    absent = ~batch.mask
    assert absent.any()
    moved = batch.nodes.masked_scatter(absent, torch.randint(len(batch.images), (int(absent.sum()),)))
    _assert_same(network(replace(batch, nodes=moved)), network(batch))


def test_gradient_reaches_every_parameter(network, section):
    for module in network.encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # timm starts residual branches at zero
            torch.nn.init.ones_(module.weight)
    batch = nn_.collate(np.arange(4), **section)
    network.losses(network.train()(batch), batch)["loss"].backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-5]
    # A softmax over one token is constant, whatever the query is: what is left is rounding.
    assert without == ["cross_attention.blocks.0.attention.to_query.weight"]


def test_weights_of_the_losses(network, section):
    batch = nn_.collate(np.arange(4), **section)
    output = network(batch)
    network.config = replace(network.config, query_weight=2.0, neighbor_weight=0.0, mse_weight=3.0)
    losses = network.losses(output, batch)
    torch.testing.assert_close(losses["loss"], 2 * losses["query"] + 3 * losses["mse"])
    expected = ((output.prediction.detach().numpy() - section["expression"][:4]) ** 2).mean()
    np.testing.assert_allclose(losses["mse"].item(), expected, rtol=1e-5)


def test_predict_is_the_forward_prediction_and_leaves_the_mode(network, section):
    batch = nn_.collate(np.arange(5), **section)
    expected = network(batch).prediction
    network.train()
    predicted = network.predict(torch.from_numpy(section["images"][:5]))
    torch.testing.assert_close(predicted, expected.detach(), rtol=1e-4, atol=1e-5)
    assert network.training
    assert not predicted.requires_grad


def test_output_mean(network, section):
    mean = section["expression"].mean(0)
    network.head[-1].weight.data.zero_()
    network.set_output_mean(mean)
    np.testing.assert_allclose(network.predict(torch.from_numpy(section["images"][:2])), [mean, mean])
    with pytest.raises(ValueError, match="12 genes"):
        network.set_output_mean(mean[:5])


def test_autocast_is_finite_and_close(network, section):
    batch = nn_.collate(np.arange(6), **section)
    full = network.losses(network(batch), batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network.losses(network(batch), batch)
    mixed["loss"].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    for name, loss in full.items():
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], loss, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_training_step_learns_and_is_reproducible(config, section, precision):
    def train() -> list[float]:
        torch.manual_seed(1)
        network = nn_.NH2ST(replace(config, dropout=0.1), encoder_weights=None)
        optimizer, generator = torch.optim.Adam(network.parameters(), 1e-3), torch.Generator().manual_seed(0)
        batch = nn_.collate(np.arange(25), **section)
        settings = {"generator": generator, "precision": precision}
        return [nn_.training_step(network, batch, optimizer, **settings)["loss"].item() for _ in range(8)]

    losses = train()
    assert losses[-1] < 0.8 * losses[0]
    assert losses == train()


def test_single_target_batch_trains(network, section):
    batch = nn_.collate(np.array([12]), **section)
    losses = nn_.training_step(network, batch, torch.optim.Adam(network.parameters()))
    assert losses["query"] == losses["neighbor"] == 0
    assert losses["loss"] > 0


def test_unknown_precision(network, section):
    batch = nn_.collate(np.array([12]), **section)
    with pytest.raises(ValueError, match="bf16-mixed"):
        nn_.training_step(network, batch, torch.optim.Adam(network.parameters()), precision="8")


def test_wrong_sizes_are_named(network, section):
    with pytest.raises(ValueError, match="96 x 96"):
        network.predict(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    batch = nn_.collate(np.arange(2), **section)
    with pytest.raises(ValueError, match="12 genes, not for 5"):
        network(replace(batch, expression=batch.expression[:, :5]))


def test_state_round_trips_with_the_configuration(network, section):
    again = nn_.NH2ST(nn_.NetworkConfig.from_dict(network.config.to_dict()), encoder_weights=None)
    again.load_state_dict(network.state_dict())
    images = torch.from_numpy(section["images"][:3])
    torch.testing.assert_close(again.predict(images), network.predict(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "other"}, "variant"),
        ({"n_genes": 0}, "n_genes"),
        ({"heads": 7}, "heads"),
        ({"dropout": 1.0}, "dropout"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_configuration_that_makes_no_network(config, change, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neighbors": "all"}, "neighbors must be one of 'attention', 'mean', 'none', not 'all'"),
        ({"likelihood": "gauss"}, "likelihood must be one of 'mse', 'poisson', 'negative_binomial', not 'gauss'"),
        ({"orientations": 4}, "orientations must be one of 1, 8, not 4"),
        ({"components": 0}, "components must be at least 1"),
        ({"members": 0}, "members must be at least 1"),
        ({"input_dropout": 1.0}, "input_dropout must be at least 0 and below 1"),
        ({"patch_scales": ()}, "patch_scales must be positive numbers"),
        ({"patch_scales": (1.0, -2.0)}, "patch_scales must be positive numbers"),
        ({"map_px": None}, "map_px must be 1, not None"),
        ({"map_px": 7}, "map_px must be 1, not 7"),
    ],
)
def test_configuration_that_makes_no_context_network(change, message):
    with pytest.raises(ValueError, match=message):
        nn_.NetworkConfig.for_variant("context", n_genes=3, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"patch_scales": (1.0, 2.0)},
        {"orientations": 8},
        {"normalize": "none"},
        {"components": 64},
        {"neighbors": "none"},
        {"input_dropout": 0.1},
        {"members": 2},
        {"likelihood": "poisson"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_paper_network_refuses_settings_of_the_context_network(config, change):
    with pytest.raises(ValueError, match=rf"'paper' network has no {next(iter(change))}; .* variant='context'"):
        replace(config, **change)


def test_context_configuration_survives_json():
    config = nn_.NetworkConfig.for_variant("context", n_genes=3, patch_scales=[1, 4], neighbors="mean")
    assert nn_.NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.patch_scales == (1.0, 4.0)
    assert config.variant == "context"


def test_configuration_of_the_paper_variant_is_the_default():
    assert nn_.NetworkConfig.for_variant("paper", n_genes=3) == nn_.NetworkConfig(n_genes=3)
    with pytest.raises(ValueError, match="variant must be one of 'paper', 'context', not 'best'"):
        nn_.NetworkConfig.for_variant("best", n_genes=3)


def test_unknown_configuration_field():
    with pytest.raises(ValueError, match=r"Unknown fields .* wings"):
        nn_.NetworkConfig.from_dict({"n_genes": 3, "wings": 2})


def test_import_pulls_no_data_libraries():
    code = (
        "import sys, nh2st.nn; "
        "heavy = {'anndata', 'scanpy', 'spatialdata', 'lightning', 'pandas', 'dask', 'matplotlib', 'tqdm.notebook'}; "
        "print(sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["mse_weight", "query_weight", "temperature", "mlp_ratio", "dropout"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_of_the_configuration_are_finite(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number, not {value}"):
        nn_.NetworkConfig(n_genes=3, **{name: value})


def test_sides_of_patches_are_finite():
    with pytest.raises(ValueError, match="patch_scales must be positive numbers"):
        nn_.NetworkConfig.for_variant("context", n_genes=3, patch_scales=(1.0, float("nan")))
