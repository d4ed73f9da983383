"""Training of the context network: what it learns, from which spots, and what it keeps of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from spatialdata import SpatialData

import nh2st as nh
from nh2st._sections import find_spots
from nh2st.nn import ContextNetwork
from nh2st.tl._training import _loop
from nh2st.tl._training._validation_split import validation_split

DRIVEN = [f"gene{number}" for number in range(4)]
SECTIONS = ("A", "B", "C")


def weights(model: nh.models.Model) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.network.state_dict().items() if name.startswith("members.")}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def held_out(model: nh.models.Model) -> str:
    """The section that validated, where every section is a donor."""
    return SECTIONS[int(model.provenance["validation"].removeprefix("donors held out: donor"))]


def measured(sdata: SpatialData, model: nh.models.Model) -> pd.DataFrame:
    """The default target, by hand."""
    counts = sdata["table"].to_df()
    return np.log1p(1e4 * counts.div(counts.sum(axis=1), axis=0))[model.genes]


@pytest.fixture
def sdata(make_sdata: Callable[..., SpatialData]) -> SpatialData:
    return make_sdata(SECTIONS, side=4)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[nh.models.Model]:
    """Models of the first and of the final training, in the order of time."""
    fit, results = _loop.fit, []

    def noting(*arguments: Any) -> nh.models.Model:
        results.append(fit(*arguments))
        return results[-1]

    monkeypatch.setattr(_loop, "fit", noting)
    return results


def test_learns_what_darkness_drives(trained_context, learnt):
    sdata, model = trained_context
    nh.tl.predict(sdata, model, sections=["D"])
    learnt(sdata)
    assert model.history[-1]["mse"] < 0.9 * model.history[0]["mse"]
    assert [row["epoch"] for row in model.history] == list(range(20))


def test_context_network_is_the_default(sdata):
    model = nh.tl.train(sdata, encoder="test_resnet", encoder_weights=None, patch_px=32, patch_um=32, max_epochs=1)
    assert isinstance(model.network, ContextNetwork)
    assert {name: model.provenance[name] for name in ("batch_size", "learning_rate", "fine_tune")} == {
        "batch_size": 64,
        "learning_rate": 1e-3,
        "fine_tune": "none",
    }


def test_seed_decides(sdata, train_context):
    first, again, other = (train_context(sdata, seed=seed) for seed in (1, 1, 2))
    assert first.sha256 == again.sha256
    assert first.history == again.history
    assert not same(weights(first), weights(other))


def test_members_start_and_end_apart(sdata, train_context):
    model = train_context(sdata)
    first, second = (member.own.weight for member in model.network.members)
    assert not torch.allclose(first, second, atol=1e-2)


def test_encoder_stays_as_it_is(sdata, train_context, fits):
    models = [train_context(sdata, max_epochs=epochs) for epochs in (1, 3)]
    first, second = (model.network.encoder.state_dict() for model in models)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not same(*map(weights, models))


def test_validation_spots_are_held_out_first_and_trained_on_in_the_end(sdata, train_context, monkeypatch):
    losses, seen = ContextNetwork.losses, []

    def counting(self, output, batch):
        seen.append(batch.expression[batch.nodes[:, 0]].clone())
        return losses(self, output, batch)

    monkeypatch.setattr(ContextNetwork, "losses", counting)
    model = train_context(sdata, max_epochs=3, batch_size=16)
    first, final = torch.cat(seen[: 3 * 2]), torch.cat(seen[3 * 2 :])
    assert (len(first), len(final)) == (3 * 32, 3 * 48)
    assert (len(first.unique(dim=0)), len(final.unique(dim=0))) == (32, 48)
    assert all(np.isfinite(row["val_pearson"]) for row in model.history)


def test_scores_of_validation_are_those_of_the_first_training(sdata, train_context, fits, by_gene):
    model = train_context(sdata)
    trial, final = fits
    section = held_out(model)
    nh.tl.predict(sdata, trial, sections=[section])
    frame = by_gene(nh.tl.evaluate(sdata)).query("model == 'model' and truth == 'raw'")
    assert trial.history[-1]["val_mse"] == pytest.approx(frame["mse"].mean(), rel=1e-4)
    assert model.history[-1]["val_pearson"] == pytest.approx(frame["pearson"].mean(), abs=1e-4)
    assert [row["loss"] for row in model.history] == [row["loss"] for row in final.history]
    here = (sdata["table"].obs["region"] == section).to_numpy()
    counts = sdata["table"].X.toarray()
    counts[here] = counts[here][::-1]
    sdata["table"].X = csr_matrix(counts)
    train_context(sdata, genes=model.genes)
    before, after = trial.network.state_dict(), fits[2].network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()), "nothing measured there is known"
    assert not same(weights(fits[3]), weights(final)), "it is trained on in the end"


def test_nothing_measured_in_a_validation_block_is_known_at_first(make_sdata, train_context, fits):
    sdata = make_sdata(("A",), side=6)
    genes = ["gene0", "gene5"]
    train_context(sdata, genes=genes)
    (section,) = find_spots(sdata)
    block = validation_split([section], [np.full(36, "donor0", dtype=object)], seed=0).validation
    counts = sdata["table"].X.toarray()
    counts[block] = 3 * counts[block][::-1] + 7
    sdata["table"].X = csr_matrix(counts)
    train_context(sdata, genes=genes)
    before, _, after, _ = (model.network.state_dict() for model in fits)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_size_of_errors_is_that_of_the_validation_spots(sdata, train_context, fits):
    model = train_context(sdata, max_epochs=4)
    trial, section = fits[0], held_out(model)
    assert not trial.network.residual.any()
    nh.tl.predict(sdata, trial, sections=[section])
    table = sdata["table"][sdata["table"].obs["region"] == section]
    error = measured(sdata, model).loc[table.obs_names] - table.to_df("nh2st")[model.genes]
    squared = (error**2 - table.to_df("nh2st_std")[model.genes] ** 2).mean()
    np.testing.assert_allclose(model.network.residual, np.sqrt(squared), rtol=1e-3)


def test_output_is_around_the_mean_level_of_the_sections(sdata, train_context):
    counts = sdata["table"].X.toarray()
    counts[:16] = np.round(3 * counts[:16, ::-1])
    sdata["table"].X = csr_matrix(counts)
    model = train_context(sdata)
    expected = measured(sdata, model).groupby(sdata["table"].obs["region"].to_numpy())
    np.testing.assert_allclose(model.network.level, expected.mean().mean(), rtol=1e-5)
    np.testing.assert_allclose(model.network.spread, expected.std(ddof=0).mean(), rtol=1e-4)


@pytest.mark.parametrize("normalize", ["center", "standardize", "none"])
def test_components_are_those_of_the_normalised_features(sdata, train_context, cut_by_hand, normalize):
    model = train_context(sdata, network={"normalize": normalize}, max_epochs=1)
    encoder, reduction = model.network.encoder, model.network.reduction
    features = []
    for section in SECTIONS:
        with torch.inference_mode():
            patches = [torch.from_numpy(cut_by_hand(sdata, section, side)) for side in (32, 64)]
            features.append([encoder.features(images).half().numpy() for images in patches])
    # Some channels of the small encoder are constant, which this scaler leaves 0.
    scaler = StandardScaler(with_mean=normalize != "none", with_std=normalize == "standardize")
    joined = [np.concatenate(parts, axis=1).astype(np.float64) for parts in features]
    scores = PCA(8).fit_transform(np.concatenate([scaler.fit_transform(values) for values in joined]))
    tokens = np.concatenate([reduction.tokens(parts) for parts in features])
    signs = np.sign((tokens * scores).sum(axis=0))
    np.testing.assert_allclose(tokens, signs * scores / scores[:, 0].std(), atol=5e-3)


def test_labels_are_standardised_within_sections(sdata, train_context, monkeypatch):
    plain = train_context(sdata)
    counts = sdata["table"].X.toarray().astype(np.float64)
    # Scaling a spot's counts changes nothing; another level of a section's genes is no signal of its images.
    totals = counts.sum(axis=1, keepdims=True)
    logs = np.log1p(1e4 * counts / totals)
    shifted = np.where((sdata["table"].obs["region"] == "B").to_numpy()[:, None], 0.9 * logs, logs)
    monkeypatch.setattr(
        "nh2st.tl._training._training_data.target_values",
        lambda counts, panel, _: shifted[counts.rows][:, sdata["table"].var_names.get_indexer(panel)].astype(
            np.float32
        ),
    )
    moved = train_context(sdata)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(moved)[name], value, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(moved.network.level, plain.network.level)


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_likelihoods_of_counts_learn_in_the_units_of_the_target(trained_context, train_context, likelihood, by_gene):
    sdata, _ = trained_context
    settings = {"sections": SECTIONS, "max_epochs": 10, "learning_rate": 1e-2}
    model = train_context(sdata, network={"likelihood": likelihood}, **settings)
    nh.tl.predict(sdata, model, sections=["D"])
    frame = by_gene(nh.tl.evaluate(sdata)).query("truth == 'raw'").set_index(["gene", "model"])
    assert frame.xs("model", level=1).loc[DRIVEN, "pearson"].mean() > 0.5
    better = frame["mse"].unstack()[["model", "training_mean"]].loc[DRIVEN]
    assert (better["model"] < better["training_mean"]).all()
    here = sdata["table"].obs["region"] == "D"
    counts = sdata["table"][here].to_df()
    # The logarithm of the expected share, which is a little above the expected logarithm.
    expected = np.log1p(1e4 * (counts.sum() / counts.sum().sum()))
    level = sdata["table"][here].to_df("nh2st").mean()
    np.testing.assert_allclose(level, expected, atol=0.5)
    assert model.history[-1]["mse"] < model.history[0]["mse"]


def test_level_of_counts_is_that_of_their_shares(sdata, train_context):
    model = train_context(sdata, network={"likelihood": "poisson"}, learning_rate=1e-9)
    counts = sdata["table"].to_df()[model.genes].groupby(sdata["table"].obs["region"].to_numpy()).sum() + 0.5
    totals = sdata["table"].to_df().groupby(sdata["table"].obs["region"].to_numpy()).sum().sum(axis=1)
    np.testing.assert_allclose(model.network.level, np.log(counts.div(totals, axis=0)).mean(), rtol=1e-5)
    np.testing.assert_allclose(model.network.count_scale, [1e4, 1])


def test_contrastive_losses_teach_the_gene_branch(sdata, train_context, tmp_path):
    weighted = {"query_weight": 1.0, "neighbor_weight": 0.5}
    idle = train_context(sdata, network=weighted, learning_rate=1e-9)
    model = train_context(sdata, network=weighted, max_epochs=8)
    first, last = model.history[0], model.history[-1]
    assert last["query"] < first["query"]
    assert last["neighbor"] < first["neighbor"]
    for row in model.history:
        assert row["loss"] == pytest.approx(row["query"] + 0.5 * row["neighbor"] + row["mse"], rel=1e-5)
    before, after = idle.network.state_dict(), model.network.state_dict()
    assert not torch.allclose(before["members.0.genes.0.weight"], after["members.0.genes.0.weight"], atol=1e-3)
    nh.tl.predict(sdata, model)
    expected = sdata["table"].layers["nh2st"].copy()
    sdata["table"].X = csr_matrix(sdata["table"].shape, dtype=np.float32)
    nh.tl.predict(sdata, nh.models.load(model.save(tmp_path / "small.safetensors", inference_only=True)))
    np.testing.assert_allclose(sdata["table"].layers["nh2st"], expected, atol=0.01)


def test_without_weights_there_is_no_gene_branch(trained_context):
    _, model = trained_context
    assert not any("genes" in name for name in model.network.state_dict())
    assert all((row["query"], row["neighbor"]) == (0, 0) for row in model.history)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "best"}, "variant must be one of 'context', 'paper', .*, not 'best'"),
        ({"network": {"variant": "context"}}, "network= names .*variant.*; give `variant=`"),
        ({"fine_tune": "all"}, "fine_tune must be 'none'.*variant='paper', save the model.*encoder_weights="),
        ({"fine_tune": 1}, "fine_tune must be 'none'"),
        ({"network": {"likelihood": "poisson"}, "target": "paper"}, "'poisson'.*'paper' averages.*target='default'"),
        ({"network": {"components": 0}}, "components must be at least 1"),
        ({"network": {"map_px": 2}}, "map_px must be 1, not 2"),
        ({"variant": "paper"}, "'paper' network has no components, input_dropout, members; .* variant='context'"),
    ],
)
def test_what_makes_no_context_network(sdata, train_context, unchanged, monkeypatch, settings, message):
    monkeypatch.setattr("nh2st._patches.Pyramid.read_into", lambda *_: pytest.fail("pixels were read"))
    with unchanged(sdata), pytest.raises(ValueError, match=message):
        train_context(sdata, **settings)


def test_two_spots_train_without_validation(make_sdata, train_context, caplog):
    sdata = make_sdata(side=1)
    model = train_context(sdata)
    assert "Too few spots (2) to validate" in caplog.text
    assert "val_pearson" not in model.history[0]
    nh.tl.predict(sdata, model)
    # Nothing varies within a section of one spot, so that the level of the sections is all there is.
    expected = np.tile(measured(sdata, model).mean(), (2, 1))
    np.testing.assert_allclose(nh.get.predicted(sdata).X, expected, rtol=1e-4)


def test_sections_of_few_spots_and_constant_genes(make_sdata, train_context):
    sdata = make_sdata(SECTIONS, side=4)
    table = sdata["table"]
    table.obs["used"] = ~((table.obs["region"] == "B") & (table.obs["instance_id"] >= 3))
    counts = table.X.toarray()
    counts[:, 7] = 0
    table.X = csr_matrix(counts)
    model = train_context(sdata, spots="used", genes=["gene0", "gene7"], max_epochs=3)
    assert model.provenance["spots"] == [16, 3, 16]
    nh.tl.predict(sdata, model, spots="used")
    predicted = table[table.obs["used"]].to_df("nh2st")
    assert np.isfinite(predicted[["gene0", "gene7"]]).all(axis=None)
    np.testing.assert_allclose(predicted["gene7"], 0, atol=1e-6)
    # The spread of three spots says little.
    target = measured(sdata, model)["gene0"][table.obs["used"]]
    of_large = target.groupby(table.obs["region"].astype(str)[table.obs["used"]]).std(ddof=0)[["A", "C"]].mean()
    assert model.network.spread[0].item() == pytest.approx(of_large, rel=1e-4)
