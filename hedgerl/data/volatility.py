"""Trailing volatility of daily closes: what was known at each close."""

from __future__ import annotations

import numpy as np

from hedgerl.pricing._checks import whole_number

TRADING_DAYS = 252  # a year


def ewma_volatility(closes: np.ndarray, span_days: int = 21) -> np.ndarray:
    """Annualised volatility known at each close, (n_days,); NaN before the first `span_days` returns.

    An exponentially weighted mean of squared daily log returns, about zero:

        h_t = (1 - a) h_{t-1} + a r_t^2,    a = 2 / (span_days + 1),    volatility_t = sqrt(252 h_t),

    started from the plain mean of the first `span_days`. The value at t uses returns up to and including r_t, never a
    later one. Raises ValueError for a span below 1 or a series too short for it.
    """
    squares = _squares(closes, span_days)
    alpha = 2.0 / (span_days + 1.0)
    mean_square = np.full(len(closes), np.nan)
    mean_square[span_days] = squares[:span_days].mean()
    for day in range(span_days + 1, len(closes)):
        mean_square[day] = (1.0 - alpha) * mean_square[day - 1] + alpha * squares[day - 1]
    volatility: np.ndarray = np.sqrt(TRADING_DAYS * mean_square)
    return volatility


def realised_volatility(closes: np.ndarray, span_days: int = 21) -> np.ndarray:
    """As `ewma_volatility`, with equal weights on the last `span_days` squared returns."""
    squares = _squares(closes, span_days)
    volatility: np.ndarray = np.full(len(closes), np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(squares, span_days)
    volatility[span_days:] = np.sqrt(TRADING_DAYS * windows.mean(axis=1))
    return volatility


def _squares(closes: np.ndarray, span_days: int) -> np.ndarray:
    whole_number("span_days", span_days)
    squares: np.ndarray = np.diff(np.log(closes)) ** 2
    if squares.size < span_days:
        raise ValueError(f"closes must hold more than span_days = {span_days} values, got {len(closes)}")
    return squares
