"""Predictions of the context network: from which pixels they come, and what they do not depend on."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix, issparse
from shapely import Point
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from spatialdata import SpatialData, deepcopy, read_zarr

import nh2st as nh
from nh2st._estimators import Features
from nh2st._estimators._context import with_tokens
from nh2st._estimators._training_spots import unmeasured
from nh2st.nn import ContextNetwork

LAYERS = ("nh2st", "nh2st_std", "nh2st_ridge")
SIDE = 6


def of(sdata: SpatialData, section: str) -> np.ndarray:
    return (sdata["table"].obs["region"] == section).to_numpy()


def layer(sdata: SpatialData, name: str = "nh2st", section: str | None = None) -> np.ndarray:
    values = sdata["table"].layers[name]
    values = values.toarray() if issparse(values) else values
    return values if section is None else values[of(sdata, section)]


def grid_neighbors(used: np.ndarray) -> list[list[int]]:
    """Positions of the up to eight adjacent spots of each spot, among those `used` of a square array."""
    row, col = np.divmod(np.flatnonzero(used), SIDE)
    adjacent = np.maximum(abs(row[:, None] - row), abs(col[:, None] - col)) == 1
    return [np.flatnonzero(row).tolist() for row in adjacent]


def tokens_by_hand(network: ContextNetwork, patches: list[np.ndarray]) -> torch.Tensor:
    """Tokens of one section from its patches in each scale."""
    parts = []
    for images in patches:
        with torch.inference_mode():
            values = network.encoder.features(torch.from_numpy(images)).half().double().numpy()
        parts.append(values - values.mean(axis=0))
    centered = np.concatenate(parts, axis=1) - network.reduction.mean.numpy()
    return torch.from_numpy(centered @ network.reduction.components.double().numpy()).float()


def predicted_by_hand(
    network: ContextNetwork, tokens: torch.Tensor, neighbors: list[list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and standard deviation over members and residuals, spot by spot."""
    means, stds = [], []
    network.eval()
    with torch.inference_mode():
        for spot, around in enumerate(neighbors):
            nodes = tokens[[spot, *around]][None]
            signals = [member(nodes, torch.ones(1, len(around) + 1).bool()).signal[0] for member in network.members]
            values = torch.stack([network.level + network.spread * signal for signal in signals]).numpy()
            means.append(values.mean(axis=0))
            stds.append(np.sqrt(values.var(axis=0) + network.residual.numpy() ** 2))
    return np.array(means), np.array(stds)


def paint(sdata: SpatialData, section: str, spot: int, side: int = 32) -> SpatialData:
    """The same with noise in place of the patch of a spot."""
    painted = deepcopy(sdata)
    image = np.array(painted[f"{section}_image"].data)
    point = painted[section].geometry.iloc[spot]
    x, y = round(point.x) - side // 2, round(point.y) - side // 2
    image[:, y : y + side, x : x + side] = np.random.default_rng(5).integers(0, 256, (3, side, side))
    painted[f"{section}_image"].data = image
    return painted


def test_values_are_those_of_the_members(trained_context, cut_by_hand):
    sdata, model = trained_context
    used = np.ones(SIDE * SIDE, dtype=bool)
    nh.tl.predict(sdata, model, batch_size=7)
    columns = sdata["table"].var_names.get_indexer(model.genes)
    for section in "AD":
        tokens = tokens_by_hand(model.network, [cut_by_hand(sdata, section, side) for side in (32, 64)])
        mean, std = predicted_by_hand(model.network, tokens, grid_neighbors(used))
        np.testing.assert_allclose(layer(sdata, "nh2st", section)[:, columns], mean, atol=5e-3)
        np.testing.assert_allclose(layer(sdata, "nh2st_std", section)[:, columns], std, rtol=1e-3)


def test_masked_spots_are_no_neighbours(trained_context, cut_by_hand):
    sdata, model = trained_context
    table = sdata["table"]
    # Four by four spots, two that have only each other, and one by itself.
    used = np.add.outer(np.arange(SIDE) * SIDE, np.arange(4))[:4].ravel().tolist() + [30, 31, 35]
    table.obs["in_tissue"] = table.obs["instance_id"].isin(used).astype(int)
    nh.tl.predict(sdata, model, sections=["D"])
    kept = table.obs["in_tissue"].to_numpy()[of(sdata, "D")] == 1
    tokens = tokens_by_hand(model.network, [cut_by_hand(sdata, "D", side)[kept] for side in (32, 64)])
    neighbors = grid_neighbors(kept)
    assert list(map(len, neighbors[-3:])) == [1, 1, 0]
    mean, std = predicted_by_hand(model.network, tokens, neighbors)
    columns = table.var_names.get_indexer(model.genes)
    np.testing.assert_allclose(layer(sdata, "nh2st", "D")[kept][:, columns], mean, atol=5e-3)
    np.testing.assert_allclose(layer(sdata, "nh2st_std", "D")[kept][:, columns], std, rtol=1e-3)
    for name in LAYERS:
        assert np.isnan(layer(sdata, name, "D")[~kept]).all()
        assert np.isnan(layer(sdata, name, "A")).all()


@pytest.mark.parametrize("spots", [[14], [14, 15, 20]])
def test_sections_of_very_few_spots(trained_context, cut_by_hand, caplog, spots):
    sdata, model = trained_context
    sdata["table"].obs["few"] = sdata["table"].obs["instance_id"].isin(spots)
    nh.tl.predict(sdata, model, sections=["D"], spots="few")
    assert f"Section 'D' has {len(spots)} spots: features are taken relative to their mean" in caplog.text
    tokens = tokens_by_hand(model.network, [cut_by_hand(sdata, "D", side)[spots] for side in (32, 64)])
    others = [[other for other in range(len(spots)) if other != spot] for spot in range(len(spots))]
    mean, _ = predicted_by_hand(model.network, tokens, others)
    columns = sdata["table"].var_names.get_indexer(model.genes)
    np.testing.assert_allclose(layer(sdata, "nh2st", "D")[spots][:, columns], mean, atol=0.01)


@pytest.mark.parametrize("neighbors", ["attention", "mean", "none"])
def test_pixels_of_neighbours_reach_the_prediction(make_sdata, train_context, neighbors):
    sdata = make_sdata(("A", "B"), side=SIDE)
    model = train_context(sdata, network={"neighbors": neighbors, "patch_scales": [1.0], "normalize": "none"})
    near = deepcopy(sdata)
    nh.tl.predict(sdata, model)
    painted = paint(near, "A", spot=14)
    nh.tl.predict(painted, model)
    change = abs(layer(painted, section="A") - layer(sdata, section="A")).max(axis=1)
    row, col = np.divmod(np.arange(SIDE * SIDE), SIDE)
    distance = np.maximum(abs(row - 2), abs(col - 2))
    assert change[14] > 1e-3
    assert (change[distance > 1] < 1e-6).all()
    assert (change[distance == 1] > 1e-5).all() == (neighbors != "none")
    assert (change[distance == 1] < 1e-6).all() == (neighbors == "none")


def test_larger_patches_reach_beyond_the_spot(make_sdata, train_context):
    sdata = make_sdata(("A", "B"), side=SIDE)
    network = {"neighbors": "none", "normalize": "none"}
    for scales, reaches in (([1.0], False), ([2.0], True)):
        model = train_context(sdata, network=network | {"patch_scales": scales})
        nh.tl.predict(sdata, model)
        painted = paint(sdata, "A", spot=14, side=20)
        nh.tl.predict(painted, model)
        # From 40 px away ten pixels come within 32 px, and none within 16 px.
        change = abs(layer(painted, section="A") - layer(sdata, section="A")).max(axis=1)
        assert change[14] > 1e-4
        assert (change[15] > 1e-5) == reaches
        assert change[16] < 1e-6


@pytest.mark.parametrize("normalize", ["none", "center", "standardize"])
def test_what_stain_adds_to_a_whole_section_is_taken_away(normalize):
    network = ContextNetwork(
        nh.nn.NetworkConfig.for_variant(
            "context", n_genes=1, encoder="test_resnet", patch_px=32, components=4, normalize=normalize
        ),
        encoder_weights=None,
    )
    rng, section = np.random.default_rng(0), np.repeat([0, 1], 30)
    features = rng.gamma(2, 1, (60, network.n_features)).astype(np.float32)
    scales = np.split(features[:30], 2, axis=1), np.split(features[30:], 2, axis=1)
    network.reduction.fit(scales)

    def change(shift: float, factor: float) -> float:
        """How far the tokens are from what they were."""
        changed = features.copy()
        changed[30:] = changed[30:] * factor ** rng.uniform(-1, 1, network.n_features) + shift
        neighbors = np.full((60, 8), -1)
        spots = [unmeasured(Features(values), neighbors, section, 1) for values in (features, changed)]
        return float(abs(np.subtract(*(with_tokens(network, part).images.values for part in spots))).max())

    assert (change(shift=3, factor=1) < 1e-4) == (normalize != "none")
    assert (change(shift=3, factor=2) < 1e-4) == (normalize == "standardize")
    assert change(shift=0, factor=1) == 0


def test_expression_is_not_looked_at(trained_context):
    sdata, model = trained_context
    nh.tl.predict(sdata, model)
    expected = {name: layer(sdata, name).copy() for name in LAYERS}
    sdata["table"].X = csr_matrix(sdata["table"].X.toarray()[::-1, ::-1])
    nh.tl.predict(sdata, model)
    for name in LAYERS:
        np.testing.assert_array_equal(layer(sdata, name), expected[name])
    sdata["table"].X = csr_matrix(sdata["table"].shape, dtype=np.float32)
    nh.tl.predict(sdata, model)
    assert list(sdata["table"].layers) == ["nh2st", "nh2st_std"]
    np.testing.assert_array_equal(layer(sdata), expected["nh2st"])


def test_standard_deviation_covers_what_was_measured(trained_context):
    sdata, model = trained_context
    nh.tl.predict(sdata, model, sections=["D"])
    counts = sdata["table"][of(sdata, "D")].to_df()
    measured = np.log1p(1e4 * counts.div(counts.sum(axis=1), axis=0)).to_numpy()
    std = layer(sdata, "nh2st_std", "D")
    assert (std > 0).all()
    assert 0.5 < (abs(layer(sdata, section="D") - measured) < std).mean() < 0.9


def test_nothing_else_decides(trained_context):
    sdata, model = trained_context
    shuffled, alone = deepcopy(sdata), deepcopy(sdata)
    order = np.random.default_rng(0).permutation(sdata["table"].n_obs)
    shuffled["table"] = sdata["table"][order].copy()
    nh.tl.predict(sdata, model, batch_size=64)
    nh.tl.predict(shuffled, model, batch_size=5)
    nh.tl.predict(alone, model, sections=["D"])
    for name in LAYERS:
        np.testing.assert_allclose(layer(shuffled, name), layer(sdata, name)[order], atol=5e-3)
        np.testing.assert_array_equal(layer(alone, name, "D"), layer(sdata, name, "D"))


def test_sections_can_be_predicted_one_by_one(trained_context):
    sdata, model = trained_context
    nh.tl.predict(sdata, model)
    together = {name: layer(sdata, name) for name in LAYERS}
    for name in LAYERS:
        del sdata["table"].layers[name]
    del sdata["table"].uns["nh2st"]["nh2st"]
    for section in "DA":
        nh.tl.predict(sdata, model, sections=[section])
    rows = of(sdata, "A") | of(sdata, "D")
    for name in LAYERS:
        np.testing.assert_array_equal(layer(sdata, name)[rows], together[name][rows])
        assert np.isnan(layer(sdata, name)[~rows]).all()


@pytest.mark.parametrize("inference_only", [False, True])
def test_saved_model_predicts_the_same(trained_context, tmp_path, inference_only):
    sdata, model = trained_context
    nh.tl.predict(sdata, model)
    path = model.save(tmp_path / "model.safetensors", inference_only=inference_only)
    loaded = nh.models.load(path)
    nh.tl.predict(sdata, loaded, key_added="loaded")
    for name in LAYERS:
        found = layer(sdata, name.replace("nh2st", "loaded"))
        if inference_only:
            np.testing.assert_allclose(found, layer(sdata, name), atol=0.05)
        else:
            np.testing.assert_array_equal(found, layer(sdata, name))
    assert (loaded.sha256 == model.sha256) != inference_only
    assert loaded.config == model.config
    assert loaded.history == model.history
    assert loaded.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert nh.models.load(path).sha256 == loaded.sha256


def test_results_survive_zarr(trained_context, tmp_path):
    sdata, model = trained_context
    nh.tl.predict(sdata, model, sections=["D"])
    dense = sdata["table"].to_df("nh2st_std")
    kept = sdata["table"][:, :6].copy()
    extra = ad.AnnData(csr_matrix((kept.n_obs, 1), dtype=np.float32), kept.obs[[]], pd.DataFrame(index=["other"]))
    table = ad.concat([kept, extra], axis="var", merge="first", uns_merge="first")
    table.uns["nh2st"] = {}
    del table.layers, table.varm
    sdata["table"] = table
    nh.tl.predict(sdata, model, sections=["D"])
    frame = nh.tl.evaluate(sdata)
    assert table.layers["nh2st_std"].format == "csc"
    np.testing.assert_array_equal(table.to_df("nh2st_std").iloc[:, :6], dense.iloc[:, :6])
    sdata.write(tmp_path / "sections.zarr")
    again = read_zarr(tmp_path / "sections.zarr")
    for name in LAYERS:
        np.testing.assert_array_equal(layer(again, name), layer(sdata, name))
    pd.testing.assert_frame_equal(nh.tl.evaluate(again), frame)
    assert list(nh.get.predicted(again).var_names) == model.genes


def test_another_network_takes_the_standard_deviations_away(trained_context, train):
    sdata, model = trained_context
    paper = train(sdata, sections=["A"])
    nh.tl.predict(sdata, model)
    frame = nh.tl.evaluate(sdata)
    assert set(frame["model"]) == {"model", "ridge", "training_mean"}
    nh.tl.predict(sdata, paper)
    assert set(sdata["table"].layers) == {"nh2st", "nh2st_ridge"}
    nh.tl.predict(sdata, model, baselines=False)
    assert set(sdata["table"].layers) == {"nh2st", "nh2st_std"}


def test_foreign_layers_are_not_taken_for_standard_deviations(trained_context, unchanged):
    sdata, model = trained_context
    sdata["table"].layers["mine_std"] = np.ones(sdata["table"].shape)
    with unchanged(sdata), pytest.raises(ValueError, match="layers.'mine_std'. exists and was not written by nh2st"):
        nh.tl.predict(sdata, model, key_added="mine")
    nh.tl.predict(sdata, model, key_added="mine", overwrite=True)
    assert (layer(sdata, "mine_std") != 1).all()


def turned(sdata: SpatialData) -> SpatialData:
    """Image and spots, a quarter turn counter-clockwise."""
    result = deepcopy(sdata)
    for section in set(sdata["table"].obs["region"]):
        image = np.asarray(sdata[f"{section}_image"].data)
        result[f"{section}_image"].data = np.rot90(image, axes=(1, 2)).copy()
        result[section].geometry = [Point(point.y, image.shape[2] - point.x) for point in sdata[section].geometry]
    result["table"].obsm["spatial"] = np.array(
        [(y, image.shape[2] - x) for x, y in sdata["table"].obsm["spatial"]]  # all images have the same size
    )
    return result


@pytest.mark.parametrize("orientations", [1, 8])
def test_a_turned_slide_is_the_same_slide(make_sdata, train_context, orientations):
    sdata = make_sdata(("A", "B"), side=SIDE)
    network = {"orientations": orientations, "patch_scales": [1.0], "normalize": "none"}
    model = train_context(sdata, network=network, max_epochs=4)
    other = turned(sdata)
    nh.tl.predict(sdata, model)
    nh.tl.predict(other, model)
    difference, spread = abs(layer(other) - layer(sdata)).max(), layer(sdata).std(axis=0).max()
    assert (difference < 0.01 * spread) == (orientations == 8)


def test_ridge_is_linear_in_tokens_and_their_mean_over_neighbours(trained_context, cut_by_hand):
    sdata, model = trained_context
    neighbors = grid_neighbors(np.ones(SIDE * SIDE, dtype=bool))
    counts = sdata["table"].to_df()
    measured = np.log1p(1e4 * counts.div(counts.sum(axis=1), axis=0))[model.genes].to_numpy()
    columns = {}
    for section in "ABCD":
        tokens = tokens_by_hand(model.network, [cut_by_hand(sdata, section, side) for side in (32, 64)]).numpy()
        columns[section] = np.concatenate([tokens, [tokens[around].mean(axis=0) for around in neighbors]], axis=1)
    features = np.concatenate([columns[section] for section in "ABC"])
    expression, groups = measured[: len(features)], np.repeat(range(3), SIDE * SIDE)
    fitted = Ridge(best_penalty(features, expression, groups)).fit(features, expression)
    np.testing.assert_allclose(model.baselines.coefficients, fitted.coef_.T, atol=2e-3)
    np.testing.assert_allclose(model.baselines.intercept, fitted.intercept_, atol=2e-3)
    np.testing.assert_allclose(model.baselines.mean, expression.mean(axis=0), rtol=1e-5)
    nh.tl.predict(sdata, model, sections=["D"])
    ridge = sdata["table"][of(sdata, "D")].to_df("nh2st_ridge")[model.genes]
    np.testing.assert_allclose(ridge, fitted.predict(columns["D"]), atol=5e-3)


def best_penalty(features: np.ndarray, expression: np.ndarray, groups: np.ndarray) -> float:
    """That with the highest mean correlation over genes and left-out groups, among powers of the root of ten."""

    def penalty(power: float, rows: np.ndarray) -> float:
        return 10.0**power * features[rows].var(axis=0).sum()

    scores = {}
    for power in np.arange(4, -2.5, -0.5):
        scores[power] = 0.0
        for train, test in GroupKFold(3).split(features, groups=groups):
            fitted = Ridge(penalty(power, train)).fit(features[train], expression[train])
            pairs = zip(expression[test].T, fitted.predict(features[test]).T, strict=True)
            scores[power] += np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])
    return penalty(max(scores, key=lambda power: scores[power]), np.arange(len(features)))


def test_ridge_of_a_context_model_takes_no_images(trained_context):
    _, model = trained_context
    with pytest.raises(ValueError, match="linear in tokens, not in what an encoder makes of images"):
        model.baselines.ridge(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))


def test_native_pixels_and_several_objects(make_sdata, train_context):
    objects = [make_sdata(("A",), side=4, seed=seed, mpp=None) for seed in range(3)]
    model = train_context(objects, mpp="native", groups={"0.A": "p", "1.A": "q", "2.A": "r"})
    nh.tl.predict(objects, model)
    alone = deepcopy(objects[1])
    nh.tl.predict(alone, model)
    np.testing.assert_array_equal(layer(alone), layer(objects[1]))
    assert np.isfinite(layer(alone, "nh2st_std")).all()


def test_half_precision(trained_context):
    sdata, model = trained_context
    nh.tl.predict(sdata, model, precision="32", key_added="full")
    nh.tl.predict(sdata, model, precision="bf16", key_added="half")
    np.testing.assert_allclose(layer(sdata, "half"), layer(sdata, "full"), atol=0.3)
    assert abs(layer(sdata, "half") - layer(sdata, "full")).mean() < 0.03


def test_the_model_is_left_as_it_was(trained_context):
    sdata, model = trained_context
    before = {name: value.clone() for name, value in model.tensors().items()}
    nh.tl.predict(sdata, model)
    assert not model.network.training
    assert all(torch.equal(value, before[name]) for name, value in model.tensors().items())
