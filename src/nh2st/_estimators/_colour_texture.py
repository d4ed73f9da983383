"""Colour and texture of a patch in a few dozen numbers: what staining and density of nuclei alone can tell."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from skimage.color import hed_from_rgb
from skimage.feature import graycomatrix, graycoprops
from torch import Tensor, nn

from nh2st._inference import Job, encode_sections
from nh2st._patches import Windows

if TYPE_CHECKING:
    from nh2st._sections import Section

_QUANTILES = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
_GRADIENT_SCALES = (1, 4)
_CO_OCCURRENCE_SCALE = 2
_LEVELS = 8
_ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_CO_OCCURRENCE = ("contrast", "homogeneity", "energy", "correlation")
_DENSITY = np.log10(255 / np.maximum(np.arange(256), 1)).astype(np.float32)
_STAINS = hed_from_rgb[:, :2].T.astype(np.float32)
_BATCH = 32

N_STATISTICS = 5 * (2 + len(_QUANTILES)) + len(_GRADIENT_SCALES) + len(_CO_OCCURRENCE)


def colour_texture(sections: Sequence[Section], windows: Sequence[Windows]) -> np.ndarray:
    """Statistics (n, N_STATISTICS), float32, of the patches of all sections, one section after another.

    Patches are read in batches, and the statistics are kept in the cache, with the precision of half floats.

    Raises
    ------
    ValueError
        If the memory limit is too small for a batch.
    OSError
        If an image cannot be read; section and image are named.
    """
    identity = {"output": "colour and texture 1", "scikit-image": version("scikit-image")}
    job = Job(_PatchStatistics(), _BATCH, device="cpu", precision="32")
    parts = encode_sections(job, identity, (N_STATISTICS,), sections, windows, "colour and texture")
    return np.concatenate(parts).astype(np.float32)


class _PatchStatistics(nn.Module):
    """:func:`patch_statistics` of each patch of a batch."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        statistics = np.stack([patch_statistics(patch) for patch in images.numpy()])
        return (torch.from_numpy(statistics).half(),)


def patch_statistics(patch: np.ndarray) -> np.ndarray:
    """Colour and texture of one patch.

    Colour: means of red, green, blue (0 to 1) and of the optical densities (base 10) of hematoxylin and eosin, with the
    stain vectors of :func:`skimage.color.rgb2hed`; their standard deviations; the five quantiles (0.05, 0.25, 0.5,
    0.75, 0.95) of each. Texture of the grey image (0 to 1): root mean square of the gradient, as it is and reduced
    four times; contrast, homogeneity, energy and correlation of the co-occurrence of adjacent pixels, mean of four
    directions, at half the size in eight levels.

    Parameters
    ----------
    patch
        Pixels (px, px, 3), uint8.

    Returns
    -------
    Statistics (N_STATISTICS,), finite for any patch.

    References
    ----------
    Ruifrok and Johnston 2001 (stains); Haralick, Shanmugam and Dinstein 1973 (co-occurrence).

    Examples
    --------
    >>> import numpy as np
    >>> patch_statistics(np.full((8, 8, 3), 255, dtype=np.uint8))[:5]  # means
    array([1., 1., 1., 0., 0.], dtype=float32)
    """
    return np.concatenate([_colour(patch), _texture(Image.fromarray(patch).convert("L"))])


def _colour(patch: np.ndarray) -> np.ndarray:
    # A row a channel, so that sums and sorts run along memory.
    rgb = np.ascontiguousarray(patch.reshape(-1, 3).T)
    channels = np.concatenate([np.divide(rgb, 255, dtype=np.float32), _STAINS @ _DENSITY[rgb]])
    ranked = np.sort(channels, axis=1)
    nearest = np.rint(_QUANTILES * (ranked.shape[1] - 1)).astype(int)
    return np.concatenate([ranked.mean(axis=1), ranked.std(axis=1), ranked[:, nearest].ravel()])


def _texture(grey: Image.Image) -> np.ndarray:
    gradients = [_gradient(np.asarray(grey.reduce(scale), dtype=np.float32) / 255) for scale in _GRADIENT_SCALES]
    levels = np.asarray(grey.reduce(_CO_OCCURRENCE_SCALE)) // (256 // _LEVELS)
    pairs = graycomatrix(levels, [1], _ANGLES, levels=_LEVELS, symmetric=True, normed=True)
    return np.array([*gradients, *(graycoprops(pairs, name).mean() for name in _CO_OCCURRENCE)], dtype=np.float32)


def _gradient(grey: np.ndarray) -> float:
    """Root mean square of the differences of adjacent pixels; 0 across the last row and column."""
    down, right = np.diff(grey, axis=0, append=grey[-1:]), np.diff(grey, axis=1, append=grey[:, -1:])
    return float(np.sqrt(np.mean(down**2 + right**2)))
