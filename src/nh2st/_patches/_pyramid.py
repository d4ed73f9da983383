"""An RGB image at one or several scales, read lazily and always seen as 8 bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nh2st._settings import logger

_SAMPLE_PX = 512


@dataclass(frozen=True)
class Level:
    """One scale of an image: lazy array (channel, y, x) and how many scale-0 pixels one of its pixels spans."""

    array: Any
    scale_y: float
    scale_x: float

    @property
    def scale(self) -> float:
        return (self.scale_y + self.scale_x) / 2


@dataclass(frozen=True)
class Pyramid:
    """Scales of an RGB image from fine to coarse."""

    name: str
    levels: tuple[Level, ...]
    to_uint8: Callable[[np.ndarray], np.ndarray]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width at scale 0, in pixels."""
        _, height, width = self.levels[0].array.shape
        return height, width

    def level_for(self, scale: float) -> Level:
        """Coarsest level that is at least as fine as one pixel per `scale` scale-0 pixels."""
        fitting = [level for level in self.levels if level.scale <= scale * 1.001]
        return fitting[-1] if fitting else self.levels[0]

    def read(self, level: Level, y: slice, x: slice) -> np.ndarray:
        """Pixels of a window as uint8, shape (height, width, 3).

        Raises
        ------
        OSError
            If the image store cannot be read; the image is named.
        """
        try:
            window = np.asarray(level.array[:, y, x])
        except Exception as error:
            msg = (
                f"Image {self.name!r} could not be read (rows {y.start}-{y.stop}, columns {x.start}-{x.stop}): {error}"
            )
            raise OSError(msg) from error
        return self.to_uint8(window).transpose(1, 2, 0)


def make_pyramid(name: str, arrays: list[Any], channels: list[str]) -> Pyramid:
    """Pyramid of lazy (c, y, x) arrays, finest first.

    Raises
    ------
    ValueError
        If the image is empty, has no three colour channels, or its axes are mislabelled.
    """
    arrays = [_rgb(name, array, channels) for array in arrays]
    height, width = arrays[0].shape[1:]
    levels = tuple(Level(array, height / array.shape[1], width / array.shape[2]) for array in arrays)
    return Pyramid(name, levels, _conversion(name, arrays[-1]))


def _rgb(name: str, array: Any, channels: list[str]) -> Any:
    count, height, width = array.shape
    if width in (3, 4) and count > 4:
        msg = (
            f"Image {name!r} has {count} channels and is {width} px wide: it looks like a (y, x, c) array labelled "
            "c, y, x. Parse it with `Image2DModel.parse(array, dims=('y', 'x', 'c'))`."
        )
        raise ValueError(msg)
    if height == 0 or width == 0:
        msg = f"Image {name!r} is empty ({height} x {width} px)."
        raise ValueError(msg)
    if count == 3:
        return array
    if count == 4:
        order = _rgb_positions(channels)
        logger.warning("Image %r has 4 channels; %s are used as RGB.", name, [channels[i] for i in order])
        return array[order]
    msg = (
        f"Image {name!r} has {count} channel{'s' if count > 1 else ''}; H&E patches need the three colours of an RGB "
        "image. Name another with `image_key=`."
    )
    raise ValueError(msg)


def _rgb_positions(channels: list[str]) -> list[int]:
    initials = [str(channel).strip().lower()[:1] for channel in channels]
    if all(colour in initials for colour in "rgb"):
        return [initials.index(colour) for colour in "rgb"]
    return [0, 1, 2]


def _conversion(name: str, coarsest: Any) -> Callable[[np.ndarray], np.ndarray]:
    dtype = coarsest.dtype
    if dtype == np.uint8:
        return _identity
    if dtype.kind not in "uif":
        msg = f"Image {name!r} has pixels of type {dtype}; 8-bit, 16-bit or float colours are needed."
        raise ValueError(msg)
    step = tuple(max(1, side // _SAMPLE_PX) for side in coarsest.shape[1:])
    sample = np.asarray(coarsest[:, :: step[0], :: step[1]])
    top = float(np.nanmax(sample)) if sample.size else 0.0
    if top <= 1 and dtype.kind == "f":
        white = 1.0
    else:
        white = 255.0 if top <= 255 else 65535.0
    if top > 65535 or float(np.nanmin(sample)) < 0:
        msg = f"Image {name!r} holds values from {np.nanmin(sample):g} to {top:g}; convert it to 8-bit RGB."
        raise ValueError(msg)
    logger.warning("Image %r has pixels of type %s; %g is taken as white and scaled to 255.", name, dtype, white)
    return lambda window: np.clip(np.nan_to_num(window, nan=white) * (255.0 / white) + 0.5, 0, 255).astype(np.uint8)


def _identity(window: np.ndarray) -> np.ndarray:
    return window
