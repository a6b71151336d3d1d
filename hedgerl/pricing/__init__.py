"""Option prices, Greeks and implied volatility, vectorised over NumPy, torch and CuPy arrays."""

from __future__ import annotations

from hedgerl.pricing.american import american_implied_volatility, american_price
from hedgerl.pricing.base import Greeks, Option
from hedgerl.pricing.black_scholes import black_scholes
from hedgerl.pricing.heston import HestonGreeks, heston
from hedgerl.pricing.implied_volatility import implied_volatility
from hedgerl.pricing.sabr import SabrGreeks, sabr, sabr_volatility

__all__ = [
    "Greeks",
    "HestonGreeks",
    "Option",
    "SabrGreeks",
    "american_implied_volatility",
    "american_price",
    "black_scholes",
    "heston",
    "implied_volatility",
    "sabr",
    "sabr_volatility",
]
