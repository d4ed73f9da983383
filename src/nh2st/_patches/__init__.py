"""Pixel windows of a physical size, cut from a lazily read image."""

from __future__ import annotations

from nh2st._patches._batches import iter_batches
from nh2st._patches._plan import reading_order
from nh2st._patches._pyramid import Level, Pyramid, make_pyramid
from nh2st._patches._stack import patches_key, read_patches, stack_patches
from nh2st._patches._windows import Windows, plan_windows

__all__ = [
    "Level",
    "Pyramid",
    "Windows",
    "iter_batches",
    "make_pyramid",
    "patches_key",
    "plan_windows",
    "read_patches",
    "reading_order",
    "stack_patches",
]
