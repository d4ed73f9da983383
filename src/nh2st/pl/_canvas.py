"""What maps are drawn on: the spots of a section, true to scale, over its pale H&E."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.spatial import cKDTree

from nh2st._patches import Pyramid
from nh2st._sections import NATIVE, Data, Section, Selection, Spots, find_sections, find_spots, resolve_mpp
from nh2st.pl._figure import DARK

_BACKGROUND_PX, _MANY_SPOTS = 1000, 5000
_MOST_COLUMNS = 3
_LUMINANCE = (0.299, 0.587, 0.114)
_SATURATION, _STRENGTH = 0.4, 0.5


@dataclass(frozen=True)
class Canvas:
    """Spots of a section in scale-0 pixels of its image; without an image, in their coordinate system."""

    spots: Spots
    centers: np.ndarray
    radius: np.ndarray
    pitch: float
    image: Pyramid | None = None
    mpp: float | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of what is shown: the spots and a margin."""
        margin = self.radius.max() + 0.6 * self.pitch
        (left, top), (right, bottom) = self.centers.min(axis=0) - margin, self.centers.max(axis=0) + margin
        return left, right, top, bottom

    @property
    def aspect(self) -> float:
        """Height of the box divided by its width."""
        left, right, top, bottom = self.box
        return (bottom - top) / (right - left)


def find_canvases(data: Data, selection: Selection, *, image: bool) -> list[Canvas]:
    """Canvases of the sections, with their images or without."""
    if image:
        return [_over_image(section) for section in find_sections(data, selection)]
    return [_canvas(section, section.xy, section.radius) for section in find_spots(data, selection)]


def _over_image(section: Section) -> Canvas:
    return _canvas(section, section.pixels, section.pixel_radius, image=section.image, mpp=_known_mpp(section))


def _known_mpp(section: Section) -> float | None:
    try:
        mpp = resolve_mpp(section)
    except ValueError:
        return None
    return None if mpp == NATIVE else float(mpp)


def _canvas(spots: Spots, centers: np.ndarray, radius: np.ndarray, **image: Any) -> Canvas:
    pitch = float(np.median(cKDTree(centers).query(centers, k=2)[0][:, 1])) if len(centers) > 1 else 0.0
    # A lone spot, or spots that all share a place, have no pitch.
    unknown = 0.5 * pitch or 1.0
    return Canvas(spots, centers, np.where(np.isfinite(radius), radius, unknown), pitch, **image)


def subplots(
    canvases: Sequence[Canvas], inches: float, *, beside: float = 0, most_aspect: float = np.inf
) -> np.ndarray:
    """Axes of the canvases, in rows of panels this wide; `beside` inches of the figure are left for a colour bar."""
    columns = min(_MOST_COLUMNS, len(canvases))
    rows = -(-len(canvases) // columns)
    aspect = min(most_aspect, max(canvas.aspect for canvas in canvases))
    size = (inches * columns + beside, rows * (inches * aspect + 0.5))
    axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)[1].ravel()
    for ax in axes[len(canvases) :]:
        ax.remove()
    return axes[: len(canvases)]


def draw_ground(ax: Axes, canvas: Canvas) -> None:
    """Draw the H&E beneath the spots, and fit the axes to the spots."""
    if canvas.image is not None:
        _draw_image(ax, canvas.image, canvas.box)
    fit_axes(ax, canvas)


def fit_axes(ax: Axes, canvas: Canvas) -> None:
    """Show what lies in the canvas alone, true to scale."""
    left, right, top, bottom = canvas.box
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_anchor("N")


def _draw_image(ax: Axes, image: Pyramid, box: tuple[float, float, float, float]) -> None:
    left, right, top, bottom = box
    level = image.level_for(max(right - left, bottom - top) / _BACKGROUND_PX)
    y = _window(top / level.scale_y, bottom / level.scale_y, level.array.shape[1])
    x = _window(left / level.scale_x, right / level.scale_x, level.array.shape[2])
    pixels = image.read(level, y, x)
    if pixels.size == 0:
        return
    extent = (x.start * level.scale_x, x.stop * level.scale_x, y.stop * level.scale_y, y.start * level.scale_y)
    ax.imshow(_pale(_small(pixels)), extent=extent, interpolation="antialiased", zorder=0)


def _window(first: float, last: float, size: int) -> slice:
    """Whole pixels between two positions; a fine image is thinned while it is read, so that memory stays small."""
    start, stop = np.clip([np.floor(first), np.ceil(last)], 0, size).astype(int)
    return slice(int(start), int(stop), max(1, int(stop - start) // (2 * _BACKGROUND_PX)))


def _small(pixels: np.ndarray) -> np.ndarray:
    small = Image.fromarray(pixels)
    small.thumbnail((_BACKGROUND_PX, _BACKGROUND_PX), Image.Resampling.BOX)
    return np.asarray(small)


def _pale(pixels: np.ndarray) -> np.ndarray:
    """Take colour and contrast out of the H&E, so that the colours of the spots are read first."""
    grey = pixels @ np.array(_LUMINANCE)
    muted = _SATURATION * pixels + (1 - _SATURATION) * grey[..., None]
    return (255 - _STRENGTH * (255 - muted)).astype(np.uint8)


def draw_scale_bar(ax: Axes, canvas: Canvas) -> None:
    """Draw a scale bar below the map, where the scale is known."""
    if canvas.mpp is None:
        return
    left, right, _, _ = canvas.box
    length = _round_length(0.25 * (right - left) * canvas.mpp)
    label = f"{length:g} µm" if length < 1000 else f"{length / 1000:g} mm"
    end = left + length / canvas.mpp
    below = ax.get_xaxis_transform()
    ax.plot([left, end], [-0.035, -0.035], color=DARK, lw=2, solid_capstyle="butt", transform=below, clip_on=False)
    space = 0.02 * (right - left)
    ax.text(end + space, -0.035, label, transform=below, ha="left", va="center", fontsize=8, color=DARK)


def _round_length(longest: float) -> float:
    """Largest of 1, 2, 5, 10, 20, ... that is not longer."""
    power = 10 ** np.floor(np.log10(longest))
    return float(max(step * power for step in (1, 2, 5) if step * power <= longest))


def draw_colorbar(
    ax: Axes, circles: EllipseCollection, label: str, ticks: MaxNLocator, extend: str = "neither"
) -> None:
    """Draw the colour scale of the spots right of the map."""
    # An inset keeps to the height of the map, which the equal aspect makes smaller than its place in the grid.
    bar = ax.figure.colorbar(circles, cax=ax.inset_axes((1.04, 0, 0.04, 1)), extend=extend)
    bar.set_label(label, fontsize=8)
    bar.locator = ticks
    bar.outline.set_visible(False)


def draw_spots(
    ax: Axes, centers: np.ndarray, radius: np.ndarray, values: np.ndarray, **colors: Any
) -> EllipseCollection:
    """Draw spots as circles of their radius in data units, coloured by the values."""
    circles = EllipseCollection(
        2 * radius,
        2 * radius,
        np.zeros(len(radius)),
        units="xy",
        offsets=centers,
        offset_transform=ax.transData,
        array=values,
        linewidth=0,
        rasterized=len(radius) > _MANY_SPOTS,
        zorder=2,
        **colors,
    )
    ax.add_collection(circles, autolim=False)
    return circles
