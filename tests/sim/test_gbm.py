"""Geometric Brownian motion: exact on any grid."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import kstest

from hedgerl.sim import BlackScholes

UNEVEN = np.array([0.0, 0.002, 0.1, 0.11, 0.5, 2.0])


@pytest.mark.parametrize("drift", [None, 0.12])
@pytest.mark.parametrize("times", [np.linspace(0, 1, 13), UNEVEN], ids=["even", "uneven"])
def test_paths_are_the_closed_form(times: np.ndarray, drift: float | None) -> None:
    """Identity: S_t = S_0 exp((mu - q - sigma^2/2) t + sigma W_t). Catches the Ito term, dt, the dividend's sign."""
    model = BlackScholes(volatility=0.3, spot=80.0, rate=0.05, dividend=0.02, drift=drift)
    noise = np.random.Generator(np.random.PCG64(1)).standard_normal((1, times.size - 1, 30))
    paths = model.simulate(30, times=times, noise=noise, dtype="float64", backend="numpy")
    brownian = np.vstack([np.zeros(30), np.cumsum(noise[0] * np.sqrt(np.diff(times))[:, None], axis=0)])
    growth = (0.05 if drift is None else drift) - 0.02 - 0.045
    np.testing.assert_allclose(paths.spot, 80.0 * np.exp(growth * times[:, None] + 0.3 * brownian), rtol=1e-12, atol=0)
    np.testing.assert_allclose(paths.variance, 0.09, rtol=1e-12, atol=0)
    assert paths.variance.shape == paths.spot.shape


@pytest.mark.parametrize(("n_steps", "maturity"), [(1, 1.0), (20, 20 / 252), (252, 1.0)])
def test_final_spot_is_log_normal(tools: SimpleNamespace, n_steps: int, maturity: float) -> None:
    """Statistical: mean, mean square and whole distribution (Kolmogorov-Smirnov, odds 1 in 10,000) at the end."""
    model = BlackScholes(volatility=0.25, rate=0.04, dividend=0.01)
    spot = model.simulate(40_000, n_steps, maturity, 21, dtype="float64", backend="numpy", threads=1).spot[-1]
    tools.assert_mean(spot, 100 * np.exp(0.03 * maturity))
    tools.assert_mean(spot**2, 1e4 * np.exp((0.06 + 0.0625) * maturity))
    standardised = (np.log(spot / 100) - (0.03 - 0.03125) * maturity) / (0.25 * np.sqrt(maturity))
    assert kstest(standardised, "norm").pvalue > 1e-4


@pytest.mark.parametrize("strike", [80.0, 100.0, 125.0])
def test_average_payoff_is_the_black_scholes_price(tools: SimpleNamespace, strike: float) -> None:
    """Identity: E[(S_T - K)^+] from the paths equals Black's formula, called and put."""
    model = BlackScholes(volatility=0.25, rate=0.04, dividend=0.01)
    spot = np.asarray(model.simulate(50_000, 4, 1.0, 22, backend="numpy", threads=1).spot[-1], np.float64)
    forward = 100 * np.exp(0.03)
    for is_call, payoff in ((True, np.maximum(spot - strike, 0)), (False, np.maximum(strike - spot, 0))):
        tools.assert_mean(payoff, float(tools.undiscounted_black(forward, strike, 0.0625, is_call)))


def test_antithetic_noise_keeps_the_law(tools: SimpleNamespace) -> None:
    """Statistical: pairs averaged (they are what is independent) have the right mean and a smaller variance."""
    model = BlackScholes(volatility=0.3)
    spot = model.simulate(20_000, 4, 1.0, 23, antithetic=True, dtype="float64", backend="numpy", threads=1).spot[-1]
    pairs = 0.5 * (spot[::2] + spot[1::2])
    tools.assert_mean(pairs, 100.0)
    assert pairs.var() < 0.1 * spot.var()
