from __future__ import annotations

import numpy as np
import pytest
import spatialdata
from scipy.stats import spearmanr
from spatialdata import SpatialData

import nh2st as nh

FRACTION_OF = {
    "tumor": "fraction_tumor",
    "gland": "fraction_gland",
    "fibroblast": "fraction_fibroblast",
    "t_cell": "fraction_t_cell",
    "plasma_cell": "fraction_plasma_cell",
    "adipose": "fraction_adipose",
}


@pytest.fixture(scope="module")
def sdata() -> SpatialData:
    return nh.datasets.synthetic(3)


@pytest.fixture(scope="module")
def expression(sdata: SpatialData) -> np.ndarray:
    counts = sdata["table"].X.toarray()
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def correlations(expression: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.array([spearmanr(gene, values).statistic for gene in expression.T])


def test_layout(sdata: SpatialData):
    table = sdata["table"]
    assert table.shape == (3 * 144, 80)
    assert table.X.dtype == np.float32
    assert (table.X.data == np.rint(table.X.data)).all()
    assert table.obs_names[0] == "S1_0x0"
    assert list(table.obs["donor"].unique()) == ["D1", "D2", "D3"]
    assert sdata["S2_image"]["scale0"].image.shape == (3, 1300, 1300)
    assert sdata["S2_image"]["scale0"].image.dtype == np.uint8
    assert sdata.attrs["nh2st"]["mpp"] == {"S1_image": 1.0, "S2_image": 1.0, "S3_image": 1.0}
    rows = table.obs["region"] == "S2"
    centres = np.column_stack([sdata["S2"].geometry.x, sdata["S2"].geometry.y])
    np.testing.assert_array_equal(centres, table.obsm["spatial"][rows])
    np.testing.assert_array_equal(centres, 100 * (table.obs.loc[rows, ["array_col", "array_row"]] + 1))


@pytest.mark.parametrize(("programme", "fraction"), FRACTION_OF.items())
def test_markers_follow_their_cells(sdata: SpatialData, expression: np.ndarray, programme: str, fraction: str):
    genes = sdata["table"].var["programme"] == programme
    assert correlations(expression[:, genes], sdata["table"].obs[fraction]).mean() > 0.4


def test_noise_follows_nothing(sdata: SpatialData, expression: np.ndarray):
    table = sdata["table"]
    genes = table.var["programme"] == "noise"
    within = [
        correlations(expression[rows][:, genes], table.obs.loc[rows, fraction]).mean()
        for fraction in FRACTION_OF.values()
        for rows in (table.obs["section"] == name for name in ("S1", "S2", "S3"))
    ]
    assert np.abs(within).mean() < 0.15


def hematoxylin(pixels: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2hed

    return rgb2hed(pixels)[..., 0]


def patches(sdata: SpatialData, name: str, half: int = 35) -> np.ndarray:
    image = sdata[f"{name}_image"]["scale0"].image.values.transpose(1, 2, 0)
    xy = sdata["table"].obsm["spatial"][sdata["table"].obs["section"] == name].astype(int)
    return np.stack([image[y - half : y + half, x - half : x + half] for x, y in xy])


@pytest.mark.parametrize("name", ["S1", "S2", "S3"])
def test_nuclei_can_be_seen(sdata: SpatialData, name: str):
    obs = sdata["table"].obs.query("section == @name")
    density = hematoxylin(patches(sdata, name)).mean(axis=(1, 2))
    assert spearmanr(density, obs["n_nuclei"]).statistic > 0.7


def test_fat_is_white(sdata: SpatialData):
    obs = sdata["table"].obs.query("section == 'S1'")
    white = (patches(sdata, "S1").min(axis=-1) > 210).mean(axis=(1, 2))
    assert spearmanr(white, obs["fraction_adipose"]).statistic > 0.3
    assert white[obs["fraction_adipose"] > 0.5].min() > white[obs["fraction_adipose"] == 0].mean()


def test_donors_differ_in_stain_and_sections_of_one_do_not():
    sdata = nh.datasets.synthetic(4, n_donors=2, spots_per_side=4)
    assert list(sdata["table"].obs["donor"].unique()) == ["D1", "D2"]
    # the hue of dark nuclei depends on the stain, not on how many there are
    hues = []
    for name in ("S1", "S2", "S3", "S4"):
        pixels = sdata[f"{name}_image"]["scale0"].image.values.reshape(3, -1).T.astype(float)
        density = -np.log10((pixels + 1) / 256)
        nuclei = density[density[:, 0] > np.quantile(density[:, 0], 0.95)]
        hues.append(nuclei.mean(axis=0) / np.linalg.norm(nuclei.mean(axis=0)))
    hues = np.array(hues)
    same = np.linalg.norm(hues[[0, 1]] - hues[[2, 3]], axis=1).max()
    other = np.linalg.norm(hues[[0, 2]] - hues[[1, 3]], axis=1).min()
    assert other > 2 * same


def test_same_seed_same_data():
    first, second, other = (nh.datasets.synthetic(1, spots_per_side=3, seed=seed) for seed in (5, 5, 6))
    image = [data["S1_image"]["scale0"].image.values for data in (first, second, other)]
    counts = [data["table"].X.toarray() for data in (first, second, other)]
    np.testing.assert_array_equal(image[0], image[1])
    np.testing.assert_array_equal(counts[0], counts[1])
    assert (image[0] != image[2]).mean() > 0.5
    assert (counts[0] != counts[2]).mean() > 0.5


@pytest.mark.parametrize("n_genes", [7, 100])
def test_number_of_genes(n_genes: int):
    table = nh.datasets.synthetic(1, spots_per_side=2, n_genes=n_genes)["table"]
    assert table.n_vars == n_genes
    assert table.var_names.is_unique
    assert (table.var["programme"][80:] == "noise").all()


def test_one_spot():
    sdata = nh.datasets.synthetic(1, spots_per_side=1, n_genes=1)
    assert sdata["table"].shape == (1, 1)


def test_round_trip_through_zarr(tmp_path):
    sdata = nh.datasets.synthetic(2, spots_per_side=3)
    sdata.write(tmp_path / "synthetic.zarr")
    again = spatialdata.read_zarr(tmp_path / "synthetic.zarr")
    assert again.attrs["nh2st"] == sdata.attrs["nh2st"]
    assert list(again["table"].var["programme"]) == list(sdata["table"].var["programme"])
    np.testing.assert_array_equal(again["table"].X.toarray(), sdata["table"].X.toarray())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_sections": 0}, "n_sections must be at least 1, not 0"),
        ({"n_genes": -1}, "n_genes must be at least 1, not -1"),
        ({"spots_per_side": 0}, "spots_per_side must be at least 1"),
        ({"n_sections": 2, "n_donors": 3}, "n_donors=3 is more than n_sections=2"),
    ],
)
def test_impossible_numbers(arguments: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        nh.datasets.synthetic(**arguments)


def test_import_is_light():
    import subprocess
    import sys

    code = "import sys, nh2st.datasets; sys.exit(bool({'numpy', 'pandas', 'torch', 'spatialdata'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
