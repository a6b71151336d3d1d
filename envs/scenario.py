"""Everything about a batch of episodes that no hedge can change: the market, the contracts' marks, the liabilities."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from hedgerl.pricing import Option, black_scholes, implied_volatility
from hedgerl.pricing._checks import finite, positive, whole_number
from hedgerl.sim.backend import single_threaded_blas
from hedgerl.sim.history import Past
from hedgerl.sim.market import AnyMarket, Market
from hedgerl.sim.quoted import QuotedMarket

Array = Any


@dataclass(frozen=True, kw_only=True)
class Listing:
    """An option of real terms, or a place in which such contracts follow one another.

    It is listed at step `listed`, at a strike that is `moneyness` times the spot of each path then, and expires
    `tenor` years later, on the nearest step of the clock. With `roll_every` the place is given to a new contract each
    so many years: what is held of the old one settles where it expires at that step, else it is sold at its quote.
    """

    name: str = "option"
    moneyness: float = 1.0
    tenor: float = 21 / 252  # years
    is_call: bool = True
    listed: int = 0  # step
    roll_every: float | None = None  # years
    keep: bool = False  # whether what is held is kept when the place rolls
    strike_step: float = 0.0  # strikes are rounded to multiples of it; 0: not at all
    multiplier: float = 100.0  # shares a contract

    def __post_init__(self) -> None:
        positive("moneyness", self.moneyness)
        positive("tenor", self.tenor)
        positive("multiplier", self.multiplier)
        whole_number("listed", self.listed, minimum=0)
        if finite("strike_step", self.strike_step) < 0:
            raise ValueError(f"strike_step must not be negative, got {self.strike_step!r}")
        if self.roll_every is not None and positive("roll_every", self.roll_every) > self.tenor * (1 + 1e-9):
            raise ValueError(f"roll_every must not exceed tenor = {self.tenor!r}, got {self.roll_every!r}")

    def steps(self, years: float, step_years: float) -> int:
        """`years` in steps of the clock, at least one."""
        return max(1, round(years / step_years))

    def strikes(self, spot: Array) -> Array:
        """Strikes for contracts listed at these spots."""
        strike = self.moneyness * spot
        if not self.strike_step:
            return strike
        xp = array_namespace(spot)
        return xp.clip(xp.round(strike / self.strike_step) * self.strike_step, self.strike_step, None)


@dataclass(frozen=True, eq=False)
class Contracts:
    """Option contracts along paths: terms, marks and Greeks, (n_steps + 1, n, c), float64, per share.

    Column j at step t is the contract that can be traded then. The one that was held since t - 1 is the same, except
    where the place has been given to a new contract, or where it has expired: there it has its last mark.
    """

    listings: tuple[Listing, ...]
    strike: Array
    years_left: np.ndarray  # (n_steps + 1, c)
    alive: np.ndarray  # (n_steps + 1, c) bool: whether column j can be traded at t
    settles: np.ndarray  # (n_steps + 1, c) bool: whether what was carried to t expires there
    replaced: np.ndarray  # (n_steps + 1, c) bool: whether it is another contract than the one carried to t
    price: Array
    last_price: Array  # of the contract that was carried to t, where it is replaced; 0 elsewhere
    last_vega: Array
    delta: Array
    gamma: Array
    vega: Array
    theta: Array
    slopes: Callable[[], Array] | None = field(default=None, repr=False)  # computes `slope`
    # of real quotes, as `hedgerl.envs.quoted` lays them out; None elsewhere
    volatility: Array | None = None  # implied, each with the forward of its own expiry
    half_spread: Array | None = None  # half of ask less bid
    last_half_spread: Array | None = None  # of the contract that was carried to t, where it is replaced; 0 elsewhere
    tradable: np.ndarray | None = None  # (n_steps + 1, c) bool: whether column j, where alive, is traded at t
    quoted: np.ndarray | None = None  # (n_steps + 1, c) bool: whether the mark is the middle of a bid and an ask
    symbols: tuple[tuple[str, ...], ...] = ()  # for each column, the contracts that were in it

    @cached_property
    def carried(self) -> Array:
        """The mark at t of the contract that was held since t - 1; 0 where none could be."""
        return self._carried(self.last_price, self.price)

    @cached_property
    def carried_vega(self) -> Array:
        """The vega of the same."""
        return self._carried(self.last_vega, self.vega)

    @cached_property
    def carried_half_spread(self) -> Array | None:
        """Half the quoted spread of the same; None where nothing is quoted."""
        if self.half_spread is None:
            return None
        return self._carried(self.last_half_spread, self.half_spread)

    def _carried(self, last: Array, now: Array) -> Array:
        xp = array_namespace(now)
        before = np.concatenate([np.zeros_like(self.alive[:1]), self.alive[:-1]])
        same = before & self.alive & ~self.replaced
        return last + now * xp.asarray(same, dtype=now.dtype, device=device(now))[:, None, :]

    @cached_property
    def slope(self) -> Array:
        """Cov(d volatility, dS) / Var(dS) of the volatility that vega is by, (n_steps + 1, n, c); 0 where the market
        has none. Few ask for it, and it costs as much as a mark."""
        return 0.0 * self.vega if self.slopes is None else self.slopes()

    def __getstate__(self) -> dict[str, Any]:
        if self.slopes is no_slopes:
            return dict(self.__dict__)
        return {**self.__dict__, "slope": self.slope, "slopes": None}

    def changed(self, change: Callable[[Array], Array]) -> Contracts:
        """These contracts with every array of paths changed."""
        return dataclasses.replace(self, slopes=lambda: change(self.slope), **_changed(self, change, 3))

    @property
    def is_call(self) -> np.ndarray:
        """(c,) bool."""
        return np.array([listing.is_call for listing in self.listings], dtype=bool)

    @property
    def multiplier(self) -> np.ndarray:
        """Shares a contract, (c,)."""
        return np.array([listing.multiplier for listing in self.listings], dtype=np.float64)


def no_slopes() -> Array:
    """`Contracts.slopes` of contracts whose market is not at hand. Raises RuntimeError."""
    raise RuntimeError("slopes of the volatility are the market's, and cannot be captured")


def contracts(market: AnyMarket, listings: Sequence[Listing], wanted: Sequence[Any] = ()) -> Contracts:
    """The contracts of `listings` along the paths of a market, each marked at every step of its life.

    wanted: for each listing the quantity by path, (n,), or a number for all. Where it is 0, marks and Greeks are 0 as
    well: a client's option exists on some of the paths only.
    """
    times = market.times
    n_steps, n_paths = times.size - 1, int(market.spot.shape[1])
    xp = array_namespace(market.spot)
    shape = (n_steps + 1, len(listings), n_paths)  # paths last while they are written: one run of memory a mark
    rows = {
        name: xp.zeros(shape, dtype=xp.float64)
        for name in ("strike", "price", "last_price", "last_vega", "delta", "gamma", "vega", "theta")
    }
    flat = (n_steps + 1, len(listings))
    years_left = np.zeros(flat)
    alive, settles, replaced = (np.zeros(flat, dtype=bool) for _ in range(3))
    lives = [(column, life) for column, listing in enumerate(listings) for life in _lives(listing, times)]

    for column, (start, end, expiry) in lives:
        listing = listings[column]
        strike = listing.strikes(market.spot[start])
        view, paths = _where(market, wanted[column]) if wanted else (market, slice(None))
        option = Option(strike=strike[paths], expiry_years=expiry, is_call=listing.is_call)
        nowhere = strike[paths].shape[0] == 0
        for step in range(start, end + 1):
            mark = None if nowhere else view.mark(option, step)
            if mark is not None and step == end:
                rows["last_price"][step, column][paths] = mark.price
                rows["last_vega"][step, column][paths] = mark.vega
            if step < end:
                rows["strike"][step, column] = strike
                for name in ("price", "delta", "gamma", "vega", "theta") if mark is not None else ():
                    rows[name][step, column][paths] = getattr(mark, name)
                years_left[step, column] = expiry - times[step]
                alive[step, column] = True
        settles[end, column] = abs(expiry - times[end]) < 1e-9
        replaced[end, column] = True

    def slopes() -> Array:
        result = xp.zeros(shape, dtype=xp.float64)
        for column, (start, end, expiry) in lives:
            for step in range(start, end):
                result[step, column] = market.volatility_slope(expiry, step)
        return xp.permute_dims(result, (0, 2, 1))

    return Contracts(
        listings=tuple(listings),
        years_left=years_left,
        alive=alive,
        settles=settles,
        replaced=replaced,
        slopes=slopes,
        **{name: xp.permute_dims(values, (0, 2, 1)) for name, values in rows.items()},
    )


def _where(market: AnyMarket, quantity: Any) -> tuple[Any, Any]:
    """The market on the paths where a quantity is not 0, and which these are; all, where it is not worth the copy."""
    whole = market, slice(None)
    if not isinstance(market, Market) or not isinstance(quantity, np.ndarray) or quantity.ndim == 0:
        return whole
    chosen = np.flatnonzero(quantity)
    paths = market.paths
    if not isinstance(paths.spot, np.ndarray) or chosen.size > 0.8 * paths.n_paths:
        return whole
    part = dataclasses.replace(
        paths,
        spot=paths.spot[:, chosen],
        variance=paths.variance[:, chosen],
        parameters={name: values[chosen] for name, values in paths.parameters.items()},
        state={name: values[:, chosen] for name, values in paths.state.items()},
    )
    return paths.model.market(part), chosen


def _lives(listing: Listing, times: np.ndarray) -> list[tuple[int, int, float]]:
    """(first step, last step, expiry in years) of each contract in a place; the last step is at most the end."""
    n_steps = times.size - 1
    step_years = float(times[-1]) / n_steps
    tenor = listing.steps(listing.tenor, step_years)
    roll = tenor if listing.roll_every is None else listing.steps(listing.roll_every, step_years)
    starts = [listing.listed] if listing.roll_every is None else list(range(listing.listed, n_steps, roll))
    lives = []
    for start in starts:
        if start < n_steps:
            due = start + tenor
            expiry = float(times[due]) if due <= n_steps else float(times[-1]) + (due - n_steps) * step_years
            lives.append((start, min(start + roll, due, n_steps), expiry))
    return lives


@dataclass(frozen=True, eq=False)
class Scenario:
    """A batch of episodes before anyone hedges. Arrays are time-major, float64; instruments come last.

    Instruments: the underlying first, where it may be traded, then the columns of `hedges`. Liabilities are positions
    that the hedge does not choose: options sold or bought (`position`, in shares), and `shares` of the underlying.
    """

    times: np.ndarray  # (n_steps + 1,), years
    rates: tuple[Any, ...]  # (n_steps,): the rate per year from each step to the next, numbers or (n,)
    dividend: float  # yield per year
    spot: Array  # (n_steps + 1, n)
    volatility: Array  # (n_steps + 1, n), of the spot now, per square root of a year
    trades_underlying: bool
    hedges: Contracts  # c may be 0
    liabilities: Contracts
    position: Array  # (n_steps + 1, n, c_liabilities), shares held from each step to the next
    kept: Contracts  # earlier contracts of the places that keep them, each marked until it expires
    kept_from: tuple[tuple[int, int], ...]  # (step, place in `hedges`) at which each of them has been replaced
    shares: float = 0.0
    past: Past | None = None  # of history: where the episodes lie in the series

    @property
    def n_steps(self) -> int:
        """Steps from the first trade to the end."""
        return int(self.times.size - 1)

    @property
    def n_paths(self) -> int:
        """Episodes in the batch."""
        return int(self.spot.shape[1])

    @property
    def instruments(self) -> tuple[str, ...]:
        """Names of what can be traded, (k,)."""
        underlying = ("underlying",) if self.trades_underlying else ()
        return (*underlying, *(listing.name for listing in self.hedges.listings))

    @cached_property
    def is_option(self) -> np.ndarray:
        """(k,), 1.0 or 0.0."""
        return np.array([0.0] * self.trades_underlying + [1.0] * len(self.hedges.listings))

    @cached_property
    def multiplier(self) -> np.ndarray:
        """Shares a contract, (k,)."""
        return np.concatenate([np.ones(int(self.trades_underlying)), self.hedges.multiplier])

    @cached_property
    def alive(self) -> np.ndarray:
        """Whether an instrument can be traded at a step, (n_steps + 1, k) bool."""
        return np.concatenate([np.ones((self.n_steps + 1, int(self.trades_underlying)), bool), self.hedges.alive], 1)

    @cached_property
    def tradable(self) -> np.ndarray | None:
        """Whether an instrument that is alive is traded at a step, (n_steps + 1, k) bool; None where all always are."""
        if self.hedges.tradable is None or bool((self.hedges.tradable | ~self.hedges.alive).all()):
            return None
        underlying = np.ones((self.n_steps + 1, int(self.trades_underlying)), bool)
        return np.concatenate([underlying, self.hedges.tradable | ~self.hedges.alive], 1)

    @cached_property
    def half_spread(self) -> Array | None:
        """Half the quoted spread of what can be traded at each step, (n_steps + 1, n, k), 0 for the underlying; None
        where nothing is quoted."""
        half = self.hedges.half_spread
        return None if half is None else self._with_underlying(0.0 * self.spot, half)

    @cached_property
    def carried_half_spread(self) -> Array | None:
        """The same of what was held since the step before."""
        half = self.hedges.carried_half_spread
        return None if half is None else self._with_underlying(0.0 * self.spot, half)

    @cached_property
    def mid(self) -> Array:
        """Mid per share of what can be traded at each step, (n_steps + 1, n, k)."""
        return self._with_underlying(self.spot, self.hedges.price)

    @cached_property
    def carried(self) -> Array:
        """Mid at each step of what was held since the step before, (n_steps + 1, n, k)."""
        return self._with_underlying(self.spot, self.hedges.carried)

    @cached_property
    def delta(self) -> Array:
        """dV/dS of one share of each instrument, (n_steps + 1, n, k)."""
        return self._with_underlying(array_namespace(self.spot).ones_like(self.spot), self.hedges.delta)

    @cached_property
    def gamma(self) -> Array:
        """d2V/dS2 of one share of each instrument, (n_steps + 1, n, k)."""
        return self._with_underlying(0.0 * self.spot, self.hedges.gamma)

    @cached_property
    def carried_vega(self) -> Array:
        """dV/dvolatility at each step of what was held since the step before, (n_steps + 1, n, k)."""
        return self._with_underlying(0.0 * self.spot, self.hedges.carried_vega)

    @cached_property
    def vega(self) -> Array:
        """dV/dvolatility of one share of each instrument, (n_steps + 1, n, k); see `hedgerl.sim.Market.mark`."""
        return self._with_underlying(0.0 * self.spot, self.hedges.vega)

    @cached_property
    def liability_value(self) -> Array:
        """Value of the liabilities after each step's events, (n_steps + 1, n); negative for options sold."""
        return self._owed("price") + self.shares * self.spot

    @cached_property
    def liability_delta(self) -> Array:
        """dV/dS of all liabilities, (n_steps + 1, n)."""
        return self._owed("delta") + self.shares

    @cached_property
    def liability_gamma(self) -> Array:
        """d2V/dS2 of all liabilities, (n_steps + 1, n)."""
        return self._owed("gamma")

    @cached_property
    def liability_vega(self) -> Array:
        """dV/dvolatility of all liabilities, (n_steps + 1, n)."""
        return self._owed("vega")

    @cached_property
    def liability_theta(self) -> Array:
        """dV/dt of all liabilities, per year, (n_steps + 1, n)."""
        return self._owed("theta")

    def _owed(self, name: str) -> Array:
        """The sum over liabilities of position times what a share has, (n_steps + 1, n)."""
        per_share = getattr(self.liabilities, name)
        result = 0.0 * self.spot
        for column, alive in enumerate(self.liabilities.alive.T):  # clients' options live for some of the steps only
            for steps in _runs(alive):
                result[steps] += self.position[steps, :, column] * per_share[steps, :, column]
        return result

    @cached_property
    def premium(self) -> Array:
        """Cash received at each step for liabilities taken on then, (n_steps + 1, n); negative where bought."""
        price, result = self.liabilities.price, 0.0 * self.spot
        for column, alive in enumerate(self.liabilities.alive.T):
            for steps in _runs(alive):
                position = self.position[steps, :, column]
                result[steps] -= position * price[steps, :, column]
                # of a contract that goes on, only what is added to it is paid for
                later = slice(steps.start + 1, steps.stop)
                same = self._array(~self.liabilities.replaced[later, column])[:, None]
                result[later] += same * position[:-1] * price[later, :, column]
        return result

    @cached_property
    def settlement(self) -> Array:
        """Cash received at each step for liabilities that end then, (n_steps + 1, n): payoffs, or marks at the end."""
        result = 0.0 * self.spot
        for column, replaced in enumerate(self.liabilities.replaced.T):
            for step in np.flatnonzero(replaced[1:]).tolist():
                result[step + 1] += self.position[step, :, column] * self.liabilities.last_price[step + 1, :, column]
        return result

    def implied_volatility(self, which: Contracts) -> Array:
        """Implied volatilities (n_steps + 1, n, c) of the contracts; the market's volatility where there is none.

        A price that rounding has put on its bound, deep in the money on the last days, implies none.
        """
        if which.volatility is not None:
            return which.volatility
        xp = array_namespace(self.spot)
        result = self.volatility[:, :, None] + 0.0 * which.price
        for step in range(self.n_steps):
            for column in np.flatnonzero(which.alive[step]).tolist():
                implied = implied_volatility(
                    which.price[step, :, column],
                    self.spot[step],
                    which.strike[step, :, column],
                    float(which.years_left[step, column]),
                    rate=self.rates[step],
                    dividend=self.dividend,
                    is_call=bool(which.is_call[column]),
                )
                good = xp.isfinite(implied) & (implied > 1e-4)
                result[step, :, column] = xp.where(good, implied, self.volatility[step])
        return result

    @cached_property
    def hedge_volatility(self) -> Array:
        """Implied volatilities of `hedges`, (n_steps + 1, n, c)."""
        return self.implied_volatility(self.hedges)

    @cached_property
    def liability_volatility(self) -> Array:
        """Implied volatilities of `liabilities`, (n_steps + 1, n, c)."""
        return self.implied_volatility(self.liabilities)

    @cached_property
    def kept_volatility(self) -> Array:
        """Implied volatilities of `kept`, (n_steps + 1, n, c)."""
        return self.implied_volatility(self.kept)

    @cached_property
    def kept_bs_delta(self) -> Array:
        """Black-Scholes deltas of `kept` at their implied volatilities, (n_steps + 1, n, c)."""
        return self.black_scholes(self.kept, self.kept_volatility, "delta")

    @cached_property
    def kept_bs_vega(self) -> Array:
        """Black-Scholes vegas of the same."""
        return self.black_scholes(self.kept, self.kept_volatility, "vega")

    @cached_property
    def kept_minimum_variance_delta(self) -> Array:
        """Deltas of least variance of `kept`, (n_steps + 1, n, c): see `hedgerl.envs.minimum_variance`."""
        from hedgerl.envs.minimum_variance import minimum_variance_delta

        return minimum_variance_delta(self, self.kept)

    def black_scholes(self, which: Contracts, volatility: Array, greek: str) -> Array:
        """A Black-Scholes Greek at these volatilities, (n_steps + 1, n, c); 0 where a contract is not alive."""
        xp = array_namespace(self.spot)
        rates = (*self.rates, self.rates[-1])
        rows = []
        for step in range(self.n_steps + 1):
            columns = []
            for column in range(len(which.listings)):
                if not which.alive[step, column]:
                    columns.append(0.0 * self.spot[step])
                    continue
                greeks = black_scholes(
                    self.spot[step],
                    which.strike[step, :, column],
                    float(which.years_left[step, column]),
                    volatility[step, :, column],
                    rate=rates[step],
                    dividend=self.dividend,
                    is_call=bool(which.is_call[column]),
                )
                columns.append(getattr(greeks, greek))
            rows.append(xp.stack(columns, axis=-1) if columns else 0.0 * which.price[step])
        return xp.stack(rows)

    def _with_underlying(self, first: Array, rest: Array) -> Array:
        if not self.trades_underlying:
            return rest
        return array_namespace(first).concat([first[:, :, None], rest], axis=-1)

    def _array(self, values: np.ndarray) -> Array:
        """Numbers of the host beside the paths, not to be written into.

        A few that a step asks for again and again are sent to a device once: a copy from the host waits for it.
        """
        xp, where = self._beside
        if isinstance(self.spot, np.ndarray) or (given := np.asarray(values, np.float64)).size > _FEW:
            return xp.asarray(values, dtype=self.spot.dtype, device=where)
        key = given.shape, given.tobytes(), self.spot.dtype, where
        if key not in self.sent:
            self.sent[key] = xp.asarray(given, dtype=self.spot.dtype, device=where)
        return self.sent[key]

    def mapped(self, change: Callable[[Array], Array]) -> Scenario:
        """This scenario with every array of paths changed: their library, device or dtype, or which paths."""
        rates = tuple(rate if isinstance(rate, int | float) else change(rate[None])[0] for rate in self.rates)
        groups: dict[str, Any] = {
            name: getattr(self, name).changed(change) for name in ("hedges", "liabilities", "kept")
        }
        past = None if self.past is None else self.past.changed(change)
        return dataclasses.replace(self, rates=rates, past=past, **groups, **_changed(self, change, 2))

    def part(self, first: int, stop: int) -> Scenario:
        """The paths from `first` up to `stop`, without a copy, with whatever is known of them already."""
        piece = self.mapped(lambda array: array[:, first:stop])
        for name, value in self.__dict__.items():
            if name in _DERIVED:
                piece.__dict__[name] = value[:, first:stop]
        for group in ("hedges", "kept"):
            known, cut = getattr(self, group).__dict__, getattr(piece, group).__dict__
            cut.update({name: known[name][:, first:stop] for name in _CARRIED if name in known})
        piece.__dict__["sent"] = self.sent
        return piece

    def known(self, sent: dict[Any, Array] | None = None) -> None:
        """Computes now what every rollout asks for, for `part` to hand on.

        sent: that of an earlier scenario in the same place, whose small arrays need not be sent again.
        """
        if sent is not None:
            self.__dict__["sent"] = sent
        owed = ("premium", "settlement") if self.liabilities.listings else ()
        for name in ("mid", "vega", "liability_value", *owed):
            getattr(self, name)
        if not isinstance(self.spot, np.ndarray):  # which of them are carried is sent from the host
            for group, name in itertools.product((self.hedges, self.kept), _CARRIED):
                getattr(group, name)

    def __getstate__(self) -> dict[str, Any]:
        place = ("_beside", "sent")  # a module cannot be pickled, and what lies on a device need not be
        return {name: value for name, value in self.__dict__.items() if name not in place}

    @cached_property
    def _beside(self) -> tuple[Any, Any]:
        return array_namespace(self.spot), device(self.spot)

    @cached_property
    def sent(self) -> dict[tuple[Any, ...], Array]:
        """What `_array` has sent, by shape, content, dtype and device: the same for all parts, whatever their paths."""
        return {}


_FEW = 256  # numbers that are kept on a device
_CARRIED = ("carried", "carried_vega")  # of `Contracts`

_DERIVED = frozenset(  # what `Scenario` computes by path, once
    ("mid", "carried", "delta", "gamma", "vega", "carried_vega", "premium", "settlement")
    + tuple(f"liability_{name}" for name in ("value", "delta", "gamma", "vega", "theta", "volatility"))
    + ("hedge_volatility", "kept_volatility", "kept_bs_delta", "kept_bs_vega", "kept_minimum_variance_delta")
)


def _runs(flags: np.ndarray) -> list[slice]:
    """The runs of steps at which a flag is set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))).tolist()
    return [slice(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _changed(item: Any, change: Callable[[Array], Array], least: int) -> dict[str, Any]:
    """The changed arrays of at least so many dimensions among a dataclass's fields."""
    fields = {each.name: getattr(item, each.name) for each in dataclasses.fields(item)}
    return {name: change(value) for name, value in fields.items() if getattr(value, "ndim", 0) >= least}


@single_threaded_blas()  # marks must not depend on the number of threads
def scenario(
    market: AnyMarket,
    *,
    hedges: Sequence[Listing],
    liabilities: Sequence[Listing] = (),
    quantities: Sequence[Any] = (),
    shares: float = 0.0,
    trades_underlying: bool = True,
) -> Scenario:
    """The scenario of a market with these hedge instruments and liabilities.

    quantities: of each liability, in shares, negative for an option sold; a number or one for each path. A liability
    that outlives the paths is bought back at its mark at the end.
    """
    if len(quantities) != len(liabilities):
        raise ValueError(f"quantities must have one entry for each of {len(liabilities)} liabilities, got {quantities}")
    lay_out: Callable[..., Contracts] = contracts
    if isinstance(market, QuotedMarket):
        from hedgerl.envs.quoted import quoted_contracts as lay_out  # which needs this module
    xp = array_namespace(market.spot)
    spot = xp.astype(market.spot, xp.float64)
    owed = lay_out(market, liabilities, quantities)
    position = xp.permute_dims(
        xp.zeros((market.times.size, len(liabilities), spot.shape[1]), dtype=xp.float64), (0, 2, 1)
    )
    for column, quantity in enumerate(quantities):
        for steps in _runs(owed.alive[:, column]):
            position[steps, :, column] = xp.asarray(quantity)
    earlier = [
        (dataclasses.replace(listing, listed=start, roll_every=None, keep=False), (end, place))
        for place, listing in enumerate(hedges)
        if listing.keep
        for start, end, expiry in _lives(listing, market.times)
        if end < market.times.size - 1 and expiry > market.times[end] + 1e-9
    ]
    return Scenario(
        times=market.times,
        rates=tuple(market.rate_at(step) for step in range(market.times.size - 1)),
        dividend=market.dividend,
        spot=spot,
        volatility=xp.sqrt(xp.astype(market.variance, xp.float64)),
        trades_underlying=trades_underlying,
        hedges=lay_out(market, hedges),
        liabilities=owed,
        position=position,
        kept=lay_out(market, [listing for listing, _ in earlier]),
        kept_from=tuple(place for _, place in earlier),
        shares=shares,
        past=getattr(market, "past", None),
    )
