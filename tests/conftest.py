"""Small made-up sections that every part of the package is tested on, and the folder of real ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity

import nh2st as nh

torch.set_num_threads(1)

PITCH_PX = 40
MARGIN_PX = 40
MOB = ("MOB1", "MOB2", "MOB3")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests away from the user's cache."""
    nh.settings.cache_dir = tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache_of_the_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test find what another has kept."""
    monkeypatch.setattr(nh.settings, "cache_dir", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real sections; tests that need it are skipped elsewhere."""
    folder = os.environ.get("NH2ST_DATA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("NH2ST_DATA_DIR names no folder of real sections")
    return Path(folder)


@pytest.fixture
def by_gene() -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Turn tidy scores into a row for each section, gene, model and truth, with a column for each metric."""

    def wide(scores: pd.DataFrame) -> pd.DataFrame:
        genes = scores[scores["gene"] != ""]
        labels = [name for name in ("fold", "section", "gene", "model", "truth") if name in genes]
        return genes.pivot(index=labels, columns="metric", values="value").rename_axis(columns=None).reset_index()

    return wide


@pytest.fixture
def make_sdata() -> Callable[..., SpatialData]:
    """Build a SpatialData of square ST-like sections, `side` x `side` spots each, 1 um per pixel."""
    return build_sdata


def build_sdata(
    regions: tuple[str, ...] = ("A", "B"),
    *,
    side: int = 5,
    n_genes: int = 8,
    scale_factors: tuple[int, ...] | None = None,
    seed: int = 0,
    mpp: float | None = 1.0,
) -> SpatialData:
    """Sections whose darkness drives the first half of the genes."""
    rng = np.random.default_rng(seed)
    images, shapes, tables = {}, {}, []
    for number, region in enumerate(regions):
        centers, array = spot_grid(side)
        image, darkness = draw_image(rng, centers, side)
        to_region = {region: Identity()}
        images[f"{region}_image"] = Image2DModel.parse(
            image,
            dims=("y", "x", "c"),
            scale_factors=scale_factors,
            transformations=to_region,
            c_coords=["r", "g", "b"],
        )
        shapes[region] = ShapesModel.parse(centers, geometry=0, radius=15.0, transformations=to_region)
        tables.append(_table(rng, region, f"donor{number}", darkness, array, centers, n_genes))
    table = ad.concat(tables, merge="same")
    table.obs["region"] = table.obs["region"].astype("category")
    table = TableModel.parse(table, region=list(regions), region_key="region", instance_key="instance_id")
    sdata = SpatialData(images=images, shapes=shapes, tables={"table": table})
    if mpp is not None:
        sdata.attrs["nh2st"] = {"mpp": dict.fromkeys(images, mpp)}
    return sdata


def spot_grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres x, y in pixels, and array row, column, of a square array."""
    rows, cols = np.divmod(np.arange(side * side), side)
    return MARGIN_PX + PITCH_PX * np.column_stack([cols, rows]).astype(float), np.column_stack([rows, cols])


def draw_image(rng: np.random.Generator, centers: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise, darker around some spots, and how dark each spot is (0 to 1)."""
    size = 2 * MARGIN_PX + PITCH_PX * (side - 1)
    image = rng.integers(180, 220, (size, size, 3))
    darkness = rng.random(len(centers))
    for (x, y), dark in zip(centers.astype(int), darkness, strict=True):
        image[y - 18 : y + 18, x - 18 : x + 18] -= (120 * dark * np.array([1, 1, 0.5])).astype(int)
    return image.astype(np.uint8), darkness


def _table(
    rng: np.random.Generator,
    region: str,
    donor: str,
    darkness: np.ndarray,
    array: np.ndarray,
    centers: np.ndarray,
    n_genes: int,
) -> ad.AnnData:
    rates = np.full((len(darkness), n_genes), 5.0)
    rates[:, : n_genes // 2] = 1 + 20 * darkness[:, None]
    obs = pd.DataFrame(
        {
            "region": region,
            "instance_id": np.arange(len(darkness)),
            "donor": donor,
            "array_row": array[:, 0],
            "array_col": array[:, 1],
        },
        index=[f"{region}_{number}" for number in range(len(darkness))],
    )
    var = pd.DataFrame(index=[f"gene{number}" for number in range(n_genes)])
    counts = csr_matrix(rng.poisson(rates).astype(np.float32))
    return ad.AnnData(counts, obs=obs, var=var, obsm={"spatial": centers})


@pytest.fixture
def st_section(data_dir: Path) -> Callable[[str], AnnData]:
    """Spots of a real Spatial Transcriptomics section, without their counts."""

    def read(name: str) -> AnnData:
        folder, table = ("her2st/spots", f"{name}_selection.tsv")
        if name in MOB:
            folder, table = "mob", f"alignment_table_{name}.tsv"
        frame = pd.read_csv(data_dir / folder / table, sep="\t").query("selected == 1")
        array = frame[["y", "x"]].round().astype(int).to_numpy()
        return points(frame[["pixel_x", "pixel_y"]].to_numpy(), array)

    return read


@pytest.fixture
def visium(data_dir: Path):
    """Real Visium section of a CytAssist slide."""
    pytest.importorskip("spatialdata_io")
    import spatialdata_io

    sdata = spatialdata_io.visium(data_dir / "visium", dataset_id="cytassist")
    sdata["table"].var_names_make_unique()
    return sdata


@pytest.fixture
def make_points() -> Callable[..., AnnData]:
    return points


@pytest.fixture
def make_grid() -> Callable[..., AnnData]:
    return grid


@pytest.fixture
def make_counts() -> Callable[..., AnnData]:
    return counts


def points(xy: np.ndarray, array: np.ndarray | None = None) -> AnnData:
    adata = AnnData(csr_matrix((len(xy), 1), dtype=np.float32), obsm={"spatial": np.asarray(xy, dtype=float)})
    if array is not None:
        adata.obs["array_row"], adata.obs["array_col"] = np.asarray(array).T
    return adata


def grid(kind: str, rows: int = 8, columns: int = 9, pitch: float = 10.0, jitter: float = 0.0) -> AnnData:
    """A regular array with its ids: square, hexagonal (as of Visium) or checkerboard."""
    row, col = (ids.ravel() for ids in np.indices((rows, columns)))
    step = (1.0, 1.0)
    if kind != "square":
        col = 2 * col + row % 2
        step = (np.sqrt(3) / 2, 0.5) if kind == "hexagonal" else (np.sqrt(0.5), np.sqrt(0.5))
    xy = pitch * np.column_stack([col * step[1], row * step[0]])
    xy += np.random.default_rng(0).normal(scale=jitter * pitch, size=xy.shape) if jitter else 0
    return points(xy, np.column_stack([row, col]))


def counts(n: int = 40, genes: int = 12, seed: int = 0, *, prefix: str = "G", regions: int = 1) -> AnnData:
    """Poisson counts on scattered spots, gene means growing with the number of the gene."""
    rng = np.random.default_rng(seed)
    values = rng.poisson(np.linspace(0.2, 6, genes), size=(n, genes))
    adata = AnnData(csr_matrix(values.astype(np.float32)), obsm={"spatial": rng.uniform(0, 100, (n, 2))})
    adata.var_names = [f"{prefix}{i}" for i in range(genes)]
    adata.obs_names = [f"spot{i}" for i in range(n)]
    if regions > 1:
        adata.obs["region"] = pd.Categorical([f"r{i % regions}" for i in range(n)])
        adata.obs["instance"] = np.arange(n)
        names = [f"r{i}" for i in range(regions)]
        adata.uns["spatialdata_attrs"] = {"region": names, "region_key": "region", "instance_key": "instance"}
    return adata
