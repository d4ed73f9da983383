"""Train on sections, predict others, and measure how well it went."""

from __future__ import annotations

from nh2st.tl._compare import compare
from nh2st.tl._cross_validate import cross_validate
from nh2st.tl._evaluate import evaluate
from nh2st.tl._predict import predict
from nh2st.tl._train import train

__all__ = ["compare", "cross_validate", "evaluate", "predict", "train"]
