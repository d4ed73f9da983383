"""Pixel windows of a physical size, cut from a lazily read image."""

from __future__ import annotations

from nh2st._patches._pyramid import Level, Pyramid
from nh2st._patches._read import iter_patches, read_patches
from nh2st._patches._windows import Windows, plan_windows

__all__ = ["Level", "Pyramid", "Windows", "iter_patches", "plan_windows", "read_patches"]
