"""Count losses are the negative log-likelihoods of scipy's distributions, up to what no parameter changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import gammaln

from nh2st.nn import count_loss

SHAPE = (6, 4)


def _case() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    log_expected = rng.normal(1, 1, SHAPE)
    return {
        "signal": torch.tensor(rng.normal(0, 1, SHAPE)),
        "counts": torch.tensor(rng.poisson(np.exp(log_expected)).astype(float)),
        "log_expected": torch.tensor(log_expected),
    }


def _mean(case: dict[str, torch.Tensor]) -> np.ndarray:
    return np.exp((case["log_expected"] + case["signal"]).numpy())


def _constant(counts: torch.Tensor) -> np.ndarray:
    return gammaln(counts.numpy() + 1)


def test_poisson():
    case = _case()
    expected = -stats.poisson.logpmf(case["counts"], _mean(case)) - _constant(case["counts"])
    np.testing.assert_allclose(count_loss(**case), expected.mean(), rtol=1e-5)


def test_negative_binomial():
    case, dispersion = _case(), np.array([0.3, 1.0, 5.0, 40.0])
    # Variance = mean + mean^2 / dispersion: scipy's n successes of probability n / (n + mean).
    logpmf = stats.nbinom.logpmf(case["counts"], dispersion, dispersion / (dispersion + _mean(case)))
    loss = count_loss(**case, log_dispersion=torch.tensor(dispersion).log())
    np.testing.assert_allclose(loss, (-logpmf - _constant(case["counts"])).mean(), rtol=1e-5)


def test_negative_binomial_nears_poisson_up_to_a_bound():
    case = _case()
    small, large, beyond = (
        count_loss(**case, log_dispersion=torch.full(SHAPE[1:], value, dtype=torch.float64))
        for value in (1.0, 6.0, 15.0)
    )
    poisson = count_loss(**case)
    assert abs(large - poisson) < 0.1 * abs(small - poisson)
    assert beyond == large


@pytest.mark.parametrize("dispersed", [False, True])
def test_best_signal_is_the_logarithm_of_the_ratio_to_what_was_expected(dispersed):
    counts, log_expected = torch.full((50, 2), 12.0), torch.full((50, 2), np.log(3.0))
    signal = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([signal], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = count_loss(signal.expand(50, 2), counts, log_expected, torch.ones(2) if dispersed else None)
        value.backward()
        return value

    optimizer.step(loss)
    np.testing.assert_allclose(signal.detach(), np.log(4), rtol=1e-3)


def test_dispersion_is_learned_from_counts():
    true = 2.0
    counts = np.random.default_rng(0).negative_binomial(true, true / (true + 5), (20_000, 1))
    log_dispersion = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([log_dispersion], 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        expected = torch.full(counts.shape, np.log(5.0))
        count_loss(torch.zeros(counts.shape), torch.tensor(counts).float(), expected, log_dispersion).backward()
        optimizer.step()
    assert log_dispersion.exp().item() == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("log_dispersion", [None, torch.zeros(1)], ids=["poisson", "negative binomial"])
def test_extreme_signals_stay_finite(log_dispersion):
    signal = torch.tensor([[-1e4], [0.0], [1e4]], dtype=torch.bfloat16, requires_grad=True)
    loss = count_loss(signal, torch.tensor([[0.0], [7.0], [3e4]]), torch.full((3, 1), -2.0), log_dispersion)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert signal.grad is not None
    assert signal.grad.isfinite().all()
