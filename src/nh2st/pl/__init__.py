"""Figures of what is stored in the data; nothing is predicted here."""

from __future__ import annotations

from nh2st.pl._gene_correlation import gene_correlation
from nh2st.pl._patches import patches
from nh2st.pl._spatial_genes import spatial_genes
from nh2st.pl._spatial_neighbors import spatial_neighbors
from nh2st.pl._tissue import tissue
from nh2st.pl._training_history import training_history

__all__ = ["gene_correlation", "patches", "spatial_genes", "spatial_neighbors", "tissue", "training_history"]
