"""The symmetric loss against a loop over pairs, with pairs that show the same tissue left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nh2st.nn import contrastive_loss, symmetric_contrastive_loss

N_SPOTS, WIDTH = 6, 8


def _embeddings() -> tuple[np.ndarray, np.ndarray]:
    image, gene = np.random.default_rng(0).normal(size=(2, N_SPOTS, WIDTH))
    return image, gene


def _related(*pairs: tuple[int, int]) -> np.ndarray:
    related = np.zeros((N_SPOTS, N_SPOTS), bool)
    for spot, other in pairs:
        related[spot, other] = related[other, spot] = True
    return related


def _loss(image: np.ndarray, gene: np.ndarray, related: np.ndarray, temperature: float = 0.1) -> torch.Tensor:
    tensors = (torch.tensor(values) for values in (image, gene, related))
    return symmetric_contrastive_loss(*tensors, temperature=temperature)


def _one_way(image: np.ndarray, gene: np.ndarray, related: np.ndarray, temperature: float) -> float:
    losses = []
    for i, query in enumerate(image):
        similar = [
            (j == i, key @ query / np.linalg.norm(key) / np.linalg.norm(query) / temperature)
            for j, key in enumerate(gene)
            if j == i or not related[i, j]
        ]
        own = next(value for is_own, value in similar if is_own)
        losses.append(np.log(sum(np.exp(value) for _, value in similar)) - own)
    return float(np.mean(losses))


@pytest.mark.parametrize("related", [_related(), _related((0, 1), (1, 2), (4, 5)), _related((2, 2))])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_loss_equals_a_loop_over_pairs(related, temperature):
    image, gene = _embeddings()
    expected = (_one_way(image, gene, related, temperature) + _one_way(gene, image, related, temperature)) / 2
    np.testing.assert_allclose(_loss(image, gene, related, temperature), expected, rtol=1e-5)


def test_image_and_gene_may_be_exchanged():
    image, gene = _embeddings()
    related = _related((0, 3), (1, 2))
    np.testing.assert_allclose(_loss(image, gene, related), _loss(gene, image, related), rtol=1e-6)


def test_without_relations_it_is_the_mean_of_both_directions():
    image, gene = map(torch.tensor, _embeddings())
    settings = {"temperature": 0.1, "negative_scale": 1.0}
    expected = (contrastive_loss(image, gene, **settings) + contrastive_loss(gene, image, **settings)) / 2
    none = torch.zeros(N_SPOTS, N_SPOTS, dtype=torch.bool)
    torch.testing.assert_close(symmetric_contrastive_loss(image, gene, none, temperature=0.1), expected)


def test_related_spots_do_not_push_each_other_apart():
    image, gene = (torch.tensor(values, requires_grad=True) for values in _embeddings())
    related = torch.tensor(_related(*[(0, j) for j in range(1, N_SPOTS)]))
    symmetric_contrastive_loss(image, gene, related, temperature=0.1).backward()
    assert image.grad is not None
    assert gene.grad is not None
    assert image.grad[0].abs().max() == 0, "no negatives, nothing to learn from"
    assert gene.grad[0].abs().max() == 0
    assert image.grad[1:].abs().amax(1).min() > 0


@pytest.mark.parametrize("n", [1, N_SPOTS])
def test_without_any_negative_the_loss_is_zero(n):
    image, gene = (values[:n] for values in _embeddings())
    assert _loss(image, gene, np.ones((n, n), bool)) == 0


def test_loss_is_finite_in_half_precision_and_for_empty_embeddings():
    image, gene = (torch.tensor(values, dtype=torch.bfloat16) for values in _embeddings())
    image[2] = 0
    image.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = symmetric_contrastive_loss(image, gene, torch.tensor(_related((0, 1))), temperature=0.01)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert image.grad is not None
    assert image.grad.isfinite().all()
