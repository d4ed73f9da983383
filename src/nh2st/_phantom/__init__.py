"""Made-up stained tissue."""

from __future__ import annotations

from nh2st._phantom._growth import CELL_TYPES, TUMOR, Tissue, grow_tissue
from nh2st._phantom._staining import draw_stain, stain_tissue

__all__ = ["CELL_TYPES", "TUMOR", "Tissue", "draw_stain", "grow_tissue", "stain_tissue"]
