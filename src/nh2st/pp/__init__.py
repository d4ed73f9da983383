"""Preparation: genes, normalised targets, smoothing, graphs, the scale of the image, tiles on tissue, embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nh2st.pp._estimate_mpp import estimate_mpp
from nh2st.pp._normalize import normalize
from nh2st.pp._select_genes import select_genes
from nh2st.pp._smooth import smooth
from nh2st.pp._spatial_neighbors import spatial_neighbors
from nh2st.pp._tissue_tiles import tissue_tiles

if TYPE_CHECKING:
    from nh2st.pp._embed import embed

__all__ = ["embed", "estimate_mpp", "normalize", "select_genes", "smooth", "spatial_neighbors", "tissue_tiles"]


def __getattr__(name: str) -> Any:
    # Embeddings need torch, which takes seconds to import; the rest of this module does without.
    if name == "embed":
        from nh2st.pp._embed import embed

        return embed
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
