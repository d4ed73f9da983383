from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error
from spatialdata import SpatialData

import nh2st as nh

METRICS = ["pearson", "spearman", "mse", "mae"]
SECTIONS = ["B", "C", "D"]


@pytest.fixture
def predicted(trained) -> SpatialData:
    """Sections B, C and D with predictions."""
    sdata, model = trained
    nh.tl.predict(sdata, model, sections=SECTIONS)
    return sdata


def truth(sdata: SpatialData, section: str) -> pd.DataFrame:
    """Natural log1p of counts per 10,000."""
    adata = sdata["table"][sdata["table"].obs["region"] == section]
    counts = adata.to_df()
    return np.log1p(1e4 * counts.div(counts.sum(axis=1), axis=0))


def prediction(sdata: SpatialData, section: str, layer: str = "nh2st") -> pd.DataFrame:
    return sdata["table"][sdata["table"].obs["region"] == section].to_df(layer)


@pytest.mark.parametrize(("model", "layer"), [("model", "nh2st"), ("ridge", "nh2st_ridge")])
def test_metrics_of_each_gene_and_section(predicted, model, layer):
    frame = nh.tl.evaluate(predicted).set_index(["model", "truth", "section", "gene"]).sort_index()
    assert set(frame.index.get_level_values("section")) == set(SECTIONS)
    for section in SECTIONS:
        measured, guess = truth(predicted, section), prediction(predicted, section, layer)
        for gene in measured:
            row = frame.loc[(model, "raw", section, gene)]
            assert row["pearson"] == pytest.approx(pearsonr(measured[gene], guess[gene]).statistic, abs=1e-5)
            assert row["spearman"] == pytest.approx(spearmanr(measured[gene], guess[gene]).statistic, abs=1e-6)
            assert row["mse"] == pytest.approx(mean_squared_error(measured[gene], guess[gene]), rel=1e-4)
            assert row["mae"] == pytest.approx(mean_absolute_error(measured[gene], guess[gene]), rel=1e-4)


def test_training_mean_has_no_correlation(predicted, trained):
    _, model = trained
    frame = nh.tl.evaluate(predicted).query("model == 'training mean'").set_index(["truth", "section", "gene"])
    assert frame[["pearson", "spearman"]].isna().all(axis=None)
    training = pd.concat([truth(predicted, section) for section in "ABC"]).mean()
    for section in SECTIONS:
        expected = ((truth(predicted, section) - training) ** 2).mean()
        for gene in model.genes:
            assert frame.loc[("raw", section, gene), "mse"] == pytest.approx(expected[gene], rel=1e-4)


def test_smoothed_truth_is_the_mean_of_the_window(predicted):
    frame = nh.tl.evaluate(predicted).query("truth == 'smoothed' and model == 'model' and section == 'D'")
    measured = truth(predicted, "D")
    array = predicted["table"].obs.loc[measured.index, ["array_row", "array_col"]].to_numpy()
    near = (np.abs(array[:, None] - array[None]).max(axis=2) <= 1).astype(float)
    smooth = pd.DataFrame(near @ measured.to_numpy() / near.sum(axis=1, keepdims=True), columns=measured.columns)
    guess = prediction(predicted, "D")
    for row in frame.itertuples():
        assert row.mse == pytest.approx(mean_squared_error(smooth[row.gene], guess[row.gene]), rel=1e-4)
        assert row.pearson == pytest.approx(pearsonr(smooth[row.gene], guess[row.gene]).statistic, abs=1e-5)


def test_what_is_written(predicted):
    frame = nh.tl.evaluate(predicted)
    table = predicted["table"]
    for metric in METRICS:
        wide = frame.query("model == 'model' and truth == 'raw'").pivot(index="gene", columns="section", values=metric)
        pd.testing.assert_frame_equal(
            table.varm[f"nh2st_{metric}"], wide.loc[table.var_names], check_names=False, check_like=True
        )
        np.testing.assert_allclose(table.var[f"nh2st_{metric}"], wide.loc[table.var_names].mean(axis=1))
    ridge = frame.query("model == 'ridge' and truth == 'raw'").groupby("gene")["pearson"].mean()
    np.testing.assert_allclose(table.var["nh2st_ridge_pearson"], ridge[table.var_names])
    summary = table.uns["nh2st"]["nh2st"]["evaluation"]
    kinds = [(model, kind) for model in ("model", "ridge", "training mean") for kind in ("raw", "smoothed")]
    assert set(summary) == {f"{model}_{kind}".replace(" ", "_") for model, kind in kinds}
    for model, kind in kinds:
        chosen = frame.query("model == @model and truth == @kind")
        expected = chosen.groupby("section")[METRICS].mean().mean()
        assert summary[f"{model}_{kind}".replace(" ", "_")] == pytest.approx(expected.to_dict(), nan_ok=True)


def test_again_gives_the_same(predicted):
    pd.testing.assert_frame_equal(nh.tl.evaluate(predicted), nh.tl.evaluate(predicted))


def test_constant_gene_is_said_and_left_out(predicted, caplog):
    table = predicted["table"]
    counts = table.X.toarray()
    rows = np.flatnonzero(table.obs["region"] == "D")
    counts[np.ix_(rows, [6])] = 0
    table.X = csr_matrix(counts)
    frame = nh.tl.evaluate(predicted).query("model == 'model' and truth == 'raw'").set_index(["section", "gene"])
    assert "1 of 8 genes do not vary in section 'D' (gene6)" in caplog.text
    assert np.isnan(frame.loc[("D", "gene6"), "pearson"])
    assert table.var.loc["gene6", "nh2st_pearson"] == pytest.approx(
        (frame.loc[("B", "gene6"), "pearson"] + frame.loc[("C", "gene6"), "pearson"]) / 2
    )
    means = frame["pearson"].groupby("section").mean()
    assert table.uns["nh2st"]["nh2st"]["evaluation"]["model_raw"]["pearson"] == pytest.approx(means.mean())


def test_anndata_is_enough(predicted):
    frame = nh.tl.evaluate(predicted)
    adata = predicted["table"].copy()
    pd.testing.assert_frame_equal(nh.tl.evaluate(adata), frame)


def test_anndata_without_regions_survives_h5ad(predicted, tmp_path):
    adata = predicted["table"][predicted["table"].obs["region"] == "D"].copy()
    expected = nh.tl.evaluate(adata)
    del adata.uns["spatialdata_attrs"]
    frame = nh.tl.evaluate(adata)
    np.testing.assert_allclose(frame[METRICS], expected[METRICS])
    adata.write_h5ad(tmp_path / "section.h5ad")
    read = ad.read_h5ad(tmp_path / "section.h5ad")
    pd.testing.assert_frame_equal(read.varm["nh2st_mse"], adata.varm["nh2st_mse"])


def test_counts_in_a_layer(predicted):
    frame = nh.tl.evaluate(predicted)
    table = predicted["table"]
    table.layers["raw"], table.X = table.X, np.log1p(table.X.toarray())
    with pytest.raises(ValueError, match="log-normalised already.*layer="):
        nh.tl.evaluate(predicted)
    pd.testing.assert_frame_equal(nh.tl.evaluate(predicted, layer="raw"), frame)
    table.layers["counts"] = table.layers["raw"]
    pd.testing.assert_frame_equal(nh.tl.evaluate(predicted), frame)


def test_some_sections(predicted):
    frame = nh.tl.evaluate(predicted, sections=["D"])
    assert set(frame["section"]) == {"D"}
    assert list(predicted["table"].varm["nh2st_mae"].columns) == ["D"]
    with pytest.raises(ValueError, match="None of the sections 'A' was predicted under 'nh2st'"):
        nh.tl.evaluate(predicted, sections=["A"])


def test_objects_that_name_their_regions_alike(make_sdata, trained):
    _, model = trained
    objects = {name: make_sdata(("A",), side=4, seed=seed) for seed, name in enumerate("xy", start=5)}
    nh.tl.predict(objects, model)
    frame = nh.tl.evaluate(objects).query("model == 'model' and truth == 'raw'").set_index(["section", "gene"])
    for name, sdata in objects.items():
        table = sdata["table"]
        assert list(table.varm["nh2st_mse"].columns) == ["A"]
        np.testing.assert_allclose(table.var["nh2st_mse"], frame.loc[f"{name}.A"].loc[table.var_names, "mse"])


def test_before_predictions(make_sdata, predicted):
    with pytest.raises(KeyError, match="no predictions 'nh2st' .there are: none.*nh.tl.predict"):
        nh.tl.evaluate(make_sdata())
    nh.pp.normalize(predicted)
    for name in ("other", "nh2st_target", "training"):
        with pytest.raises(KeyError, match=f"no predictions '{name}' .there are: 'nh2st'.*nh.tl.predict"):
            nh.tl.evaluate(predicted, name)


def test_correlation_needs_three_spots(make_sdata, trained):
    _, model = trained
    sdata = make_sdata(("A",), side=2)
    sdata["table"].obs["some"] = [True, True, False, False]
    nh.tl.predict(sdata, model, spots="some")
    with pytest.raises(ValueError, match="Section 'A' has 2 predicted spots; a correlation needs 3"):
        nh.tl.evaluate(sdata)


def test_far_fewer_genes_than_in_training_are_warned_of(predicted, caplog):
    whole = predicted["table"]
    assert whole.uns["nh2st"]["nh2st"]["table_genes"] == whole.n_vars
    nh.tl.evaluate(whole[:, : whole.n_vars - 1].copy())
    assert "The table has" not in caplog.text
    nh.tl.evaluate(whole[:, :3].copy())
    assert "The table has 3 genes, in training there were 8" in caplog.text
