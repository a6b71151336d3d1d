"""Black-Scholes-Merton price and Greeks."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from hedgerl.pricing import normal
from hedgerl.pricing.base import (
    D_CAP,
    SPOT_FLOOR,
    TIME_FLOOR,
    VARIANCE_FLOOR,
    Array,
    Greeks,
    as_arrays,
    as_signs,
    check,
    in_blocks,
    is_numpy,
)

_BLOCK = 16_384  # elements; a float32 work array is 64 kB, so that a block lives in the second-level cache


def black_scholes(
    spot: Array,
    strike: Array,
    expiry_years: Array,
    volatility: Array,
    *,
    rate: Array = 0.0,
    dividend: Array = 0.0,
    is_call: Array = True,
) -> Greeks:
    """Price, delta, gamma, vega, theta, rho, vanna and volga of European options.

    V = s (S e^{-qT} N(s d1) - K e^{-rT} N(s d2)), s = +1 for a call and -1 for a put, d1,2 = ln(F/K)/(vol
    sqrt T) +- vol sqrt(T)/2, F = S e^{(r-q)T}.

    `expiry_years` is the time left in years, `volatility` annualised, `rate` and `dividend` continuously
    compounded, prices per share. Inputs broadcast; NumPy, torch and CuPy arrays keep dtype and device, Python
    numbers give NumPy float64. Greeks are per 1.00 of spot, volatility and rate; theta is per calendar year
    (see `Greeks`).

    Spot and strike are floored at 1e-6, time left at 1e-6 years and variance at 1e-8, |d1| and |d2| are
    capped at 10, so that no input gives NaN or infinity. Below the floors of time and variance the Greeks
    stay those at the floor, while the price's time value shrinks in proportion to vol sqrt(T): at zero or
    negative time left the price is exactly the payoff, at zero volatility the discounted payoff of the
    forward, and there delta is e^{-qT} times 1, 1/2 or 0 (call; in, at, out of the money). The price is never
    below max(s (S e^{-qT} - K e^{-rT}), 0).

    Raises ValueError for a negative or non-finite spot, strike or volatility, a non-finite time, rate or
    dividend, or an `is_call` that is not bool. Source: Black & Scholes (1973), eq. 13; Merton (1973) for the
    dividend yield.

    >>> g = black_scholes(100.0, 100.0, 1.0, 0.2, rate=0.05)
    >>> round(float(g.price), 6), round(float(g.delta), 6)
    (10.450584, 0.636831)
    """
    xp, arrays = as_arrays(
        spot=spot,
        strike=strike,
        expiry_years=expiry_years,
        volatility=volatility,
        rate=rate,
        dividend=dividend,
    )
    for name, array in zip(("spot", "strike", "volatility"), (arrays[0], arrays[1], arrays[3]), strict=True):
        check(xp, name, array, "non-negative")
    for name, array in zip(("expiry_years", "rate", "dividend"), (arrays[2], arrays[4], arrays[5]), strict=True):
        check(xp, name, array)
    arrays.append(as_signs(xp, is_call, arrays[0]))
    if is_numpy(xp):
        with np.errstate(over="ignore", under="ignore"):
            return Greeks(*in_blocks(lambda *a: _evaluate(np, *a), arrays, _BLOCK))
    return Greeks(*_evaluate(xp, *xp.broadcast_arrays(*arrays)))


def _evaluate(
    xp: Any, spot: Array, strike: Array, left: Array, vol: Array, rate: Array, dividend: Array, sign: Array
) -> tuple[Array, ...]:
    def constant(value: float) -> Array:
        return xp.asarray(value, dtype=spot.dtype, device=array_api_compat.device(spot))

    cap, zero = constant(D_CAP), constant(0.0)
    spot, strike = xp.maximum(spot, constant(SPOT_FLOOR)), xp.maximum(strike, constant(SPOT_FLOOR))
    left = xp.maximum(left, zero)
    root = xp.sqrt(xp.maximum(left, constant(TIME_FLOOR)))
    floored = xp.maximum(vol, constant(VARIANCE_FLOOR**0.5))
    deviation = floored * root

    d1 = (xp.log(spot / strike) + (rate - dividend) * left) / deviation + deviation * 0.5
    d2 = xp.clip(d1 - deviation, -cap, cap)
    d1 = xp.clip(d1, -cap, cap)
    paid, discount = xp.exp(-dividend * left), xp.exp(-rate * left)
    asset, cash = spot * paid, strike * discount
    delta = paid * (sign * normal.cdf(sign * d1))
    exercised = sign * cash * normal.cdf(sign * d2)
    density = normal.pdf(d1)

    intrinsic = xp.maximum(sign * (asset - cash), zero)
    time_value = xp.maximum(spot * delta - exercised - intrinsic, zero)
    price = intrinsic + time_value * ((vol * xp.sqrt(left)) / deviation if _floored(xp, left, vol) else 1.0)
    spread = asset * density  # S e^{-qT} n(d1) = K e^{-rT} n(d2)
    vega = spread * root
    gamma = paid * density / (spot * deviation)
    theta = dividend * spot * delta - rate * exercised - spread * floored / (2.0 * root)
    vanna = -paid * density * d2 / floored
    volga = vega * d1 * d2 / floored
    return price, delta, gamma, vega, theta, left * exercised, vanna, volga


def _floored(xp: Any, left: Array, vol: Array) -> bool:
    """Whether the time value needs scaling; always true off NumPy, where asking would stall the device."""
    if xp is not np:
        return True
    return bool(left.min() < TIME_FLOOR or vol.min() < VARIANCE_FLOOR**0.5)
