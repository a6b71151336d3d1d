"""Lognormal SABR against its own definition, Black-Scholes and Hagan's formula."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import hedgerl.pricing
from hedgerl.sim import SABR


@pytest.mark.parametrize("rho", [-1.0, -0.6, 0.0, 0.5])
def test_paths_replayed_step_by_step(rho: float) -> None:
    """Twin: a plain loop. Catches alpha taken at the end of the step and a correlation on the wrong factor."""
    model = SABR(volatility=0.3, volvol=1.4, rho=rho, spot=20.0, rate=0.05, dividend=0.01)
    times = np.array([0.0, 0.01, 0.02, 0.1, 0.4, 0.5])
    noise = np.random.Generator(np.random.PCG64(2)).standard_normal((2, 5, 25))
    paths = model.simulate(25, times=times, noise=noise, dtype="float64", backend="numpy")
    log_spot, alpha = np.full(25, np.log(20.0)), np.full(25, 0.3)
    for i, dt in enumerate(np.diff(times)):
        np.testing.assert_allclose(paths.spot[i], np.exp(log_spot), rtol=1e-11, atol=0)
        np.testing.assert_allclose(paths.variance[i], alpha**2, rtol=1e-11, atol=0)
        volatility_move, own = noise[:, i] * np.sqrt(dt)
        log_spot = log_spot + (0.04 - alpha**2 / 2) * dt + alpha * (rho * volatility_move + np.sqrt(1 - rho**2) * own)
        alpha = alpha * np.exp(1.4 * volatility_move - 1.4**2 / 2 * dt)
    np.testing.assert_allclose(paths.spot[-1], np.exp(log_spot), rtol=1e-11, atol=0)
    np.testing.assert_allclose(paths.variance[-1], alpha**2, rtol=1e-11, atol=0)


@pytest.mark.parametrize(("n_steps", "maturity"), [(20, 20 / 252), (50, 1.0)])
def test_moments(tools: SimpleNamespace, n_steps: int, maturity: float) -> None:
    """Identity at each step: E[alpha_t] = alpha_0, E[alpha_t^2] = alpha_0^2 exp(volvol^2 t), E[S_t] = forward.

    Catches alpha driven without its Ito term, or the variance returned as alpha.
    """
    model = SABR(volatility=0.25, volvol=0.7, rho=-0.5, rate=0.05, dividend=0.02)
    paths = model.simulate(50_000, n_steps, maturity, 31, dtype="float64", backend="numpy", threads=1)
    times = paths.times[1:]
    tools.assert_mean(np.sqrt(paths.variance[1:]), 0.25)
    tools.assert_mean(paths.variance[1:], 0.0625 * np.exp(0.49 * times))
    tools.assert_mean(paths.spot[1:], 100 * np.exp(0.03 * times))
    log_alpha = 0.5 * np.log(paths.variance[1:])
    tools.assert_mean((log_alpha - np.log(0.25) + 0.245 * times[:, None]) ** 2, 0.49 * times)


def test_no_vol_of_vol_is_black_scholes() -> None:
    """Limit: volvol = 0 keeps alpha and gives a log-normal spot, path by path; a small one is near it."""
    noise = np.random.Generator(np.random.PCG64(3)).standard_normal((2, 30, 40))
    times = np.linspace(0, 0.5, 31)
    shocks = (-0.6 * noise[0] + 0.8 * noise[1]) * np.sqrt(times[1])
    spot = 100 * np.exp(-0.02 * times[1:, None] + 0.2 * np.cumsum(shocks, axis=0))
    for volvol, tolerance in ((0.0, 1e-12), (1e-3, 3e-3)):
        model = SABR(volatility=0.2, volvol=volvol, rho=-0.6)
        paths = model.simulate(40, 30, 0.5, noise=noise, dtype="float64", backend="numpy")
        np.testing.assert_allclose(paths.variance, 0.04, rtol=max(10 * tolerance, 1e-12), atol=0)
        np.testing.assert_allclose(paths.spot[1:], spot, rtol=tolerance, atol=0)


def smile_of_paths(
    tools: SimpleNamespace, model: SABR, years: float, n_steps: int, strikes: np.ndarray, n_paths: int
) -> tuple[np.ndarray, np.ndarray]:
    """Implied volatilities at maturity and standard errors, conditioning on alpha: log-Euler from alpha at step starts.

    The increments of W are read off alpha itself: log alpha' - log alpha = volvol dW - volvol^2 / 2 dt.
    """
    paths = model.simulate(n_paths, n_steps, years, 32, backend="numpy", threads=1, dtype="float64")
    dt = years / n_steps
    alpha = np.sqrt(paths.variance)
    driver = (np.diff(np.log(alpha), axis=0) + 0.5 * model.volvol**2 * dt) / model.volvol
    integral = (paths.variance[:-1] * dt).sum(axis=0)
    forward = np.exp(model.rho * (alpha[:-1] * driver).sum(axis=0) - 0.5 * model.rho**2 * integral)
    mean = model.volatility**2 * dt * np.exp(model.volvol**2 * paths.times[:-1]).sum()
    return tools.mixed_smile(
        forward,
        (1 - model.rho**2) * integral,
        np.stack([forward - 1, integral - mean, driver.sum(axis=0), driver.sum(axis=0) ** 2 - years]),
        forward=1.0,
        strikes=strikes,
        years=years,
    )


@pytest.mark.parametrize(("years", "volvol"), [(1 / 12, 0.8), (0.25, 0.4)])
def test_smile_against_hagan(tools: SimpleNamespace, years: float, volvol: float) -> None:
    """Golden by formula: Hagan et al. (2002) for beta = 1 within 4 s.e. plus its error at short expiry.

    The expansion is of first order in expiry: the next term is of relative order (volvol^2 years)^2 / 100, here under
    1e-4 of volatility near the money; it and the steps' bias are given 5 basis points. Strikes to 1.5 standard
    deviations.
    """
    model = SABR(volatility=0.2, volvol=volvol, rho=-0.5)
    strikes = np.exp(0.2 * np.sqrt(years) * np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]))
    ours, errors = smile_of_paths(tools, model, years, 100, strikes, 40_000)
    hagan = hedgerl.pricing.sabr_volatility(1.0, strikes, years, 0.2, rho=-0.5, volvol=volvol)
    assert errors.max() < 5e-4
    tools.assert_z(np.maximum(np.abs(ours - hagan) - 5e-4, 0.0) / errors)
    assert ours[0] - ours[-1] > 0.01  # there is a smile to agree on


def test_conditional_price_is_the_plain_average(tools: SimpleNamespace) -> None:
    """Twin: payoffs averaged over spots agree with Black's formula given alpha. Catches a spot off its own variance."""
    model = SABR(volatility=0.2, volvol=1.2, rho=-0.7, spot=1.0)
    paths = model.simulate(40_000, 30, 0.25, 33, backend="numpy", threads=1, dtype="float64")
    dt = 0.25 / 30
    alpha = np.sqrt(paths.variance)
    driver = (np.diff(np.log(alpha), axis=0) + 0.5 * 1.44 * dt) / 1.2
    integral = (paths.variance[:-1] * dt).sum(axis=0)
    forward = np.exp(-0.7 * (alpha[:-1] * driver).sum(axis=0) - 0.245 * integral)
    for strike in (0.85, 1.0, 1.1):
        is_call = strike >= 1
        payoff = np.maximum(paths.spot[-1] - strike if is_call else strike - paths.spot[-1], 0.0)
        tools.assert_mean(payoff - tools.undiscounted_black(forward, strike, 0.51 * integral, is_call))


def test_variance_risk_premium_is_a_drift_of_the_driver() -> None:
    """Identity: dW = dW^P + premium dt multiplies alpha by exp(volvol premium t)."""
    noise = np.random.Generator(np.random.PCG64(4)).standard_normal((2, 20, 10))
    plain, priced = (
        SABR(volatility=0.2, volvol=0.9, rho=-0.5, variance_risk_premium=premium).simulate(
            10, 20, 1.0, noise=noise, dtype="float64", backend="numpy"
        )
        for premium in (0.0, -0.6)
    )
    ratio = np.broadcast_to(np.exp(-2 * 0.54 * plain.times)[:, None], plain.variance.shape)
    np.testing.assert_allclose(priced.variance / plain.variance, ratio, rtol=1e-10, atol=0)
