"""Made-up slides on disk, for the scripts that read images."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel, ShapesModel, TableModel

from nh2st._expression import Target
from nh2st.models import Model
from nh2st.nn import NH2ST, NetworkConfig

CHUNK_PX = 1024


def write_slide(folder: Path, side_px: int, *, scale_factors: tuple[int, ...] = (2, 2, 2)) -> Path:
    """Write a square multiscale image of smooth noise in chunks, and nothing else; its place."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 256, (3, CHUNK_PX // 8, CHUNK_PX // 8), dtype=np.uint8)
    tile = coarse.repeat(8, axis=1).repeat(8, axis=2) ^ rng.integers(0, 16, (3, CHUNK_PX, CHUNK_PX), dtype=np.uint8)
    times = -(-side_px // CHUNK_PX)
    pixels = da.tile(da.from_array(tile, chunks=-1), (1, times, times))[:, :side_px, :side_px]
    image = Image2DModel.parse(pixels, scale_factors=list(scale_factors), chunks=(3, CHUNK_PX, CHUNK_PX))
    path = folder / f"slide{side_px}.zarr"
    with quiet():
        SpatialData(images={"slide": image}).write(path)
    return path


def with_spots(path: Path, centers: np.ndarray, genes: list[str], n_other_genes: int = 0) -> SpatialData:
    """Open the slide and lay spots on it, with an empty table of these genes and some others."""
    sdata = read_zarr(path)
    n_spots = len(centers)
    names = [*genes, *(f"other{number}" for number in range(n_other_genes))]
    table = AnnData(
        csr_matrix((n_spots, len(names)), dtype=np.float32),
        obs=pd.DataFrame({"region": "spots", "spot": np.arange(n_spots)}, index=np.arange(n_spots).astype(str)),
        var=pd.DataFrame(index=names),
    )
    table.obs["region"] = table.obs["region"].astype("category")
    sdata["spots"] = ShapesModel.parse(centers, geometry=0, radius=10.0)
    sdata["table"] = TableModel.parse(table, region="spots", region_key="region", instance_key="spot")
    return sdata


def square_grid(n_spots: int, side_px: int, margin_px: float) -> np.ndarray:
    """Centres x, y of about `n_spots` spots that fill the image evenly."""
    along = np.linspace(margin_px, side_px - margin_px, round(np.sqrt(n_spots)))
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)


def random_model(encoder: str, patch_px: int, n_genes: int, map_px: int | None = None) -> Model:
    """Model with random weights, for patches in plain pixels."""
    config = NetworkConfig(n_genes=n_genes, encoder=encoder, patch_px=patch_px, map_px=map_px)
    genes = [f"gene{number}" for number in range(n_genes)]
    network = NH2ST(config, encoder_weights=None).eval()
    return Model(network=network, genes=genes, target=Target.named("default"), patch_um=None)


@contextlib.contextmanager
def quiet() -> object:
    """Without the warnings of the libraries below."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
