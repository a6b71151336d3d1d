from __future__ import annotations

from dataclasses import fields
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerl.pricing import SabrGreeks, black_scholes, sabr, sabr_volatility

NAMES = [f.name for f in fields(SabrGreeks) if f.name not in ("vanna", "volga")]
SMILE: dict[str, Any] = {"rho": -0.6, "volvol": 0.8, "beta": 0.7, "rate": 0.03, "dividend": 0.01}
STRIKES = np.array([60.0, 85.0, 99.9999, 100.0, 101.0, 103.0, 125.0, 180.0])


def hagan(forward: float, strike: float, left: float, alpha: float, rho: float, volvol: float, beta: float) -> Any:
    """Hagan et al. (2002), eq. 2.17, as printed, in arbitrary precision."""
    f, k, t, a, r, nu, b = map(mp.mpf, (forward, strike, left, alpha, rho, volvol, beta))
    log, u = mp.log(f / k), (f * k) ** ((1 - b) / 2)
    z = nu / a * u * log
    chi = mp.log((mp.sqrt(1 - 2 * r * z + z * z) + z - r) / (1 - r))
    front = a / (u * (1 + (1 - b) ** 2 / 24 * log**2 + (1 - b) ** 4 / 1920 * log**4))
    time = (1 - b) ** 2 / 24 * a**2 / u**2 + r * b * nu * a / (4 * u) + (2 - 3 * r**2) / 24 * nu**2
    return front * (z / chi if z else 1) * (1 + time * t)


def test_volatility_is_the_printed_formula() -> None:
    """Golden (mpmath): includes strikes 1e-6 from the forward, where chi(z)/z is 0/0 in floating point."""
    rng = np.random.default_rng(0)
    with mp.workdps(40):
        for _ in range(200):
            forward = 100 * float(np.exp(0.5 * rng.standard_normal()))
            distance = rng.choice([1, 0.1, 1e-3, 1e-6, 1e-10, 0])
            strike = forward * float(np.exp(0.3 * rng.standard_normal() * distance))
            beta, left = float(rng.choice([0, 0.5, 0.7, 1])), float(rng.uniform(0.01, 3))
            alpha = float(rng.uniform(0.05, 0.5)) * forward ** (1 - beta)
            rho, volvol = float(rng.uniform(-0.95, 0.95)), float(rng.uniform(0.01, 1.5))
            exact = float(hagan(forward, strike, left, alpha, rho, volvol, beta))
            got = float(sabr_volatility(forward, strike, left, alpha, rho=rho, volvol=volvol, beta=beta))
            if exact > 0.01:
                assert abs(got / exact - 1) < 1e-12


def test_no_vol_of_vol_is_black_scholes() -> None:
    """Limit: beta = 1, volvol -> 0."""
    g = sabr(100.0, STRIKES, 0.5, 0.2, rho=-0.4, volvol=0.0, rate=0.02)
    exact = black_scholes(100.0, STRIKES, 0.5, 0.2, rate=0.02)
    for name in ("price", "delta", "gamma", "vega", "theta", "rho"):
        np.testing.assert_allclose(getattr(g, name), getattr(exact, name), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(g.bartlett_delta, g.delta, rtol=1e-15)


@pytest.mark.parametrize(
    ("greek", "variable", "of", "sign"),
    [
        ("delta", "spot", "price", 1),
        ("gamma", "spot", "delta", 1),
        ("vega", "alpha", "price", 1),
        ("theta", "expiry_years", "price", -1),
        ("rho", "rate", "price", 1),
    ],
)
@pytest.mark.parametrize("is_call", [True, False])
def test_greeks_are_total_derivatives(greek: str, variable: str, of: str, sign: int, is_call: bool) -> None:
    """Identity (central differences): a smile held still in spot, time or rate; the series joined to the formula."""
    inputs: dict[str, Any] = {"spot": 100.0, "strike": STRIKES, "expiry_years": 0.5, "alpha": 0.8} | SMILE
    inputs["is_call"] = is_call
    step = 1e-4 * inputs[variable]
    up, down = dict(inputs), dict(inputs)
    up[variable], down[variable] = inputs[variable] + step, inputs[variable] - step
    slope = (getattr(sabr(**up), of) - getattr(sabr(**down), of)) / (2 * step)
    exact = sign * getattr(sabr(**inputs), greek)
    np.testing.assert_allclose(slope, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())


def test_bartlett_delta_moves_alpha_with_the_forward() -> None:
    """Identity: the derivative along dalpha = rho volvol F^{-beta} dF; catches a wrong sign."""
    g = sabr(100.0, STRIKES, 0.5, 0.8, **SMILE)
    step = 1e-3
    growth = np.exp(0.02 * 0.5)
    move = SMILE["rho"] * SMILE["volvol"] * (100.0 * growth) ** -SMILE["beta"] * growth * step
    up, down = sabr(100 + step, STRIKES, 0.5, 0.8 + move, **SMILE), sabr(100 - step, STRIKES, 0.5, 0.8 - move, **SMILE)
    np.testing.assert_allclose((up.price - down.price) / (2 * step), g.bartlett_delta, rtol=0, atol=1e-7)
    assert (g.bartlett_delta < g.delta).all()


def test_bartlett_delta_hardly_depends_on_the_backbone() -> None:
    """Identity (Hagan & Lesniewski 2017): fitted to one smile, two betas share Bartlett's delta."""
    one = sabr(100.0, 100.0, 0.1, 0.2, rho=-0.5, volvol=0.6, beta=1.0)
    # beta = 0.5 with the same level, skew and curvature at the money to leading order
    alpha, skew, curvature = 2.0, -0.5 * 0.6 + 0.5 * 0.2, (2 - 3 * 0.25) * 0.36
    volvol = np.sqrt((curvature + 3 * skew**2) / 2)
    half = sabr(100.0, 100.0, 0.1, alpha, rho=skew / volvol, volvol=volvol, beta=0.5)
    assert abs(one.delta - half.delta) > 0.01
    assert abs(one.bartlett_delta - half.bartlett_delta) < 1e-4


def test_put_call_parity() -> None:
    call, put = (sabr(100.0, STRIKES, 0.5, 0.8, is_call=c, **SMILE) for c in (True, False))
    forward = 100 * np.exp(-0.005) - STRIKES * np.exp(-0.015)
    np.testing.assert_allclose(call.price - put.price, forward, rtol=0, atol=1e-12)
    np.testing.assert_allclose(call.bartlett_delta - put.bartlett_delta, np.exp(-0.005), rtol=0, atol=1e-12)
    assert sabr(100.0, 90.0, 0.0, 0.2, rho=-0.4, volvol=1.0).price == 10


def test_twin(twin: Any) -> None:
    """Twin: fields, dtype and shape as NumPy's."""
    rng = np.random.default_rng(4)
    spot, alpha = 100 * np.exp(0.1 * rng.standard_normal(500)), rng.uniform(0.1, 0.5, 500)
    flags = rng.random(500) < 0.5
    mine = sabr(spot, 100.0, 0.3, alpha, rho=-0.5, volvol=0.8, is_call=flags)
    theirs = sabr(twin.send(spot), 100.0, 0.3, twin.send(alpha), rho=-0.5, volvol=0.8, is_call=twin.send(flags))
    for name in NAMES:
        np.testing.assert_allclose(twin.fetch(getattr(theirs, name)), getattr(mine, name), rtol=1e-12, atol=1e-12)
    small = sabr(spot.astype(np.float32), 100.0, 0.3, alpha.astype(np.float32), rho=-0.5, volvol=0.8)
    assert all(getattr(small, name).dtype == np.float32 for name in NAMES)


@settings(max_examples=300, deadline=None)
@given(
    spot=st.floats(0, 1e6),
    strike=st.floats(0, 1e6),
    left=st.floats(0, 30),
    alpha=st.floats(0, 5),
    rho=st.floats(-0.999, 0.999),
    volvol=st.floats(0, 5),
    beta=st.floats(0, 1),
    is_call=st.booleans(),
)
def test_no_nan_no_infinity(
    spot: float, strike: float, left: float, alpha: float, rho: float, volvol: float, beta: float, is_call: bool
) -> None:
    """Behaviour: finite also where the expansion has long ceased to mean anything."""
    g = sabr(spot, strike, left, alpha, rho=rho, volvol=volvol, beta=beta, is_call=is_call)
    assert all(np.isfinite(getattr(g, name)) for name in NAMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": 1.0}, r"rho must lie in \(-1, 1\), got 1.0"),
        ({"beta": 1.2}, r"beta must lie in \[0, 1\], got 1.2"),
        ({"alpha": -0.1}, "alpha must be non-negative, got -0.1"),
        ({"volvol": np.nan}, "volvol must be finite, got nan"),
    ],
)
def test_bad_input_names_field_rule_and_value(change: dict[str, Any], message: str) -> None:
    inputs = {"spot": 100.0, "strike": 100.0, "expiry_years": 1.0, "alpha": 0.2, "rho": 0.0, "volvol": 0.3} | change
    with pytest.raises(ValueError, match=message):
        sabr(**inputs)
