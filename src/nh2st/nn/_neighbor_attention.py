from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NeighborContext(nn.Module):
    """What the neighbours' images add to the embedding of a spot.

    Multi-head attention of the spot on its neighbours. Queries start at 0, so that training starts from the plain mean
    of the neighbours, and departs from it where that pays. A spot without neighbours attends to itself.

    Parameters
    ----------
    n_features
        Length of the tokens.
    width
        Length of the result.
    heads
        Attention heads; must divide `width`.
    learned
        Whether the weights of the neighbours are learned; else they stay equal.

    Examples
    --------
    >>> import torch
    >>> from nh2st.nn import NeighborContext
    >>> context = NeighborContext(4, 8, heads=2)
    >>> context(torch.ones(3, 5, 4), torch.ones(3, 5, dtype=torch.bool)).shape
    torch.Size([3, 8])
    """

    def __init__(self, n_features: int, width: int, *, heads: int = 4, learned: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.value = nn.Linear(n_features, width, bias=False)
        self.query = nn.Linear(n_features, width, bias=False) if learned else None
        self.key = nn.Linear(n_features, width, bias=False) if learned else None
        if self.query is not None:
            nn.init.zeros_(self.query.weight)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Summarise the neighbours.

        Parameters
        ----------
        tokens
            Tokens (B, N, n_features) of the neighbourhoods, the spot itself first.
        present
            Which of them (B, N) are present, bool.

        Returns
        -------
        Summaries (B, width).
        """
        present = present.clone()
        present[:, 0] = ~present[:, 1:].any(dim=1)
        if self.query is None or self.key is None:
            weights = present.float() / present.sum(dim=1, keepdim=True)
            return self.value(torch.einsum("bn,bnf->bf", weights.to(tokens.dtype), tokens))
        query = self._split(self.query(tokens[:, :1]))
        key, value = self._split(self.key(tokens)), self._split(self.value(tokens))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=present[:, None, None])
        return attended.transpose(1, 2).flatten(1)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)
