"""Square tiles over a mask of tissue, and how they are kept in a SpatialData."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from typing import Any, Literal

import anndata as ad
import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from geopandas import GeoDataFrame
from scipy.sparse import csr_matrix
from skimage.measure import find_contours
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import get_transformation

from nh2st._keys import (
    ARRAY_COL,
    ARRAY_ROW,
    SPATIAL,
    TILES,
    TILES_SHAPES,
    TILES_TABLE,
    TISSUE_FRACTION,
    TISSUE_SHAPES,
)
from nh2st._results import Kind, check_elements, write_record
from nh2st._sections import records_of

_REGION, _INSTANCE = "region", "instance_id"

Borders = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Tiles:
    """Tiles on one image: n rows of array (row, column), centres (x, y) in scale-0 pixels, and share of tissue."""

    image_key: str
    mpp: float | Literal["native"]
    pitch: float
    array: np.ndarray
    centers: np.ndarray
    fraction: np.ndarray
    outline: list[shapely.Polygon]


def square_grid(shape: tuple[int, int], pitch: float) -> Borders:
    """Borders of the rows and of the columns of as many whole tiles as fit, at least one, centred on the image."""
    rows, columns = (max(1, int(side / pitch)) for side in shape)
    height, width = shape
    return (
        (height - rows * pitch) / 2 + pitch * np.arange(rows + 1),
        (width - columns * pitch) / 2 + pitch * np.arange(columns + 1),
    )


def centers(edges: Borders, array: np.ndarray) -> np.ndarray:
    """x, y of the centres of the tiles at these rows and columns."""
    y, x = ((edge[:-1] + edge[1:])[index] / 2 for edge, index in zip(edges, array.T, strict=True))
    return np.column_stack([x, y])


def tissue_fractions(mask: np.ndarray, shape: tuple[int, int], edges: Borders) -> np.ndarray:
    """Share of tissue of each tile, as far as it lies on the image, shape (rows, columns)."""
    area = np.pad(mask.cumsum(axis=0, dtype=np.float64).cumsum(axis=1), ((1, 0), (1, 0)))
    size = []
    for axis, edge in enumerate(edges):
        place = np.clip(edge, 0, shape[axis]) * (mask.shape[axis] / shape[axis])
        area = np.diff(_interpolated(area, place, axis), axis=axis)
        size.append(np.diff(place))
    return area / np.outer(*size)


def _interpolated(values: np.ndarray, place: np.ndarray, axis: int) -> np.ndarray:
    """Values at fractional positions along an axis."""
    low = np.minimum(place.astype(int), values.shape[axis] - 2)
    weight = np.expand_dims(place - low, 1 - axis)
    return np.take(values, low, axis) * (1 - weight) + np.take(values, low + 1, axis) * weight


def outline(mask: np.ndarray, shape: tuple[int, int]) -> list[shapely.Polygon]:
    """Polygons, with holes, around the tissue, in scale-0 pixels."""
    scale = np.array(shape) / mask.shape
    contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    # A contour runs through pixel centres, which lie half a pixel beyond the padded pixel's corner.
    rings = shapely.MultiLineString([((contour - 0.5) * scale)[:, ::-1] for contour in contours])
    area = shapely.simplify(shapely.build_area(rings), scale.mean() / 2)
    return list(shapely.get_parts(area))


def element_names(images: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Names of the shapes of tiles and of tissue for each image, which bear its name where there are several."""
    if len(images) == 1:
        return {images[0]: (TILES_SHAPES, TISSUE_SHAPES)}
    return {key: (f"{TILES_SHAPES}_{key}", f"{TISSUE_SHAPES}_{key}") for key in images}


def laid_tiles(sdata: SpatialData) -> dict[str, dict[str, Any]]:
    """What is recorded of the tiles in the object: for each region its image, outline, pitch and scale."""
    if TILES_TABLE not in sdata.tables:
        return {}
    record = records_of(sdata.tables[TILES_TABLE]).get(TILES, {})
    return {region: tiles for region, tiles in record.items() if isinstance(tiles, dict)}


def _ours(sdata: SpatialData) -> set[str]:
    laid = laid_tiles(sdata)
    return {*laid, *(tiles["outline"] for tiles in laid.values()), *([TILES_TABLE] if laid else [])}


def check_free(sdata: SpatialData, names: dict[str, tuple[str, str]], *, overwrite: bool) -> None:
    """Refuse to replace elements that this package did not write, and tiles that results were computed of.

    Raises
    ------
    ValueError
        If there is one and `overwrite` is not set.
    """
    check_elements(sdata, [TILES_TABLE, *chain(*names.values())], _ours(sdata), overwrite=overwrite)
    if laid_tiles(sdata) and not overwrite:
        results = [name for name in records_of(sdata.tables[TILES_TABLE]) if name != TILES]
        if results:
            msg = (
                f"Table {TILES_TABLE!r} holds {', '.join(map(repr, results))} of its tiles, which would go with them. "
                "Replace all of it with `overwrite=True`."
            )
            raise ValueError(msg)


def remove_tiles(sdata: SpatialData) -> None:
    """Take away the tiles of this package: shapes, outlines and table."""
    for name in _ours(sdata):
        if name in sdata:
            del sdata[name]


def with_genes(table: AnnData, genes: Sequence[str]) -> AnnData:
    """Table of the same tiles with these genes, whose values are all zero."""
    return AnnData(
        csr_matrix((table.n_obs, len(genes)), dtype=np.float32),
        obs=table.obs,
        var=pd.DataFrame(index=pd.Index(genes, dtype=str)),
        obsm=dict(table.obsm),
        obsp=dict(table.obsp),
        uns=dict(table.uns),
    )


def write_tiles(sdata: SpatialData, laid: Sequence[Tiles], genes: Sequence[str] = ()) -> dict[str, str]:
    """Put shapes, outlines and the table of the tiles into the object, in place of earlier ones.

    Returns
    -------
    Dictionary from each region of the table to its image.
    """
    names = element_names([tiles.image_key for tiles in laid])
    remove_tiles(sdata)
    for name in (TILES_TABLE, *(name for pair in names.values() for name in pair)):
        if name in sdata:
            del sdata[name]
    for tiles in laid:
        region, tissue = names[tiles.image_key]
        place = get_transformation(sdata.images[tiles.image_key], get_all=True)
        sdata[region] = ShapesModel.parse(
            tiles.centers, geometry=0, radius=tiles.pitch / 2, transformations=dict(place)
        )
        sdata[tissue] = ShapesModel.parse(GeoDataFrame(geometry=tiles.outline), transformations=dict(place))
    sdata[TILES_TABLE] = _table(laid, names, genes)
    return {names[tiles.image_key][0]: tiles.image_key for tiles in laid}


def _table(laid: Sequence[Tiles], names: dict[str, tuple[str, str]], genes: Sequence[str]) -> AnnData:
    table = ad.concat([_region_table(tiles, names[tiles.image_key][0], genes) for tiles in laid])
    regions = [names[tiles.image_key][0] for tiles in laid]
    table.obs[_REGION] = pd.Categorical(table.obs[_REGION], categories=regions)
    write_record(table, TILES, Kind.TILES, {names[tiles.image_key][0]: _record(tiles, names) for tiles in laid})
    return TableModel.parse(table, region=regions, region_key=_REGION, instance_key=_INSTANCE)


def _region_table(tiles: Tiles, region: str, genes: Sequence[str]) -> AnnData:
    rows, columns = tiles.array.T
    obs = pd.DataFrame(
        {
            _REGION: region,
            _INSTANCE: np.arange(len(rows)),
            ARRAY_ROW: rows,
            ARRAY_COL: columns,
            TISSUE_FRACTION: tiles.fraction,
        },
        index=[f"{tiles.image_key}_{column}x{row}" for row, column in tiles.array],
    )
    values = csr_matrix((len(rows), len(genes)), dtype=np.float32)
    return AnnData(values, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=str)), obsm={SPATIAL: tiles.centers})


def _record(tiles: Tiles, names: dict[str, tuple[str, str]]) -> dict[str, Any]:
    return {
        "package_version": version("nh2st"),
        "image": tiles.image_key,
        "outline": names[tiles.image_key][1],
        "pitch_px": tiles.pitch,
        "mpp": tiles.mpp,
    }
