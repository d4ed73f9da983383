"""What a model must beat in cross-validation: fitted on some spots, predicted for others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler, scale

import nh2st as nh
from nh2st._estimators import Encoding, Features, TrainingSpots, estimator_named
from nh2st._estimators._linear import LinearNetwork

NAMES = ["training_mean", "colour_texture", "ridge", "ridge_neighbours", "ridge_context", "ridge_context_2x"]
STANDARDISED = NAMES[4:]
PENALTIES = 10.0 ** np.arange(4, -2.5, -0.5)
N_GENES = 6


@dataclass(frozen=True)
class BaselineInputs:
    """What baselines read of the images of all spots."""

    colour_texture: np.ndarray
    features: np.ndarray
    neighbors: np.ndarray
    coordinates: np.ndarray
    section: np.ndarray
    group: np.ndarray
    features_2x: np.ndarray

    def values(self, name: str) -> np.ndarray:
        n, width = self.features.shape
        # Columns that are constant have no say.
        padded = np.hstack([self.features_2x, np.zeros((n, width - self.features_2x.shape[1]), dtype=np.float32)])
        special = {
            "training_mean": np.empty((n, 0), dtype=np.float32),
            "colour_texture": self.colour_texture,
            "ridge_context_2x": np.hstack([self.features, padded]),
        }
        return special.get(name, self.features)


def predict_baselines(
    inputs: BaselineInputs, expression: np.ndarray, train: np.ndarray, test: np.ndarray
) -> dict[str, np.ndarray]:
    """Fit every linear estimator on some spots and predict others."""
    masks = [np.isin(np.arange(len(expression)), rows) for rows in (train, test)]
    found = {}
    for name in NAMES:
        estimator = estimator_named(name)
        network = LinearNetwork(estimator.configure(n_genes=expression.shape[1]), None, 0)
        start = nh.models.Model(network, [f"G{i}" for i in range(expression.shape[1])], None, 112.0)
        spots = TrainingSpots(
            Features(inputs.values(name)),
            expression,
            expression,
            inputs.neighbors,
            inputs.coordinates,
            inputs.section,
            inputs.group,
            np.zeros(len(expression)),
        )
        model = estimator.fit(start, SimpleNamespace(spots=spots), masks[0])
        found[name] = estimator.predict(model.network, spots, masks[1], Encoding("cpu", "32")).mean
    return found


def make_inputs(sizes: tuple[int, ...] = (40, 30, 50), donors: tuple[int, ...] | None = None) -> BaselineInputs:
    rng = np.random.default_rng(0)
    n = sum(sizes)
    section = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
    # Neighbours lie in a ring of the section's spots; some have fewer, the first of each section none.
    ring = (np.arange(n) - starts)[:, None] + np.arange(1, 9)
    neighbors = starts[:, None] + ring % np.repeat(sizes, sizes)[:, None]
    neighbors[rng.random((n, 8)) < 0.4] = -1
    neighbors[np.unique(starts)] = -1
    features = 3 + rng.normal(size=(n, 20)) @ rng.normal(size=(20, 20)) + section[:, None]
    return BaselineInputs(
        colour_texture=rng.normal(size=(n, 5)).astype(np.float32),
        features=features.astype(np.float32),
        neighbors=neighbors,
        coordinates=rng.random((n, 2)) * [2, 1],
        section=section,
        group=section if donors is None else np.array(donors)[section],
        features_2x=rng.normal(size=(n, 7)).astype(np.float32),
    )


def make_expression(inputs: BaselineInputs) -> np.ndarray:
    rng = np.random.default_rng(1)
    n = len(inputs.section)
    signal = inputs.features @ rng.normal(size=(20, N_GENES)) / 10 + inputs.colour_texture @ rng.normal(
        size=(5, N_GENES)
    )
    return (signal + rng.normal(size=(n, N_GENES))).astype(np.float32)


def rows_of(inputs: BaselineInputs, test_section: int) -> tuple[np.ndarray, np.ndarray]:
    test = inputs.section == test_section
    return np.flatnonzero(~test), np.flatnonzero(test)


def ridge(inputs: BaselineInputs, features: np.ndarray, expression: np.ndarray, rows: tuple) -> np.ndarray:
    """Prediction of the plain ridge from other features."""
    return predict_baselines(replace(inputs, features=features), expression, *rows)["ridge"]


def scikit_learn(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Pipeline:
    """The same recipe in scikit-learn, its penalty that of the best mean PCC over genes and groups."""
    scaler, pca = StandardScaler(), PCA(min(256, *x.shape), svd_solver="full")
    scores = pca.fit_transform(scaler.fit_transform(x))

    def fit(penalty: float, rows: np.ndarray) -> Ridge:
        return Ridge(alpha=penalty * scores[rows].var(axis=0).sum()).fit(scores[rows], y[rows])

    def score(penalty: float) -> float:
        found = []
        for train, test in GroupKFold(min(5, len(set(groups)))).split(scores, groups=groups):
            for group in set(groups[test]):
                rows = test[groups[test] == group]
                pairs = zip(fit(penalty, train).predict(scores[rows]).T, y[rows].T, strict=True)
                found.append(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))
        return np.mean(found)

    return make_pipeline(scaler, pca, fit(max(PENALTIES, key=score), np.arange(len(x))))


LAYOUTS = [((40, 30, 50), None), ((20, 30, 40, 50), (0, 0, 1, 2)), ((60, 30), None), ((12,) * 9, None)]


@pytest.mark.parametrize(("sizes", "donors"), LAYOUTS)
@pytest.mark.parametrize(("name", "columns"), [("ridge", "features"), ("colour_texture", "colour_texture")])
def test_ridge_equals_scikit_learn(sizes, donors, name, columns):
    inputs = make_inputs(sizes, donors)
    expression = make_expression(inputs)
    train, test = rows_of(inputs, len(sizes) - 1)
    groups = inputs.group[train]
    if len(sizes) == 2:  # A single section to train on is halved across its longer side.
        groups = inputs.coordinates[train, 0] > np.median(inputs.coordinates[train, 0])
    x = getattr(inputs, columns).astype(np.float64)
    expected = scikit_learn(x[train], expression[train], groups).predict(x[test])
    found = predict_baselines(inputs, expression, train, test)[name]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert expected.std(axis=0).min() > 0.05


def test_more_columns_than_components():
    rng = np.random.default_rng(5)
    inputs = make_inputs((150, 150, 40))
    wide = np.hstack([inputs.features, rng.normal(size=(340, 265))]).astype(np.float32)
    expression, (train, test) = make_expression(inputs), rows_of(inputs, 2)
    expected = scikit_learn(wide[train].astype(float), expression[train], inputs.section[train]).predict(wide[test])
    found = ridge(inputs, wide, expression, (train, test))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_names_and_shapes():
    inputs = make_inputs()
    expression, (train, test) = make_expression(inputs), rows_of(inputs, 1)
    found = predict_baselines(inputs, expression, train, test)
    assert list(found) == NAMES
    for values in found.values():
        assert values.shape == (30, N_GENES)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
    mean = expression[train].mean(axis=0)
    np.testing.assert_allclose(found["training_mean"], np.tile(mean, (30, 1)), rtol=1e-5)


def with_neighbors(inputs: BaselineInputs) -> np.ndarray:
    rows = []
    for own, neighbors in zip(inputs.features, inputs.neighbors, strict=True):
        around = [inputs.features[spot] for spot in neighbors if spot >= 0]
        rows.append(np.concatenate([own, np.mean(around, axis=0) if around else own]))
    return np.array(rows, dtype=np.float64)


def test_mean_of_the_neighbors_is_appended():
    inputs = make_inputs()
    expression, rows = make_expression(inputs), rows_of(inputs, 2)
    expected = ridge(inputs, with_neighbors(inputs).astype(np.float32), expression, rows)
    found = predict_baselines(inputs, expression, *rows)
    np.testing.assert_allclose(found["ridge_neighbours"], expected, rtol=1e-3, atol=1e-3)
    assert np.abs(expected - found["ridge"]).max() > 0.05


def test_columns_are_standardised_within_sections():
    inputs = make_inputs()
    expression, rows = make_expression(inputs), rows_of(inputs, 2)
    found = predict_baselines(inputs, expression, *rows)
    local = with_neighbors(inputs)
    for name, columns in zip(STANDARDISED, (local, np.hstack([local, inputs.features_2x])), strict=True):
        apart = np.concatenate([scale(columns[inputs.section == number]) for number in range(3)]).astype(np.float32)
        np.testing.assert_allclose(found[name], ridge(inputs, apart, expression, rows), rtol=1e-3, atol=1e-3)


def test_stain_of_a_section_has_no_part_in_standardised_predictions():
    inputs = make_inputs()
    expression, rows = make_expression(inputs), rows_of(inputs, 1)
    stained = inputs.features.copy()
    stained[inputs.section == 1] = 1.7 * stained[inputs.section == 1] - 2
    before = predict_baselines(inputs, expression, *rows)
    after = predict_baselines(replace(inputs, features=stained), expression, *rows)
    for name in STANDARDISED:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-3, atol=1e-3)
    assert np.abs(after["ridge"] - before["ridge"]).max() > 0.5


def test_expression_of_test_rows_is_not_used():
    inputs = make_inputs()
    expression, (train, test) = make_expression(inputs), rows_of(inputs, 0)
    unknown = expression.copy()
    unknown[test] = np.nan
    before, after = (predict_baselines(inputs, measured, train, test) for measured in (expression, unknown))
    for name in NAMES:
        np.testing.assert_array_equal(after[name], before[name])


def test_constant_columns_have_no_say():
    inputs = make_inputs()
    expression, rows = make_expression(inputs), rows_of(inputs, 2)
    constant = np.full((120, 1), 0.1, dtype=np.float32)
    within = np.linspace(0, 1, 120, dtype=np.float32)[:, None].copy()
    within[inputs.section == 2] = 123.456  # varies over the training rows, not over the test section
    for column in (constant, within):
        found = predict_baselines(replace(inputs, features=np.hstack([inputs.features, column])), expression, *rows)
        assert all(np.isfinite(values).all() for values in found.values())
    changed = inputs.features.copy()
    changed = np.hstack([changed, constant])
    changed[inputs.section == 2, -1] = 50  # constant where it is trained on
    np.testing.assert_allclose(
        ridge(inputs, changed, expression, rows), ridge(inputs, inputs.features, expression, rows), rtol=1e-4, atol=1e-4
    )


def test_without_any_variation_the_training_mean_is_predicted():
    inputs = make_inputs()
    blank = replace(
        inputs,
        colour_texture=np.full_like(inputs.colour_texture, 0.3),
        features=np.full_like(inputs.features, 0.7),
        features_2x=np.full_like(inputs.features_2x, 0.7),
    )
    expression, (train, test) = make_expression(inputs), rows_of(inputs, 1)
    for values in predict_baselines(blank, expression, train, test).values():
        np.testing.assert_allclose(values, np.tile(expression[train].mean(axis=0), (30, 1)), rtol=1e-4)


def test_constant_gene_is_predicted_as_it_is():
    inputs = make_inputs()
    expression = make_expression(inputs)
    expression[:, 0] = 2.5
    for values in predict_baselines(inputs, expression, *rows_of(inputs, 1)).values():
        np.testing.assert_allclose(values[:, 0], 2.5, rtol=1e-5)


@pytest.mark.parametrize("n_train", [2, 3, 5])
def test_fewer_spots_than_components(n_train):
    inputs = make_inputs((4, 4, 30))
    train, test = np.arange(n_train), np.arange(8, 38)
    found = predict_baselines(inputs, make_expression(inputs), train, test)
    assert all(np.isfinite(values).all() for values in found.values())


def test_a_single_spot_is_refused():
    inputs = make_inputs()
    with pytest.raises(ValueError, match="at least 2 spots to be fitted on, not 1"):
        predict_baselines(inputs, make_expression(inputs), np.array([3]), np.array([4]))


def test_a_section_of_one_spot():
    inputs = make_inputs((20, 20, 1))
    found = predict_baselines(inputs, make_expression(inputs), *rows_of(inputs, 2))
    assert all(np.isfinite(values).all() for values in found.values())


def test_noise_is_penalised_more_than_signal():
    rng = np.random.default_rng(3)
    inputs = make_inputs()
    noise = rng.normal(size=(120, N_GENES))
    rows = rows_of(inputs, 2)
    signal = inputs.features @ rng.normal(size=(20, N_GENES)) / 10
    spread = [ridge(inputs, inputs.features, y, rows).std(axis=0) / y.std(axis=0) for y in (noise, signal)]
    assert spread[0].max() < 0.5
    assert spread[1].min() > 0.5
