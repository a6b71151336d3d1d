"""Golden, identity and limit tests of the dynamic programme."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hedgerl.baselines import Delta, DynamicProgramming, TunedBand, baseline
from hedgerl.baselines.tuned_band import rollout_pnl
from hedgerl.baselines.whalley_wilmott import half_width
from hedgerl.envs import Execution, Limits, Listing, ShortOption, SpyOverlay
from hedgerl.execution import Funding, HalfSpread, Proportional, SquareRootImpact
from hedgerl.pricing import black_scholes
from hedgerl.risk import entropic_risk
from hedgerl.sim import BlackScholes, Heston

MARKET = BlackScholes(volatility=0.2, drift=0.05)
COST = Execution(costs=(Proportional(rate=0.01, applies_to="underlying"),))


def cao(n_steps: int) -> ShortOption:
    """One-month call of Cao, Chen, Hull & Poulos (2021)."""
    return ShortOption(market=MARKET, n_steps=n_steps, maturity=20 / 250, execution=COST)


def risk(pnl: np.ndarray, aversion: float) -> tuple[float, float]:
    """Entropic risk of a sample and its standard error."""
    each = np.exp(-aversion * (pnl - pnl.min()))
    return float(entropic_risk(pnl, aversion)), float(each.std() / each.mean() / aversion / pnl.size**0.5)


@pytest.mark.parametrize(("aversion", "floor"), [(0.2, 3.486), (0.45, 3.756), (1.0, 4.030), (2.2, 4.384)])
def test_floors(aversion, floor):
    """Golden: independent dynamic programmes, +-.2 %, premium not received. Catches a payoff, unwinding or first
    purchase that is not charged, and a drift that is left out."""
    hedge = DynamicProgramming.solve(cao(20), aversion, positions=201, nodes=4)
    premium = float(black_scholes(100.0, 100.0, 0.08, 0.2).price)
    assert hedge.value + premium == pytest.approx(floor, rel=0.002)


@pytest.mark.parametrize("aversion", [0.45, 2.2])
def test_its_own_hedge_earns_its_value(aversion):
    """Statistical, one seed, 3 standard errors: value on the grid against 40,000 simulated months in the environment.
    Catches bands that are not those of the value, and books other than the environment's."""
    task = cao(20)
    hedge = DynamicProgramming.solve(task, aversion, positions=201, nodes=4)
    measured, error = risk(rollout_pnl(hedge, task, task.scenario(40_000, seed=3)), aversion)
    assert abs(measured - hedge.value) < 3 * error


def test_every_account_is_in_the_value():
    """The same with a put on 50 shares, a rate, a dividend, cash, a spread, a cost per share and wider bounds, of an
    option that outlives the episode. Catches money of one day added to another's, and a size that is taken for 1."""
    task = ShortOption(
        market=BlackScholes(volatility=0.3, drift=0.1, rate=0.05, dividend=0.03),
        n_steps=6,
        maturity=0.25,
        expiry=0.4,
        is_call=False,
        moneyness=1.05,
        quantity=50.0,
        execution=Execution(
            costs=(
                HalfSpread(bps=30.0, price=0.05, applies_to="underlying"),
                Proportional(rate=0.5, applies_to="options"),
            ),
            initial_cash=1000.0,
        ),
    )
    hedge = DynamicProgramming.solve(task, 0.02, positions=201, nodes=4, bounds=(-1.5, 0.5))
    pnl = rollout_pnl(hedge, task, task.scenario(40_000, seed=4))
    measured, error = risk(pnl, 0.02)
    assert error < 0.01 * pnl.std() * 50
    assert abs(measured - hedge.value) < 3 * error
    fitted = TunedBand.fit(task, objective="entropic", parameter=0.02, n_paths=2000, evaluations=30, seed=5)
    assert hedge.value < risk(rollout_pnl(fitted, task, task.scenario(40_000, seed=4)), 0.02)[0]


def test_without_costs_it_is_the_delta():
    """Limit: small aversion to losses of small steps, no drift. Catches a position that is one step late."""
    task = ShortOption(market=BlackScholes(volatility=0.2), n_steps=50, execution=Execution(), maturity=0.25)
    hedge = DynamicProgramming.solve(task, 0.5, positions=201, nodes=3)
    solution = hedge.solution
    assert solution is not None
    spot = np.linspace(92.0, 108.0, 9)
    delta = black_scholes(spot, 100.0, 0.25 * 40 / 50, 0.2).delta
    seen = {"spot": spot, "holdings": np.zeros((9, 1)), "step": np.full(9, 10.0)}
    np.testing.assert_allclose(hedge.target(seen)[:, 0], delta, rtol=0, atol=0.01)


def test_small_costs_have_the_band_of_whalley_and_wilmott():
    """Limit: half width (3/2 k S Gamma^2 / a)^(1/3) at small k, in continuous time. In discrete time a band is narrower
    by .5826 deviations of a step's change of delta, the shift of a discretely watched barrier (Broadie, Glasserman &
    Kou 1997). Catches a band of one side's cost, or of both."""
    cost = Execution(costs=(Proportional(rate=0.0005, applies_to="underlying"),))
    task = ShortOption(market=BlackScholes(volatility=0.2), n_steps=120, maturity=0.25, execution=cost)
    hedge = DynamicProgramming.solve(task, 1.0, positions=201, nodes=2)
    assert hedge.solution is not None
    step, middle = 40, hedge.solution.spot.shape[1] // 2
    spot = hedge.solution.spot[step, middle]
    gamma = float(black_scholes(spot, 100.0, 0.25 * 80 / 120, 0.2).gamma)
    half = 0.5 * (hedge.solution.upper[step, middle] - hedge.solution.lower[step, middle])
    step_delta = gamma * spot * 0.2 * (0.25 / 120) ** 0.5
    assert half == pytest.approx(float(half_width(0.0005 * spot, gamma, 1.0)) - 0.5826 * step_delta, rel=0.1)


def test_bands_are_kept():
    """Identity: no trade inside, to the edge outside. Catches edges that are swapped."""
    hedge = DynamicProgramming.solve(cao(4), 1.0, positions=101, nodes=3)
    seen = {"spot": np.full(3, 100.0), "holdings": np.array([[0.0], [0.6], [1.0]]), "step": np.full(3, 1.0)}
    low, middle, high = hedge.target(seen)[:, 0]
    assert 0.3 < low < 0.6 < high < 0.95
    assert middle == 0.6


def test_torch_gives_what_numpy_gives():
    """Twin."""
    torch = pytest.importorskip("torch")
    hedge = DynamicProgramming.solve(cao(4), 1.0, positions=101, nodes=3)
    spot = np.linspace(60.0, 160.0, 40)
    seen = {"spot": spot, "holdings": np.full((40, 1), 0.3), "step": np.full(40, 2.0)}
    twin = hedge.target({name: torch.as_tensor(value) for name, value in seen.items()})
    np.testing.assert_allclose(twin.numpy(), hedge.target(seen), rtol=1e-12)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (SpyOverlay(market=MARKET), "must be a ShortOption, got SpyOverlay"),
        (
            ShortOption(market=Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04)),
            "must be BlackScholes, got Heston",
        ),
        (dataclasses.replace(cao(4), perturb={"volatility": (0.1, 0.3)}), "perturb must be empty"),
        (dataclasses.replace(cao(4), hedge_options=(Listing(),)), "hedge_options must be empty"),
        (dataclasses.replace(cao(4), execution=Execution(costs=(SquareRootImpact(),))), "got SquareRootImpact"),
        (dataclasses.replace(cao(4), execution=Execution(limits=Limits(trade=0.1))), "limits must be none"),
        (dataclasses.replace(cao(4), execution=Execution(funding=Funding(borrow_cost=0.01))), "no borrow_cost"),
    ],
)
def test_what_it_cannot_solve_is_refused(task, message):
    """Catches an optimum of another problem."""
    with pytest.raises(ValueError, match=message):
        DynamicProgramming.solve(task)


def test_bad_settings_are_refused():
    """Catches a grid without the start in it, and a policy that hedges what it was not solved for."""
    for settings, message in (
        ({"aversion": 0.0}, "aversion must"),
        ({"bounds": (0.2, 1.0)}, "bounds must"),
        ({"positions": 2}, "positions must"),
        ({"nodes": 1}, "nodes must"),
    ):
        with pytest.raises(ValueError, match=message):
            DynamicProgramming.solve(cao(4), **settings)
    seen = {"spot": np.full(2, 100.0), "holdings": np.zeros((2, 1)), "step": np.zeros(2)}
    with pytest.raises(ValueError, match="must be solved"):
        baseline("dynamic_programming").predict(seen)
    solved = DynamicProgramming.solve(cao(4), positions=51, nodes=2)
    with pytest.raises(ValueError, match="alone, got 2"):
        solved.predict({**seen, "holdings": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="solved for 4 steps"):
        solved.predict({**seen, "step": np.full(2, 4.0)})


def test_it_is_better_than_the_delta_hedge():
    """Behaviour. Catches an optimum that is none."""
    task = cao(4)
    scenario = task.scenario(5000, seed=1)
    hedge = DynamicProgramming.solve(task, 1.0, positions=101, nodes=3)
    own, other = (risk(rollout_pnl(policy, task, scenario), 1.0)[0] for policy in (hedge, Delta()))
    assert own < other - 0.05
