"""Tissue of slides without spots, and the tiles that are laid over it."""

from __future__ import annotations

from nh2st._tissue._laying import MIN_TISSUE, lay_tiles
from nh2st._tissue._mask import tissue_mask
from nh2st._tissue._overview import overview
from nh2st._tissue._tiles import laid_tiles, with_genes

__all__ = ["MIN_TISSUE", "laid_tiles", "lay_tiles", "overview", "tissue_mask", "with_genes"]
