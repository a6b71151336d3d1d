"""What prices tell of their own volatility: moving moments, ranges of a day, noise of ticks, roughness.

Every moving estimate at t uses observations up to and including t, and is NaN until there are enough of them.
Volatilities are per square root of a year of 252 days.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hedgerl.data.volatility import TRADING_DAYS
from hedgerl.pricing._checks import whole_number

_MOMENTS = (0.5, 1.0, 1.5, 2.0, 3.0)  # q of Gatheral, Jaisson & Rosenbaum (2018), section 2.1
_BLOCKS = 10  # of which each is left out once for a standard error


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Plain mean of the last `window` values, (n,)."""
    return _moving(values, window).mean(axis=1)


def exponential_average(values: np.ndarray, span: int) -> np.ndarray:
    """m_t = (1 - a) m_(t-1) + a x_t with a = 2 / (span + 1), (n,), started from the mean of the first `span` values."""
    given = _series("values", values, whole_number("span", span))
    weight = 2.0 / (span + 1.0)
    result = np.full(given.size, np.nan)
    result[span - 1] = given[:span].mean()
    for place in range(span, given.size):
        result[place] = (1.0 - weight) * result[place - 1] + weight * given[place]
    return result


def close_to_close(close: np.ndarray, window: int) -> np.ndarray:
    """Volatility (n,) of the last `window` log returns, about their mean, with n - 1 as divisor."""
    returns = np.append(np.nan, np.diff(np.log(_series("close", close, window + 1))))
    return _annual(_moving(returns, window, least=2).var(axis=1, ddof=1))


def parkinson(high: np.ndarray, low: np.ndarray, window: int) -> np.ndarray:
    """Volatility (n,) from the mean of (log H / L)^2 / (4 log 2), Parkinson (1980).

    Of trading hours: what happens overnight is not in it. Where prices are seen only now and then, highs are too low.
    """
    squares = np.log(_ratio(high, low, "high", "low")) ** 2 / (4.0 * math.log(2.0))
    return _annual(moving_average(squares, window))


def garman_klass(open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, window: int) -> np.ndarray:
    """Volatility (n,) from the mean of (log H / L)^2 / 2 - (2 log 2 - 1) (log C / O)^2, Garman & Klass (1980), eq. 20.

    Of trading hours, without drift: the practical estimator that they call sigma_5^2 has 7.4 times the efficiency of
    squared returns.
    """
    ranges = 0.5 * np.log(_ratio(high, low, "high", "low")) ** 2
    moves = np.log(_ratio(close, open, "close", "open")) ** 2
    return _annual(moving_average(ranges - (2.0 * math.log(2.0) - 1.0) * moves, window))


def yang_zhang(open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, window: int) -> np.ndarray:
    """Volatility (n,), nights and days together, whatever the drift: Yang & Zhang (2000), equations 7 and 10.

    V = V_overnight + k V_open_to_close + (1 - k) V_Rogers-Satchell, k = .34 / (1.34 + (m + 1) / (m - 1)), m = window.
    """
    whole_number("window", window, minimum=2)
    opened, closed = _series("open", open, window + 1), _series("close", close, window + 1)
    overnight = np.append(np.nan, np.log(opened[1:] / closed[:-1]))
    up, down = np.log(_ratio(high, opened, "high", "open")), np.log(_ratio(low, opened, "low", "open"))
    moved = np.log(_ratio(closed, opened, "close", "open"))
    within = up * (up - moved) + down * (down - moved)  # Rogers & Satchell (1991)
    k = 0.34 / (1.34 + (window + 1.0) / (window - 1.0))
    variance = _moving(overnight, window).var(axis=1, ddof=1) + k * _moving(moved, window).var(axis=1, ddof=1)
    variance += (1.0 - k) * moving_average(within, window)
    return _annual(variance)


def skewness(values: np.ndarray, window: int) -> np.ndarray:
    """Third central moment over the 3/2 power of the second, (n,), of the last `window` values; NaN if all are one."""
    return _standardised(values, window, 3)


def kurtosis(values: np.ndarray, window: int) -> np.ndarray:
    """Fourth central moment over the square of the second, (n,): 3 for a normal law. NaN if all values are one."""
    return _standardised(values, window, 4)


class TwoScales(NamedTuple):
    """What ticks tell of an efficient price and of the noise on it."""

    integrated_variance: float  # of the efficient log price, over the ticks' time
    noise_variance: float  # of the noise on each log price
    subgrids: int


def two_scales(price: np.ndarray, subgrids: int | None = None) -> TwoScales:
    """Integrated variance and variance of the noise from n + 1 ticks: Zhang, Mykland & Ait-Sahalia (2005).

    With [Y, Y] the sum of squares of all steps and [Y, Y]_K its mean over K interleaved subgrids of
    n' = (n - K + 1) / K steps each, noise = [Y, Y] / 2n, which holds a share of the true variance that fades with n,
    and

        <X, X> = ([Y, Y]_K - n' / n [Y, Y]) / (1 - n' / n),

    their equations 55 and 64. subgrids: K; None: (12 noise^2 / <X, X>^2)^(1/3) n^(2/3), their equation 58 for a
    constant volatility and even steps, from a first round at K = n^(2/3). Raises ValueError for fewer than 100 ticks.
    """
    logs = np.log(_series("price", price, 100))
    n = logs.size - 1
    all_steps = float((np.diff(logs) ** 2).sum())
    noise = all_steps / (2.0 * n)

    def at(k: int) -> float:
        steps = (n - k + 1.0) / k
        between = float(((logs[k:] - logs[:-k]) ** 2).sum()) / k
        return (between - steps / n * all_steps) / (1.0 - steps / n)

    if subgrids is None:
        first = max(at(math.ceil(n ** (2.0 / 3.0))), 1e-300)
        best = (12.0 * (noise / first) ** 2) ** (1.0 / 3.0) * n ** (2.0 / 3.0)
        subgrids = int(min(max(math.ceil(best), 2), n // 4))
    elif whole_number("subgrids", subgrids, minimum=2) > n // 4:
        raise ValueError(f"subgrids must be at most a quarter of the {n} steps, got {subgrids}")
    return TwoScales(at(subgrids), noise, subgrids)


def noise_share(price: np.ndarray, window: int, subgrids: int) -> np.ndarray:
    """1 - <X, X> / [Y, Y] of `two_scales` over the last `window` steps, (n,): the share of the squares that is noise.

    0 for a martingale, above where steps turn back, below where they go on; NaN where prices do not move. At most
    `window` / 4 subgrids, as there, and at least 99 steps.
    """
    logs = np.log(_series("price", price, whole_number("window", window, minimum=99) + 1))
    if whole_number("subgrids", subgrids, minimum=2) > window // 4:
        raise ValueError(f"subgrids must be at most a quarter of the {window} steps, got {subgrids}")
    count = window - subgrids + 1
    squares = np.append(np.full(1, np.nan), np.diff(logs) ** 2)
    longer = np.append(np.full(subgrids, np.nan), (logs[subgrids:] - logs[:-subgrids]) ** 2)
    all_steps, between = _moving(squares, window).sum(axis=1), _moving(longer, count).sum(axis=1) / subgrids
    steps = count / subgrids / window
    known = np.where(all_steps > 0.0, all_steps, np.nan)
    share: np.ndarray = 1.0 - (between / known - steps) / (1.0 - steps)
    return share


class Roughness(NamedTuple):
    """A Hurst exponent with the standard error of a jackknife over ten blocks of time."""

    hurst: float
    standard_error: float


def hurst_exponent(log_variance: np.ndarray, max_lag: int = 30) -> Roughness:
    """The Hurst exponent of the logarithm of a realised variance, Gatheral, Jaisson & Rosenbaum (2018), section 2.

    Means of |x_(t + lag) - x_t|^q go as lag^(q H): slopes of their logarithms on log lag, lag = 1 .. max_lag, are
    fitted for each q of .5, 1, 1.5, 2, 3, and H to those by least squares through 0. Errors of measurement in the
    variance make it look rougher than it is. Raises ValueError for fewer than 20 max_lag values, or a constant.
    """
    whole_number("max_lag", max_lag, minimum=2)
    values = _series("log_variance", log_variance, 20 * max_lag)
    lags = np.arange(1, max_lag + 1)
    centred = np.log(lags) - np.log(lags).mean()
    q = np.array(_MOMENTS)
    # the q-th powers of each lag's increments, summed over each block of time
    edges = np.linspace(0, values.size - max_lag, _BLOCKS + 1).astype(int)
    sums = np.empty((_BLOCKS, lags.size, q.size))
    for place, lag in enumerate(lags.tolist()):
        moves = np.abs(values[lag : lag + edges[-1]] - values[: edges[-1]])
        sums[:, place] = np.add.reduceat(moves[:, None] ** q, edges[:-1], axis=0)
    if not (sums.sum(axis=0) > 0).all():
        raise ValueError("log_variance must not be constant")

    def exponent(of: np.ndarray, count: int) -> float:
        slopes = centred @ np.log(of / count) / (centred @ centred)
        return float(slopes @ q / (q @ q))

    whole, counts = sums.sum(axis=0), np.diff(edges)
    without = np.array([exponent(whole - sums[block], edges[-1] - counts[block]) for block in range(_BLOCKS)])
    error = math.sqrt((_BLOCKS - 1.0) / _BLOCKS * float(((without - without.mean()) ** 2).sum()))
    return Roughness(exponent(whole, edges[-1]), error)


def trailing_hurst(log_variance: np.ndarray, window: int, max_lag: int) -> np.ndarray:
    """`hurst_exponent` of the last `window` values, (n,), at least 20 max_lag of them; NaN where they are constant."""
    whole_number("max_lag", max_lag, minimum=2)
    values = _series("log_variance", log_variance, whole_number("window", window, minimum=20 * max_lag))
    lags = np.arange(1, max_lag + 1)
    centred = np.log(lags) - np.log(lags).mean()
    q = np.array(_MOMENTS)
    starts = values.size - max_lag  # values from which every lag is known
    sums = np.empty((lags.size, values.size - window + 1, q.size))
    for place, lag in enumerate(lags.tolist()):
        moves = np.abs(values[lag : lag + starts] - values[:starts])
        total = np.concatenate([np.zeros((1, q.size)), np.cumsum(moves[:, None] ** q, axis=0)])
        sums[place] = total[window - max_lag :] - total[: values.size - window + 1]
        sums[place][sums[place] <= 1e-13 * total[-1]] = np.nan  # what rounding leaves of nothing
    slopes = np.einsum("l,lnq->nq", centred, np.log(sums)) / (centred @ centred)  # the count is no slope
    result = np.full(values.size, np.nan)
    result[window - 1 :] = slopes @ q / (q @ q)
    return result


def _series(name: str, values: np.ndarray, least: int) -> np.ndarray:
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or given.size < least:
        raise ValueError(f"{name} must hold at least {least} values in a row, got shape {given.shape}")
    return given


def _moving(values: np.ndarray, window: int, least: int = 1) -> np.ndarray:
    """The last `window` values at each place, (n, window); NaN where there are not as many."""
    given = _series("values", values, whole_number("window", window, minimum=least))
    padded = np.concatenate([np.full(window - 1, np.nan), given])
    return np.lib.stride_tricks.sliding_window_view(padded, window)


def _standardised(values: np.ndarray, window: int, power: int) -> np.ndarray:
    last = _moving(values, window, least=2)
    away = last - last.mean(axis=1, keepdims=True)
    second = (away * away).mean(axis=1)
    known = np.where(second > 1e-24 * (last * last).mean(axis=1), second, np.nan)
    moment: np.ndarray = (away**power).mean(axis=1) / known ** (0.5 * power)
    return moment


def _ratio(above: np.ndarray, below: np.ndarray, first: str, second: str) -> np.ndarray:
    over, under = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if over.shape != under.shape or over.ndim != 1:
        raise ValueError(f"{first} and {second} must be rows of equal length, got {over.shape} and {under.shape}")
    ratio: np.ndarray = over / under
    return ratio


def _annual(variance: np.ndarray) -> np.ndarray:
    volatility: np.ndarray = np.sqrt(TRADING_DAYS * np.maximum(variance, 0.0))
    return volatility
