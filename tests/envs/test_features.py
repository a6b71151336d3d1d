"""Features of prices: twins of the estimators on every path, defined from the first step, blind to the future."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from hedgerl.agents import Agent
from hedgerl.agents.networks import FeedForwardActor
from hedgerl.data import DailySeries, Surface, estimators
from hedgerl.envs import FEATURES, Environment, Flat, ShortOption
from hedgerl.envs.features import DAYS, ESTIMATES, MAX_LAG, SUBGRIDS, TICKS
from hedgerl.sim import BlackScholes, Heston, History
from hedgerl.sim.backend import to_numpy

DAY = 1 / 252
HESTON = Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.09)
OF_STEPS = tuple(name for name, estimate in ESTIMATES.items() if estimate.of_paths is not None)
OF_DAYS = tuple(name for name in ESTIMATES if name not in OF_STEPS)
LONG = 140  # steps: all windows are full at the end


@pytest.fixture(params=["torch", pytest.param("cupy", marks=pytest.mark.gpu)])
def sent(request):
    return torch.as_tensor if request.param == "torch" else request.getfixturevalue("cupy").asarray


def series(n_days: int = 600, seed: int = 2) -> DailySeries:
    """Days with ranges around their closes."""
    rng = np.random.default_rng(seed)
    close = 1000.0 * np.exp(np.cumsum(0.01 * rng.standard_normal(n_days)))
    opened = close * np.exp(0.004 * rng.standard_normal(n_days))
    wide = np.exp(0.006 * rng.random((2, n_days)))
    days = np.busday_offset("2010-01-04", np.arange(n_days))
    vix = 15.0 + 5.0 * rng.random(n_days)
    high, low = np.maximum(opened, close) * wide[0], np.minimum(opened, close) / wide[1]
    return DailySeries("made", days, close, opened, high, low, vix=vix)


def of_history(given: DailySeries, start: Any = None, **surface: Any) -> ShortOption:
    return ShortOption(market=History(given, Surface(**surface), start=start), n_steps=21)


def shown(name: str, given: DailySeries) -> float:
    """The feature on the last day of a series, from the estimators alone."""
    kind, _, window = name.rpartition("_")
    n, close = int(window), given.close
    returns = np.diff(np.log(close))
    if kind in ("moving_average", "exponential_average"):
        average = getattr(estimators, kind)(close, n)[-1]
        return float(np.log(close[-1] / average) / (0.2 * (n * DAY) ** 0.5))
    if kind == "realised_volatility":
        return float(np.log(estimators.close_to_close(close, n)[-1] / 0.2))
    if kind in ("garman_klass", "yang_zhang"):
        return float(np.log(getattr(estimators, kind)(given.open, given.high, given.low, close, n)[-1] / 0.2))
    if kind == "parkinson":
        return float(np.log(estimators.parkinson(given.high, given.low, n)[-1] / 0.2))
    if kind == "skewness":
        return float(estimators.skewness(returns, n)[-1])
    if kind == "kurtosis":
        return float(np.log(estimators.kurtosis(returns, n)[-1] / 3.0))
    if kind == "noise_share":
        scales = estimators.two_scales(close[-TICKS - 1 :], SUBGRIDS)
        return 1.0 - scales.integrated_variance / (2 * TICKS * scales.noise_variance)
    assert kind == "hurst"
    daily = np.log(np.log(given.high / given.low) ** 2 / (4 * np.log(2)))
    return float(estimators.hurst_exponent(daily[-DAYS:], MAX_LAG).hurst)


def cut(given: DailySeries, stop: int) -> DailySeries:
    """The days before `stop`."""
    values = {item.name: getattr(given, item.name) for item in dataclasses.fields(given)}
    return DailySeries(
        **{name: value[:stop] if isinstance(value, np.ndarray) else value for name, value in values.items()}
    )


@pytest.mark.parametrize("name", OF_STEPS)
def test_a_full_window_of_a_simulation_is_the_estimator(name):
    """Twin: at a step whose window is full, the column is the estimator of hedgerl.data on each path's own prices.

    Averages count prices before the start as S_0. Catches an off-by-one window, a scale, a divisor.
    """
    task = ShortOption(market=BlackScholes(volatility=0.2), n_steps=LONG, backend="numpy")
    scenario = task.scenario(3, seed=1)
    column = Flat((name,)).prepare(scenario, task).fixed[:, :, 0]
    for step in (130, LONG):
        for path in range(3):
            close = scenario.spot[: step + 1, path]
            close = np.concatenate([np.full(62, close[0]), close]) if "average" in name else close
            if name == "exponential_average_5":  # whose first mean is of 5 prices
                close = close[62 - 4 :]
            if name == "exponential_average_21":
                close = close[62 - 20 :]
            wanted = shown(name, DailySeries("path", np.arange(close.size).astype("datetime64[D]"), close))
            np.testing.assert_allclose(column[step, path], wanted, rtol=2e-6, atol=2e-6)


def test_before_the_window_is_full():
    """By hand: 2 known returns and 19 of the spot's own variance; without any the prior alone, and no moment."""
    names = ("realised_volatility_21", "skewness_21", "kurtosis_21", "moving_average_21", "noise_share_126")
    task = ShortOption(market=HESTON, n_steps=6, backend="numpy")
    scenario = task.scenario(4, seed=3)
    seen = Flat(names).prepare(scenario, task).fixed
    start = [np.log(0.3 / 0.2), 0.0, 0.0, 0.0, SUBGRIDS / (TICKS + 1)]
    np.testing.assert_allclose(seen[0], np.tile(start, (4, 1)), rtol=1e-6, atol=1e-6)
    spot = scenario.spot[:3]
    returns = np.diff(np.log(spot), axis=0)
    away = returns - returns.mean(axis=0)
    squares, prior = (away**2).sum(axis=0), 0.09 * DAY
    wanted = np.log(np.sqrt((squares + 19 * prior) / (20 * DAY)) / 0.2)
    np.testing.assert_allclose(seen[2, :, 0], wanted, rtol=1e-5, atol=1e-6)
    second = (squares + 19 * prior) / 21
    np.testing.assert_allclose(seen[2, :, 1], (away**3).sum(axis=0) / 21 / second**1.5, rtol=1e-5, atol=1e-6)
    fourth = ((away**4).sum(axis=0) + 57 * prior**2) / 21
    np.testing.assert_allclose(seen[2, :, 2], np.log(fourth / second**2 / 3), rtol=1e-5, atol=1e-6)
    mean = (spot.sum(axis=0) + 18 * spot[0]) / 21
    np.testing.assert_allclose(seen[2, :, 3], np.log(spot[2] / mean) / (0.2 * (21 * DAY) ** 0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ESTIMATES)
def test_history_is_the_estimator_of_what_was_known(name):
    """Twin: on every step of a window the column is the estimator of the series cut off after that day, whose closes
    from before the window's first day count. Catches a day read too late, and windows that start empty."""
    given = series()
    task = of_history(given)
    starts = np.array([300, 411, 299])
    seen = Flat((name,)).prepare(task.history(starts, 0), task).fixed[:, :, 0]
    for path, start in enumerate(starts):
        for step in (0, 1, 21):
            wanted = shown(name, cut(given, start + step + 1))
            np.testing.assert_allclose(seen[step, path], wanted, rtol=1e-5, atol=2e-6)


def test_nothing_after_a_step_is_in_it():
    """Identity: another future leaves every column as it is up to its day, and changes it after."""
    given = series()
    later = {
        field: np.append(getattr(given, field)[:310], 1.2 * getattr(given, field)[310:])
        for field in ("close", "open", "high")
    }
    other = dataclasses.replace(given, **later)
    before, after = (
        Flat(tuple(ESTIMATES)).prepare(of_history(each).history(np.array([300]), 0), of_history(each)).fixed
        for each in (given, other)
    )
    np.testing.assert_array_equal(before[:10], after[:10])
    assert (before[10] != after[10]).all()

    task = ShortOption(market=HESTON, n_steps=12, backend="numpy")
    scenario = task.scenario(3, seed=1)
    moved = dataclasses.replace(
        scenario,
        spot=np.concatenate([scenario.spot[:8], 1.1 * scenario.spot[8:]]),
        volatility=np.concatenate([scenario.volatility[:1], 2.0 * scenario.volatility[1:]]),
    )
    one, two = (Flat(OF_STEPS).prepare(each, task).fixed for each in (scenario, moved))
    np.testing.assert_array_equal(one[:8], two[:8])
    assert (one[8] != two[8]).all()


@pytest.mark.parametrize("market", ["simulated", "history"])
def test_another_library_and_parts(market, sent):
    """Twin: torch and CuPy give NumPy's columns, and a part of a batch those of its paths."""
    if market == "simulated":
        task, names = ShortOption(market=HESTON, n_steps=30, backend="numpy"), OF_STEPS
        scenario = task.scenario(5, seed=1)
    else:
        task, names = of_history(series()), tuple(ESTIMATES)
        scenario = task.history(np.array([280, 300, 320, 400, 500]), 0)
    wanted = Flat(names).prepare(scenario, task).fixed
    other = Flat(names).prepare(scenario.mapped(sent), task).fixed
    assert isinstance(other, type(sent(scenario.spot)))
    np.testing.assert_allclose(to_numpy(other), wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(Flat(names).prepare(scenario.part(1, 3), task).fixed, wanted[:, 1:3])
    np.testing.assert_array_equal(Flat(names).prepare(scenario, task).part(1, 3).fixed, wanted[:, 1:3])


def test_prices_that_stand_still_are_shown():
    """Limit: no price moves, and no column is NaN: no volatility at its least, no moments, no noise."""
    task = ShortOption(market=BlackScholes(volatility=0.2), n_steps=LONG, backend="numpy")
    scenario = task.scenario(2, seed=1)
    still = dataclasses.replace(scenario, spot=0.0 * scenario.spot + 100.0)
    for volatility in (scenario.volatility, 0.0 * scenario.volatility):
        given = dataclasses.replace(still, volatility=volatility)
        seen = Flat(OF_STEPS).prepare(given, task).fixed
        assert np.isfinite(seen).all()
        assert seen[-1, 0, OF_STEPS.index("realised_volatility_21")] == pytest.approx(np.log(1e-4 / 0.2), rel=1e-6)
    level = np.full(600, 10.0)
    flat = DailySeries("flat", np.busday_offset("2010-01-04", np.arange(600)), level, level, level, level, vix=level)
    task = of_history(flat)
    seen = Flat(tuple(ESTIMATES)).prepare(task.history(np.array([300, 310]), 0), task).fixed
    assert np.isfinite(seen).all()
    for name in ("skewness_21", "kurtosis_63", "noise_share_126", "moving_average_5"):
        np.testing.assert_allclose(seen[:, :, list(ESTIMATES).index(name)], 0.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OF_DAYS)
def test_what_a_market_does_not_know_is_refused(name):
    """Behaviour: ranges of days are refused in a simulation before anything is simulated, and on a series without."""
    with pytest.raises(ValueError, match=f"{name} needs .*high.*, which this market does not know"):
        Environment(ShortOption(market=HESTON), (name,))
    bare = dataclasses.replace(series(), high=None)
    task = of_history(bare)
    with pytest.raises(ValueError, match=f"{name} needs high of every day, which made does not have"):
        Environment(task, (name,)).reset(task.history(np.array([300]), 0))


def test_history_that_starts_too_early_is_refused():
    """Behaviour: no window of history is filled up by a guess."""
    task = of_history(series(), kappa=0.0)  # marked from its first day on
    with pytest.raises(ValueError, match=r"realised_volatility_63 needs 63 days before .*, made has 62 before 2010"):
        Environment(task, ("realised_volatility_63",)).reset(task.history(np.array([62, 90]), 0))
    Environment(task, ("realised_volatility_63",)).reset(task.history(np.array([63, 90]), 0))


def test_they_cost_nothing_unless_asked_for(monkeypatch):
    """Behaviour: an environment that does not show them computes none of them."""

    def fail(*arguments: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("hedgerl.envs.features.Estimate.along", fail)
    task = of_history(series())
    Environment(task).reset(task.history(np.array([300]), 0))
    with pytest.raises(AssertionError):
        Environment(task, ("skewness_21",)).reset(task.history(np.array([300]), 0))


def test_trailing_estimators_are_those_of_each_window():
    """Twin: the moving Hurst exponent and the moving noise share, each day, against the estimators of one window."""
    rng = np.random.default_rng(4)
    values, price = np.cumsum(rng.normal(size=140)), np.exp(np.cumsum(0.01 * rng.normal(size=140)))
    hurst, noise = estimators.trailing_hurst(values, 100, 5), estimators.noise_share(price, 110, 4)
    assert np.isnan(hurst[:99]).all()
    assert np.isnan(noise[:110]).all()
    for day in (99, 120, 139):
        wanted = estimators.hurst_exponent(values[day - 99 : day + 1], 5).hurst
        np.testing.assert_allclose(hurst[day], wanted, rtol=1e-9, atol=1e-12)
    for day in (110, 139):
        scales = estimators.two_scales(price[day - 110 : day + 1], 4)
        wanted = 1.0 - scales.integrated_variance / (220 * scales.noise_variance)
        np.testing.assert_allclose(noise[day], wanted, rtol=1e-9, atol=1e-12)
    assert np.isnan(estimators.trailing_hurst(np.ones(100), 100, 5)[-1])
    assert np.isnan(estimators.noise_share(np.ones(120), 110, 4)[-1])
    with pytest.raises(ValueError, match="window must be a whole number of at least 100"):
        estimators.trailing_hurst(values, 99, 5)
    with pytest.raises(ValueError, match="quarter of the 110 steps"):
        estimators.noise_share(price, 110, 30)


def test_noise_share_of_noise():
    """Limit: noise of variance v on a martingale of variance s a step has the share 2 v / (2 v + s)."""
    rng = np.random.default_rng(7)
    n = 20_000
    logs = np.cumsum(0.01 * rng.normal(size=n)) + 0.01 * rng.normal(size=n)
    shares = estimators.noise_share(np.exp(logs), n - 1, 30)
    np.testing.assert_allclose(shares[-1], 2.0 / 3.0, rtol=0, atol=0.05)


# ---- a saved policy ----

NAMES = ("time_left", "realised_volatility_21", "holdings")


def policy(names: tuple[str, ...] = NAMES, task: ShortOption | None = None) -> Agent:
    torch.manual_seed(3)
    task = ShortOption(market=BlackScholes(volatility=0.2), n_steps=21) if task is None else task
    return Agent(FeedForwardActor(len(names), 1, hidden=(4,)), {"task": task, "observation": Flat(names)})


def test_a_policy_that_sees_them_comes_back(tmp_path):
    """Behaviour: it is saved, loaded, and acts as before; its card has the formula, and another formula is refused."""
    agent = policy()
    again = Agent.load(agent.save(tmp_path / "policy"))
    assert again.card.observation.names == NAMES
    assert FEATURES["realised_volatility_21"].formula in (tmp_path / "policy" / "card.json").read_text()
    environment = Environment(again.task, again.interface.observation, again.interface.action)
    observation, done = environment.reset(again.task.scenario(3, seed=1)), False
    while not done:
        assert np.isfinite(observation).all()
        action, _ = again.predict(observation)
        np.testing.assert_array_equal(action, agent.predict(observation)[0])
        observation, _, done = environment.step(action)


DESK: dict[str, Any] = {"spot": 100.0, "volatility": 0.2, "strike": 100.0, "years_left": 21 * DAY}
DESK |= {"implied_volatility": 0.2}
HELD = {"shares": 0.0, "contracts": -1}


def test_a_desk_gives_its_closes():
    """Twin: the policy sees the estimator of the desk's own closes; without them, or with too few, the delta hedge
    answers and says what is needed."""
    agent = policy()
    closes = 100.0 * np.exp(np.append(np.cumsum(0.01 * np.random.default_rng(1).normal(size=40)), 0.0))
    told = agent.hedge(DESK | {"closes": closes.tolist()}, HELD)
    assert told.source == "policy"
    wanted = np.log(estimators.close_to_close(closes, 21)[-1] / 0.2)
    assert told.observation["realised_volatility_21"] == pytest.approx(wanted, rel=1e-5)
    for given in ({}, {"closes": closes[-21:]}):
        told = agent.hedge(DESK | given, HELD)
        assert told.source == "fallback"
        assert "the policy sees realised_volatility_21, which needs the closes of the last 22 days" in told.reason
        assert told.shares == told.delta_shares
    with pytest.raises(ValueError, match="closes must end with the spot now, 100, got 101"):
        agent.hedge(DESK | {"closes": [100.0, 101.0]}, HELD)
    with pytest.raises(ValueError, match="closes must be positive prices"):
        agent.hedge(DESK | {"closes": [0.0, 100.0]}, HELD)
    weekly = policy(task=ShortOption(market=BlackScholes(volatility=0.2), n_steps=4, maturity=20 * DAY))
    told = weekly.hedge(DESK | {"closes": closes, "years_left": 20 * DAY}, HELD)
    assert "are no trading days" in told.reason


def test_a_desk_gives_its_ranges():
    """Behaviour: what ranges tell needs them of every close; the policy was trained on history."""
    given = series()
    agent = policy(("time_left", "garman_klass_5"), of_history(given))
    scale = 100.0 / given.close[-1]
    days = {key: scale * getattr(given, key[:-1]) for key in ("opens", "highs", "lows", "closes")}
    days["closes"][-1] = 100.0
    told = agent.hedge(DESK | days, HELD)
    assert told.source == "policy"
    assert told.observation["garman_klass_5"] == pytest.approx(shown("garman_klass_5", given), rel=1e-4)
    told = agent.hedge(DESK | {"closes": days["closes"]}, HELD)
    assert "garman_klass_5, which needs the opens, highs, lows of the last 5 days" in told.reason
    with pytest.raises(ValueError, match="highs must have a price for each of the closes, got 3"):
        agent.hedge(DESK | days | {"highs": days["highs"][:3]}, HELD)
