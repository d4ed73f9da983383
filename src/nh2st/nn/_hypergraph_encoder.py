from __future__ import annotations

from torch import Tensor, nn

from nh2st.nn._hypergraph_conv import HypergraphConv


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
