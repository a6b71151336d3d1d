"""The backtest from configuration to report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hedgerl import backtest
from hedgerl.backtest import BacktestConfig, HistoryConfig
from hedgerl.data import sp500
from hedgerl.pricing import black_scholes
from hedgerl.sim import BlackScholes, RoughBergomi

ROUGH = RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2)


def by_hedge(outcomes):
    return {each.hedge: each.summary for each in outcomes}


@pytest.mark.slow
def test_simulated_months_are_fair_and_delta_cuts_the_risk():
    """Statistical: at zero cost neither hedge earns or loses, 4 standard errors; delta at least halves the deviation.

    Catches a premium that the dynamics do not support (mispriced marks) and a delta hedge that trades nothing.
    """
    config = BacktestConfig(n_paths=20_000, half_spread_bps=0.0, backend="numpy")
    summary = by_hedge(backtest.backtest_simulated(config, ROUGH, "rough"))
    for each in summary.values():
        assert abs(each.mean) < 4 * each.mean_se
        assert each.cost == 0.0
    assert summary["delta"].sd < 0.5 * summary["none"].sd
    assert summary["delta"].cvar < 0.5 * summary["none"].cvar


def test_cost_is_paid_out_of_the_profit():
    """Identity: the same paths at a cost: the mean falls by exactly the mean cost. Catches an unpaid cost."""
    free, dear = (
        by_hedge(
            backtest.backtest_simulated(
                BacktestConfig(n_paths=500, half_spread_bps=bps, backend="numpy"), BlackScholes(volatility=0.2), "gbm"
            )
        )
        for bps in (0.0, 10.0)
    )
    assert dear["delta"].cost > 0.05
    assert dear["delta"].mean == pytest.approx(free["delta"].mean - dear["delta"].cost, abs=1e-9)
    assert dear["none"] == free["none"]


def test_results_are_per_100_of_spot():
    """Twin: a spot of 5 gives the numbers of a spot of 100, up to float32. Catches money in two units in one table."""
    config = BacktestConfig(n_paths=200, backend="numpy")
    at_100 = by_hedge(backtest.backtest_simulated(config, BlackScholes(volatility=0.2), "100"))
    at_5 = by_hedge(backtest.backtest_simulated(config, BlackScholes(volatility=0.2, spot=5.0), "5"))
    assert at_5["delta"].sd == pytest.approx(at_100["delta"].sd, rel=1e-4)
    assert at_5["none"].premium == pytest.approx(at_100["none"].premium, rel=1e-4)


def test_history_of_one_month_by_hand():
    """Golden: 22 warm-up closes, one month, no hedge: premium of Black-Scholes at the known volatility less the payoff.

    Catches windows that are off by a day (the month would start or end on a neighbouring close).
    """
    rng = np.random.default_rng(5)
    closes = 50.0 * np.exp(np.cumsum(0.01 * rng.standard_normal(43)))
    config = BacktestConfig(history=HistoryConfig(volatility_span_days=21))
    message = "n_steps must leave two months in the 43 closes .*volatility_span_days = 21 .* got 21"
    with pytest.raises(ValueError, match=message):
        backtest.backtest_history(config, closes, "short")
    closes = np.append(closes, closes[-1] * np.exp(np.cumsum(0.01 * rng.standard_normal(21))))
    outcome = backtest.backtest_history(config, closes, "two months")[0]
    volatility = sp500.ewma_volatility(closes, 21)
    for month, start in enumerate((21, 42)):
        premium = float(black_scholes(100.0, 100.0, 21 / 252, volatility[start]).price)
        payoff = max(100.0 * closes[start + 21] / closes[start] - 100.0, 0.0)
        assert outcome.pnl[month] == pytest.approx(premium - payoff, abs=1e-9)


def test_history_does_not_look_ahead():
    """Identity: changing the last month leaves the P&L of every earlier month as it was."""
    closes = sp500.load().closes[:400]
    other = closes.copy()
    other[-20:] *= 0.5
    config = BacktestConfig()
    before, after = (backtest.backtest_history(config, each, "x")[1].pnl for each in (closes, other))
    np.testing.assert_array_equal(before[:-1], after[:-1])
    assert before[-1] != after[-1]


def test_history_covers_the_whole_series():
    """Golden: 5,031 closes less 21 of warm-up are 238 months of 21 days."""
    outcomes = backtest.backtest_history(BacktestConfig(), sp500.load().closes, "sp")
    assert {each.summary.count for each in outcomes} == {238}
    summary = by_hedge(outcomes)
    assert summary["delta"].sd < 0.5 * summary["none"].sd


def test_a_month_too_long_for_the_history_is_told_before_the_simulation(tmp_path, monkeypatch):
    """Behaviour: catches minutes of simulation, then an error about an empty sample."""
    monkeypatch.setattr(BlackScholes, "simulate", None)  # would raise TypeError
    for n_steps in (4_900, 100_000):
        with pytest.raises(ValueError, match=f"n_steps must leave two months in the 5031 closes .* got {n_steps}"):
            backtest.run(BacktestConfig(n_steps=n_steps), BlackScholes(volatility=0.2), tmp_path)


def test_report(tmp_path, capsys):
    """Behaviour: the table names both markets and hedges; results.json holds the same numbers and the config."""
    config = BacktestConfig(market={"_target_": "hedgerl.sim.BlackScholes"}, n_paths=100, seed=3, backend="numpy")
    outcomes = backtest.run(config, BlackScholes(volatility=0.2), tmp_path)
    printed = capsys.readouterr().out
    assert "simulated BlackScholes" in printed
    assert "S&P 500 1999-2018" in printed
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["config"]["seed"] == 3
    assert [row["hedge"] for row in saved["results"]] == ["none", "delta", "none", "delta"]
    assert saved["results"][1]["cvar"] == outcomes[1].summary.cvar
    assert (tmp_path / "pnl.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("n_paths", 1, "n_paths must be a whole number of at least 2, got 1"),
        ("moneyness", 0.0, "moneyness must be positive, got 0.0"),
        ("half_spread_bps", -1.0, "half_spread_bps must not be negative, got -1.0"),
        ("confidence", 1.0, r"confidence must lie in \(0, 1\), got 1.0"),
    ],
)
def test_bad_configuration(field, value, message):
    """Catches a setting that only fails, or misleads, minutes later."""
    with pytest.raises(ValueError, match=message):
        BacktestConfig(**{field: value})
