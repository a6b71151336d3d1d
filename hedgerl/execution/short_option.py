"""One option sold at its mark and hedged with the underlying until it expires, over a batch of paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from array_api_compat import array_namespace

from hedgerl.execution.ledger import Ledger
from hedgerl.pricing import Greeks, Option

Array = Any
Marker = Callable[[int], Greeks]  # step -> the option's price and Greeks on every path at that step


@dataclass(frozen=True)
class MarketView:
    """What a hedger sees at one step, before it trades. Arrays are (n_paths,)."""

    step: int
    years_left: float  # to the option's expiry
    spot: Array
    mark: Greeks  # of one option, per share
    option_position: float  # options held; -1.0 is one sold
    holdings: Array  # shares held


class Hedge(Protocol):
    """A hedge: what to hold, given what is seen."""

    def predict(self, view: MarketView) -> Array:
        """The target holding of the underlying, (n_paths,) or a scalar, in shares per option."""
        ...


@dataclass(frozen=True)
class Episode:
    """What happened, after the trades of each step. Arrays are (n_steps + 1, n_paths), float64, per share.

    `cash + holdings * spot + option_position[:, None] * marks` is the hedger's wealth. It starts at zero less the cost
    of the first trade, and at the last step it is all cash: the option is settled, the hedge unwound.
    """

    times: Array  # (n_steps + 1,), years
    spot: Array
    marks: Array  # mid of the option; the payoff at the last step
    option_position: Array  # (n_steps + 1,), -1 until the option settles
    holdings: Array
    cash: Array
    cost: Array  # paid so far

    @property
    def pnl(self) -> Array:
        """Profit and loss at expiry after all costs, (n_paths,), seen from the hedger."""
        return self.cash[-1]

    @property
    def premium(self) -> Array:
        """The premium received at the start, (n_paths,)."""
        return self.marks[0]

    @property
    def wealth(self) -> Array:
        """Cash plus positions at their marks, (n_steps + 1, n_paths)."""
        return self.cash + self.holdings * self.spot + self.option_position[:, None] * self.marks


def sell_and_hedge(
    times: Array,
    spot: Array,
    option: Option,
    marker: Marker,
    hedge: Hedge,
    *,
    half_spread_bps: float,
    rate: float = 0.0,
    dividend: float = 0.0,
) -> Episode:
    """The episode of a hedger who sells one `option` at its mark at times[0] and hedges until times[-1], its expiry.

    Order of events. At each step but the last the hedger observes, then trades the underlying at the mid of that very
    step, paying the half spread; the market moves; cash earns interest. At the last step the option settles in cash
    at the payoff of that step's spot and the hedge is unwound at a cost.

    times: (n_steps + 1,) years. spot: (n_steps + 1, n_paths). The sale of the option itself costs nothing.
    Raises ValueError unless spot has a row for each of `times` and the last of them is the option's expiry, for all
    paths.
    """
    xp = array_namespace(spot)
    spot = xp.astype(spot, xp.float64, copy=False)  # nothing writes into it
    n_steps = len(times) - 1
    shape = tuple(spot.shape)
    if len(shape) != 2 or shape[0] != n_steps + 1:
        raise ValueError(f"spot must have shape ({n_steps + 1}, n_paths), a row for each of times, got {shape}")
    expiry_years = xp.asarray(option.expiry_years, dtype=xp.float64)
    if n_steps < 1 or not bool(xp.all(abs(expiry_years - float(times[-1])) < 1e-9)):
        raise ValueError(f"times must end at the option's expiry_years, {option.expiry_years}, got {times}")

    ledger = Ledger(spot[0], half_spread_bps)
    records: dict[str, list[Array]] = {"marks": [], "holdings": [], "cash": [], "cost": []}

    def record(mark: Array) -> None:
        records["marks"].append(mark)
        records["holdings"].append(ledger.holdings)
        records["cash"].append(ledger.cash)
        records["cost"].append(ledger.cost)

    for step in range(n_steps):
        mark = marker(step)
        price = xp.astype(mark.price, xp.float64)
        if step == 0:
            ledger.receive(price)
        years_left = float(times[-1] - times[step])
        view = MarketView(step, years_left, spot[step], mark, option_position=-1.0, holdings=ledger.holdings)
        ledger.trade(hedge.predict(view), spot[step])
        record(price)
        ledger.accrue(float(times[step + 1] - times[step]), spot[step + 1], rate, dividend)

    payoff = option_payoff(option, spot[-1])
    ledger.receive(-payoff)
    ledger.trade(0.0, spot[-1])
    record(payoff)

    option_position = xp.full(n_steps + 1, -1.0, dtype=xp.float64)
    option_position[-1] = 0.0
    return Episode(
        times=times,
        spot=spot,
        option_position=option_position,
        **{name: xp.stack(rows) for name, rows in records.items()},
    )


def option_payoff(option: Option, spot: Array) -> Array:
    """What one option pays at expiry: max(S - K, 0) for a call, max(K - S, 0) for a put, per share."""
    xp = array_namespace(spot)
    sign = xp.where(xp.asarray(option.is_call), 1.0, -1.0)
    return xp.clip(sign * (spot - xp.asarray(option.strike)), 0.0, None)
