"""Tails of a sample of profit and loss: value at risk, conditional value at risk, entropic risk."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import device

from hedgerl.pricing._checks import in_interval, positive
from hedgerl.risk.sample import sample

Array = Any


def value_at_risk(pnl: Array, level: float = 0.95) -> Array:
    """The loss that is not exceeded with probability `level`, (..., n) -> (...), in the unit of `pnl`.

    The lower quantile of the empirical distribution of losses, VaR = min {l : P(loss <= l) >= level}: an outcome of
    the sample, without interpolation, and the lower end of the minimisers of Rockafellar & Uryasev (2000), whose
    minimum is `cvar`. Positive is a loss.

    >>> float(value_at_risk([-10.0, -2.0, 1.0, 3.0], level=0.75))
    2.0

    Raises ValueError for an empty or non-finite sample, or a level outside (0, 1).
    """
    xp, x = sample("pnl", pnl)
    whole = math.floor(tail_mass(int(x.shape[-1]), level))
    return -xp.sort(x, axis=-1)[..., min(whole, int(x.shape[-1]) - 1)]


def cvar(pnl: Array, level: float = 0.95) -> Array:
    """The mean loss in the worst 1 - level of outcomes, (..., n) -> (...), in the unit of `pnl`. Positive is a loss.

    The boundary outcome is weighted by the part of it that lies in the tail, so that it holds for any sample size
    and equals the minimum over c of c + E[(loss - c)+] / (1 - level) (Rockafellar & Uryasev 2002, prop. 8, th. 10):

        CVaR = (1/m) [ L_(1) + ... + L_(k) + (m - k) L_(k+1) ],   m = (1 - level) n,  k = floor(m),

    where L_(1) >= L_(2) >= ... are the losses -pnl. Also called expected shortfall.

    >>> float(cvar([-10.0, -2.0, 1.0, 3.0], level=0.5))
    6.0
    >>> round(float(cvar([-10.0, -2.0, 1.0, 3.0], level=0.6)), 12)  # (10 + 0.6 * 2) / 1.6
    7.0

    Raises ValueError for an empty or non-finite sample, or a level outside (0, 1).
    """
    xp, x = sample("pnl", pnl)
    weights = tail_weights(int(x.shape[-1]), level)
    worst = xp.sort(x, axis=-1)[..., : weights.size]
    return -xp.sum(worst * xp.asarray(weights, dtype=xp.float64, device=device(x)), axis=-1)


def tail_weights(n: int, level: float) -> np.ndarray:
    """Weights of the worst outcomes, worst first, that make CVaR of n outcomes: they sum to 1; the rest weighs 0."""
    mass = tail_mass(n, level)
    weights = np.clip(mass - np.arange(min(n, math.floor(mass) + 1)), 0.0, 1.0)
    return weights / weights.sum()


def tail_mass(n: int, level: float) -> float:
    """(1 - level) n outcomes, as a whole number where it is one but for rounding: 1 - .95 is .050000000000000044."""
    mass = (1.0 - in_interval("level", level, 0.0, 1.0)) * n
    return float(round(mass)) if abs(mass - round(mass)) < 1e-9 * n else mass


def entropic_risk(pnl: Array, aversion: float = 1.0) -> Array:
    """(1/a) log E[exp(-a pnl)], (..., n) -> (...), in the unit of `pnl`. Positive is a loss.

    The certain loss that an investor of exponential utility with risk aversion a (per unit of P&L) finds as bad as
    the gamble (Foellmer & Schied 2016, example 4.13); for normal P&L it is -mean + a variance / 2. It lies between
    the mean loss and the largest, by which the exponent is shifted, so that nothing overflows.

    >>> round(float(entropic_risk([-1.0, 1.0])), 6)  # log cosh 1
    0.433781

    Raises ValueError for an empty or non-finite sample, or an aversion that is not positive.
    """
    a = positive("aversion", aversion)
    xp, x = sample("pnl", pnl)
    worst = xp.min(x, axis=-1, keepdims=True)
    return xp.log(xp.mean(xp.exp(-a * (x - worst)), axis=-1)) / a - worst[..., 0]
