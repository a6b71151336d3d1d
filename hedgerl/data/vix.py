"""The VIX from quotes of S&P 500 options, by the exchange's own rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hedgerl.data.quotes import Expiry, expiries

WEEKLIES_FROM = np.datetime64("2014-10-06")  # before that monthly options alone, the nearest a week ahead at least
_MONTH = 30.0 / 365.0
_FRIDAY = 4

RateOf = Callable[[float], float]  # years -> rate per year, continuously compounded


@dataclass(frozen=True)
class Vix:
    """The index, in percent points, and the two expiries that it comes from."""

    value: float
    variances: tuple[float, float]  # per year
    years: tuple[float, float]
    expiries: tuple[np.datetime64, np.datetime64]


def vix(chain: pd.DataFrame, rate: RateOf, *, at: str = "16:15", weeklies: bool | None = None) -> Vix:
    """The VIX of a chain of S&P 500 options of one day: Cboe, "Volatility Index Methodology".

    For each of two expiries about 30 days ahead

        sigma^2 = 2 / T sum_i dK_i / K_i^2 e^{RT} Q(K_i) - (F / K_0 - 1)^2 / T,

    over options out of the money with a bid, up to two strikes in a row without one, F from the strike where call and
    put are nearest, K_0 the first strike below it; the index is the variance interpolated to 30 days.

    Expiries are Fridays: those of SPX on the third of a month, of SPXW on the others.

    rate: the Treasury rate R. weeklies: whether weekly expiries count; None: from October 2014 on. Raises ValueError
    where no two expiries are on either side of 30 days.
    """
    day = np.datetime64(pd.Timestamp(chain["quote_date"].iloc[0]), "D")
    weekly = day >= WEEKLIES_FROM if weeklies is None else weeklies
    every = [each for each in expiries(chain, at=at) if weekly or _monthly(each)]
    days_ahead = [(each.date - day) / np.timedelta64(1, "D") for each in every]
    if weekly:
        usable = [
            each
            for each, ahead in zip(every, days_ahead, strict=True)
            if 23 <= ahead <= 37
            and pd.Timestamp(each.date).weekday() == _FRIDAY
            and _third_friday(each.date) == (each.root == "SPX")
        ]
    else:
        usable = [each for each, ahead in zip(every, days_ahead, strict=True) if ahead > 7][:2]
    near = [each for each in usable if each.years <= _MONTH] if weekly else usable[:1]
    later = [each for each in usable if each.years > _MONTH] if weekly else usable[1:2]
    if not near or not later:
        raise ValueError(f"chain must have expiries on either side of 30 days for a VIX, got {len(usable)} about it")
    terms = near[-1], later[0]
    variances = [_variance(each, rate(each.years)) for each in terms]
    (t1, t2), (v1, v2) = (each.years for each in terms), variances
    total = t1 * v1 * (t2 - _MONTH) / (t2 - t1) + t2 * v2 * (_MONTH - t1) / (t2 - t1)
    return Vix(100.0 * math.sqrt(total / _MONTH), (v1, v2), (t1, t2), (terms[0].date, terms[1].date))


def _monthly(of: Expiry) -> bool:
    return of.root == "SPX"


def _third_friday(date: np.datetime64) -> bool:
    stamp = pd.Timestamp(date)
    return stamp.weekday() == _FRIDAY and 15 <= stamp.day <= 21


def _variance(of: Expiry, rate: float) -> float:
    grown = math.exp(rate * of.years)
    mid, strike = of.mid, of.strike
    both = np.isfinite(mid).all(axis=0)
    gap = np.where(both, mid[0] - mid[1], np.inf)
    centre = int(np.argmin(np.abs(gap)))
    forward = float(strike[centre] + grown * gap[centre])
    first = int(np.searchsorted(strike, forward, side="right")) - 1  # K_0
    chosen = [(strike[first], 0.5 * (mid[0, first] + mid[1, first]))]
    for side, places in ((1, range(first - 1, -1, -1)), (0, range(first + 1, strike.size))):
        without = 0
        for place in places:
            bid = of.bid[side, place]
            if not bid > 0:  # nor quoted at all
                without += 1
                if without == 2:
                    break
                continue
            without = 0
            chosen.append((strike[place], mid[side, place]))
    k, price = (np.array(values) for values in zip(*sorted(chosen), strict=True))
    if k.size < 3:
        raise ValueError(f"expiry {of.date} must have three strikes with bids for a VIX, got {k.size}")
    widths = np.gradient(k)  # half the way from one neighbour to the other; at the ends to the only one
    strip = float((widths / k**2 * grown * price).sum())
    return 2.0 / of.years * strip - (forward / float(strike[first]) - 1.0) ** 2 / of.years
