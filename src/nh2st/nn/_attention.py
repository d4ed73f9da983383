from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Pre-norm multi-head attention of ``query`` on ``context``; one normalisation serves both."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key_value = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout)) if heads > 1 else nn.Identity()

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        key, value = self.to_key_value(self.norm(context)).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            self._split(self.to_query(self.norm(query))), self._split(key), self._split(value)
        )
        return self.project(attended.transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Pre-norm GELU network with one hidden layer."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )


class CrossAttentionBlock(nn.Module):
    """Cross-attention and feed-forward network, each added to its input."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = CrossAttention(width, heads, dropout)
        self.feed_forward = FeedForward(width, hidden, dropout)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        query = query + self.attention(query, context)
        return query + self.feed_forward(query)


class CrossAttentionEncoder(nn.Module):
    """Tokens of one modality, updated by those of another: X(q, kv) of NH2ST, MICCAI 2025, arXiv:2506.23827.

    ``depth`` blocks ``q <- q + attention(norm(q), norm(kv))``, ``q <- q + feed_forward(norm'(q))``, then a last
    normalisation. With a single context token the attention weight is 1 and a block adds a linear map of that token.

    Parameters
    ----------
    width
        Length D of the tokens.
    depth
        Number of blocks.
    heads
        Attention heads; with one head the attention has no output projection.
    mlp_ratio
        Hidden width of the feed-forward networks as a multiple of ``width``.
    dropout
        Dropout after the output projection and after both layers of the feed-forward networks.

    Examples
    --------
    >>> import torch
    >>> encoder = CrossAttentionEncoder(16, heads=4)
    >>> encoder(torch.ones(2, 1, 16), torch.ones(2, 5, 16)).shape
    torch.Size([2, 1, 16])
    """

    def __init__(
        self, width: int, *, depth: int = 1, heads: int = 8, mlp_ratio: float = 1.0, dropout: float = 0.5
    ) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.blocks = nn.ModuleList(CrossAttentionBlock(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Update the query tokens.

        Parameters
        ----------
        query
            Tokens (B, T, D) to update.
        context
            Tokens (B, S, D) of the other modality.

        Returns
        -------
        Updated tokens (B, T, D).
        """
        for block in self.blocks:
            query = block(query, context)
        return self.norm(query)
