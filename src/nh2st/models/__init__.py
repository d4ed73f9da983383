"""Trained models: what they hold, the files that they are saved in, and those that can be downloaded."""

from __future__ import annotations

from nh2st._estimators import Baselines
from nh2st._expression import Target
from nh2st.models._list_encoders import encoders
from nh2st.models._load import load
from nh2st.models._model import Model
from nh2st.models._registry import available
from nh2st.models._released import from_released

__all__ = ["Baselines", "Model", "Target", "available", "encoders", "from_released", "load"]
