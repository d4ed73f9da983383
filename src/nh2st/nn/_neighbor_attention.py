from __future__ import annotations

import torch
from torch import Tensor, nn


def neighbors_or_self(present: Tensor) -> Tensor:
    """Nodes (B, N) of each neighbourhood without the spot itself, the first; the spot alone where it has none."""
    chosen = present.clone()
    chosen[:, 0] = ~present[:, 1:].any(dim=1)
    return chosen


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
        weights = self._weights(tokens, neighbors_or_self(present))
        # Tokens are averaged before they are projected, once a spot instead of once a neighbour.
        return torch.einsum("bhf,hdf->bhd", weights @ tokens, self._heads(self.value)).flatten(1)

    def _weights(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Weights (B, heads, N) of the nodes, which sum to 1."""
        if self.query is None or self.key is None:
            equal = present / present.sum(dim=1, keepdim=True)
            return equal.to(tokens.dtype).unsqueeze(1).expand(-1, self.heads, -1)
        query = self.query(tokens[:, 0]).unflatten(-1, (self.heads, -1))
        in_token_space = torch.einsum("bhd,hdf->bhf", query, self._heads(self.key))
        logits = in_token_space @ tokens.mT / query.shape[-1] ** 0.5
        return logits.masked_fill(~present.unsqueeze(1), -torch.inf).softmax(dim=-1)

    def _heads(self, projection: nn.Linear) -> Tensor:
        return projection.weight.unflatten(0, (self.heads, -1))
