from __future__ import annotations

import logging

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy.sparse import csr_matrix

import nh2st as nh
from nh2st._expression import gene_sets, read_counts
from nh2st._sections import Selection, Spots, find_spots


def counts_of(data, layer=None, **chosen):
    return [read_counts(section, layer) for section in find_spots(data, Selection(**chosen))]


def gradients(make_grid, strength: np.ndarray, level: np.ndarray, seed: int = 0, side: int = 12) -> Spots:
    """A square section whose genes have a mean count, and a gradient from left to right of some strength."""
    adata = make_grid("square", side, side)
    place = np.asarray(adata.obsm["spatial"])[:, 0]
    place = 2 * (place - place.min()) / np.ptp(place) - 1
    counts = np.random.default_rng(seed).poisson(level * (1 + strength * place[:, None]))
    table = AnnData(csr_matrix(counts.astype(np.float32)), obs=adata.obs, obsm=dict(adata.obsm))
    table.var_names = [f"G{number}" for number in range(len(level))]
    return read_counts(find_spots(table)[0], None)


def test_genes_with_a_pattern_are_spatially_variable(make_grid):
    strength = np.zeros(25)
    # Up and down, so that the other genes do not change with the sum that counts are scaled to.
    strength[[3, 7, 11, 15, 19]] = [0.95, -0.8, 0.7, -0.7, 0.6]
    sections = [gradients(make_grid, strength, np.full(25, 20.0), seed) for seed in range(2)]
    panel = [f"G{number}" for number in reversed(range(25))]
    found = gene_sets(sections, panel)
    assert set(found["spatially_variable"]) == {"G3", "G7", "G11", "G15", "G19"}
    assert {len(genes) for genes in found.values()} == {5}


def test_ranks_agree_with_scanpy(make_grid):
    rng = np.random.default_rng(1)
    section = gradients(make_grid, rng.uniform(0, 0.9, 30), rng.uniform(1, 30, 30))
    panel = [f"G{number}" for number in range(30)]
    found = gene_sets([section], panel)
    adata = section.table.copy()
    nh.pp.spatial_neighbors(adata)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    moran = sc.metrics.morans_i(adata.obsp["spatial_connectivities"], adata.X.T.tocsr())
    assert found["spatially_variable"] == [f"G{number}" for number in np.argsort(-moran)[:6]]
    dispersion = sc.pp.highly_variable_genes(adata, inplace=False)["dispersions"]
    assert found["highly_variable"] == dispersion.nlargest(6).index.tolist()


def test_other_sections_and_stored_graphs_have_no_say(make_sdata):
    sdata = make_sdata(("A", "B"), side=6)
    training = counts_of(sdata, sections=["A"])
    panel = list(sdata["table"].var_names)
    expected = gene_sets(training, panel)
    counts = sdata["table"].X.toarray()
    counts[sdata["table"].obs["region"] == "B"] = counts[sdata["table"].obs["region"] == "B"][:, ::-1]
    sdata["table"].X = csr_matrix(counts)
    nh.pp.spatial_neighbors(sdata, sections=["B"])
    assert gene_sets(counts_of(sdata, sections=["A"]), panel) == expected


@pytest.mark.parametrize(("n_genes", "size"), [(3, 1), (14, 2), (260, 50)])
def test_sizes(make_grid, n_genes, size):
    section = gradients(make_grid, np.full(n_genes, 0.5), np.linspace(1, 9, n_genes), side=6)
    found = gene_sets([section], [f"G{number}" for number in range(n_genes)])
    assert {name: len(set(genes)) for name, genes in found.items()} == {
        "highly_variable": size,
        "spatially_variable": size,
    }


def test_highly_variable_genes_are_highly_expressed_too(make_grid):
    level = np.repeat([0.5, 20.0], 10)
    strength = np.tile([0.0, 0.9, 0.0, -0.9, 0.0], 4)
    found = gene_sets([gradients(make_grid, strength, level)], [f"G{number}" for number in range(20)])
    assert set(found["highly_variable"]) == {"G11", "G13", "G16", "G18"}


def test_constant_genes_are_in_no_set(make_grid):
    section = gradients(make_grid, np.array([0.5, 0, 0, 0, 0, 0]), np.array([5.0, 0, 0, 0, 0, 0]))
    panel = [f"G{number}" for number in range(6)]
    assert gene_sets([section], panel) == {"highly_variable": ["G0"], "spatially_variable": ["G0"]}
    still = gradients(make_grid, np.zeros(6), np.zeros(6))
    assert gene_sets([still], panel) == {"highly_variable": [], "spatially_variable": []}


def test_spots_without_neighbours_have_no_spatial_pattern(make_counts):
    adata = make_counts(1)
    other = make_counts(1, seed=1)
    sections = [counts_of(table)[0] for table in (adata, other)]
    assert gene_sets(sections, list(adata.var_names))["spatially_variable"] == []


def test_counts_in_a_layer(make_counts, caplog):
    adata = make_counts()
    expected = gene_sets(counts_of(adata), list(adata.var_names))
    adata.layers["raw"], adata.X = adata.X, np.log1p(adata.X.toarray())
    with pytest.raises(ValueError, match="log-normalised already.*layer="):
        gene_sets(counts_of(adata), list(adata.var_names))
    with caplog.at_level(logging.WARNING):
        assert gene_sets(counts_of(adata, "raw"), list(adata.var_names)) == expected
