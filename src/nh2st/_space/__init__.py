"""Where spots lie: arrays, neighbourhoods, graphs, and what they tell of an image's scale. Plain arrays alone."""

from __future__ import annotations

from nh2st._space._array_mpp import array_mpp
from nh2st._space._edges import Edges, connectivities
from nh2st._space._graph import CoordType, EdgeRule, default_graph, edge_rule, edges_of
from nh2st._space._grid import SpotGrid
from nh2st._space._lattice import GridKind, Lattice
from nh2st._space._neighborhood import averaging, neighborhood, smoothing_window

__all__ = [
    "CoordType",
    "EdgeRule",
    "Edges",
    "GridKind",
    "Lattice",
    "SpotGrid",
    "array_mpp",
    "averaging",
    "connectivities",
    "default_graph",
    "edge_rule",
    "edges_of",
    "neighborhood",
    "smoothing_window",
]
