"""The quotes of a day that a model is fitted to: out of the money, by expiry, thinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hedgerl.data.quotes import Expiry, out_of_the_money

LEAST = 5  # quotes of an expiry that is used
_DAYS = 365.0


@dataclass(frozen=True, eq=False)
class Slice:
    """Quotes of one expiry by increasing log-moneyness k = log(K / F), all out of the money, as volatilities a year.

    The bid's is NaN where the bid is worth less than any volatility makes the option.
    """

    root: str
    date: np.datetime64
    years: float
    forward: float
    discount: float
    k: np.ndarray  # (m,)
    bid: np.ndarray  # (m,)
    mid: np.ndarray  # (m,)
    ask: np.ndarray  # (m,)

    @property
    def half_spread(self) -> np.ndarray:
        """(m,): of the ask above the mid where the bid says nothing."""
        half: np.ndarray = np.where(np.isfinite(self.bid), 0.5 * (self.ask - self.bid), self.ask - self.mid)
        return half

    @property
    def label(self) -> str:
        """Root, date and days to expiry."""
        return f"{self.root} {self.date} ({self.years * _DAYS:.0f} d)"

    @property
    def at_the_money(self) -> float:
        """Volatility of the quote nearest to the forward price."""
        return float(self.mid[np.argmin(np.abs(self.k))])

    @property
    def swap_variance(self) -> float:
        """Total variance -2 E[log(S / F)] = int w(k) n(z) dz, z = -d_2 = k / sqrt(w) + sqrt(w) / 2 (Gatheral 2006,
        equation 11.5), with w linear between quotes and flat beyond: a first guess, as the wings are cut."""
        w = self.mid**2 * self.years
        wide = np.linspace(-8.0, 8.0, 401) * w[np.argmin(np.abs(self.k))] ** 0.5
        total = np.interp(wide, self.k, w)
        z = wide / np.sqrt(total) + 0.5 * np.sqrt(total)
        density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
        return float((0.5 * (total * density)[1:] + 0.5 * (total * density)[:-1]) @ np.diff(z))


def slices(
    expiries: Sequence[Expiry],
    *,
    days: tuple[float, float] = (10.0, 400.0),
    moneyness: tuple[float, float] = (-4.0, 2.5),
    n_expiries: int = 12,
    n_strikes: int = 25,
) -> list[Slice]:
    """The quotes to fit to, nearest expiry first.

    Expiries from days[0] to days[1]; of two roots that expire on one date, that with more quotes; where there are more
    than n_expiries, those nearest to an even ladder of log time. Strikes with k / (sigma sqrt(years)) within
    `moneyness`, sigma at the money; of these n_strikes, nearest to an even ladder. Quotes without a bid, with a NaN, or
    whose mid no volatility gives are left out, and expiries with fewer than five quotes.

    Raises ValueError where no expiry is left, saying what there is.
    """
    low, high = days
    if not 0 <= low < high:
        raise ValueError(f"days must be a number of days and a larger one, got {low:g} {high:g}")
    if not moneyness[0] < 0 < moneyness[1]:
        raise ValueError(f"moneyness must be a number below 0 and one above, got {moneyness[0]:g} {moneyness[1]:g}")
    if n_expiries < 1:
        raise ValueError(f"n_expiries must be at least 1, got {n_expiries}")
    if n_strikes < LEAST:
        raise ValueError(f"n_strikes must be at least {LEAST}, got {n_strikes}")
    inside = [each for each in expiries if low <= each.years * _DAYS <= high]
    by_date: dict[np.datetime64, Slice] = {}
    sizes: dict[np.datetime64, int] = {}
    for each in inside:
        found = _slice(each, moneyness)
        if found is not None and found.k.size > sizes.get(each.date, 0):
            by_date[each.date], sizes[each.date] = found, found.k.size
    if not by_date:
        known = ", ".join(f"{each.years * _DAYS:.0f}" for each in expiries) or "none"
        raise ValueError(
            f"days {low:g} to {high:g} must hold an expiry with {LEAST} quotes out of the money at least; expiries "
            f"with forward prices are {known} days ahead"
        )
    found_slices = sorted(by_date.values(), key=lambda each: each.years)
    logs = np.log([each.years for each in found_slices])
    kept = _spread_out(logs, n_expiries)
    return [_thinned(found_slices[place], n_strikes) for place in kept]


class Carry(NamedTuple):
    """Constants that a model has for what the chain has by expiry."""

    rate: float  # per year, continuously compounded
    dividend: float  # yield per year, continuously compounded
    spot: float  # that the forward prices start from
    forward_error: float  # largest |log| of a slice's forward price over that of the constants


def carry(of: Sequence[Slice], spot: float) -> Carry:
    """rate, dividend and spot by least squares: log D = -rate T, and log F = log spot + (rate - dividend) T.

    Index options are quoted later than their index, so that the spot follows from the forwards where there are three or
    more; with fewer it is the one given.
    """
    years = np.array([each.years for each in of])
    forward, discount = (np.log([getattr(each, name) for each in of]) for name in ("forward", "discount"))
    rate = -float(years @ discount) / float(years @ years)
    if len(of) < 3:
        growth = float(years @ (forward - np.log(spot))) / float(years @ years)
        start = float(np.log(spot))
    else:
        growth, start = (float(each) for each in np.polyfit(years, forward, 1))
    error = float(np.abs(forward - start - growth * years).max())
    return Carry(rate, rate - growth, float(np.exp(start)), error)


def _slice(of: Expiry, moneyness: tuple[float, float]) -> Slice | None:
    quotes = out_of_the_money(of)
    mid, k = quotes["volatility"], np.log(quotes["strike"] / of.forward)
    good = np.isfinite(mid) & np.isfinite(quotes["volatility_ask"]) & (mid > 0)
    if good.sum() < LEAST:
        return None
    deviation = mid[good][np.argmin(np.abs(k[good]))] * of.years**0.5
    good &= (k >= moneyness[0] * deviation) & (k <= moneyness[1] * deviation)
    if good.sum() < LEAST:
        return None
    values = (k, quotes["volatility_bid"], mid, quotes["volatility_ask"])
    return Slice(of.root, of.date, of.years, of.forward, of.discount, *(each[good] for each in values))


def _thinned(of: Slice, size: int) -> Slice:
    kept = _spread_out(of.k, size)
    values = (of.k, of.bid, of.mid, of.ask)
    return Slice(of.root, of.date, of.years, of.forward, of.discount, *(each[kept] for each in values))


def _spread_out(values: np.ndarray, size: int) -> np.ndarray:
    """Places of at most `size` of the increasing values, nearest to an even ladder from the first to the last."""
    if values.size <= size:
        return np.arange(values.size)
    ladder = np.linspace(values[0], values[-1], size)
    return np.unique([int(np.abs(values - step).argmin()) for step in ladder])
