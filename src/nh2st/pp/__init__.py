"""Preparation: genes, normalised targets, smoothing, spatial graphs and the scale of the image."""

from __future__ import annotations

from nh2st.pp._genes import select_genes
from nh2st.pp._graph import spatial_neighbors
from nh2st.pp._normalize import normalize
from nh2st.pp._scale import estimate_mpp
from nh2st.pp._smooth import smooth

__all__ = ["estimate_mpp", "normalize", "select_genes", "smooth", "spatial_neighbors"]
