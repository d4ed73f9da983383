"""The tissue found on slides, and the tiles laid on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from nh2st._docs import documented
from nh2st._keys import TILES_TABLE
from nh2st._sections import ImageData, Section, Selection, affine_to, apply_affine, find_sections, objects_of
from nh2st._tissue import laid_tiles, overview
from nh2st.pl._canvas import Canvas, draw_scale_bar, fit_axes, subplots
from nh2st.pl._figure import BLUE, DARK, check_path, finish, house_style

_PANEL_INCHES = 4.0
_MOST_ASPECT = 2.0
_IMAGE_PX = 1200
_MANY_TILES = 5000


@dataclass(frozen=True)
class _Slide(Canvas):
    """Tiles of a section, shown with the whole image."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        assert self.image is not None
        height, width = self.image.shape
        return 0, width, 0, height


@house_style()
@documented
def tissue(
    data: ImageData,
    *,
    sections: Iterable[str] | None = None,
    tiles: bool = True,
    save: str | Path | None = None,
    show: bool | None = None,
) -> np.ndarray | None:
    """Draw whole slides with the outline of their tissue and the tiles laid on it.

    Parameters
    ----------
    data
        SpatialData after :func:`nh2st.pp.tissue_tiles`, or a list or dictionary of them.
    sections
        Regions of the tiles to draw, such as ``nh2st_tiles``; all where absent.
    tiles
        Draw the tiles too.
    %(figure)s

    Returns
    -------
    Array of axes, one an image, or `None` where the figure was shown.

    Raises
    ------
    KeyError
        If no tiles were laid.
    %(no_folder)s

    Examples
    --------
    >>> import nh2st as nh
    >>> slide = nh.datasets.synthetic(1, spots_per_side=6)
    >>> nh.pp.tissue_tiles(slide)
    >>> nh.pl.tissue(slide, save="tissue.png")  # doctest: +SKIP
    """
    path = check_path(save)
    images = _images(data)
    found = find_sections(data, Selection(sections, table_key=TILES_TABLE, image_key=images))
    slides = [_slide(section) for section in found]
    axes = subplots(slides, _PANEL_INCHES, most_aspect=_MOST_ASPECT)
    for ax, slide, section in zip(axes, slides, found, strict=True):
        _draw(ax, slide, section, tiles=tiles)
    return finish(axes, path, show)


def _images(data: ImageData) -> dict[str, str]:
    """From the name of each section to its image."""
    images: dict[str, str] = {}
    for key, sdata in objects_of(data, images=True):
        laid = laid_tiles(sdata)
        if not laid:
            msg = "There are no tiles in the SpatialData. Call `nh.pp.tissue_tiles(sdata)` first."
            raise KeyError(msg)
        images |= {region if key is None else f"{key}.{region}": tiles["image"] for region, tiles in laid.items()}
    return images


def _slide(section: Section) -> _Slide:
    laid = laid_tiles(section.sdata)[section.region]
    mpp = None if isinstance(laid["mpp"], str) else float(laid["mpp"])
    radius = section.pixel_radius
    return _Slide(section, section.pixels, radius, 2 * float(radius.max()), section.image, mpp)


def _draw(ax: Axes, slide: _Slide, section: Section, *, tiles: bool) -> None:
    left, right, top, bottom = slide.box
    pixels = overview(section.image, max(1.0, max(section.image.shape) / _IMAGE_PX))
    ax.imshow(pixels, extent=(left, right, bottom, top), interpolation="antialiased", zorder=0)
    fit_axes(ax, slide)
    if tiles:
        _draw_tiles(ax, slide)
    _draw_outline(ax, section)
    draw_scale_bar(ax, slide)
    size = f"{slide.pitch:.0f} px" if slide.mpp is None else f"{slide.pitch * slide.mpp:.4g} µm"
    ax.set_title(f"{section.image_key}: {len(slide.centers)} tiles of {size}")


def _draw_tiles(ax: Axes, slide: _Slide) -> None:
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    squares = slide.centers[:, None] + slide.radius[:, None, None] * corners
    many = len(squares) > _MANY_TILES
    width = 0 if many else 0.3
    ax.add_collection(
        PolyCollection(
            list(squares),
            facecolor=(BLUE, 0.1),
            edgecolor=(BLUE, 0.5),
            lw=width,
            rasterized=many,
            label="tiles",
            zorder=1,
        ),
        autolim=False,
    )


def _draw_outline(ax: Axes, section: Section) -> None:
    element = section.sdata.shapes[laid_tiles(section.sdata)[section.region]["outline"]]
    to_pixels = np.linalg.inv(section.image_affine) @ affine_to(element, section.coordinate_system)
    for polygon in element.geometry:
        rings = [polygon.exterior, *polygon.interiors]
        outlines = [Outline(apply_affine(to_pixels, shapely.get_coordinates(ring)), closed=True) for ring in rings]
        path = Outline.make_compound_path(*outlines)
        ax.add_patch(PathPatch(path, facecolor="none", edgecolor=DARK, lw=1.0, label="tissue", zorder=2))
