"""Replays of history on today's book and shocks at once, by hand and against the attribution of whole episodes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from hedgerl import cli, stress
from hedgerl.baselines import Delta, solved
from hedgerl.data import SSVI, DailySeries, Surface, read_daily
from hedgerl.envs import Execution, Listing, OptionBook, Position, ShortOption, Task
from hedgerl.evaluation import attribute
from hedgerl.evaluation.attribution import Expansion, contract_terms
from hedgerl.evaluation.rollouts import pnl_by_step, roll_out
from hedgerl.execution import HalfSpread
from hedgerl.pricing import Option, black_scholes, implied_volatility
from hedgerl.sim import BlackScholes, History
from hedgerl.stress import GridConfig, StressConfig, Today, TodayConfig, Window, WorstConfig

DAY = 1 / 252
FLAT = Surface(shape=SSVI(), kappa=0.0)  # the same volatility at the money for every expiry
TODAY = Today(100.0, 0.2, 0.0, 0.0)
STILL, CRASH = 400, 450  # days from which 5 days stand still, and before a fall of 7 %
COSTS = Execution(costs=(HalfSpread(bps=2.0, applies_to="underlying"),))


def series(n_days: int = 600) -> DailySeries:
    """Noise, but for five days that stand still, and a day with -7 % and the VIX at 1.5 times."""
    rng = np.random.default_rng(1)
    returns = 0.01 * rng.standard_normal(n_days)
    vix = 18.0 + 2.0 * np.sin(np.arange(n_days) / 7.0)
    returns[STILL + 1 : STILL + 6], vix[STILL : STILL + 6] = 0.0, 22.0
    returns[CRASH + 1], vix[CRASH : CRASH + 2] = np.log(0.93), [20.0, 30.0]
    close = 1000.0 * np.exp(np.cumsum(returns))
    rate = 0.03 + 1e-5 * np.arange(n_days)
    return DailySeries("made", np.busday_offset("2010-01-04", np.arange(n_days)), close, vix=vix, rate=rate)


def history(**changes: Any) -> History:
    return History(**({"series": series(), "surface": FLAT} | changes))


def short(market: Any, **changes: Any) -> ShortOption:
    return ShortOption(**({"market": market, "n_steps": 21, "quantity": 100.0, "execution": COSTS} | changes))


def rows_of(task: Task, window: Window, today: Today = TODAY, **config: Any) -> dict[str, Any]:
    """The replay's row of the delta hedge."""
    given = StressConfig(n_paths=3, **config)
    rows, _ = stress.replay_rows(given, task, task.market, today, [window], {"delta": Delta()})
    assert len(rows) == 1
    return rows[0]


def marked(market: History, spot: float, level: float, left: float, strike: float = 100.0) -> float:
    """A call by hand: Black-Scholes at the volatility of the smile whose log contract has this level."""
    shape = market.surface.shape
    theta = shape.at_the_money(np.array([level**2 * 30 / 365])) * 365 / 30 * left
    volatility = np.sqrt(shape.total_variance(np.log(strike / np.array([spot])), theta).value / left)
    return float(black_scholes(spot, strike, left, float(volatility[0])).price)


def test_a_window_that_stands_still_moves_nothing():
    """By hand: constant closes and VIX give no delta, gamma or vega P&L; what is left is time, and the trade's cost."""
    market = history()
    row = rows_of(short(market), Window("still", STILL, 5))
    for term in ("delta", "gamma", "vega", "vanna", "volga", "carry"):
        assert row[term] == pytest.approx(0.0, abs=1e-9), term
    decay = marked(market, 100.0, 0.2, 21 * DAY) - marked(market, 100.0, 0.2, 16 * DAY)
    assert row["pnl"] - row["cost"] == pytest.approx(decay, rel=1e-6)
    assert row["theta"] + row["residual"] == pytest.approx(decay, rel=1e-6)
    assert row["spot_move"] == 0.0
    assert -0.05 < row["cost"] < 0.0


def test_a_crash_of_one_day_by_hand():
    """By hand: -7 % with the VIX at 1.5 times is a revaluation of the call at 93 and 30 %, a day shorter, less the
    shares of the delta hedge; today's level is not the window's."""
    market = history()
    row = rows_of(short(market), Window("crash", CRASH, 1))
    assert row["spot_move"] == pytest.approx(-0.07, rel=1e-12)
    assert row["level_ratio"] == pytest.approx(1.5, rel=1e-12)
    assert row["volatility"] == pytest.approx(0.3, rel=1e-12)
    before, after = marked(market, 100.0, 0.2, 21 * DAY), marked(market, 93.0, 0.3, 20 * DAY)
    step = 1e-4
    slide = marked(market, 100.0 + step, 0.2, 21 * DAY) - marked(market, 100.0 - step, 0.2, 21 * DAY)
    shares = slide / (2.0 * step)  # the smile moves with the forward, as in the marks
    wanted = before - after - 7.0 * shares - 100.0 * 2e-4 * shares
    assert row["pnl"] == pytest.approx(wanted, rel=1e-6)
    assert row["cost"] == pytest.approx(-0.02 * shares, rel=1e-6)
    assert row["pnl"] == pytest.approx(sum(row[term] for term in stress.TERMS), rel=1e-12)
    assert row["vega"] < 0.0
    assert row["gamma"] < 0.0


@pytest.mark.parametrize("elasticity", [0.0, 0.5, 1.0])
def test_how_the_level_moves(elasticity):
    """By hand: from 12 % today, a window's 20 -> 30 is 18 by ratio, 22 by points; in between, half of the root's."""
    moved = stress.moved_level(np.array([0.2, 0.3, 0.2]), 0.12, elasticity)
    assert moved[1] == pytest.approx(0.12 + 0.1 * 0.6**elasticity, rel=1e-12)
    np.testing.assert_allclose(moved[[0, 2]], 0.12, rtol=1e-12)
    assert stress.moved_level(np.array([0.8, 0.1]), 0.1, elasticity).min() >= 0.01


def test_today_is_the_end_of_the_history():
    """Identity: the replay's past is the history brought to today's spot and level, its rates move by differences,
    and after the window everything stands still."""
    market = history(rate="series")
    given = stress.today_of(market, TodayConfig())
    known = market.series
    assert known.vix is not None
    assert known.rate is not None
    assert given == Today(100.0, known.vix[-1] / 100.0, known.rate[-1], 0.0)
    made = stress.replayed(market, Window("crash", CRASH, 2), replace(given, volatility=0.3, rate=0.05), 4)
    assert made.series.vix is not None
    assert made.series.rate is not None
    np.testing.assert_allclose(np.diff(np.log(made.series.close[:600])), np.diff(np.log(known.close)), atol=1e-12)
    assert made.series.close[599] == pytest.approx(100.0, rel=1e-12)
    np.testing.assert_allclose(
        made.series.close[600:] / 100.0, known.close[CRASH + np.array([1, 2, 2, 2])] / known.close[CRASH]
    )
    np.testing.assert_allclose(
        made.series.vix[600:] / 30.0, known.vix[CRASH + np.array([1, 2, 2, 2])] / 20.0, rtol=1e-12
    )
    np.testing.assert_allclose(made.series.rate[599:602], 0.05 + 1e-5 * np.arange(3), rtol=1e-12)


def test_what_came_after_the_window_is_not_in_it():
    """Identity: another future of the window leaves its P&L; another window changes it."""
    market = history()
    row = rows_of(short(market), Window("crash", CRASH, 1))
    close = market.series.close.copy()
    close[CRASH + 2 : 520] *= 1.1
    other = history(series=replace(market.series, close=close))
    assert rows_of(short(other), Window("crash", CRASH, 1))["pnl"] == pytest.approx(row["pnl"], rel=1e-12)
    assert rows_of(short(other), Window("more", CRASH, 2))["pnl"] != pytest.approx(row["pnl"], rel=1e-3)


def test_terms_of_steps_are_those_of_the_episode():
    """Identity: summed over all steps they are the attribution of hedgerl.evaluation, costs those of the ledger; with
    places that roll, contracts that are kept, and clients. Catches a term left out, and a cost at the wrong step."""
    half = 5 * DAY
    rolled = Listing(name="rolled", moneyness=1.02, tenor=2 * half, roll_every=half)
    kept = Listing(name="kept", moneyness=0.98, tenor=1.5 * half, roll_every=half, is_call=False, keep=True)
    execution = Execution(costs=(HalfSpread(bps=20.0),))
    task = OptionBook(
        market=history(rate="series"),
        n_steps=10,
        portfolio=(Position(quantity=-150.0),),
        hedge_options=(rolled, kept),
        execution=execution,
    )
    made = stress.replayed(task.market, Window("crash", CRASH, 10), replace(TODAY, rate=0.03), 10)
    scenario = stress.replay(task, made, TODAY, 1, 4)
    for policy in (Delta(), solved("delta_gamma", task)):
        record = roll_out(policy, task, scenario)
        liability = contract_terms(scenario, scenario.liabilities, scenario.liability_volatility)
        by_step = stress.terms_by_step(record, liability, Expansion(scenario))
        np.testing.assert_allclose(by_step["pnl"], pnl_by_step(record), rtol=1e-12)
        for term, values in attribute(record)["net"].items():
            np.testing.assert_allclose(by_step[term].sum(axis=0), values, rtol=1e-8, atol=1e-8, err_msg=term)
        assert (by_step["cost"] < 1e-9).all()


def test_which_days_are_the_worst():
    """By hand: the worst day is the made crash, worst weeks share no day, and names that lie outside are told."""
    named = {"crash": ["2011-09-27", "2011-09-27"], "lost": ["2030-01-01", "2030-02-01"]}
    market = history()
    dates, close = market.series.dates, market.series.close
    named["crash"] = [str(dates[CRASH + 1]), str(dates[CRASH + 1])]
    found, missing = stress.windows(market, named, WorstConfig(days=3, weeks=4))
    assert found[0] == Window("crash", CRASH, 1)
    days, weeks = found[1:4], found[4:]
    assert days[0].start == CRASH
    moves = np.log(close[1:] / close[:-1])
    assert [window.start for window in days] == np.argsort(moves)[:3].tolist()
    starts = sorted(window.start for window in weeks)
    assert np.diff(starts).min() >= 5
    assert weeks[0].start == int(np.argmin(close[5:] / close[:-5]))
    assert missing == [f"lost (2030-01-01 to 2030-02-01) is not in made, {dates[0]} to {dates[-1]}: left out"]


def test_the_grid_by_hand():
    """By hand: every cell is the call revalued at once, and the shares of the first trade; nothing moves, nothing is
    gained. Catches a strike or an expiry that moves with the shock."""
    market = history()
    task = short(market, hedge_options=(Listing(name="hedge", moneyness=1.1, tenor=42 * DAY),))
    scenario = stress.replay(task, stress.replayed(market, Window("still", STILL, 5), TODAY, 21), TODAY, 1, 1)
    records = {name: roll_out(solved(name, task), task, scenario) for name in ("none", "delta_gamma")}
    grid = GridConfig(spot=[-0.1, 0.0, 0.2], volatility=[0.5, 1.0, 2.0])
    rows = pd.DataFrame(stress.grid_rows(market, TODAY, grid, records, task.size))
    held = records["delta_gamma"].holdings[0, 0]
    assert held[1] > 10.0
    for _, row in rows.iterrows():
        spot, level = 100.0 * (1.0 + row["spot_move"]), 0.2 * row["volatility_multiple"]
        sold = marked(market, 100.0, 0.2, 21 * DAY) - marked(market, spot, level, 21 * DAY)
        bought = marked(market, spot, level, 42 * DAY, 110.0) - marked(market, 100.0, 0.2, 42 * DAY, 110.0)
        hedge = 0.0 if row["policy"] == "none" else (held[0] * (spot - 100.0) + held[1] * bought) / 100.0
        assert row["pnl"] == pytest.approx(sold + hedge, rel=1e-6, abs=1e-9)
    assert rows[(rows["spot_move"] == 0.0) & (rows["volatility_multiple"] == 1.0)]["pnl"].abs().max() < 1e-12


def test_a_model_gives_today():
    """Identity: the surface's mark at the forward in 30 days has the model's volatility, rate and dividend."""
    market = history()
    given = stress.today_of(market, TodayConfig(), BlackScholes(volatility=0.3, rate=0.02, dividend=0.01))
    assert (given.rate, given.dividend) == (0.02, 0.01)
    made = stress.replayed(market, Window("still", STILL, 5), given, 5)
    forward = 100.0 * np.exp(0.01 * 30 / 365)
    seen = made.market(np.array([599]), 5, spot=None).mark(Option(strike=forward, expiry_years=30 / 365), 0)
    implied = implied_volatility(seen.price, 100.0, forward, 30 / 365, rate=0.02, dividend=0.01, is_call=True)
    np.testing.assert_allclose(implied, 0.3, rtol=1e-5)  # its paths are of float32
    with pytest.raises(ValueError, match=r"today.volatility and today.rate must be null where market names a model"):
        stress.today_of(market, TodayConfig(volatility=0.2), BlackScholes(volatility=0.3))


# ---- the command ----

QUICK = ("task.hedge_options=[]", "baselines=[delta,leland]", "agents=[]", "worst.days=2", "worst.weeks=1")


def configured(*overrides: str) -> StressConfig:
    """The configuration of a command line."""
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        typed = OmegaConf.to_object(compose("stress", overrides=[*QUICK, *overrides]))
    assert isinstance(typed, StressConfig)
    return typed


def test_the_report(tmp_path, capsys):
    """Behaviour: tables and files hold every replay of every policy; the window after the data's end is left out."""
    replays, grid = stress.run(configured(), tmp_path)
    printed = capsys.readouterr()
    assert "2020-03 crash (2020-03-09 to 2020-03-18) is not in S&P 500" in printed.err
    for text in ("2008-10 crash", "worst day to 2008-10-15", "unhedged", "leland", "at once, delta", "Model marks"):
        assert text in printed.out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stress.FILES)
    assert set(replays["policy"]) == {"unhedged", "delta", "leland"}
    assert len(replays) == 3 * replays["replay"].nunique() == 3 * (6 + 3)
    np.testing.assert_allclose(replays["pnl"], replays[list(stress.TERMS)].sum(axis=1), rtol=0, atol=1e-9)
    assert len(grid) == 3 * 9 * 5
    saved = json.loads((tmp_path / "stress.json").read_text())
    assert saved["config"]["elasticity"] == 1.0
    assert len(saved["replays"]) == len(replays)
    again = pd.read_csv(tmp_path / "replays.csv")
    np.testing.assert_allclose(again["pnl"], replays["pnl"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["elasticity=2.0"], "elasticity must .*, got 2"),
        (["worst.days=-1"], "worst.days must be a whole number"),
        (["grid.spot=[-1.5]"], "grid.spot must be above -1, got -1.5"),
        (["data=none"], "at least one|must name the daily history"),
        (["data=none", "market=heston"], "data must name the daily history whose days are replayed, got none"),
        (["market=rough_and_heston"], "market must be one model, or none, got 2"),
        (["baselines=[tuned_band]"], "baselines must not name tuned_band on history alone"),
        (["reference=lelnad"], "reference must be the label of one of the baselines"),
        (["+windows.lost=[2008-01-01]"], "windows must each be .first day, last day., got lost"),
        (["today.volatility=20.0"], "today.volatility must"),
    ],
)
def test_bad_configuration(overrides, message):
    """Catches a setting that only fails, or misleads, later."""
    with pytest.raises(Exception, match=message):
        stress.plan(configured(*overrides))


def test_the_command_ends_in_one_line(tmp_path, monkeypatch, capsys):
    """Behaviour: a wrong setting is one line and exit status 2, and leaves nothing of a report."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["stress", "data.start=2018-12-01"]) == 2
    assert capsys.readouterr().err.startswith("hedgerl: error: n_steps must leave 2 windows")
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.skipif("HEDGERL_DATA" not in os.environ, reason="HEDGERL_DATA is not set: no panel of market data here")
def test_the_days_of_march_2020():
    """Golden: the S&P 500 fell by 11.98 % on 16 March 2020 as the VIX went from 57.83 to 82.69 (Cboe); today at 20."""
    panel = Path(os.environ["HEDGERL_DATA"]) / "index" / "panel_daily_2004_2020.parquet"
    market = History(read_daily(panel), rate="series")
    found, missing = stress.windows(market, {"day": ["2020-03-16", "2020-03-16"]}, WorstConfig(days=1, weeks=0))
    assert not missing
    assert found[0].start == found[1].start
    today = replace(stress.today_of(market, TodayConfig()), volatility=0.2)
    row = rows_of(short(market), found[0], today)
    assert row["spot_move"] == pytest.approx(-0.1198, abs=5e-5)
    assert row["volatility"] == pytest.approx(0.2 * 82.69 / 57.83, rel=1e-9)
    assert row["pnl"] < -3.0
