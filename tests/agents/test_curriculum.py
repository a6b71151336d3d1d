"""Tasks that grow."""

from __future__ import annotations

import numpy as np
import pytest

from hedgerl.agents.curriculum import Curriculum
from hedgerl.envs import Execution, Listing, ShortOption, SpyOverlay
from hedgerl.execution import Commission, HalfSpread, Proportional, SquareRootImpact
from hedgerl.sim import GARCH, SABR, BlackScholes, Heston, RoughBergomi

MODELS = {
    "black_scholes": BlackScholes(volatility=0.2),
    "heston": Heston(kappa=3.0, theta=0.04, sigma=0.5, rho=-0.6, v0=0.05),
    "sabr": SABR(volatility=0.2, volvol=1.0, rho=-0.5),
    "garch": GARCH(omega=2e-6, alpha=0.02, gamma=0.1, beta=0.9, v0=0.03),
    "rbergomi": RoughBergomi(hurst=0.1, eta=1.5, rho=-0.8, forward_variance=0.05),
    "curve": RoughBergomi(hurst=0.1, eta=1.5, rho=-0.8, forward_variance=((0.0, 0.1), (0.04, 0.06))),
    "function": RoughBergomi(hurst=0.1, eta=1.5, rho=-0.8, forward_variance=lambda t: 0.04 + 0.1 * t),
}


def test_last_stage_is_the_task_itself():
    """Limit: the end of training is on the configured task, the same object. Catches a ramp that stops short."""
    task = ShortOption(market=MODELS["heston"])
    ramp = Curriculum(stages=3, until=0.5, costs=0.0, volatility=0.5, horizon=0.5)
    assert ramp.stage(99, 100) == ramp.stage(50, 100) == 3
    assert ramp.task(task, 3) is task
    assert Curriculum().task(task, 0) is task
    stages = [ramp.stage(i, 100) for i in range(100)]
    assert stages == sorted(stages)
    assert set(stages) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", MODELS)
def test_volatility_of_the_paths_is_scaled(name):
    """Statistical: realised volatility of the first stage's paths over that of the task's is the factor.

    Same seed and noise, 4,000 paths: the ratio of two standard errors below 2 %. Catches a variance scaled as a
    volatility.
    """
    task = ShortOption(market=MODELS[name], n_steps=10, backend="numpy")
    calm = Curriculum(stages=2, volatility=0.5).task(task, 0)
    realised = [
        float(np.diff(np.log(each.market.simulate(4000, 10, 10 / 252, seed=3, backend="numpy").spot), axis=0).std())
        for each in (task, calm)
    ]
    assert realised[1] / realised[0] == pytest.approx(0.5, rel=0.03)


def test_every_cost_is_scaled():
    """Identity: each line at half its rates, and what is no rate as it was. Catches a cost that is forgotten."""
    costs = (
        HalfSpread(bps=2.0, price=0.01, volatility_points=0.4, base_volatility=0.2),
        Commission(per_contract=0.65, per_share_fee=0.01),
        Proportional(rate=0.01),
        SquareRootImpact(coefficient=1.0, daily_volume=1e6),
    )
    task = ShortOption(market=MODELS["black_scholes"], execution=Execution(costs=costs))
    half = Curriculum(stages=1, costs=0.5).task(task, 0).execution.costs
    assert half == (
        HalfSpread(bps=1.0, price=0.005, volatility_points=0.2, base_volatility=0.2),
        Commission(per_contract=0.325, per_share_fee=0.005),
        Proportional(rate=0.005),
        SquareRootImpact(coefficient=0.5, daily_volume=1e6),
    )


def test_a_shorter_horizon_keeps_the_step():
    """Identity: fewer steps of the same length, in a task that can be simulated. Catches longer days."""
    task = SpyOverlay(market=MODELS["black_scholes"], n_steps=60, backend="numpy")
    short = Curriculum(stages=2, horizon=0.1).task(task, 0)
    assert (short.n_steps, short.maturity) == (6, pytest.approx(6 / 252))
    assert short.scenario(4, 1).n_steps == 6
    option = ShortOption(market=MODELS["black_scholes"], hedge_options=(Listing(tenor=1 / 6),), n_steps=21)
    assert Curriculum(stages=1, horizon=0.5).task(option, 0).n_steps == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": -1}, "curriculum.stages must be a whole number of at least 0, got -1"),
        ({"stages": 2, "until": 0.0}, "curriculum.until must lie in .0, 1., got 0.0"),
        ({"stages": 2, "costs": -1.0}, "curriculum.costs must not be negative, got -1.0"),
        ({"stages": 2, "horizon": 1.5}, "curriculum.horizon must lie in .0, 1., got 1.5"),
        ({"stages": 2, "volatility": 0.0}, "curriculum.volatility must be positive, got 0"),
        ({"costs": 0.5}, "curriculum.stages must be at least 1"),
    ],
)
def test_bad_numbers(arguments, message):
    """Catches a schedule that does nothing, or fails in the middle of the night."""
    with pytest.raises(ValueError, match=message):
        Curriculum(**arguments)


def test_volatility_that_is_drawn_cannot_grow():
    """Catches a ramp that domain randomisation silently overrides."""
    task = ShortOption(market=MODELS["black_scholes"], perturb={"volatility": (0.1, 0.3)})
    with pytest.raises(ValueError, match="curriculum.volatility cannot grow where task.perturb draws volatility"):
        Curriculum(stages=1, volatility=0.5).task(task, 0)
