from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax

import nh2st.nn as nn_
from nh2st.nn._attention import CrossAttentionEncoder


@pytest.mark.parametrize(("heads", "n_query", "n_context"), [(1, 1, 1), (1, 3, 5), (4, 1, 1), (4, 3, 5)])
def test_block_equals_torch_attention(heads: int, n_query: int, n_context: int):
    width = 16
    encoder = CrossAttentionEncoder(width, heads=heads, mlp_ratio=2).eval()
    query, context = torch.randn(2, n_query, width), torch.randn(2, n_context, width)
    weights = encoder.state_dict()
    attention = torch.nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
    inputs = torch.cat([weights[f"blocks.0.attention.{name}.weight"] for name in ("to_query", "to_key_value")])
    output = weights.get("blocks.0.attention.project.0.weight", torch.eye(width))
    attention.load_state_dict({"in_proj_weight": inputs, "out_proj.weight": output})
    with torch.no_grad():
        q, kv = F.layer_norm(query, (width,)), F.layer_norm(context, (width,))
        attended = query + attention(q, kv, kv)[0] + weights.get("blocks.0.attention.project.0.bias", 0)
        w1, b1, w2, b2 = (weights[f"blocks.0.feed_forward.{i}.{k}"] for i in (1, 4) for k in ("weight", "bias"))
        fed = attended + F.gelu(F.layer_norm(attended, (width,)) @ w1.T + b1) @ w2.T + b2
        torch.testing.assert_close(encoder(query, context), F.layer_norm(fed, (width,)), rtol=1e-4, atol=1e-5)


def test_single_head_has_no_output_projection():
    names = CrossAttentionEncoder(16, heads=1).state_dict()
    assert not any("project" in name for name in names)


def test_contrastive_loss_equals_its_formula():
    rng = np.random.default_rng(0)
    image, gene = rng.normal(size=(2, 6, 8))
    cosine = image @ gene.T / np.outer(np.linalg.norm(image, axis=1), np.linalg.norm(gene, axis=1))
    logits = cosine / 0.05 * np.where(np.eye(6), 1, 0.1)
    loss = nn_.contrastive_loss(torch.tensor(image), torch.tensor(gene), temperature=0.05, negative_scale=0.1)
    np.testing.assert_allclose(loss, -np.diag(log_softmax(logits, axis=1)).mean(), rtol=1e-5)


def test_contrastive_loss_of_one_pair_is_zero():
    loss = nn_.contrastive_loss(torch.randn(1, 8), torch.randn(1, 8), temperature=0.05, negative_scale=0.1)
    assert loss == 0
