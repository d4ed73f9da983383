"""Maps of measured and predicted expression, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.ticker import MaxNLocator

from nh2st._docs import documented
from nh2st._keys import PREDICTION
from nh2st._sections import Data, ImageKey, Selection, tables_of
from nh2st.pl._canvas import Canvas, draw_colorbar, draw_ground, draw_scale_bar, draw_spots, find_canvases
from nh2st.pl._figure import GREY, check_path, finish, house_style
from nh2st.pl._maps import GeneMaps, check_genes, gene_maps

_PANEL_INCHES = 2.8


@house_style()
@documented
def spatial_genes(
    data: Data,
    genes: str | Sequence[str],
    *,
    key: str = PREDICTION,
    smoothed: bool = False,
    image: bool = True,
    cmap: str | Colormap = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    layer: str | None = None,
    table_key: str | None = None,
    image_key: ImageKey = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> np.ndarray | None:
    """Map measured and predicted expression side by side over the H&E.

    A row for each section and gene. Both maps of a row share one colour scale, from the 1st to the 99th percentile of
    their values together. The Pearson correlation (PCC) over the spots of the section is that of
    :func:`nh2st.tl.evaluate`. Spots are drawn with their radius true to scale, or touching where it is unknown. Where
    there are no counts, predictions are drawn alone.

    Parameters
    ----------
    data
        SpatialData with predictions, or a list or dictionary of them; also AnnData with ``image=False``.
    genes
        Genes of the model's panel.
    %(key)s
    smoothed
        Average the measured values over neighbouring spots before they are drawn and correlated.
    image
        Draw the H&E beneath the spots.
    cmap
        Colour map of matplotlib.
    vmin, vmax
        Ends of the colour scales of all rows, in the unit of the predictions.
    sections
        Sections to draw; all that were predicted where absent.
    %(spots)s
    %(layer)s
    %(elements)s
    %(figure)s

    Returns
    -------
    Array (rows, maps) of axes, or `None` where the figure was shown.

    Raises
    ------
    KeyError
        If there are no predictions of this name, or a gene was not predicted; close names are given.
    ValueError
        If a section that is asked for was not predicted, or counts are not valid.
    %(no_folder)s

    Examples
    --------
    >>> import nh2st as nh
    >>> nh.pl.spatial_genes(sdata, ["ERBB2", "FASN"], save="maps.png")  # doctest: +SKIP
    """
    path = check_path(save)
    genes = [genes] if isinstance(genes, str) else list(genes)
    chosen = Selection(sections, spots, table_key, image_key, shapes_key, coordinate_system)
    canvases = find_canvases(data, chosen, image=image)
    for table in tables_of(canvas.spots for canvas in canvases):
        check_genes(table, key, genes)
    maps = [drawn for canvas in canvases for drawn in gene_maps(canvas, genes, key, layer, smoothed=smoothed)]
    _check_predicted(canvases, maps, key, named=sections is not None)
    axes = _subplots(maps)
    for row, drawn in zip(axes, maps, strict=True):
        _draw_row(row, drawn, drawn.norm(vmin, vmax), cmap, smoothed=smoothed)
    return finish(axes, path, show)


def _check_predicted(canvases: Sequence[Canvas], maps: Sequence[GeneMaps], key: str, *, named: bool) -> None:
    drawn = {id(gene_map.canvas) for gene_map in maps}
    left_out = [canvas.spots.name for canvas in canvases if id(canvas) not in drawn]
    if left_out and (named or not maps):
        msg = (
            f"No spot of section {', '.join(map(repr, left_out))} was predicted under {key!r}. Call "
            "`nh.tl.predict(sdata, model)` for it first."
        )
        raise ValueError(msg)


def _subplots(maps: Sequence[GeneMaps]) -> np.ndarray:
    columns = 1 + any(gene_map.measured is not None for gene_map in maps)
    aspects = [gene_map.canvas.aspect for gene_map in maps]
    size = (_PANEL_INCHES * columns + 1.1, sum(_PANEL_INCHES * aspect + 0.5 for aspect in aspects))
    ratios = {"height_ratios": aspects}
    return plt.subplots(len(maps), columns, figsize=size, layout="constrained", squeeze=False, gridspec_kw=ratios)[1]


def _draw_row(row: np.ndarray, maps: GeneMaps, norm: Normalize, cmap: str | Colormap, *, smoothed: bool) -> None:
    canvas = maps.canvas
    centers, radius = canvas.centers[maps.positions], canvas.radius[maps.positions]
    for ax in row:
        draw_ground(ax, canvas)
    draw_scale_bar(row[0], canvas)
    row[0].set_ylabel(canvas.spots.name)
    circles = draw_spots(row[-1], centers, radius, maps.predicted, norm=norm, cmap=cmap)
    if maps.measured is not None:
        draw_spots(row[0], centers, radius, maps.measured, norm=norm, cmap=cmap)
        row[0].set_title(f"{maps.gene}, measured{' (smoothed)' if smoothed else ''}")
        score = "undefined" if np.isnan(maps.pearson) else f"{maps.pearson:.2f}"
        row[-1].set_title(f"{maps.gene}, predicted (PCC {score})")
        shown = np.concatenate([maps.measured, maps.predicted])
    else:
        row[-1].set_title(f"{maps.gene}, predicted")
        shown = maps.predicted
        if len(row) > 1:
            row[0].set_title(f"{maps.gene}, not measured", color=GREY)
    _draw_scale(row[-1], circles, shown, maps.unit)


def _draw_scale(ax: Axes, circles: EllipseCollection, shown: np.ndarray, unit: str) -> None:
    low, high = circles.get_clim()
    beyond = (shown.min() < low, shown.max() > high)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    draw_colorbar(ax, circles, unit.replace(", ", "\n", 1), MaxNLocator(5, steps=[1, 2, 5, 10]), extend)
