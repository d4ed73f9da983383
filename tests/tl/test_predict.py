from __future__ import annotations

import dataclasses

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csc_matrix, hstack, issparse
from spatialdata import SpatialData, deepcopy, read_zarr

import nh2st as nh

mpl.use("Agg")


def rows_of(sdata: SpatialData, section: str) -> np.ndarray:
    return np.flatnonzero(sdata["table"].obs["region"] == section)


def layer_of(sdata: SpatialData, name: str = "nh2st") -> np.ndarray:
    values = sdata["table"].layers[name]
    return values.toarray() if issparse(values) else values


def replace_table(sdata: SpatialData, genes: list[str]) -> None:
    """Keep these genes, and fill up with empty ones where the table lacks them."""
    table = sdata["table"]
    there = [gene for gene in genes if gene in table.var_names]
    kept = table[:, there].copy()
    extra = [gene for gene in genes if gene not in there]
    whole = type(table)(
        hstack([kept.X, csc_matrix((len(table), len(extra)), dtype=np.float32)], format="csr"),
        obs=kept.obs,
        var=pd.DataFrame(index=[*there, *extra]),
        uns=kept.uns,
        obsm={"spatial": kept.obsm["spatial"]},
    )
    sdata["table"] = whole[:, genes].copy()


@pytest.mark.parametrize("mpp", [None, 0.5])
def test_values_are_the_network_on_the_patches(trained, cut_by_hand, mpp):
    sdata, model = trained
    nh.tl.predict(sdata, model, batch_size=7, mpp=mpp)
    values = sdata["table"].layers["nh2st"]
    assert isinstance(values, np.ndarray)
    assert values.dtype == np.float32
    for section in "AD":
        patches = torch.from_numpy(cut_by_hand(sdata, section, round(32 / (mpp or 1))))
        expected = model.network.cpu().predict(patches).numpy()
        order = sdata["table"].var_names.get_indexer(model.genes)
        np.testing.assert_allclose(values[rows_of(sdata, section)][:, order], expected, rtol=1e-4, atol=1e-4)
    assert sdata["table"].var["nh2st_predicted"].all()
    assert sdata["table"].uns["nh2st"]["nh2st"]["mpp"] == dict.fromkeys("ABCD", mpp or 1.0)


def test_order_of_rows_and_size_of_batches_do_not_matter(trained):
    sdata, model = trained
    shuffled = deepcopy(sdata)
    order = np.random.default_rng(0).permutation(sdata["table"].n_obs)
    shuffled["table"] = sdata["table"][order].copy()
    nh.tl.predict(sdata, model, batch_size=64)
    nh.tl.predict(shuffled, model, batch_size=5)
    np.testing.assert_allclose(layer_of(shuffled), layer_of(sdata)[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        layer_of(shuffled, "nh2st_ridge"), layer_of(sdata, "nh2st_ridge")[order], rtol=1e-4, atol=1e-4
    )


def test_other_genes_make_the_layer_sparse(trained):
    sdata, model = trained
    nh.tl.predict(sdata, model)
    dense = sdata["table"].to_df("nh2st")
    genes = ["other1", *reversed(model.genes), "other2"]
    replace_table(sdata, genes)
    nh.tl.predict(sdata, model)
    table = sdata["table"]
    assert table.layers["nh2st"].format == "csc"
    assert np.diff(table.layers["nh2st"].indptr).tolist() == [0, *[table.n_obs] * 8, 0]
    assert table.var["nh2st_predicted"].tolist() == [False, *[True] * 8, False]
    np.testing.assert_array_equal(table.to_df("nh2st")[model.genes], dense[model.genes])
    assert "nh2st" not in table.obsm


def test_genes_that_the_table_lacks_are_kept(trained, caplog):
    sdata, model = trained
    nh.tl.predict(sdata, model)
    dense = sdata["table"].to_df("nh2st")
    replace_table(sdata, ["gene5", "gene0", "other"])
    nh.tl.predict(sdata, model)
    table = sdata["table"]
    missing = [gene for gene in model.genes if gene not in ("gene0", "gene5")]
    assert "6 genes of the model are not in the table" in caplog.text
    assert list(table.obsm["nh2st"].columns) == missing
    np.testing.assert_array_equal(table.obsm["nh2st"], dense[missing])
    taken = nh.get.predicted(sdata)
    assert list(taken.var_names) == model.genes
    np.testing.assert_array_equal(taken.to_df(), dense[model.genes])


def test_genes_of_another_species(trained, unchanged):
    sdata, model = trained
    replace_table(sdata, ["Erbb2", "Fasn"])
    with unchanged(sdata), pytest.raises(ValueError, match="Only 0 of the model's 8 genes .*gene.*Erbb2.*species"):
        nh.tl.predict(sdata, model)


def test_repeated_gene_names(trained, unchanged):
    sdata, model = trained
    sdata["table"].var_names = ["gene0", *sdata["table"].var_names[:-1]]
    with unchanged(sdata), pytest.raises(ValueError, match="'gene0'.*var_names_make_unique"):
        nh.tl.predict(sdata, model)


def test_masked_spots_and_other_sections_are_nan(trained):
    sdata, model = trained
    table = sdata["table"]
    table.obs["in_tissue"] = (table.obs["instance_id"] % 3 != 0).astype(int)
    nh.tl.predict(sdata, model, sections=["D"])
    expected = (table.obs["region"] == "D") & (table.obs["in_tissue"] == 1)
    for name in ("nh2st", "nh2st_ridge"):
        np.testing.assert_array_equal(np.isfinite(layer_of(sdata, name)), np.tile(expected.to_numpy()[:, None], 8))
    assert list(nh.get.predicted(sdata).obs_names) == list(table.obs_names[expected])


@pytest.mark.parametrize("place", ["layers", "obsm"])
def test_foreign_results_are_not_replaced(trained, unchanged, place):
    sdata, model = trained
    values = np.zeros(sdata["table"].shape, dtype=np.float32)
    getattr(sdata["table"], place)["nh2st"] = values
    with unchanged(sdata), pytest.raises(ValueError, match=place + ".*not written by nh2st.*key_added.*overwrite=True"):
        nh.tl.predict(sdata, model)
    nh.tl.predict(sdata, model, key_added="other")
    np.testing.assert_array_equal(getattr(sdata["table"], place)["nh2st"], values)
    nh.tl.predict(sdata, model, overwrite=True)
    np.testing.assert_array_equal(layer_of(sdata), layer_of(sdata, "other"))


def test_own_results_are_replaced_with_what_was_said_of_them(trained, train):
    sdata, model = trained
    nh.tl.predict(sdata, model)
    nh.tl.evaluate(sdata)
    first = layer_of(sdata).copy()
    other = train(sdata, seed=4)
    nh.tl.predict(sdata, other, baselines=False)
    table = sdata["table"]
    assert not np.allclose(layer_of(sdata), first)
    assert table.uns["nh2st"]["nh2st"]["sha256"] == other.sha256
    assert list(table.layers) == ["nh2st"]
    assert list(table.varm) == []
    assert set(table.var.columns) == {"nh2st_predicted", "nh2st_training_mean"}


def test_several_results_live_side_by_side(trained, train):
    sdata, model = trained
    nh.tl.predict(sdata, model)
    first = layer_of(sdata).copy()
    nh.tl.predict(sdata, train(sdata, genes=["gene2"], seed=4), key_added="small")
    np.testing.assert_array_equal(layer_of(sdata), first)
    assert list(nh.get.predicted(sdata, "small").var_names) == ["gene2"]
    assert nh.get.predicted(sdata).n_vars == 8


def test_model_of_the_session_is_used(make_sdata, train, monkeypatch, tmp_path):
    (tmp_path / "registry.json").write_text("[]")
    monkeypatch.setattr("nh2st.models._registry.REGISTRY_FILE", tmp_path / "registry.json")
    sdata, other = make_sdata(side=3), make_sdata(side=3)
    model = train(sdata)
    nh.tl.predict(sdata)
    assert sdata["table"].uns["nh2st"]["nh2st"]["sha256"] == model.sha256
    with pytest.raises(ValueError, match='Which model.*"model.safetensors"'):
        nh.tl.predict(other)
    nh.tl.predict([sdata, other])
    np.testing.assert_array_equal(layer_of(sdata), layer_of(other))
    train(other, seed=2)
    with pytest.raises(ValueError, match="several were trained"):
        nh.tl.predict([sdata, other])


def test_table_alone_has_no_image(trained):
    sdata, model = trained
    for chosen in (model, None):
        with pytest.raises(TypeError, match="needs the image"):
            nh.tl.predict(sdata["table"], chosen)


def test_model_in_a_file(trained, tmp_path):
    sdata, model = trained
    nh.tl.predict(sdata, model)
    path = model.save(tmp_path / "model.safetensors")
    nh.tl.predict(sdata, str(path), key_added="text")
    nh.tl.predict(sdata, path, key_added="path")
    for name in ("text", "path"):
        np.testing.assert_array_equal(layer_of(sdata, name), layer_of(sdata))


def test_only_training_sections_are_warned_of(trained, caplog):
    sdata, model = trained
    nh.tl.predict(sdata, model, sections=["D"])
    assert "trained on section" not in caplog.text
    nh.tl.predict(sdata, model, sections=["B", "D"])
    assert "The model was trained on section 'B'" in caplog.text
    assert "'D'" not in caplog.text.split("The model was trained on section")[1]


def test_training_sections_are_known_with_other_spots_masked(trained, caplog):
    sdata, model = trained
    sdata["table"].obs["part"] = np.arange(sdata["table"].n_obs) % 2 == 0
    nh.tl.predict(sdata, model, sections=["B"], spots="part")
    assert "The model was trained on section 'B'" in caplog.text


def test_sections_without_counts(trained):
    sdata, model = trained
    nh.tl.predict(sdata, model)
    expected = layer_of(sdata).copy()
    table = sdata["table"]
    table.X.data[:] = 0
    nh.tl.predict(sdata, model)
    np.testing.assert_array_equal(layer_of(sdata), expected)
    assert list(table.layers) == ["nh2st"]
    nh.tl.predict(sdata, model, baselines=True)
    assert np.isfinite(layer_of(sdata, "nh2st_ridge")).all()


def test_half_precision_leaves_the_baseline_exact(trained):
    sdata, model = trained
    nh.tl.predict(sdata, model, precision="32", key_added="full")
    nh.tl.predict(sdata, model, precision="bf16", key_added="half")
    half, full = layer_of(sdata, "half"), layer_of(sdata, "full")
    np.testing.assert_allclose(half, full, rtol=0.02, atol=0.1)
    assert len(np.unique(half[:, 0])) == len(np.unique(full[:, 0])), "predictions are not rounded to half precision"
    np.testing.assert_array_equal(layer_of(sdata, "half_ridge"), layer_of(sdata, "full_ridge"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"device": "gpu0"}, "device='gpu0' is unknown"),
        ({"precision": "16"}, "precision must be"),
        ({"mpp": 0}, "mpp= must be a positive number"),
    ],
)
def test_settings_are_checked(trained, unchanged, settings, message):
    sdata, model = trained
    with unchanged(sdata), pytest.raises(ValueError, match=message):
        nh.tl.predict(sdata, model, **settings)


def test_results_survive_zarr(trained, tmp_path):
    sdata, model = trained
    replace_table(sdata, ["gene5", "gene0", "other"])
    nh.tl.predict(sdata, model, sections=["D"])
    frame = nh.tl.evaluate(sdata)
    sdata.write(tmp_path / "sections.zarr")
    again = read_zarr(tmp_path / "sections.zarr")
    table, read = sdata["table"], again["table"]
    np.testing.assert_array_equal(layer_of(again), layer_of(sdata))
    pd.testing.assert_frame_equal(read.varm["nh2st_pearson"], table.varm["nh2st_pearson"])
    pd.testing.assert_frame_equal(pd.DataFrame(read.obsm["nh2st"]), table.obsm["nh2st"])
    assert read.uns["nh2st"]["nh2st"]["target"] == model.target.to_dict()
    assert read.uns["nh2st"]["nh2st"]["mpp"] == {"D": 1.0}
    for name, metrics in table.uns["nh2st"]["nh2st"]["evaluation"].items():
        assert read.uns["nh2st"]["nh2st"]["evaluation"][name] == pytest.approx(metrics, nan_ok=True)
    pd.testing.assert_frame_equal(nh.tl.evaluate(again), frame)
    np.testing.assert_array_equal(nh.get.predicted(again).X, nh.get.predicted(sdata).X)


@pytest.mark.parametrize("by", ["sc.pl.spatial", "sc.pl.embedding", "sq.pl.spatial_scatter"])
def test_other_packages_draw_the_layer(trained, by, monkeypatch):
    sdata, model = trained
    nh.tl.predict(sdata, model, sections=["D"])
    adata = sdata["table"][rows_of(sdata, "D")].copy()
    expected = adata[:, "gene1"].layers["nh2st"].ravel()
    import matplotlib.pyplot as plt

    settings = {"color": "gene1", "layer": "nh2st"}
    if by == "sc.pl.spatial":
        import scanpy as sc

        sc.pl.spatial(adata, spot_size=30, show=False, **settings)
    elif by == "sc.pl.embedding":
        import scanpy as sc

        sc.pl.embedding(adata, "spatial", show=False, sort_order=False, **settings)
    else:
        sq = pytest.importorskip("squidpy")
        sq.pl.spatial_scatter(adata, shape=None, **settings)
    drawn = [
        collection.get_array()
        for ax in plt.gcf().axes
        for collection in ax.collections
        if collection.get_array() is not None
    ]
    plt.close("all")
    assert any(values.size == expected.size and np.allclose(np.sort(values), np.sort(expected)) for values in drawn)


def test_sections_can_be_predicted_one_by_one(trained):
    sdata, model = trained
    nh.tl.predict(sdata, model)
    together = layer_of(sdata)
    del sdata["table"].layers["nh2st"], sdata["table"].layers["nh2st_ridge"], sdata["table"].uns["nh2st"]["nh2st"]
    for section, precision in (("D", "auto"), ("A", "32")):
        nh.tl.predict(sdata, model, sections=[section], precision=precision)
    rows = sdata["table"].obs["region"].isin(["A", "D"]).to_numpy()
    np.testing.assert_array_equal(layer_of(sdata)[rows], together[rows])
    assert np.isnan(layer_of(sdata)[~rows]).all()
    assert set(sdata["table"].uns["nh2st"]["nh2st"]["mpp"]) == {"A", "D"}
    precision = sdata["table"].uns["nh2st"]["nh2st"]["precision"]
    assert precision["A"] == "32"
    assert precision["D"] in ("32", "bf16")  # that of the device


def test_masking_a_section_takes_its_earlier_predictions_away(trained):
    sdata, model = trained
    nh.tl.predict(sdata, model)
    sdata["table"].obs["part"] = np.arange(sdata["table"].n_obs) % 2 == 0
    nh.tl.predict(sdata, model, sections=["D"], spots="part")
    masked = (~sdata["table"].obs["part"] & (sdata["table"].obs["region"] == "D")).to_numpy()
    np.testing.assert_array_equal(np.isnan(layer_of(sdata)).all(axis=1), masked)


def test_scale_must_be_of_the_kind_that_the_model_was_trained_on(trained, unchanged):
    sdata, model = trained
    with unchanged(sdata), pytest.raises(ValueError, match="trained on patches of 32 um.*mpp=0.5"):
        nh.tl.predict(sdata, model, mpp="native")
    plain = dataclasses.replace(model, patch_um=None)
    with unchanged(sdata), pytest.raises(ValueError, match="trained on plain pixels.*Leave `mpp=` out"):
        nh.tl.predict(sdata, plain, mpp=1.0)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("my key", "use letters, digits"),
        ("a/b", "use letters, digits"),
        ("", "use letters, digits"),
        ("counts", "reserved"),
        ("training", "reserved"),
        ("Mine", "differs from layers\\['mine'\\] by case alone"),
    ],
)
def test_names_that_cannot_be_used(trained, unchanged, key, message):
    sdata, model = trained
    sdata["table"].layers["mine"] = sdata["table"].X.copy()
    with unchanged(sdata), pytest.raises(ValueError, match=message):
        nh.tl.predict(sdata, model, key_added=key)


def test_counts_in_a_layer_are_enough_for_the_ridge(trained):
    sdata, model = trained
    table = sdata["table"]
    table.layers["counts"], table.X = table.X, None
    nh.tl.predict(sdata, model, sections=["D"])
    assert "nh2st_ridge" in table.layers


def test_what_is_no_model(trained):
    sdata, _ = trained
    with pytest.raises(TypeError, match="`model` must be what `nh.tl.train` returned.*not dict"):
        nh.tl.predict(sdata, {"a": 1})
