"""A section: spots together with the image that they lie on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from spatialdata import SpatialData
from xarray import DataTree

from nh2st._keys import TILES
from nh2st._patches import Pyramid, make_pyramid
from nh2st._sections._geometry import affine_to, apply_affine, length_scale, systems_of
from nh2st._sections._objects import Data, objects_of
from nh2st._sections._records import records_of
from nh2st._sections._selection import EVERYTHING, Selection
from nh2st._sections._spots import Spots, keep_sections, spots_of_object
from nh2st._space import SpotGrid


@dataclass
class Section(Spots):
    """Spots of one region and the image beneath them."""

    sdata: SpatialData = field(kw_only=True)
    image_key: str = field(kw_only=True)

    @cached_property
    def image(self) -> Pyramid:
        """The image, finest scale first."""
        return pyramid_of(self.sdata, self.image_key)

    @cached_property
    def image_affine(self) -> np.ndarray:
        """3 x 3 matrix from scale-0 pixels of the image to the coordinate system."""
        matrix = affine_to(self.sdata.images[self.image_key], self.coordinate_system)
        if abs(np.linalg.det(matrix[:2, :2])) < 1e-12:
            msg = f"The transformation of image {self.image_key!r} to {self.coordinate_system!r} cannot be inverted."
            raise ValueError(msg)
        return matrix

    @property
    def pixels(self) -> np.ndarray:
        """Spot centres x, y in scale-0 pixels of the image, shape (n, 2)."""
        return apply_affine(np.linalg.inv(self.image_affine), self.xy)

    @cached_property
    def pixel_grid(self) -> SpotGrid:
        """The spots in scale-0 pixels of the image, with the array that they lie on."""
        same = np.array_equal(self.pixels, self.xy)
        return self.grid if same else SpotGrid(self.pixels, self.array, self.name)

    @property
    def pixel_radius(self) -> np.ndarray:
        """Spot radii in scale-0 pixels of the image, shape (n,); NaN where unknown."""
        return self.radius / length_scale(self.image_affine)


def find_sections(data: Data, selection: Selection = EVERYTHING) -> list[Section]:
    """Sections of the objects, each with its image.

    Parameters
    ----------
    data
        A SpatialData, or a list or dictionary of them.
    selection
        What of it; where no image is named, the one image that shares a coordinate system with the spots.

    Returns
    -------
    One entry a section, in the order of the objects and of the regions of their tables.
    """
    found: list[Spots] = []
    owner: dict[int, SpatialData] = {}
    for key, sdata in objects_of(data, images=True):
        for spots in spots_of_object(key, sdata, selection):
            owner[id(spots)] = sdata
            found.append(spots)
    return [_with_image(spots, owner[id(spots)], selection) for spots in keep_sections(found, selection.sections)]


def _with_image(spots: Spots, sdata: SpatialData, selection: Selection) -> Section:
    wanted = selection.image_of(spots.name, spots.region) or _image_of_tiles(spots)
    image = _infer_image(spots, sdata, wanted, selection.coordinate_system)
    shared = _shared_systems(spots, sdata, image, selection.coordinate_system)
    fields = {name: getattr(spots, name) for name in ("object_key", "region", "adata", "rows", "element", "positions")}
    candidates = [Section(**fields, coordinate_system=name, sdata=sdata, image_key=image) for name in shared]
    first = candidates[0]
    if any(not np.allclose(other.pixels, first.pixels, atol=0.5) for other in candidates[1:]):
        msg = (
            f"Section {spots.name!r} and image {image!r} share several coordinate systems that place the spots "
            f"differently: {', '.join(map(repr, shared))}. Name one with `coordinate_system=`."
        )
        raise ValueError(msg)
    return first


def _shared_systems(spots: Spots, sdata: SpatialData, image: str, wanted: str | None) -> list[str]:
    shared = sorted(set(systems_of(spots.element)) & set(systems_of(sdata.images[image])))
    if wanted is not None and wanted in shared:
        return [wanted]
    if shared and wanted is None:
        return shared
    msg = (
        f"Region {spots.region!r} (in {', '.join(systems_of(spots.element))}) and image {image!r} (in "
        f"{', '.join(systems_of(sdata.images[image]))}) share no coordinate system"
        f"{f' named {wanted!r}' if wanted else ''}. Align them with `spatialdata.transformations.set_transformation`."
    )
    raise ValueError(msg)


def _image_of_tiles(spots: Spots) -> str | None:
    """Image that tiles of this package were laid on."""
    tiles = records_of(spots.adata).get(TILES)
    of_region = tiles.get(spots.region) if isinstance(tiles, Mapping) else None
    return of_region.get("image") if isinstance(of_region, Mapping) else None


def _infer_image(spots: Spots, sdata: SpatialData, wanted: str | None, coordinate_system: str | None) -> str:
    there = ", ".join(map(repr, sdata.images)) or "none"
    if wanted is not None:
        if wanted not in sdata.images:
            msg = f"There is no image {wanted!r}; the object has: {there}."
            raise KeyError(msg)
        return wanted
    own = systems_of(spots.element)
    if coordinate_system is not None and coordinate_system not in own:
        msg = f"Region {spots.region!r} is not in coordinate system {coordinate_system!r} (it is in: {', '.join(own)})."
        raise KeyError(msg)
    systems = set(own) if coordinate_system is None else {coordinate_system}
    fitting = [name for name, image in sdata.images.items() if systems & set(systems_of(image))]
    if not fitting:
        msg = (
            f"No image shares a coordinate system with region {spots.region!r} ({', '.join(sorted(systems))}); images: "
            f"{there}. Add the H&E image with `Image2DModel.parse(..., transformations=...)`, or align one with "
            "`spatialdata.transformations.set_transformation`."
        )
        raise ValueError(msg)
    if len(fitting) > 1:
        msg = (
            f"Several images fit region {spots.region!r}: {', '.join(map(repr, fitting))}. Name one with "
            "`image_key=` (a dictionary from section to image where they differ)."
        )
        raise ValueError(msg)
    return fitting[0]


def pyramid_of(sdata: SpatialData, image_key: str) -> Pyramid:
    """Scales of an image element of either kind."""
    image: Any = sdata.images[image_key]
    scales = (
        [next(iter(node.ds.values())) for node in image.children.values()] if isinstance(image, DataTree) else [image]
    )
    if set(scales[0].dims) != {"c", "y", "x"}:
        msg = f"Image {image_key!r} has the axes {', '.join(map(str, scales[0].dims))}; a 2D image (c, y, x) is needed."
        raise ValueError(msg)
    ordered = [scale.transpose("c", "y", "x") for scale in scales]
    return make_pyramid(image_key, [scale.data for scale in ordered], [str(name) for name in ordered[0]["c"].values])
