from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error, roc_auc_score
from spatialdata import SpatialData

import nh2st as nh
from nh2st._expression import Target, choose_genes, gene_sets, read_counts, target_values
from nh2st._sections import find_spots
from nh2st._space import averaging, connectivities, default_graph
from nh2st.tl._section_scores import score_section

METRICS = ["pearson", "spearman", "mse", "mae", "nrmse", "ssim", "auc", "moran_measured", "moran_predicted", "ceiling"]
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
def test_metrics_of_each_gene_and_section(predicted, by_gene, model, layer):
    frame = by_gene(nh.tl.evaluate(predicted)).set_index(["model", "truth", "section", "gene"]).sort_index()
    assert set(frame.index.get_level_values("section")) == set(SECTIONS)
    for section in SECTIONS:
        measured, guess = truth(predicted, section), prediction(predicted, section, layer)
        for gene in measured:
            row = frame.loc[(model, "raw", section, gene)]
            assert row["pearson"] == pytest.approx(pearsonr(measured[gene], guess[gene]).statistic, abs=1e-5)
            assert row["spearman"] == pytest.approx(spearmanr(measured[gene], guess[gene]).statistic, abs=1e-6)
            assert row["mse"] == pytest.approx(mean_squared_error(measured[gene], guess[gene]), rel=1e-4)
            assert row["mae"] == pytest.approx(mean_absolute_error(measured[gene], guess[gene]), rel=1e-4)


def test_training_mean_has_no_correlation(predicted, trained, by_gene):
    _, model = trained
    frame = by_gene(nh.tl.evaluate(predicted)).query("model == 'training_mean'").set_index(["truth", "section", "gene"])
    assert frame[["pearson", "spearman"]].isna().all(axis=None)
    training = pd.concat([truth(predicted, section) for section in "ABC"]).mean()
    for section in SECTIONS:
        expected = ((truth(predicted, section) - training) ** 2).mean()
        for gene in model.genes:
            assert frame.loc[("raw", section, gene), "mse"] == pytest.approx(expected[gene], rel=1e-4)


def test_smoothed_truth_is_the_mean_of_the_window(predicted, by_gene):
    frame = by_gene(nh.tl.evaluate(predicted)).query("truth == 'smoothed' and model == 'model' and section == 'D'")
    measured = truth(predicted, "D")
    array = predicted["table"].obs.loc[measured.index, ["array_row", "array_col"]].to_numpy()
    near = (np.abs(array[:, None] - array[None]).max(axis=2) <= 1).astype(float)
    smooth = pd.DataFrame(near @ measured.to_numpy() / near.sum(axis=1, keepdims=True), columns=measured.columns)
    guess = prediction(predicted, "D")
    for row in frame.itertuples():
        assert row.mse == pytest.approx(mean_squared_error(smooth[row.gene], guess[row.gene]), rel=1e-4)
        assert row.pearson == pytest.approx(pearsonr(smooth[row.gene], guess[row.gene]).statistic, abs=1e-5)


def test_what_is_written(predicted, by_gene):
    frame = by_gene(nh.tl.evaluate(predicted))
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
    kinds = [(model, kind) for model in ("model", "ridge", "training_mean") for kind in ("raw", "smoothed")]
    assert set(summary) == {f"{model}_{kind}" for model, kind in kinds}
    for model, kind in kinds:
        chosen = frame.query("model == @model and truth == @kind")
        expected = chosen.groupby("section")[METRICS].mean().mean()
        written = summary[f"{model}_{kind}"]
        assert {name: written[name] for name in METRICS} == pytest.approx(expected.to_dict(), nan_ok=True)


def test_metrics_of_the_map(predicted, by_gene):
    scanpy = pytest.importorskip("scanpy")
    frame = by_gene(nh.tl.evaluate(predicted)).query("truth == 'raw'")
    frame = frame.set_index(["model", "section", "gene"]).sort_index()
    table = predicted["table"]
    nh.pp.spatial_neighbors(predicted)
    for section in SECTIONS:
        rows = np.flatnonzero(table.obs["region"] == section)
        graph = table.obsp["spatial_connectivities"][rows][:, rows].astype(float)
        measured, guess = truth(predicted, section), prediction(predicted, section)
        for gene in measured:
            row = frame.loc[("model", section, gene)]
            assert row["nrmse"] == pytest.approx(np.sqrt(row["mse"]) / np.ptp(measured[gene]), rel=1e-4)
            for name, values in (("moran_measured", measured[gene]), ("moran_predicted", guess[gene])):
                assert row[name] == pytest.approx(scanpy.metrics.morans_i(graph, values.to_numpy(float)), abs=1e-5)
            if measured[gene].gt(0).all():
                assert np.isnan(row["auc"])
            else:
                assert row["auc"] == pytest.approx(roc_auc_score(measured[gene] > 0, guess[gene]))
            assert -1 <= row["ssim"] <= 1
            assert 0 <= row["ceiling"] < 1
    others = frame.loc["ridge"]
    for name in ("moran_measured", "ceiling"):
        pd.testing.assert_series_equal(frame.loc["model", name], others[name])


def test_the_ceiling_is_of_raw_truth(predicted, by_gene):
    frame = by_gene(nh.tl.evaluate(predicted))
    assert frame.query("truth == 'raw'")["ceiling"].notna().any()
    assert frame.query("truth == 'smoothed'")["ceiling"].isna().all()
    # The first four genes follow the darkness of the image, the others are noise.
    ceiling = predicted["table"].var["nh2st_ceiling"]
    assert ceiling.iloc[:4].min() > ceiling.iloc[4:].max()


def test_scores_do_not_depend_on_the_stored_graph(predicted):
    frame = nh.tl.evaluate(predicted)
    nh.pp.spatial_neighbors(predicted, radius=200.0)
    pd.testing.assert_frame_equal(nh.tl.evaluate(predicted), frame)


def test_structural_similarity_needs_array_ids(predicted, by_gene):
    frame = by_gene(nh.tl.evaluate(predicted))
    assert frame.query("model == 'model'")["ssim"].notna().all()
    del predicted["table"].obs["array_row"]
    assert by_gene(nh.tl.evaluate(predicted))["ssim"].isna().all()


def scores_of(sdata: SpatialData, **selection: str) -> pd.Series:
    """Values of the section metrics by name."""
    tidy = nh.get.evaluation(sdata)
    for column, value in selection.items():
        tidy = tidy[tidy[column] == value]
    return tidy.set_index("metric")["value"]


def test_scores_of_sections(predicted, by_gene):
    scores = nh.tl.evaluate(predicted)
    frame = by_gene(scores)
    tidy = nh.get.evaluation(predicted)
    assert list(tidy) == list(scores) == ["section", "gene", "model", "truth", "metric", "value"]
    pd.testing.assert_frame_equal(tidy, scores[scores["gene"] == ""].reset_index(drop=True))
    assert not tidy.duplicated(["section", "model", "truth", "metric"]).any()
    for (section, model, kind), genes in frame.groupby(["section", "model", "truth"]):
        found = scores_of(predicted, section=section, model=model, truth=kind)
        for name in METRICS:
            assert found[name] == pytest.approx(genes[name].mean(), nan_ok=True)
        assert found["pearson_median"] == pytest.approx(genes["pearson"].dropna().median(), nan_ok=True)
        assert found["pearson_best50_optimistic"] == pytest.approx(genes["pearson"].max(), nan_ok=True)
        assert found["n_genes"] == 8
        assert found["n_genes_missing"] == 0
        assert found["n_genes_undefined"] == genes["pearson"].isna().sum()
    found = scores_of(predicted, section="D", model="model", truth="raw")
    genes = frame.query("section == 'D' and model == 'model' and truth == 'raw'")
    assert found["pearson_of_ceiling"] == pytest.approx(genes["pearson"].sum() / genes["ceiling"].sum())
    upper = np.triu_indices(8, k=1)
    pairs = [values.corr().to_numpy()[upper] for values in (truth(predicted, "D"), prediction(predicted, "D"))]
    assert found["gene_correlation"] == pytest.approx(pearsonr(*pairs).statistic, abs=1e-5)
    best = [genes.set_index("gene")[f"moran_{kind}"].idxmax() for kind in ("measured", "predicted")]
    assert found["svg_overlap"] == (best[0] == best[1])


def is_kept(scores: pd.DataFrame) -> pd.Series:
    """Which scores are kept in the data: those of sections, and those of genes of the model on raw truth."""
    return (scores["gene"] == "") | ((scores["model"] == "model") & (scores["truth"] == "raw"))


def assert_same_scores(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Make sure that two tidy tables hold the same in whichever order."""
    columns = ["section", "gene", "model", "truth", "metric", "value"]
    assert list(found) == list(expected) == columns
    first, second = (scores.sort_values(columns[:-1], ignore_index=True) for scores in (found, expected))
    pd.testing.assert_frame_equal(first, second)


def test_scores_of_genes_are_read_again(predicted, tmp_path):
    scores = nh.tl.evaluate(predicted)
    expected = scores[is_kept(scores)]
    assert_same_scores(nh.get.evaluation(predicted, genes=True), expected)
    assert_same_scores(nh.get.evaluation(predicted, genes=True, sections=["B"]), expected.query("section == 'B'"))
    predicted.write(tmp_path / "sections.zarr")
    assert_same_scores(nh.get.evaluation(SpatialData.read(tmp_path / "sections.zarr"), genes=True), expected)


def test_scores_can_be_compared(predicted, by_gene):
    scores = nh.tl.evaluate(predicted)
    row = nh.tl.compare(scores, "model", "ridge", metric="mse").loc["all"]
    means = by_gene(scores).query("truth == 'raw'").groupby(["model", "section"])["mse"].mean().groupby("model").mean()
    assert row["difference"] == pytest.approx(means["model"] - means["ridge"])


def test_summary_is_the_mean_over_sections(predicted):
    nh.tl.evaluate(predicted)
    means = nh.get.evaluation(predicted).groupby(["model", "truth", "metric"])["value"].mean()
    summary = predicted["table"].uns["nh2st"]["nh2st"]["evaluation"]
    for (model, kind), values in means.groupby(["model", "truth"]):
        expected = values.droplevel(["model", "truth"]).to_dict()
        assert summary[f"{model}_{kind}"] == pytest.approx(expected, nan_ok=True)


def test_gene_sets_of_the_model(predicted, by_gene):
    record = predicted["table"].uns["nh2st"]["nh2st"]
    record.pop("gene_sets", None)
    nh.tl.evaluate(predicted)
    without = scores_of(predicted, section="D", model="model", truth="raw")
    assert "pearson_highly_variable" not in without
    record["gene_sets"] = {"highly_variable": ["gene2", "gene0"], "spatially_variable": ["gene6"]}
    frame = by_gene(nh.tl.evaluate(predicted)).query("section == 'D' and model == 'model' and truth == 'raw'")
    correlation = frame.set_index("gene")["pearson"]
    found = scores_of(predicted, section="D", model="model", truth="raw")
    assert found["pearson_highly_variable"] == pytest.approx(correlation[["gene0", "gene2"]].mean())
    assert found["pearson_highly_variable_median"] == pytest.approx(correlation[["gene0", "gene2"]].median())
    assert found["pearson_spatially_variable"] == pytest.approx(correlation["gene6"])
    pd.testing.assert_series_equal(found[without.index], without)


def test_gene_sets_under_the_names_of_the_table(predicted, by_gene):
    record = predicted["table"].uns["nh2st"]["nh2st"]
    record["model_genes"] = [f"ENSG{name}" for name in record["genes"]]
    record["gene_sets"] = {"spatially_variable": ["ENSGgene6"]}
    frame = by_gene(nh.tl.evaluate(predicted)).query("section == 'D' and model == 'model' and truth == 'raw'")
    found = scores_of(predicted, section="D", model="model", truth="raw")
    assert found["pearson_spatially_variable"] == pytest.approx(frame.set_index("gene").loc["gene6", "pearson"])


def test_scores_survive_zarr(predicted, tmp_path):
    predicted["table"].uns["nh2st"]["nh2st"]["gene_sets"] = {"highly_variable": ["gene2"], "spatially_variable": []}
    nh.tl.evaluate(predicted)
    predicted.write(tmp_path / "sections.zarr")
    read = SpatialData.read(tmp_path / "sections.zarr")
    expected = nh.get.evaluation(predicted)
    pd.testing.assert_frame_equal(nh.get.evaluation(read), expected)
    for metric in METRICS:
        pd.testing.assert_frame_equal(read["table"].varm[f"nh2st_{metric}"], predicted["table"].varm[f"nh2st_{metric}"])
        np.testing.assert_array_equal(read["table"].var[f"nh2st_{metric}"], predicted["table"].var[f"nh2st_{metric}"])
    nh.tl.evaluate(read)
    pd.testing.assert_frame_equal(nh.get.evaluation(read), expected)


def test_scores_of_some_sections_and_of_several_objects(make_sdata, predicted, trained):
    _, model = trained
    nh.tl.evaluate(predicted)
    assert set(nh.get.evaluation(predicted, sections=["D"])["section"]) == {"D"}
    other = make_sdata(("A",), side=4, seed=5)
    nh.tl.predict(other, model)
    objects = {"x": predicted, "y": other}
    nh.tl.evaluate(objects)
    assert set(nh.get.evaluation(objects)["section"]) == {"x.B", "x.C", "x.D", "y.A"}
    assert set(nh.get.evaluation(other["table"])["section"]) == {"A"}


def test_scores_before_evaluation(make_sdata, predicted):
    with pytest.raises(KeyError, match="no predictions 'nh2st' .there are: none.*nh.tl.predict"):
        nh.get.evaluation(make_sdata())
    with pytest.raises(KeyError, match="'nh2st' have not been evaluated. Call `nh.tl.evaluate"):
        nh.get.evaluation(predicted)


def test_new_predictions_forget_the_scores(predicted, trained):
    _, model = trained
    nh.tl.evaluate(predicted)
    nh.tl.predict(predicted, model, sections=SECTIONS)
    table = predicted["table"]
    assert not any(f"nh2st_{metric}" in place for metric in METRICS for place in (table.var, table.varm))
    with pytest.raises(KeyError, match="have not been evaluated"):
        nh.get.evaluation(predicted)


def test_genes_that_the_table_lacks_are_counted(predicted, by_gene, caplog):
    expected = by_gene(nh.tl.evaluate(predicted))
    # All genes of the table are in its sums, so that one moves from the panel to the others under a new name.
    table = predicted["table"]
    table.var_names = ["other" if gene == "gene5" else gene for gene in table.var_names]
    frame = by_gene(nh.tl.evaluate(predicted))
    assert "1 of 8 predicted genes are not in the table of section 'D' (gene5)" in caplog.text
    present = expected[expected["gene"] != "gene5"].reset_index(drop=True)
    pd.testing.assert_frame_equal(frame[METRICS[:9]], present[METRICS[:9]])
    found = scores_of(predicted, section="D", model="model", truth="raw")
    assert (found["n_genes"], found["n_genes_missing"]) == (7, 1)
    assert np.isnan(table.var.loc["other", "nh2st_pearson"])


def test_table_without_any_predicted_gene(predicted):
    table = predicted["table"]
    table.var_names = [f"other{number}" for number in range(table.n_vars)]
    with pytest.raises(ValueError, match="None of the 8 genes that were predicted .first: 'gene.*all its genes"):
        nh.tl.evaluate(predicted)
    adata = table[:, :2].copy()
    adata.var["nh2st_predicted"] = False
    with pytest.raises(ValueError, match="None of the 8 genes that were predicted"):
        nh.tl.evaluate(adata)


def test_without_counts(predicted):
    table = predicted["table"]
    counts, table.X = table.X.toarray(), None
    with pytest.raises(ValueError, match="The table has no X. Name the layer that holds the counts with `layer=`"):
        nh.tl.evaluate(predicted)
    counts[np.flatnonzero(table.obs["region"] == "C")] = 0
    table.X = csr_matrix(counts)
    with pytest.raises(ValueError, match="Section 'C' has no counts.*`layer=`.*`sections=`"):
        nh.tl.evaluate(predicted)
    assert set(nh.tl.evaluate(predicted, sections=["B", "D"])["section"]) == {"B", "D"}


@pytest.mark.parametrize("name", ["C4", "MOB3"])
def test_ceilings_of_real_sections(data_dir, name):
    """A map of measured neighbours, which knows the tissue but not the spot, stays below the ceiling."""
    read = nh.datasets.mouse_olfactory_bulb if name.startswith("MOB") else nh.datasets.her2st
    section = find_spots(read([name], path=data_dir)["table"])[0]
    counts = read_counts(section, None)
    panel = choose_genes([counts], 50)
    target = Target.named("default")
    neighbors = averaging(connectivities(default_graph(section.grid)))
    guess = neighbors @ target_values(counts, panel, target)
    rows = np.arange(len(section.rows))
    sets = gene_sets([counts], panel)
    frame, sections = score_section(section, counts, rows, {"neighbours": guess}, panel, target, gene_sets=sets)
    raw = frame[frame["truth"] == "raw"]
    assert raw["ceiling"].between(0.05, 0.99).mean() > 0.9
    assert (raw["moran_predicted"] > raw["moran_measured"]).all()
    scores = sections.set_index("truth").loc["raw"]
    assert scores["pearson_best50_optimistic"] > scores["pearson"]
    assert scores["pearson_spatially_variable"] > scores["pearson"]
    assert scores["svg_overlap"] > 0.5


def test_again_gives_the_same(predicted):
    pd.testing.assert_frame_equal(nh.tl.evaluate(predicted), nh.tl.evaluate(predicted))


def test_constant_gene_is_said_and_left_out(predicted, by_gene, caplog):
    table = predicted["table"]
    counts = table.X.toarray()
    rows = np.flatnonzero(table.obs["region"] == "D")
    counts[np.ix_(rows, [6])] = 0
    table.X = csr_matrix(counts)
    frame = by_gene(nh.tl.evaluate(predicted)).query("model == 'model' and truth == 'raw'")
    frame = frame.set_index(["section", "gene"])
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


def test_anndata_without_regions_survives_h5ad(predicted, by_gene, tmp_path):
    adata = predicted["table"][predicted["table"].obs["region"] == "D"].copy()
    expected = by_gene(nh.tl.evaluate(adata))
    del adata.uns["spatialdata_attrs"]
    frame = by_gene(nh.tl.evaluate(adata))
    np.testing.assert_allclose(frame[METRICS], expected[METRICS])
    adata.write_h5ad(tmp_path / "section.h5ad")
    read = ad.read_h5ad(tmp_path / "section.h5ad")
    pd.testing.assert_frame_equal(read.varm["nh2st_mse"], adata.varm["nh2st_mse"])
    pd.testing.assert_frame_equal(nh.get.evaluation(read, genes=True), nh.get.evaluation(adata, genes=True))


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


def test_objects_that_name_their_regions_alike(make_sdata, trained, by_gene):
    _, model = trained
    objects = {name: make_sdata(("A",), side=4, seed=seed) for seed, name in enumerate("xy", start=5)}
    nh.tl.predict(objects, model)
    scores = nh.tl.evaluate(objects)
    frame = by_gene(scores).query("model == 'model' and truth == 'raw'").set_index(["section", "gene"])
    for name, sdata in objects.items():
        table = sdata["table"]
        assert list(table.varm["nh2st_mse"].columns) == ["A"]
        np.testing.assert_allclose(table.var["nh2st_mse"], frame.loc[f"{name}.A"].loc[table.var_names, "mse"])
    assert_same_scores(nh.get.evaluation(objects, genes=True), scores[is_kept(scores)])


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
