"""Metrics: equal to the risk measures they are named after, and to themselves on resampled episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hedgerl.evaluation import METRICS, Result, measure
from hedgerl.evaluation.metrics import Sample, check_metric, equity_curve
from hedgerl.risk import cvar, entropic_risk, max_drawdown, semi_deviation, sharpe_ratio, value_at_risk

MakeResult = Callable[..., Result]


def test_metrics_are_the_risk_measures(make_result: MakeResult) -> None:
    pnl = np.random.default_rng(2).standard_t(3, size=1234)
    got = measure(make_result(pnl, unhedged=3.0 * pnl, fields={"aversion": 0.5}))
    expected = {
        "mean": pnl.mean(),
        "sd": pnl.std(ddof=1),
        "mean_se": pnl.std(ddof=1) / pnl.size**0.5,
        "semi_deviation": semi_deviation(pnl),
        "var_95": value_at_risk(pnl, 0.95),
        "cvar_95": cvar(pnl, 0.95),
        "var_99": value_at_risk(pnl, 0.99),
        "cvar_99": cvar(pnl, 0.99),
        "entropic": entropic_risk(pnl, 0.5),
        "sharpe": float(sharpe_ratio(pnl, 12.0)),
        "win_rate": (pnl > 0).mean(),
        "effectiveness": 1 - 1 / 9,
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert tuple(got) == tuple(METRICS)


def test_means_and_ratios_by_hand(make_result: MakeResult) -> None:
    result = make_result(
        [1.0, -1.0],
        premium=[2.0, 4.0],
        cost=[0.1, 0.3],
        cost_spread=[0.1, 0.3],
        turnover=[1.0, 2.0],
        trades=[3.0, 4.0],
        win_days=[0.5, 1.0],
        max_drawdown=[0.3, 0.9],
        hedging_error_mean=[0.1, -0.3],
        hedging_error_square=[0.01, 0.15],
        reference_cost=[0.5, 0.3],
    )
    got = measure(result)
    assert got["premium"] == 3.0
    assert got["cost"] == got["cost_spread"] == pytest.approx(0.2)
    assert got["cost_impact"] == 0.0
    assert got["turnover"] == 1.5
    assert got["trades"] == 3.5
    assert got["win_rate"] == 0.5
    assert got["win_rate_days"] == 0.75
    assert got["hedging_error_mean"] == pytest.approx(-0.1)
    assert got["hedging_error_rms"] == pytest.approx(0.08**0.5)
    assert got["max_drawdown"] == pytest.approx(0.6)
    assert got["drawdown_to_premium"] == pytest.approx(0.2)
    assert got["cost_to_reference"] == pytest.approx(0.5)


def test_what_is_not_defined_is_nan(make_result: MakeResult) -> None:
    got = measure(make_result([1.0, 1.0]))
    for name in ("sharpe", "effectiveness", "drawdown_to_premium", "cost_to_reference"):
        assert np.isnan(got[name])


def test_equity_curve_by_hand() -> None:
    """Episodes of 2 steps: one after the other; then overlapping, each of half size."""
    steps = np.array([[1.0, 10.0], [2.0, 20.0]])
    order = np.array([[0, 1], [1, 0]])
    assert equity_curve(steps, 2, order).tolist() == [[0, 1, 3, 13, 33], [0, 10, 30, 31, 33]]
    assert equity_curve(steps, 1, order[:1]).tolist() == [[0, 0.5, 6.5, 16.5]]
    assert equity_curve(steps, 3, order[:1]).tolist() == [[0, 1, 3, 3, 13, 33]]


def test_drawdowns_of_history_are_those_of_the_curve(make_result: MakeResult) -> None:
    steps = np.random.default_rng(4).normal(size=(3, 20))
    result = make_result(steps.sum(axis=0), kind="history", fields={"step_pnl": steps, "every": 3})
    curve = np.concatenate([[0.0], np.cumsum(steps.T.ravel())])
    assert measure(result)["max_drawdown"] == pytest.approx(float(max_drawdown(curve)))


@pytest.mark.parametrize("history", [False, True])
def test_identity_counts_are_the_resampled_episodes(make_result: MakeResult, history: bool) -> None:
    """Measured by how often episodes are drawn, without making the resample: the same numbers as making it."""
    rng = np.random.default_rng(8)
    n = 60
    pnl = rng.normal(size=n)
    steps = rng.normal(size=(4, n))
    fields = {"step_pnl": steps, "every": 2} if history else {}
    result = make_result(pnl, unhedged=rng.normal(size=n), cost=rng.random(n), premium=rng.random(n), fields=fields)
    draws = rng.integers(0, n, size=(5, n))
    counts = np.stack([np.bincount(row, minlength=n) for row in draws]).astype(float)
    got = Sample(result).measure(counts, draws)
    for row, drawn in enumerate(draws):
        made = replace(
            result,
            episodes=result.episodes.iloc[drawn].reset_index(drop=True),
            step_pnl=steps[:, drawn] if history else None,
        )
        expected = measure(made)
        assert {name: float(values[row]) for name, values in got.items()} == pytest.approx(
            expected, rel=1e-9, abs=1e-12, nan_ok=True
        )


def test_standard_error_of_dependent_episodes(make_result: MakeResult) -> None:
    """Limit: an AR(1) of coefficient .6 has a mean whose error is sqrt(1.6 / .4) = 2 times that of independence.

    Blocks of 40 lose about .6 / (40 x .16) of the variance; 12 % covers that and the sampling error at n = 8,000.
    """
    rng = np.random.default_rng(3)
    x = np.zeros(8000)
    for i, shock in enumerate(rng.normal(size=x.size)):
        x[i] = 0.6 * x[i - 1] + shock
    plain = measure(make_result(x))["mean_se"]
    blocks = measure(make_result(x, fields={"block": 40}))["mean_se"]
    assert blocks / plain == pytest.approx(2.0, rel=0.12)


def test_errors(make_result: MakeResult) -> None:
    with pytest.raises(ValueError, match="at least two episodes"):
        measure(make_result([1.0]))
    with pytest.raises(ValueError, match="'hand' must be finite"):
        measure(make_result([1.0, np.inf]))
    with pytest.raises(ValueError, match="metric must be one of mean, .* got 'sortino'"):
        check_metric("sortino")
