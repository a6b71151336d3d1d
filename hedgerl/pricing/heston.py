"""Heston price and Greeks; the Fourier sums are in `heston_transform`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from hedgerl.pricing.base import (
    SPOT_FLOOR,
    TIME_FLOOR,
    VARIANCE_FLOOR,
    Array,
    as_arrays,
    as_signs,
    at_least,
    check,
    check_inside,
)
from hedgerl.pricing.heston_transform import mean_variance, sum_each, sum_shared, variance_weight

_SIGMA_FLOOR = 1e-12  # vol of vol, which acts on prices in proportion
_BLOCK = 65_536  # options at a time
_SHARED = 512  # options with common parameters and expiry from which grouping pays


@dataclass(frozen=True)
class HestonGreeks:
    """Price and sensitivities per share, each of the broadcast shape of the inputs.

    delta = dV/dS at constant variance, gamma = d2V/dS2, vega = dV/dv0 per 1.00 of variance, theta = dV/dt per
    calendar year.
    """

    price: Array
    delta: Array
    gamma: Array
    vega: Array
    theta: Array


def heston(
    spot: Array,
    strike: Array,
    expiry_years: Array,
    variance: Array,
    *,
    kappa: Array,
    theta: Array,
    sigma: Array,
    rho: Array,
    rate: Array = 0.0,
    dividend: Array = 0.0,
    is_call: Array = True,
) -> HestonGreeks:
    """Price, delta, gamma, vega (to the variance) and theta of European options under Heston's model.

    dS = (r - q) S dt + sqrt(v) S dW, dv = kappa (theta - v) dt + sigma sqrt(v) dZ, dW dZ = rho dt.

    `expiry_years` is the time left, `variance` the variance today (annualised), `theta` its long-run mean.
    All arguments, parameters included, broadcast; NumPy, torch and CuPy arrays keep dtype and device. The
    sums run in float64 whatever the dtype, and are as exact: about 1e-12 of the forward, for expiries from an
    hour to ten years, correlations up to +-0.99, vol of vol up to 2 and a variance of zero. The relative
    accuracy of a deep wing below that is lost. Options with common parameters and expiry are priced several
    times faster than options that each have their own.

    Spot and strike are floored at 1e-6, time left at 1e-6 years, the mean variance over the time left at
    1e-8; below the floor of time the price's time value shrinks with sqrt(T), so that at expiry the price is
    the payoff. The out-of-the-money option is computed and the other one follows by parity; its price is
    kept in [0, min(S e^{-qT}, K e^{-rT})].

    Raises ValueError for a negative or non-finite spot, strike, variance, theta or sigma, kappa not positive,
    rho outside (-1, 1), or a non-finite time, rate or dividend. Source: Heston (1993), eqs. 10-18; see the
    module for the method.

    >>> g = heston(100.0, 100.0, 1.0, 0.0175, kappa=1.5768, theta=0.0398, sigma=0.5751, rho=-0.5711)
    >>> round(float(g.price), 9), round(float(g.delta), 6)
    (5.785155434, 0.624916)
    """
    values = {
        "spot": spot,
        "strike": strike,
        "expiry_years": expiry_years,
        "variance": variance,
        "kappa": kappa,
        "theta": theta,
        "sigma": sigma,
        "rho": rho,
        "rate": rate,
        "dividend": dividend,
    }
    xp, given = as_arrays(**values)
    dtype = given[0].dtype
    arrays = dict(zip(values, [xp.astype(array, xp.float64) for array in given], strict=True))
    for name in ("spot", "strike", "variance", "theta", "sigma"):
        check(xp, name, arrays[name], "non-negative")
    for name in ("expiry_years", "rate", "dividend"):
        check(xp, name, arrays[name])
    check(xp, "kappa", arrays["kappa"], "positive")
    check_inside(xp, "rho", arrays["rho"], -1.0, 1.0)
    arrays["sign"] = as_signs(xp, is_call, arrays["spot"])

    shape = np.broadcast_shapes(*[tuple(array.shape) for array in arrays.values()])
    count = math.prod(shape)
    common = all(math.prod(arrays[n].shape) == 1 for n in ("kappa", "theta", "sigma", "rho", "expiry_years"))
    flat = {}
    for name, array in arrays.items():
        single = math.prod(array.shape) == 1
        flat[name] = xp.reshape(array if single else xp.broadcast_to(array, shape), (-1,))
    parts = []
    for start in range(0, count, _BLOCK):
        piece = slice(start, start + _BLOCK)
        block = {name: array if array.shape[0] == 1 else array[piece] for name, array in flat.items()}
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            parts.append(_price_block(xp, min(_BLOCK, count - start), common, **block))
    results = []
    for index in range(5):
        column = [part[index] for part in parts]
        whole = xp.concat(column) if column else flat["spot"][:0]
        results.append(xp.reshape(xp.astype(whole, dtype), shape)[()])
    return HestonGreeks(*results)


def _price_block(
    xp: Any,
    count: int,
    common: bool,
    *,
    spot: Array,
    strike: Array,
    expiry_years: Array,
    variance: Array,
    kappa: Array,
    theta: Array,
    sigma: Array,
    rho: Array,
    rate: Array,
    dividend: Array,
    sign: Array,
) -> tuple[Array, ...]:
    """The five results for `count` options, each argument of shape (count,) or (1,)."""
    spot, strike = at_least(xp, spot, SPOT_FLOOR), at_least(xp, strike, SPOT_FLOOR)
    left = at_least(xp, expiry_years, 0.0)
    floored = at_least(xp, left, TIME_FLOOR)
    lift = at_least(xp, VARIANCE_FLOOR - mean_variance(xp, floored, kappa, theta, variance), 0.0)
    variance = variance + lift / variance_weight(xp, floored, kappa)
    asset, cash = spot * xp.exp(-dividend * left), strike * xp.exp(-rate * left)
    log_strike = xp.log(cash / asset)

    one = xp.ones((count,), dtype=xp.float64, device=array_api_compat.device(spot))
    k, v = log_strike * one, variance * one
    model = [floored, kappa, theta, at_least(xp, sigma, _SIGMA_FLOOR), rho]
    if common and count >= _SHARED:
        value, slope, curve, vega, drift = sum_shared(xp, k, v, model)
    else:
        value, slope, curve, vega, drift = sum_each(xp, k, v, [array * one for array in model])

    # out-of-the-money value, its slope in ln S; then parity where the other option is asked for
    put = k < 0
    ceiling = xp.minimum(asset, cash)
    value = xp.minimum(at_least(xp, value * cash, 0.0), ceiling)
    slope = slope * cash
    forward = asset - cash
    other = put != (sign < 0)
    swap = xp.astype(other, xp.float64) * sign
    share = xp.sqrt(left / floored)  # the payoff's own share is a maximum, so that its gradient at its kink is 1/2
    price = share * (value + swap * forward) + (1.0 - share) * at_least(xp, sign * forward, 0.0)
    slope = slope + swap * asset
    calendar = rate * price - (rate - dividend) * slope - drift * cash
    return (
        price + 0.0 * one,
        slope / spot,
        curve * cash / (spot * spot),
        vega * cash,
        calendar,
    )
