"""The S&P 500, 1999-2018: the daily series that comes with the `arch` package, so that nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass

import arch.data.sp500
import numpy as np

from hedgerl.pricing._checks import whole_number

TRADING_DAYS = 252  # a year


@dataclass(frozen=True)
class DailyCloses:
    """Closing levels of an index, oldest first."""

    dates: np.ndarray  # (n_days,), datetime64[D]
    closes: np.ndarray  # (n_days,), float64; without dividends


def load() -> DailyCloses:
    """The closing levels of the S&P 500 (a price index, without dividends) from 4 January 1999 to 31 December 2018."""
    frame = arch.data.sp500.load()
    return DailyCloses(
        dates=frame.index.to_numpy().astype("datetime64[D]"),
        closes=frame["Close"].to_numpy(dtype=np.float64),
    )


def ewma_volatility(closes: np.ndarray, span_days: int = 21) -> np.ndarray:
    """Annualised volatility known at each close, (n_days,); NaN before the first `span_days` returns.

    An exponentially weighted mean of squared daily log returns, about zero:

        h_t = (1 - a) h_{t-1} + a r_t^2,    a = 2 / (span_days + 1),    volatility_t = sqrt(252 h_t),

    started from the plain mean of the first `span_days`. The value at t uses returns up to and including r_t, never a
    later one. Raises ValueError for a span below 1 or a series too short for it.
    """
    whole_number("span_days", span_days)
    squares = np.diff(np.log(closes)) ** 2
    if squares.size < span_days:
        raise ValueError(f"closes must hold more than span_days = {span_days} values, got {len(closes)}")
    alpha = 2.0 / (span_days + 1.0)
    mean_square = np.full(len(closes), np.nan)
    mean_square[span_days] = squares[:span_days].mean()
    for day in range(span_days + 1, len(closes)):
        mean_square[day] = (1.0 - alpha) * mean_square[day - 1] + alpha * squares[day - 1]
    volatility: np.ndarray = np.sqrt(TRADING_DAYS * mean_square)
    return volatility
