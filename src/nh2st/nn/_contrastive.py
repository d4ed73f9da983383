from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nh2st._torch import gather_rows


def contrastive_loss(image: Tensor, gene: Tensor, *, temperature: float, negative_scale: float) -> Tensor:
    """Contrastive loss of images against the expression measured with them: NH2ST, MICCAI 2025, arXiv:2506.23827.

    Cross-entropy, from image to gene, over cosine similarities divided by the temperature, the logits of pairs that do
    not belong together scaled down. In a distributed run each rank's images are set against the expression of all
    ranks.

    Parameters
    ----------
    image
        Embeddings (B, D) of the images.
    gene
        Embeddings (B, D) of the expression, in the order of the images.
    temperature
        Divisor of the similarities.
    negative_scale
        Factor on the logits off the diagonal.

    Returns
    -------
    Mean over the batch, in float32 under any precision; 0 for a single pair.

    Examples
    --------
    >>> import torch
    >>> from nh2st.nn import contrastive_loss
    >>> contrastive_loss(torch.eye(2), torch.eye(2), temperature=1.0, negative_scale=1.0)
    tensor(0.3133)
    """
    with torch.autocast(image.device.type, enabled=False):
        genes, first = gather_rows(F.normalize(gene.float(), dim=-1))
        cosine = F.normalize(image.float(), dim=-1) @ genes.T
        own = torch.arange(first, first + len(cosine), device=cosine.device)
        pairs = F.one_hot(own, len(genes)).bool()
        logits = torch.where(pairs, cosine, cosine * negative_scale) / temperature
        return F.cross_entropy(logits, own)


def symmetric_contrastive_loss(image: Tensor, gene: Tensor, related: Tensor, *, temperature: float) -> Tensor:
    """Contrastive loss in both directions that takes no related pair for a negative.

    The mean of the cross-entropies from image to gene and from gene to image over cosine similarities divided by the
    temperature, as CLIP does (arXiv:2103.00020), with full-strength negatives. Pairs of spots that show the same tissue
    are left out instead of being pushed apart. In a distributed run each rank contrasts its own spots.

    Parameters
    ----------
    image, gene
        Embeddings (B, D) of images and of expression, as in :func:`contrastive_loss`.
    related
        Pairs (B, B) that are no negatives, bool; the diagonal is disregarded.
    temperature
        Divisor of the similarities.

    Returns
    -------
    Mean over both directions and the batch, in float32 under any precision.

    Examples
    --------
    >>> import torch
    >>> from nh2st.nn import symmetric_contrastive_loss
    >>> unrelated = torch.zeros(2, 2, dtype=torch.bool)
    >>> symmetric_contrastive_loss(torch.eye(2), torch.eye(2), unrelated, temperature=1.0)
    tensor(0.3133)
    """
    with torch.autocast(image.device.type, enabled=False):
        logits = F.normalize(image.float(), dim=-1) @ F.normalize(gene.float(), dim=-1).T / temperature
        own = torch.arange(len(logits), device=logits.device)
        hidden = related & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(hidden, -torch.inf)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
