"""Tokens are principal components of features, standardised within each section, in units of the first one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from nh2st.nn import Reduction, _reduction

N_FEATURES = 12


def _section(n: int, seed: int, *, level: float = 3.0, rank: int = N_FEATURES) -> np.ndarray:
    """Correlated features (n, 12) around a level of the section's own, with a clear order of components."""
    rng = np.random.default_rng(seed)
    strengths = 0.7 ** np.arange(rank)
    directions = np.linalg.qr(np.random.default_rng(99).normal(size=(N_FEATURES, rank)))[0]
    noise = (rng.normal(size=(n, rank)) * strengths) @ directions.T
    return (level * rng.normal(size=N_FEATURES) + noise).astype(np.float32)


def _standardized(section: np.ndarray) -> np.ndarray:
    return StandardScaler().fit_transform(section.astype(float))


def _fitted(sections: list[np.ndarray], n_components: int, *, normalize: str = "standardize") -> Reduction:
    reduction = Reduction(sections[0].shape[1], n_components, normalize=normalize)
    reduction.fit([[section] for section in sections])
    return reduction


def _assert_components(tokens: np.ndarray, fitted: np.ndarray, scored: np.ndarray) -> None:
    """Tokens equal scikit-learn's scores up to the sign of each component."""
    pca = PCA(tokens.shape[1], svd_solver="full").fit(fitted)
    scores = pca.transform(scored) / pca.transform(fitted)[:, 0].std()
    np.testing.assert_allclose(tokens * np.sign((tokens * scores).sum(0)), scores, atol=2e-5)


@pytest.mark.parametrize("n", [40, 7], ids=["more spots than features", "fewer"])
@pytest.mark.parametrize("normalize", ["center", "standardize", "none"])
def test_tokens_are_the_scores_of_principal_components(n, normalize):
    sections = [_section(n, 0), _section(n - 2, 1)]
    reduction = _fitted(sections, 5, normalize=normalize)
    scaler = StandardScaler(with_mean=normalize != "none", with_std=normalize == "standardize")
    prepared = [scaler.fit_transform(section.astype(float)) for section in sections]
    tokens = np.concatenate([reduction.tokens([section]) for section in sections])
    assert tokens.dtype == np.float32
    assert tokens[:, 0].std() == pytest.approx(1, rel=1e-5)
    _assert_components(tokens, np.concatenate(prepared), np.concatenate(prepared))


def test_a_new_section_is_standardised_by_itself():
    fitted, new = _section(60, 0), _section(30, 1)
    reduction = _fitted([fitted], 4)
    _assert_components(reduction.tokens([new]), _standardized(fitted), _standardized(new))
    np.testing.assert_allclose(reduction.tokens([3 * new + 20]), reduction.tokens([new]), atol=1e-4)


def test_without_standardisation_the_level_of_a_section_stays():
    section = _section(60, 0)
    reduction = _fitted([section], 4, normalize="none")
    assert abs(reduction.tokens([section + 1]) - reduction.tokens([section])).max() > 0.1


def test_patch_scales_are_joined():
    near, far = _section(40, 0), _section(40, 1)
    reduction = Reduction(2 * N_FEATURES, 6, normalize="standardize")
    reduction.fit([[near, far]])
    joined = _standardized(np.hstack([near, far]))
    _assert_components(reduction.tokens([near, far]), joined, joined)
    parts = [reduction.part(number, features) for number, features in enumerate((near, far))]
    np.testing.assert_allclose(parts[0] + parts[1], reduction.tokens([near, far]), atol=1e-5)


def test_components_are_those_of_the_chosen_rows_after_standardising_over_all():
    sections = [_section(50, 0), _section(40, 1)]
    rows = [np.arange(20, 45), np.array([3, 1, 17])]
    reduction = Reduction(N_FEATURES, 4, normalize="standardize")
    reduction.fit([[section] for section in sections], rows)
    prepared = [_standardized(section) for section in sections]
    chosen = np.concatenate([section[which] for section, which in zip(prepared, rows, strict=True)])
    _assert_components(reduction.tokens([sections[0]]), chosen, prepared[0])


@pytest.mark.parametrize("constant", [0.0, 0.1, 3e4])
def test_constant_features_add_nothing(constant):
    section = _section(40, 0)
    padded = np.hstack([section, np.full((40, 3), constant, np.float32)])
    tokens = _fitted([padded], 4).tokens([padded])
    np.testing.assert_allclose(tokens, _fitted([section], 4).tokens([section]), atol=1e-5)


def test_features_that_are_all_constant_give_zeros():
    section = np.full((10, N_FEATURES), 0.3, np.float32)
    np.testing.assert_array_equal(_fitted([section], 4).tokens([section]), np.zeros((10, 4)))


def test_a_feature_that_is_constant_in_one_section_alone_is_finite():
    sections = [_section(40, 0), _section(30, 1)]
    sections[1][:, 2] = 5
    tokens = _fitted(sections, 4).tokens([sections[1]])
    _assert_components(tokens, np.concatenate(list(map(_standardized, sections))), _standardized(sections[1]))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_features_of_any_precision(dtype):
    section = _section(300, 0, level=40).astype(dtype)
    tokens = _fitted([section], 4).tokens([section])
    assert tokens.dtype == np.float32
    _assert_components(tokens, _standardized(section), _standardized(section))


def test_sums_of_half_precision_do_not_overflow():
    section = (60_000 * np.random.default_rng(0).random((200, 4))).astype(np.float16)
    tokens = _fitted([section], 2).tokens([section])
    _assert_components(tokens, _standardized(section), _standardized(section))


@pytest.mark.parametrize("rows", [1, 7, 40, 41])
def test_chunks_make_no_difference(monkeypatch, rows):
    section = _section(40, 0)
    expected = _fitted([section], 4).tokens([section])
    monkeypatch.setattr(_reduction, "_ROWS", rows)
    np.testing.assert_allclose(_fitted([section], 4).tokens([section]), expected, atol=1e-5)


@pytest.mark.parametrize(("n", "rank"), [(40, 3), (4, 3), (4, N_FEATURES)])
def test_components_beyond_the_rank_are_zero(n, rank):
    section = _section(n, 0, rank=rank)
    tokens = _fitted([section], 20, normalize="none").tokens([section])
    assert tokens.shape == (n, 20)
    _assert_components(tokens[:, :3], section, section)
    np.testing.assert_array_equal(tokens[:, 3:], 0)


@pytest.mark.parametrize("n", [40, 7])
def test_the_largest_weight_of_each_component_is_positive(n):
    components = _fitted([_section(n, 0)], 5).components.numpy()
    assert (components.max(0) > -components.min(0)).all(), "signs would differ between machines"


def test_a_second_fit_replaces_the_first():
    first, second = _section(40, 0), _section(40, 1, rank=2)
    reduction = _fitted([first], 4, normalize="none")
    reduction.fit([[second]])
    np.testing.assert_array_equal(reduction.tokens([second]), _fitted([second], 4, normalize="none").tokens([second]))


def test_a_fitted_reduction_is_restored_from_its_state():
    section = _section(40, 0)
    fitted, restored = _fitted([section], 4), Reduction(N_FEATURES, 4, normalize="standardize")
    restored.load_state_dict(fitted.state_dict())
    np.testing.assert_array_equal(restored.tokens([section]), fitted.tokens([section]))
    assert not list(fitted.parameters()), "no optimiser may change it"
