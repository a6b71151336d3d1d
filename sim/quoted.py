"""The market of stored option quotes: windows of real days, real contracts at their own bids and asks."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hedgerl.data import DailySeries
from hedgerl.data.quotes import time_of_day
from hedgerl.pricing import Greeks, Option, black_scholes
from hedgerl.pricing._checks import finite, nearest, non_negative, positive, whole_number
from hedgerl.sim.history import optional_day
from hedgerl.sim.market import on_grid
from hedgerl.sim.quoted_day import QuoteDay, QuotedContract

if TYPE_CHECKING:
    from hedgerl.data.chains import Store

Day = str | datetime.date | np.datetime64 | None

MISSING = ("hold", "surface")
DECAY = 0.9  # a day, of how far a contract's last volatility was from the smile
_SLOPE_DAYS = (20, 252)  # changes that the volatility's slope by the spot needs, and looks back on at most
_RATE_DAYS = 7  # calendar days that a rate of the series is old at most


class Refused(ValueError):
    """An episode of quotes that cannot be laid out; the message says why, `reason` in a few words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Mark(NamedTuple):
    """A contract at a day: its Greeks per share, and where they come from."""

    greeks: Greeks
    volatility: float
    half_spread: float  # that a trade pays
    quoted: bool  # whether the price is the middle of a bid and an ask of that day
    tradable: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class QuotedHistory:
    """The stored option chains of one underlying: a source of markets, as a `Model` and a `History` are.

    Episodes are windows of `n_steps` stored days that follow one another, on a clock of 365 days a year, and one window
    is one market: contracts are real, so that strikes and expiries differ by window.

    Parameters
    ----------
    store : folder of a store that `hedgerl data import` wrote
    underlying : its name there, such as SPY
    rate : per year, continuously compounded, that cash earns; or "series": that of `series`, as known each day
    series : daily series with rates
    dividend : yield per year, continuously compounded
    at : time of the quotes at the exchange, HH:MM
    roots : classes of contracts, such as SPXW; None: all
    start, end : the first and the last day that a window may hold
    missing : what becomes of a contract that cannot be traded at its own quote on a day. "hold": it is not traded then.
        "surface": it is, at the smile's mid and `missing_spread` x half the spread of the quotes nearest to it.
        What has to be sold on such a day, in a roll or at the end, is sold like that under either.
    moneyness_tolerance, tenor_tolerance : how far a contract may lie from the terms wanted when it is listed: strike
        over spot in absolute terms, time to expiry as a share of the tenor
    max_spread : bid to ask over mid of a contract that is listed, at most
    max_gap_days : calendar days between two days of a window, at most
    max_years : to the expiry of quotes that are read
    name : in reports; None: that of the underlying

    Raises ValueError naming the field, the rule and the value.
    """

    store: Any
    underlying: str
    rate: float | str = 0.0
    series: DailySeries | None = None
    dividend: float = 0.0
    at: str = "16:00"
    roots: Sequence[str] | None = None
    start: Day = None
    end: Day = None
    missing: str = "hold"
    missing_spread: float = 1.0
    moneyness_tolerance: float = 0.03
    tenor_tolerance: float = 0.35
    max_spread: float = 0.25
    max_gap_days: int = 7
    max_years: float = 0.5
    name: str | None = None
    _days: dict[int, QuoteDay] = field(default_factory=dict, init=False, repr=False)
    _slopes: dict[int, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.store, str | Path):
            raise ValueError(f"store must be the folder of a store of option quotes, got {self.store!r}")
        for name in ("dividend",) if isinstance(self.rate, str) else ("rate", "dividend"):
            finite(name, getattr(self, name))
        if isinstance(self.rate, str):
            if self.rate != "series":
                raise ValueError(f'rate must be a number or "series", got {self.rate!r}')
            if not isinstance(self.series, DailySeries) or self.series.rate is None:
                raise ValueError(
                    f'series must be a daily series with rates where rate is "series", got {self.series!r}'
                )
        time_of_day(self.at)
        if self.missing not in MISSING:
            raise ValueError(f"missing must be one of {', '.join(MISSING)}, got {self.missing!r}")
        non_negative("missing_spread", self.missing_spread)
        for name in ("moneyness_tolerance", "tenor_tolerance", "max_spread", "max_years"):
            positive(name, getattr(self, name))
        whole_number("max_gap_days", self.max_gap_days)
        if isinstance(self.roots, str):
            raise ValueError(f"roots must be a list of classes such as [SPXW], got {self.roots!r}")
        start, end = optional_day("start", self.start), optional_day("end", self.end)
        if start is not None and end is not None and start > end:
            raise ValueError(f"start must not lie after end, got {start} and {end}")
        known = self._store.underlyings()
        if self.underlying not in known:
            near = f"; the nearest is {nearest(self.underlying, known)}" if known else ""
            raise ValueError(
                f"underlying must be one that {self.store} has options on ({', '.join(known) or 'none'}), "
                f"got {self.underlying!r}{near}"
            )
        if self.name is None:
            object.__setattr__(self, "name", f"{self.underlying} quotes")
        if not self.dates.size:
            days = self._store.days(self.underlying)
            raise ValueError(
                f"start and end must leave days of {self.underlying}, stored from {days[0]} to {days[-1]}, "
                f"got {start} and {end}"
            )

    @cached_property
    def _store(self) -> Store:
        from hedgerl.data.chains import Store  # brings pyarrow, which a program without quotes need not wait for

        return Store(self.store)

    @cached_property
    def dates(self) -> np.ndarray:
        """The stored days from `start` to `end`, (n_days,) datetime64[D]."""
        days = self._store.days(self.underlying)
        start, end = optional_day("start", self.start), optional_day("end", self.end)
        keep = np.ones(days.size, dtype=bool)
        if start is not None:
            keep &= days >= start
        if end is not None:
            keep &= days <= end
        chosen: np.ndarray = days[keep]
        return chosen

    @property
    def missing_days(self) -> list[np.datetime64]:
        """Trading days between the first and the last stored that are not, gaps that no window spans left out."""
        from hedgerl.data.chains.trading_days import trading_days

        lost = []
        for before, after in zip(self.dates, self.dates[1:], strict=False):
            if after - before <= np.timedelta64(self.max_gap_days, "D"):
                lost += [day for day in trading_days(before, after) if before < day < after]
        return lost

    def starts(self, n_steps: int, every: int | None = None) -> np.ndarray:
        """Indices of the days on which windows of `n_steps` stored days start, oldest first.

        every: stored days from one start to the next; None means `n_steps`. No window spans a gap of more than
        `max_gap_days`. Raises ValueError where there are fewer than 2.
        """
        whole_number("n_steps", n_steps)
        step = n_steps if every is None else whole_number("every", every)
        edges = np.flatnonzero(np.diff(self.dates) > np.timedelta64(self.max_gap_days, "D")) + 1
        spans = zip([0, *edges.tolist()], [*edges.tolist(), self.dates.size], strict=True)
        starts = np.concatenate([np.arange(first, last - n_steps, step) for first, last in spans])
        if starts.size < 2:
            raise ValueError(
                f"n_steps must leave 2 windows of stored days, got {n_steps} with every = {step}: {self.name} has "
                f"{self.dates.size} days from {self.dates[0]} to {self.dates[-1]}, in {edges.size + 1} runs without a "
                f"gap of more than {self.max_gap_days} days"
            )
        return starts

    def market(self, starts: Any, n_steps: int) -> QuotedMarket:
        """The market along the window of `n_steps` stored days that starts at the one index in `starts`, (1,).

        Raises ValueError for more than one: contracts differ by window.
        """
        whole_number("n_steps", n_steps)
        chosen = np.asarray(starts)
        if chosen.shape != (1,) or chosen.dtype.kind not in "iu":
            raise ValueError(
                f"starts must be one whole number on quotes, whose contracts differ by episode, got {starts!r:.80}"
            )
        first = int(chosen[0])
        if not 0 <= first < self.dates.size - n_steps:
            raise ValueError(
                f"starts must lie in [0, {self.dates.size - n_steps - 1}] for n_steps = {n_steps}, got {first}"
            )
        return QuotedMarket(self, first, n_steps)

    def day(self, index: int) -> QuoteDay:
        """The quotes of a stored day, read once."""
        if index not in self._days:
            chain = self._store.chain(self.underlying, self.dates[index])
            if self.roots is not None:
                chain = chain[chain["root"].isin(list(self.roots))]
                if chain.empty:
                    raise ValueError(
                        f"roots must have quotes on every day, got {list(self.roots)}, with none on {self.dates[index]}"
                    )
            if not np.isfinite(chain["underlying_price"].median()):
                raise ValueError(f"{self.store} has no price of {self.underlying} on {self.dates[index]}")
            self._days[index] = QuoteDay.read(
                chain, at=self.at, rate=self.rate_on(index), dividend=self.dividend, max_years=self.max_years
            )
        return self._days[index]

    def rate_on(self, index: int) -> float:
        """The rate that is known on a stored day."""
        if not isinstance(self.rate, str):
            return float(self.rate)
        assert self.series is not None  # checked at construction
        assert self.series.rate is not None
        day = self.dates[index]
        place = int(np.searchsorted(self.series.dates, day, side="right")) - 1
        if place < 0 or day - self.series.dates[place] > np.timedelta64(_RATE_DAYS, "D"):
            raise ValueError(
                f"series must have a rate of {day} or at most {_RATE_DAYS} days before, {self.series.name} has none"
            )

        rate = float(self.series.rate[place])
        if not math.isfinite(rate):
            raise ValueError(f"series must have a rate of {day}, {self.series.name} has none")
        return rate

    def volatility(self, index: int) -> float:
        """At the money, of a month, on a stored day; that of the last day before with quotes where it has none."""
        for before in range(index, -1, -1):
            day = self.day(before)
            if day.usable:
                return day.month_volatility
        raise Refused(f"{self.name} has no usable quote up to {self.dates[index]}", "no usable quote")

    def slope(self, index: int) -> float:
        """Of `volatility` by the log of the spot: the regression through 0 of its changes from day to day, over the
        last 252 that are known on a stored day; 0 where they are fewer than 20."""
        if index not in self._slopes:
            self._slopes[index] = self._slope(index)
        return self._slopes[index]

    def _slope(self, index: int) -> float:
        least, most = _SLOPE_DAYS
        days = [each for each in range(max(0, index - most), index + 1) if self.day(each).usable]
        pairs = [(a, b) for a, b in zip(days, days[1:], strict=False) if b == a + 1]
        pairs = [(a, b) for a, b in pairs if self.dates[b] - self.dates[a] <= np.timedelta64(self.max_gap_days, "D")]
        if len(pairs) < least:
            return 0.0
        moves = np.array([math.log(self.day(b).spot / self.day(a).spot) for a, b in pairs])
        changes = np.array([self.volatility(b) - self.volatility(a) for a, b in pairs])
        return float((moves * changes).sum() / max(float((moves * moves).sum()), 1e-12))

    def __repr__(self) -> str:
        return f"QuotedHistory({self.name!r}, {self.dates[0]} to {self.dates[-1]})"


@dataclass(frozen=True, eq=False)
class QuotedMarket:
    """One window of stored quotes, with the surface of `Market`: see `hedgerl.sim.market.AnyMarket`. n is 1.

    `mark` answers on the day's smile; real contracts are chosen by `listed` and marked by `marks`.
    """

    source: QuotedHistory
    first: int
    n_steps: int
    n_paths: int = 1

    def day(self, step: int) -> QuoteDay:
        """The quotes of a step."""
        return self.source.day(self.first + step)

    @property
    def dates(self) -> np.ndarray:
        """(n_steps + 1, 1) datetime64[D]."""
        return self.source.dates[self.first : self.first + self.n_steps + 1, None]

    @property
    def times(self) -> np.ndarray:
        """Years of 365 days from the start, (n_steps + 1,)."""
        times: np.ndarray = (self.dates[:, 0] - self.dates[0, 0]).astype(np.float64) / 365.0
        return times

    @cached_property
    def spot(self) -> np.ndarray:
        """The underlying's price beside the quotes, (n_steps + 1, 1)."""
        return np.array([[self.day(step).spot] for step in range(self.n_steps + 1)])

    @cached_property
    def variance(self) -> np.ndarray:
        """Square of the month's volatility at the money, (n_steps + 1, 1)."""
        rows = [[self.source.volatility(self.first + step) ** 2] for step in range(self.n_steps + 1)]
        return np.array(rows)

    @property
    def dividend(self) -> float:
        """Yield of the underlying per year, continuously compounded."""
        return float(self.source.dividend)

    def rate_at(self, step: int) -> float:
        """The rate per year, continuously compounded, from `times[step]` to the next."""
        return self.source.rate_on(self.first + on_grid(step, self.n_steps))

    def volatility_slope(self, expiry_years: float, step: int) -> np.ndarray:
        """Slope of the month's volatility at the money by the spot, (1,): see `QuotedHistory.slope`."""
        on_grid(step, self.n_steps)
        return np.array([self.source.slope(self.first + step)]) / self.spot[step]

    def mark(self, option: Option, step: int) -> Greeks:
        """Price and Greeks (1,) of an option of any terms on the smile of a step; the payoff at its expiry.

        Raises ValueError for an option past its expiry, and for a day without usable quotes.
        """
        on_grid(step, self.n_steps)
        day, left = self.day(step), float(option.expiry_years) - float(self.times[step])
        strike = np.broadcast_to(np.asarray(option.strike, np.float64), (1,))
        if left < -1e-9:
            raise ValueError(f"expiry_years must not lie before times[{step}] = {self.times[step]}")
        volatility = 0.0
        if left > 1e-9:
            if not day.usable:
                raise ValueError(f"{self.source.name} has no usable quote on {day.date}")
            forward = day.spot * math.exp((day.rate - day.dividend) * left)
            volatility = day.smile(math.log(float(strike[0]) / forward) / left**0.5, left)[0]
        return black_scholes(
            self.spot[step],
            strike,
            max(left, 0.0),
            volatility,
            rate=day.rate,
            dividend=self.dividend,
            is_call=bool(np.asarray(option.is_call)),
        )

    def listed(
        self, step: int, moneyness: float, tenor: float, is_call: bool, partner: QuotedContract | None = None
    ) -> QuotedContract:
        """The contract quoted on both sides that lies nearest to these terms on the day of a step.

        partner: a contract on these terms that goes before it, where it is quoted as well: the put of a call's strike.

        Nearest by |K / S - moneyness| / moneyness_tolerance + |T - tenor| / (tenor_tolerance x tenor), each at most 1,
        with a spread of at most `max_spread` of its mid. A contract that settles inside the window does so on a stored
        day. Raises Refused, naming the nearest, where there is none.
        """
        source, day = self.source, self.day(step)
        terms = f"a {'call' if is_call else 'put'} at {moneyness:g} of spot"
        wanted = f"{terms} and {365 * tenor:.0f} days"
        reason = f"no contract near {terms} and {365 * tenor / 7:.0f} weeks"
        sane = day.tradable & (day.ask - day.bid <= source.max_spread * day.mid) & (day.is_call == is_call)
        sane &= np.isfinite(day.volatility)  # a mid below what any volatility gives is no market to begin in
        sane &= np.array([self._settles_on_a_day(contract) for contract in day.contracts], dtype=bool)
        if partner is not None and partner in day.places and sane[day.places[partner]]:
            return partner
        places = np.flatnonzero(sane)
        if not places.size:
            raise Refused(f"{source.name} has nothing near {wanted} on {day.date}", reason)
        ratio = day.strike[places] / day.spot
        off_strike = np.abs(ratio - moneyness) / source.moneyness_tolerance
        off_tenor = np.abs(day.years[places] - tenor) / (source.tenor_tolerance * tenor)
        inside = (off_strike <= 1.0 + 1e-12) & (off_tenor <= 1.0 + 1e-12)
        best = int(np.argmin(np.where(inside, 0.0, 1e6) + off_strike + off_tenor))
        contract = day.contracts[places[best]]
        if not inside[best]:
            raise Refused(
                f"{source.name} has nothing near {wanted} on {day.date}: the nearest is {contract}, at "
                f"{ratio[best]:.3f} of spot and {365 * day.years[places[best]]:.0f} days",
                reason,
            )
        return contract

    def _settles_on_a_day(self, contract: QuotedContract) -> bool:
        inside = self.dates[:, 0]
        return contract.expiry > inside[-1] or self.settles(contract) is not None

    def settles(self, contract: QuotedContract) -> int | None:
        """The step on whose day a contract settles, at that day's price; None where that is after the window, or on a
        day that is not stored."""
        place = int(np.searchsorted(self.dates[:, 0], contract.expiry))
        if place > self.n_steps or self.dates[place, 0] != contract.expiry:
            return None
        return place

    def years_left(self, contract: QuotedContract, step: int) -> float:
        """To the settlement of a contract."""
        return self.day(step).years_to(contract)

    def payoff(self, contract: QuotedContract, step: int) -> float:
        """At the underlying's price on the day of a step."""
        sign = 1.0 if contract.is_call else -1.0
        return max(sign * (float(self.spot[step, 0]) - contract.strike), 0.0)

    def marks(self, contract: QuotedContract, first: int, last: int) -> list[Mark]:
        """The contract's marks from step `first`, on which it is quoted, to step `last`, before it settles.

        Quoted on both sides, the mark is the middle of bid and ask. Else it is Black-Scholes at the day's smile plus
        `DECAY` a day of how far the contract's own last quoted volatility lay from that day's smile, within the bid
        and the ask where the day has them; a day without usable quotes leaves the volatility as it was. Nothing after
        a step enters its mark.
        """
        result: list[Mark] = []
        residual, volatility, typical = 0.0, float("nan"), 0.0
        for step in range(first, last + 1):
            day = self.day(step)
            place = day.places.get(contract)
            residual *= DECAY
            smile = None
            if day.usable:
                smile, typical = day.smile_of(contract)
                volatility = max(smile + residual, 0.01)
            if place is not None and day.tradable[place]:
                implied = float(day.volatility[place])
                if math.isfinite(implied):
                    volatility = implied
                    residual = 0.0 if smile is None else implied - smile
                greeks = _at(day.greeks(contract, volatility), float(day.mid[place]))
                result.append(Mark(greeks, volatility, 0.5 * float(day.ask[place] - day.bid[place]), True, True))
                continue
            greeks = day.greeks(contract, volatility)
            if place is not None and day.ask[place] >= day.bid[place]:
                greeks = _at(greeks, min(max(float(greeks.price), float(day.bid[place])), float(day.ask[place])))
            half = min(self.source.missing_spread * typical, float(greeks.price))  # nobody pays to abandon an option
            result.append(Mark(greeks, volatility, half, False, self.source.missing == "surface"))
        return result


def _at(greeks: Greeks, price: float) -> Greeks:
    return dataclasses.replace(greeks, price=price)
