from __future__ import annotations

from os import PathLike
from typing import TypeAlias

from nh2st.nn._config import NetworkConfig
from nh2st.nn._context_network import ContextNetwork
from nh2st.nn._encoder_weights import PRETRAINED
from nh2st.nn._paper_network import NH2ST

Network: TypeAlias = NH2ST | ContextNetwork


def create_network(config: NetworkConfig, *, encoder_weights: str | PathLike[str] | None = PRETRAINED) -> Network:
    """Build the network of a configuration: :class:`nh2st.nn.NH2ST` or :class:`nh2st.nn.ContextNetwork`.

    Parameters
    ----------
    config
        Its variant says which.
    encoder_weights
        Weights of the image encoder, as ``weights`` of :func:`nh2st.nn.create_encoder`.

    Examples
    --------
    >>> from nh2st.nn import NetworkConfig, create_network
    >>> config = NetworkConfig.for_variant("context", n_genes=5, encoder="resnet18", patch_px=32)
    >>> type(create_network(config, encoder_weights=None)).__name__
    'ContextNetwork'
    """
    return (ContextNetwork if config.variant == "context" else NH2ST)(config, encoder_weights=encoder_weights)
