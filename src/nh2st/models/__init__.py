"""Trained models: what they hold, and the files that they are saved in."""

from __future__ import annotations

from nh2st.models._load import load
from nh2st.models._model import Model

__all__ = ["Model", "load"]
