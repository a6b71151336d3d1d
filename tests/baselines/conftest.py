"""Tasks, walks through them, and measures of a sample that the tests of the hedges share."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hedgerl.baselines import Baseline
from hedgerl.envs import Execution, Listing, OptionBook, Position, Raw, Rollout, Scenario, ShortOption, SpyOverlay, Task
from hedgerl.execution import HalfSpread, Proportional
from hedgerl.sim import BlackScholes, Heston

HESTON = Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04, rate=0.02)
KEPT = Listing(name="daily listing", tenor=10 / 252, roll_every=1 / 252, keep=True)
COSTS = (Proportional(rate=0.001, applies_to="underlying"), HalfSpread(volatility_points=0.2, applies_to="options"))


def tasks() -> dict[str, Task]:
    """One of each kind, small."""
    execution = Execution(costs=COSTS)
    options = (Listing(name="near", tenor=42 / 252), Listing(name="far", tenor=84 / 252, moneyness=0.97, is_call=False))
    return {
        "underlying": ShortOption(market=HESTON, quantity=100.0, execution=execution),
        "options": ShortOption(market=HESTON, hedge_options=options, execution=execution),
        "one option": ShortOption(market=HESTON, hedge_options=options[:1], execution=execution),
        "overlay": SpyOverlay(market=HESTON, n_steps=63, maturity=0.25),
        "book": OptionBook(market=HESTON, portfolio=(Position(),), n_steps=12, maturity=12 / 252, execution=execution),
        "kept": OptionBook(market=HESTON, n_steps=12, hedge_options=(KEPT,), execution=execution),
    }


@pytest.fixture(scope="session")
def books() -> dict[str, tuple[Task, Scenario]]:
    """Tasks by name, each with a scenario of 200 paths."""
    return {name: (task, task.scenario(200, seed=5)) for name, task in tasks().items()}


def walk(
    policy: Baseline, task: Task, scenario: Scenario, more: tuple[str, ...] = ()
) -> Iterator[tuple[Rollout, dict[str, Any], Any]]:
    """(rollout before the trade, what is seen, the target) at every step; trades after each."""
    names = tuple(dict.fromkeys((*policy.observation, *more)))
    prepared = Raw(names).prepare(scenario, task)
    rollout, state = Rollout(scenario, task.execution), None
    start = np.ones(scenario.n_paths, dtype=bool)
    while not rollout.done:
        seen = prepared.at(rollout)
        target, state = policy.predict(seen, state, start)
        yield rollout, seen, target
        rollout.act(target)
        start = np.zeros_like(start)


def seen_at(task: Task, scenario: Scenario, names: tuple[str, ...], step: int = 0) -> dict[str, Any]:
    """The observation of a hedger who has held nothing up to a step."""
    rollout = Rollout(scenario, task.execution)
    while rollout.step < step:
        rollout.act(0.0 * rollout.holdings)
    return Raw(names).prepare(scenario, task).at(rollout)


def deviation(pnl: np.ndarray) -> tuple[float, float]:
    """Standard deviation of a sample and its standard error."""
    sd = pnl.std(ddof=1)
    return float(sd), float((((pnl - pnl.mean()) ** 2 - sd**2) / (2 * sd)).std() / pnl.size**0.5)


def black_scholes_task(**changes: Any) -> ShortOption:
    """A month's call at 20 %, 1 % cost on the underlying."""
    given: dict[str, Any] = {
        "market": BlackScholes(volatility=0.2),
        "execution": Execution(costs=(Proportional(rate=0.01, applies_to="underlying"),)),
    }
    return ShortOption(**(given | changes))


@pytest.fixture
def kit() -> SimpleNamespace:
    """The functions above."""
    return SimpleNamespace(walk=walk, seen_at=seen_at, deviation=deviation, black_scholes_task=black_scholes_task)
