"""Slides from files, as SpatialData, and back to disk."""

from __future__ import annotations

from nh2st._slides._read_slide import read_slide
from nh2st._slides._zarr_store import check_target, write_store

__all__ = ["check_target", "read_slide", "write_store"]
