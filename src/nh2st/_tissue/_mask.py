"""Where the tissue is in a small image of a slide, by what haematoxylin and eosin absorb."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import ndimage
from skimage.morphology import isotropic_dilation

MASK_UM: Final = 8.0
"""Side of a pixel that the numbers below are made for: of the size of a cell."""

_SMOOTH_PX: Final = 2.0
_SPREAD_PX: Final = 3
_TEXTURE: Final = 0.045
_STAINED: Final = 0.4
"""Optical densities: standard deviation within tissue, and mean of tissue that is stained evenly."""

_BLUE_TO_GREEN: Final = (0.7, 0.85)
_RED_TO_GREEN: Final = (1.2, 1.4)
"""Absorption relative to that of green light: a stain of H&E below the first, something else above the second. Eosin
hardly absorbs red, haematoxylin absorbs red and green alike, and neither absorbs half as much blue as green."""

_OPAQUE: Final = 2.0
"""Optical density for red light that tissue does not reach in pixels of the size of a cell."""

_INK_DENSITY: Final = 0.5
_INK_AREA_PX: Final = 200
_INK_MARGIN_PX: Final = 4

_SPECK_AREA_PX: Final = 150
_GAP_PX: Final = 5
_WISP_PX: Final = 4
_HOLE_AREA_PX: Final = 4000
_PIECE_AREA_PX: Final = 1000
_LEAST_SHARE: Final = 0.05
"""In pixels; a piece that is small may still be much of a small image."""

_DARK: Final = 130
_EVEN: Final = 3.0
_LEAST_BACKGROUND: Final = 0.005


def tissue_mask(image: np.ndarray) -> np.ndarray:
    """Find tissue that is stained with H&E.

    Tissue has fine structure in the colours of the stains. What has other colours is taken out together with its
    margin (ink, black borders, shadows), what has no structure is background (glass of any colour, smeared stain), and
    small things are dust.

    Parameters
    ----------
    image
        RGB image of about 8 um per pixel, uint8, shape (height, width, 3).

    Returns
    -------
    Boolean mask, shape (height, width).
    """
    density = _optical_density(image)
    likeness = _stain_likeness(density)
    ink = (density.max(axis=-1) > _INK_DENSITY) & ((likeness < 0.5) | (density[..., 0] > _OPAQUE))
    ink = _grown(_without_small(ink, _INK_AREA_PX), _INK_MARGIN_PX)
    stain = np.where(ink, 0, density[..., 1] * likeness)
    mean, deviation = _local_moments(stain)
    found = _without_small((deviation > _TEXTURE) | (mean > _STAINED), _SPECK_AREA_PX)
    found = _shrunk(_grown(found, _GAP_PX), _GAP_PX)
    found = _without_small_holes(found & ~ink, _HOLE_AREA_PX)
    # Structure spreads beyond the border of the tissue as far as it was averaged.
    found = _grown(_shrunk(found, _SPREAD_PX + _WISP_PX), _WISP_PX)
    return _without_small(found, min(_PIECE_AREA_PX, int(_LEAST_SHARE * found.size)))


def _optical_density(image: np.ndarray) -> np.ndarray:
    """Natural logarithm of background over pixel for each colour, at least 0."""
    pixels = image.astype(np.float32) + 1
    return np.maximum(np.log(_background(image) + 1) - np.log(pixels), 0)


def _background(image: np.ndarray) -> np.ndarray:
    """Colour of the glass: the median of the brighter half of what is even and not dark; white where there is none."""
    mean, deviation = _local_moments(image.mean(axis=-1, dtype=np.float32))
    even = (deviation < _EVEN) & (mean > _DARK)
    if even.mean() < _LEAST_BACKGROUND:
        return np.full(3, 255, dtype=np.float32)
    bright = even & (mean >= np.median(mean[even]))
    return np.median(image[bright], axis=0).astype(np.float32)


def _stain_likeness(density: np.ndarray) -> np.ndarray:
    """From 1 for the colours of haematoxylin and eosin to 0 for others, such as ink and grey."""
    red, green, blue = np.moveaxis(density, -1, 0)
    return _below(blue, green, _BLUE_TO_GREEN) * _below(red, green, _RED_TO_GREEN)


def _below(density: np.ndarray, green: np.ndarray, ratios: tuple[float, float]) -> np.ndarray:
    """From 1 where the density is below the first ratio to green to 0 above the second, less sure of faint ones."""
    certain, never = ratios
    return np.clip((never * green - density) / ((never - certain) * green + 0.02), 0, 1)


def _local_moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation around each pixel."""
    mean = ndimage.gaussian_filter(values, _SMOOTH_PX)
    return mean, np.sqrt(np.maximum(ndimage.gaussian_filter(values**2, _SMOOTH_PX) - mean**2, 0))


def _grown(mask: np.ndarray, radius: float) -> np.ndarray:
    # Distances to nothing are not defined, and those of scikit-image are to the corner.
    return isotropic_dilation(mask, radius) if mask.any() else mask


def _shrunk(mask: np.ndarray, radius: float) -> np.ndarray:
    return ~_grown(~mask, radius)


def _without_small(mask: np.ndarray, area: int) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) >= area
    large[0] = False
    return large[labels]


def _without_small_holes(mask: np.ndarray, area: int) -> np.ndarray:
    holes = ndimage.binary_fill_holes(mask) & ~mask
    return mask | (holes & ~_without_small(holes, area))
