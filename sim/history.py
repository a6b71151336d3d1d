"""The market along windows of real history: closes that happened, marks of a surface that is driven by the VIX."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from hedgerl.data import DailySeries, Surface
from hedgerl.data.surface import Levels
from hedgerl.data.volatility import TRADING_DAYS
from hedgerl.pricing import Greeks, Option
from hedgerl.pricing._checks import day, finite, positive, whole_number
from hedgerl.sim.backend import Array, to_numpy
from hedgerl.sim.market import Contract, Implied, Marks, mark_along, on_grid, smile_marks

Day = str | datetime.date | np.datetime64 | None


@dataclass(frozen=True, eq=False)
class History:
    """A series of trading days and the surface that marks options on it: a source of markets, as a `Model` is.

    Windows of it are what paths are in a simulation. There are no quotes in a daily series: marks come from `surface`,
    whose level on a day is known at that day's close. They are no mid-prices, and no policy is promised to be unable to
    earn from them: docs/research_notes.md has what they miss.

    Parameters
    ----------
    rate : per year, continuously compounded, or "series": that of each day
    dividend : yield per year, continuously compounded; the closes are without dividends
    start, end : the first and the last day that a window may hold, as dates or YYYY-MM-DD; None means the series' own.
        Days before `start` still feed the trailing means.
    name : of the series, where None

    Raises ValueError naming the field, the rule and the value.

    >>> import hedgerl.data
    >>> history = History(hedgerl.data.sp500_series(vix=True), start="2018-01-01")
    >>> starts = history.starts(n_steps=21)
    >>> market = history.market(starts, n_steps=21)
    >>> market.spot.shape, str(market.dates[0, 0])
    ((22, 11), '2018-01-02')
    >>> atm = market.mark(Option(strike=100.0, expiry_years=21 / 252), step=0)
    >>> [round(float(price), 2) for price in atm.price[:3]]
    [0.99, 1.36, 1.87]
    """

    series: DailySeries
    surface: Surface = field(default_factory=Surface)
    rate: float | str = 0.0
    dividend: float = 0.0
    start: Day = None
    end: Day = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.series, DailySeries):
            raise ValueError(f"series must be a hedgerl.data.DailySeries, got {self.series!r}")
        if not isinstance(self.surface, Surface):
            raise ValueError(f"surface must be a hedgerl.data.Surface, got {self.surface!r}")
        if isinstance(self.rate, str):
            if self.rate != "series":
                raise ValueError(f'rate must be a number or "series", got {self.rate!r}')
            if self.series.rate is None:
                raise ValueError(f'rate must be a number for {self.series.name}, which has no rates, got "series"')
        else:
            finite("rate", self.rate)
        finite("dividend", self.dividend)
        start, end = optional_day("start", self.start), optional_day("end", self.end)
        if start is not None and end is not None and start > end:
            raise ValueError(f"start must not lie after end, got {start} and {end}")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "end", end)
        if self.name is None:
            object.__setattr__(self, "name", self.series.name)
        if self.levels.first is None:
            raise ValueError(
                f"series must be longer: {self.series.name} has {len(self.series)} days, too few for the surface's "
                f"long_run_days = {self.surface.long_run_days} (and span_days = {self.surface.span_days} without a VIX)"
            )

    @cached_property
    def levels(self) -> Levels:
        """The surface's short and long variance on every day of the series."""
        return self.surface.levels(self.series)

    @cached_property
    def slopes(self) -> np.ndarray:
        """Slope of the short volatility by the log of the close, (n_days,): the regression through 0 of a day's change
        of sqrt(short) on its log return, over the last `surface.long_run_days` changes known at that close."""
        volatility = np.sqrt(self.levels.short)
        known = np.isfinite(np.diff(volatility))
        moves = np.where(known, np.diff(np.log(self.series.close)), 0.0)
        changes = np.where(known, np.diff(volatility), 0.0)
        sums = np.cumsum(np.stack([moves * changes, moves * moves]), axis=1)
        days = self.surface.long_run_days
        sums[:, days:] -= sums[:, :-days].copy()
        return np.append(0.0, sums[0] / np.maximum(sums[1], 1e-12))

    @cached_property
    def _usable(self) -> tuple[int, int]:
        """The first day and the day after the last on which a window may lie."""
        dates = self.series.dates
        known = self.levels.first
        assert known is not None  # checked at construction
        if self.rate == "series" and self.series.rate is not None:
            known = max(known, int(np.isfinite(self.series.rate).argmax()))
        start, end = optional_day("start", self.start), optional_day("end", self.end)
        first = 0 if start is None else int(np.searchsorted(dates, start))
        last = dates.size if end is None else int(np.searchsorted(dates, end, side="right"))
        return max(known, first), last

    def starts(self, n_steps: int, every: int | None = None) -> np.ndarray:
        """Indices into the series of the days on which windows of `n_steps` trading days start, oldest first.

        every: trading days from one start to the next; None means `n_steps`, windows that follow one another, 1 all.
        A window needs a surface on its first day, and lies inside [start, end] with all its n_steps + 1 closes. Raises
        ValueError where there are fewer than 2.
        """
        whole_number("n_steps", n_steps)
        step = n_steps if every is None else whole_number("every", every)
        first, last = self._usable
        starts = np.arange(first, last - n_steps, step)
        if starts.size < 2:
            dates = self.series.dates
            if first < last:
                usable = f"{last - first} days from {dates[first]} to {dates[last - 1]}"
            else:
                usable = f"none of its days from {dates[0]} to {dates[-1]}"
            raise ValueError(
                f"n_steps must leave 2 windows, {n_steps + 1 + step} days, got {n_steps} with every = {step}: "
                f"{self.name} has {usable} that lie inside start = {self.start} and end = {self.end} and have a "
                f"surface (from {dates[self.levels.first]} on)"
            )
        return starts

    def market(self, starts: Any, n_steps: int, spot: float | None = 100.0) -> HistoricalMarket:
        """The market along the windows of `n_steps` days that start at `starts`, see `HistoricalMarket`.

        starts: indices (n,) of days, as from the method of that name, in any order. spot: what every window is scaled
        to start at; None leaves closes as they are.

        Raises ValueError for starts that are no whole numbers in one dimension, or whose window does not fit.
        """
        whole_number("n_steps", n_steps)
        if spot is not None:
            positive("spot", spot)
        chosen = np.asarray(starts)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not chosen.size:
            raise ValueError(f"starts must be one or more whole numbers in one dimension, got {starts!r}")
        first, last = self._usable
        for start in chosen[(chosen < first) | (chosen + n_steps >= last)][:1]:
            raise ValueError(f"starts must lie in [{first}, {last - n_steps - 1}] for n_steps = {n_steps}, got {start}")
        days = chosen + np.arange(n_steps + 1)[:, None]
        close = self.series.close[days]
        return HistoricalMarket(
            surface=self.surface,
            dates=self.series.dates[days],
            spot=close if spot is None else spot * close / close[0],
            variance=self.levels.short[days],
            long_variance=self.levels.long[days],
            rates=float(self.rate) if self.series.rate is None or self.rate != "series" else self.series.rate[days],
            dividend=float(self.dividend),
            slopes=self.slopes[days],
            past=Past(self.series, days),
        )

    def __repr__(self) -> str:
        return f"History({self.name!r}, {self.start or self.series.dates[0]} to {self.end or self.series.dates[-1]})"


@dataclass(frozen=True, eq=False)
class Past:
    """Where windows lie in a series: what its prices tell up to a day is known at that day's close."""

    series: DailySeries
    days: np.ndarray  # (n_steps + 1, n) indices into the series

    def changed(self, change: Callable[[Array], Array]) -> Past:
        """The same of the windows that `change` leaves; the indices stay on the host."""
        return Past(self.series, to_numpy(change(self.days)).astype(np.int64))


@dataclass(frozen=True, eq=False)
class HistoricalMarket:
    """Windows of history side by side, with the surface of `Market`: see `hedgerl.sim.market.AnyMarket`.

    Time comes first, windows are columns. Years run on a clock of 252 trading days; all arrays are float64 on the host.
    """

    surface: Surface
    dates: np.ndarray  # (n_steps + 1, n) datetime64[D]
    spot: np.ndarray  # (n_steps + 1, n) closes, scaled
    variance: np.ndarray  # (n_steps + 1, n) the surface's short variance at the money, per year
    long_variance: np.ndarray  # (n_steps + 1, n) what it reverts to, per year
    rates: float | np.ndarray  # per year, continuously compounded; (n_steps + 1, n) where each day has its own
    dividend: float  # per year, continuously compounded
    slopes: np.ndarray  # (n_steps + 1, n) of the short volatility by the log of the spot, known at each close
    past: Past | None = None  # the series and the days of the windows

    @property
    def times(self) -> np.ndarray:
        """Years from the start, (n_steps + 1,)."""
        times: np.ndarray = np.arange(self.spot.shape[0]) / TRADING_DAYS
        return times

    @property
    def n_paths(self) -> int:
        """How many windows."""
        return int(self.spot.shape[1])

    @property
    def n_steps(self) -> int:
        """How many trading days a window has after its first."""
        return int(self.spot.shape[0] - 1)

    def rate_at(self, step: int) -> Array:
        """The rate per year, continuously compounded, that cash earns from `times[step]` on, known at that close: a
        number, or (n,) where the rate is "series". Raises ValueError for a step that is not on the grid."""
        on_grid(step, self.n_steps)
        return self.rates[step] if isinstance(self.rates, np.ndarray) else self.rates

    def mark(self, option: Option, step: int) -> Greeks:
        """Price, delta, gamma, vega and theta (n,) of an option at the close of day `step` of each window.

        As `Market.mark`, which see for shapes, units and errors; expiries may lie beyond the windows. The price is
        Black-Scholes at the surface's volatility, at that day's rate to expiry. Delta and gamma hold the surface fixed
        in moneyness, and its level: spot moves K / F and with it the implied volatility. Vega is per 1.00 of the short
        volatility sqrt(variance), the long variance fixed, so that it fades with time to expiry as the forward variance
        reverts: 2 sqrt(variance) dV / dvariance, as in Heston's model. Theta is at constant implied volatility.
        """
        return mark_along(self, _SurfaceMarker(self), option, step)

    def volatility_slope(self, expiry_years: float, step: int) -> np.ndarray:
        """Cov(d volatility, dS) / Var(dS), (n,), over the trailing days; the volatility is that of `mark`'s vega."""
        slope: np.ndarray = self.slopes[on_grid(step, self.n_steps)] / self.spot[step]
        return slope


@dataclass(frozen=True)
class _SurfaceMarker:
    market: HistoricalMarket

    def marks(self, step: int, expiry_years: float, part: Array, contract: Contract) -> Marks:
        """See `hedgerl.sim.market.Marker.marks`."""
        market = self.market
        surface = market.surface
        left = expiry_years - float(market.times[step])
        short, long = market.variance[step][part], market.long_variance[step][part]
        rate = market.rate_at(step)
        theta = surface.theta(left, short, long)
        # d theta / d sqrt(short)
        theta_by_volatility = 2.0 * surface.time_at_short(left) * np.sqrt(short)

        def implied(log_moneyness: np.ndarray) -> Implied:
            w, by_k, by_k_twice, by_theta = surface.shape.total_variance(log_moneyness, theta)
            volatility = np.sqrt(w / left)
            half = 0.5 / (volatility * left)  # d volatility / dw
            by_log_strike = half * by_k
            return Implied(
                volatility,
                by_log_strike,
                half * by_k_twice - by_log_strike * by_log_strike / volatility,
                half * by_theta * theta_by_volatility,
            )

        return smile_marks(contract, left, rate[part] if np.ndim(rate) else rate, market.dividend, implied)


def optional_day(name: str, value: Day) -> np.datetime64 | None:
    """The value as a day, or None. Raises ValueError for what is neither."""
    return None if value is None else day(name, value)
