"""Statistical tests of minimum variance: the slopes are those of a regression, and hedges rank by their risk."""

from __future__ import annotations

import numpy as np
import pytest

from hedgerl.baselines import Delta, DeltaGamma, MinimumVariance
from hedgerl.baselines.tuned_band import rollout_pnl
from hedgerl.envs import Listing, ShortOption
from hedgerl.envs.minimum_variance import minimum_variance_delta
from hedgerl.pricing import Option
from hedgerl.sim import GARCH, SABR, BlackScholes, Heston, RoughBergomi

MODELS = {
    "heston": Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04),
    "sabr": SABR(volatility=0.2, volvol=0.8, rho=-0.6),
    "garch": GARCH(omega=2e-6, alpha=0.01, gamma=0.15, beta=0.89),
    "rough bergomi": RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2),
}


@pytest.mark.parametrize(
    "name",
    ["heston", "garch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sabr", "rough bergomi"))],
)
def test_what_is_left_is_uncorrelated_with_the_spot(name):
    """Cov(dV - h dS, dS) is near 0 over a day in 20,000 paths at each of three steps: within 4 s.e. and a tenth of what
    the model's own delta leaves, which is tens of s.e. Catches a slope off by a factor, the vega of another volatility,
    or a wrong sign."""
    task = ShortOption(market=MODELS[name])
    scenario = task.scenario(20_000, seed=3)
    owed = scenario.liabilities
    least = minimum_variance_delta(scenario, owed)
    for step in (0, 5, 12):
        spot = scenario.spot[step + 1] - scenario.spot[step]
        change = owed.carried[step + 1, :, 0] - owed.price[step, :, 0]
        z = []
        for hedge in (least, owed.delta):
            product = (change - hedge[step, :, 0] * spot) * spot
            # normalised by path: the state of the variance would give a few paths all the weight
            product = product / np.maximum(scenario.volatility[step], 0.05) ** 2
            z.append(product.mean() / (product.std() / product.size**0.5))
        # the slope is of first order, and prices bend in the variance, which one shock of GARCH moves by much
        left = 0.25 if name == "garch" else 0.1
        assert abs(z[0]) < 4.0 + left * abs(z[1]), (name, step, z)
        assert z[1] < -10.0, (name, step, z)


def test_slopes_by_hand():
    """Golden by hand: Heston -.7 .5 / (2 .2 100), SABR -.6 .8 / 100, GARCH -.15 sqrt(252 / 2 pi) / 100; all per unit of
    spot. Catches an annualisation that only a ratio would hide."""
    by_hand = {
        "heston": -0.7 * 0.5 / (2 * 0.2 * 100),
        "sabr": -0.6 * 0.8 / 100,
        "garch": -0.15 * (252 / (2 * np.pi)) ** 0.5 / 100,
    }
    for name, wanted in by_hand.items():
        model = MODELS[name]
        paths = model.simulate(4, 21, 21 / 252, seed=1)
        np.testing.assert_allclose(model.market(paths).volatility_slope(21 / 252, 0), wanted, rtol=1e-5)
    model = BlackScholes(volatility=0.2)
    assert (model.market(model.simulate(4, 5, 0.1, seed=1)).volatility_slope(0.1, 2) == 0.0).all()


def test_rough_bergomi_slope_by_the_continuous_kernel():
    """Limit: flat curve, fine steps: rho eta sqrt(2H) tau^(H - 1/2) / (2 (H + 1/2) S). Catches a kernel without its
    sqrt(2H), or an average over the wrong time. Steps of T / 500 lose the kernel's first cell, some per cent."""
    model = RoughBergomi(hurst=0.3, eta=1.0, rho=-0.8, forward_variance=0.04)
    paths = model.simulate(2, 500, 0.25, seed=1)
    wanted = -0.8 * 1.0 * 0.6**0.5 * 0.25 ** (0.3 - 0.5) / (2 * 0.8 * 100.0)
    np.testing.assert_allclose(model.market(paths).volatility_slope(0.25, 0), wanted, rtol=0.02)
    last = model.market(paths).volatility_slope(0.25, 499)
    np.testing.assert_array_equal(last, 0.0)  # the last step's variance is known


@pytest.mark.parametrize(
    ("name", "ranges"),
    [
        ("heston", {"sigma": (0.3, 0.6), "rho": (-0.9, -0.5)}),
        ("sabr", {"volvol": (0.4, 1.0), "rho": (-0.8, -0.2)}),
        ("garch", {"gamma": (0.05, 0.15)}),
        (
            "rough bergomi",
            {"hurst": (0.05, 0.2), "eta": (1.0, 2.0), "rho": (-0.95, -0.7), "forward_variance": (0.03, 0.06)},
        ),
    ],
)
def test_slopes_follow_perturbed_parameters(name, ranges):
    """Twin: each path's slope is that of a model with its own parameters. Catches shared parameters taken for all."""
    model = MODELS[name]
    paths = model.simulate(3, 6, 21 / 252 if name != "garch" else 6 / 252, seed=2, perturb=ranges)
    expiry = float(paths.times[-1])
    together = model.market(paths).volatility_slope(expiry, 0)
    for path in range(3):
        own = model
        for parameter, draws in paths.parameters.items():
            own = own.with_parameter(parameter, float(draws[path]))
        alone = own.market(own.simulate(1, 6, expiry, seed=1)).volatility_slope(expiry, 0)
        np.testing.assert_allclose(together[path], alone[0], rtol=2e-4)


def test_slope_of_the_market_follows_bartlett():
    """Golden: the SABR minimum-variance delta is delta + vega rho volvol / S (Bartlett 2006), computed here from bumps
    of the mark. Catches vega and slope of two volatilities."""
    base = {"volatility": 0.2, "volvol": 0.8, "rho": -0.6}
    bump = 1e-3
    up, down = (SABR(**(base | {"volatility": 0.2 + sign * bump})) for sign in (1, -1))
    option = Option(strike=102.0, expiry_years=21 / 252)
    prices = [
        float(model.market(model.simulate(1, 21, 21 / 252, seed=1, dtype="float64")).mark(option, 0).price[0])
        for model in (up, down)
    ]
    model = SABR(**base)
    market = model.market(model.simulate(1, 21, 21 / 252, seed=1, dtype="float64"))
    mark = market.mark(option, 0)
    vega = (prices[0] - prices[1]) / (2 * bump)
    bartlett = float(mark.delta[0]) + vega * -0.6 * 0.8 / 100.0
    least = float(mark.delta[0] + mark.vega[0] * market.volatility_slope(21 / 252, 0)[0])
    assert least == pytest.approx(bartlett, abs=2e-3)


@pytest.mark.slow
def test_order_of_risk_under_rough_bergomi(kit):
    """Minimum variance below implied below model delta, delta-gamma below delta, each by more than 4 joint s.e. of the
    standard deviation. Catches a minimum-variance hedge that corrects in the wrong direction."""
    task = ShortOption(market=MODELS["rough bergomi"], hedge_options=(Listing(tenor=42 / 252),))
    scenario = task.scenario(10_000, seed=3)
    least, implied, model, gamma = (
        kit.deviation(rollout_pnl(hedge, task, scenario))
        for hedge in (Delta("minimum_variance"), Delta("implied"), Delta(), DeltaGamma())
    )
    for lower, higher in ((least, implied), (implied, model), (gamma, model)):
        assert higher[0] - lower[0] > 4.0 * np.hypot(lower[1], higher[1]) * 0.5  # same paths: far from independent


def test_regression_lowers_the_risk_under_heston(kit):
    """Over half a year a regression that knows no model comes near the model's minimum variance, and below the implied
    delta. Catches a slope that enters with the wrong sign or the vega of a contract rather than of the book."""
    task = ShortOption(
        market=MODELS["heston"],
        n_steps=126,
        maturity=0.5,
        hedge_options=(Listing(tenor=0.5, moneyness=0.97, is_call=False),),
    )
    scenario = task.scenario(2_000, seed=3)
    implied, seen, known = (
        rollout_pnl(hedge, task, scenario).std()
        for hedge in (Delta("implied"), MinimumVariance(), Delta("minimum_variance"))
    )
    assert known < seen < 0.97 * implied
