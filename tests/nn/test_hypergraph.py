from __future__ import annotations

import numpy as np
import pytest
import torch

from nh2st.nn._hyperedges import hyperedge_incidence, propagation
from nh2st.nn._hypergraph_conv import HypergraphConv


def _similarity(n: int, seed: int = 0) -> torch.Tensor:
    x = torch.nn.functional.normalize(torch.randn(3, n, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)
    return x @ x.mT


def test_hyperedges_hold_the_most_similar_present_nodes():
    similarity = _similarity(9)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 5:] = False
    mask[2, [1, 2, 3, 4, 5, 6, 8]] = False
    incidence = hyperedge_incidence(similarity, mask, k=3).numpy()
    for b, present in enumerate(mask.numpy()):
        expected = np.zeros((9, 9))
        for i in np.flatnonzero(present):
            others = sorted((j for j in np.flatnonzero(present) if j != i), key=lambda j: -float(similarity[b, i, j]))
            expected[[i, *others[:3]], i] = 1
        np.testing.assert_array_equal(incidence[b], expected)


def test_lone_node_is_its_own_hyperedge():
    incidence = hyperedge_incidence(torch.ones(2, 1, 1), torch.ones(2, 1, dtype=torch.bool), k=3)
    np.testing.assert_array_equal(incidence, np.ones((2, 1, 1)))
    np.testing.assert_array_equal(propagation(incidence), np.ones((2, 1, 1)))


def test_propagation_rows_average_and_absent_nodes_are_zero():
    mask = torch.tensor([[True] * 4 + [False] * 5])
    matrix = propagation(hyperedge_incidence(_similarity(9)[:1], mask, k=3))[0]
    np.testing.assert_allclose(matrix[:4].sum(1), np.ones(4), rtol=1e-6)
    assert not matrix[4:].any()
    assert not matrix[:, 4:].any()


@pytest.mark.parametrize("density", [0.1, 0.4, 1.0])
def test_convolution_equals_torch_geometric(density: float):
    geometric = pytest.importorskip("torch_geometric.nn")
    generator = torch.Generator().manual_seed(int(density * 10))
    incidence = (torch.rand(4, 9, 9, generator=generator) < density).float()
    features = torch.randn(4, 9, 24, generator=generator)
    reference = geometric.HypergraphConv(24, 10)
    reference.bias.data.normal_()
    layer = HypergraphConv(24, 10)
    layer.load_state_dict({"theta.weight": reference.lin.weight, "bias": reference.bias})
    with torch.no_grad():
        result = layer(features, propagation(incidence))
        for b in range(4):
            expected = reference(features[b], incidence[b].nonzero().T, num_edges=9).relu()
            torch.testing.assert_close(result[b], expected)


def test_projecting_before_gathering_changes_nothing():
    layer, nodes = HypergraphConv(6, 4), torch.tensor([[0, 1, 2], [2, 1, 3]])
    features, matrix = torch.randn(4, 6), propagation(torch.ones(2, 3, 3))
    torch.testing.assert_close(layer(features, matrix, nodes), layer(features[nodes], matrix))
