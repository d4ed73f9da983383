from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

VARIANTS = ("paper", "context")
NEIGHBORS = ("attention", "mean", "none")
NORMALIZE = ("center", "standardize", "none")
LIKELIHOODS = ("mse", "poisson", "negative_binomial")
ORIENTATIONS = (1, 8)

_CONTEXT = {
    "map_px": 1,
    "width": 256,
    "heads": 4,
    "dropout": 0.6,
    "negative_scale": 1.0,
    "query_weight": 0.0,
    "neighbor_weight": 0.0,
    "patch_scales": (1.0, 2.0),
    "members": 5,
}
"""What the context network has in place of the published settings."""


CONTEXT_ONLY = (
    "patch_scales",
    "orientations",
    "normalize",
    "components",
    "neighbors",
    "input_dropout",
    "members",
    "likelihood",
)
_CHOICES: dict[str, tuple[str | int, ...]] = {
    "neighbors": NEIGHBORS,
    "normalize": NORMALIZE,
    "likelihood": LIKELIHOODS,
    "orientations": ORIENTATIONS,
}


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that determines the shape and the losses of a network, in plain JSON types.

    The defaults are the settings of NH2ST (MICCAI 2025, arXiv:2506.23827), with another encoder;
    :meth:`for_variant` gives those of the context network.

    Raises
    ------
    ValueError
        If a value cannot make a network; the message names the field.

    Examples
    --------
    >>> from nh2st.nn import NetworkConfig
    >>> config = NetworkConfig(n_genes=250, encoder="resnet18")
    >>> NetworkConfig.from_dict(config.to_dict()) == config
    True
    """

    n_genes: int
    """Number of genes predicted, G."""
    variant: str = "paper"
    """Which network: ``"paper"`` is the released one, ``"context"`` predicts from the neighbourhood too."""
    encoder: str = "tf_efficientnet_lite0"
    """Name of the image encoder in timm."""
    patch_px: int = 224
    """Side of the square patches in pixels."""
    map_px: int | None = None
    """Side to which the encoder's feature map is averaged; 1 pools it. `None` keeps the map as the encoder gives it."""
    width: int = 512
    """Length of the embeddings, D."""
    depth: int = 1
    """Blocks of the cross-attention encoder."""
    heads: int = 8
    """Attention heads; must divide ``width``."""
    mlp_ratio: float = 1.0
    """Hidden width of the feed-forward network as a multiple of ``width``."""
    dropout: float = 0.5
    """Dropout in the cross-attention encoder; in the context network, before the last layer."""
    hyperedge_neighbors: int = 3
    """Most similar other nodes that share a hyperedge with a node, k."""
    temperature: float = 0.05
    """Divisor of the cosine similarities in the contrastive losses."""
    negative_scale: float = 0.1
    """Factor on the logits of the pairs that do not belong together."""
    query_weight: float = 1.0
    """Weight of the contrastive loss between a target's image and its expression."""
    neighbor_weight: float = 0.5
    """Weight of the contrastive loss between the neighbourhoods of both."""
    mse_weight: float = 1.0
    """Weight of the mean squared error of the prediction, or of the likelihood in its place."""
    patch_scales: tuple[float, ...] = (1.0,)
    """Context network: sides of the patches in which a spot is seen, as multiples of the patch size."""
    orientations: int = 1
    """Context network: 8 averages the features of a patch over its flips and quarter turns, at 8 times the cost."""
    normalize: str = "center"
    """Context network: what is done to features within each section, ``"center"``, ``"standardize"`` or ``"none"``."""
    components: int = 128
    """Context network: principal components of the features that are kept."""
    neighbors: str = "attention"
    """Context network: how the neighbours' images enter: ``"attention"``, their ``"mean"``, or ``"none"``."""
    input_dropout: float = 0.5
    """Context network: dropout of the components."""
    members: int = 1
    """Context network: how many networks of different starts are averaged; their spread enters the uncertainty."""
    likelihood: str = "mse"
    """Context network: ``"mse"`` of standardised expression, or ``"poisson"`` or ``"negative_binomial"`` of counts."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_scales", tuple(float(scale) for scale in self.patch_scales))
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                msg = f"{field.name} must be a finite number, not {value}."
                raise ValueError(msg)
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                msg = f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}."
                raise ValueError(msg)
        for name in ("n_genes", "patch_px", "width", "depth", "heads", "components", "members"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1, not {getattr(self, name)}."
                raise ValueError(msg)
        if self.map_px is not None and self.map_px < 1:
            msg = f"map_px must be at least 1, or None, not {self.map_px}."
            raise ValueError(msg)
        if self.width % self.heads:
            msg = f"heads must divide width, but {self.width} is not a multiple of {self.heads}."
            raise ValueError(msg)
        for name in ("dropout", "input_dropout"):
            if not 0 <= getattr(self, name) < 1:
                msg = f"{name} must be at least 0 and below 1, not {getattr(self, name)}."
                raise ValueError(msg)
        if self.temperature <= 0:
            msg = f"temperature must be positive, not {self.temperature}."
            raise ValueError(msg)
        if not self.patch_scales or not all(0 < scale < math.inf for scale in self.patch_scales):
            msg = f"patch_scales must be positive numbers, at least one, not {self.patch_scales}."
            raise ValueError(msg)
        self._check_variant()

    def _check_variant(self) -> None:
        if self.variant not in VARIANTS:
            msg = f"variant must be one of {', '.join(map(repr, VARIANTS))}, not {self.variant!r}."
            raise ValueError(msg)
        if self.variant == "context":
            if self.map_px != 1:
                msg = f"The context network takes pooled features, so that map_px must be 1, not {self.map_px}."
                raise ValueError(msg)
            if self.neighbors == "none" and self.neighbor_weight:
                msg = "With neighbors='none' there is no neighbourhood to contrast: neighbor_weight must be 0."
                raise ValueError(msg)
            return
        unused = [
            field.name
            for field in fields(self)
            if field.name in CONTEXT_ONLY and getattr(self, field.name) != field.default
        ]
        if unused:
            msg = f"The 'paper' network has no {', '.join(unused)}; these are settings of variant='context'."
            raise ValueError(msg)

    @property
    def needs_counts(self) -> bool:
        """Whether the network learns from counts, not from expression alone."""
        return self.likelihood != "mse"

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as a dictionary that JSON can hold."""
        return asdict(self) | {"patch_scales": list(self.patch_scales)}

    @classmethod
    def for_variant(cls, variant: str, **values: Any) -> Self:
        """Build the configuration of a variant, with its own defaults.

        Parameters
        ----------
        variant
            ``"paper"`` or ``"context"``.
        **values
            Fields that differ from the defaults.

        Raises
        ------
        ValueError
            If a field is unknown, or a value cannot make a network.

        Examples
        --------
        >>> from nh2st.nn import NetworkConfig
        >>> NetworkConfig.for_variant("context", n_genes=250).patch_scales
        (1.0, 2.0)
        """
        return cls.from_dict({**(_CONTEXT if variant == "context" else {}), "variant": variant, **values})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the configuration that :meth:`to_dict` wrote.

        Parameters
        ----------
        values
            Fields and their values; absent fields take their defaults.

        Raises
        ------
        ValueError
            If there are fields that this version does not know.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            msg = (
                f"Unknown fields in the network configuration: {', '.join(unknown)}. Known fields: {', '.join(known)}. "
                "A file written by a newer nh2st needs that version."
            )
            raise ValueError(msg)
        return cls(**values)
