"""Prices by conditional Monte Carlo, and their derivatives."""

from __future__ import annotations

import numpy as np
import pytest

from hedgerl.calibration import RoughBergomiPricer, SabrPricer
from hedgerl.calibration.conditional import time_grid
from hedgerl.pricing import black_scholes, implied_volatility
from hedgerl.sim import SABR, RoughBergomi

SHAPE = [0.1, 1.8, -0.8]


def test_grid():
    """Identity: whole steps and expiries, each once, expiries exactly; none nearer than a thousandth of a step."""
    years = np.array([5 / 365, 10 / 252, 2.0])
    times, places = time_grid(years, 252)
    assert (times[places] == years).all()
    assert times[0] == 0.0
    assert np.diff(times).min() > 1e-3 / 252
    assert np.diff(times).max() < 1.001 / 252


def test_no_volatility_of_volatility_is_black_scholes(blank):
    """Limit: eta -> 0 gives the root of the mean forward variance at every strike, for both models, within 4 errors."""
    slices = blank([14, 91])
    levels = np.array([0.04, 0.09])
    found = RoughBergomiPricer(slices, n_paths=4096).prices(np.append([0.1, 1e-6, -0.7], levels))
    years = np.array([each.years for each in slices])
    mean = np.cumsum(levels * np.diff(years, prepend=0.0)) / years
    assert (np.abs(found.volatility - np.repeat(np.sqrt(mean), 15)) < 4.0 * found.noise + 1e-5).all()
    flat = SabrPricer(slices, n_paths=4096).prices(np.array([0.2, 1e-6, -0.7]))
    assert (np.abs(flat.volatility - 0.2) < 4.0 * flat.noise + 1e-5).all()
    assert found.noise.mean() < 1e-3


@pytest.mark.parametrize("kind", ["rbergomi", "sabr"])
def test_twin_of_the_simulator(blank, kind):
    """Twin: out-of-the-money options over simulated paths of `hedgerl.sim` (200,000, on the same steps) cost what the
    pricer says, within 4 joint standard errors and 2e-5 of the forward (its 1e-6-year steps of the curve).

    Catches a kernel, a compensator or a curve that calibration means otherwise than the simulator.
    """
    slices = blank([28, 84], strikes=7)
    if kind == "rbergomi":
        point = np.array([*SHAPE, 0.03, 0.05])
        first = slices[0].years
        curve = ((0.0, first - 1e-6, first, 1.0), (0.03, 0.03, 0.05, 0.05))
        model = RoughBergomi(hurst=0.1, eta=1.8, rho=-0.8, forward_variance=curve, spot=1.0)
        pricer = RoughBergomiPricer(slices, n_paths=65_536, seed=5)
    else:
        point = np.array([0.2, 1.5, -0.7])
        model = SABR(volatility=0.2, volvol=1.5, rho=-0.7, spot=1.0)
        pricer = SabrPricer(slices, n_paths=65_536, seed=5)
    found = pricer.prices(point)
    times, places = time_grid(np.array([each.years for each in slices]), 252)
    spot = model.simulate(n_paths=200_000, times=times, seed=3, backend="numpy").spot
    for number, (each, place) in enumerate(zip(slices, places, strict=True)):
        end, strike = spot[place].astype(float), np.exp(each.k)
        sign = np.where(each.k >= 0, 1.0, -1.0)
        payoff = np.maximum(sign[:, None] * (end - strike[:, None]), 0.0)
        rows = slice(7 * number, 7 * number + 7)
        vega = black_scholes(1.0, strike, each.years, found.volatility[rows]).vega
        error = np.hypot(payoff.std(axis=1) / end.size**0.5, found.noise[rows] * vega)
        assert (np.abs(payoff.mean(axis=1) - found.price[rows]) < 4 * error + 2e-5).all()


def test_derivatives_of_rough_bergomi(blank):
    """Identity: derivatives are difference quotients on the same noise, up to what the controls' own weights move
    (3 % of the largest). Catches a parameter whose derivative points elsewhere."""
    pricer = RoughBergomiPricer(blank([14, 35, 120], strikes=9), n_paths=32_768, seed=2)
    point = np.array([0.12, 1.5, -0.7, 0.03, 0.04, 0.05])
    slopes = pricer(point)[1]
    for place in range(point.size):
        step = np.zeros(point.size)
        step[place] = 1e-3 * abs(point[place])
        quotient = (pricer(point + step)[0] - pricer(point - step)[0]) / (2.0 * step[place])
        assert np.abs(slopes[:, place] - quotient).max() < 0.03 * np.abs(quotient).max(), place


def test_derivatives_of_sabr(blank):
    """Identity: as for rough Bergomi; the mean of the variance moves with volvol here."""
    pricer = SabrPricer(blank([14, 60], strikes=9), n_paths=32_768, seed=2)
    point = np.array([0.2, 1.2, -0.6])
    slopes = pricer(point)[1]
    for place in range(3):
        step = np.zeros(3)
        step[place] = 1e-3 * abs(point[place])
        quotient = (pricer(point + step)[0] - pricer(point - step)[0]) / (2.0 * step[place])
        assert np.abs(slopes[:, place] - quotient).max() < 0.03 * np.abs(quotient).max(), place


def test_errors_that_are_told(blank):
    """Statistical: over 12 seeds volatilities scatter as much as their errors say: ratio of means within .6 and 1.6.

    Catches an error that forgets the pairs or the controls.
    """
    slices = blank([28], strikes=7)
    point = np.array([*SHAPE, 0.04])
    runs = [RoughBergomiPricer(slices, n_paths=4096, seed=seed).prices(point) for seed in range(12)]
    scatter = np.std([run.volatility for run in runs], axis=0, ddof=1).mean()
    assert 0.6 < scatter / np.mean([run.noise for run in runs]) < 1.6


def test_sabr_is_near_its_expansion(blank):
    """Golden: Hagan's formula where volvol^2 T is small (.04), within .5 % of the volatility."""
    pricer = SabrPricer(blank([36.5], strikes=9), n_paths=65_536, steps_per_year=1000)
    point = np.array([0.2, 0.6, -0.6])
    np.testing.assert_allclose(pricer(point)[0], pricer.expansion(point), rtol=5e-3)


def test_short_and_long_expiries(blank):
    """Behaviour: five days and two years in one chain give finite volatilities, errors and derivatives."""
    pricer = RoughBergomiPricer(blank([5, 730]), n_paths=4096)
    found = pricer.prices(np.append(SHAPE, [0.04, 0.04]))
    for each in found:
        assert np.isfinite(each).all()
    assert implied_volatility(found.price[-1], 1.0, np.exp(pricer.slices[-1].k[-1]), 2.0) > 0.05
