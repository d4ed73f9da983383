from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from shapely.geometry import box
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Identity

from nh2st._patches import read_patches
from nh2st._sections import Section, Selection, find_sections, patch_windows


def build_section(
    image: Any,
    centers: Any,
    *,
    ids: Any = None,
    kind: str = "circles",
    radius: float = 10.0,
    obs: Mapping[str, Any] | None = None,
    to_image: Mapping[str, Any] | None = None,
    to_spots: Mapping[str, Any] | None = None,
    **image_options: Any,
) -> SpatialData:
    """One `image`, its `spots` and their `table`; `centers` are x, y in the coordinates of the spots."""
    centers = np.asarray(centers, dtype=float)
    ids = np.arange(len(centers)) if ids is None else np.asarray(ids)
    columns = {"region": pd.Categorical(["spots"] * len(ids)), "instance": ids, **(obs or {})}
    names = [f"spot{number}" for number in range(len(ids))]
    table = AnnData(np.ones((len(ids), 3), dtype=np.float32), obs=pd.DataFrame(columns, index=names))
    options = {"dims": ("c", "y", "x"), "transformations": dict(to_image or {"global": Identity()}), **image_options}
    transformations = dict(to_spots or {"global": Identity()})
    element = build_spots(kind, centers, ids, radius, transformations)
    return SpatialData(
        images={"image": Image2DModel.parse(image, **options)},
        **{"points" if kind == "points" else "shapes": {"spots": element}},
        tables={"table": TableModel.parse(table, region="spots", region_key="region", instance_key="instance")},
    )


def build_spots(kind: str, centers: np.ndarray, ids: np.ndarray, radius: float, transformations: dict) -> Any:
    if kind == "points":
        frame = pd.DataFrame(centers, columns=["x", "y"], index=ids)
        return PointsModel.parse(frame, transformations=transformations)
    if kind == "polygons":
        from geopandas import GeoDataFrame

        squares = [box(x - radius, y - radius, x + radius, y + radius) for x, y in centers]
        return ShapesModel.parse(GeoDataFrame(geometry=squares, index=ids), transformations=transformations)
    return ShapesModel.parse(centers, geometry=0, radius=radius, index=pd.Index(ids), transformations=transformations)


def cut(image: np.ndarray, x: float, y: float, px: int) -> np.ndarray:
    """Patch of a (y, x, c) image around a whole-pixel centre, white beyond it."""
    left, top = round(x - px / 2), round(y - px / 2)
    patch = np.full((px, px, 3), 255, dtype=np.uint8)
    there = image[max(top, 0) : top + px, max(left, 0) : left + px]
    row, column = max(-top, 0), max(-left, 0)
    patch[row : row + there.shape[0], column : column + there.shape[1]] = there
    return patch


def patches_of(sdata: SpatialData, px: int, *, um: float = 112.0, mpp: Any = "native", **keys: Any) -> np.ndarray:
    (section,) = find_sections(sdata, Selection(**keys))
    return read_patches(section.image, patch_windows(section, patch_um=um, patch_px=px, mpp=mpp))


@pytest.fixture(scope="session")
def make_section() -> Callable[..., SpatialData]:
    return build_section


@pytest.fixture(scope="session")
def hand_cut() -> Callable[..., np.ndarray]:
    return cut


@pytest.fixture(scope="session")
def read() -> Callable[..., np.ndarray]:
    """Patches of a single section."""
    return patches_of


@pytest.fixture(scope="session")
def only_section() -> Callable[..., Section]:
    def find(sdata: SpatialData, **keys: Any) -> Section:
        (section,) = find_sections(sdata, Selection(**keys))
        return section

    return find


@pytest.fixture
def noise() -> np.ndarray:
    """Image (c, y, x) of 120 x 150 px in which no two patches are alike."""
    return np.random.default_rng(0).integers(0, 255, (3, 120, 150), dtype=np.uint8)


@pytest.fixture(scope="session")
def make_counted() -> Callable[..., tuple[Any, Counter]]:
    """Lazy random image whose chunks count how often they are computed, by (row, column)."""
    return counted_image


def counted_image(height: int, width: int, chunk: int, dtype: type = np.uint8) -> tuple[Any, Counter]:
    reads: Counter = Counter()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (3, height, width), dtype=np.uint8).astype(dtype)

    def block(part: np.ndarray, block_id: tuple[int, ...] | None = None) -> np.ndarray:
        reads[block_id[1:]] += 1
        return part

    lazy = da.from_array(pixels, chunks=(3, chunk, chunk))
    return da.map_blocks(block, lazy, dtype=dtype, meta=np.empty((0, 0, 0), dtype=dtype)), reads
