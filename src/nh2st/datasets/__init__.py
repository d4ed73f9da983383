"""Real and synthetic SpatialData to try things on."""

from __future__ import annotations

from nh2st.datasets._spatial_transcriptomics import her2st, mouse_olfactory_bulb
from nh2st.datasets._synthetic import synthetic

__all__ = ["her2st", "mouse_olfactory_bulb", "synthetic"]
