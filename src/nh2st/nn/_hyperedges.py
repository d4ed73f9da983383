from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def image_similarity(maps: Tensor, nodes: Tensor) -> Tensor:
    """Cosine similarities (B, N, N) of the flat maps (P, F) of the nodes (B, N): float32, without gradients."""
    with torch.no_grad(), torch.autocast(maps.device.type, enabled=False):
        unit = F.normalize(maps.float(), dim=-1)
        return (unit @ unit.T)[nodes.unsqueeze(2), nodes.unsqueeze(1)]


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
