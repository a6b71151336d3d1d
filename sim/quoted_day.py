"""One day of stored option quotes: carry by parity, implied volatilities, and the smile between and beyond them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from hedgerl.data.quotes import YEAR, expiries, settlement, time_of_day
from hedgerl.pricing import Greeks, black_scholes, implied_volatility

MONTH = 30 / 365  # years
_WIDE = 0.7  # |log(K / S)| beyond which quotes are not read
_NEIGHBOURS = 12  # quotes that a point of the smile is fitted to
_Z, _U = 0.1, 0.5  # units of distance: in log(K / F) / sqrt(T), and in log T
_NOISE = 0.005  # of a quoted volatility, beside half its spread
_RIDGE = 1e-3  # of the slopes, so that quotes of one expiry, or three in all, are enough


class QuotedContract(NamedTuple):
    """A listed option: what is written on it does not change."""

    root: str
    expiry: np.datetime64  # day
    strike: float
    is_call: bool

    def __str__(self) -> str:
        return f"{self.root} {self.expiry} {self.strike:g} {'C' if self.is_call else 'P'}"


@dataclass(frozen=True, eq=False)
class QuoteDay:
    """The quotes of one underlying and day. Arrays are (m,), a quote each; years are of 365 days."""

    date: np.datetime64  # day
    minute: np.datetime64  # of the quotes
    spot: float
    rate: float  # per year, continuously compounded, where parity tells none
    dividend: float  # yield per year
    contracts: tuple[QuotedContract, ...]
    bid: np.ndarray
    ask: np.ndarray
    carry: dict[tuple[str, np.datetime64], tuple[float, float]] = field(repr=False)  # (root, expiry) -> rate, spot

    @classmethod
    def read(cls, chain: pd.DataFrame, *, at: str, rate: float, dividend: float, max_years: float) -> QuoteDay:
        """The day of a chain as `hedgerl.data.chains.Store` gives it: up to `max_years`, near enough the spot.

        at: time of the quotes. A forward price comes from put-call parity, `hedgerl.data.quotes.expiries`, where the
        options are European and an expiry has three strikes with both rights; elsewhere rate and dividend are the
        ones given.
        """
        date = np.datetime64(pd.Timestamp(chain["quote_date"].iloc[0]), "D")
        now = date.astype("datetime64[m]") + time_of_day(at)
        spot = float(chain["underlying_price"].median())
        last = np.datetime64(now, "D") + np.timedelta64(math.ceil(365 * max_years), "D")
        near = (chain["expiry"].to_numpy() <= last) & (np.abs(np.log(chain["strike"] / spot)) <= _WIDE)
        chain = chain[near & np.isfinite(spot)]
        carry = {}
        if len(chain) and (chain["style"] == "E").all():
            for each in expiries(chain, at=at, rate=None):
                own = -math.log(each.discount) / each.years
                carry[each.root, each.date] = own, each.forward * math.exp((dividend - own) * each.years)
        columns = (chain[name].to_numpy() for name in ("root", "expiry", "strike", "right"))
        contracts = [
            QuotedContract(str(root), np.datetime64(expiry, "D"), float(strike), right == "C")
            for root, expiry, strike, right in zip(*columns, strict=True)
        ]
        alive = np.array([settles_at(each) > now for each in contracts], dtype=bool)
        return cls(
            date=date,
            minute=now,
            spot=spot,
            rate=rate,
            dividend=dividend,
            contracts=tuple(each for each, good in zip(contracts, alive.tolist(), strict=True) if good),
            bid=chain["bid"].to_numpy(float)[alive],
            ask=chain["ask"].to_numpy(float)[alive],
            carry=carry,
        )

    @cached_property
    def places(self) -> dict[QuotedContract, int]:
        """Contract -> its quote."""
        return {contract: place for place, contract in enumerate(self.contracts)}

    @cached_property
    def tradable(self) -> np.ndarray:
        """Whether a quote can be traded at: both sides are there, and do not cross."""
        tradable: np.ndarray = (self.bid > 0.0) & (self.ask > self.bid)
        return tradable

    @property
    def mid(self) -> np.ndarray:
        """Middle of bid and ask."""
        return 0.5 * (self.bid + self.ask)

    @cached_property
    def strike(self) -> np.ndarray:
        """Of each quote."""
        return np.array([each.strike for each in self.contracts], dtype=np.float64)

    @cached_property
    def is_call(self) -> np.ndarray:
        """Of each quote."""
        return np.array([each.is_call for each in self.contracts], dtype=bool)

    @cached_property
    def years(self) -> np.ndarray:
        """To the settlement of each quote."""
        return np.array([self.years_to(each) for each in self.contracts], dtype=np.float64)

    @cached_property
    def _terms(self) -> np.ndarray:
        """(2, m): rate and spot that go with each quote."""
        return np.array([self.carry_of(each) for each in self.contracts], dtype=np.float64).reshape(-1, 2).T

    def years_to(self, contract: QuotedContract) -> float:
        """From the quotes to the contract's settlement."""
        return float((settles_at(contract) - self.minute) / YEAR)

    def carry_of(self, contract: QuotedContract) -> tuple[float, float]:
        """The rate to its expiry, and the spot whose forward is that of parity; the day's own where parity tells
        none."""
        return self.carry.get((contract.root, contract.expiry), (self.rate, self.spot))

    @cached_property
    def volatility(self) -> np.ndarray:
        """Black-Scholes's at the mid; NaN where the quote cannot be traded at, or its mid implies none."""
        rate, spot = self._terms
        if not self.contracts:
            return np.zeros(0)
        found: np.ndarray = np.asarray(
            implied_volatility(
                np.where(self.tradable, self.mid, np.nan),
                spot,
                self.strike,
                self.years,
                rate=rate,
                dividend=self.dividend,
                is_call=self.is_call,
            )
        )
        return np.where(found > 1e-4, found, np.nan)

    @cached_property
    def _points(self) -> tuple[np.ndarray, ...]:
        """z = log(K / F) / sqrt(T), u = log T, volatility, its error, and half the spread, of the usable quotes."""
        rate, spot = self._terms
        good = np.isfinite(self.volatility)
        if not good.any():
            return (np.zeros(0),) * 5
        years, strike, rate, spot = self.years[good], self.strike[good], rate[good], spot[good]
        z = (np.log(strike / spot) - (rate - self.dividend) * years) / np.sqrt(years)
        volatility, half = self.volatility[good], 0.5 * (self.ask - self.bid)[good]
        vega = black_scholes(spot, strike, years, volatility, rate=rate, dividend=self.dividend).vega
        error = np.hypot(half / np.maximum(vega, 1e-6 * spot), _NOISE)
        return z, np.log(years), volatility, error, half

    @cached_property
    def usable(self) -> int:
        """How many quotes the smile rests on."""
        return int(self._points[0].size)

    def smile(self, z: float, years: float) -> tuple[float, float]:
        """Implied volatility at z = log(K / F) / sqrt(T), and half the spread that quotes near it have.

        A local regression on z, z^2 and log T over the nearest quotes (Cleveland 1979), each weighted by its distance
        and its own spread; flat beyond the quotes' range. Half the spread is the median of the five nearest. Needs a
        `usable` quote.
        """
        points, u, volatility, error, half = self._points
        at_z = min(max(z, float(points.min())), float(points.max()))
        at_u = min(max(math.log(years), float(u.min())), float(u.max()))
        dz, du = (points - at_z) / _Z, (u - at_u) / _U
        distance = np.hypot(dz, du)
        count = min(_NEIGHBOURS, distance.size)
        near = np.argpartition(distance, count - 1)[:count]
        near = near[np.argsort(distance[near], kind="stable")]
        reach = max(float(distance[near[-1]]) * 1.001, 1e-6)
        weight = (1.0 - (distance[near] / reach) ** 3) ** 3 / error[near] ** 2
        design = np.stack([np.ones(count), dz[near], dz[near] ** 2, du[near]], axis=1)
        normal = (design * weight[:, None]).T @ design
        normal[[1, 2, 3], [1, 2, 3]] += _RIDGE * weight.sum()
        level = float(np.linalg.solve(normal, design.T @ (weight * volatility[near]))[0])
        low, high = 0.5 * float(volatility[near].min()), 2.0 * float(volatility[near].max())
        return min(max(level, low), high), float(np.median(half[near[:5]]))

    def smile_of(self, contract: QuotedContract) -> tuple[float, float]:
        """`smile` at a contract's strike and expiry."""
        rate, spot = self.carry_of(contract)
        years = self.years_to(contract)
        return self.smile((math.log(contract.strike / spot) - (rate - self.dividend) * years) / years**0.5, years)

    def greeks(self, contract: QuotedContract, volatility: float) -> Greeks:
        """Black-Scholes at that volatility, with the forward of the contract's expiry."""
        rate, spot = self.carry_of(contract)
        return black_scholes(
            spot,
            contract.strike,
            self.years_to(contract),
            volatility,
            rate=rate,
            dividend=self.dividend,
            is_call=contract.is_call,
        )

    @cached_property
    def month_volatility(self) -> float:
        """Implied volatility at the forward of a month."""
        return self.smile(0.0, MONTH)[0]


@functools.lru_cache(maxsize=1 << 16)
def _settlement(root: str, expiry: np.datetime64) -> np.datetime64:
    return settlement(root, expiry)


def settles_at(contract: QuotedContract) -> np.datetime64:
    """The minute at which a contract settles: see `hedgerl.data.quotes.settlement`."""
    return _settlement(contract.root, contract.expiry)
