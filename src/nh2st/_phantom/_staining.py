"""Hematoxylin and eosin on synthetic tissue, as light passing through it (Beer-Lambert)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nh2st._phantom._growth import (
    CELL_TYPES,
    FIBROBLAST,
    GLAND,
    LUMEN,
    PLASMA_CELL,
    T_CELL,
    smooth_field,
)

if TYPE_CHECKING:
    import numpy as np

    from nh2st._phantom._growth import Nuclei, Tissue

# optical density per unit of stain in red, green and blue (hematoxylin: Ruifrok and Johnston 2001)
HEMATOXYLIN_RGB: Final = (0.65, 0.70, 0.29)
EOSIN_RGB: Final = (0.09, 0.95, 0.29)
FAT_CELL_UM: Final = 48.0


@dataclass(frozen=True)
class Stain:
    """How a donor's slides were stained: optical densities (stain, rgb) and the colour of empty glass."""

    densities: np.ndarray
    glass: np.ndarray


def draw_stain(rng: np.random.Generator) -> Stain:
    """Hue and strength of both stains, as they differ between laboratories and batches."""
    import numpy as np

    vectors = np.clip(np.array([HEMATOXYLIN_RGB, EOSIN_RGB]) + rng.normal(0, 0.035, (2, 3)), 0.02, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = np.exp(rng.normal(0, 0.16, (2, 1)))
    return Stain(densities=vectors * strength, glass=rng.uniform(238, 250, 3))


def stain_tissue(rng: np.random.Generator, tissue: Tissue, stain: Stain) -> np.ndarray:
    """Image (y, x, 3) uint8 of stained tissue, one pixel per micrometre."""
    import numpy as np
    from scipy import ndimage

    size = len(tissue.tumor)
    hematoxylin, eosin = _background(rng, tissue)
    cytoplasm, nuclear = _draw_cytoplasm(tissue.nuclei, size), _draw_nuclei(rng, tissue.nuclei, size)
    hematoxylin = np.maximum(hematoxylin + 0.28 * cytoplasm, nuclear)
    eosin = (eosin + 0.1 * cytoplasm) * (1 - 0.6 * np.clip(nuclear, 0, 1))
    thickness = 1 + 0.06 * smooth_field(rng, size, 120)
    layers = [ndimage.gaussian_filter(layer * thickness, 0.55) for layer in (hematoxylin, eosin)]
    absorbed = np.stack(layers, axis=-1) @ (stain.densities * np.log(10)).astype(np.float32)
    light = stain.glass.astype(np.float32) * np.exp(-absorbed)
    light += 2 * rng.standard_normal(light.shape, dtype=np.float32)
    return np.clip(light, 0, 255).astype(np.uint8)


def _background(rng: np.random.Generator, tissue: Tissue) -> tuple[np.ndarray, np.ndarray]:
    """Stain of everything between the nuclei."""
    import numpy as np
    from scipy import ndimage

    size = len(tissue.tumor)
    grain = ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), 1.6) * 4
    eosin = 0.07 + 0.16 * tissue.matrix + (0.12 + 0.2 * tissue.matrix) * tissue.fibres
    hematoxylin = np.full((size, size), 0.025, dtype=np.float32)
    soft_tumor = ndimage.gaussian_filter(tissue.tumor.astype(np.float32), 2.5)
    eosin += soft_tumor * (0.25 + 0.035 * grain - eosin)
    hematoxylin += soft_tumor * 0.075
    membranes = _membranes(rng, tissue.adipose)
    eosin = np.where(tissue.adipose, 0.3 * membranes, eosin)
    hematoxylin = np.where(tissue.adipose, 0.03 * membranes, hematoxylin)
    depth = tissue.gland_depth
    wall = np.clip((depth - LUMEN) * 12, 0, 1) * np.clip((1.0 - depth) * 12, 0, 1)
    cleft = (depth < 1.0) | ((depth < 1.06) & (grain > -0.2))
    eosin = np.where(cleft, wall * (0.3 + 0.03 * grain), eosin)
    hematoxylin = np.where(cleft, 0.1 * wall, hematoxylin)
    return np.clip(hematoxylin + 0.006 * grain, 0, None), np.clip(eosin + 0.015 * grain, 0, None)


def _membranes(rng: np.random.Generator, adipose: np.ndarray) -> np.ndarray:
    """How much of each pixel of fat is membrane: the borders between the cells of a jittered grid."""
    import numpy as np
    from scipy.spatial import cKDTree

    axis = np.arange(0, len(adipose) + FAT_CELL_UM, FAT_CELL_UM)
    centres = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    centres = centres + rng.uniform(-0.35, 0.35, centres.shape) * FAT_CELL_UM
    membranes = np.zeros(adipose.shape, dtype=np.float32)
    rows, columns = np.nonzero(adipose)
    distance, _ = cKDTree(centres).query(np.column_stack([columns, rows]), k=2)
    membranes[rows, columns] = np.clip(1.6 - 0.5 * (distance[:, 1] - distance[:, 0]), 0, 1)
    return membranes


def _draw_cytoplasm(nuclei: Nuclei, size: int) -> np.ndarray:
    """Draw the dark cytoplasm of plasma cells, in 0..1, to one side of the nucleus."""
    import numpy as np

    cytoplasm = np.zeros((size, size), dtype=np.float32)
    plasma = nuclei.type == PLASMA_CELL
    angle = nuclei.angle[plasma]
    xy = nuclei.xy[plasma] + 3.2 * np.column_stack([np.cos(angle), np.sin(angle)])
    stamps = _stamps(xy, np.full(len(xy), 6.2), np.full(len(xy), 4.8), angle, size)
    np.maximum.at(cytoplasm, stamps.pixels, stamps.inside)
    return cytoplasm


def _draw_nuclei(rng: np.random.Generator, nuclei: Nuclei, size: int) -> np.ndarray:
    """Hematoxylin of the nuclei."""
    import numpy as np
    from scipy import ndimage

    chromatin = ndimage.gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), 0.9) * 2.2
    # the same amount of DNA in a larger nucleus is paler, so that the mean colour does not tell the nuclei's size
    density = 0.62 * np.minimum((4.6 / np.sqrt(nuclei.long * nuclei.short)) ** 1.6, 1.75)
    density = (density * np.exp(rng.normal(0, 0.12, len(density)))).astype(np.float32)
    nuclear = np.zeros((size, size), dtype=np.float32)
    for kind in range(len(CELL_TYPES)):
        of = nuclei.type == kind
        stamps = _stamps(nuclei.xy[of], nuclei.long[of], nuclei.short[of], nuclei.angle[of], size)
        rim = 1.0 if kind in (FIBROBLAST, GLAND) else 0.8 + 0.3 * stamps.depth**2
        coarse = 0.26 if kind in (T_CELL, PLASMA_CELL) else 0.16
        nucleoli = nuclei.nucleolus[of][:, None, None] * stamps.nucleolus
        shade = density[of][:, None, None] * (rim * (1 + coarse * chromatin[stamps.pixels]) + 0.9 * nucleoli)
        np.maximum.at(nuclear, stamps.pixels, stamps.inside * np.clip(shade, 0.15, 1.4))
    return nuclear


@dataclass(frozen=True)
class _Stamps:
    """Ellipses in small windows, (n, window, window) each."""

    pixels: tuple[np.ndarray, np.ndarray]
    inside: np.ndarray
    """Coverage of the pixel by the ellipse, in 0..1."""
    depth: np.ndarray
    """Distance from the centre relative to the outline, at most 1."""
    nucleolus: np.ndarray
    """A dot beside the centre, in 0..1."""


def _stamps(xy: np.ndarray, long: np.ndarray, short: np.ndarray, angle: np.ndarray, size: int) -> _Stamps:
    import numpy as np

    values = (*(xy % 1).T, long, short, np.cos(angle), np.sin(angle))
    x, y, long, short, cos, sin = (value.astype(np.float32)[:, None, None] for value in values)
    reach = int(np.max(long, initial=0)) + 2
    window = np.arange(-reach, reach + 1)
    columns = np.floor(xy[:, 0]).astype(int)[:, None, None] + window[None, None, :]
    rows = np.floor(xy[:, 1]).astype(int)[:, None, None] + window[None, :, None]
    dx, dy = (window.astype(np.float32) + 0.5)[None, None, :] - x, (window.astype(np.float32) + 0.5)[None, :, None] - y
    along, across = (dx * cos + dy * sin) / long, (dy * cos - dx * sin) / short
    depth = np.hypot(along, across)
    within = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
    rows, columns = np.broadcast_arrays(np.clip(rows, 0, size - 1), np.clip(columns, 0, size - 1))
    return _Stamps(
        pixels=(rows, columns),
        inside=np.clip((1 - depth) * short + 0.5, 0, 1) * within,
        depth=np.minimum(depth, 1),
        nucleolus=np.exp(-(((along - 0.25) / 0.22) ** 2) - (depth - 0.25) ** 2 / 0.05),
    )
