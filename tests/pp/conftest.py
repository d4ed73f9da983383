from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

HER2ST = ("B4", "C2", "C3", "C4")
MOB = ("MOB1", "MOB2", "MOB3")


@pytest.fixture
def data_dir() -> Path:
    folder = os.environ.get("NH2ST_DATA_DIR")
    if not folder:
        pytest.skip("NH2ST_DATA_DIR is not set")
    return Path(folder)


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
