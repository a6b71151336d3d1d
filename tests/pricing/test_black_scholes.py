from __future__ import annotations

from dataclasses import astuple, fields
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerl.pricing import Greeks, black_scholes

NAMES = [field.name for field in fields(Greeks)]


def book(count: int = 400, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "spot": 100 * np.exp(0.3 * rng.standard_normal(count)),
        "strike": 100 * np.exp(0.3 * rng.standard_normal(count)),
        "expiry_years": rng.uniform(0.02, 3, count),
        "volatility": rng.uniform(0.05, 0.8, count),
        "rate": rng.uniform(-0.02, 0.1, count),
        "dividend": rng.uniform(0, 0.06, count),
        "is_call": rng.random(count) < 0.5,
    }


def test_price_matches_arbitrary_precision() -> None:
    """Golden (mpmath, 40 digits): a sign, or a rate and a dividend exchanged."""
    inputs = book(60)
    got = black_scholes(**inputs).price
    with mp.workdps(40):
        for i, price in enumerate(got):
            spot, strike, left, vol, rate, dividend = (
                mp.mpf(float(inputs[name][i]))
                for name in ("spot", "strike", "expiry_years", "volatility", "rate", "dividend")
            )
            d1 = (mp.log(spot / strike) + (rate - dividend + vol**2 / 2) * left) / (vol * mp.sqrt(left))
            d2 = d1 - vol * mp.sqrt(left)
            s = 1 if inputs["is_call"][i] else -1
            exact = s * (
                spot * mp.exp(-dividend * left) * mp.ncdf(s * d1) - strike * mp.exp(-rate * left) * mp.ncdf(s * d2)
            )
            assert abs(price - float(exact)) < 1e-12 * float(spot)


@pytest.mark.parametrize(
    ("greek", "variable", "of", "sign"),
    [
        ("delta", "spot", "price", 1),
        ("gamma", "spot", "delta", 1),
        ("vega", "volatility", "price", 1),
        ("theta", "expiry_years", "price", -1),
        ("rho", "rate", "price", 1),
        ("vanna", "volatility", "delta", 1),
        ("volga", "volatility", "vega", 1),
    ],
)
def test_greeks_are_the_derivatives_of_what_they_name(greek: str, variable: str, of: str, sign: int) -> None:
    """Identity (central differences): units, signs and the calendar direction of theta."""
    inputs = book()
    step = 1e-5 * np.maximum(np.abs(inputs[variable]), 0.01)
    up, down = dict(inputs), dict(inputs)
    up[variable], down[variable] = inputs[variable] + step, inputs[variable] - step
    slope = (getattr(black_scholes(**up), of) - getattr(black_scholes(**down), of)) / (2 * step)
    exact = sign * getattr(black_scholes(**inputs), greek)
    np.testing.assert_allclose(slope, exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())


def test_pricing_equation() -> None:
    """Identity: theta + (r - q) S delta + vol^2 S^2 gamma / 2 = r V."""
    inputs = book()
    g = black_scholes(**inputs)
    spot, rate = inputs["spot"], inputs["rate"]
    left = g.theta + (rate - inputs["dividend"]) * spot * g.delta
    left = left + 0.5 * inputs["volatility"] ** 2 * spot**2 * g.gamma
    np.testing.assert_allclose(left, rate * g.price, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_put_call_parity(dtype: Any) -> None:
    """Identity: call - put = S e^{-qT} - K e^{-rT} to the rounding of the dtype, deep wings included."""
    inputs = {name: value.astype(dtype) for name, value in book().items() if name != "is_call"}
    inputs["strike"][:50] *= 50
    inputs["strike"][50:100] /= 50
    call, put = black_scholes(**inputs, is_call=True), black_scholes(**inputs, is_call=False)
    left = inputs["expiry_years"]
    paid = np.exp(-inputs["dividend"] * left)
    forward = inputs["spot"] * paid - inputs["strike"] * np.exp(-inputs["rate"] * left)
    scale = (inputs["spot"] + inputs["strike"]) * np.finfo(dtype).eps
    assert (np.abs(call.price - put.price - forward) <= 4 * scale).all()
    np.testing.assert_allclose(call.delta - put.delta, paid, rtol=0, atol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(call.gamma, put.gamma)


def test_at_expiry_the_price_is_the_payoff() -> None:
    """Limit: a floor of time that leaves an at-the-money option .008 of premium after its expiry."""
    spot = np.array([80.0, 100.0, 120.0])
    for left in (0.0, -0.5):
        call, put = (black_scholes(spot, 100.0, left, 0.2, rate=0.05, is_call=c) for c in (True, False))
        np.testing.assert_array_equal(call.price, [0, 0, 20])
        np.testing.assert_array_equal(put.price, [20, 0, 0])
        np.testing.assert_allclose(call.delta, [0, 0.5, 1], rtol=0, atol=1e-4)
        np.testing.assert_allclose(put.delta, [-1, -0.5, 0], rtol=0, atol=1e-4)


def test_zero_volatility_is_the_forward_payoff() -> None:
    """Limit."""
    g = black_scholes(np.array([90.0, 110.0]), 100.0, 2.0, 0.0, rate=0.03, dividend=0.01)
    exact = np.maximum(np.array([90.0, 110.0]) * np.exp(-0.02) - 100 * np.exp(-0.06), 0)
    np.testing.assert_allclose(g.price, exact, rtol=1e-15)
    assert all(np.isfinite(value).all() for value in astuple(g))


def test_price_is_continuous_at_the_floor_of_time() -> None:
    """Limit: the scaled time value meets the formula at 1e-6 years and falls with sqrt(T) to zero."""
    left = np.array([1e-6 * (1 + 1e-9), 1e-6 * (1 - 1e-9), 0.25e-6])
    price = black_scholes(100.0, 100.0, left, 0.2).price
    np.testing.assert_allclose(price[1], price[0], rtol=1e-8)
    np.testing.assert_allclose(price[2], 0.5 * price[0], rtol=1e-6)


def test_deep_wings() -> None:
    """Limit: capped d1 and d2 once left a price of -1e-22 and a call above its spot."""
    g = black_scholes(100.0, np.array([1e-6, 1e-3, 1e6, 1e12]), 0.1, 0.2)
    assert (g.price >= 0).all()
    assert (g.price <= 100).all()
    np.testing.assert_allclose(g.delta, [1, 1, 0, 0], rtol=0, atol=1e-15)


def test_dtype_shape_and_flags() -> None:
    """Behaviour: float32 stays, Python numbers do not widen it, flags broadcast, blocks do not show."""
    inputs = book(40_000, seed=2)
    small = {name: value.astype(np.float32) for name, value in inputs.items() if name != "is_call"}
    g = black_scholes(**small, is_call=inputs["is_call"])
    assert all(value.dtype == np.float32 for value in astuple(g))
    exact = black_scholes(**inputs)
    np.testing.assert_allclose(g.price, exact.price, rtol=0, atol=2e-4)
    np.testing.assert_allclose(g.delta, exact.delta, rtol=0, atol=2e-5)
    assert black_scholes(small["spot"], 100.1, 0.5, 0.2).price.dtype == np.float32
    assert black_scholes(100, 100, 1, 0.2).price.dtype == np.float64
    i = slice(17_000, 17_003)
    one = black_scholes(**{name: value[i] for name, value in inputs.items()})
    for name in NAMES:
        np.testing.assert_array_equal(getattr(exact, name)[i], getattr(one, name))
    grid = black_scholes(np.array([[90.0], [110.0]]), np.array([90.0, 100.0, 110.0]), 0.5, 0.2)
    assert grid.price.shape == (2, 3)
    flags = black_scholes(100.0, 100.0, 0.5, 0.2, rate=0.1, is_call=np.array([True, False]))
    assert flags.price[0] > flags.price[1]
    assert flags.gamma.shape == (2,)
    assert flags.gamma.flags.writeable


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_twin(twin: Any, dtype: Any) -> None:
    """Twin: NumPy and the other libraries agree in every field."""
    inputs = {name: value.astype(dtype) if name != "is_call" else value for name, value in book().items()}
    inputs["expiry_years"][:10] = 0
    mine = black_scholes(**inputs)
    theirs = black_scholes(**{name: twin.send(value) for name, value in inputs.items()})
    for name in NAMES:
        other = twin.fetch(getattr(theirs, name))
        assert other.dtype == dtype
        scale = np.abs(getattr(mine, name)).max()
        tolerance = 1e-5 if dtype == np.float32 else 1e-14
        np.testing.assert_allclose(other, getattr(mine, name), rtol=tolerance, atol=tolerance * scale)


finite32 = {"allow_nan": False, "allow_infinity": False, "width": 32}


@settings(max_examples=300, deadline=None)
@given(
    spot=st.floats(0, 1e7, **finite32),
    strike=st.floats(0, 1e7, **finite32),
    left=st.floats(-1, 50, **finite32),
    vol=st.floats(0, 50, **finite32),
    rate=st.floats(-0.25, 0.5, **finite32),
    dividend=st.floats(-0.25, 0.5, **finite32),
    is_call=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_no_nan_no_infinity_within_bounds(
    spot: float, strike: float, left: float, vol: float, rate: float, dividend: float, is_call: bool, dtype: Any
) -> None:
    """Behaviour: every field finite, the price within the no-arbitrage bounds, whatever the input."""
    values = [np.array([v], dtype) for v in (spot, strike, left, vol)]
    with np.errstate(divide="raise", invalid="raise"):
        g = black_scholes(*values, rate=rate, dividend=dividend, is_call=is_call)
    assert all(np.isfinite(value).all() for value in astuple(g))
    asset = max(spot, 1e-6) * np.exp(-dividend * max(left, 0))
    cash = max(strike, 1e-6) * np.exp(-rate * max(left, 0))
    rounding = 30 * np.finfo(dtype).eps * (asset + cash)
    assert max(asset - cash if is_call else cash - asset, 0) - rounding <= g.price[0]
    assert g.price[0] <= (asset if is_call else cash) + rounding


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spot": -1.0}, r"spot must be non-negative, got -1.0"),
        ({"strike": np.array([1.0, np.nan])}, r"strike must be finite, got nan"),
        ({"volatility": -0.2}, r"volatility must be non-negative, got -0.2"),
        ({"expiry_years": np.inf}, r"expiry_years must be finite, got inf"),
        ({"rate": np.nan}, r"rate must be finite, got nan"),
        ({"dividend": -np.inf}, r"dividend must be finite, got -inf"),
        ({"is_call": 1}, r"is_call must be a bool or an array of bool, got 1"),
        ({"is_call": np.array([1, 0])}, r"is_call must be a bool"),
    ],
)
def test_bad_input_names_field_rule_and_value(change: dict[str, Any], message: str) -> None:
    inputs = {"spot": 100.0, "strike": 100.0, "expiry_years": 0.5, "volatility": 0.2} | change
    with pytest.raises(ValueError, match=message):
        black_scholes(**inputs)


def test_what_is_no_number_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="must be numbers or arrays of numbers"):
        black_scholes("a", 100.0, 0.5, 0.2)
