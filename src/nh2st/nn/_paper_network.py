from __future__ import annotations

from os import PathLike
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nh2st._torch import evaluating, share_of_rows
from nh2st.nn._attention import CrossAttentionEncoder
from nh2st.nn._batch import NeighborBatch
from nh2st.nn._config import NetworkConfig
from nh2st.nn._contrastive import contrastive_loss
from nh2st.nn._create_encoder import create_encoder
from nh2st.nn._encoder_weights import PRETRAINED
from nh2st.nn._hyperedges import hyperedge_incidence, image_similarity, propagation
from nh2st.nn._hypergraph_encoder import HypergraphEncoder

_HEAD_WIDTH = 256


class Output(NamedTuple):
    """What the network computes for a batch of B targets with N nodes each."""

    prediction: Tensor
    """Predicted expression (B, G)."""
    z_image_query: Tensor
    """Embedding (B, D) of the target's image, informed by its expression."""
    z_gene_query: Tensor
    """Embedding (B, D) of the target's expression, informed by its image."""
    z_image_neighbor: Tensor
    """Embedding (B, D) of the neighbourhood's images."""
    z_gene_neighbor: Tensor
    """Embedding (B, D) of the neighbourhood's expression."""
    incidence: Tensor
    """Incidence (B, N, N) of nodes and hyperedges."""


class NH2ST(nn.Module):
    """The network of NH2ST, MICCAI 2025, arXiv:2506.23827, as its authors released it.

    An image encoder predicts the expression of a target patch. In training, contrastive losses also bring together
    the embeddings of image and expression, of the target (query) and of its neighbourhood (a hypergraph of the patches
    that look alike).

    Parameters
    ----------
    config
        Shapes and losses of the network.
    encoder_weights
        Weights of the image encoder, as ``weights`` of :func:`nh2st.nn.create_encoder`; None where all weights are
        loaded afterwards.

    Raises
    ------
    ValueError
        If the encoder is unknown, or gives no convolutional map and ``map_px`` is not 1.

    Examples
    --------
    >>> import torch
    >>> from nh2st.nn import NH2ST, NetworkConfig
    >>> network = NH2ST(NetworkConfig(n_genes=5, encoder="resnet18", patch_px=32), encoder_weights=None)
    >>> network.predict(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape
    torch.Size([2, 5])
    """

    def __init__(self, config: NetworkConfig, *, encoder_weights: str | PathLike[str] | None = PRETRAINED) -> None:
        super().__init__()
        self.config = config
        self.encoder = create_encoder(config.encoder, encoder_weights)
        self.map_shape = self._pooled_shape()
        """Shape (C, h, w) of the feature map of a patch."""
        n_map = int(np.prod(self.map_shape))
        width = config.width
        self.image_projection = nn.Linear(n_map, width)
        self.gene_encoder = nn.Sequential(nn.Linear(config.n_genes, width), nn.Linear(width, width))
        self.image_hypergraph = HypergraphEncoder(n_map, width)
        self.gene_hypergraph = HypergraphEncoder(width, width)
        self.cross_attention = CrossAttentionEncoder(
            width, depth=config.depth, heads=config.heads, mlp_ratio=config.mlp_ratio, dropout=config.dropout
        )
        self.head = nn.Sequential(nn.Linear(width, _HEAD_WIDTH), nn.Linear(_HEAD_WIDTH, config.n_genes))

    def forward(self, batch: NeighborBatch) -> Output:
        """Predict the targets and embed them and their neighbourhoods.

        Parameters
        ----------
        batch
            Targets with their neighbourhoods. Each patch is encoded once.

        Raises
        ------
        ValueError
            If the patches or the panel are not of the size that the network was built for.
        """
        expression = self._check_expression(batch.expression)
        targets = batch.nodes[:, 0]
        feature_maps = self._encode(batch.images)
        h_image = self._project(feature_maps[targets])
        h_genes = self.gene_encoder(expression)
        z_image, z_gene = self._cross(h_image, h_genes[targets])

        flat_maps = feature_maps.flatten(1)
        similarity = image_similarity(flat_maps, batch.nodes)
        incidence = hyperedge_incidence(similarity, batch.mask, self.config.hyperedge_neighbors)
        neighborhood = batch.nodes, batch.mask, propagation(incidence)
        n_image = self.image_hypergraph(flat_maps, *neighborhood)
        n_gene = self.gene_hypergraph(h_genes, *neighborhood)
        z_image_neighbor, z_gene_neighbor = self._cross(n_image, n_gene)
        return Output(self._predict(h_image), z_image, z_gene, z_image_neighbor, z_gene_neighbor, incidence)

    def maps(self, images: Tensor) -> Tensor:
        """Encode patches once and for all, in evaluation mode and without gradients, for a frozen encoder.

        Parameters
        ----------
        images
            Patches (P, H, W, 3) or (P, 3, H, W), uint8, on the network's device.

        Returns
        -------
        Feature maps (P, C, h, w), which :meth:`forward` and :meth:`predict` take in place of the patches.
        """
        with evaluating(self):
            return self._encode(images)

    def predict(self, images: Tensor) -> Tensor:
        """Predict expression from the target patches alone, in evaluation mode and without gradients.

        Parameters
        ----------
        images
            Patches (P, H, W, 3) or (P, 3, H, W), uint8, on the network's device; or their :meth:`maps`.

        Returns
        -------
        Predicted expression (P, G).

        Raises
        ------
        ValueError
            If the patches are not of the size that the network was built for.
        """
        with evaluating(self):
            return self._predict(self._project(self._encode(images)))

    def losses(self, output: Output, batch: NeighborBatch) -> dict[str, Tensor]:
        """Compute the loss and its terms.

        Parameters
        ----------
        output
            What :meth:`forward` gave for the batch.
        batch
            The batch.

        Returns
        -------
        ``"loss"``, the weighted sum of ``"query"``, ``"neighbor"`` (contrastive losses) and ``"mse"``. In a distributed
        run the terms are means over this rank's targets, and ``"loss"`` is scaled by its share of all targets, so that
        the mean over ranks is that of the joined batch.
        """
        config = self.config
        settings = {"temperature": config.temperature, "negative_scale": config.negative_scale}
        query = contrastive_loss(output.z_image_query, output.z_gene_query, **settings)
        neighbor = contrastive_loss(output.z_image_neighbor, output.z_gene_neighbor, **settings)
        mse = F.mse_loss(output.prediction.float(), batch.expression[batch.nodes[:, 0]])
        loss = config.query_weight * query + config.neighbor_weight * neighbor + config.mse_weight * mse
        loss = loss * share_of_rows(output.prediction)
        return {"loss": loss, "query": query, "neighbor": neighbor, "mse": mse}

    @torch.no_grad()
    def set_output_mean(self, mean: np.ndarray | Tensor) -> None:
        """Start the predictions from the mean expression of the training spots, which speeds training up.

        Parameters
        ----------
        mean
            Mean (G,) of each gene; becomes the bias of the last layer.

        Raises
        ------
        ValueError
            If there is not one mean per gene.
        """
        mean = torch.as_tensor(mean)
        if mean.shape != (self.config.n_genes,):
            msg = f"mean must hold one value for each of the {self.config.n_genes} genes, not shape {(*mean.shape,)}."
            raise ValueError(msg)
        self.head[-1].get_parameter("bias").copy_(mean)

    def _pooled_shape(self) -> tuple[int, int, int]:
        side = self.config.map_px
        if side != 1 and not self.encoder.convolutional:
            msg = (
                f"Encoder {self.config.encoder!r} gives tokens and no feature map, as transformers do. The 'paper' "
                "network takes their pooled features with map_px=1 (`network={'map_px': 1}` in training), or the "
                "maps of a convolutional encoder such as 'tf_efficientnet_lite0' or 'resnet18'."
            )
            raise ValueError(msg)
        channels, height, width = self.encoder.map_shape(self.config.patch_px)
        if side is None:
            return channels, height, width
        if side > min(height, width):
            msg = f"map_px={side} is more than the {height} x {width} positions of the encoder's map."
            raise ValueError(msg)
        return channels, side, side

    def _encode(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            return self._check_maps(images)
        side = self.config.patch_px
        if images.ndim == 4 and sorted(images.shape[1:]) != sorted((3, side, side)):
            msg = f"The network was built for patches of {side} x {side} px, not for images {(*images.shape[1:],)}."
            raise ValueError(msg)
        maps = self.encoder.maps(images)
        return maps if self.config.map_px is None else F.adaptive_avg_pool2d(maps, self.config.map_px)

    def _check_maps(self, maps: Tensor) -> Tensor:
        if maps.shape[1:] != self.map_shape:
            msg = f"The network takes feature maps of shape {self.map_shape}, not {(*maps.shape[1:],)}."
            raise ValueError(msg)
        return maps.to(self.image_projection.weight.dtype)

    def _check_expression(self, expression: Tensor) -> Tensor:
        if expression.shape[-1] != self.config.n_genes:
            msg = f"The network was built for {self.config.n_genes} genes, not for {expression.shape[-1]}."
            raise ValueError(msg)
        return expression

    def _project(self, feature_maps: Tensor) -> Tensor:
        # The released weights of this layer count positions before channels, those of the hypergraph the reverse.
        return self.image_projection(feature_maps.permute(0, 2, 3, 1).flatten(1))

    def _predict(self, h_image: Tensor) -> Tensor:
        # Half precision would round predictions to steps that are coarse beside what a gene varies.
        with torch.autocast(h_image.device.type, enabled=False):
            return self.head(h_image.float())

    def _cross(self, image: Tensor, gene: Tensor) -> tuple[Tensor, Tensor]:
        image, gene = image.unsqueeze(1), gene.unsqueeze(1)
        z_image = self.cross_attention(image, gene)
        z_gene = self.cross_attention(gene, z_image)
        return z_image.squeeze(1), z_gene.squeeze(1)
