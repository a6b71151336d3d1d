"""The one transition: trade at a step's quotes, pay, let the market move, fund, settle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from hedgerl.envs.scenario import Scenario
from hedgerl.execution.costs import Cost, Quotes, clip, total
from hedgerl.execution.funding import Funding
from hedgerl.execution.ledger import Ledger
from hedgerl.pricing._checks import finite, non_negative, whole_number

Array = Any


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What any policy may do with an instrument; None: no limit. Quantities are in contracts, of options, or shares."""

    trade: float | None = None  # most that may be traded in a step, of each instrument
    holding: float | None = None  # most that may be held of it, long or short, options kept from earlier aside
    whole: bool = False  # whether quantities are rounded to whole contracts and shares, and limits down to them

    def __post_init__(self) -> None:
        for name in ("trade", "holding"):
            if getattr(self, name) is not None:
                non_negative(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a task trades: costs, funding, limits, delay, and whether hedges are unwound at the end."""

    costs: tuple[Cost, ...] = ()  # or a mapping of them by name, in which None stands for no cost
    funding: Funding = field(default_factory=Funding)
    limits: Limits = field(default_factory=Limits)
    unwind: bool = True  # sell hedges at the end at a cost; False: they are closed at mid, free of cost
    initial_cash: float = 0.0
    delay: int = 0  # steps from a decision to its trade, at the prices and within the limits of then

    def __post_init__(self) -> None:
        finite("initial_cash", self.initial_cash)
        whole_number("delay", self.delay, minimum=0)
        given: Any = self.costs
        parts = tuple(given.values() if isinstance(given, Mapping) else given)
        object.__setattr__(self, "costs", tuple(part for part in parts if part is not None))
        for part in self.costs:
            if not isinstance(part, Cost):
                raise ValueError(f"costs must hold costs of hedgerl.execution, got {part!r}")


@dataclass(frozen=True, eq=False)
class Record:
    """What a batch of hedgers did. Arrays are time-major; (.., n) by path, (.., n, k) by instrument, in shares.

    wealth = cash + sum of holdings x mid + value of the liabilities, after the events and trades of each step. At the
    last step it is all cash, and the shares of the liability.
    """

    scenario: Scenario
    execution: Execution
    holdings: Array  # (n_steps + 1, n, k), after the trades of each step; 0 at the last
    trades: Array  # (n_steps, n, k), chosen at each step
    closed: Array  # (n_steps + 1, n, k), forced at each step before it: sold in a roll, or unwound at the end
    kept: Array  # (n_steps + 1, n, c) of `Scenario.kept`, after the events of each step; 0 at the last
    cash: Array  # (n_steps + 1, n), after the trades of each step
    flows: dict[str, Array]  # line -> (n_steps + 1, n), cash in at each step
    rewards: Array | None = None  # (n_steps, n)
    reward_terms: dict[str, Array] = field(default_factory=dict)  # name -> (n_steps, n), before weights

    @property
    def wealth(self) -> Array:
        """(n_steps + 1, n), after the trades of each step."""
        xp = array_namespace(self.cash)
        hedges = xp.sum(self.holdings * self.scenario.mid, axis=-1)
        hedges = hedges + xp.sum(self.kept * self.scenario.kept.price, axis=-1)
        return self.cash + hedges + self.scenario.liability_value

    @property
    def initial_wealth(self) -> Array:
        """Wealth before the first trade, (n,): the opening cash and the shares of the liability."""
        return self.execution.initial_cash + self.scenario.shares * self.scenario.spot[0]

    @property
    def pnl(self) -> Array:
        """Profit and loss of each episode after all costs, (n,), seen from the hedger."""
        return self.wealth[-1] - self.initial_wealth

    @property
    def costs(self) -> dict[str, Array]:
        """Trading costs by line, (n_steps + 1, n), positive."""
        lines = {cost.line for cost in self.execution.costs}
        return {line: -flow for line, flow in self.flows.items() if line in lines}

    @property
    def total_cost(self) -> Array:
        """All trading costs of each episode, (n,), positive."""
        xp = array_namespace(self.cash)
        paid = [xp.sum(amount, axis=0) for amount in self.costs.values()]
        return sum(paid) if paid else xp.zeros_like(self.cash[-1])


class Rollout:
    """A batch of hedgers on their way through a scenario.

    `act` is one step: trade at t to a target and pay; the market moves to t + 1; interest, dividends, margin and
    borrow costs are paid; options that expire settle, a place that rolls is sold at a cost, or its contract kept; new
    liabilities bring their premium, those that end settle. At the last step hedges are unwound. The arithmetic is the
    array library's of the scenario (NumPy, CuPy, torch), out of place, so that torch carries gradients from the profit
    to the targets.

    With a delay of d steps the target given at t is traded at t + d, in whatever contract has the place then; nothing
    is traded before step d, and what the last d targets ask for is never traded.
    """

    def __init__(self, scenario: Scenario, execution: Execution, *, record: bool = False) -> None:
        xp = array_namespace(scenario.spot)
        self.scenario = scenario
        self.execution = execution
        self.record = record
        self.xp = xp
        self.step = 0
        self._is_option = scenario._array(scenario.is_option)
        self._multiplier = scenario._array(scenario.multiplier)
        self._nothing: Array = 0.0 * scenario.mid[0]  # (n, k), of the paths' library and device
        self.holdings: Array = self._nothing
        self.trade: Array = self.holdings  # the last one chosen
        self.held: Array = self.holdings  # over the last step, after that trade
        self.closed: Array = self.holdings  # what was forced since
        self.kept: Array = scenario.kept.price[0] * 0.0  # (n, c), earlier contracts of places that keep them
        self.kept_held: Array = self.kept  # over the last step
        self._places = {(int(step), int(place)): column for column, (step, place) in enumerate(scenario.kept_from)}
        self.cost: Array = xp.zeros_like(scenario.spot[0])  # of the last step, positive
        self.total_cost: Array = self.cost  # so far
        self.ledger = Ledger(xp.zeros_like(scenario.spot[0]) + execution.initial_cash, record=record)
        self.cash_held: Array = self.ledger.cash  # over the last step, after that trade
        self._pending: list[Array] = []  # targets not yet traded, oldest first
        self._half_spread: Array | None = scenario.half_spread
        self._rows: dict[str, list[Array]] = {"holdings": [], "trades": [], "closed": [], "kept": [], "cash": []}
        if scenario.liabilities.listings:
            self.ledger.post(0, "premium", scenario.premium[0])
        self.wealth: Array = self._wealth()

    @property
    def done(self) -> bool:
        """Whether the last step has been taken."""
        return self.step == self.scenario.n_steps

    def quotes(self, step: int) -> Quotes:
        """Quotes of what can be traded at a step."""
        of, half = self.scenario, self._half_spread
        return Quotes(
            of.spot[step],
            of.volatility[step],
            of.mid[step],
            of.vega[step],
            self._is_option,
            self._multiplier,
            None if half is None else half[step],
        )

    def feasible(self, target: Array) -> Array:
        """The holdings (n, k) in shares that the limits allow on the way to `target`.

        An option that is not traded for want of a quote stays as it is held, and the underlying, where it is traded,
        takes its place: the book's delta is what the target's would have been.
        """
        tradable = self.scenario.tradable
        if tradable is None or tradable[self.step].all():
            return self._within_limits(target)
        traded = self.scenario._array(tradable[self.step])
        unfilled = (1.0 - traded) * (target - self.holdings)
        target = target - unfilled
        if self.scenario.trades_underlying:
            delta = total(unfilled * self.scenario.delta[self.step])
            first = self.scenario._array(_one(0, traded.shape[0]))
            target = target + delta[:, None] * first
        return traded * self._within_limits(target) + (1.0 - traded) * self.holdings

    def _within_limits(self, target: Array) -> Array:
        limits = self.execution.limits
        alive = self.scenario.alive[self.step]
        if not alive.all():
            target = target * self.scenario._array(alive)
        if limits.trade is None and limits.holding is None and not limits.whole:
            return target
        xp = self.xp
        target, held = target / self._multiplier, self.holdings / self._multiplier
        if limits.whole:
            target = xp.round(target)
        trade, holding = (
            math.floor(limit) if limits.whole and limit is not None else limit
            for limit in (limits.trade, limits.holding)
        )
        if trade is not None:
            target = clip(target, held - trade, held + trade)
        if holding is not None:
            target = clip(target, -holding, holding)
        return target * self._multiplier

    def act(self, target: Array) -> Array:
        """Trades to `target` (n, k), or to the one of `delay` steps ago, in shares after the limits, and moves on;
        returns the P&L of the step, (n,).

        The step's P&L is the change of wealth from before the trade to before the next one, all costs included, and at
        the last step the cost of unwinding.
        """
        of, ledger, before = self.scenario, self.ledger, self.wealth
        step, after = self.step, self.step + 1
        held = self.feasible(self._due(target))
        self.trade = held - self.holdings
        self.cost = self._pay(step, self.trade, self.quotes(step))
        self.holdings = self.held = held
        self.kept_held, self.cash_held = self.kept, ledger.cash
        if self.record:
            self._note("trades", self.trade)
            self._note_position()

        years = float(of.times[after] - of.times[step])
        shares: Any = of.shares or None
        if of.trades_underlying:
            shares = held[:, 0] + of.shares
        elif shares is not None:
            shares = 0.0 * ledger.cash + shares
        funding, rate = self.execution.funding, of.rates[step]
        for line, amount in funding.lines(ledger.cash, shares, of.spot[after], years, rate, of.dividend):
            ledger.post(after, line, amount)
        self.step = after
        last = self.done
        ended = of.hedges.replaced[after]
        self.closed = self._nothing
        if self._places:
            self._end_kept(after, last)
        if last or ended.any():
            self._end_holdings(after, ended, last)
        if of.liabilities.listings:
            if of.liabilities.replaced[after].any():
                ledger.post(after, "settlement", of.settlement[after])
            if of.liabilities.alive[after].any() and not last:
                ledger.post(after, "premium", of.premium[after])
        self.total_cost = self.total_cost + self.cost
        self.wealth = self._wealth()
        if last and self.record:
            self._note_position()
        return self.wealth - before

    def _due(self, target: Array) -> Array:
        """The target that is traded now; what is held where none is due."""
        if not self.execution.delay:
            return target
        self._pending.append(target)
        return self._pending.pop(0) if len(self._pending) > self.execution.delay else self.holdings

    def _end_holdings(self, step: int, ended: Any, last: bool) -> None:
        """Settles what expires, sells what is replaced, and at the last step everything."""
        of, first = self.scenario, int(self.scenario.trades_underlying)
        settling = of.hedges.settles[step]
        if settling.any():
            proceeds = self.holdings[:, first:] * of.hedges.carried[step] * of._array(settling)
            self.ledger.post(step, "option settlement", total(proceeds))
        gone = of._array(_padded(settling, first))
        leaving = of._array(_padded(ended | last, first, bool(last)))
        for place in range(ended.size):
            if (column := self._places.get((step, place))) is not None and not last:
                gone = gone + of._array(_one(first + place, gone.shape[0]))
                self.kept = self.kept + self.holdings[:, first + place, None] * of._array(
                    _one(column, self.kept.shape[1])
                )
        sold = -self.holdings * (leaving * (1.0 - gone))
        costs = self.execution.unwind or not last
        quotes = self.quotes(step)._replace(mid=of.carried[step], vega=of.carried_vega[step])
        if of.carried_half_spread is not None:
            quotes = quotes._replace(half_spread=of.carried_half_spread[step])
        self.cost = self.cost + self._pay(step, sold, quotes, free=not costs)
        self.closed = sold
        self.holdings = self.holdings * (1.0 - leaving)

    def _end_kept(self, step: int, last: bool) -> None:
        """Settles the kept contracts that expire, and at the last step sells the others."""
        of = self.scenario.kept
        settling = of.settles[step]
        if settling.any():
            gone = self.scenario._array(settling)
            self.ledger.post(step, "option settlement", total(self.kept * of.carried[step] * gone))
            self.kept = self.kept * (1.0 - gone)
        if last:
            spot, volatility = self.scenario.spot[step], self.scenario.volatility[step]
            multiplier = self.scenario._array(of.multiplier)
            one = self.scenario._array(np.ones(len(of.listings)))
            half = None if of.carried_half_spread is None else of.carried_half_spread[step]
            quotes = Quotes(spot, volatility, of.carried[step], of.carried_vega[step], one, multiplier, half)
            free = not self.execution.unwind
            self.cost = self.cost + self._pay(step, -self.kept, quotes, underlying=False, free=free)
            self.kept = self.kept * 0.0

    def _pay(self, step: int, trade: Array, quotes: Quotes, *, underlying: bool = True, free: bool = False) -> Array:
        """Pays for a trade at mid and its costs; returns the costs (n,)."""
        value = trade * quotes.mid
        if underlying and self.scenario.trades_underlying:
            self.ledger.post(step, "underlying", -value[:, 0])
            if value.shape[1] > 1:
                self.ledger.post(step, "options", -total(value[:, 1:]))
        else:
            self.ledger.post(step, "options", -total(value))
        paid = 0.0 * self.ledger.cash
        if not free:
            for cost in self.execution.costs:
                amount = total(cost.amount(trade, quotes))
                self.ledger.post(step, cost.line, -amount)
                paid = paid + amount
        return paid

    def _wealth(self) -> Array:
        of, step = self.scenario, self.step
        value = self.ledger.cash + of.liability_value[step]
        if self.done:
            return value
        if self._places:
            value = value + total(self.kept * of.kept.price[step])
        return value + total(self.holdings * of.mid[step])

    def kept_greek(self, name: str) -> Array | None:
        """The sum over kept contracts of a Greek of their marks, (n,), by its name; None where nothing can be kept."""
        return self.kept_sum(lambda scenario: getattr(scenario.kept, name))

    def kept_sum(self, per_share: Callable[[Scenario], Array]) -> Array | None:
        """The sum over kept contracts of shares x what a share has, (n_steps + 1, n, c); None where none can be."""
        return total(self.kept * per_share(self.scenario)[self.step]) if self._places else None

    def _note_position(self) -> None:
        self._note("holdings", self.holdings)
        self._note("closed", self.closed)
        self._note("kept", self.kept)
        self._note("cash", self.ledger.cash)

    def _note(self, name: str, value: Array) -> None:
        self._rows[name].append(value)

    def result(self, **more: Any) -> Record:
        """The record of a finished rollout made with record=True."""
        if not (self.record and self.done):
            raise ValueError("a rollout's record must be asked for (record=True) and finished")
        rows = {name: self.xp.stack(values) for name, values in self._rows.items()}
        return Record(self.scenario, self.execution, flows=self.ledger.flows(self.scenario.n_steps), **rows, **more)


def _one(place: int, size: int) -> Any:
    """A one among zeros, on the host."""
    return np.eye(size)[place]


def _padded(flags: Any, first: int, value: bool = False) -> Any:
    """Flags of options (c,) with that of the underlying before them."""
    return [value] * first + [bool(flag) for flag in flags]
