"""Where tiles are laid on an image: over its tissue, after all checks that need no pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from anndata import AnnData
from spatialdata import SpatialData

from nh2st._arguments import positive
from nh2st._keys import PATCH_PX, PATCH_UM
from nh2st._patches import Pyramid
from nh2st._sections import ImageKey, Mpp, Section, resolve_mpp, systems_of
from nh2st._settings import logger
from nh2st._tissue._mask import MASK_UM, tissue_mask
from nh2st._tissue._overview import overview
from nh2st._tissue._tiles import (
    Tiles,
    centers,
    check_free,
    element_names,
    outline,
    square_grid,
    tissue_fractions,
    write_tiles,
)

_MOST_PX = 3072
_NATIVE_PX = 1024
"""Longest side of the small image in which tissue is looked for: at most, and where the scale is unknown."""

_LEAST_PITCH_PX = 2
MIN_TISSUE = 0.4


@dataclass(frozen=True)
class _TiledImage:
    """An image to lay tiles on; `pitch` in scale-0 pixels."""

    image_key: str
    image: Pyramid
    mpp: float | Literal["native"]
    pitch: float

    @property
    def mask_scale(self) -> float:
        """Scale-0 pixels that a pixel of the mask spans."""
        longest = max(self.image.shape)
        wanted = longest / _NATIVE_PX if isinstance(self.mpp, str) else MASK_UM / self.mpp
        return max(1.0, wanted, longest / _MOST_PX)


def lay_tiles(
    objects: Sequence[SpatialData],
    *,
    image_key: ImageKey | Iterable[str] = None,
    tile_um: float | None = None,
    mpp: Mpp = None,
    min_tissue: float = MIN_TISSUE,
    genes: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Lay tiles as :func:`nh2st.pp.tissue_tiles` does, with a table of these genes, whose values are all zero."""
    # All errors that can be known come before the first image is read.
    planned = [_plan(sdata, image_key, tile_um, mpp, overwrite=overwrite) for sdata in objects]
    for sdata, slides in zip(objects, planned, strict=True):
        write_tiles(sdata, [_lay(slide, min_tissue) for slide in slides], genes)


def _plan(
    sdata: SpatialData, image_key: ImageKey | Iterable[str], tile_um: float | None, mpp: Mpp, *, overwrite: bool
) -> list[_TiledImage]:
    """Images to lay tiles on, after all checks that need no pixels."""
    images = _images(sdata, image_key)
    check_free(sdata, element_names(images), overwrite=overwrite)
    return [_slide(sdata, key, tile_um, mpp) for key in images]


def _images(sdata: SpatialData, image_key: ImageKey | Iterable[str]) -> list[str]:
    there = ", ".join(map(repr, sdata.images)) or "none"
    if isinstance(image_key, Mapping):
        image_key = [key for key in image_key.values() if key in sdata.images] or None
    if image_key is not None:
        wanted = [image_key] if isinstance(image_key, str) else list(dict.fromkeys(image_key))
        unknown = [key for key in wanted if key not in sdata.images]
        if unknown or not wanted:
            msg = f"There is no image {', '.join(map(repr, unknown)) or 'named'}; the object has: {there}."
            raise KeyError(msg)
        return wanted
    if not sdata.images:
        msg = (
            "The SpatialData has no image to lay tiles on. Add the H&E image: "
            "`sdata['slide'] = Image2DModel.parse(pixels, dims=('y', 'x', 'c'), scale_factors=[2, 2, 2])`."
        )
        raise ValueError(msg)
    systems = [name for image in sdata.images.values() for name in systems_of(image)]
    if len(systems) > len(set(systems)):
        msg = (
            f"Several images share a coordinate system, and may show the same tissue: {there}. Name those to lay tiles "
            "on with `image_key=`, one or a list."
        )
        raise ValueError(msg)
    return list(sdata.images)


def _slide(sdata: SpatialData, key: str, tile_um: float | None, mpp: Mpp) -> _TiledImage:
    if tile_um is not None:
        positive("tile_um", tile_um)
    bare = Section(None, key, AnnData(), np.arange(0), sdata=sdata, image_key=key)
    scale = resolve_mpp(bare, mpp)
    if isinstance(scale, str):
        pitch = PATCH_PX if tile_um is None else tile_um
    else:
        pitch = (PATCH_UM if tile_um is None else tile_um) / scale
    height, width = bare.image.shape
    wrong = "large" if pitch > 2 * min(height, width) else "small" if pitch < _LEAST_PITCH_PX else ""
    if wrong:
        msg = (
            f"A tile is {pitch:.3g} px wide, too {wrong} for image {key!r} of {width} x {height} px (um per pixel: "
            f"{scale}). Check the scale (`mpp=`), or choose another `tile_um=`."
        )
        raise ValueError(msg)
    return _TiledImage(key, bare.image, scale, pitch)


def _lay(slide: _TiledImage, min_tissue: float) -> Tiles:
    key, shape = slide.image_key, slide.image.shape
    mask = tissue_mask(overview(slide.image, slide.mask_scale))
    if not mask.any():
        msg = (
            f"No tissue was found in image {key!r}. Look at it: is it an H&E image, and its scale right (`mpp=`)? "
            "Another image can be named with `image_key=`; to predict places of your own choice, add them as shapes "
            "that a table annotates."
        )
        raise ValueError(msg)
    edges = square_grid(shape, slide.pitch)
    fraction = tissue_fractions(mask, shape, edges)
    array = np.argwhere(fraction >= min_tissue)
    if not len(array):
        msg = (
            f"The tissue in image {key!r} fills no tile of {slide.pitch:.3g} px to {min_tissue:.0%}. Lower `tile_um=` "
            "or `min_tissue=`."
        )
        raise ValueError(msg)
    logger.info("Image %r: %d tiles on tissue, which covers %.0f%% of it.", key, len(array), 100 * mask.mean())
    return Tiles(
        key, slide.mpp, slide.pitch, array, centers(edges, array), fraction[tuple(array.T)], outline(mask, shape)
    )
