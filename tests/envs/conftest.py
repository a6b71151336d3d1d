"""Small tasks with every component on, for the tests of this folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hedgerl.envs import Execution, Limits, Listing, OptionBook, Position, Scenario, ShortOption, SpyOverlay, Task
from hedgerl.execution import Commission, Funding, HalfSpread, Proportional, SquareRootImpact
from hedgerl.sim import Heston

DAY = 1 / 252
MARKET = Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04, rate=0.03, dividend=0.01, drift=0.06)
FULL = Execution(
    costs=(
        Commission(per_contract=0.65, per_share_fee=0.005),
        Proportional(rate=0.001, applies_to="underlying"),
        HalfSpread(price=0.01, bps=5.0, volatility_points=0.3, base_volatility=0.2, applies_to="options"),
        SquareRootImpact(coefficient=0.8, daily_volume=1e5),
    ),
    funding=Funding(margin_spread=0.02, borrow_cost=0.01),
    limits=Limits(trade=60.0, holding=100.0, whole=True),
    initial_cash=50.0,
)


def make_tasks(market: Any = MARKET, execution: Execution | None = None, n_steps: int = 6) -> dict[str, Task]:
    """One task of each kind, and one whose hedge option is rolled and one whose earlier contracts are kept."""
    shared: dict[str, Any] = {"market": market, "n_steps": n_steps, "maturity": n_steps * DAY, "backend": "numpy"}
    if execution is not None:
        shared["execution"] = execution
    half = n_steps // 2 * DAY
    rolled = Listing(name="rolled", moneyness=1.02, tenor=2 * half, roll_every=half)
    kept = Listing(name="kept", moneyness=0.98, tenor=1.5 * half, roll_every=half, is_call=False, keep=True)
    given = (Position(quantity=-150.0), Position(quantity=50.0, option=Listing(tenor=half, roll_every=half)))
    return {
        "short": ShortOption(quantity=100.0, **shared),
        "rolled": ShortOption(quantity=100.0, hedge_options=(rolled,), expiry=n_steps * 2 * DAY, **shared),
        "kept": ShortOption(quantity=100.0, hedge_options=(kept,), **shared),
        "overlay": SpyOverlay(tenor=half, **shared),
        "book": OptionBook(portfolio=given, hedge_options=(rolled, kept), arrivals=2.0, **shared),
    }


def play_random(environment: Any, scenario: Scenario, seed: int = 1) -> tuple[list[Any], list[Any]]:
    """Rewards and observations of random targets, asked for in shares."""
    rng = np.random.default_rng(seed)
    seen, rewards = [environment.reset(scenario)], []
    size, shape = environment.task.size, (scenario.n_paths, len(scenario.instruments))
    done = False
    while not done:
        target = rng.normal(size=shape) * size
        observation, reward, done = environment.step(target)
        seen.append(observation)
        rewards.append(reward)
    return rewards, seen


@pytest.fixture
def full() -> Execution:
    return FULL


@pytest.fixture
def tasks() -> Any:
    return make_tasks


@pytest.fixture
def play() -> Any:
    return play_random
