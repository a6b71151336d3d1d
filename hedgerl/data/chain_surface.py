"""The volatility surface of one day's option chain, without butterflies and without calendar spreads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from hedgerl.data import ssvi, svi
from hedgerl.data.quotes import Expiry, out_of_the_money
from hedgerl.data.ssvi import SSVISmile
from hedgerl.data.svi import SVI, Quotes
from hedgerl.pricing import implied_volatility

SMILES = ("svi", "ssvi")
SHORTEST = 1.0 / 365.0  # years of an expiry that is fitted: of the last hours quotes tell little
FEWEST = 5  # quotes of an expiry that is fitted
_POINTS = 5001  # of an expiry at which arbitrage is looked for
_ENDS = 401  # points at which the end of a smile is looked for
_ROUNDING = 1e-10  # relative, of a difference quotient of prices
_NOTHING = 1e-300  # of the forward price: what costs less has no implied volatility


@dataclass(frozen=True, eq=False)
class Slice:
    """An expiry of a chain and the smile that was fitted to it."""

    root: str
    date: np.datetime64
    years: float
    forward: float
    discount: float
    quotes: Quotes  # of the options out of the money
    smile: SVI | SSVISmile

    @cached_property
    def reach(self) -> tuple[float, float]:
        """The log-moneyness up to which the smile is used: that of the lowest and of the highest strike quoted.

        Less, where the price of the put does not grow at least as its strike there or that of the call does not fall:
        no convex price could go on from it.
        """
        shares = np.linspace(1.0, 0.0, _ENDS)
        low, high = min(float(self.quotes.k.min()), -1e-6) * shares, max(float(self.quotes.k.max()), 1e-6) * shares
        return float(low[(self._power(low) >= 1.0).argmax()]), float(high[(self._power(high) < 0.0).argmax()])

    @cached_property
    def powers(self) -> tuple[float, float]:
        """d log(price) / d log(strike) of the put at the left end of the reach, and of the call at the right."""
        put, call = self._power(np.array(self.reach)).tolist()
        return put, call

    def _power(self, k: np.ndarray) -> np.ndarray:
        """d log(price) / d log(strike) of the option out of the money, (m,)."""
        w, slope, _ = self.smile(k)
        deviation, sign = np.sqrt(w), np.where(k > 0, 1.0, -1.0)
        d1 = -k / deviation + 0.5 * deviation
        by_deviation = np.exp(-0.5 * d1 * d1) / np.sqrt(2.0 * np.pi)
        by_k = -sign * np.exp(k) * special.ndtr(sign * (d1 - deviation)) + by_deviation * slope / (2.0 * deviation)
        power: np.ndarray = by_k / np.maximum(_normalised(k, deviation, sign), _NOTHING)
        return power

    def total_variance(self, k: np.ndarray) -> np.ndarray:
        """w of the smile, and beyond its reach of prices that go on as powers of the strike; 0 where they vanish."""
        low, high = self.reach
        inner = np.clip(k, low, high)
        w = self.smile(inner).value
        beyond = k != inner
        if beyond.any():
            edge, far = inner[beyond], k[beyond]
            sign = np.where(far > 0, 1.0, -1.0)
            power = np.where(far > 0, self.powers[1], self.powers[0])
            price = _normalised(edge, np.sqrt(w[beyond]), sign) * np.exp(power * (far - edge))
            worth = price > _NOTHING
            implied = implied_volatility(np.where(worth, price, np.nan), 1.0, np.exp(far), 1.0, is_call=sign > 0)
            w[beyond] = np.where(worth, np.asarray(implied) ** 2, 0.0)
        return w


class SliceError(NamedTuple):
    """How a surface fits the quotes of one expiry; volatilities are decimal."""

    root: str
    date: str
    years: float
    forward: float
    at_the_money: float  # volatility
    quotes: int
    inside: float  # share of the quotes between whose bid and ask the surface lies
    root_mean_square: float  # of surface less mid, in volatility
    worst: float  # distance from the mid, in halves of the spread
    raised: float  # most that an earlier expiry raises this one, in volatility at its quotes


class Arbitrage(NamedTuple):
    """Points of a grid at which a surface could be arbitraged."""

    points: int
    butterflies: int  # prices of an expiry are not convex in strike
    calendars: int  # total variance is less than that of an earlier expiry


@dataclass(frozen=True, eq=False)
class ChainSurface:
    """Total implied variance w(k, t) of a chain at log-moneyness k = log(K / F(t)), up to the last expiry.

    At an expiry w is the largest of the smiles fitted up to then, its own included. At a fixed k the price of a call in
    units of its forward price grows with w, so that this is the largest of functions that are convex in strike, which
    is convex as well: no butterfly, and no calendar spread, as it can only grow from one expiry to the next (Gatheral &
    Jacquier 2014, lemma 2.1). Where smiles do not cross nothing is changed; where they do, mostly where options are not
    quoted, the smile has a kink.

    Between expiries prices in units of the forward price are combined at fixed k, with weights that make the total
    deviation at the money the square root of a linear total variance (lemma 5.1 there); before the first, w falls in
    proportion to time. Neither brings arbitrage.
    """

    underlying: str
    date: np.datetime64
    slices: tuple[Slice, ...]  # by time left
    years: np.ndarray = field(init=False, repr=False)  # of each, (n,)

    def __post_init__(self) -> None:
        if not self.slices:
            raise ValueError("slices must be one at least, got none")
        years = np.array([each.years for each in self.slices])
        if not (np.diff(years) >= 0).all():
            raise ValueError("slices must be in the order of their years")
        object.__setattr__(self, "years", years)

    def at_expiry(self, number: int, k: np.ndarray) -> np.ndarray:
        """w at the expiry of that number, of the shape of k."""
        result: np.ndarray = np.max([each.total_variance(k) for each in self.slices[: number + 1]], axis=0)
        return result

    def total_variance(self, k: Any, years: Any) -> np.ndarray:
        """w(k, t), of the broadcast shape. Raises ValueError for times not above 0 or beyond the last expiry."""
        given, times = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(years, np.float64))
        for value in times[~((times > 0) & (times <= self.years[-1]))][:1]:
            raise ValueError(f"years must lie above 0 and up to the last expiry, {self.years[-1]:.6g}, got {value:g}")
        result = np.empty(given.shape)
        after = np.searchsorted(self.years, times, side="left")  # the first expiry that is not before the time
        for number in np.unique(after).tolist():
            here = after == number
            result[here] = self._between(number, given[here], times[here])
        return result

    def implied_volatility(self, k: Any, years: Any) -> np.ndarray:
        """sqrt(w / t), of the broadcast shape."""
        return np.sqrt(self.total_variance(k, years) / np.asarray(years))

    def forward(self, years: Any) -> np.ndarray:
        """Forward prices, log-linear between expiries; before the first its own."""
        levels = np.log([each.forward for each in self.slices])
        return np.exp(np.interp(np.asarray(years, np.float64), self.years, levels))

    def discount(self, years: Any) -> np.ndarray:
        """Discount factors, log-linear from 1 at no time."""
        levels = [0.0, *(np.log(each.discount) for each in self.slices)]
        return np.exp(np.interp(np.asarray(years, np.float64), [0.0, *self.years], levels))

    def price(self, strike: Any, years: Any, is_call: Any = True) -> np.ndarray:
        """Prices of European options, of the broadcast shape."""
        strike, forward = np.asarray(strike, np.float64), self.forward(years)
        k = np.log(strike / forward)
        deviation = np.sqrt(self.total_variance(k, years))
        sign = np.where(is_call, 1.0, -1.0)
        return self.discount(years) * forward * _normalised(k, deviation, sign)

    def errors(self) -> list[SliceError]:
        """How each expiry is fitted."""
        return [self._error(number) for number in range(len(self.slices))]

    def arbitrage(self, points: int = _POINTS) -> Arbitrage:
        """Looks for arbitrage at each expiry, at so many points within its reach and as many over that of all."""
        butterflies = calendars = 0
        before: np.ndarray | None = None
        k = np.linspace(min(each.reach[0] for each in self.slices), max(each.reach[1] for each in self.slices), points)
        for number, each in enumerate(self.slices):
            own = np.linspace(*each.reach, points)
            for at in (own, k):
                butterflies += _concave(at, self.at_expiry(number, at))
            now = self.at_expiry(number, k)
            if before is not None:
                calendars += int((now < before).sum())
            before = now
        return Arbitrage(2 * points * len(self.slices), butterflies, calendars)

    def _between(self, number: int, k: np.ndarray, years: np.ndarray) -> np.ndarray:
        """w at times after the expiry before this one and up to it."""
        later = self.at_expiry(number, k)
        if number == 0:
            return later * (years / self.years[0])
        earlier = self.at_expiry(number - 1, k)
        first, last = self.years[number - 1 : number + 1]
        if last <= first:
            return later
        levels = [float(self.at_expiry(place, np.zeros(1))[0]) for place in (number - 1, number)]
        share = (years - first) / (last - first)
        low, high = np.sqrt(levels)
        now = np.sqrt(levels[0] + share * (levels[1] - levels[0]))
        weight = np.clip((now - low) / (high - low), 0.0, 1.0) if high > low else share
        sign = np.where(k >= 0, 1.0, -1.0)  # the option out of the money; parity is the same for both expiries
        price = (1.0 - weight) * _normalised(k, np.sqrt(earlier), sign) + weight * _normalised(k, np.sqrt(later), sign)
        worth = price > _NOTHING
        implied = implied_volatility(np.where(worth, price, np.nan), 1.0, np.exp(k), 1.0, is_call=sign > 0)
        # rounding must not take w out of what it lies between
        inverted = np.clip(np.asarray(implied) ** 2, earlier, later)
        return np.where(worth, inverted, (1.0 - weight) * earlier + weight * later)

    def _error(self, number: int) -> SliceError:
        each = self.slices[number]
        k, ask, low = each.quotes.k, each.quotes.ask, each.quotes.low
        own = np.sqrt(each.smile(k).value / each.years)
        fitted = np.sqrt(self.at_expiry(number, k) / each.years)
        distance = fitted - each.quotes.middle
        return SliceError(
            root=each.root,
            date=str(each.date),
            years=each.years,
            forward=each.forward,
            at_the_money=float(self.at_expiry(number, np.zeros(1))[0] / each.years) ** 0.5,
            quotes=k.size,
            inside=float(((fitted <= ask) & (fitted >= low)).mean()),
            root_mean_square=float((distance**2).mean() ** 0.5),
            worst=float((np.abs(distance) / np.maximum(0.5 * (ask - low), 1e-12)).max()),
            raised=float((fitted - own).max()),
        )


def fit(given: Sequence[Expiry], underlying: str = "", date: Any = "NaT", smiles: str = "svi") -> ChainSurface:
    """The surface of the expiries of a chain (`hedgerl.data.quotes.expiries`).

    smiles: "svi", each expiry by itself (`hedgerl.data.svi.fit`), close to the quotes; or "ssvi", all together with
    three numbers and a level for each (`hedgerl.data.ssvi.fit`), smooth and coarse.

    Left out are expiries of less than a day and those with fewer than five quotes out of the money that imply a
    volatility. Raises ValueError where none is left, and for other smiles.
    """
    if smiles not in SMILES:
        raise ValueError(f"smiles must be one of {', '.join(SMILES)}, got {smiles!r}")
    found = list(usable(given))
    if not found:
        raise ValueError(f"chain must have an expiry with {FEWEST} quotes out of the money, got none of {len(given)}")
    fitted: Sequence[SVI | SSVISmile]
    if smiles == "svi":
        fitted = [svi.fit(quotes, each.years) for each, quotes in found]
    else:
        fitted = ssvi.fit([quotes for _, quotes in found], [each.years for each, _ in found])
    slices = tuple(
        Slice(each.root, each.date, each.years, each.forward, each.discount, quotes, smile)
        for (each, quotes), smile in zip(found, fitted, strict=True)
    )
    return ChainSurface(underlying, np.datetime64(date, "D"), slices)


def usable(given: Sequence[Expiry]) -> Iterator[tuple[Expiry, Quotes]]:
    """The expiries that can be fitted, by time left, with their quotes out of the money."""
    for each in sorted(given, key=lambda one: one.years):
        found = out_of_the_money(each)
        good = np.isfinite(found["volatility_ask"])
        if each.years >= SHORTEST and good.sum() >= FEWEST:
            k = np.log(found["strike"] / each.forward)[good]
            yield each, Quotes(k, found["volatility_bid"][good], found["volatility_ask"][good])


def _concave(k: np.ndarray, w: np.ndarray) -> int:
    """How often the price of the option out of the money is not convex in strike, beyond rounding."""
    found = 0
    for side in (k < 0, k > 0):
        strike = np.exp(k[side])
        price = _normalised(k[side], np.sqrt(w[side]), np.sign(k[side]))
        slope = np.diff(price) / np.diff(strike)
        rounding = 1e-13 * (price / strike)[1:-1] / np.diff(k[side])[1:]
        found += int((np.diff(slope) < -_ROUNDING * np.abs(slope[1:]) - rounding).sum())
    return found


def _normalised(k: np.ndarray, deviation: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Price of an option over discount factor and forward price: sign {N(sign d1) - e^k N(sign d2)}."""
    d1 = -k / deviation + 0.5 * deviation
    price: np.ndarray = sign * (special.ndtr(sign * d1) - np.exp(k) * special.ndtr(sign * (d1 - deviation)))
    return np.maximum(price, 0.0)
