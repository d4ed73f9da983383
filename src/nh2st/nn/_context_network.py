from __future__ import annotations

import math
from os import PathLike
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from nh2st._torch import evaluating, share_of_rows
from nh2st.nn._batch import NeighborBatch
from nh2st.nn._config import NetworkConfig
from nh2st.nn._context_member import ContextMember, MemberOutput
from nh2st.nn._contrastive import symmetric_contrastive_loss
from nh2st.nn._create_encoder import create_encoder
from nh2st.nn._encoder_weights import PRETRAINED
from nh2st.nn._likelihood import count_loss, log_ratio, standardized_mse
from nh2st.nn._reduction import Reduction


class Prediction(NamedTuple):
    """Predicted expression (B, G) in the units of the target, and its standard deviation."""

    mean: Tensor
    std: Tensor


class ContextNetwork(nn.Module):
    """Expression from the images of a spot and of its neighbours: what NH2ST intends, for small data.

    The encoder stays as it is. Its pooled features of a spot, in patches of one or several sizes, are standardised
    within the section and reduced to principal components (see :class:`nh2st.nn.Reduction`). A small ensemble then
    predicts standardised expression from a spot's own components and, by attention, from those of its neighbours, so
    that the neighbourhood reaches the prediction; in the released network (:class:`nh2st.nn.NH2ST`) it does not.
    Expression may teach the hidden layer through symmetric contrastive losses, in training alone.

    Parameters
    ----------
    config
        Shapes and losses of the network, of variant ``"context"``.
    encoder_weights
        As in :class:`nh2st.nn.NH2ST`.

    Raises
    ------
    ValueError
        If the encoder is unknown.

    Examples
    --------
    >>> import torch
    >>> from nh2st.nn import ContextNetwork, NeighborBatch, NetworkConfig
    >>> config = NetworkConfig.for_variant("context", n_genes=5, encoder="resnet18", patch_px=32, components=4)
    >>> network = ContextNetwork(config, encoder_weights=None)
    >>> tokens, nodes = torch.zeros(2, 4), torch.tensor([[0, 1], [1, 0]])
    >>> batch = NeighborBatch(tokens, torch.zeros(2, 5), nodes, torch.ones(2, 2, dtype=torch.bool))
    >>> network.predict(batch).shape
    torch.Size([2, 5])
    """

    reduction: Reduction
    level: Tensor
    spread: Tensor
    residual: Tensor
    count_scale: Tensor

    def __init__(self, config: NetworkConfig, *, encoder_weights: str | PathLike[str] | None = PRETRAINED) -> None:
        super().__init__()
        self.config = config
        self.encoder = create_encoder(config.encoder, encoder_weights)
        self.encoder.fine_tune("none")
        self.encoder.map_shape(config.patch_px)
        self.n_features = self.encoder.n_features * len(config.patch_scales)
        """Number of features of a spot, in all patch scales."""
        self.reduction = Reduction(self.n_features, config.components, normalize=config.normalize)
        self.members = nn.ModuleList(ContextMember(config, config.components) for _ in range(config.members))
        self.register_buffer("level", torch.zeros(config.n_genes))
        self.register_buffer("spread", torch.ones(config.n_genes))
        self.register_buffer("residual", torch.ones(config.n_genes))
        self.register_buffer("count_scale", torch.tensor([1.0, 1.0]))
        counts = config.likelihood == "negative_binomial"
        self.log_dispersion = nn.Parameter(torch.zeros(config.n_genes)) if counts else None

    def forward(self, batch: NeighborBatch) -> list[MemberOutput]:
        """Compute the output of each member, and in training their embeddings.

        Parameters
        ----------
        batch
            Targets with their neighbourhoods; its images are the tokens (P, components) of the patches.
        """
        self._check(batch)
        tokens = batch.images[batch.nodes]
        expression = batch.expression[batch.nodes] if self.training else None
        return [member(tokens, batch.mask, expression) for member in self.members]

    def losses(self, output: list[MemberOutput], batch: NeighborBatch) -> dict[str, Tensor]:
        """Compute the loss and its terms, each the mean over the members.

        Parameters
        ----------
        output
            What :meth:`forward` gave for the batch.
        batch
            The batch. Its expression is standardised; count likelihoods need its counts too.

        Returns
        -------
        As :meth:`nh2st.nn.NH2ST.losses`; ``"mse"`` is that of standardised expression, or the count likelihood.
        """
        config = self.config
        targets = batch.nodes[:, 0]
        fit = torch.stack([self._fit(member.signal, batch, targets) for member in output]).mean()
        query, neighbor = fit.new_zeros(()), fit.new_zeros(())
        if config.query_weight:
            pairs = [(member.image, member.gene) for member in output]
            query = self._contrast(pairs, _shown_again(batch))
        if config.neighbor_weight:
            pairs = [(member.neighbor_image, member.neighbor_gene) for member in output]
            neighbor = self._contrast(pairs, _overlapping(batch))
        loss = config.query_weight * query + config.neighbor_weight * neighbor + config.mse_weight * fit
        return {"loss": loss * share_of_rows(output[0].signal), "query": query, "neighbor": neighbor, "mse": fit}

    def predict(self, batch: NeighborBatch) -> Tensor:
        """Predict expression, in evaluation mode and without gradients.

        Parameters
        ----------
        batch
            Targets with the tokens of their neighbourhoods; its expression is not looked at.

        Returns
        -------
        Predicted expression (B, G): the mean over the members.
        """
        return self.predict_with_std(batch).mean

    def predict_with_std(self, batch: NeighborBatch) -> Prediction:
        """Predict expression with its standard deviation, in evaluation mode and without gradients.

        The variance is that of the members plus, for each gene, that of the residuals on validation spots
        (:meth:`set_residual`).

        Parameters
        ----------
        batch
            As for :meth:`predict`.
        """
        with evaluating(self):
            values = torch.stack([self._expression(member.signal.float()) for member in self(batch)])
            return Prediction(values.mean(dim=0), (values.var(dim=0, correction=0) + self.residual**2).sqrt())

    @torch.no_grad()
    def set_output(self, level: Tensor, spread: Tensor) -> None:
        """Set what turns standardised expression into that of the target.

        Parameters
        ----------
        level
            Mean (G,) of each gene; for count likelihoods the logarithm of its share of all counts.
        spread
            Standard deviation (G,) of each gene within a section; not used for count likelihoods.
        """
        self.level.copy_(level)
        self.spread.copy_(spread)

    @torch.no_grad()
    def set_residual(self, residual: Tensor) -> None:
        """Set the standard deviation (G,) of what was measured on validation spots around the prediction."""
        self.residual.copy_(residual)

    @torch.no_grad()
    def set_count_scale(self, target_sum: float, log: Literal["natural", "log10"]) -> None:
        """Set what shares of counts are multiplied with, and the logarithm of which the target is."""
        self.count_scale.copy_(torch.tensor([target_sum, 1.0 if log == "natural" else math.log(10)]))

    def _expression(self, signal: Tensor) -> Tensor:
        """Expression in the units of the target."""
        if self.config.likelihood == "mse":
            return self.level + self.spread * signal
        return torch.log1p(self.count_scale[0] * torch.exp(self.level + log_ratio(signal))) / self.count_scale[1]

    def _fit(self, signal: Tensor, batch: NeighborBatch, targets: Tensor) -> Tensor:
        if self.config.likelihood == "mse":
            return standardized_mse(signal, batch.expression[targets])
        if batch.counts is None or batch.log_expected is None:
            msg = f"The likelihood {self.config.likelihood!r} needs the batch's counts and log_expected."
            raise ValueError(msg)
        return count_loss(signal, batch.counts[targets], batch.log_expected[targets], self.log_dispersion)

    def _contrast(self, pairs: list[tuple[Tensor | None, Tensor | None]], related: Tensor) -> Tensor:
        losses = [
            symmetric_contrastive_loss(image, gene, related, temperature=self.config.temperature)
            for image, gene in pairs
            if image is not None and gene is not None
        ]
        return torch.stack(losses).mean() if losses else torch.zeros(())

    def _check(self, batch: NeighborBatch) -> None:
        if batch.images.shape[1:] != (self.config.components,):
            msg = (
                f"The network takes tokens of {self.config.components} components (`network.reduction.tokens`), not "
                f"images of shape {(*batch.images.shape[1:],)}."
            )
            raise ValueError(msg)
        if batch.expression.shape[-1] != self.config.n_genes:
            msg = f"The network was built for {self.config.n_genes} genes, not for {batch.expression.shape[-1]}."
            raise ValueError(msg)


def _shown_again(batch: NeighborBatch) -> Tensor:
    """Pairs (B, B) of targets that show the same tissue: those known to, and neighbours."""
    targets = batch.nodes[:, 0]
    adjacent = ((batch.nodes.unsqueeze(-1) == targets) & batch.mask.unsqueeze(-1)).any(dim=1)
    return adjacent | adjacent.T if batch.related is None else adjacent | adjacent.T | batch.related


def _overlapping(batch: NeighborBatch) -> Tensor:
    """Pairs (B, B) of targets whose neighbourhoods have a patch in common."""
    members = torch.zeros(len(batch), len(batch.images), device=batch.nodes.device)
    members.scatter_add_(1, batch.nodes, batch.mask.to(members.dtype))
    return (members @ members.T > 0) | _shown_again(batch)
