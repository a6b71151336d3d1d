"""Measures of a sample of profit and loss, one number a path or month."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hedgerl.pricing._checks import in_interval


def cvar(pnl: ArrayLike, confidence: float = 0.95) -> float:
    """Conditional value at risk: the mean loss in the worst 1 - confidence of outcomes. Positive is a loss.

    The empirical distribution's tail mean, with the boundary observation weighted by the part of it that lies in the
    tail, so that it holds for any sample size (Rockafellar & Uryasev 2002, Proposition 8):

        CVaR = (1/m) [ L_(1) + ... + L_(k) + (m - k) L_(k+1) ],   m = (1 - confidence) n,  k = floor(m),

    where L_(1) >= L_(2) >= ... are the losses -pnl.

    >>> cvar([-10.0, -2.0, 1.0, 3.0], confidence=0.5)
    6.0
    >>> round(cvar([-10.0, -2.0, 1.0, 3.0], confidence=0.6), 12)  # (10 + 0.6 * 2) / 1.6
    7.0

    Raises ValueError for an empty or non-finite sample, or a confidence outside (0, 1).
    """
    losses = -np.sort(_sample(pnl))
    tail = (1.0 - in_interval("confidence", confidence, 0.0, 1.0)) * losses.size
    weights = np.clip(tail - np.arange(losses.size), 0.0, 1.0)
    return float(losses @ weights / weights.sum())


@dataclass(frozen=True)
class Summary:
    """Measures of one hedge on one market. Money is in the unit of the P&L given."""

    count: int
    mean: float
    mean_se: float  # standard error of the mean
    sd: float  # of the sample, with n - 1
    cvar: float  # a loss is positive
    cost: float  # mean trading cost
    premium: float  # mean premium received


def summarise(pnl: ArrayLike, cost: ArrayLike, premium: ArrayLike, confidence: float = 0.95) -> Summary:
    """Mean, standard deviation and tail of the P&L of a sample, with its mean cost and premium.

    Each argument is (n,): one number a path or month. Raises ValueError for fewer than two of them.
    """
    sample = _sample(pnl)
    if sample.size < 2:
        raise ValueError(f"pnl must have at least two observations, got {sample.size}")
    sd = float(sample.std(ddof=1))
    return Summary(
        count=sample.size,
        mean=float(sample.mean()),
        mean_se=sd / sample.size**0.5,
        sd=sd,
        cvar=cvar(sample, confidence),
        cost=float(np.mean(np.asarray(cost, dtype=np.float64))),
        premium=float(np.mean(np.asarray(premium, dtype=np.float64))),
    )


def _sample(pnl: ArrayLike) -> np.ndarray:
    sample = np.asarray(pnl, dtype=np.float64).ravel()
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"pnl must be a non-empty sample of finite numbers, got {sample}")
    return sample
