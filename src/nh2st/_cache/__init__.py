"""Arrays kept on disk between runs: patches and embeddings, which take long to compute again."""

from __future__ import annotations

from nh2st._cache._arrays import Key, Rows, cached, find_cached

__all__ = ["Key", "Rows", "cached", "find_cached"]
