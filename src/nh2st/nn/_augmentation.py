from __future__ import annotations

import torch
from torch import Tensor

_DENSITIES = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density in red, green and blue of a unit of hematoxylin, eosin and the residual (diaminobenzidine)."""


def random_dihedral(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Give each image one of the eight flips and quarter turns of the square, all equally likely.

    Parameters
    ----------
    images
        Square images (P, 3, H, H).
    generator
        Source of the choices; torch's global one for the CPU where absent.

    Returns
    -------
    Transformed images, shape and type as given.

    Raises
    ------
    ValueError
        If the images are not square.

    Examples
    --------
    >>> import torch
    >>> from nh2st.nn import random_dihedral
    >>> images = torch.arange(48, dtype=torch.uint8).reshape(4, 3, 2, 2)
    >>> random_dihedral(images, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 2, 2])
    """
    if images.shape[-1] != images.shape[-2]:
        msg = f"Only square images can be turned, not {images.shape[-2]} x {images.shape[-1]} pixels."
        raise ValueError(msg)
    device = generator.device if generator is not None else "cpu"
    chosen = torch.randint(2, (3, len(images), 1, 1, 1), generator=generator, device=device).bool().to(images.device)
    images = torch.where(chosen[0], images.flip(-1), images)
    images = torch.where(chosen[1], images.flip(-2), images)
    return torch.where(chosen[2], images.mT, images)


def random_stain(images: Tensor, strength: float, generator: torch.Generator | None = None) -> Tensor:
    """Stain each image a little stronger or weaker, with each dye by itself.

    The optical densities of a pixel (Beer-Lambert law) are the sum of what hematoxylin, eosin and a residual absorb
    (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291). The amount of each is multiplied by the exponential of
    a normal deviate, the same in the whole image, as in the HED augmentation of Tellez et al. 2019
    (doi:10.1016/j.media.2019.101544).

    Parameters
    ----------
    images
        Images (P, 3, H, W), uint8.
    strength
        Standard deviation of the deviates; 0 leaves the images as they are.
    generator
        Source of the deviates; torch's global one for the CPU where absent.

    Returns
    -------
    Stained images, shape and type as given.

    Raises
    ------
    ValueError
        If `strength` is negative.

    Examples
    --------
    >>> import torch
    >>> from nh2st.nn import random_stain
    >>> images = torch.full((4, 3, 2, 2), 128, dtype=torch.uint8)
    >>> random_stain(images, 0.1, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 2, 2])
    """
    if strength < 0:
        msg = f"strength must be 0 or more, not {strength}."
        raise ValueError(msg)
    if strength == 0:
        return images
    device = generator.device if generator is not None else "cpu"
    deviates = torch.randn((len(images), len(_DENSITIES)), generator=generator, device=device)
    with torch.autocast(images.device.type, enabled=False):
        restaining = _restaining(torch.exp(strength * deviates.to(images.device)))
        # Transmission is at least one grey level, since black has no finite optical density.
        log_transmission = images.clamp(min=1).float().div_(255).log_().flatten(2)
        transmission = torch.bmm(restaining, log_transmission).exp_()
        return transmission.mul_(255).clamp_(max=255).round_().to(torch.uint8).view(images.shape)


def _restaining(factors: Tensor) -> Tensor:
    """Matrices (P, 3, 3) from optical densities to those after each dye's amount is multiplied by its factor (P, 3)."""
    dyes = torch.tensor(_DENSITIES, device=factors.device).T
    return dyes @ (factors.unsqueeze(-1) * torch.linalg.inv(dyes))
