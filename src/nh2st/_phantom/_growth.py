"""Synthetic tissue: smooth random fields decide where each compartment lies, and cells are placed into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

CELL_TYPES: Final = ("tumor", "gland", "fibroblast", "t_cell", "plasma_cell")
TUMOR, GLAND, FIBROBLAST, T_CELL, PLASMA_CELL = range(len(CELL_TYPES))

FIELD_STEP_UM: Final = 10
LUMEN: Final = 0.45
"""Radius of a gland's lumen, and below that of its ring of nuclei, as fractions of the gland's radius."""
NUCLEUS_RING: Final = 0.74
GLAND_SPACING_UM: Final = 125.0


@dataclass(frozen=True)
class Nuclei:
    """One row per nucleus; lengths in micrometres, ``angle`` in radians, the rest in 0..1."""

    xy: np.ndarray
    type: np.ndarray
    long: np.ndarray
    short: np.ndarray
    angle: np.ndarray
    grade: np.ndarray
    clone: np.ndarray
    nucleolus: np.ndarray


@dataclass(frozen=True)
class Tissue:
    """A square piece of tissue, one pixel per micrometre.

    Masks and fields are (y, x); ``fibres`` and ``matrix`` are in 0..1.
    """

    tumor: np.ndarray
    adipose: np.ndarray
    gland_depth: np.ndarray
    """Distance to the nearest gland's centre divided by its radius; above 1 outside of glands."""
    fibres: np.ndarray
    matrix: np.ndarray
    nuclei: Nuclei


def grow_tissue(rng: np.random.Generator, size: int) -> Tissue:
    """Grow a square of ``size`` micrometres."""
    import numpy as np

    nests, septa, fat_field, immune, plasma = (smooth_field(rng, size, length) for length in (70, 22, 90, 50, 55))
    matrix, grade, clone, nucleolus = (_unit(smooth_field(rng, size, length)) for length in (80, 70, 75, 65))
    tumor_field = 0.85 * nests + 0.5 * septa
    tumor = tumor_field > 0.1
    adipose = (fat_field > 1.0) & (tumor_field < -0.15)
    glands = _scatter(rng, size, GLAND_SPACING_UM, 0.9 * ((tumor_field < -0.35) & ~adipose))
    radius = rng.uniform(26, 44, len(glands))
    gland_depth = _gland_depth(glands, radius, size)
    stroma = ~tumor & ~adipose & (gland_depth > 1.1)
    fibres, fibre_angle = _fibres(rng, size)

    groups = [
        (TUMOR, _scatter(rng, size, 13.0, tumor * 0.92)),
        (GLAND, _ring_nuclei(rng, glands, radius, size)),
        (FIBROBLAST, _scatter(rng, size, 21.0, stroma * (0.45 + 0.5 * matrix))),
        (T_CELL, _scatter(rng, size, 8.5, _sigmoid(3 * (immune - 0.7)) * (0.75 * stroma + 0.3 * tumor))),
        (PLASMA_CELL, _scatter(rng, size, 11.0, _sigmoid(4 * (plasma - 0.8)) * 0.85 * stroma)),
    ]
    xy, kind = _without_overlaps(
        np.concatenate([points for _, points in groups]),
        np.concatenate([np.full(len(points), kind) for kind, points in groups]),
    )
    return Tissue(
        tumor=tumor & (gland_depth > 1.1),
        adipose=adipose,
        gland_depth=gland_depth,
        fibres=fibres,
        matrix=matrix,
        nuclei=_shape_nuclei(rng, xy, kind, grade, clone, nucleolus, fibre_angle),
    )


def smooth_field(rng: np.random.Generator, size: int, length_um: float) -> np.ndarray:
    """Gaussian random field with mean 0 and standard deviation 1 that varies over ``length_um``."""
    import numpy as np
    from PIL import Image
    from scipy import ndimage

    coarse = rng.standard_normal((size // FIELD_STEP_UM + 1,) * 2)
    coarse = ndimage.gaussian_filter(coarse, length_um / FIELD_STEP_UM, mode="wrap")
    coarse = (coarse - coarse.mean()) / coarse.std()
    return np.asarray(Image.fromarray(coarse.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    import numpy as np

    return 1 / (1 + np.exp(-x))


def _unit(field: np.ndarray) -> np.ndarray:
    """Spread a standard normal field evenly over 0..1."""
    from scipy.special import ndtr

    return ndtr(field)


def _scatter(rng: np.random.Generator, size: int, spacing: float, probability: np.ndarray) -> np.ndarray:
    """Points on a jittered grid, each kept with the probability of its pixel."""
    import numpy as np

    axis = np.arange(spacing / 2, size, spacing)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    points = np.clip(points + rng.uniform(-0.33, 0.33, points.shape) * spacing, 0, size - 1)
    return points[rng.random(len(points)) < _at(probability, points)]


def _at(field: np.ndarray, xy: np.ndarray) -> np.ndarray:
    column, row = xy.astype(int).T
    return field[row, column]


def _gland_depth(centres: np.ndarray, radius: np.ndarray, size: int) -> np.ndarray:
    import numpy as np

    depth = np.full((size, size), 9.0, dtype=np.float32)
    reach = int(1.5 * radius.max(initial=0))
    for (x, y), r in zip(centres, radius, strict=True):
        rows = slice(max(int(y) - reach, 0), int(y) + reach)
        columns = slice(max(int(x) - reach, 0), int(x) + reach)
        dy, dx = np.ogrid[rows.start : min(rows.stop, size), columns.start : min(columns.stop, size)]
        outline = r * _wobble(np.arctan2(dy - y, dx - x), r)
        depth[rows, columns] = np.minimum(depth[rows, columns], np.hypot(dx - x, dy - y) / outline)
    return depth


def _wobble(angle: np.ndarray, radius: float) -> np.ndarray:
    """How far a gland's outline is from a circle; the radius, being random, sets the phases."""
    import numpy as np

    return 1 + 0.13 * np.sin(2 * angle + 41 * radius) + 0.06 * np.sin(3 * angle + 97 * radius)


def _ring_nuclei(rng: np.random.Generator, centres: np.ndarray, radius: np.ndarray, size: int) -> np.ndarray:
    import numpy as np

    points = [np.empty((0, 2))]
    for centre, r in zip(centres, radius, strict=True):
        n = int(2 * np.pi * NUCLEUS_RING * r / 8.5)
        angle = np.arange(n) * 2 * np.pi / n + rng.uniform(-0.08, 0.08, n)
        distance = NUCLEUS_RING * r * _wobble(angle, r) * rng.uniform(0.94, 1.06, n)
        points.append(centre + distance[:, None] * np.column_stack([np.cos(angle), np.sin(angle)]))
    xy = np.concatenate(points)
    return xy[((xy >= 0) & (xy < size)).all(axis=1)]


def _without_overlaps(xy: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out small immune cells that lie on top of another nucleus."""
    import numpy as np
    from scipy.spatial import cKDTree

    small = kind >= T_CELL
    distance, _ = cKDTree(xy[~small]).query(xy)
    keep = ~small | (distance > 5.5)
    pairs = cKDTree(xy).query_pairs(4.5, output_type="ndarray")
    keep[np.maximum(pairs[:, 0], pairs[:, 1])[small[pairs.max(axis=1)]]] = False
    return xy[keep], kind[keep]


def _fibres(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Wavy bundles of collagen in 0..1 and the direction in which they run."""
    import numpy as np
    from scipy import ndimage

    y, x = np.ogrid[:size, :size]
    turn = rng.uniform(0, np.pi)
    across = x * np.cos(turn) + y * np.sin(turn) + 45 * smooth_field(rng, size, 70) + 5 * smooth_field(rng, size, 18)
    profile = ndimage.gaussian_filter1d(rng.standard_normal(8 * size), 1.3)
    fibres = np.interp(across.ravel() + 3 * size, np.arange(profile.size), profile).reshape(size, size)
    slope_y, slope_x = np.gradient(across)
    return _unit((fibres / profile.std()).astype(np.float32)), np.arctan2(slope_x, -slope_y)


def _shape_nuclei(
    rng: np.random.Generator,
    xy: np.ndarray,
    kind: np.ndarray,
    grade: np.ndarray,
    clone: np.ndarray,
    nucleolus: np.ndarray,
    fibre_angle: np.ndarray,
) -> Nuclei:
    import numpy as np

    grade, clone, nucleolus = (np.where(kind == TUMOR, _at(field, xy), 0.0) for field in (grade, clone, nucleolus))
    radius = np.array([3.4, 3.7, 3.2, 2.7, 2.9])[kind] + 2.7 * grade
    aspect = np.array([1.08, 1.35, 3.4, 1.05, 1.15])[kind] + 0.85 * clone
    radius = radius * np.exp(rng.normal(0, 0.08 + 0.1 * grade))
    aspect = np.maximum(aspect * np.exp(rng.normal(0, 0.06, len(xy))), 1.0)
    angle = rng.uniform(0, np.pi, len(xy))
    along = kind == FIBROBLAST
    angle[along] = _at(fibre_angle, xy[along]) + rng.normal(0, 0.15, along.sum())
    return Nuclei(
        xy=xy,
        type=kind,
        long=radius * np.sqrt(aspect),
        short=radius / np.sqrt(aspect),
        angle=angle,
        grade=grade,
        clone=clone,
        nucleolus=nucleolus,
    )
