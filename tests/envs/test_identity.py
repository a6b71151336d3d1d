"""Identities of the books: they reconcile, replay, add up, and make no money out of nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hedgerl.envs import Environment, Execution, Listing, Rollout, ShortOption
from hedgerl.sim import GARCH, SABR, BlackScholes, Heston, RoughBergomi

DAY = 1 / 252
by_task = pytest.mark.parametrize("name", ["short", "rolled", "kept", "overlay", "book"])


@pytest.fixture
def recorded(tasks, full, play):
    """What happened to random targets, and the wealth that was seen at each step."""

    def record(name, n_paths=16):
        task = tasks(execution=full)[name]
        environment = Environment(task, ("raw", "wealth"), "holdings", record=True)
        _, seen = play(environment, task.scenario(n_paths, seed=3))
        return environment.result(), np.stack([each["wealth"] for each in seen])

    return record


@by_task
def test_cash_and_positions_reconcile(name, recorded, full):
    """Cash is the opening cash and all flows; wealth is cash and positions at marks, as the rollout says step by step.

    Catches a flow that is paid but not recorded, and the other way round.
    """
    record, before = recorded(name)
    flows = np.cumsum(sum(record.flows.values()), axis=0)
    scale = abs(record.cash).max()
    np.testing.assert_allclose(record.cash, full.initial_cash + flows, rtol=0, atol=1e-9 * scale)
    # the rollout's wealth is before a step's trade, the record's after it: they differ by what the trade cost
    paid = sum(record.costs.values())
    scale = abs(before).max()
    np.testing.assert_allclose(record.wealth[0], before[0] - paid[0], rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(record.wealth[-1], before[-1], rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(record.pnl, before[-1] - before[0], rtol=0, atol=1e-9 * scale)
    assert (before[:-1] - record.wealth[:-1] >= -1e-9 * scale).all()
    assert set(record.costs) == {"commission", "proportional", "spread", "impact"}


@by_task
def test_steps_add_up(name, tasks, full):
    """The P&L of the steps adds up to that of the episode, their costs to its costs."""
    task = tasks(execution=full)[name]
    batch = task.scenario(16, seed=4)
    rollout, rng = Rollout(batch, full, record=True), np.random.default_rng(2)
    total = cost = 0.0
    while not rollout.done:
        total = total + rollout.act(rng.normal(size=(16, len(task.instruments))) * task.size)
        cost = cost + rollout.cost
    record = rollout.result()
    np.testing.assert_allclose(total, record.pnl, rtol=0, atol=1e-9 * abs(record.pnl).max())
    np.testing.assert_allclose(cost, record.total_cost, rtol=1e-9, atol=0)
    np.testing.assert_allclose(rollout.total_cost, record.total_cost, rtol=1e-9, atol=0)


def trade_cost(trade: np.ndarray, mid: Any, vega: Any, option: np.ndarray, multiplier: Any, spot: float, sigma: float):
    """What `full`'s components take for a trade (k,) of one path, by formulas of this test."""
    size = np.abs(trade)
    commission = np.where(option, 0.65 / multiplier, 0.005) * size
    proportional = np.where(option, 0.0, 0.001 * mid) * size
    half = (0.01 + 5e-4 * mid + 0.003 * vega) * sigma / 0.2
    spread = np.where(option, half, 0.0) * size
    impact = 0.8 * (sigma / math.sqrt(252)) * spot * size * np.sqrt(size / 1e5)
    return float((commission + proportional + spread + impact).sum())


@by_task
def test_independent_replay(name, recorded, full):
    """Cash from a ledger of this test's own, path by path, fed with the record's trades alone.

    Catches errors of timing and sign that a ledger cannot see in its own flows: a premium never paid, a stale mark, a
    roll at the wrong contract's price, interest on the wrong balance.
    """
    record, _ = recorded(name, n_paths=3)
    of = record.scenario
    first = int(of.trades_underlying)
    option, multiplier = of.is_option > 0, of.multiplier
    for path in range(of.n_paths):
        cash, held = full.initial_cash, np.zeros(len(of.instruments))
        attic: dict[int, float] = {}  # column of `kept` -> shares
        owed = of.position[:, path]
        for step in range(of.n_steps + 1):
            spot, sigma = of.spot[step, path], of.volatility[step, path]
            if step:
                rate, years = 0.03, float(of.times[step] - of.times[step - 1])
                shares = (held[0] if first else 0.0) + of.shares
                before = cash
                cash += before * math.expm1(rate * years)
                cash += min(before, 0.0) * math.exp(rate * years) * math.expm1(0.02 * years)
                cash += shares * spot * math.expm1(0.01 * years)
                cash += min(shares, 0.0) * spot * math.expm1(0.01 * years)
                last = step == of.n_steps
                for column in list(attic):
                    if of.kept.settles[step, column]:
                        cash += attic.pop(column) * of.kept.carried[step, path, column]
                sold, mids, vegas = np.zeros_like(held), np.zeros_like(held), np.zeros_like(held)
                for place in range(held.size - first):
                    index = first + place
                    mark = of.hedges.carried[step, path, place]
                    if of.hedges.settles[step, place]:
                        cash += held[index] * mark
                        held[index] = 0.0
                    elif (step, place) in of.kept_from and not last:
                        attic[of.kept_from.index((step, place))] = held[index]
                        held[index] = 0.0
                    elif of.hedges.replaced[step, place] or last:
                        sold[index], mids[index] = -held[index], mark
                        vegas[index] = of.hedges.carried_vega[step, path, place]
                if last and first:
                    sold[0], mids[0] = -held[0], spot
                cash -= float(sold @ mids) + trade_cost(sold, mids, vegas, option, multiplier, spot, sigma)
                held = held + sold
                if last:
                    for column, quantity in attic.items():
                        mark, vega = of.kept.carried[step, path, column], of.kept.carried_vega[step, path, column]
                        one = np.array([-quantity])
                        cash += quantity * mark
                        cash -= trade_cost(one, mark, vega, np.array([True]), 100.0, spot, sigma)
                for column in range(owed.shape[1]):
                    if of.liabilities.replaced[step, column]:
                        cash += owed[step - 1, column] * of.liabilities.carried[step, path, column]
            if step < of.n_steps:
                for column in range(owed.shape[1]):
                    fresh = (
                        step == 0 or of.liabilities.replaced[step, column] or not of.liabilities.alive[step - 1, column]
                    )
                    if of.liabilities.alive[step, column] and fresh:
                        cash -= owed[step, column] * of.liabilities.price[step, path, column]
                trade = record.trades[step, path]
                mid, vega = of.mid[step, path], of.vega[step, path]
                cash -= float(trade @ mid) + trade_cost(trade, mid, vega, option, multiplier, spot, sigma)
                held = held + trade
            np.testing.assert_allclose(record.cash[step, path], cash, rtol=1e-9, atol=1e-7, err_msg=f"step {step}")
            np.testing.assert_allclose(record.holdings[step, path], held, rtol=0, atol=1e-9)


@by_task
def test_limits_hold(name, recorded):
    """No step trades or holds more than the limits say, in whole contracts and shares; dead options are not held."""
    record, _ = recorded(name)
    of = record.scenario
    trades, holdings = record.trades / of.multiplier, record.holdings / of.multiplier
    assert abs(trades).max() <= 60.0 + 1e-9
    assert abs(holdings).max() <= 100.0 + 1e-9
    np.testing.assert_allclose(holdings, np.round(holdings), rtol=0, atol=1e-9)
    assert abs(holdings[:, :, :] * ~of.alive[:, None, :]).max() == 0.0
    assert abs(trades).max() > 59.0  # the limit binds


MODELS = {
    "Black-Scholes": BlackScholes(volatility=0.2, rate=0.05, dividend=0.02),
    "Heston": Heston(kappa=2.0, theta=0.04, sigma=0.8, rho=-0.7, v0=0.05, rate=0.05, dividend=0.02),
    "rough Bergomi": RoughBergomi(hurst=0.1, eta=1.5, rho=-0.8, forward_variance=0.04, rate=0.05),
    "SABR": SABR(volatility=0.2, volvol=0.8, rho=-0.5, rate=0.05),
    "GARCH": GARCH(omega=2e-6, alpha=0.02, gamma=0.14, beta=0.89, rate=0.05),
}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_earned_by_holding(model, tasks):
    """Discounted, what is bought and held free of cost earns nothing on average where there are no premia, whatever it
    is, and neither does the book: within 4 standard errors, of 20 means a model.

    Catches a mispriced instrument, a roll at two prices, interest on premia that were not received.
    """
    for name, task in tasks(MODELS[model], Execution()).items():
        batch = task.scenario(4000, seed=11)
        discount = math.exp(-task.market.rate * task.maturity)
        opening = task.size * 100.0 if name == "overlay" else 0.0
        for column in range(-1, len(task.instruments)):
            target = np.zeros((4000, len(task.instruments)))
            if column >= 0:
                target[:, column] = task.size
            rollout = Rollout(batch, task.execution)
            while not rollout.done:
                rollout.act(target)
            gain = (discount * rollout.wealth - opening) / task.size
            error = gain.std() / math.sqrt(gain.size)
            assert abs(gain.mean()) < 4.0 * error + 1e-4, (name, column, gain.mean(), error)


def test_doing_nothing_trades_nothing(tasks, full):
    """Holding on to what is held neither trades nor costs, where no option is rolled."""
    task = tasks(execution=full)["short"]
    rollout = Rollout(task.scenario(8, seed=1), full)
    rollout.act(np.full((8, 1), 50.0))
    paid = rollout.total_cost.copy()
    rollout.act(rollout.holdings)
    np.testing.assert_array_equal(rollout.total_cost, paid)
    np.testing.assert_array_equal(rollout.trade, 0.0)


def test_a_perfect_hedge_of_an_option_is_that_option():
    """Buying the very option that is owed leaves nothing but interest: zero P&L to rounding, on every path."""
    same = Listing(name="same", tenor=6 * DAY)
    task = ShortOption(market=MODELS["Heston"], n_steps=6, maturity=6 * DAY, hedge_options=(same,), backend="numpy")
    rollout = Rollout(task.scenario(32, seed=1), Execution())
    while not rollout.done:
        gained = rollout.act(np.tile([0.0, 1.0], (32, 1)))
        np.testing.assert_allclose(gained, 0.0, rtol=0, atol=1e-12)
