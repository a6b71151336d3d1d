"""American options on an underlying with a dividend yield, and the volatilities that their prices imply."""

from __future__ import annotations

import math

import numpy as np

from hedgerl.pricing._checks import finite, positive
from hedgerl.pricing.black_scholes import black_scholes
from hedgerl.pricing.implied_volatility import implied_volatility

STEPS = 101  # of the tree, odd: prices are then within a thousandth of their time value
_ROUNDS = 12
_FAR = 40.0  # deviations at which chances are kept apart from 0 and 1
_RANGE = (1e-3, 20.0)  # of volatilities that are looked for
_CLOSE = 1e-7  # of the strike: a price that is met


def american_price(
    spot: float,
    strike: np.ndarray,
    years: float,
    volatility: np.ndarray,
    *,
    rate: float = 0.0,
    dividend: float = 0.0,
    is_call: np.ndarray | bool = True,
    steps: int = STEPS,
) -> np.ndarray:
    """Prices of options that may be exercised at any time, of the broadcast shape of strike, volatility and is_call.

    The binomial tree of Leisen & Reimer (1996) with the second inversion of Peizer & Pratt, whose nodes straddle the
    strike; `steps` is odd. rate and dividend are per year, continuously compounded. Raises ValueError for a spot, time,
    strike or volatility that is not positive, or an even number of steps.

    >>> float(american_price(50.0, 50.0, 5 / 12, 0.4, rate=0.1, is_call=False).round(2))
    4.28
    """
    positive("spot", spot)
    positive("years", years)
    if steps < 3 or steps % 2 == 0:
        raise ValueError(f"steps must be odd and at least 3, got {steps}")
    strikes, vols, calls = np.broadcast_arrays(np.asarray(strike, np.float64), np.asarray(volatility), is_call)
    shape = strikes.shape
    strikes, vols = strikes.reshape(-1, 1), vols.astype(np.float64).reshape(-1, 1)
    for name, values in (("strike", strikes), ("volatility", vols)):
        for value in values[~(values > 0)][:1]:
            raise ValueError(f"{name} must be positive, got {value:g}")
    sign = np.where(calls, 1.0, -1.0).reshape(-1, 1)
    step, carry = years / steps, finite("rate", rate) - finite("dividend", dividend)
    total = vols * math.sqrt(years)
    d2 = (np.log(spot / strikes) + carry * years) / total - 0.5 * total
    up_chance, up_share = _inverted(d2, steps), _inverted(d2 + total, steps)
    growth = math.exp(carry * step)
    up = growth * up_share / up_chance
    down = (growth - up_chance * up) / (1.0 - up_chance)
    discount = math.exp(-rate * step)
    ups = np.arange(steps + 1)
    spots = spot * up**ups * down ** (steps - ups)
    value = np.maximum(sign * (spots - strikes), 0.0)
    for _ in range(steps):
        spots = spots[:, :-1] / down
        value = discount * (up_chance * value[:, 1:] + (1.0 - up_chance) * value[:, :-1])
        value = np.maximum(value, sign * (spots - strikes))
    return value[:, 0].reshape(shape)


def american_implied_volatility(
    price: np.ndarray,
    spot: float,
    strike: np.ndarray,
    years: float,
    *,
    rate: float = 0.0,
    dividend: float = 0.0,
    is_call: np.ndarray | bool = True,
    steps: int = STEPS,
) -> np.ndarray:
    """Volatilities at which `american_price` is the price, within 1e-7 of the strike, of the broadcast shape.

    NaN where none is: at or below what exercising now brings, and above the bounds. Newton's method with the vega of
    the European option, from the volatility that it would imply. Raises ValueError as `american_price`.
    """
    prices, strikes, calls = np.broadcast_arrays(np.asarray(price, np.float64), np.asarray(strike, np.float64), is_call)
    sign = np.where(calls, 1.0, -1.0)
    terms = {"rate": rate, "dividend": dividend}
    european = np.asarray(implied_volatility(prices, spot, strikes, years, **terms, is_call=calls))
    worth = prices > np.maximum(sign * (spot - strikes), 0.0) * (1.0 + 1e-9)
    guess = np.where(worth & (european > 1e-3), european, 0.2)
    missing = np.full(prices.shape, np.inf)
    for _ in range(_ROUNDS):
        missing = american_price(spot, strikes, years, guess, **terms, is_call=calls, steps=steps) - prices
        if (np.abs(missing[worth]) <= 0.1 * _CLOSE * strikes[worth]).all():
            break
        vega = np.asarray(black_scholes(spot, strikes, years, guess, **terms, is_call=calls).vega)
        moved = np.clip(guess - missing / np.maximum(vega, 1e-8 * spot), 0.5 * guess, 2.0 * guess)
        guess = np.where(worth, np.clip(moved, *_RANGE), guess)
    return np.where(worth & (np.abs(missing) <= _CLOSE * strikes), guess, np.nan)


def _inverted(z: np.ndarray, steps: int) -> np.ndarray:
    """The chance of an up move at which a binomial distribution is the normal one up to z."""
    scaled = np.clip(z, -_FAR, _FAR) / (steps + 1.0 / 3.0 + 0.1 / (steps + 1.0))
    inverted: np.ndarray = 0.5 + 0.5 * np.sign(z) * np.sqrt(-np.expm1(-scaled * scaled * (steps + 1.0 / 6.0)))
    return inverted
