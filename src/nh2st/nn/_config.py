from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

VARIANTS = ("paper",)


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that determines the shape and the losses of a network, in plain JSON types.

    The defaults are the settings of NH2ST (MICCAI 2025, arXiv:2506.23827), with another encoder.

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
    """Which network: ``"paper"`` is the released one."""
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
    """Dropout in the cross-attention encoder."""
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
    """Weight of the mean squared error of the prediction."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            msg = f"variant must be one of {', '.join(map(repr, VARIANTS))}, not {self.variant!r}."
            raise ValueError(msg)
        for name in ("n_genes", "patch_px", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1, not {getattr(self, name)}."
                raise ValueError(msg)
        if self.map_px is not None and self.map_px < 1:
            msg = f"map_px must be at least 1, or None, not {self.map_px}."
            raise ValueError(msg)
        if self.width % self.heads:
            msg = f"heads must divide width, but {self.width} is not a multiple of {self.heads}."
            raise ValueError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"dropout must be at least 0 and below 1, not {self.dropout}."
            raise ValueError(msg)
        if self.temperature <= 0:
            msg = f"temperature must be positive, not {self.temperature}."
            raise ValueError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as a dictionary that JSON can hold."""
        return asdict(self)

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
