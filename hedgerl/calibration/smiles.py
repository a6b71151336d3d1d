"""Undiscounted prices of a forward of 1 to volatilities, with derivatives."""

from __future__ import annotations

import numpy as np

from hedgerl.pricing import implied_volatility
from hedgerl.pricing.normal import pdf

_LEAST = 1e-14  # price, in forwards, of an option that a model makes worthless: its volatility is then low, not NaN


def volatilities(
    price: np.ndarray, slopes: np.ndarray, k: np.ndarray, years: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Volatilities (n,) and derivatives (n, p) of options out of the money from prices (n,) and their derivatives."""
    most = np.minimum(1.0, np.exp(k))
    floored = np.clip(price, _LEAST * most, (1.0 - 1e-9) * most)
    volatility = np.asarray(implied_volatility(floored, 1.0, np.exp(k), years, is_call=k >= 0))
    deviation = volatility * np.sqrt(years)
    vega = np.asarray(pdf(-k / deviation + 0.5 * deviation)) * np.sqrt(years)
    return volatility, slopes / np.maximum(vega, 1e-12)[:, None]
