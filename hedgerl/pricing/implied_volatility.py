"""Implied Black-Scholes volatility."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np
from scipy import special

from hedgerl.pricing.base import Array, as_arrays, as_signs, at_least, check, in_blocks, is_numpy

_BLOCK = 8_192
_ROUNDS = 24  # three or four are used; the rest are a bound on the loop
_LEAST = 2.3e-308  # of a normalised price: a little above the smallest normal float64
_SETTLED = 3e-5  # a relative step after which Halley's next error, its cube, is below rounding
_THIN = 1e-3  # half a total deviation below which b is summed as a series
_MIDDLE = 1.2  # total deviation above which the normal (Bachelier) guess gives way to the inverse of N(d1)

# Bachelier's q = n(h)/h - N(-h) inverted: h sqrt(1 + v)/v as a rational function of v = ln(1 + 1/q), relative
# error 1e-4 for h from 1e-5 to 39; made by iteratively reweighted least squares on 6,001 points.
_TOP = (3.98981840e-01, 3.55307106e-01, 7.18430177e-02, 2.36111172e-02, 3.28901782e-04)
_BOTTOM = (1.0, 3.93346309e-01, 1.00786073e-01, 1.78413523e-02, 2.32844397e-04)


def implied_volatility(
    price: Array,
    spot: Array,
    strike: Array,
    expiry_years: Array,
    *,
    rate: Array = 0.0,
    dividend: Array = 0.0,
    is_call: Array = True,
) -> Array:
    """The volatility at which the Black-Scholes price is `price`; annualised, of the broadcast shape.

    Solves b(x, s) = beta for the total deviation s = vol sqrt(T), with x = -|ln(F/K)|, beta the
    out-of-the-money option's price over sqrt(S e^{-qT} K e^{-rT}), b = e^{x/2} N(x/s + s/2) - e^{-x/2} N(x/s
    - s/2). The rule at the no-arbitrage bounds:

    - below max(s (S e^{-qT} - K e^{-rT}), 0), or at and above S e^{-qT} (call) or K e^{-rT} (put): NaN,
    - exactly at the lower bound: 0,
    - no time left: NaN, or 0 where the price is the payoff.

    An in-the-money price is first reduced by its intrinsic value, and what the subtraction loses cannot be
    found again: a price p known to a relative 1e-16 gives the volatility to about 1e-16 p / (vega vol).
    Out-of-the-money prices give it to 1e-10 or better, most of them to 1e-13, down to the smallest normal
    float64. A price that a market maker rounds a hair below the bound is NaN: what to do about it is the
    caller's decision.

    NumPy, torch and CuPy arrays keep dtype and device; the arithmetic is float64. Raises ValueError for a
    spot or strike that is not positive, a negative time, or a non-finite rate or dividend; a NaN price gives
    NaN.
    Source: Jaeckel (2015), "Let's be rational": the normalised price and the branches of the objective, 1/ln
    b far below and ln(b_max - b) above; here with ln b in between, own initial guesses and Halley steps.

    >>> from hedgerl.pricing import black_scholes
    >>> price = black_scholes(100.0, 120.0, 0.5, 0.3).price
    >>> round(float(implied_volatility(price, 100.0, 120.0, 0.5)), 12)
    0.3
    """
    xp, given = as_arrays(
        price=price, spot=spot, strike=strike, expiry_years=expiry_years, rate=rate, dividend=dividend
    )
    dtype = given[0].dtype
    arrays = [xp.astype(array, xp.float64) for array in given]
    check(xp, "spot", arrays[1], "positive")
    check(xp, "strike", arrays[2], "positive")
    check(xp, "expiry_years", arrays[3], "non-negative")
    check(xp, "rate", arrays[4])
    check(xp, "dividend", arrays[5])
    arrays.append(as_signs(xp, is_call, arrays[0]))
    shape = np.broadcast_shapes(*[tuple(array.shape) for array in arrays])
    if is_numpy(xp):
        with np.errstate(all="ignore"):
            (result,) = in_blocks(lambda *a: (_solve(xp, *a),), [np.atleast_1d(a) for a in arrays], _BLOCK)
    else:
        arrays = [xp.reshape(xp.broadcast_to(array, shape), (-1,)) for array in arrays]
        result = _solve(xp, *arrays)
    return xp.reshape(xp.astype(result, dtype), shape)[()]


def _solve(
    xp: Any, price: Array, spot: Array, strike: Array, left: Array, rate: Array, dividend: Array, sign: Array
) -> Array:
    """The volatility for float64 arrays of shape (n,) or (1,)."""
    asset, cash = spot * xp.exp(-dividend * left), strike * xp.exp(-rate * left)
    forward = sign * (asset - cash)
    low, high = xp.maximum(forward, 0.0 * forward), xp.where(sign > 0, asset, cash)
    value = price - low
    unit = xp.sqrt(asset) * xp.sqrt(cash)
    most = xp.minimum(asset, cash) / unit + 0.0 * value
    size = xp.abs(xp.log(asset / cash)) + 0.0 * value
    deviation = xp.zeros_like(size)
    solvable = (value > 0.0) & (price < high)
    inside = xp.nonzero(solvable)[0]
    if inside.shape[0]:
        # a division that underflows, or has lost its digits on the way there, and a subtraction that rounds up to
        # the bound leave the open interval
        ceiling = most[inside] * (1.0 - 2.0**-53)
        beta = xp.minimum(at_least(xp, (value / unit)[inside], _LEAST), ceiling)
        deviation[inside] = _deviation(xp, beta, most[inside], size[inside])
    valid = (solvable & (left > 0.0)) | (value == 0.0)
    root = xp.sqrt(left)
    root = xp.where(root > 0.0, root, 1.0 + 0.0 * root)
    return xp.where(valid, deviation / root, math.nan + 0.0 * deviation)


def _deviation(xp: Any, beta: Array, most: Array, size: Array) -> Array:
    """s with b(-size, s) = beta, for 0 < beta < most = exp(-size / 2), by Halley's method."""
    upper = beta > 0.5 * most
    lower = beta < 0.05 * most
    target = xp.log(xp.where(upper, most - beta, beta))
    side = xp.where(upper, 1.0, -1.0 + 0.0 * beta)
    s = _guess(xp, beta, most, size)
    result = s + 0.0
    active = xp.arange(s.shape[0], device=array_api_compat.device(s))
    for _ in range(_ROUNDS):
        log, slope, bend = _objective(xp, size, s, side)
        step = (target - log) / slope
        # far below the intrinsic 1/ln(b) is nearly straight in s, elsewhere ln(b); above the middle ln(b_max
        # - b)
        ratio = log / target
        step = xp.where(lower, step * ratio, step)
        bend = xp.where(lower, bend - 2.0 * slope / log, bend)
        step = step / xp.clip(1.0 + 0.5 * bend * step, 0.5, 2.0)
        step = xp.clip(step, -0.6 * s, 1.5 * s)
        s = s + step
        result[active] = s
        going = xp.nonzero(xp.abs(step) > _SETTLED * s)[0]
        if not going.shape[0]:
            break
        if going.shape[0] < active.shape[0]:
            active, s, size, side = active[going], s[going], size[going], side[going]
            target, lower = target[going], lower[going]
    return result


def _guess(xp: Any, beta: Array, most: Array, size: Array) -> Array:
    """A start within a few per cent of the root, usually within 1e-3.

    Small deviations: the normal model with strike distance 2 sinh(|x|/2), s = s_N (1 + s_N^2/24). Large ones:
    beta / b_max is near N(d1), hence s from s^2/2 - d1 s = |x|.
    """
    distance = 2.0 * xp.sinh(0.5 * size)
    tiny = 1e-12 * beta
    distance = xp.maximum(distance, tiny)
    v = xp.log1p(distance / beta)
    top, bottom = _TOP[4] + 0.0 * v, _BOTTOM[4] + 0.0 * v
    for index in (3, 2, 1, 0):
        top, bottom = top * v + _TOP[index], bottom * v + _BOTTOM[index]
    normal = distance * xp.sqrt(1.0 + v) * bottom / (v * top)
    small = normal * (1.0 + normal * normal * (1.0 / 24.0)) * xp.where(size > 1e-6, size / distance, 1.0 + 0.0 * size)

    share = beta / most
    d = _ndtri(xp, xp.minimum(share * (1.0 + 0.4 * (1.0 - share)), 0.5 * (1.0 + share)))
    flat = -2.0 * _ndtri(xp, (most - beta) / (2.0 * xp.cosh(0.5 * size)))
    wide = d + xp.sqrt(d * d + 2.0 * size)
    large = xp.where(size < 0.5, flat, wide)
    return xp.where(normal < _MIDDLE, small, xp.maximum(large, 0.1 + 0.0 * large))


def _objective(xp: Any, size: Array, s: Array, side: Array) -> tuple[Array, Array, Array]:
    """L = ln b (side -1) or ln(b_max - b) (side 1), L' and L''/L', at total deviation s.

    Both are exp(-(h^2 + t^2)/2)/2 times (erfcx(+-(h + t)/sqrt 2) +- erfcx((t - h)/sqrt 2)), h = x/s, t = s/2,
    in which nothing underflows.
    """
    h, t = size / s, 0.5 * s
    scale = math.sqrt(0.5)
    total = _erfcx(xp, side * (t - h) * scale) + side * _erfcx(xp, (t + h) * scale)
    thin = (t < _THIN) & (side < 0)
    if bool(xp.any(thin)):  # the difference as a Taylor series about h: f = erfcx, f' = 2yf - 2/sqrt(pi)
        y, half = h * scale, t * scale
        f = _erfcx(xp, y)
        f1 = 2.0 * y * f - 2.0 / math.sqrt(math.pi)
        f3 = 4.0 * f1 + 4.0 * y * (f + y * f1)
        total = xp.where(thin, -2.0 * half * (f1 + half * half * f3 / 6.0), total)
    log = xp.log(0.5 * total) - 0.5 * (h * h + t * t)
    pull = math.sqrt(2.0 / math.pi) / total
    slope = -side * pull
    return log, slope, h * h / s - 0.25 * s - slope


def _erfcx(xp: Any, x: Array) -> Array:
    if is_numpy(xp):
        return special.erfcx(x)
    if array_api_compat.is_torch_array(x):
        import torch

        return torch.special.erfcx(x)
    from cupyx.scipy.special import erfcx

    return erfcx(x)


def _ndtri(xp: Any, x: Array) -> Array:
    if is_numpy(xp):
        return special.ndtri(x)
    if array_api_compat.is_torch_array(x):
        import torch

        return torch.special.ndtri(x)
    from cupyx.scipy.special import ndtri

    return ndtri(x)
