"""A desk's recommendation: the policy sees what the environment would show, or the delta hedge answers and says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerl.agents import Agent, GreekMarks, Recommendation
from hedgerl.agents.networks import FeedForwardActor, PolicyModule, RecurrentActor
from hedgerl.baselines import Delta
from hedgerl.envs import Execution, Limits, Listing, OptionBook, Position, Raw, Rollout, ShortOption, SpyOverlay, Task
from hedgerl.execution import Commission, HalfSpread
from hedgerl.pricing import black_scholes
from hedgerl.sim import BlackScholes, Heston

VOLATILITY = 0.25
MARKET = BlackScholes(volatility=VOLATILITY, rate=0.03, dividend=0.01)
SHORT = ShortOption(market=MARKET, n_steps=10, quantity=100.0)
STATE: dict[str, Any] = {
    "spot": 101.0,
    "volatility": 0.2,
    "strike": 100.0,
    "years_left": 0.02,
    "implied_volatility": 0.22,
    "previous_spot": 100.5,
    "pnl": 3.0,
}
HELD: dict[str, Any] = {"shares": 200.0, "contracts": -5}


class Constant(PolicyModule):
    """Answers with these numbers."""

    kind = "constant"

    def __init__(self, *values: float, bad_after: float = np.inf) -> None:
        super().__init__()
        self.config, self.values = {}, torch.tensor(values)

    def forward(self, observation: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.values.expand(observation.shape[0], -1),)


def with_answer(*values: float, task: Task = SHORT, **card: Any) -> Agent:
    return Agent(Constant(*values), {"task": task, **card})


def network(task: Task, **card: Any) -> Agent:
    torch.manual_seed(9)
    from hedgerl.agents import Card

    made = Card(task=task, **card)
    columns = len(made.observation.columns(task))
    actions = int(made.action.space(task).shape[0])  # type: ignore[index]
    return Agent(RecurrentActor(columns, actions, before=(16,), lstm=8, after=(8,)), made)


# ---- the policy sees what the environment shows ----


def played(task: Task, step: int) -> Rollout:
    """One path of the task's own market, hedged at random up to a step."""
    scenario = task.scenario(1, seed=4)
    rollout, rng = Rollout(scenario, task.execution), np.random.default_rng(2)
    while rollout.step < step:
        rollout.act(rng.normal(size=(1, len(task.instruments))) * 0.3 * task.size)
    return rollout


def on_the_desk(task: Task, rollout: Rollout, size: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a trader who runs a book `size` times the task's would write down."""
    of, step = rollout.scenario, rollout.step

    def terms(which: Any, column: int) -> dict[str, Any]:
        return {
            "strike": float(which.strike[step, 0, column]),
            "years_left": float(which.years_left[step, column]),
            "implied_volatility": VOLATILITY,
            "is_call": bool(which.is_call[column]),
        }

    market: dict[str, Any] = {
        "spot": float(of.spot[step, 0]),
        "volatility": VOLATILITY,
        "rate": 0.03,
        "dividend": 0.01,
        "time_left": float(of.times[-1] - of.times[step]),
        "previous_spot": float(of.spot[max(step - 1, 0), 0]),
        "initial_spot": float(of.spot[0, 0]),
        "pnl": size * float((rollout.wealth - of.shares * of.spot[0] - task.execution.initial_cash)[0]),
    }
    names = [name for name in task.instruments if name != "underlying"]
    first = len(task.instruments) - len(names)
    options = {name: terms(of.hedges, column) for column, name in enumerate(names)}
    held = rollout.holdings[0] / of.multiplier * size
    positions: dict[str, Any] = {
        "shares": float(held[0]) if first else of.shares * size,
        "contracts": dict(zip(names, held[first:].tolist(), strict=True)),
    }
    if isinstance(task, ShortOption):
        options["short option"] = terms(of.liabilities, 0)
        positions["contracts"]["short option"] = -task.quantity * size / 100.0
    if isinstance(task, OptionBook):
        positions["book"] = [
            terms(of.liabilities, column) | {"contracts": float(of.position[step, 0, column]) / 100.0}
            for column in np.flatnonzero(of.liabilities.alive[step])
        ]
    return market | {"options": options}, positions


TASKS = {
    "short": SHORT,
    "put": replace(SHORT, is_call=False, moneyness=1.05),
    "longer": replace(SHORT, expiry=30 / 252),
    "two": replace(SHORT, hedge_options=(Listing(name="far", tenor=60 / 252, moneyness=1.02),)),
    "overlay": SpyOverlay(market=MARKET, n_steps=30, shares=5000.0, moneyness=(1.02, 0.97)),
    "book": OptionBook(
        market=MARKET,
        n_steps=10,
        portfolio=(Position(quantity=-300.0, option=Listing(tenor=40 / 252, is_call=False)),),
        arrivals=0.0,
    ),
}


@pytest.mark.parametrize("size", [1.0, 7.0])
@pytest.mark.parametrize("step", [0, 1, 4, 9])
@pytest.mark.parametrize("name", TASKS)
def test_features_and_trade_are_the_environments(name, step, size):
    """Twin: an episode of the task, and the same numbers from a desk that runs a multiple of it."""
    if name == "book" and size != 1.0:
        pytest.skip("a book is hedged at the size it has")
    task = TASKS[name]
    agent = network(task)
    rollout = played(task, step)
    prepared = agent.card.observation.prepare(rollout.scenario, task)
    wanted = prepared.at(rollout)[0]
    market, positions = on_the_desk(task, rollout, size)
    advice = agent.hedge(market, positions, round_shares=0.0, round_contracts=0.0)
    np.testing.assert_allclose(list(advice.observation.values()), wanted, rtol=1e-5, atol=1e-5)
    assert advice.source == "policy", advice.reason

    convert = agent.card.action.bind(rollout.scenario, task)
    of = rollout.scenario
    target = rollout.feasible(convert(agent.predict(wanted[None])[0], rollout))
    by_delta = Delta()
    seen = Raw(by_delta.observation).prepare(of, task).at(rollout)
    delta_target = rollout.feasible(by_delta.target(seen))
    given = np.array(([advice.shares] if of.trades_underlying else []) + list(advice.contracts.values()))
    beside = np.array(([advice.delta_shares] if of.trades_underlying else []) + list(advice.delta_contracts.values()))
    for trade, goal in ((given, target), (beside, delta_target)):
        expected = (goal - rollout.holdings)[0] / of.multiplier * size
        np.testing.assert_allclose(trade, expected, rtol=1e-4, atol=1e-4 * task.size * size)


def test_memory_goes_from_call_to_call():
    agent = network(SHORT)
    first = agent.hedge(STATE, HELD, round_shares=0.0)
    second = agent.hedge(STATE, HELD, first.state, round_shares=0.0)
    assert first.shares != second.shares
    assert agent.hedge(STATE, HELD, round_shares=0.0).shares == first.shares


def test_the_delta_hedge_by_hand():
    """Five contracts sold: 500 x Black-Scholes delta, less the 200 shares held."""
    delta = float(black_scholes(101.0, 100.0, 0.02, 0.22).delta)
    advice = with_answer(0.2).hedge(STATE, HELD, round_shares=0.0)
    assert advice.delta_shares == pytest.approx(500.0 * delta - 200.0, rel=1e-9)
    assert advice.net_delta_before == pytest.approx(200.0 - 500.0 * delta, rel=1e-9)
    # target = 0.2 x 1.5 x size
    assert advice.target_shares == pytest.approx(0.2 * 1.5 * 500.0, rel=1e-6)
    assert advice.shares == pytest.approx(150.0 - 200.0, rel=1e-6)
    assert advice.net_delta == pytest.approx(150.0 - 500.0 * delta, rel=1e-6)
    assert advice.cost == pytest.approx(50.0 * 2e-4 * 101.0, rel=1e-6)
    assert advice.source == "policy"


def test_a_price_is_as_good_as_its_volatility():
    price = float(black_scholes(101.0, 100.0, 0.02, 0.22).price)
    by_price = {key: value for key, value in STATE.items() if key != "implied_volatility"} | {"option_price": price}
    one, two = (network(SHORT).hedge(state, HELD, round_shares=0.0) for state in (STATE, by_price))
    assert two.shares == pytest.approx(one.shares, rel=1e-5)
    assert two.delta_shares == pytest.approx(one.delta_shares, rel=1e-6)


def test_a_desks_own_greeks_are_taken():
    advice = with_answer(0.2).hedge(STATE | {"delta": 0.4}, HELD)
    assert advice.delta_shares == 0.0
    assert advice.observation["liability_delta"] == pytest.approx(-0.4)


@pytest.mark.parametrize(("lot", "expected"), [(1.0, 97.0), (10.0, 100.0), (100.0, 100.0), (1000.0, 0.0)])
def test_trades_are_rounded_as_asked(lot, expected):
    target = 296.6
    advice = with_answer(target / 750.0).hedge(STATE, HELD, round_shares=lot)
    assert advice.shares == expected
    assert advice.target_shares == 200.0 + expected


def test_a_cost_of_the_desk_replaces_the_tasks():
    task = replace(SHORT, execution=Execution(costs=(HalfSpread(bps=100.0), Commission(per_contract=1.0))))
    advice = with_answer(0.2, task=task).hedge(STATE | {"cost": 0.02}, HELD)
    assert advice.cost == pytest.approx(50.0 * 0.02)


def test_an_overlay_trades_contracts_alone():
    task = TASKS["overlay"]
    options = {name: {"strike": 100.0, "years_left": 0.06, "implied_volatility": 0.2} for name in ("call", "put")}
    state = {"spot": 100.0, "volatility": 0.2, "time_left": task.maturity, "options": options}
    advice = with_answer(-0.25, 0.1, task=task).hedge(state, {"shares": 20_000.0, "contracts": {"call": -3}})
    assert advice.shares == advice.delta_shares == 0.0
    assert advice.target_shares == 20_000.0
    # an action of 1 is the task's limit of 100 contracts for 5,000 shares
    assert advice.contracts == {"call": -100.0, "put": 40.0}
    assert advice.target_contracts == {"call": -103.0, "put": 40.0}
    assert advice.delta_contracts["call"] < 0.0 < advice.delta_contracts["put"]


@pytest.mark.parametrize("step", [0, 5, 15])
def test_greeks_are_those_of_the_markets_smile(step, tmp_path):
    """Catches Black-Scholes Greeks shown to a policy that was trained on a smile's: here they are off by up to 0.05."""
    task = ShortOption(market=Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04))
    agent = network(task, marks=GreekMarks.of_task(task))
    agent = Agent.load(agent.save(tmp_path / "policy"))
    plain = agent.with_card(marks=None)
    of = task.scenario(20, seed=8)
    rollout = Rollout(of, task.execution)
    rollout.step = step
    wanted = agent.card.observation.prepare(of, task).at(rollout)
    errors: dict[str, list[float]] = {"fitted": [], "flat": []}
    for path in range(20):
        state = {
            "spot": float(of.spot[step, path]),
            "volatility": float(of.volatility[step, path]),
            "strike": float(of.liabilities.strike[step, path, 0]),
            "years_left": float(of.liabilities.years_left[step, 0]),
            "implied_volatility": float(of.liability_volatility[step, path, 0]),
            "previous_spot": float(of.spot[max(step - 1, 0), path]),
            "pnl": 0.0,
        }
        for name, who in (("fitted", agent), ("flat", plain)):
            advice = who.hedge(state, {"shares": 0.0, "contracts": -1})
            errors[name].append(advice.observation["liability_delta"] - float(wanted[path, 5]))
            assert advice.observation["liability_value"] == pytest.approx(float(wanted[path, 4]), abs=1e-5)
    assert np.abs(errors["fitted"]).max() < 2e-3
    assert np.abs(errors["flat"]).max() > 0.01
    assert "shown Greeks by Black-Scholes" in plain.hedge(state, {"shares": 0.0, "contracts": -1}).reason


def test_without_a_smile_greeks_are_black_scholes():
    marks = GreekMarks.of_task(SHORT)
    flat = black_scholes(101.0, 100.0, 0.02, 0.25, rate=0.03)
    np.testing.assert_allclose(
        marks.at(101.0, 100.0, 0.02, 0.25, 0.25, flat), [flat.delta, flat.gamma, flat.vega], rtol=1e-5, atol=1e-6
    )


# ---- it falls back ----


def assert_fallback(advice: Recommendation, reason: str) -> None:
    assert advice.source == "fallback"
    assert reason in advice.reason
    assert (advice.shares, advice.contracts) == (advice.delta_shares, advice.delta_contracts)
    assert np.isfinite([advice.shares, *advice.contracts.values(), advice.net_delta, advice.cost]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("action", ["target", "trade", "coverage", "holdings"])
def test_an_output_that_is_no_number_falls_back(value, action):
    advice = with_answer(value, action=action).hedge(STATE, HELD)
    assert_fallback(advice, "the policy's output is not finite")


@pytest.mark.parametrize(
    ("action", "good", "bad"),
    [
        ("target", 1.0, 1.001),
        ("target", -1.0, -1e30),
        ("coverage", 2.0, 2.1),
        ("holdings", 290.0, 310.0),
        ("trade", 1.0, 12.0),
    ],
)
def test_an_output_out_of_its_range_falls_back(action, good, bad):
    assert with_answer(good, action=action).hedge(STATE, HELD).source == "policy"
    assert_fallback(with_answer(bad, action=action).hedge(STATE, HELD), "out of its range")


@pytest.mark.parametrize(
    ("change", "held", "reason"),
    [
        ({"is_call": False}, {}, "trained on a call"),
        ({}, {"contracts": 5}, "trained on an option sold"),
        ({"years_left": 0.5}, {}, "0.5 years left"),
        ({"spot": 300.0}, {}, "liability_moneyness is at its clip of 10"),
        ({"volatility": 1e-9}, {}, "volatility = -7.601 is off what training saw, -5 to 5"),
        ({"pnl": -1e9}, {}, "pnl is at its clip of -10"),
        ({"previous_spot": 1.0}, {}, "step_return is at its clip"),
        ({}, {"shares": 1e12}, "holdings is at its clip"),
        ({"implied_volatility": 1e6}, {}, "liability_value"),
        ({"gamma": 1e300}, {}, "liability_gamma is at its clip of -10"),
    ],
)
def test_a_book_that_the_policy_does_not_know_falls_back(change, held, reason):
    agent = with_answer(0.2, observed=([-5.0] * 11, [5.0] * 11))
    assert agent.hedge(STATE, HELD).source == "policy"
    assert_fallback(agent.hedge(STATE | change, HELD | held), reason)


def test_the_range_of_training_counts():
    """Off it by a tenth of its width at most, at least 0.05."""
    agent = with_answer(0.2)
    shown = agent.hedge(STATE, HELD).observation
    labels, values = list(shown), np.array(list(shown.values()))
    place = labels.index("volatility")

    def source(low: float, high: float) -> str:
        ends = np.array([values - 1.0, values + 1.0])
        ends[:, place] = values[place] + low, values[place] + high
        return agent.with_card(observed=ends.tolist()).hedge(STATE, HELD).source

    assert source(-0.1, 0.1) == "policy"
    assert source(0.04, 0.05) == "policy"
    assert source(0.06, 0.07) == "fallback"
    assert source(0.19, 2.19) == "policy"
    assert source(0.21, 2.21) == "fallback"


def test_a_fallback_leaves_the_memory_as_it_was():
    agent = network(SHORT)
    before = agent.hedge(STATE, HELD).state
    after = agent.hedge(STATE | {"is_call": False}, HELD, before).state
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert agent.hedge(STATE | {"is_call": False}, HELD).state == ()
    agent.hedge(STATE, HELD, agent.hedge(STATE | {"is_call": False}, HELD).state or None)


def test_the_delta_hedge_keeps_to_the_limits():
    task = replace(SHORT, execution=Execution(limits=Limits(trade=20.0)))
    advice = with_answer(np.nan, task=task).hedge(STATE, HELD)
    assert abs(advice.shares) == 20.0 * 5  # the task's limit is for 100 shares' worth


# ---- bad input ----


@pytest.mark.parametrize("missing", ["spot", "volatility", "strike", "years_left", "previous_spot", "pnl"])
def test_a_missing_field_is_named(missing):
    state = {key: value for key, value in STATE.items() if key != missing}
    with pytest.raises(ValueError, match=f"must have '{missing}'"):
        with_answer(0.2).hedge(state, HELD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"implied_volatility": None}, "implied_volatility must be a finite number"),
        ({"option_price": 3.0}, "'implied_volatility' or 'option_price', one of the two"),
        ({"spt": 1.0}, "has no 'spt'; the nearest is 'spot'"),
        ({"spot": -1.0}, "spot must be positive"),
        ({"spot": np.nan}, "spot must be a finite number"),
        ({"spot": "101"}, "spot must be a finite number"),
        ({"volatility": 0.0}, "volatility must be positive"),
        ({"years_left": 0.0}, "years_left must be positive"),
        ({"rate": np.inf}, "rate must be a finite number"),
        ({"time_left": -1.0}, "time_left must be positive"),
        ({"cost": -1.0}, "cost must not be negative"),
        ({"is_call": "yes"}, "must have 'is_call', True or False"),
        ({"delta": "0.4"}, "delta must be a finite number"),
        ({"options": {}}, "in one place"),
    ],
)
def test_impossible_market_states_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        with_answer(0.2).hedge(STATE | change, HELD)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ({"contracts": -5}, "positions must have 'shares'"),
        ({"shares": 1.0}, "positions must have 'contracts'"),
        ({"shares": 1.0, "contracts": 0}, "must not be 0"),
        ({"shares": np.nan, "contracts": -5}, "shares must be a finite number"),
        ({"shares": 1.0, "contracts": {"call": 1}}, "contracts has no 'call'; the nearest is 'short option'"),
        ({"shares": 1.0, "contracts": -5, "cash": 3}, "positions has no 'cash'"),
        ({"shares": 1.0, "contracts": -5, "book": []}, "positions has a 'book'"),
        ([1.0], "must be mappings"),
    ],
)
def test_impossible_positions_are_refused(positions, message):
    with pytest.raises(ValueError, match=message):
        with_answer(0.2).hedge(STATE, positions)


def test_the_options_of_an_overlay_are_asked_for():
    agent = with_answer(0.0, 0.0, task=TASKS["overlay"])
    state = {"spot": 100.0, "volatility": 0.2, "time_left": 0.1}
    with pytest.raises(ValueError, match="must have 'options', the terms of 'call', 'put'"):
        agent.hedge(state, {"shares": 100.0})
    one = {"strike": 100.0, "years_left": 0.06, "implied_volatility": 0.2}
    with pytest.raises(ValueError, match="options must have 'put'"):
        agent.hedge(state | {"options": {"call": one}}, {"shares": 100.0})
    with pytest.raises(ValueError, match="options\\['put'\\] has no 'strke'; the nearest is 'strike'"):
        agent.hedge(state | {"options": {"call": one, "put": {"strke": 1.0}}}, {"shares": 100.0})
    with pytest.raises(ValueError, match="must have 'time_left'"):
        agent.hedge({"spot": 1.0, "volatility": 0.2, "options": {"call": one, "put": one}}, {"shares": 100.0})
    with pytest.raises(ValueError, match="shares must be positive"):
        agent.hedge(state | {"options": {"call": one, "put": one}}, {"shares": 0.0})


@settings(max_examples=150, deadline=None)
@given(
    spot=st.floats(1e-3, 1e6),
    strike=st.floats(1e-3, 1e6),
    volatility=st.floats(1e-4, 10.0),
    implied=st.floats(1e-3, 10.0),
    left=st.floats(1e-6, 5.0),
    shares=st.floats(-1e9, 1e9),
    contracts=st.floats(-1e6, -1e-3),
    pnl=st.floats(-1e12, 1e12),
)
def test_whatever_the_market_the_answer_is_a_number(spot, strike, volatility, implied, left, shares, contracts, pnl):
    """Fuzz: a finite trade, one of the two sources, and the delta hedge's trade where it is the fallback."""
    torch.manual_seed(1)
    agent = Agent(FeedForwardActor(11, 1, hidden=(8,)), {"task": SHORT})
    state = {
        **{"spot": spot, "strike": strike, "volatility": volatility, "implied_volatility": implied},
        **{"years_left": left, "previous_spot": spot, "pnl": pnl},
    }
    advice = agent.hedge(state, {"shares": shares, "contracts": contracts})
    assert np.isfinite([advice.shares, advice.delta_shares, advice.cost, advice.net_delta]).all()
    assert advice.source == ("policy" if advice.reason.startswith("the policy's own") else "fallback")
    if advice.source == "fallback":
        assert advice.shares == advice.delta_shares


def test_a_hedge_network_hedges_in_its_band():
    """A fresh one keeps the net delta within about 0.03 of the size, from either side."""
    from hedgerl.agents.hedge_network import HedgeNetwork

    torch.manual_seed(0)
    agent = Agent(HedgeNetwork.for_task(SHORT), {"task": SHORT})
    for shares in (0.0, 500.0):
        advice = agent.hedge(STATE, HELD | {"shares": shares}, round_shares=0.0)
        assert advice.source == "policy", advice.reason
        assert 0.001 * 500.0 < abs(advice.net_delta) < 0.1 * 500.0
        assert np.sign(advice.net_delta) == np.sign(advice.net_delta_before)
