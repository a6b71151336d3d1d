from __future__ import annotations

import tracemalloc
from dataclasses import astuple, fields
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerl.pricing import HestonGreeks, black_scholes, heston

NAMES = [field.name for field in fields(HestonGreeks)]
MODEL = {"kappa": 2.0, "theta": 0.04, "sigma": 0.5, "rho": -0.7}


def states(count: int, seed: int = 0, spread: float = 0.15) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return 100 * np.exp(spread * rng.standard_normal(count)), 0.04 * np.exp(0.8 * rng.standard_normal(count))


def models(count: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "kappa": rng.uniform(0.3, 5, count),
        "theta": rng.uniform(0.01, 0.3, count),
        "sigma": rng.uniform(0.1, 1.5, count),
        "rho": rng.uniform(-0.95, 0.6, count),
    }


def quadrature(
    strike: float, left: float, variance: float, kappa: float, theta: float, sigma: float, rho: float
) -> float:
    """A call on spot 100 without rates, by mpmath on the straight line Im u = -1/2 (Lewis 2000)."""
    k, t, v = mp.log(mp.mpf(strike) / 100), mp.mpf(left), mp.mpf(variance)

    def integrand(z: Any) -> Any:
        iu = 1j * (z - 0.5j)
        beta = kappa - rho * sigma * iu
        d = mp.sqrt(beta**2 + sigma**2 * (z * z + mp.mpf(1) / 4))
        g, decay = (beta - d) / (beta + d), mp.exp(-d * t)
        b = (beta - d) / sigma**2 * (1 - decay) / (1 - g * decay)
        a = kappa * theta / sigma**2 * ((beta - d) * t - 2 * mp.log((1 - g * decay) / (1 - g)))
        return mp.re(mp.exp(a + b * v - 1j * z * k)) / (z * z + mp.mpf(1) / 4)

    pieces = [0, *(mp.mpf(2) ** i / 4 for i in range(16))]
    return float(100 - 100 * mp.exp(k / 2) / mp.pi * mp.quad(integrand, pieces))


def test_reference_prices(golden: Any) -> None:
    """Golden: two independent programs agree on these to 2e-12."""
    for row in golden("heston_prices"):
        model = {name: row[name] for name in ("kappa", "theta", "sigma", "rho")}
        g = heston(row["S"], row["K"], row["T"], row["v0"], rate=row["r"], dividend=row["q"], **model)
        assert abs(g.price - row["call"]) < 1e-11, row


def test_reference_greeks(golden: Any) -> None:
    """Golden: a Greek per cent, per day or per volatility instead of the contract's unit."""
    for row in golden("heston_greeks"):
        model = {name: row[name] for name in ("kappa", "theta", "sigma", "rho")}
        g = heston(row["S"], row["K"], row["T"], row["v0"], rate=row["r"], dividend=row["q"], **model)
        exact = [row[name] for name in ("price", "delta", "gamma", "vega_dVdv0", "theta_calendar_per_year")]
        np.testing.assert_allclose(astuple(g), exact, rtol=0, atol=1e-9)


def test_corners_of_the_admitted_range(golden: Any) -> None:
    """Golden: an hour to ten years, vol of vol to 2, correlation +-0.99, no initial variance, eight deviations out."""
    rows = golden("heston_corners")
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "kind"}
    exact, strike, left, variance = (columns.pop(name) for name in ("call", "K", "T", "v0"))
    g = heston(100.0, strike, left, variance, rate=0.02, dividend=0.01, **columns)
    np.testing.assert_allclose(g.price, exact, rtol=0, atol=1e-9)
    assert all(np.isfinite(value).all() for value in astuple(g))


@pytest.mark.parametrize(
    ("strike", "left", "variance", "kappa", "theta", "sigma", "rho"),
    [
        (100, 0.02, 0.04, 1.0, 0.04, 2.0, -0.99),
        (130, 0.5, 0.09, 3.0, 0.02, 0.8, 0.6),
        (60, 5.0, 0.5, 0.3, 0.2, 1.5, -0.3),
        (103, 1 / 252, 0.3, 8.0, 0.6, 0.05, 0.95),
    ],
)
def test_against_quadrature(
    strike: float, left: float, variance: float, kappa: float, theta: float, sigma: float, rho: float
) -> None:
    """Golden (mpmath, run here): another contour, another quadrature, the textbook characteristic function."""
    with mp.workdps(20):
        exact = quadrature(strike, left, variance, kappa, theta, sigma, rho)
    g = heston(100.0, strike, left, variance, kappa=kappa, theta=theta, sigma=sigma, rho=rho)
    assert abs(g.price - exact) < 1e-10


@pytest.mark.parametrize("own_model", [False, True])
@pytest.mark.parametrize(
    ("greek", "variable", "of", "sign"),
    [
        ("delta", "spot", "price", 1),
        ("gamma", "spot", "delta", 1),
        ("vega", "variance", "price", 1),
        ("theta", "expiry_years", "price", -1),
    ],
)
def test_greeks_are_the_derivatives_of_what_they_name(
    greek: str, variable: str, of: str, sign: int, own_model: bool
) -> None:
    """Identity (central differences), with rates, for calls and puts, over both ways of summing."""
    spot, variance = states(600)
    inputs: dict[str, Any] = {"spot": spot, "strike": 100.0, "expiry_years": 0.3, "variance": variance}
    inputs |= {"rate": 0.05, "dividend": 0.02, "is_call": np.arange(600) % 2 == 0}
    inputs |= models(600) if own_model else MODEL
    step = 1e-4 * inputs[variable]
    up, down = dict(inputs), dict(inputs)
    up[variable], down[variable] = inputs[variable] + step, inputs[variable] - step
    slope = (getattr(heston(**up), of) - getattr(heston(**down), of)) / (2 * step)
    exact = sign * getattr(heston(**inputs), greek)
    np.testing.assert_allclose(slope, exact, rtol=1e-5, atol=2e-6 * np.abs(exact).max())


@pytest.mark.parametrize("left", [1 / 252, 0.1, 2.0])
def test_shared_model_equals_one_at_a_time(left: float) -> None:
    """Twin: grouping by moneyness and variance must not show, far wings and small variances included."""
    spot, variance = states(4000, seed=3, spread=0.4)
    variance[:100] = 0.0
    whole = heston(spot, 100.0, left, variance, rate=0.03, **MODEL)
    columns = {name: np.full(4000, value) for name, value in MODEL.items()}
    single = heston(spot, 100.0, left, variance, rate=0.03, **columns)
    np.testing.assert_allclose(whole.price, single.price, rtol=0, atol=1e-8)
    np.testing.assert_allclose(whole.delta, single.delta, rtol=0, atol=1e-8)
    for name in ("gamma", "vega", "theta"):
        scale = np.abs(getattr(single, name)).max()
        np.testing.assert_allclose(getattr(whole, name), getattr(single, name), rtol=0, atol=1e-7 * scale)
    one = heston(float(spot[7]), 100.0, left, float(variance[7]), rate=0.03, **MODEL)
    assert abs(one.price - whole.price[7]) < 1e-8


def test_every_parameter_broadcasts() -> None:
    """Twin: batched = one at a time, over a grid of shapes."""
    strike, kappa = np.array([90.0, 100.0, 115.0]), np.array([[0.5], [4.0]])
    left, flags = np.array([[[0.1]], [[1.0]]]), np.array([True, False, True])
    grid = heston(100.0, strike, left, 0.05, kappa=kappa, theta=0.04, sigma=0.6, rho=-0.5, rate=0.01, is_call=flags)
    assert grid.price.shape == (2, 2, 3)
    for i, j, k in np.ndindex(2, 2, 3):
        model = {"kappa": kappa[j, 0], "theta": 0.04, "sigma": 0.6, "rho": -0.5}
        one = heston(100.0, strike[k], left[i, 0, 0], 0.05, rate=0.01, is_call=bool(flags[k]), **model)
        np.testing.assert_allclose([getattr(grid, n)[i, j, k] for n in NAMES], astuple(one), rtol=0, atol=1e-8)


def test_put_call_parity() -> None:
    """Identity: to rounding, whichever of the two is out of the money."""
    spot, variance = states(2000, spread=0.5)
    call, put = (
        heston(spot, 100.0, 0.7, variance, rate=0.04, dividend=0.01, is_call=c, **MODEL) for c in (True, False)
    )
    forward = spot * np.exp(-0.007) - 100 * np.exp(-0.028)
    np.testing.assert_allclose(call.price - put.price, forward, rtol=0, atol=1e-12)
    np.testing.assert_allclose(call.delta - put.delta, np.exp(-0.007), rtol=0, atol=1e-12)
    np.testing.assert_allclose(call.gamma, put.gamma, rtol=1e-14)


def test_no_vol_of_vol_is_black_scholes() -> None:
    """Limit: sigma -> 0 is Black-Scholes at the mean variance (1 - e^{-kappa T})/(kappa T) v0 + ..."""
    spot, variance = states(1000)
    weight = -np.expm1(-2.0 * 0.5) / (2.0 * 0.5)
    exact = black_scholes(spot, 100.0, 0.5, np.sqrt(0.04 + (variance - 0.04) * weight), rate=0.02)
    for sigma in (0.0, 1e-10, 1e-6):
        g = heston(spot, 100.0, 0.5, variance, kappa=2.0, theta=0.04, sigma=sigma, rho=-0.7, rate=0.02)
        tolerance = 1e-10 + 10 * sigma
        np.testing.assert_allclose(g.price, exact.price, rtol=0, atol=tolerance)
        np.testing.assert_allclose(g.delta, exact.delta, rtol=0, atol=tolerance)
        np.testing.assert_allclose(g.gamma, exact.gamma, rtol=0, atol=tolerance)
        vega = exact.vega * weight / (2 * np.sqrt(0.04 + (variance - 0.04) * weight))
        np.testing.assert_allclose(g.vega, vega, rtol=0, atol=1e-7 + 100 * sigma)


def test_at_expiry_the_price_is_the_payoff() -> None:
    """Limit."""
    spot = np.array([80.0, 100.0, 120.0])
    for left in (0.0, -1.0):
        g = heston(spot, 100.0, left, 0.04, rate=0.05, **MODEL)
        np.testing.assert_array_equal(g.price, [0, 0, 20])
        np.testing.assert_allclose(g.delta, [0, 0.5, 1], rtol=0, atol=1e-3)
        assert all(np.isfinite(value).all() for value in astuple(g))


@pytest.mark.parametrize("is_call", [True, False])
@pytest.mark.parametrize("left", [0.0, 1e-9, 0.25])
def test_gradient_of_the_price_is_delta(left: float, is_call: bool) -> None:
    """Identity: torch's own derivative, at expiry 1/2 at the kink as in Black-Scholes, where delta is 1/2 + O(1e-3).

    Catches a gradient of 0 at the money, and one that a mend of it counts twice before expiry.
    """
    torch = pytest.importorskip("torch")
    spot = torch.tensor([80.0, 100.0, 120.0], dtype=torch.float64, requires_grad=True)
    g = heston(spot, 100.0, left, 0.04, **MODEL, is_call=is_call)
    g.price.sum().backward()
    np.testing.assert_allclose(spot.grad, g.delta.detach(), rtol=0, atol=1e-9 if left > 1e-6 else 1e-3)


def test_variance_of_zero_is_not_floored() -> None:
    """Limit: dV/dv0 at v0 = 0 explains the step to 1e-9; a floor of 1e-8 in v0 would hide ten such steps."""
    model = {"kappa": 1.0, "theta": 0.04, "sigma": 0.5, "rho": -0.5}
    g, h = heston(100.0, 100.0, 1 / 252, 0.0, **model), heston(100.0, 100.0, 1 / 252, 1e-9, **model)
    assert h.price > g.price
    np.testing.assert_allclose((h.price - g.price) / 1e-9, g.vega, rtol=1e-3)


def test_prices_are_free_of_static_arbitrage() -> None:
    """Identity: within the bounds, falling and convex in the strike, growing in time."""
    strike = np.geomspace(20, 500, 300)
    for left in (1 / 252, 0.25, 5.0):
        for model in (MODEL, {"kappa": 0.2, "theta": 0.09, "sigma": 2.0, "rho": 0.9}):
            price = heston(100.0, strike, left, 0.01, **model).price
            assert (price >= np.maximum(100 - strike, 0) - 1e-11).all()
            assert (price <= 100).all()
            slope = np.diff(price) / np.diff(strike)
            assert (slope <= 1e-10).all()
            assert (slope >= -1 - 1e-10).all()
            assert (np.diff(slope) >= -1e-9).all()
            assert (heston(100.0, strike, 1.1 * left, 0.01, **model).price >= price - 1e-10).all()


@pytest.mark.parametrize("own_model", [False, True])
def test_twin(twin: Any, own_model: bool) -> None:
    """Twin: NumPy and the other libraries agree in every field; float32 is float64 rounded."""
    spot, variance = states(800, spread=0.3)
    model: dict[str, Any] = models(800) if own_model else dict(MODEL)
    mine = heston(spot, 100.0, 0.4, variance, rate=0.02, **model)
    sent = {name: twin.send(value) if own_model else value for name, value in model.items()}
    theirs = heston(twin.send(spot), 100.0, 0.4, twin.send(variance), rate=0.02, **sent)
    for name in NAMES:
        np.testing.assert_allclose(twin.fetch(getattr(theirs, name)), getattr(mine, name), rtol=0, atol=1e-9)
    sent = {name: twin.send(value.astype(np.float32)) if own_model else value for name, value in model.items()}
    small = [twin.send(array.astype(np.float32)) for array in (spot, variance)]
    rounded = heston(small[0], 100.0, 0.4, small[1], rate=0.02, **sent)
    assert twin.fetch(rounded.price).dtype == np.float32
    np.testing.assert_allclose(twin.fetch(rounded.price), mine.price, rtol=0, atol=3e-4)


@pytest.mark.parametrize("own_model", [False, True])
def test_scratch_memory_is_bounded(own_model: bool) -> None:
    """Behaviour: 64 MB beside inputs and outputs, however many options."""
    count = 150_000
    spot, variance = states(count)
    model: dict[str, Any] = models(count) if own_model else dict(MODEL)
    tracemalloc.start()
    heston(spot, 100.0, 0.3, variance, **model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6 + (2 * 5 + 11) * 8 * count  # results, their parts, and the inputs as float64


@settings(max_examples=150, deadline=None)
@given(
    spot=st.floats(0, 1e6),
    strike=st.floats(0, 1e6),
    left=st.floats(-1, 30),
    variance=st.floats(0, 4),
    kappa=st.floats(1e-6, 50),
    theta=st.floats(0, 4),
    sigma=st.floats(0, 5),
    rho=st.floats(-0.999, 0.999),
    is_call=st.booleans(),
)
def test_no_nan_no_infinity_within_bounds(
    spot: float,
    strike: float,
    left: float,
    variance: float,
    kappa: float,
    theta: float,
    sigma: float,
    rho: float,
    is_call: bool,
) -> None:
    """Behaviour: every field finite, the price within the no-arbitrage bounds, far outside any sane range."""
    g = heston(spot, strike, left, variance, kappa=kappa, theta=theta, sigma=sigma, rho=rho, is_call=is_call)
    assert all(np.isfinite(value) for value in astuple(g))
    asset, cash = max(spot, 1e-6), max(strike, 1e-6)
    low, high = (max(asset - cash, 0), asset) if is_call else (max(cash - asset, 0), cash)
    assert low * (1 - 1e-15) <= g.price <= high * (1 + 1e-15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kappa": 0.0}, "kappa must be positive, got 0.0"),
        ({"variance": np.array([0.04, -1e-9])}, "variance must be non-negative, got -1e-09"),
        ({"theta": -0.1}, "theta must be non-negative, got -0.1"),
        ({"sigma": np.nan}, "sigma must be finite, got nan"),
        ({"rho": -1.0}, r"rho must lie in \(-1, 1\), got -1.0"),
        ({"rho": np.nan}, r"rho must lie in \(-1, 1\), got nan"),
        ({"expiry_years": np.inf}, "expiry_years must be finite, got inf"),
    ],
)
def test_bad_input_names_field_rule_and_value(change: dict[str, Any], message: str) -> None:
    inputs = {"spot": 100.0, "strike": 100.0, "expiry_years": 0.5, "variance": 0.04} | MODEL | change
    with pytest.raises(ValueError, match=message):
        heston(**inputs)


def test_empty_input_gives_empty_output() -> None:
    g = heston(np.empty((0, 2), np.float32), 100.0, 0.5, 0.04, **MODEL)
    assert g.price.shape == (0, 2)
    assert g.price.dtype == np.float32
