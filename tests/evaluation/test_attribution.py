"""Taylor attribution: against full repricing, third order for small moves, exact sums, what carries where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hedgerl.baselines import Delta, DeltaGamma
from hedgerl.envs import Execution, Listing, OptionBook, Position, ShortOption, SpyOverlay, Task
from hedgerl.envs.scenario import scenario
from hedgerl.envs.transition import Rollout
from hedgerl.evaluation import POSITION_TERMS, TERMS, attribute, roll_out
from hedgerl.evaluation.attribution import contract_terms
from hedgerl.execution import Commission, Funding, HalfSpread, SquareRootImpact
from hedgerl.pricing import Greeks, Option, black_scholes
from hedgerl.sim import Heston

RATE, DIVIDEND = 0.03, 0.01
COSTS = (
    HalfSpread(bps=5.0, applies_to="underlying"),
    HalfSpread(volatility_points=0.3, applies_to="options"),
    Commission(per_contract=0.65, per_share_fee=0.005),
    SquareRootImpact(),
)
EXECUTION = Execution(costs=COSTS, funding=Funding(margin_spread=0.02, borrow_cost=0.01))
HESTON = Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04, rate=RATE, dividend=DIVIDEND, drift=0.05)


@dataclass(frozen=True)
class Moves:
    """A market whose options are Black-Scholes at a volatility of their own that moves with the spot."""

    times: np.ndarray
    spot: np.ndarray
    implied: np.ndarray
    dividend: float = DIVIDEND

    @property
    def variance(self) -> np.ndarray:
        return 0.09 + 0.0 * self.spot  # of the spot: another than any option implies

    @property
    def n_paths(self) -> int:
        return self.spot.shape[1]

    def rate_at(self, step: int) -> float:
        return RATE

    def mark(self, option: Option, step: int) -> Greeks:
        left = float(option.expiry_years) - float(self.times[step])
        return black_scholes(
            self.spot[step],
            option.strike,
            left,
            self.implied[step],
            rate=RATE,
            dividend=DIVIDEND,
            is_call=option.is_call,
        )


def moved(h: float, listings: tuple[Listing, ...]) -> Any:
    """One step in which spot and volatility move by multiples of h and time by h^2, from the same start."""
    ds = 100.0 * h * np.array([[1.0, -1.0, 0.7, -0.3]])
    dv = 0.2 * h * np.array([[-0.5, 1.0, 0.8, -1.0]])
    spot = np.concatenate([np.full_like(ds, 100.0), 100.0 + ds])
    market = Moves(np.array([0.0, h * h]), spot, np.concatenate([np.full_like(dv, 0.2), 0.2 + dv]))
    quantities = [-1.0 - i for i in range(len(listings))]
    return scenario(market, hedges=(), liabilities=listings, quantities=quantities)


@pytest.mark.parametrize("moneyness", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("is_call", [True, False])
def test_limit_the_residual_is_of_third_order(moneyness: float, is_call: bool) -> None:
    """Halving a move divides what is left of the repricing by 8; a missing second-order term would leave 4."""
    listing = Listing(moneyness=moneyness, tenor=0.25, is_call=is_call)
    residuals = []
    for h in (0.02, 0.01, 0.005):
        of = moved(h, (listing,))
        residuals.append(contract_terms(of, of.liabilities, of.liability_volatility)["residual"][0, :, 0])
    for coarse, fine in zip(residuals, residuals[1:], strict=False):
        assert (abs(fine) < abs(coarse) / 6.0).all()
    assert abs(residuals[-1]).max() < 2e-4


def test_terms_are_the_greeks_times_the_moves() -> None:
    """By hand from `black_scholes`, with a contract that outlives the episode: its volatility at the end is implied
    from the mark at which it is sold."""
    of = moved(0.01, (Listing(tenor=0.25), Listing(tenor=0.5, moneyness=0.95, is_call=False)))
    got = contract_terms(of, of.liabilities, of.liability_volatility)
    ds = of.spot[1] - of.spot[0]
    dv = 0.2 * 0.01 * np.array([-0.5, 1.0, 0.8, -1.0])
    for column, (strike, left, is_call) in enumerate(((100.0, 0.25, True), (95.0, 0.5, False))):
        years = round(left / float(of.times[1])) * float(of.times[1])  # expiries lie on the clock
        g = black_scholes(100.0, strike, years, 0.2, rate=RATE, dividend=DIVIDEND, is_call=is_call)
        expected = {
            "delta": g.delta * ds,
            "gamma": 0.5 * g.gamma * ds**2,
            "vega": g.vega * dv,
            "theta": g.theta * 1e-4,
            "vanna": g.vanna * ds * dv,
            "volga": 0.5 * g.volga * dv**2,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(got[name][0, :, column], value + 0.0 * ds, rtol=1e-7, atol=1e-10)


def tasks() -> list[Task]:
    month = Listing(roll_every=10 / 252)
    kept = Listing(tenor=15 / 252, roll_every=5 / 252, keep=True)
    return [
        ShortOption(market=HESTON, execution=EXECUTION),
        ShortOption(market=HESTON, execution=EXECUTION, expiry=42 / 252, hedge_options=(month,)),
        ShortOption(market=HESTON, execution=EXECUTION, expiry=42 / 252, hedge_options=(kept,)),
        SpyOverlay(market=HESTON, execution=EXECUTION, n_steps=42, maturity=42 / 252),
        OptionBook(market=HESTON, execution=EXECUTION, portfolio=(Position(),), n_steps=12, maturity=12 / 252),
    ]


@pytest.mark.parametrize("task", tasks(), ids=["short", "rolled", "kept", "overlay", "book"])
def test_identity_terms_sum_to_the_pnl(task: Task) -> None:
    """Whatever is held, with every cost and funding line: to 1e-9 of the book's notional."""
    of = task.scenario(64, seed=3)
    rng = np.random.default_rng(0)
    rollout = Rollout(of, task.execution, record=True)
    while not rollout.done:
        rollout.act(0.5 * task.size * rng.normal(size=of.mid[0].shape))
    record = rollout.result()
    terms = attribute(record)
    assert tuple(terms["net"]) == TERMS
    np.testing.assert_allclose(sum(terms["net"].values()), record.pnl, rtol=0, atol=1e-9 * task.size * 100.0)
    for name in POSITION_TERMS:
        np.testing.assert_allclose(
            terms["liability"][name] + terms["hedge"][name], terms["net"][name], rtol=0, atol=1e-9
        )
    np.testing.assert_array_equal(terms["net"]["cost"], -record.total_cost)
    funding = sum(
        record.flows[line].sum(axis=0) for line in ("interest", "margin", "dividends", "borrow") if line in record.flows
    )
    np.testing.assert_allclose(terms["net"]["carry"], funding, rtol=0, atol=1e-9)


def test_the_underlying_is_all_delta_and_delta_hedging_removes_it() -> None:
    task = ShortOption(market=HESTON, execution=Execution(costs=COSTS[:1]))
    record = roll_out(Delta(which="implied"), task, task.scenario(200, seed=1))
    terms = attribute(record)
    for name in POSITION_TERMS[1:]:
        np.testing.assert_array_equal(terms["hedge"][name], 0.0)
    np.testing.assert_allclose(terms["net"]["delta"], 0.0, atol=1e-9)
    assert terms["liability"]["delta"].std() > 1.0


def test_delta_gamma_hedging_removes_most_of_the_gamma() -> None:
    option = Listing(tenor=63 / 252)
    task = ShortOption(market=HESTON, expiry=42 / 252, hedge_options=(option,), n_steps=10, maturity=10 / 252)
    of = task.scenario(200, seed=1)
    delta, both = (attribute(roll_out(policy, task, of))["net"]["gamma"] for policy in (Delta(), DeltaGamma()))
    assert abs(both).mean() < 0.1 * abs(delta).mean()


def test_volatility_is_held_fixed_into_the_expiry() -> None:
    task = ShortOption(market=HESTON, n_steps=3, maturity=3 / 252)
    of = task.scenario(50, seed=1)
    terms = contract_terms(of, of.liabilities, of.liability_volatility)
    assert (terms["vega"][2] == 0.0).all()
    assert (abs(terms["vega"][1]) > 0.0).any()
