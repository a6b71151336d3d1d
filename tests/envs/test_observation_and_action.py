"""Features and actions: what they say and ask for, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from hedgerl.envs import FEATURES, RAW, Action, Environment, Execution, Flat, Limits, Raw
from hedgerl.envs.features import ESTIMATES
from hedgerl.envs.observation import default_features
from hedgerl.execution import HalfSpread
from hedgerl.pricing import black_scholes
from hedgerl.sim import BlackScholes

by_task = pytest.mark.parametrize("name", ["short", "rolled", "kept", "overlay", "book"])
FLAT = BlackScholes(volatility=0.25, rate=0.03, dividend=0.01)


@by_task
def test_features_are_in_their_space(name, tasks, full, play):
    """Every feature that a simulation knows, at every step to the last, within its range, finite, and not always the
    same number."""
    task = tasks(execution=full)[name]
    known = tuple(each for each in FEATURES if each not in ESTIMATES or ESTIMATES[each].of_paths)
    environment = Environment(task, known, "holdings")
    _, seen = play(environment, task.scenario(32, seed=2))
    space = environment.observation_space
    columns = environment.observation.columns(task)
    assert seen[0].shape == (32, len(columns))
    for observation in seen:
        assert observation.dtype == np.float32
        for row in observation:
            assert space.contains(row)
    stacked = np.stack(seen)
    for index, (feature, _) in enumerate(columns):
        if not (feature.startswith("liability") and name == "overlay") and feature not in (
            "roll_time_left" if name == "short" else "",
            "cost",
        ):
            assert np.ptp(stacked[:, :, index]) > 0, feature


def test_default_sizes(tasks):
    """11 features of the short option, 13 of the overlay, 20 of a book with one hedge option."""
    every = tasks()
    sizes = {name: Environment(task).observation_space.shape for name, task in every.items()}
    assert sizes == {"short": (11,), "rolled": (21,), "kept": (21,), "overlay": (13,), "book": (27,)}
    assert set(default_features(every["book"])) <= set(FEATURES)
    assert "holdings (underlying)" in Flat(("holdings",)).table(every["short"])


def test_features_by_formula(tasks):
    """Features from raw arrays by the formulas of the docstring, on a step in the middle."""
    execution = Execution(costs=(HalfSpread(bps=10.0),))
    task = tasks(FLAT, execution)["rolled"]
    batch = task.scenario(5, seed=1)
    names = ("time_left", "step_return", "volatility", "liability_moneyness", "net_delta", "net_gamma", "pnl", "cost")
    flat, raw = Environment(task, names, "holdings"), Environment(task, Raw(tuple(RAW)), "holdings")
    flat.reset(batch), raw.reset(batch)
    for _ in range(3):
        seen, _, _ = flat.step(np.full((5, 2), 30.0))
        arrays, _, _ = raw.step(np.full((5, 2), 30.0))
    length, step = task.maturity, task.maturity / task.n_steps
    spot = arrays["spot"]
    net = arrays["liability_delta"] + (arrays["holdings"] * arrays["hedge_delta"]).sum(-1)
    gamma = arrays["liability_gamma"] + (arrays["holdings"] * arrays["hedge_gamma"]).sum(-1)
    expected = [
        arrays["time_left"] / length,
        np.log(spot / batch.spot[2]) / (0.2 * step**0.5),
        np.log(arrays["volatility"] / 0.2),
        np.log(spot / arrays["liability_strike"][:, 0]) / (0.2 * arrays["liability_years_left"][:, 0] ** 0.5),
        net / 100.0,
        gamma * spot * 0.2 * step**0.5 / 100.0,
        arrays["wealth"] / (100.0 * batch.spot[0] * 0.2 * length**0.5),
        1000.0 * arrays["cost_per_share"][:, 0] / spot,
        1000.0 * arrays["cost_per_share"][:, 1] / spot,
    ]
    np.testing.assert_allclose(seen, np.stack(expected, axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(arrays["cost_per_share"], 1e-3 * arrays["hedge_mid"], rtol=1e-12, atol=0)
    np.testing.assert_array_equal(arrays["step"], 3.0)


def test_black_scholes_deltas_of_a_flat_market(tasks):
    """Limit: without a smile the Black-Scholes deltas, the marks' and those of minimum variance are one."""
    task = tasks(FLAT)["book"]
    batch = task.scenario(6, seed=1)
    environment = Environment(task, ("raw", *RAW), "holdings")
    arrays, done = environment.reset(batch), False
    while not done:
        for kind in ("bs", "minimum_variance"):
            for what in ("hedge", "liability"):
                np.testing.assert_allclose(
                    arrays[f"{what}_{kind}_delta"], arrays[f"{what}_delta"], rtol=0, atol=2e-3 * task.size
                )
        position, strike = arrays["liability_position"], arrays["liability_strike"]
        alive = arrays["liability_years_left"] > 0
        delta = black_scholes(
            arrays["spot"][:, None],
            np.where(alive, strike, 1.0),
            np.where(alive, arrays["liability_years_left"], 1.0),
            0.25,
            rate=0.03,
            dividend=0.01,
            is_call=arrays["liability_is_call"] > 0,
        ).delta
        np.testing.assert_allclose((position * alive * delta).sum(-1), arrays["liability_delta"], rtol=0, atol=0.02)
        arrays, _, done = environment.step(np.zeros((6, 3)))


@by_task
def test_actions_ask_for_what_they_say(name, tasks):
    """Each kind of action by its formula, without limits and with them."""
    limits = Limits(trade=60.0, holding=100.0)
    task = tasks(execution=Execution(limits=limits))[name]
    free = tasks(execution=Execution())[name]
    batch = task.scenario(4, seed=1)
    k, size = len(task.instruments), task.size
    multiplier = batch.multiplier
    held = np.full((4, k), 10.0)
    half = np.full((4, k), 0.5)

    def asked(task, action, given):
        environment = Environment(task, None, action)
        environment.reset(batch)
        environment.rollout.holdings = held
        return environment._target(given, environment.rollout)

    np.testing.assert_allclose(asked(task, "target", half), 0.75 * size * np.ones((4, k)), rtol=1e-12)
    np.testing.assert_allclose(asked(task, "target", 9 * half), 1.5 * size * np.ones((4, k)), rtol=1e-12)
    np.testing.assert_allclose(asked(task, Action("target", 4.0), -half), -2 * multiplier + 0 * held, rtol=1e-12)
    np.testing.assert_allclose(asked(task, "trade", half), 10 + 30 * multiplier + 0 * held, rtol=1e-12)
    np.testing.assert_allclose(asked(free, "trade", half), 10 + 0.125 * size + 0 * held, rtol=1e-12)
    np.testing.assert_allclose(asked(task, "holdings", half), half, rtol=0)
    moves = np.zeros((4, k))
    moves[0, 0], moves[1, 0], moves[3, k - 1] = 60 * multiplier[0], -60 * multiplier[0], 60 * multiplier[-1]
    numbers = np.array([0, 1, 2, 3 * (k - 1)])
    np.testing.assert_allclose(asked(task, "discrete", numbers), held + moves, rtol=1e-12)
    if name == "overlay":
        with pytest.raises(ValueError, match="needs a task that trades the underlying"):
            Environment(task, None, "coverage")
    else:
        covered = asked(task, "coverage", np.full((4, 1), 1.5))
        np.testing.assert_allclose(covered[:, 0], -1.5 * batch.liability_delta[0], rtol=1e-12)
        np.testing.assert_array_equal(covered[:, 1:], 0.0)


@pytest.mark.parametrize(
    ("action", "given", "message"),
    [
        ("target", np.zeros((4, 3)), r"shape \(4, 2\), got \(4, 3\)"),
        ("target", np.zeros(2), r"shape \(4, 2\), got \(2,\)"),
        ("target", [[np.nan, 0.0]] * 4, "finite numbers .* got NaN or infinity"),
        ("holdings", [[np.inf, 0.0]] * 4, "finite numbers .* got NaN or infinity"),
        ("trade", "buy", "must be numbers"),
        ("coverage", np.zeros((4, 2)), r"shape \(4, 1\)"),
        ("discrete", np.full(4, 6), "whole numbers from 0 to 5"),
        ("discrete", np.zeros(4), "whole numbers from 0 to 5"),
    ],
)
def test_wrong_actions_are_refused(action, given, message, tasks):
    task = tasks()["rolled"]
    environment = Environment(task, None, action)
    with pytest.raises(ValueError, match="must be reset"):
        environment.step(given)
    environment.reset(task.scenario(4, seed=1))
    with pytest.raises(ValueError, match=message):
        environment.step(given)
    assert environment.rollout.step == 0


def test_band(tasks):
    """Identity: holdings inside the interval stay as they are, others go to its nearer edge, by NumPy's clip."""
    task = tasks()["rolled"]  # the underlying and an option
    batch = task.scenario(64, seed=1)
    environment = Environment(task, None, Action("band", 0.4))
    environment.reset(batch)
    assert environment.action_space.shape == (4,)
    scale = 0.4 * batch.multiplier
    rng, stayed = np.random.default_rng(1), 0
    for step in range(task.n_steps):
        action = rng.uniform(-1.3, 1.3, (64, 4))
        given = np.clip(action, -1.0, 1.0)
        centre = given[:, :2] * scale
        width = 0.5 * (1.0 + given[:, 2:]) * scale
        before = environment.rollout.holdings.copy()
        option = np.clip(before[:, 1], centre[:, 1] - width[:, 1], centre[:, 1] + width[:, 1])
        centre[:, 0] -= batch.liability_delta[step] + option * batch.hedges.delta[step, :, 0]
        wanted = np.clip(before, centre - width, centre + width)
        np.testing.assert_array_equal(wanted[:, 1], option)
        environment.step(action)
        np.testing.assert_allclose(environment.rollout.held, wanted, rtol=1e-9, atol=1e-9)
        stayed += int((wanted == before).sum())
    assert stayed > 20


def test_band_without_width_is_the_delta_hedge(tasks):
    """Limit: a band of width 0 around 0 holds minus the liabilities' delta; the task's size sets the scale."""
    task = tasks()["short"]
    batch = task.scenario(8, seed=1)
    environment = Environment(task, None, "band")
    environment.reset(batch)
    environment.step(np.tile([0.0, -1.0], (8, 1)))
    np.testing.assert_allclose(environment.rollout.held[:, 0], -batch.liability_delta[0], rtol=1e-12)
    environment.step(np.tile([1.0, -1.0], (8, 1)))
    wanted = 0.5 * task.size - batch.liability_delta[1]
    np.testing.assert_allclose(environment.rollout.held[:, 0], wanted, rtol=1e-12)
    overlay = tasks()["overlay"]  # trades no underlying: bands are around a synthetic forward
    environment = Environment(overlay, None, "band")
    environment.reset(overlay.scenario(8, seed=1))
    for step in range(3):
        environment.step(np.tile([0.0, 0.0, -1.0, -1.0], (8, 1)))
        if step == 0:
            wanted = np.tile([-overlay.shares, overlay.shares], (8, 1))
            np.testing.assert_allclose(environment.rollout.held, wanted, rtol=1e-3)
        net = environment.rollout.scenario.liability_delta[step] + (
            environment.rollout.held * environment.rollout.scenario.delta[step]
        ).sum(axis=1)
        np.testing.assert_allclose(net, 0.0, atol=1e-3 * overlay.shares)


def test_scale_by_instrument(tasks):
    """Identity: one number for each instrument, shares and contracts; the default is half the size, options twice."""
    task = tasks()["rolled"]
    batch = task.scenario(8, seed=1)
    for action, wanted in ((Action("band", (30.0, 2.0)), (30.0, 200.0)), (Action("band"), (50.0, 200.0))):
        environment = Environment(task, None, action)
        environment.reset(batch)
        environment.step(np.tile([1.0, 1.0, -1.0, -1.0], (8, 1)))
        held = environment.rollout.held
        np.testing.assert_allclose(held[:, 1], wanted[1], rtol=1e-12)
        delta = batch.liability_delta[0] + held[:, 1] * batch.hedges.delta[0, :, 0]
        np.testing.assert_allclose(held[:, 0], wanted[0] - delta, rtol=1e-9)
    assert Action("band", [30, 2]) == Action("band", (30.0, 2.0))  # as JSON and YAML have it
    with pytest.raises(ValueError, match="one for each of 2 instruments"):
        Environment(task, None, Action("band", (1.0, 2.0, 3.0)))
    with pytest.raises(ValueError, match="scale must be positive"):
        Action("band", (1.0, -2.0))


def test_band_counts_contracts_that_were_kept(tasks):
    """Identity: with a band of no width the whole book is delta-neutral after every trade, kept contracts included."""
    task = tasks()["kept"]
    environment = Environment(task, None, "band")
    environment.reset(task.scenario(8, seed=1))
    met = 0.0
    for step in range(task.n_steps):
        rollout, batch = environment.rollout, environment.rollout.scenario
        kept = rollout.kept_greek("delta")
        environment.step(np.tile([0.0, 0.3, -1.0, -1.0], (8, 1)))
        net = batch.liability_delta[step] + kept + (rollout.held * batch.delta[step]).sum(axis=1)
        np.testing.assert_allclose(net, 0.0, atol=1e-9 * task.size)
        met = max(met, float(np.abs(kept).max()))
    assert met > 1.0


def test_wrong_settings_are_refused(tasks):
    task = tasks()["short"]
    with pytest.raises(ValueError, match="nearest is 'net_delta'"):
        Environment(task, ("net_dela",))
    with pytest.raises(ValueError, match="nearest is 'liability_bs_delta'"):
        Environment(task, Raw(("liability_bsdelta",)))
    with pytest.raises(ValueError, match="once"):
        Environment(task, ("pnl", "pnl"))
    with pytest.raises(ValueError, match="at least one"):
        Environment(task, ())
    with pytest.raises(ValueError, match="action must be one of target"):
        Environment(task, None, "targets")
    with pytest.raises(ValueError, match="num_envs = 3"):
        Environment(task, num_envs=3).reset(task.scenario(4, seed=1))


def test_an_ended_environment_must_be_reset(tasks, play):
    task = tasks()["short"]
    environment = Environment(task, None, "holdings", num_envs=2)
    play(environment, task.scenario(2, seed=1))
    with pytest.raises(ValueError, match="must be reset"):
        environment.step(np.zeros((2, 1)))
    assert environment.reset(seed=4).shape == (2, 11)
    np.testing.assert_array_equal(environment.reset(seed=4), environment.reset(seed=4))
