"""A long history made of a short one: the days of a window drawn again, for learners that need more than it holds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.signal import lfilter

from hedgerl.data import DailySeries
from hedgerl.data.volatility import TRADING_DAYS
from hedgerl.pricing._checks import positive, whole_number
from hedgerl.sim import History
from hedgerl.sim.noise import generator

BLOCK_DAYS = 10  # mean length of what is drawn together: shocks come in clusters
LONG_BLOCK_DAYS = 63  # without a VIX, where clusters are all there is of a changing volatility
LEVEL_DAYS = 252  # mean time for which the level stays
LEAST_DAYS = 60  # of a window
_REVERSION = (1.0 / TRADING_DAYS, 0.2)  # per day
_VIX = (5.0, 150.0)  # percent points


def resampled(history: History, n_days: int, seed: int, *, widen: float = 2.0) -> History:
    """A history of `n_days` days with the shocks of `history`'s days, on the same surface: what comes next is random,
    but moves as the window moved.

    With a VIX, filtered historical simulation (Barone-Adesi, Giannopoulos & Vosper 1999) with the VIX as the filter:

        z_t = log(S_t / S_{t-1}) / sigma_{t-1},    sigma = VIX / 100 / sqrt(252),    less its mean
        u_t = x_t - x_{t-1} - k (m - x_{t-1}),     x = log VIX, m its mean, k by least squares

    are drawn in pairs, so that volatility rises when prices fall, and that it is dearer than what is realised, is as in
    the window. Then x and S are built up again: x reverts to m + a, and returns are sigma z - sigma^2 E[z^2] / 2, which
    leaves no drift to be earned. Without a VIX the returns themselves are drawn, in longer blocks, and scaled by e^a.

    a is drawn anew every `LEVEL_DAYS` days in the mean, evenly from [-log widen, log widen]: a network that has seen
    only calm years would meet a crisis far outside of what it was fitted on. Blocks are those of the stationary
    bootstrap (Politis & Romano 1994).

    Rates are one number, their mean over the window. Raises ValueError for a window of fewer than `LEAST_DAYS` days.
    """
    whole_number("n_days", n_days, minimum=2)
    if positive("widen", widen) < 1.0:
        raise ValueError(f"widen must be at least 1, got {widen!r}")
    series, first, last = history.series, *window(history)
    if last - first < LEAST_DAYS:
        raise ValueError(f"history must have {LEAST_DAYS} days with a surface to be resampled, got {last - first}")
    rng = generator(seed, "resampled history", 0)
    returns = np.diff(np.log(series.close[first:last]))
    level = math.log(widen) * _held(rng.uniform(-1.0, 1.0, n_days), rng, LEVEL_DAYS)
    by_vix = series.vix is not None and history.surface.level in ("auto", "vix")
    vix = None
    if by_vix:
        assert series.vix is not None
        x = np.log(series.vix[first:last])
        z = returns / _daily(x[:-1])
        mean = float(x.mean())
        gap = mean - x[:-1]
        reversion = float(np.clip((np.diff(x) @ gap) / (gap @ gap), *_REVERSION))
        u = np.diff(x) - reversion * gap
        z, u = z - z.mean(), u - u.mean()
        drawn = _blocks(z.size, n_days, BLOCK_DAYS, rng)
        pull = reversion * (mean + level) + u[drawn]
        path, _ = lfilter([1.0], [1.0, reversion - 1.0], pull, zi=[(1.0 - reversion) * mean])
        path = np.clip(path, *np.log(_VIX))
        vix, sigma = np.exp(path), _daily(np.append(mean, path[:-1]))
        moves = sigma * z[drawn] - 0.5 * float((z * z).mean()) * sigma**2
    else:
        z = returns - returns.mean()
        moves = np.exp(level) * z[_blocks(z.size, n_days, LONG_BLOCK_DAYS, rng)]
        moves = moves - 0.5 * float((z * z).mean()) * np.exp(2.0 * level)
    rate = history.rate
    if rate == "series":
        assert series.rate is not None
        rate = float(np.nanmean(series.rate[first:last]))
    made = DailySeries(
        f"{series.name} resampled",
        series.dates[first] + np.arange(n_days),
        100.0 * np.exp(np.cumsum(moves)),
        vix=vix,
    )
    return dataclasses.replace(history, series=made, rate=rate, start=None, end=None, name=made.name)


def window(history: History) -> tuple[int, int]:
    """The first day and the day after the last on which a window of `history` may lie, as indices into its series."""
    starts = history.starts(1, every=1)
    return int(starts[0]), int(starts[-1]) + 2


def _daily(log_vix: np.ndarray) -> np.ndarray:
    deviation: np.ndarray = np.exp(log_vix) / 100.0 / math.sqrt(TRADING_DAYS)
    return deviation


def _blocks(n: int, length: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Indices (length,) into n values on a circle, in blocks of geometric length with that mean."""
    fresh = rng.random(length) < 1.0 / mean
    fresh[0] = True
    places = np.where(fresh, rng.integers(0, n, length), 0)
    since = np.arange(length) - np.maximum.accumulate(np.where(fresh, np.arange(length), 0))
    indices: np.ndarray = (places[np.maximum.accumulate(np.where(fresh, np.arange(length), 0))] + since) % n
    return indices


def _held(values: np.ndarray, rng: np.random.Generator, mean: float) -> np.ndarray:
    """The values (n,), each held for a geometric time with that mean."""
    fresh = rng.random(values.size) < 1.0 / mean
    fresh[0] = True
    held: np.ndarray = values[np.maximum.accumulate(np.where(fresh, np.arange(values.size), 0))]
    return held
