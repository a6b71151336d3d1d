"""The three tasks: what is owed, what may be traded, for how long, and at what costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from hedgerl.data.volatility import TRADING_DAYS
from hedgerl.envs.scenario import Listing, Scenario, scenario
from hedgerl.envs.transition import Execution, Limits
from hedgerl.execution import Commission, HalfSpread
from hedgerl.pricing._checks import finite, non_negative, positive, whole_number
from hedgerl.sim import Model, QuotedHistory, RoughBergomi
from hedgerl.sim.backend import namespace
from hedgerl.sim.market import AnyMarket
from hedgerl.sim.noise import entropy, generator
from hedgerl.sim.quoted import Refused

MONTH = 21 / TRADING_DAYS  # years


def _default_market() -> Model:
    return RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2)


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A book that is hedged on a clock of `n_steps` equal steps up to `maturity` years in a market, at a cost.

    Without a maturity a step is a trading day, 252 a year; on history it must be.
    """

    name: ClassVar[str]

    market: Any = field(default_factory=_default_market)  # a hedgerl.sim.Model, History or QuotedHistory
    n_steps: int = 21
    maturity: Any = None  # years; None becomes n_steps trading days
    substeps: int = 1  # of the simulation, for each step
    perturb: Mapping[str, Any] | None = None  # parameter -> (low, high), drawn for each episode
    backend: str = "auto"
    execution: Execution = field(default_factory=Execution)

    def __post_init__(self) -> None:
        whole_number("n_steps", self.n_steps)
        whole_number("substeps", self.substeps)
        if self.maturity is None:
            object.__setattr__(self, "maturity", self.n_steps / TRADING_DAYS)
        years = positive("maturity", self.maturity)
        if not self.simulated and abs(years * TRADING_DAYS - self.n_steps) > 1e-6 * self.n_steps:
            raise ValueError(
                f"maturity must be n_steps / {TRADING_DAYS} on history, a trading day a step, got {self.maturity!r}"
            )

    @property
    def simulated(self) -> bool:
        """Whether episodes are drawn from a model, without end, or cut from history."""
        return isinstance(self.market, Model)

    @property
    @abstractmethod
    def size(self) -> float:
        """Shares that the book stands for: what trades and profits are measured against."""

    @property
    @abstractmethod
    def instruments(self) -> tuple[str, ...]:
        """Names of what can be traded, (k,): the underlying first, where it is one of them."""

    @abstractmethod
    def book(self, market: AnyMarket, seed: int | None) -> Scenario:
        """The task's liabilities and instruments along the paths of a market."""

    def scenario(self, n_paths: int, seed: int | None = None) -> Scenario:
        """A batch of episodes: simulated, or months of history drawn with replacement.

        On quotes a batch is one episode, and ValueError is raised for more; days that refuse it are drawn again.
        """
        if isinstance(self.market, Model):
            paths = self.market.simulate(
                n_paths,
                self.n_steps,
                self.maturity,
                seed=seed,
                substeps=self.substeps,
                perturb=self.perturb,
                backend=self.backend,
            )
            return self.book(self.market.market(paths), paths.seed)
        starts = self.market.starts(self.n_steps, every=1)
        seed = entropy(seed)  # fresh for clients, too, where it is None
        if isinstance(self.market, QuotedHistory):
            return self._of_quotes(starts, n_paths, seed)
        drawn = np.random.Generator(np.random.PCG64(seed)).integers(len(starts), size=n_paths)
        return self.history(starts[drawn], seed)

    def _of_quotes(self, starts: np.ndarray, n_paths: int, seed: int) -> Scenario:
        if n_paths != 1:
            raise ValueError(f"n_paths must be 1 on quotes, whose contracts differ by episode, got {n_paths}")
        refused = None
        for start in np.random.Generator(np.random.PCG64(seed)).permutation(starts).tolist():
            try:
                return self.history(np.array([start]), seed)
            except Refused as error:
                refused = error
        raise ValueError(f"market must have contracts for this task on one day at least: {refused}")

    def history(self, starts: np.ndarray, seed: int | None = None) -> Scenario:
        """The episodes of history that start on these days."""
        return self.book(self.market.market(starts, self.n_steps), seed)


@dataclass(frozen=True, kw_only=True)
class ShortOption(Task):
    """One European option is sold at its mark and hedged until it expires, with the underlying and, where
    `hedge_options` says so, with options.
    """

    name: ClassVar[str] = "ShortOption"

    moneyness: float = 1.0  # strike over the initial spot
    is_call: bool = True
    quantity: float = 1.0  # shares that the option is on
    expiry: float | None = None  # years; None: at the end of the episode
    hedge_options: tuple[Listing, ...] = ()
    execution: Execution = field(
        default_factory=lambda: Execution(costs=(HalfSpread(bps=2.0, applies_to="underlying"),))
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("moneyness", self.moneyness)
        positive("quantity", self.quantity)
        object.__setattr__(self, "hedge_options", _all_of(Listing, "hedge_options", self.hedge_options))
        if self.expiry is not None and positive("expiry", self.expiry) < self.maturity * (1 - 1e-9):
            raise ValueError(f"expiry must not come before maturity = {self.maturity!r}, got {self.expiry!r}")

    @property
    def size(self) -> float:
        """See `Task.size`."""
        return self.quantity

    @property
    def instruments(self) -> tuple[str, ...]:
        """See `Task.instruments`."""
        return ("underlying", *(listing.name for listing in self.hedge_options))

    def book(self, market: AnyMarket, seed: int | None) -> Scenario:
        """See `Task.book`."""
        tenor = float(market.times[-1]) if self.expiry is None else self.expiry
        sold = Listing(name="short option", moneyness=self.moneyness, tenor=tenor, is_call=self.is_call)
        return scenario(market, hedges=self.hedge_options, liabilities=(sold,), quantities=(-self.quantity,))


@dataclass(frozen=True, kw_only=True)
class SpyOverlay(Task):
    """`shares` of an index fund are held for a year and hedged with one call and one put, at the money when listed
    and rolled when they expire. The shares themselves are not traded.
    """

    name: ClassVar[str] = "SpyOverlay"

    n_steps: int = 252
    shares: float = 10_000.0
    tenor: float = MONTH  # years
    roll_every: float | None = None  # years; None: when they expire
    moneyness: tuple[float, float] = (1.0, 1.0)  # strikes of the call and the put over the spot when listed
    execution: Execution = field(
        default_factory=lambda: Execution(
            costs=(Commission(per_contract=0.65, applies_to="options"),), limits=Limits(trade=100.0, holding=200.0)
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("shares", self.shares)
        positive("tenor", self.tenor)
        object.__setattr__(self, "moneyness", tuple(self.moneyness))
        if len(self.moneyness) != 2:
            raise ValueError(f"moneyness must be that of the call and of the put, got {self.moneyness}")

    @property
    def size(self) -> float:
        """See `Task.size`."""
        return self.shares

    @property
    def instruments(self) -> tuple[str, ...]:
        """See `Task.instruments`."""
        return ("call", "put")

    def book(self, market: AnyMarket, seed: int | None) -> Scenario:
        """See `Task.book`."""
        roll = self.tenor if self.roll_every is None else self.roll_every
        places = [
            Listing(name=name, moneyness=moneyness, tenor=self.tenor, is_call=name == "call", roll_every=roll)
            for name, moneyness in zip(self.instruments, self.moneyness, strict=True)
        ]
        return scenario(market, hedges=places, shares=self.shares, trades_underlying=False)


@dataclass(frozen=True, kw_only=True)
class Position:
    """A part of a given portfolio: so many shares' worth of an option, negative where sold."""

    quantity: float = -100.0
    option: Listing = field(default_factory=Listing)

    def __post_init__(self) -> None:
        finite("quantity", self.quantity)
        _all_of(Listing, "option", (self.option,))


@dataclass(frozen=True, kw_only=True)
class OptionBook(Task):
    """A book of options, hedged with the underlying and one or more options: a given `portfolio`, and clients who
    come by a Poisson process and buy or sell an option at its mark.
    """

    name: ClassVar[str] = "OptionBook"

    n_steps: int = 30
    portfolio: tuple[Position, ...] = ()
    arrivals: float = 1.0  # clients a step, in the mean; 0: none
    client_option: Listing = field(default_factory=lambda: Listing(name="client option", tenor=60 / 252))
    client_size: float = 100.0  # shares' worth of each client's trade
    client_sells: float = 0.5  # probability that a client sells to the book rather than buys
    hedge_options: tuple[Listing, ...] = (Listing(name="hedge option", tenor=30 / 252, roll_every=30 / 252),)
    execution: Execution = field(
        default_factory=lambda: Execution(
            costs=(
                HalfSpread(bps=1.0, applies_to="underlying"),
                HalfSpread(volatility_points=0.2, applies_to="options"),
            )
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "portfolio", _all_of(Position, "portfolio", self.portfolio))
        object.__setattr__(self, "hedge_options", _all_of(Listing, "hedge_options", self.hedge_options))
        _all_of(Listing, "client_option", (self.client_option,))
        non_negative("arrivals", self.arrivals)
        positive("client_size", self.client_size)
        if not 0 <= finite("client_sells", self.client_sells) <= 1:
            raise ValueError(f"client_sells must lie in [0, 1], got {self.client_sells!r}")
        if not self.portfolio and not self.arrivals:
            raise ValueError("portfolio must hold a position where arrivals is 0, got none")

    @property
    def size(self) -> float:
        """See `Task.size`."""
        given = sum(abs(position.quantity) for position in self.portfolio)
        return given + self.client_size * (self.arrivals * self.n_steps) ** 0.5

    @property
    def instruments(self) -> tuple[str, ...]:
        """See `Task.instruments`."""
        return ("underlying", *(listing.name for listing in self.hedge_options))

    def book(self, market: AnyMarket, seed: int | None) -> Scenario:
        """See `Task.book`. All clients of a step trade the same contract, so that a column of liabilities holds their
        net position."""
        listings = [position.option for position in self.portfolio]
        quantities: list[Any] = [position.quantity for position in self.portfolio]
        if self.arrivals:
            n_steps, n_paths = market.times.size - 1, int(market.spot.shape[1])
            rng = generator(0 if seed is None else seed, "clients", 0)
            sold, bought = (
                rng.poisson(rate, (n_steps, n_paths))
                for rate in (self.arrivals * (1.0 - self.client_sells), self.arrivals * self.client_sells)
            )
            net = namespace(market.spot).asarray(self.client_size * (bought - sold))
            for step in range(n_steps):
                listings.append(replace(self.client_option, listed=step))
                quantities.append(net[step])
        return scenario(market, hedges=self.hedge_options, liabilities=listings, quantities=quantities)


def _all_of(kind: type[Any], name: str, values: Any) -> tuple[Any, ...]:
    """The values as a tuple; ValueError unless each is of a kind."""
    given = tuple(values) if isinstance(values, list | tuple) else (values,)
    for value in given:
        if not isinstance(value, kind):
            raise ValueError(f"{name} must be of hedgerl.envs.{kind.__name__}, got {value!r}")
    return given


TASKS: dict[str, type[Task]] = {task.name: task for task in (ShortOption, SpyOverlay, OptionBook)}
