"""What the neighbours add starts from their plain mean, and is that of the neighbours that are present alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nh2st.nn._neighbor_attention import NeighborContext

N_NODES, N_FEATURES, WIDTH = 9, 6, 8
PRESENT = torch.tensor([[True] * 9, [True] * 4 + [False] * 5, [True, False] * 4 + [True], [True] * 2 + [False] * 7])


def _tokens() -> torch.Tensor:
    return torch.randn(len(PRESENT), N_NODES, N_FEATURES)


def _trained(*, learned: bool) -> NeighborContext:
    """A module whose queries tell neighbours apart, as after training."""
    context = NeighborContext(N_FEATURES, WIDTH, heads=2, learned=learned)
    for weight in context.parameters():
        torch.nn.init.normal_(weight)
    return context


@torch.no_grad()
@pytest.mark.parametrize("learned", [True, False])
def test_it_starts_as_the_mean_of_the_neighbors_that_are_present(learned):
    context, tokens = NeighborContext(N_FEATURES, WIDTH, heads=2, learned=learned), _tokens()
    means = np.stack([nodes[1:][here[1:]].mean(0) for nodes, here in zip(tokens.numpy(), PRESENT.numpy(), strict=True)])
    np.testing.assert_allclose(context(tokens, PRESENT), means @ context.value.weight.numpy().T, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_is_the_softmax_of_scaled_products_in_each_head():
    context, tokens = _trained(learned=True), _tokens()
    query, key, value = (
        module(tokens).numpy().reshape(len(tokens), N_NODES, 2, WIDTH // 2)
        for module in (context.query, context.key, context.value)
    )
    for spot, here in enumerate(PRESENT.numpy()):
        nodes = np.flatnonzero(here)[1:]
        heads = []
        for head in range(2):
            logits = key[spot, nodes, head] @ query[spot, 0, head] / np.sqrt(WIDTH // 2)
            weights = np.exp(logits - logits.max())
            heads.append(weights / weights.sum() @ value[spot, nodes, head])
        np.testing.assert_allclose(context(tokens, PRESENT)[spot], np.concatenate(heads), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("learned", [True, False])
def test_a_spot_without_neighbors_uses_itself(learned):
    context, tokens = _trained(learned=learned), _tokens()
    alone = torch.zeros_like(PRESENT)
    alone[:, 0] = True
    torch.testing.assert_close(context(tokens, alone), context.value(tokens[:, 0]))
    torch.testing.assert_close(context(tokens[:, :1], alone[:, :1]), context.value(tokens[:, 0]))


@torch.no_grad()
@pytest.mark.parametrize("learned", [True, False])
def test_absent_neighbors_have_no_influence(learned):
    context, tokens = _trained(learned=learned), _tokens()
    others = torch.where(PRESENT.unsqueeze(-1), tokens, 100 * torch.randn_like(tokens))
    torch.testing.assert_close(context(others, PRESENT), context(tokens, PRESENT))
    assert PRESENT[:, 0].all(), "the caller's mask is left as it is"


@torch.no_grad()
@pytest.mark.parametrize("learned", [True, False])
def test_the_order_of_neighbors_does_not_matter(learned):
    context, tokens = _trained(learned=learned), _tokens()
    order = torch.tensor([0, 5, 8, 1, 3, 7, 2, 4, 6])
    torch.testing.assert_close(context(tokens[:, order], PRESENT[:, order]), context(tokens, PRESENT))


def test_which_neighbor_matters_is_learned():
    tokens = torch.randn(400, 5, 4)
    tokens[:, 0, 3] = 1
    chosen = torch.randint(1, 5, (400,))
    tokens[:, 1:, 3] = 0
    tokens[torch.arange(400), chosen, 3] = 1
    target, present = tokens[torch.arange(400), chosen, :3], torch.ones(400, 5, dtype=torch.bool)

    def error(*, learned: bool) -> float:
        context, head = NeighborContext(4, 8, heads=2, learned=learned), torch.nn.Linear(8, 3)
        optimizer = torch.optim.Adam([*context.parameters(), *head.parameters()], 0.03)
        for _ in range(100):
            loss = ((head(context(tokens, present)) - target) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert error(learned=True) < 0.1 < 0.5 < error(learned=False)
