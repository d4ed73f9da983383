from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HypergraphConv(nn.Module):
    """Hypergraph convolution X' = ReLU(M X Theta + bias), with M of :func:`propagation`.

    From NH2ST, MICCAI 2025, arXiv:2506.23827.

    Parameters
    ----------
    in_features, out_features
        Lengths of a node's input and output.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.theta = nn.Linear(in_features, out_features, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.xavier_uniform_(self.theta.weight)

    def forward(self, features: Tensor, matrix: Tensor, nodes: Tensor | None = None) -> Tensor:
        """Update the nodes of each neighbourhood.

        Parameters
        ----------
        features
            Features (B, N, in_features) of the nodes, or (P, in_features) of distinct patches where ``nodes`` says
            which patch each node is.
        matrix
            Propagation matrices (B, N, N).
        nodes
            Rows (B, N) of ``features``. Theta is applied before they are gathered, once per distinct patch.

        Returns
        -------
        Updated features (B, N, out_features).
        """
        projected = self.theta(features)
        if nodes is not None:
            projected = F.embedding(nodes, projected)
        return F.relu(matrix @ projected + self.bias)
