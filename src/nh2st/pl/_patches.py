"""Patches as the network sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from nh2st._docs import documented
from nh2st._keys import PATCH_PX, PATCH_UM
from nh2st._patches import read_patches
from nh2st._sections import ImageData, ImageKey, Mpp, Section, Selection, find_sections, patch_windows, resolve_mpp
from nh2st.pl._figure import DARK, check_path, finish, house_style

_PANEL_INCHES, _MOST_COLUMNS = 1.35, 8


@dataclass(frozen=True)
class _Sample:
    """Some patches of a section, the names of their spots, and the radii of these in pixels of the patch."""

    section: str
    images: np.ndarray
    names: Sequence[str]
    radius: np.ndarray


@house_style()
@documented
def patches(
    data: ImageData,
    *,
    n: int = 16,
    patch_um: float = PATCH_UM,
    patch_px: int = PATCH_PX,
    outline: bool = True,
    seed: int = 0,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    mpp: Mpp = None,
    table_key: str | None = None,
    image_key: ImageKey = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> np.ndarray | None:
    """Show patches as the network sees them: cut around random spots, at a physical size, white beyond the image.

    Parameters
    ----------
    data
        A SpatialData, or a list or dictionary of them, with images and spots.
    n
        Number of patches, shared out over the sections.
    patch_um
        Side of the patches in micrometres.
    patch_px
        Side of the patches in pixels.
    outline
        Draw the outline of the spot, where its radius is known.
    seed
        Of the choice of spots.
    %(sections)s
    %(spots)s
    %(mpp)s
    %(elements)s
    %(figure)s

    Returns
    -------
    Array of axes, one a patch, section after section; `None` where the figure was shown.

    Raises
    ------
    ValueError
        If `n` is below 1, the scale of an image is unknown, or spots lie outside the image.
    %(no_folder)s

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic(2, spots_per_side=4)
    >>> nh.pl.patches(sdata, n=8, save="patches.png")  # doctest: +SKIP
    """
    path = check_path(save)
    if n < 1:
        msg = f"n must be at least 1, not {n}."
        raise ValueError(msg)
    found = find_sections(data, Selection(sections, spots, table_key, image_key, shapes_key, coordinate_system))
    rng = np.random.default_rng(seed)
    shares = [len(part) for part in np.array_split(np.arange(n), len(found))]
    samples = [
        _sample(section, share, patch_um, patch_px, mpp, rng)
        for section, share in zip(found, shares, strict=True)
        if share
    ]
    size = f"{patch_px} px" if mpp == "native" else f"{patch_um:g} µm in {patch_px} px"
    return finish(_draw(samples, f"Patches of {size}", outline=outline), path, show)


def _sample(section: Section, n: int, patch_um: float, patch_px: int, mpp: Mpp, rng: np.random.Generator) -> _Sample:
    windows = patch_windows(section, patch_um=patch_um, patch_px=patch_px, mpp=mpp)
    count = len(section.rows)
    chosen = np.sort(rng.choice(count, min(n, count), replace=False))
    images = read_patches(section.image, replace(windows, start=windows.start[chosen]))
    resolved = resolve_mpp(section, mpp)
    zoom = 1.0 if isinstance(resolved, str) else patch_px * resolved / patch_um
    names = section.adata.obs_names[section.rows[chosen]]
    return _Sample(section.name, images, list(names), zoom * section.pixel_radius[chosen])


def _draw(samples: Sequence[_Sample], title: str, *, outline: bool) -> np.ndarray:
    """One block of rows a section."""
    largest = max(len(sample.names) for sample in samples)
    columns = min(_MOST_COLUMNS, largest if len(samples) > 1 else int(np.ceil(np.sqrt(largest))))
    rows = [-(-len(sample.names) // columns) for sample in samples]
    size = (_PANEL_INCHES * columns + 0.3, (_PANEL_INCHES + 0.2) * sum(rows) + 0.3)
    figure, grid = plt.subplots(sum(rows), columns, figsize=size, layout="constrained", squeeze=False)
    figure.suptitle(title, fontsize=9)
    drawn: list[Axes] = []
    for sample, first in zip(samples, np.cumsum([0, *rows]), strict=False):
        block = grid[first : first + rows[samples.index(sample)]].ravel()
        block[0].set_ylabel(sample.section)
        for number, ax in enumerate(block[: len(sample.names)]):
            _draw_patch(ax, sample, number, outline=outline)
        for ax in block[len(sample.names) :]:
            ax.remove()
        drawn.extend(block[: len(sample.names)])
    return np.array(drawn, dtype=object)


def _draw_patch(ax: Axes, sample: _Sample, number: int, *, outline: bool) -> None:
    side = sample.images.shape[1]
    ax.imshow(sample.images[number], extent=(0, side, side, 0), interpolation="antialiased")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(sample.names[number], fontsize=7, loc="center", pad=2)
    radius = sample.radius[number]
    if outline and np.isfinite(radius):
        ax.add_patch(Circle((side / 2, side / 2), radius, fill=False, edgecolor=DARK, lw=0.8))
