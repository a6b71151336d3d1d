from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from hedgerl.pricing import black_scholes, implied_volatility

EPS = np.finfo(float).eps


def wing_price(forward: Any, strike: Any, deviation: Any) -> Any:
    """The undiscounted out-of-the-money price, with full relative accuracy down to 1e-308."""
    h, t = np.abs(np.log(forward / strike)) / deviation, deviation / 2
    tails = special.erfcx((h - t) / np.sqrt(2)) - special.erfcx((h + t) / np.sqrt(2))
    return np.sqrt(forward * strike) * 0.5 * np.exp(-(h * h + t * t) / 2) * tails


def test_a_million_options() -> None:
    """Golden: 1e-10 over an hour to thirty years, 1 to 300 % of volatility, up to twelve deviations in the wings.

    Where the price is within a hair of its upper bound it no longer holds the volatility; there the error allowed is
    that of the price's own rounding, (16 + 2 (x/s)^2 + s^2/2) eps p / (vega vol): exp multiplies its exponent's.
    """
    rng = np.random.default_rng(0)
    n = 1_000_000
    spot = 100 * np.exp(0.3 * rng.standard_normal(n))
    left = np.exp(rng.uniform(np.log(1 / 1764), np.log(30), n))
    vol = np.exp(rng.uniform(np.log(0.01), np.log(3), n))
    deviation = vol * np.sqrt(left)
    strike = spot * np.exp(np.clip(rng.uniform(-12, 12, n) * rng.random(n) * deviation, -30, 30))
    price = wing_price(spot, strike, deviation)
    got = implied_volatility(price, spot, strike, left, is_call=strike >= spot)

    d1 = np.log(spot / strike) / deviation + deviation / 2
    relative_vega = spot * np.exp(-(d1**2) / 2) / np.sqrt(2 * np.pi) * deviation / price
    rounding = (16 + 2 * (np.log(spot / strike) / deviation) ** 2 + deviation**2 / 2) * EPS
    allowed = np.maximum(1e-10, rounding / relative_vega)
    assert (allowed == 1e-10).mean() > 0.995  # the exemption is rare
    assert not np.isnan(got).any()
    assert (np.abs(got / vol - 1) <= allowed).all()
    assert np.median(np.abs(got / vol - 1)) < 1e-14


def test_against_arbitrary_precision() -> None:
    """Golden (mpmath, 50 digits): prices down to 1e-300, that no float64 formula above has touched."""
    rng = np.random.default_rng(3)
    for _ in range(150):
        vol, left = float(np.exp(rng.uniform(-4, 0.5))), float(np.exp(rng.uniform(-7, 2)))
        deviation = vol * np.sqrt(left)
        strike = 100 * float(np.exp(deviation * rng.uniform(-35, 35) - 0.5 * deviation**2))
        with mp.workdps(50):
            s = mp.mpf(vol) * mp.sqrt(mp.mpf(left))
            d1 = mp.log(100 / mp.mpf(strike)) / s + s / 2
            sign = 1 if strike >= 100 else -1
            exact = float(sign * (100 * mp.ncdf(sign * d1) - mp.mpf(strike) * mp.ncdf(sign * (d1 - s))))
        if exact > 1e-300:
            got = implied_volatility(exact, 100.0, strike, left, is_call=strike >= 100)
            assert abs(got / vol - 1) < 1e-10, (vol, left, strike)


def test_in_the_money_to_the_digits_that_are_left() -> None:
    """Golden: an intrinsic value subtracted at the wrong discounting would be off by far more."""
    rng = np.random.default_rng(5)
    n = 20_000
    spot, strike = 100 * np.exp(0.2 * rng.standard_normal((2, n)))
    left, vol = rng.uniform(0.1, 2, n), rng.uniform(0.1, 0.6, n)
    is_call = strike < spot * np.exp(0.02 * left)
    inputs = {"rate": 0.03, "dividend": 0.01, "is_call": is_call}
    g = black_scholes(spot, strike, left, vol, **inputs)
    allowed = 8 * EPS * np.maximum(spot, strike) / (g.vega * vol)
    known = allowed < 1e-3
    got = implied_volatility(g.price, spot, strike, left, **inputs)
    assert known.mean() > 0.9
    assert (np.abs(got / vol - 1)[known] <= np.maximum(allowed, 1e-10)[known]).all()


def test_rule_at_the_bounds() -> None:
    """Behaviour: the documented rule, neither a crash nor a number that means nothing."""
    price = np.array([-1.0, 0.0, 5e-324, 100.0, 100.0001, np.nan, np.inf])
    call = implied_volatility(price, 100.0, 110.0, 1.0)
    assert np.isnan(call[[0, 3, 4, 5, 6]]).all()
    assert call[1] == 0
    assert 0 < call[2] < 0.02
    put = implied_volatility(np.array([9.9999, 10.0, 10.0001, 109.9999, 110.0]), 100.0, 110.0, 1.0, is_call=False)
    assert np.isnan(put[[0, 4]]).all()
    assert put[1] == 0
    assert 0 < put[2] < 0.05
    assert put[3] > 5
    expired = implied_volatility(np.array([10.0, 10.1]), 110.0, 100.0, 0.0)
    assert expired[0] == 0
    assert np.isnan(expired[1])


def test_dtype_shape_and_call_flags() -> None:
    spot = np.array([[90.0], [100.0]], np.float32)
    strike = np.array([95.0, 100.0, 105.0], np.float32)
    price = black_scholes(spot, strike, 0.5, 0.3).price
    got = implied_volatility(price, spot, strike, 0.5)
    assert got.dtype == np.float32
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, 0.3, rtol=2e-5)
    flags = np.array([True, False, True])
    mixed = black_scholes(100.0, strike, 0.5, 0.3, rate=0.02, is_call=flags).price
    got = implied_volatility(mixed, 100.0, strike, 0.5, rate=0.02, is_call=flags)
    np.testing.assert_allclose(got, 0.3, rtol=2e-5)
    assert np.shape(implied_volatility(7.0, 100.0, 100.0, 0.5)) == ()


def test_twin(twin: Any) -> None:
    """Twin: the other libraries return the same volatility, NaN in the same places."""
    rng = np.random.default_rng(2)
    strike = 100 * np.exp(0.3 * rng.standard_normal(3000))
    price = black_scholes(100.0, strike, 0.4, rng.uniform(0.05, 2, 3000)).price
    price[:5] = [0.0, -1.0, 100.0, np.nan, 1e-300]
    mine = implied_volatility(price, 100.0, strike, 0.4)
    theirs = twin.fetch(implied_volatility(twin.send(price), 100.0, twin.send(strike), 0.4))
    np.testing.assert_allclose(theirs, mine, rtol=1e-11, atol=0)


@settings(max_examples=300, deadline=None)
@given(
    price=st.floats(allow_nan=True, allow_infinity=True),
    spot=st.floats(1e-6, 1e7),
    strike=st.floats(1e-6, 1e7),
    left=st.floats(0, 50),
    is_call=st.booleans(),
)
def test_nan_exactly_outside_the_bounds(price: float, spot: float, strike: float, left: float, is_call: bool) -> None:
    """Behaviour: finite and not negative within the bounds, NaN outside."""
    got = float(implied_volatility(price, spot, strike, left, is_call=is_call))
    low = max(spot - strike if is_call else strike - spot, 0)
    high = spot if is_call else strike
    if price == low:
        assert got == 0
    elif low < price < high and left > 0 and price - low < min(spot, strike) * (1 - 1e-9):
        assert 0 < got < np.inf
    elif not low <= price < high:
        assert np.isnan(got)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spot": 0.0}, "spot must be positive, got 0.0"),
        ({"strike": -1.0}, "strike must be positive, got -1.0"),
        ({"expiry_years": -0.1}, "expiry_years must be non-negative, got -0.1"),
        ({"rate": np.nan}, "rate must be finite, got nan"),
    ],
)
def test_bad_input_names_field_rule_and_value(change: dict[str, Any], message: str) -> None:
    inputs = {"price": 5.0, "spot": 100.0, "strike": 100.0, "expiry_years": 0.5} | change
    with pytest.raises(ValueError, match=message):
        implied_volatility(**inputs)
