"""Risk measures: hand-computed samples, identities, known distributions, array libraries."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from hedgerl.risk import (
    cvar,
    drawdown,
    entropic_risk,
    max_drawdown,
    pain_index,
    semi_deviation,
    sharpe_ratio,
    tail_weights,
    ulcer_index,
    value_at_risk,
    win_rate,
)

PNL = np.array([-10.0, -2.0, 1.0, 3.0])


@pytest.mark.parametrize(
    ("level", "var", "tail_mean"),
    [
        (0.5, -1.0, 6.0),
        (0.6, 2.0, 7.0),
        (0.75, 2.0, 10.0),
        (0.9, 10.0, 10.0),
        (0.2, -3.0, (10 + 2 - 1 - 0.2 * 3) / 3.2),
    ],
)
def test_value_at_risk_and_cvar_by_hand(level: float, var: float, tail_mean: float) -> None:
    assert float(value_at_risk(PNL, level)) == var
    assert float(cvar(PNL, level)) == pytest.approx(tail_mean, abs=1e-12)


@pytest.mark.parametrize("level", [0.37, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [7, 20, 101])
def test_identity_cvar_is_the_minimum_of_rockafellar_and_uryasev(n: int, level: float) -> None:
    """min over c of c + E[(L - c)+] / (1 - level), which VaR attains."""
    pnl = np.random.default_rng(n).standard_t(3, size=n)
    loss = -pnl

    def objective(c: float) -> float:
        return c + float(np.maximum(loss - c, 0.0).mean()) / (1.0 - level)

    assert float(cvar(pnl, level)) == pytest.approx(min(map(objective, loss)), rel=1e-12)
    assert objective(float(value_at_risk(pnl, level))) == pytest.approx(float(cvar(pnl, level)), rel=1e-12)


def test_rounding_of_one_minus_level_moves_no_quantile() -> None:
    """1 - .95 is a little above .05 and 1 - .9 a little below .1 in binary."""
    losses = np.arange(1.0, 101.0)
    assert float(value_at_risk(-losses, 0.95)) == 95.0
    assert float(value_at_risk(-losses[:10], 0.9)) == 9.0
    assert float(cvar(-losses, 0.95)) == 98.0
    assert tail_weights(100, 0.95)[:5] == pytest.approx(0.2)


def test_statistical_normal_sample() -> None:
    """Each within 4 standard errors of the normal's own (n = 200,000; errors from the asymptotic variances)."""
    mean, sd, n = 0.3, 2.0, 200_000
    pnl = np.random.default_rng(5).normal(mean, sd, n)
    standard = NormalDist()
    z = standard.inv_cdf(0.95)
    root = math.sqrt(n)
    var_se = sd * math.sqrt(0.05 * 0.95) / standard.pdf(z) / root
    assert abs(float(value_at_risk(pnl)) - (sd * z - mean)) < 4 * var_se
    assert abs(float(cvar(pnl)) - (sd * standard.pdf(z) / 0.05 - mean)) < 4 * 3 * sd / root / math.sqrt(0.05 / 2)
    assert abs(float(semi_deviation(pnl)) - sd / math.sqrt(2)) < 4 * sd / root
    a = 0.5
    assert abs(float(entropic_risk(pnl, a)) - (a * sd**2 / 2 - mean)) < 4 * 2 * sd / root
    assert abs(float(sharpe_ratio(pnl, 12.0)) - mean / sd * 12**0.5) < 4 * 12**0.5 / root
    assert abs(float(win_rate(pnl)) - standard.cdf(mean / sd)) < 4 * 0.5 / root


def test_coherence_and_order() -> None:
    pnl = np.random.default_rng(0).standard_t(4, size=500)
    for measure in (value_at_risk, cvar, entropic_risk):
        assert float(measure(pnl + 3.0)) == pytest.approx(float(measure(pnl)) - 3.0, abs=1e-12)
    for level in (0.9, 0.95, 0.99):
        assert float(cvar(pnl, level)) >= float(value_at_risk(pnl, level))
        assert float(cvar(4.0 * pnl, level)) == pytest.approx(4.0 * float(cvar(pnl, level)))
    assert -pnl.mean() <= float(entropic_risk(pnl)) <= -pnl.min()


def test_entropic_risk_of_huge_losses_is_finite() -> None:
    assert float(entropic_risk([-1e6, 1e6], 1.0)) == pytest.approx(1e6 - math.log(2.0))


def test_semi_deviation_and_sharpe_by_hand() -> None:
    assert float(semi_deviation([-1.0, 1.0])) == pytest.approx(math.sqrt(0.5))
    assert float(semi_deviation([1.0, 3.0], target=2.0)) == pytest.approx(math.sqrt(0.5))
    assert float(sharpe_ratio([1.0, 3.0], 4.0)) == pytest.approx(2.0 / math.sqrt(2.0) * 2.0)
    assert math.isnan(float(sharpe_ratio([0.1, 0.1, 0.1], 12.0)))
    assert float(win_rate([0.0, -1.0, 2.0, 3.0])) == 0.5


def test_drawdowns_by_hand() -> None:
    wealth = np.array([100.0, 110.0, 99.0, 104.5, 120.0, 90.0])
    assert drawdown(wealth).tolist() == [0.0, 0.0, 11.0, 5.5, 0.0, 30.0]
    assert float(max_drawdown(wealth)) == 30.0
    assert float(max_drawdown(wealth, relative=True)) == 0.25
    squares = 0.1**2 + 0.05**2 + 0.25**2
    assert float(ulcer_index(wealth)) == pytest.approx(math.sqrt(squares / 6))
    assert float(pain_index(wealth)) == pytest.approx(0.4 / 6)
    assert float(ulcer_index(wealth, relative=False)) == pytest.approx(math.sqrt((11**2 + 5.5**2 + 30**2) / 6))
    assert float(pain_index(wealth, relative=False)) == pytest.approx(46.5 / 6)


def test_identity_pain_ulcer_and_maximum_are_ordered() -> None:
    wealth = np.cumsum(np.random.default_rng(3).normal(size=(50, 40)), axis=0)
    pain, ulcer = pain_index(wealth, relative=False), ulcer_index(wealth, relative=False)
    assert (pain <= ulcer + 1e-15).all()
    assert (ulcer <= max_drawdown(wealth) + 1e-15).all()


@pytest.mark.parametrize("measure", [value_at_risk, cvar, entropic_risk, semi_deviation, win_rate])
def test_twin_batched_is_one_at_a_time_and_torch_is_numpy(measure) -> None:  # type: ignore[no-untyped-def]
    pnl = np.random.default_rng(1).normal(size=(3, 50))
    batched = measure(pnl)
    assert batched.shape == (3,)
    np.testing.assert_allclose(batched, [measure(row) for row in pnl], rtol=1e-14, atol=0)
    on_torch = measure(torch.asarray(pnl))
    assert isinstance(on_torch, torch.Tensor)
    np.testing.assert_allclose(on_torch.numpy(), batched, rtol=1e-13, atol=0)


def test_twin_drawdowns_on_torch() -> None:
    wealth = 100.0 + np.cumsum(np.random.default_rng(1).normal(size=(30, 4)), axis=0)
    for measure in (max_drawdown, ulcer_index, pain_index):
        np.testing.assert_allclose(measure(torch.asarray(wealth)).numpy(), measure(wealth), rtol=1e-13, atol=0)


def test_gradient_of_cvar_is_minus_the_tail_weights() -> None:
    pnl = torch.asarray(PNL, dtype=torch.float64).requires_grad_()
    cvar(pnl, 0.6).backward()
    assert pnl.grad is not None
    np.testing.assert_allclose(pnl.grad.numpy(), [-1 / 1.6, -0.6 / 1.6, 0.0, 0.0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("measure", [value_at_risk, cvar, entropic_risk, semi_deviation, win_rate])
def test_samples_are_checked(measure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="pnl must be finite"):
        measure([1.0, float("nan")])
    with pytest.raises(ValueError, match="pnl must have at least 1"):
        measure(np.zeros(0))


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\)"):
        cvar(PNL, 1.0)
    with pytest.raises(ValueError, match="aversion must be positive"):
        entropic_risk(PNL, 0.0)
    with pytest.raises(ValueError, match="at least 2"):
        sharpe_ratio([1.0], 12.0)
    with pytest.raises(ValueError, match="wealth must start positive"):
        ulcer_index([0.0, 1.0])
