"""Dispersion of profit and loss, and reward for it."""

from __future__ import annotations

from typing import Any

from hedgerl.pricing._checks import positive
from hedgerl.risk.sample import sample

Array = Any


def semi_deviation(pnl: Array, target: float | None = None) -> Array:
    """sqrt(E[min(pnl - target, 0)^2]), (..., n) -> (...), in the unit of `pnl`; target None: the sample's own mean.

    The lower semi-deviation of Markowitz (1959): only what falls short counts. All n outcomes divide the sum; for a
    symmetric law it is the standard deviation over sqrt 2.

    >>> float(semi_deviation([-3.0, 0.0, 3.0, 0.0]))  # sqrt(9 / 4)
    1.5

    Raises ValueError for an empty or non-finite sample.
    """
    xp, x = sample("pnl", pnl)
    short = x - (xp.mean(x, axis=-1, keepdims=True) if target is None else target)
    short = 0.5 * (short - abs(short))
    return xp.mean(short * short, axis=-1) ** 0.5


def sharpe_ratio(pnl: Array, periods_per_year: float) -> Array:
    """mean / sd x sqrt(periods per year) of P&L by period, (..., n) -> (...); NaN where the deviation is 0.

    Sharpe (1994), of P&L rather than of returns: a zero-cost position's P&L is in excess of financing already, and
    the unit cancels. sd has n - 1. Annualised as though periods follow one another without correlation.

    Raises ValueError for fewer than two outcomes or a non-finite one.
    """
    per_year = positive("periods_per_year", periods_per_year)
    xp, x = sample("pnl", pnl, least=2)
    mean = xp.mean(x, axis=-1)
    variance = xp.sum((x - mean[..., None]) ** 2, axis=-1) / (x.shape[-1] - 1)
    flat = variance <= 1e-28 * mean**2  # equal outcomes, but for the rounding of their mean
    ratio = mean * per_year**0.5 / xp.where(flat, xp.ones_like(variance), variance) ** 0.5
    return xp.where(flat, xp.full_like(ratio, float("nan")), ratio)


def win_rate(pnl: Array) -> Array:
    """The share of outcomes above 0, (..., n) -> (...), between 0 and 1; an outcome of 0 is no win."""
    xp, x = sample("pnl", pnl)
    return xp.mean(xp.astype(x > 0.0, xp.float64), axis=-1)
