from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nh2st.nn._ranks import gather_rows


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
