"""From SpatialData or AnnData to sections: one image, its spots and the table rows that annotate them."""

from __future__ import annotations

from nh2st._sections._data import Data, ImageData, objects_of
from nh2st._sections._section import Section, find_sections
from nh2st._sections._spots import Spots, find_spots, tables_of

__all__ = ["Data", "ImageData", "Section", "Spots", "find_sections", "find_spots", "objects_of", "tables_of"]
