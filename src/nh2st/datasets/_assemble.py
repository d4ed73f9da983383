"""One SpatialData from the image, the spots and the counts of several sections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nh2st._keys import ARRAY_COL, ARRAY_ROW, IN_TISSUE, MPP, NAMESPACE, SPATIAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from dask.array import Array
    from geopandas import GeoDataFrame
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData
    from xarray import DataTree

REGION = "region"
INSTANCE = "instance_id"
SPOT = "spot"
SECTION = "section"
CHUNKS = (3, 1024, 1024)
N_REDUCTIONS = 3


@dataclass(frozen=True)
class SpotSection:
    """A section measured on an array of spots.

    ``image`` is (y, x, 3) uint8 and ``mpp`` its micrometres per pixel. ``xy`` has the pixel centres of the n spots,
    ``array`` their integer array x and y; ``counts`` is n x genes. ``obs`` has n further columns of any kind.
    """

    name: str
    image: np.ndarray
    mpp: float
    xy: np.ndarray
    array: np.ndarray
    radius_um: float
    counts: csr_matrix
    genes: pd.Index
    obs: pd.DataFrame

    @property
    def image_key(self) -> str:
        """Name of the section's image element."""
        return f"{self.name}_image"


def to_spatialdata(sections: Sequence[SpotSection]) -> SpatialData:
    """Put sections side by side, each in a coordinate system of its own that is named after it."""
    from spatialdata import SpatialData

    return SpatialData(
        images={section.image_key: _image(section) for section in sections},
        shapes={section.name: _circles(section) for section in sections},
        tables={"table": _table(sections)},
        attrs={NAMESPACE: {MPP: {section.image_key: float(section.mpp) for section in sections}}},
    )


def _image(section: SpotSection) -> DataTree:
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity

    tree = Image2DModel.parse(
        _chunked(section.image),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * N_REDUCTIONS,
        chunks=CHUNKS,
        transformations={section.name: Identity()},
    )
    # parse leaves the coarse levels to be computed from all pixels at each access
    for level, pixels in enumerate(_reductions(section.image), start=1):
        node = tree[f"scale{level}"]
        node["image"] = node["image"].copy(data=_chunked(pixels))
    return tree


def _chunked(image: np.ndarray) -> Array:
    import dask.array as da

    # name=False: hashing the pixels to name the array would take longer than decoding them
    return da.from_array(image.transpose(2, 0, 1), chunks=CHUNKS, name=False)


def _reductions(image: np.ndarray) -> Iterator[np.ndarray]:
    """Halve the image again and again; an odd last row or column is left out."""
    import numpy as np
    from PIL import Image

    reduced = Image.fromarray(image)
    for _ in range(N_REDUCTIONS):
        width, height = reduced.width // 2, reduced.height // 2
        reduced = reduced.reduce(2, box=(0, 0, 2 * width, 2 * height))
        yield np.asarray(reduced)


def _circles(section: SpotSection) -> GeoDataFrame:
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    return ShapesModel.parse(
        section.xy,
        geometry=0,
        radius=section.radius_um / section.mpp,
        transformations={section.name: Identity()},
    )


def _table(sections: Sequence[SpotSection]) -> AnnData:
    import anndata as ad
    from spatialdata.models import TableModel

    names = [section.name for section in sections]
    table = ad.concat([_section_table(section) for section in sections], join="outer", fill_value=0)
    table.X = table.X.tocsr()
    for column in (REGION, SECTION):
        table.obs[column] = table.obs[column].astype("category").cat.set_categories(names)
    return TableModel.parse(table, region=names, region_key=REGION, instance_key=INSTANCE)


def _section_table(section: SpotSection) -> AnnData:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    spots = [f"{x}x{y}" for x, y in section.array]
    columns = {
        REGION: section.name,
        INSTANCE: np.arange(len(spots)),
        SECTION: section.name,
        SPOT: spots,
        ARRAY_ROW: section.array[:, 1].astype(np.int64),
        ARRAY_COL: section.array[:, 0].astype(np.int64),
        IN_TISSUE: np.ones(len(spots), dtype=np.int64),
    }
    obs = pd.DataFrame(columns, index=[f"{section.name}_{spot}" for spot in spots])
    obs = obs.join(section.obs.set_index(obs.index))
    return AnnData(
        section.counts.astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=section.genes),
        obsm={SPATIAL: section.xy.astype(np.float64)},
    )
