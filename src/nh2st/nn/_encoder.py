from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from nh2st._torch import channel_first, evaluating
from nh2st.nn._encoder_table import Pooling
from nh2st.nn._fine_tune import train_blocks, untrained


class Encoder(nn.Module):
    """Image encoder: uint8 patches to feature maps, with the normalisation that its weights were trained with.

    Parameters
    ----------
    model
        A timm model without classifier.
    name
        Its name in messages; that of the architecture where absent.
    mean
        Mean of each channel that patches in 0..1 are normalised with; timm's for the model where absent.
    std
        Standard deviation, likewise.
    pooling
        How the tokens of a transformer become features: ``"timm"``, as timm does for the model (of most, the class
        token); ``"class+mean"``, the class token beside the mean of the patch tokens. Register tokens are left out.

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

    def __init__(
        self,
        model: Any,
        *,
        name: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pooling: Pooling = "timm",
    ) -> None:
        super().__init__()
        self.model = model
        self.name: str = name or model.pretrained_cfg["architecture"]
        """Name of the encoder."""
        self.pooling: Pooling = pooling
        """How tokens become features."""
        self.n_features: int = model.head_hidden_size * (2 if pooling == "class+mean" else 1)
        """Number of pooled features."""
        self.trained: Literal["all", "none"] | int = "all"
        """Which part is trained, as :meth:`fine_tune` set it."""
        for key, value in (("mean", mean), ("std", std)):
            values = model.pretrained_cfg[key] if value is None else value
            self.register_buffer(key, torch.tensor(values).reshape(-1, 1, 1))

    def fine_tune(self, blocks: Literal["all", "none"] | int) -> None:
        """Choose which part of the encoder is trained.

        The other part gets no gradients and stays in evaluation mode, whatever :meth:`train` is called with, so that
        the statistics of its batch normalisations stay those that its weights were trained with.

        Parameters
        ----------
        blocks
            ``"all"`` or ``"none"`` of it, or the number of last blocks (of a transformer) or stages (of a
            convolutional network), with the layers that follow them.

        Raises
        ------
        ValueError
            If the encoder has fewer blocks.

        Examples
        --------
        >>> from nh2st.nn import create_encoder
        >>> encoder = create_encoder("resnet18", weights=None)
        >>> encoder.fine_tune(1)
        >>> sorted({name.split(".")[1] for name, p in encoder.named_parameters() if p.requires_grad})
        ['layer4']
        """
        if blocks == "all" or blocks == "none":
            self.requires_grad_(blocks == "all")
        else:
            train_blocks(self.model, blocks)
        self.trained = blocks
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the trained part; the other part stays in evaluation mode.

        Parameters
        ----------
        mode
            Whether it is training mode.

        Returns
        -------
        The encoder.
        """
        super().train(mode)
        if mode and self.trained != "all":
            for part in untrained(self):
                part.eval()
        return self

    @cached_property
    def convolutional(self) -> bool:
        """Whether the encoder gives a feature map with channels, height and width, instead of tokens."""
        with evaluating(self):
            return self._is_map(self(self._blank(*_native_size(self.model))))

    def forward(self, images: Tensor) -> Tensor:
        """Encode patches.

        Parameters
        ----------
        images
            Patches (P, H, W, 3) or (P, 3, H, W), uint8.

        Returns
        -------
        The last convolutional map (P, C, h, w); of a transformer, its tokens, those of class and registers too.

        Raises
        ------
        ValueError
            If the images are of another shape or type.
        """
        return self.model.forward_features(self._normalize(images))

    def maps(self, images: Tensor) -> Tensor:
        """Encode patches (as :meth:`forward`) to maps, whatever the encoder is.

        Returns
        -------
        The last convolutional map (P, C, h, w); of a transformer, its pooled features as a map (P, C, 1, 1).
        """
        output = self(images)
        return output if self._is_map(output) else self.pool(output)[:, :, None, None]

    def features(self, images: Tensor) -> Tensor:
        """Encode patches as :meth:`forward` does and pool them, in evaluation mode and without gradients.

        Returns
        -------
        Features (P, n_features).
        """
        with evaluating(self):
            return self.pool(self(images))

    def pool(self, output: Tensor) -> Tensor:
        """Pool what the encoder gave, maps (P, C, h, w) or tokens, to features (P, n_features)."""
        if self.pooling == "timm":
            return self.model.forward_head(output, pre_logits=True)
        patches = output[:, self.model.num_prefix_tokens :]
        return torch.cat([output[:, 0], patches.mean(1)], dim=1)

    def map_shape(self, patch_px: int) -> tuple[int, int, int]:
        """Shape (C, h, w) of what :meth:`maps` gives for one patch.

        Parameters
        ----------
        patch_px
            Side of the patch in pixels.

        Raises
        ------
        ValueError
            If the encoder cannot take patches of this size.
        """
        try:
            with evaluating(self):
                _, channels, height, width = self.maps(self._blank(patch_px, patch_px)).shape
        except (AssertionError, RuntimeError) as error:
            reason = _allowed_sizes(self.model) or str(error)
            msg = f"Encoder {self.name!r} cannot take patches of {patch_px} px: {reason}."
            raise ValueError(msg) from error
        return channels, height, width

    def _blank(self, height: int, width: int) -> Tensor:
        return torch.zeros(1, 3, height, width, dtype=torch.uint8, device=self.mean.device)

    def _is_map(self, output: Tensor) -> bool:
        return output.ndim == 4 and output.shape[1] == self.model.num_features

    def _normalize(self, images: Tensor) -> Tensor:
        scaled = channel_first(images).contiguous(memory_format=torch.channels_last) / 255
        return (scaled - self.mean) / self.std


def _native_size(model: Any) -> tuple[int, int]:
    """Height and width of the images that the model was made for."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    height, width = size or model.pretrained_cfg["input_size"][1:]
    return height, width


def _allowed_sizes(model: Any) -> str:
    """What patch sizes a transformer takes; nothing where timm does not say."""
    if getattr(model, "dynamic_img_size", False):
        return f"its side must be a multiple of {model.patch_embed.patch_size[0]} px"
    return f"its side must be {_native_size(model)[0]} px" if hasattr(model, "patch_embed") else ""
