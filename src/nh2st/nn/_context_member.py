from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from nh2st.nn._config import NetworkConfig
from nh2st.nn._neighbor_attention import NeighborContext, neighbors_or_self


class MemberOutput(NamedTuple):
    """What one member of the context network computes for a batch of B targets.

    The embeddings (B, D) are None where no contrastive loss needs them.
    """

    signal: Tensor
    """Output (B, G) of the last layer, in the units of the likelihood."""
    image: Tensor | None
    gene: Tensor | None
    neighbor_image: Tensor | None
    neighbor_gene: Tensor | None


class ContextMember(nn.Module):
    """One network of the ensemble: a hidden layer over a spot's own image and what its neighbours' images add.

    In training the expression may teach the hidden layer through contrastive losses (the gene branch).
    """

    def __init__(self, config: NetworkConfig, n_components: int) -> None:
        super().__init__()
        width = config.width
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.own = nn.Linear(n_components, width)
        self.neighbors = (
            NeighborContext(n_components, width, heads=config.heads, learned=config.neighbors == "attention")
            if config.neighbors != "none"
            else None
        )
        self.head = nn.Linear(width, config.n_genes)
        self.teaches = config.query_weight != 0, config.neighbor_weight != 0
        if any(self.teaches):
            self.genes = nn.Sequential(nn.Linear(config.n_genes, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, tokens: Tensor, present: Tensor, expression: Tensor | None = None) -> MemberOutput:
        """Compute the output from the tokens (B, N, F) of the neighbourhoods and, in training, their expression."""
        tokens = self.input_dropout(tokens)
        own = self.own(tokens[:, 0])
        context = None if self.neighbors is None else self.neighbors(tokens, present)
        hidden = self.dropout(F.gelu(own if context is None else own + context))
        signal = self.head(hidden)
        if expression is None or not any(self.teaches):
            return MemberOutput(signal, None, None, None, None)
        genes = self.genes(expression)
        around = neighbors_or_self(present)
        weights = (around / around.sum(dim=1, keepdim=True)).to(genes.dtype)
        mean = (weights.unsqueeze(-1) * genes).sum(dim=1)
        return MemberOutput(signal, hidden, genes[:, 0], context, mean)
