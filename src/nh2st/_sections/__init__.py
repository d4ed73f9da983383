"""From SpatialData or AnnData to sections: one image, its spots and the table rows that annotate them."""

from __future__ import annotations

from nh2st._sections._fingerprint import fingerprint
from nh2st._sections._geometry import affine_to, apply_affine, length_scale, systems_of
from nh2st._sections._image_scale import NATIVE, Mpp, resolve_mpp
from nh2st._sections._objects import Data, ImageData, objects_of
from nh2st._sections._records import records_of, scales_of
from nh2st._sections._section import Section, find_sections, pyramid_of
from nh2st._sections._selection import ImageKey, Selection
from nh2st._sections._spot_windows import patch_windows, windows_of
from nh2st._sections._spots import Spots, find_spots, tables_of
from nh2st._sections._tables import region_column

__all__ = [
    "NATIVE",
    "Data",
    "ImageData",
    "ImageKey",
    "Mpp",
    "Section",
    "Selection",
    "Spots",
    "affine_to",
    "apply_affine",
    "find_sections",
    "find_spots",
    "fingerprint",
    "length_scale",
    "objects_of",
    "patch_windows",
    "pyramid_of",
    "records_of",
    "region_column",
    "resolve_mpp",
    "scales_of",
    "systems_of",
    "tables_of",
    "windows_of",
]
