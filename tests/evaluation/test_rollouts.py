"""Evaluating policies: what is measured, on which episodes, and that it comes out the same again."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

import hedgerl.data
from hedgerl.baselines import Delta, Lazy, NoHedge
from hedgerl.envs import Environment, Execution, Limits, ShortOption, SpyOverlay, Task
from hedgerl.envs.transition import Rollout
from hedgerl.evaluation import TERMS, compare, evaluate, roll_out
from hedgerl.evaluation.rollouts import default_chunk, interface_of, pnl_by_step, task_of
from hedgerl.execution import Commission, HalfSpread
from hedgerl.sim import BlackScholes, Heston, History

MARKET = BlackScholes(volatility=0.2)
SPREAD = Execution(costs=(HalfSpread(bps=2.0),))
TASK = ShortOption(market=MARKET, execution=SPREAD)
POLICIES: dict[str, Any] = {"none": NoHedge(), "delta": Delta(), "lazy": Lazy(limit=0.1)}


class Agent:
    """Speaks as stable-baselines3 does, in the task's own observation and action, and remembers."""

    def __init__(self, space: Any) -> None:
        self.space = space
        self.starts: list[bool] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        assert deterministic
        assert observation.dtype == np.float32
        assert observation.shape[1:] == self.space.shape
        self.starts.append(bool(episode_start.all()))
        assert episode_start.all() == (state is None)
        return np.full((len(observation), 1), 0.2, dtype=np.float32), 1 if state is None else state + 1


def test_delta_hedging_error_under_black_scholes() -> None:
    """Statistical: sd = sqrt(pi/4) vega sigma / sqrt(n) of an at-the-money option (Derman & Kamal 1999), .45 per 100
    at 21 steps; n finite and 8,000 paths leave 5 %. The mean is the cost, within 4 standard errors."""
    result = evaluate(Delta(), TASK, 8000, seed=1)
    vega = 100.0 * np.sqrt(21 / 252) * np.exp(-0.5 * (0.1 * np.sqrt(21 / 252)) ** 2) / np.sqrt(2 * np.pi)
    assert result.metrics["sd"] == pytest.approx(np.sqrt(np.pi / 4) * vega * 0.2 / np.sqrt(21), rel=0.05)
    assert abs(result.metrics["mean"] + result.metrics["cost"]) < 4 * result.metrics["mean_se"]
    assert result.metrics["hedging_error_rms"] < 1e-12
    assert result.metrics["effectiveness"] > 0.95
    assert result.metrics["trades"] == pytest.approx(22.0, abs=0.5)


def test_costs_and_turnover_are_of_the_same_trades() -> None:
    result = evaluate(Delta(), TASK, 500, seed=1)
    np.testing.assert_allclose(result.episodes["cost"], result.episodes["turnover"] * 100.0 * 2e-4, rtol=1e-12)
    assert result.metrics["cost_spread"] == result.metrics["cost"]


def test_size_and_spot_cancel() -> None:
    """Twin: ten times the position on ten times the spot is the same per 100 of spot x size."""
    one = evaluate(Delta(), TASK, 300, seed=1)
    large = ShortOption(market=BlackScholes(volatility=0.2, spot=1000.0), quantity=10.0, execution=SPREAD)
    ten = evaluate(Delta(), large, 300, seed=1)
    np.testing.assert_allclose(ten.pnl, one.pnl, rtol=0, atol=1e-4)  # spots are float32
    assert ten.metrics["hedging_error_rms"] < 1e-12


def test_identity_no_hedge_is_its_own_twin_and_columns_sum() -> None:
    results = compare(POLICIES, TASK, 600, seed=2, resamples=20).results
    np.testing.assert_array_equal(results["none"].pnl, results["none"].episodes["unhedged"])
    assert results["none"].metrics["effectiveness"] == pytest.approx(0.0, abs=1e-12)
    for result in results.values():
        episodes = result.episodes
        total = sum(episodes[f"attribution_{term}"] for term in TERMS)
        np.testing.assert_allclose(total, result.pnl, rtol=0, atol=1e-9)
        assert result.attribution["net"].sum() == pytest.approx(result.metrics["mean"], abs=1e-12)
        assert (episodes["pain"] <= episodes["ulcer"] + 1e-12).all()
        assert (episodes["ulcer"] <= episodes["max_drawdown"] + 1e-12).all()
    assert results["delta"].metrics["cost_to_reference"] == pytest.approx(1.0)
    assert 0.0 < results["lazy"].metrics["cost_to_reference"] < 1.0


def test_target_exposure_moves_the_hedging_error_alone() -> None:
    flat, shifted = (evaluate(Delta(), TASK, 200, seed=1, target_exposure=x) for x in (0.0, 0.1))
    assert shifted.metrics["hedging_error_mean"] == pytest.approx(-0.1)
    assert shifted.metrics["hedging_error_rms"] == pytest.approx(0.1)
    np.testing.assert_array_equal(flat.pnl, shifted.pnl)


@pytest.mark.parametrize("whole", [False, True])
def test_identity_steps_are_what_act_returned(whole: bool) -> None:
    """Also where a roll's forced sale and a chosen trade pay in the same step."""
    market = Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04, rate=0.03)
    costs = (Commission(per_contract=0.65), HalfSpread(volatility_points=0.5))
    execution = Execution(costs=costs, limits=Limits(trade=50.0, whole=whole), initial_cash=5.0)
    task = SpyOverlay(
        market=market, n_steps=12, maturity=12 / 252, tenor=6 / 252, roll_every=3 / 252, execution=execution
    )
    of = task.scenario(20, seed=1)
    rollout, rng = Rollout(of, task.execution, record=True), np.random.default_rng(0)
    steps = []
    while not rollout.done:
        steps.append(rollout.act(rng.normal(size=(20, 2)) * 2000.0))
    record = rollout.result()
    np.testing.assert_allclose(pnl_by_step(record), np.stack(steps), rtol=0, atol=1e-7)
    np.testing.assert_allclose(pnl_by_step(record).sum(axis=0), record.pnl, rtol=0, atol=1e-7)


def test_an_agent_sees_the_tasks_observation_and_acts_in_its_action() -> None:
    space = Environment(TASK).observation_space
    agent = Agent(space)
    record = roll_out(agent, TASK, TASK.scenario(8, seed=1))
    np.testing.assert_allclose(record.holdings[:-1, :, 0], 0.2 * 1.5, rtol=1e-6)  # float32 actions
    assert agent.starts == [True] + [False] * 20
    assert evaluate(agent, TASK, 50, seed=1).policy == "Agent"


def test_an_interface_of_ones_own() -> None:
    class Covering:
        observation: ClassVar[tuple[str, ...]] = ("spot",)
        action = "coverage"

        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
        ) -> tuple[Any, Any]:
            return np.ones((observation["spot"].shape[0], 1)), None

    np.testing.assert_allclose(
        evaluate(Covering(), TASK, 100, seed=1).pnl, evaluate(Delta(), TASK, 100, seed=1).pnl, atol=1e-12
    )


def test_same_seed_same_bytes_and_one_policy_is_one_of_many() -> None:
    first = compare(POLICIES, TASK, 700, seed=5, chunk=256, resamples=50)
    again = compare(POLICIES, TASK, 700, seed=5, chunk=256, resamples=50)
    alone = evaluate(Lazy(limit=0.1), TASK, 700, seed=5, chunk=256)
    assert first.differences.equals(again.differences)
    for name, result in first.results.items():
        assert result.episodes.equals(again.results[name].episodes)
    np.testing.assert_array_equal(alone.pnl, first.results["lazy"].pnl)
    other = evaluate(Lazy(limit=0.1), TASK, 700, seed=6, chunk=256)
    assert not np.array_equal(other.pnl, alone.pnl)


def test_chunks_are_independent_and_larger_runs_begin_with_smaller() -> None:
    small, large = (evaluate(NoHedge(), TASK, n, seed=5, chunk=1024).pnl for n in (1024, 2500))
    np.testing.assert_array_equal(large[:1024], small)
    exercised = large[large < large.max()]  # all that expire out of the money end alike
    assert np.unique(exercised).size > 0.99 * exercised.size  # spots are float32
    assert abs(np.corrcoef(large[:1024], large[1024:2048])[0, 1]) < 4 / 32


def test_a_seed_is_drawn_and_told() -> None:
    drawn = evaluate(NoHedge(), TASK, 10, seed=None)
    assert drawn.seed is not None
    np.testing.assert_array_equal(evaluate(NoHedge(), TASK, 10, seed=drawn.seed).pnl, drawn.pnl)


def test_chunks_shrink_for_long_episodes_and_many_contracts() -> None:
    assert default_chunk(TASK) == 4096
    assert default_chunk(SpyOverlay(market=MARKET)) == 1024
    assert default_chunk(task_of("hedgerl/OptionBook-v0")) == 1024


def test_example_is_the_first_episode() -> None:
    comparison = compare(POLICIES, TASK, 50, seed=2, resamples=20)
    for name, record in comparison.example.items():
        assert record.scenario.n_paths == 1
        assert record.pnl[0] == pytest.approx(comparison.results[name].pnl[0] * record.scenario.spot[0, 0] / 100.0)


@pytest.fixture(scope="module")
def history() -> History:
    return History(hedgerl.data.sp500_series(vix=True), start="2017-01-01")


def on_history(history: History) -> Task:
    return ShortOption(market=history, execution=SPREAD)


def test_history_takes_all_windows_in_order(history: History) -> None:
    result = evaluate(Delta(), on_history(history))
    episodes = result.episodes
    assert result.kind == "history"
    assert result.every == 21
    assert (episodes["start"].to_numpy()[1:] == episodes["end"].to_numpy()[:-1]).all()
    assert episodes["start"].is_monotonic_increasing
    assert result.step_pnl is not None
    np.testing.assert_allclose(result.step_pnl.sum(axis=0), result.pnl, rtol=0, atol=1e-12)
    curve = np.cumsum(np.concatenate([[0.0], result.step_pnl.T.ravel()]))
    assert result.metrics["max_drawdown"] == pytest.approx((np.maximum.accumulate(curve) - curve).max())


def test_history_does_not_depend_on_the_chunk(history: History) -> None:
    whole, parts = (evaluate(Delta(), on_history(history), chunk=chunk) for chunk in (None, 7))
    np.testing.assert_allclose(whole.pnl, parts.pnl, rtol=0, atol=1e-12)


def test_overlapping_windows_are_resampled_in_blocks(history: History) -> None:
    apart, overlapping = (evaluate(Delta(), on_history(history), every=every) for every in (None, 5))
    assert overlapping.n_episodes > 3 * apart.n_episodes
    assert overlapping.block >= 4 * apart.block


def test_errors(history: History) -> None:
    with pytest.raises(ValueError, match="'hedgerl/ShortOptoin-v0'; the nearest is 'hedgerl/ShortOption-v0'"):
        evaluate(Delta(), "hedgerl/ShortOptoin-v0")
    with pytest.raises(ValueError, match="n_paths must be None on history"):
        evaluate(Delta(), on_history(history), 100)
    with pytest.raises(ValueError, match="every is of history"):
        evaluate(Delta(), TASK, every=5)
    with pytest.raises(ValueError, match="policies must name at least one"):
        compare({}, TASK)
    with pytest.raises(ValueError, match="policy must have a method predict"):
        evaluate(None, TASK)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_paths must be a whole number of at least 2"):
        evaluate(Delta(), TASK, 1)

    class Wrong(NoHedge):
        def target(self, observation: Any) -> Any:
            return np.zeros(3)

    with pytest.raises(ValueError, match=r"action must have shape \(5, 1\), got \(3,\)"):
        evaluate(Wrong(), TASK, 5)


def test_baselines_and_agents_are_told_apart() -> None:
    assert interface_of(Delta())[1] == "holdings"
    assert interface_of(Agent(None)) == (None, None)
