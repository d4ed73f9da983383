from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def hyperedge_incidence(similarity: Tensor, mask: Tensor, k: int) -> Tensor:
    """Join every node to the nodes most similar to it: one hyperedge per node, of itself and its ``k`` closest others.

    From NH2ST, MICCAI 2025, arXiv:2506.23827.

    Parameters
    ----------
    similarity
        Similarities (B, N, N) of the nodes of each neighbourhood.
    mask
        Which nodes (B, N) are present. Absent nodes are in no hyperedge and have none.
    k
        Other nodes in a hyperedge; all others where fewer are present.

    Returns
    -------
    Incidence (B, N, N): 1 at ``[b, i, j]`` where node i is in the hyperedge of node j, else 0.

    Examples
    --------
    >>> import torch
    >>> similarity = torch.tensor([[[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]]])
    >>> hyperedge_incidence(similarity, torch.ones(1, 3, dtype=torch.bool), k=1)[0]
    tensor([[1., 1., 0.],
            [1., 1., 1.],
            [0., 0., 1.]])
    """
    n_nodes = mask.shape[-1]
    itself = torch.eye(n_nodes, dtype=torch.bool, device=mask.device)
    allowed = mask.unsqueeze(-1) & mask.unsqueeze(-2) & ~itself
    closest = similarity.masked_fill(~allowed, -torch.inf).topk(min(k, n_nodes - 1), dim=-1).indices
    members = torch.zeros_like(allowed).scatter(-1, closest, allowed.gather(-1, closest))
    members |= itself & mask.unsqueeze(-1)
    return members.mT.to(similarity.dtype)


def propagation(incidence: Tensor) -> Tensor:
    """Matrix that averages over the nodes of each hyperedge, then over the hyperedges of each node.

    ``Dv^-1 H De^-1 H^T`` with H the incidence, Dv the number of hyperedges of a node and De the number of nodes in a
    hyperedge; rows and columns of degree 0 are 0. From NH2ST, MICCAI 2025, arXiv:2506.23827.

    Parameters
    ----------
    incidence
        Incidence (B, N, E) of nodes and hyperedges.

    Returns
    -------
    Propagation matrices (B, N, N).

    Examples
    --------
    >>> import torch
    >>> propagation(torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]]))[0]
    tensor([[0.5000, 0.5000, 0.0000],
            [0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    node_degree = incidence.sum(-1, keepdim=True).clamp(min=1)
    edge_degree = incidence.sum(-2, keepdim=True).clamp(min=1)
    return (incidence / node_degree) @ (incidence / edge_degree).mT


class HypergraphConv(nn.Module):
    """Hypergraph convolution X' = ReLU(M X Theta + bias), with M of :func:`propagation`.

    From NH2ST, MICCAI 2025, arXiv:2506.23827.

    Parameters
    ----------
    in_features
        Length of a node's input.
    out_features
        Length of a node's output.
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


class HypergraphEncoder(nn.Module):
    """Two hypergraph convolutions, then the mean over the nodes that are present.

    From NH2ST, MICCAI 2025, arXiv:2506.23827.

    Parameters
    ----------
    in_features
        Length of a patch's features.
    width
        Length D of the embedding; the hidden layer has twice that.
    """

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.layer1 = HypergraphConv(in_features, 2 * width)
        self.layer2 = HypergraphConv(2 * width, width)

    def forward(self, features: Tensor, nodes: Tensor, mask: Tensor, matrix: Tensor) -> Tensor:
        """Embed neighbourhoods.

        Parameters
        ----------
        features
            Features (P, in_features) of distinct patches.
        nodes
            Rows (B, N) of ``features`` that make up each neighbourhood.
        mask
            Which nodes (B, N) are present.
        matrix
            Propagation matrices (B, N, N).

        Returns
        -------
        Embeddings (B, D).
        """
        hidden = self.layer2(self.layer1(features, matrix, nodes), matrix)
        present = mask.unsqueeze(-1)
        return (hidden * present).sum(1) / present.sum(1)
