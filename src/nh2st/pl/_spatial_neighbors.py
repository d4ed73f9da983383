"""The spatial graph over the tissue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.ticker import MaxNLocator
from scipy.sparse import csr_matrix

from nh2st._docs import documented
from nh2st._keys import CONNECTIVITIES_SUFFIX, SPATIAL_KEY
from nh2st._sections import Data, ImageKey, Selection, tables_of
from nh2st.pl._canvas import Canvas, draw_colorbar, draw_ground, draw_scale_bar, draw_spots, find_canvases, subplots
from nh2st.pl._figure import DARK, check_path, finish, house_style

_PANEL_INCHES = 3.2
_MOST_LEVELS = 20
_NODE_SHARE, _EDGE_SHARE = 0.3, 0.07
"""Largest radius of a node, and width of an edge, as shares of the pitch: edges stay visible between spots that touch,
and do not cover the tissue where spots are many."""


@dataclass(frozen=True)
class _DrawnGraph:
    """Neighbours of the spots of one section: edges (n_edges, 2) as positions in the section, and their numbers."""

    canvas: Canvas
    edges: np.ndarray
    degree: np.ndarray


@house_style()
@documented
def spatial_neighbors(
    data: Data,
    *,
    key: str = SPATIAL_KEY,
    cmap: str | Colormap = "viridis",
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    image: bool = True,
    table_key: str | None = None,
    image_key: ImageKey = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> np.ndarray | None:
    """Draw the spatial graph over the H&E, each spot coloured by the number of its neighbours.

    Parameters
    ----------
    data
        SpatialData after :func:`nh2st.pp.spatial_neighbors`, or a list or dictionary of them; also AnnData with
        ``image=False``.
    key
        Prefix of the graph's keys (``key_added`` of :func:`nh2st.pp.spatial_neighbors`).
    cmap
        Colour map of matplotlib.
    %(sections)s
    %(spots)s
    image
        Draw the H&E beneath the graph.
    %(elements)s
    %(figure)s

    Returns
    -------
    Array of axes, one a section, or `None` where the figure was shown.

    Raises
    ------
    KeyError
        If there is no such graph.
    %(no_folder)s

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic(2, spots_per_side=4)
    >>> nh.pp.spatial_neighbors(sdata)
    >>> nh.pl.spatial_neighbors(sdata, save="graph.png")  # doctest: +SKIP
    """
    path = check_path(save)
    chosen = Selection(sections, spots, table_key, image_key, shapes_key, coordinate_system)
    canvases = find_canvases(data, chosen, image=image)
    for table in tables_of(canvas.spots for canvas in canvases):
        _check_graph(table, key)
    graphs = [_graph(canvas, key) for canvas in canvases]
    axes = subplots(canvases, _PANEL_INCHES, beside=0.8)
    degrees = np.concatenate([graph.degree for graph in graphs])
    norm = Normalize(degrees.min() - 0.5, degrees.max() + 0.5)
    levels = min(int(np.ptp(degrees)) + 1, _MOST_LEVELS)
    for ax, graph in zip(axes, graphs, strict=True):
        nodes = _draw(ax, graph, norm, matplotlib.colormaps.get_cmap(cmap).resampled(levels))
    draw_colorbar(axes[-1], nodes, "neighbours of a spot", MaxNLocator(6, integer=True, min_n_ticks=1))
    return finish(axes, path, show)


def _check_graph(table: AnnData, key: str) -> None:
    name = f"{key}_{CONNECTIVITIES_SUFFIX}"
    if name not in table.obsp:
        there = ", ".join(map(repr, table.obsp)) or "none"
        msg = f"There is no graph obsp[{name!r}] (there are: {there}). Call `nh.pp.spatial_neighbors(sdata)` first."
        raise KeyError(msg)


def _graph(canvas: Canvas, key: str) -> _DrawnGraph:
    rows = canvas.spots.rows
    matrix = csr_matrix(canvas.spots.adata.obsp[f"{key}_{CONNECTIVITIES_SUFFIX}"])[rows][:, rows]
    matrix.eliminate_zeros()
    source, target = matrix.nonzero()
    edges = np.unique(np.sort(np.column_stack([source, target]), axis=1), axis=0)
    return _DrawnGraph(canvas, edges, np.diff(matrix.indptr))


def _draw(ax: Axes, graph: _DrawnGraph, norm: Normalize, cmap: Colormap) -> EllipseCollection:
    canvas = graph.canvas
    draw_ground(ax, canvas)
    draw_scale_bar(ax, canvas)
    left, right, _, _ = canvas.box
    width = np.clip(_EDGE_SHARE * canvas.pitch / (right - left) * _PANEL_INCHES * 72, 0.15, 0.8)
    lines = LineCollection(canvas.centers[graph.edges], colors=DARK, linewidths=width, zorder=1)
    ax.add_collection(lines, autolim=False)
    radius = np.minimum(canvas.radius, _NODE_SHARE * canvas.pitch or np.inf)
    ax.set_title(f"{canvas.spots.name}: {len(graph.degree)} spots, {len(graph.edges)} edges")
    return draw_spots(ax, canvas.centers, radius, graph.degree, norm=norm, cmap=cmap)
