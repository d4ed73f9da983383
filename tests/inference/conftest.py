from __future__ import annotations

import copy
import dataclasses
import functools

import pytest
import torch

import nh2st as nh
from nh2st._estimators import Baselines
from nh2st._expression import Target

N_GENES = 8


@functools.cache
def _made() -> nh.models.Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = nh.nn.NetworkConfig(n_genes=N_GENES, encoder="test_resnet", patch_px=32, width=32, heads=2, dropout=0)
        network = nh.nn.NH2ST(config, encoder_weights=None)
        frozen = copy.deepcopy(network.encoder)
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.01 * torch.randn_like(weight)
        n_features = frozen.n_features
        baselines = Baselines(torch.rand(N_GENES), torch.randn(n_features, N_GENES), torch.rand(N_GENES), frozen.eval())
    return nh.models.Model(
        network=network.eval(),
        genes=[f"gene{number}" for number in range(N_GENES)],
        target=Target.named("default"),
        patch_um=32.0,
        baselines=baselines,
        provenance={"pitch": [40.0, 39.0, 44.0, None]},
    )


@pytest.fixture
def model() -> nh.models.Model:
    """An untrained model of all genes of the made-up sections, with baselines."""
    return copy.deepcopy(_made())


@functools.cache
def _made_context() -> nh.models.Model:
    shape = {"patch_px": 32, "width": 32, "heads": 2, "components": 8, "members": 2, "patch_scales": [1.0, 2.0]}
    config = nh.nn.NetworkConfig.for_variant("context", n_genes=N_GENES, encoder="test_resnet", **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nh.nn.ContextNetwork(config, encoder_weights=None)
        network.reduction.components.normal_().div_(network.n_features**0.5)
        network.set_output(torch.rand(N_GENES) + 5, torch.rand(N_GENES) + 0.5)
        network.set_residual(torch.rand(N_GENES) + 0.1)
        baselines = Baselines(torch.rand(N_GENES), torch.randn(16, N_GENES), torch.rand(N_GENES), None)
    return dataclasses.replace(_made(), network=network.eval(), baselines=baselines)


@pytest.fixture
def context_model() -> nh.models.Model:
    """An untrained context model of the same genes."""
    return copy.deepcopy(_made_context())
