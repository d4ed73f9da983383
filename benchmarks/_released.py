"""The released way of computing, for comparison: the same weights, every target by itself.

For each target its own patch and the nine patches of its neighbourhood are encoded separately, and its hypergraph is
built and convolved with loops over nodes. Written anew from the description of the method.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nh2st.nn import NH2ST, NeighborBatch, Output

ENCODINGS_PER_SPOT = 10
BATCH_SIZE = 8


def released_forward(network: NH2ST, batch: NeighborBatch) -> Output:
    """What the network computes for a batch, one target after another."""
    targets = batch.nodes[:, 0]
    target_maps = network.encoder(batch.images[targets])
    h_image = network.image_projection(target_maps.permute(0, 2, 3, 1).flatten(1))
    h_gene = network.gene_encoder(batch.expression[targets])
    z_image, z_gene = _cross(network, h_image, h_gene)
    image_nodes, gene_nodes, incidences = [], [], []
    for nodes, mask in zip(batch.nodes, batch.mask, strict=True):
        present = nodes[mask]
        maps = network.encoder(batch.images[present]).flatten(1)
        incidence = _incidence(maps.detach(), network.config.hyperedge_neighbors)
        image_nodes.append(_convolve(network.image_hypergraph, maps, incidence))
        gene_nodes.append(
            _convolve(network.gene_hypergraph, network.gene_encoder(batch.expression[present]), incidence)
        )
        incidences.append(F.pad(incidence, (0, len(nodes) - len(present)) * 2))
    z_neighbors = _cross(network, torch.stack(image_nodes), torch.stack(gene_nodes))
    return Output(network.head(h_image), z_image, z_gene, *z_neighbors, torch.stack(incidences))


def released_predict(network: NH2ST, patch: Tensor) -> Tensor:
    """Predict one target as the released evaluation does, its neighbourhood encoded along with it."""
    with torch.no_grad():
        neighborhood = patch.expand(ENCODINGS_PER_SPOT - 1, *patch.shape)
        maps = network.encoder(neighborhood).flatten(1)
        _convolve(network.image_hypergraph, maps, _incidence(maps, network.config.hyperedge_neighbors))
        target = network.encoder(patch[None])
        return network.head(network.image_projection(target.permute(0, 2, 3, 1).flatten(1)))


def _cross(network: NH2ST, image: Tensor, gene: Tensor) -> tuple[Tensor, Tensor]:
    z_image = network.cross_attention(image[:, None], gene[:, None])
    z_gene = network.cross_attention(gene[:, None], z_image)
    return z_image[:, 0], z_gene[:, 0]


def _incidence(maps: Tensor, k: int) -> Tensor:
    n_nodes = len(maps)
    incidence = torch.zeros(n_nodes, n_nodes, device=maps.device)
    for edge in range(n_nodes):
        similarity = [
            float(F.cosine_similarity(maps[edge], maps[node], dim=0)) if node != edge else -float("inf")
            for node in range(n_nodes)
        ]
        closest = sorted(range(n_nodes), key=similarity.__getitem__, reverse=True)[: min(k, n_nodes - 1)]
        for node in [*closest, edge]:
            incidence[node, edge] = 1
    return incidence


def _convolve(hypergraph: torch.nn.Module, nodes: Tensor, incidence: Tensor) -> Tensor:
    matrix = (incidence / incidence.sum(1, keepdim=True)) @ (incidence / incidence.sum(0)).T
    for layer in (hypergraph.layer1, hypergraph.layer2):
        nodes = F.relu(matrix @ layer.theta(nodes) + layer.bias)
    return nodes.mean(0)
