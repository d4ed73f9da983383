"""Runs of the context network: interrupted, resumed, fine-tuned, and fold by fold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from spatialdata import SpatialData

import nh2st as nh
from nh2st.nn import ContextNetwork
from nh2st.tl._training import _checkpoints

EPOCHS = 4
FIRST_TRAINING = EPOCHS * 4
"""Steps of eight spots, of the 32 that do not validate."""
STEPS_PER_EPOCH = 6


@pytest.fixture
def sdata(make_sdata: Callable[..., SpatialData]) -> SpatialData:
    return make_sdata(("A", "B", "C"), side=4)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Interrupt a step."""

    def install(step: int) -> None:
        losses, calls = ContextNetwork.losses, []

        def stopping(self, *arguments):
            calls.append(1)
            if len(calls) == step:
                raise KeyboardInterrupt
            return losses(self, *arguments)

        monkeypatch.setattr(ContextNetwork, "losses", stopping)

    return install


def layer(sdata: SpatialData, name: str, section: str) -> np.ndarray:
    return sdata["table"].layers[name][(sdata["table"].obs["region"] == section).to_numpy()]


def test_resumed_run_equals_the_uninterrupted(sdata, train_context, stop_at, monkeypatch, tmp_path, same_run):
    settings = {"max_epochs": EPOCHS, "seed": 3, "network": {"dropout": 0.5, "input_dropout": 0.2}}
    whole = train_context(sdata, **settings)
    monkeypatch.setattr(_checkpoints, "_SECONDS_BETWEEN_CHECKPOINTS", 0)
    monkeypatch.setattr(_checkpoints, "_SHARE_OF_CHECKPOINTS", np.inf)
    stop_at(FIRST_TRAINING + 2 * STEPS_PER_EPOCH + 2)
    with pytest.raises(KeyboardInterrupt, match="resume_from="):
        train_context(sdata, checkpoint_dir=tmp_path, **settings)
    monkeypatch.undo()
    kept = nh.models.load(tmp_path / "best.safetensors")
    assert len(kept.history) == 2
    resumed = train_context(sdata, resume_from=tmp_path / "last.ckpt", **settings)
    assert len(whole.history) == EPOCHS
    same_run(resumed, whole, tmp_path)


def test_interruption_keeps_a_model_that_predicts(sdata, train_context, stop_at, unchanged, tmp_path):
    stop_at(FIRST_TRAINING + STEPS_PER_EPOCH + 2)
    with unchanged(sdata), pytest.raises(KeyboardInterrupt, match="data are unchanged.*best.safetensors"):
        train_context(sdata, checkpoint_dir=tmp_path, max_epochs=EPOCHS)
    kept = nh.models.load(tmp_path / "best.safetensors")
    nh.tl.predict(sdata, kept)
    assert np.isfinite(sdata["table"].layers["nh2st"]).all()
    # Errors were measured before.
    assert (sdata["table"].layers["nh2st_std"] >= kept.network.residual.min().item()).all()


def test_interruption_of_the_first_training_leaves_nothing(sdata, train_context, stop_at, unchanged, tmp_path):
    stop_at(FIRST_TRAINING - 2)
    with unchanged(sdata), pytest.raises(KeyboardInterrupt, match="nothing was kept, and the data are unchanged"):
        train_context(sdata, checkpoint_dir=tmp_path / "run", max_epochs=EPOCHS)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"network": {"members": 3}}, "encoder or network"),
        ({"variant": "paper", "network": None}, "encoder or network"),
        ({"max_epochs": 3}, "max_epochs changed"),
    ],
)
def test_runs_are_resumed_as_they_were_started(sdata, train_context, train, tmp_path, changed, message):
    train_context(sdata, checkpoint_dir=tmp_path)
    resume = train if changed.get("variant") == "paper" else train_context
    changed = {name: value for name, value in changed.items() if value is not None}
    with pytest.raises(ValueError, match=f"continues a run as it was started, but .*{message}"):
        resume(sdata, resume_from=tmp_path / "last.ckpt", **changed)


@pytest.mark.parametrize("form", ["model", "small file"])
def test_fine_tuning_keeps_components_and_starts_from_the_members(make_sdata, train_context, tmp_path, form):
    base = train_context(make_sdata(("A", "B", "C"), side=4), genes=["gene5", "gene1"])
    new = make_sdata(("X", "Y", "Z"), side=4, seed=9)
    source = base
    if form != "model":
        source = base.save(tmp_path / "base.safetensors", inference_only=True)
        base = nh.models.load(source)
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    settings = {"max_epochs": 2, "batch_size": 8, "device": "cpu"}
    idle = nh.tl.train(new, init_from=source, learning_rate=1e-9, **settings)
    tuned = nh.tl.train(new, init_from=source, **settings)
    assert (idle.genes, idle.target, idle.config, idle.patch_um) == (base.genes, base.target, base.config, 32)
    assert idle.provenance["init_from"] == base.name
    for name in before:
        if name.startswith(("encoder.", "reduction.")):
            assert torch.equal(tuned.network.state_dict()[name], before[name]), name
            assert torch.equal(base.network.state_dict()[name], before[name]), name
        elif name.startswith("members."):
            torch.testing.assert_close(idle.network.state_dict()[name], before[name], atol=1e-6, rtol=0, msg=name)
    name = "members.0.head.weight"
    assert not torch.allclose(tuned.network.state_dict()[name], before[name], atol=1e-4)
    counts = new["table"].to_df()
    logs = np.log1p(1e4 * counts.div(counts.sum(axis=1), axis=0))[base.genes]
    np.testing.assert_allclose(tuned.network.level, logs.mean(), rtol=1e-5)
    np.testing.assert_allclose(tuned.baselines.mean, logs.mean(), rtol=1e-5)


def test_fine_tuning_on_few_spots_beats_starting_afresh(trained_context, make_sdata, train_context, by_gene):
    _, model = trained_context
    few, held_out = make_sdata(("X", "Y"), seed=9), make_sdata(("Z",), side=6, seed=10)
    few["table"].obs["few"] = few["table"].obs["array_row"] < 2
    scores = {}
    for start, source in {"trained": model, "afresh": None}.items():
        tuned = train_context(few, spots="few", init_from=source, **({} if source else {"genes": 8}))
        nh.tl.predict(held_out, tuned, key_added=start)
        frame = by_gene(nh.tl.evaluate(held_out, key=start)).query("model == 'model' and truth == 'raw'")
        # The darkness of a spot drives the first half of the genes; the others are noise.
        scores[start] = frame[frame["gene"].isin([f"gene{number}" for number in range(4)])]["pearson"].mean()
    assert scores["trained"] > 0.5
    assert scores["trained"] > scores["afresh"] + 0.1


@pytest.mark.parametrize("given", [{"variant": "paper"}, {"network": {"members": 5}}, {"encoder": "resnet18"}])
def test_fine_tuning_refuses_what_the_model_settles(trained_context, given):
    sdata, model = trained_context
    (name,) = given
    with pytest.raises(ValueError, match=f"init_from= settles {name}="):
        nh.tl.train(sdata, init_from=model, **given)


@pytest.mark.parametrize("scales", [[1, 2], (1.0, 2.0)])
def test_fine_tuning_takes_what_the_model_has_anyway(trained_context, scales):
    sdata, model = trained_context
    settings = {"members": 2, "patch_scales": scales}
    assert nh.tl.train(sdata, init_from=model, network=settings, max_epochs=1, device="cpu").config == model.config


def test_a_model_of_the_other_variant_is_no_start(sdata, train):
    paper = train(sdata)
    with pytest.raises(ValueError, match=r"init_from= settles .*variant="):
        nh.tl.train(sdata, init_from=paper, variant="context")
    with pytest.raises(ValueError, match="fine_tune must be 'none'"):
        nh.tl.train(sdata, variant="context", fine_tune="all")


def test_encoder_of_a_fine_tuned_model_is_taken(sdata, train, train_context, tmp_path):
    paper = train(sdata)
    path = paper.save(tmp_path / "paper.safetensors")
    model = train_context(sdata, encoder_weights=path)
    before, after = paper.network.encoder.state_dict(), model.network.encoder.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not torch.equal(after["model.conv1.0.weight"], paper.baselines.encoder.state_dict()["model.conv1.0.weight"])


def test_folds_refuse_an_encoder_that_has_seen_them(sdata, train, context_settings, unchanged, tmp_path):
    path = train(sdata, sections=["A", "B"]).save(tmp_path / "paper.safetensors")
    settings = context_settings | {"encoder_weights": path, "baselines": False}
    with unchanged(sdata), pytest.raises(ValueError, match="encoder of .*paper.safetensors was trained on section 'B'"):
        nh.tl.cross_validate(sdata, sections=["B", "C"], **settings)


def test_fold_equals_training_on_the_other_sections(sdata, train_context, context_settings, by_gene):
    frame = nh.tl.cross_validate(sdata, genes=5, seed=3, baselines=False, **context_settings)
    model = train_context(sdata, sections=["A", "C"], genes=5, seed=3)
    nh.tl.predict(sdata, model, sections=["B"])
    columns = sdata["table"].var_names.get_indexer(model.genes)
    fold, alone = (layer(sdata, name, "B") for name in ("nh2st_cv", "nh2st"))
    fold, alone = (values.toarray()[:, columns] for values in (fold, alone))
    np.testing.assert_allclose(fold, alone, atol=1e-5)
    scores = by_gene(nh.tl.evaluate(sdata)).query("model == 'model'").set_index(["truth", "gene"])
    mine = frame.query("fold == 2 and gene != '' and metric == 'pearson'").set_index(["truth", "gene"])["value"]
    np.testing.assert_allclose(mine, scores["pearson"].reindex(mine.index), atol=1e-4)


def test_counts_of_a_section_have_no_part_in_its_fold(make_sdata, context_settings):
    layers = []
    for change in (False, True):
        sdata = make_sdata(("A", "B", "C"), side=3)
        counts = sdata["table"].X.toarray()
        if change:
            counts[18:] = counts[18:][::-1, ::-1]
        sdata["table"].X = counts
        settings = context_settings | {"network": context_settings["network"] | {"likelihood": "poisson"}}
        nh.tl.cross_validate(sdata, genes=[f"gene{number}" for number in range(8)], baselines=False, **settings)
        layers.append(sdata["table"].layers["nh2st_cv"])
    np.testing.assert_array_equal(layers[0][18:], layers[1][18:])
    assert (abs(layers[0] - layers[1]).max(axis=1)[:18] > 1e-3).all()


def test_blocks_keep_apart_by_the_largest_patch(make_sdata, context_settings):
    sdata = make_sdata(("A",), side=8)
    folds = {}
    for scales in ([1.0], [1.0, 2.0]):
        settings = context_settings | {"network": context_settings["network"] | {"patch_scales": scales}}
        nh.tl.cross_validate(sdata, groups={"A": "p"}, n_folds=2, genes=["gene0"], baselines=False, **settings)
        folds[len(scales)] = sdata["table"].uns["nh2st"]["nh2st_cv"]["folds"]
    # Neighbours reach 40 px; to that 32 px keep one adjacent column out of training, 64 px two.
    assert [fold["training_spots"] for fold in folds[1].values()] == [24, 24]
    assert [fold["training_spots"] for fold in folds[2].values()] == [16, 16]


def test_folds_choose_between_the_networks(sdata, context_settings):
    settings = {"paper": {"variant": "paper", "network": {"width": 32, "heads": 2}}, "context": {}}
    context_settings |= {"max_epochs": 1, "baselines": False}
    frame = nh.tl.cross_validate(sdata, genes=["gene0", "gene5"], settings=settings, **context_settings)
    folds = sdata["table"].uns["nh2st"]["nh2st_cv"]["folds"]
    for record in folds.values():
        assert record["candidates"] == ["paper", "context"]
        assert record["setting"] == record["candidates"][int(np.argmax(record["scores"]))]
    assert np.isfinite(frame.query("model == 'model' and gene == '' and metric == 'mse'")["value"]).all()
