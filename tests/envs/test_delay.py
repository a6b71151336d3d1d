"""A decision that is traded some steps later."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hedgerl.envs import Environment, Execution, HedgingVecEnv, Limits, ShortOption
from hedgerl.envs.scenario import scenario
from hedgerl.envs.transition import Rollout
from hedgerl.execution import HalfSpread
from hedgerl.sim import BlackScholes

COSTS = (HalfSpread(bps=10.0, applies_to="underlying"),)
TASK = ShortOption(market=BlackScholes(volatility=0.2), n_steps=6, backend="numpy")


def rolled(execution: Execution, targets: list[float], n_paths: int = 3) -> Rollout:
    """The rollout of these holdings of the underlying, the same on every path."""
    rollout = Rollout(TASK.scenario(n_paths, seed=2), execution, record=True)
    for target in targets:
        rollout.act(np.full((n_paths, 1), target))
    return rollout


def test_a_decision_is_traded_at_the_prices_of_then():
    """Golden: asked for at step 0, a share is bought at the price and cost of step 1; the last decision, to sell, comes
    to nothing, and unwinding sells.

    Catches a trade at the decision's price, a cost of the wrong step, and an order that outlives the episode.
    """

    class Two:
        """A market of one path without options."""

        dividend = 0.0
        times = np.arange(3) / 252.0
        spot = np.array([[100.0], [104.0], [110.0]])
        variance = np.full((3, 1), 0.04)

        def rate_at(self, step: int) -> float:
            return 0.0

    rollout = Rollout(scenario(Two(), hedges=()), Execution(costs=COSTS, delay=1), record=True)  # type: ignore[arg-type]
    first, second = (float(rollout.act(np.array([[target]]))[0]) for target in (1.0, 0.0))
    assert first == 0.0
    assert second == pytest.approx(110.0 - 104.0 - 0.104 - 0.110, abs=1e-12)
    record = rollout.result()
    np.testing.assert_array_equal(record.trades[:, 0, 0], [0.0, 1.0])
    np.testing.assert_array_equal(record.closed[:, 0, 0], [0.0, 0.0, -1.0])


@pytest.mark.parametrize("delay", [1, 2, 5])
def test_a_delayed_plan_is_the_plan_shifted(delay):
    """Identity: targets delayed by d steps make the record of the same targets after d steps of nothing.

    Catches an order dropped, executed twice or out of turn.
    """
    plan = [0.3, 0.9, -0.2, 0.4, 0.4, 1.0]
    late = rolled(Execution(costs=COSTS, delay=delay), plan).result()
    shifted = rolled(Execution(costs=COSTS), [0.0] * delay + plan[: 6 - delay]).result()
    for name in ("holdings", "trades", "closed", "cash"):
        np.testing.assert_array_equal(getattr(late, name), getattr(shifted, name), err_msg=name)


def test_limits_hold_when_it_is_traded():
    """Golden: at most 1 share a step: a target of 3 decided at 0 and one of 0 at 1 trade +1 and then -1 at 1 and 2.

    Catches limits that are applied to the holdings of the decision.
    """
    limits = Limits(trade=1.0)
    record = rolled(Execution(limits=limits, delay=1), [3.0, 0.0, -3.0, -3.0, -3.0, -3.0]).result()
    np.testing.assert_array_equal(record.trades[:, 0, 0], [0.0, 1.0, -1.0, -1.0, -1.0, -1.0])


def test_environments_carry_the_delay():
    """Twin: the vector environment with a delay earns what the rollout of the same targets earns.

    Catches an environment with a rollout of its own that knows no delay.
    """
    task = dataclasses.replace(TASK, execution=Execution(costs=COSTS, delay=2))
    venv = HedgingVecEnv(Environment(task, action="target"), 4, block=4)
    venv.seed(3)
    venv.reset()
    of = venv.environment.rollout.scenario
    total = None
    expected = Rollout(of, task.execution)
    for _ in range(6):
        action = np.full((4, 1), 0.5, dtype=np.float32)
        target = venv.environment.action.bind(of, task)(action, venv.environment.rollout)
        expected.act(target)
        _, _, _, infos = venv.step(action)
        total = infos
    assert total is not None
    np.testing.assert_allclose(
        [info["pnl"] for info in total], expected.wealth - task.execution.initial_cash, rtol=0, atol=1e-5
    )
    assert expected.total_cost.min() > 0.0


@pytest.mark.parametrize("bad", [-1, 1.5, True, None])
def test_a_delay_is_a_number_of_steps(bad):
    """Catches half a step, or none at all, that fails far from its cause."""
    with pytest.raises(ValueError, match="delay must be a whole number of at least 0, got"):
        Execution(delay=bad)
