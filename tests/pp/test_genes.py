from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy.sparse import csr_matrix

import nh2st as nh
from nh2st._expression import check_genes, choose_genes, read_counts
from nh2st._sections import find_spots


def counts_of(data):
    return [read_counts(section, None) for section in find_spots(data)]


def marked(adata):
    return adata.var_names[adata.var["nh2st_gene"]].tolist()


def lognormal(adata):
    other = adata.copy()
    sc.pp.normalize_total(other, target_sum=1e4)
    sc.pp.log1p(other)
    return other


def test_highest_mean_counts(make_counts):
    adata = make_counts(50, 12)
    expected = pd.Series(np.asarray(adata.X.mean(axis=0)).ravel(), adata.var_names).nlargest(5).index
    nh.pp.select_genes(adata, 5)
    assert set(marked(adata)) == set(expected)
    assert choose_genes(counts_of(adata), 5) == expected.tolist()


def test_mean_is_over_spots_not_over_sections(make_counts):
    large, small = make_counts(90, 4), make_counts(10, 4)
    large.X, small.X = np.tile([3, 2, 0, 1], (90, 1)), np.tile([0, 1, 9, 1], (10, 1))
    assert choose_genes(counts_of([large, small]), 2) == ["G0", "G1"]


def test_genes_are_chosen_on_the_sections_given_and_marked_everywhere(make_counts):
    train, test = make_counts(30, 6), make_counts(30, 6)
    test.X = test.X[:, ::-1].copy()
    nh.pp.select_genes({"train": train, "test": test}, 2, sections=["train"])
    assert marked(train) == marked(test) == ["G4", "G5"]


def test_only_common_genes_are_chosen(make_counts, caplog):
    first, second = make_counts(30, 10), make_counts(30, 10)
    second.var_names = [f"G{i}" for i in range(2, 12)]
    second = second[:, ::-1].copy()
    with caplog.at_level(logging.INFO, logger="nh2st"):
        nh.pp.select_genes([first, second], 8)
    assert marked(first) == [f"G{i}" for i in range(2, 10)]
    assert set(marked(second)) == set(marked(first))
    assert "4 genes that not all tables have are left out; 8 are common" in caplog.text
    with pytest.raises(ValueError, match="9 genes were asked for, but the tables have 8 in common"):
        nh.pp.select_genes([first, second], 9)


def test_values_are_matched_by_name(make_counts):
    first = make_counts(30, 10)
    turned = first[:, ::-1].copy()
    assert choose_genes(counts_of([first, turned]), 4) == choose_genes(counts_of(first), 4)


def test_highly_variable_equals_scanpy(make_counts):
    adata = make_counts(200, 60, seed=1)
    expected = sc.pp.highly_variable_genes(lognormal(adata), n_top_genes=10, flavor="seurat", inplace=False)
    nh.pp.select_genes(adata, 10, method="highly_variable")
    # Where genes tie for the last place, scanpy marks all of them.
    assert set(marked(adata)) <= set(expected.index[expected["highly_variable"]])
    assert len(marked(adata)) == 10
    ranked = expected["dispersions_norm"].nlargest(10).index.tolist()
    assert choose_genes(counts_of(adata), 10, "highly_variable") == ranked


def test_highly_variable_over_sections_equals_scanpy(make_counts):
    adata = make_counts(300, 60, seed=2, regions=3)
    expected = sc.pp.highly_variable_genes(
        lognormal(adata), n_top_genes=10, flavor="seurat", batch_key="region", inplace=False
    )
    nh.pp.select_genes(adata, 10, method="highly_variable")
    assert set(marked(adata)) == set(expected.index[expected["highly_variable"]])


@pytest.fixture
def patterned(make_counts):
    """Two regions on square grids; G2 is a gradient and G5 a pattern of stripes, in both regions."""
    adata = make_counts(200, 8, seed=3, regions=2)
    row, col = (ids.ravel() for ids in np.indices((10, 10)))
    dense = adata.X.toarray()
    for region in ("r0", "r1"):
        rows = np.flatnonzero(adata.obs["region"] == region)
        adata.obsm["spatial"][rows] = np.column_stack([col, row])
        dense[rows, 2] = row + col
        dense[rows, 5] = 10 * (row // 3 % 2)
    adata.X = dense
    return adata


def test_moran_finds_spatial_patterns(patterned):
    assert set(choose_genes(counts_of(patterned), 2, "moran")) == {"G2", "G5"}
    nh.pp.select_genes(patterned, 2, method="moran")
    assert marked(patterned) == ["G2", "G5"]
    assert not patterned.obsp


def test_moran_equals_squidpy(patterned):
    sq = pytest.importorskip("squidpy")
    from nh2st._expression import Target, log_scaled
    from nh2st._expression._ranking import moran_scores

    spots = counts_of(patterned)
    target = Target.named("default")
    logs = [log_scaled(csr_matrix(patterned.X[counts.rows]), None, target, counts.name) for counts in spots]
    expected = []
    for counts in spots:
        section = lognormal(patterned[counts.rows].copy())
        sq.gr.spatial_neighbors_grid(section, n_neighs=4)
        sq.gr.spatial_autocorr(section, mode="moran", transformation=False, n_perms=None)
        expected.append(section.uns["moranI"]["I"].reindex(patterned.var_names))
    np.testing.assert_allclose(moran_scores(spots, logs), np.mean(expected, axis=0), rtol=1e-4)


def test_moran_uses_the_graph_that_is_there(patterned):
    nh.pp.spatial_neighbors(patterned, radius=1.0)
    assert set(choose_genes(counts_of(patterned), 2, "moran")) == {"G2", "G5"}


@pytest.mark.parametrize("method", ["mean_count", "highly_variable", "moran"])
def test_constant_genes_come_last(patterned, caplog, method):
    dense = np.asarray(patterned.X)
    dense[:, 0] = 50
    dense[:, 1] = 0
    patterned.X = dense
    chosen = choose_genes(counts_of(patterned), 7, method)
    # Scaled by the total of each spot, the gene of constant counts is not constant; its counts carry no signal though.
    assert set(chosen[:6]) == {"G2", "G3", "G4", "G5", "G6", "G7"}
    assert "1 of the 7 genes chosen are the same in all spots" in caplog.text


def test_list_of_genes(make_counts):
    adata = make_counts()
    nh.pp.select_genes(adata, genes=["G7", "G1", "G7"])
    assert marked(adata) == ["G1", "G7"]
    assert check_genes([adata], ["G7", "G1", "G7"]) == ["G7", "G1"]


def test_unknown_genes_are_named_with_close_ones(make_counts):
    adata = make_counts()
    adata.var_names = ["ERBB2", "FASN", *adata.var_names[2:]]
    with pytest.raises(KeyError, match=r"3 of 4 genes .*'erbb2' \(did you mean 'ERBB2'\?\).*'FASNN' .*'FASN'.*'XIST'"):
        nh.pp.select_genes(adata, genes=["erbb2", "FASNN", "XIST", "G4"])
    assert "nh2st_gene" not in adata.var


def test_genes_must_be_in_all_tables(make_counts):
    with pytest.raises(KeyError, match="'G9'"):
        nh.pp.select_genes([make_counts(genes=12), make_counts(genes=9)], genes=["G1", "G9"])


def test_repeated_names_are_refused(make_counts):
    adata = make_counts()
    adata.var_names = ["A", "A", *adata.var_names[2:]]
    with pytest.raises(ValueError, match="1 gene names repeat .*'A'.*var_names_make_unique"):
        nh.pp.select_genes(adata, 3)


@pytest.mark.parametrize("n_genes", [0, -1, 13])
def test_number_of_genes_is_checked(make_counts, n_genes):
    with pytest.raises(ValueError, match=f"{n_genes} genes were asked for, but the tables have 12"):
        nh.pp.select_genes(make_counts(), n_genes)


def test_unknown_method_and_empty_list(make_counts):
    with pytest.raises(ValueError, match="'mean_count', 'highly_variable', 'moran'"):
        nh.pp.select_genes(make_counts(), 3, method="seurat")
    with pytest.raises(ValueError, match="empty"):
        nh.pp.select_genes(make_counts(), genes=[])


def test_one_spot(make_counts):
    adata = make_counts(1)
    nh.pp.select_genes(adata, 2)
    assert len(marked(adata)) == 2
    with pytest.raises(ValueError, match="neighbouring spots"):
        nh.pp.select_genes(adata, 2, method="moran")


def test_no_spot_is_used(make_counts):
    adata = make_counts()
    adata.obs["in_tissue"] = False
    with pytest.raises(ValueError, match="No spot is used"):
        nh.pp.select_genes(adata, 3)
    nh.pp.spatial_neighbors(adata)
    nh.pp.normalize(adata)
    assert adata.obsp["spatial_connectivities"].nnz == adata.layers["nh2st_target"].nnz == 0


def test_second_call_replaces_and_copy_leaves(make_counts):
    adata = make_counts()
    nh.pp.select_genes(adata, 5)
    result = nh.pp.select_genes(adata, 3, copy=True)
    assert (len(marked(result)), len(marked(adata))) == (3, 5)
    nh.pp.select_genes(adata, 2)
    assert len(marked(adata)) == 2


@pytest.mark.parametrize("method", ["mean_count", "highly_variable", "moran"])
def test_order_of_rows_does_not_matter(make_counts, method):
    adata = make_counts(120, 30, seed=4)
    shuffled = adata[np.random.default_rng(0).permutation(120)].copy()
    assert choose_genes(counts_of(shuffled), 6, method) == choose_genes(counts_of(adata), 6, method)
