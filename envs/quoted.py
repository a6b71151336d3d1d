"""Real contracts in the places of a book: what is listed, until when it lives, and each day's mark and spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hedgerl.envs.scenario import Contracts, Listing, Scenario
from hedgerl.sim.quoted import QuotedMarket, Refused
from hedgerl.sim.quoted_day import QuotedContract

_PATHS = ("strike", "price", "last_price", "last_vega", "delta", "gamma", "vega", "theta")
_QUOTES = ("volatility", "half_spread", "last_half_spread")
_GREEKS = ("price", "delta", "gamma", "vega", "theta")


def quoted_contracts(market: QuotedMarket, listings: Sequence[Listing], wanted: Sequence[Any] = ()) -> Contracts:
    """As `hedgerl.envs.scenario.contracts`, of the contracts that are quoted nearest to the terms of each listing.

    wanted: for each listing the quantity, a number or (1,); where it is 0 nothing is listed.

    A contract lives until it settles, at the price of its day, until its place rolls, or to the end. A place whose
    `roll_every` is its tenor rolls when the contract settles. Raises Refused where what is listed at step 0 is not to
    be had; a place that is listed or rolls later stays empty until the first day that has a contract for it, a
    client's option is not traded at all.
    """
    times = market.times
    shape = times.size, len(listings)
    rows = {name: np.zeros((*shape[:1], 1, shape[1])) for name in (*_PATHS, *_QUOTES)}
    rows["volatility"] += np.sqrt(market.variance)[:, :, None]
    flags = {name: np.zeros(shape, dtype=bool) for name in ("alive", "settles", "replaced", "tradable", "quoted")}
    years_left = np.zeros(shape)
    symbols: list[tuple[str, ...]] = []
    chosen: dict[tuple[int, float, float], QuotedContract] = {}  # by step, moneyness and tenor
    for column, listing in enumerate(listings):
        if listing.keep:
            raise ValueError(
                f"keep must be false on quotes, whose contracts are sold when a place rolls, got {listing}"
            )
        amount = wanted[column] if wanted else 1.0
        lives = _lives(market, listing, chosen) if np.any(np.asarray(amount) != 0.0) else []
        symbols.append(tuple(str(contract) for contract, _, _ in lives))
        for contract, start, end in lives:
            expires = market.settles(contract) == end
            marks = market.marks(contract, start, end - 1 if expires else end)
            for step, mark in enumerate(marks[: end - start], start):
                rows["strike"][step, 0, column] = contract.strike
                for name in _GREEKS:
                    rows[name][step, 0, column] = getattr(mark.greeks, name)
                rows["volatility"][step, 0, column] = mark.volatility
                rows["half_spread"][step, 0, column] = mark.half_spread
                flags["tradable"][step, column], flags["quoted"][step, column] = mark.tradable, mark.quoted
                years_left[step, column] = market.years_left(contract, step)
            flags["alive"][start:end, column] = True
            flags["settles"][end, column], flags["replaced"][end, column] = expires, True
            if expires:
                rows["last_price"][end, 0, column] = market.payoff(contract, end)
            else:
                rows["last_price"][end, 0, column] = float(marks[-1].greeks.price)
                rows["last_vega"][end, 0, column] = float(marks[-1].greeks.vega)
                rows["last_half_spread"][end, 0, column] = marks[-1].half_spread
            if end == times.size - 1:  # the last mark, for the counts
                flags["quoted"][end, column] = not expires and marks[-1].quoted

    def slopes() -> np.ndarray:
        result = np.zeros_like(rows["price"])
        for step in np.flatnonzero(flags["alive"].any(axis=1)).tolist():
            result[step, 0] = flags["alive"][step] * market.volatility_slope(0.0, step)
        return result

    return Contracts(
        listings=tuple(listings), years_left=years_left, slopes=slopes, symbols=tuple(symbols), **rows, **flags
    )


def _lives(
    market: QuotedMarket, listing: Listing, chosen: dict[tuple[int, float, float], QuotedContract]
) -> list[tuple[QuotedContract, int, int]]:
    """(contract, first step, last step) of what is listed in a place, one after the other.

    chosen: what other places of the same terms have listed, of whose strike and expiry the other right is preferred.
    """
    n_steps = market.n_steps
    step_years = float(market.times[-1]) / n_steps
    tenor = listing.steps(listing.tenor, step_years)
    roll = None if listing.roll_every is None else listing.steps(listing.roll_every, step_years)
    lives: list[tuple[QuotedContract, int, int]] = []
    start = listing.listed
    while start < n_steps:
        terms = start, listing.moneyness, listing.tenor
        beside = chosen[terms]._replace(is_call=listing.is_call) if terms in chosen else None
        try:
            contract = market.listed(*terms, listing.is_call, beside)
        except Refused:
            if start == 0:
                raise
            if roll is None:
                break
            start += 1
            continue
        chosen.setdefault(terms, contract)
        settles = market.settles(contract)
        end = n_steps if settles is None else settles
        if roll is not None and roll != tenor:
            end = min(end, start + roll)
        lives.append((contract, start, end))
        if roll is None:
            break
        start = end
    return lives


@dataclass
class QuoteCounts:
    """Where the marks of the episodes so far came from."""

    episodes: int = 0
    contracts: set[str] = field(default_factory=set)
    marks: dict[str, list[int]] = field(default_factory=lambda: {"liabilities": [0, 0], "hedge options": [0, 0]})
    refused: Counter[str] = field(default_factory=Counter)
    example: str = ""  # of a refusal

    def add(self, scenario: Scenario) -> None:
        """Counts an episode."""
        self.episodes += 1
        for name, which in (("liabilities", scenario.liabilities), ("hedge options", scenario.hedges)):
            if which.quoted is None:
                continue
            self.contracts.update(symbol for column in which.symbols for symbol in column)
            ends = which.replaced & ~which.settles
            ends[:-1] = False  # of the others the next contract's mark is counted
            self.marks[name][0] += int((which.quoted & (which.alive | ends)).sum())
            self.marks[name][1] += int((which.alive | ends).sum())

    def refuse(self, error: Refused) -> None:
        """Counts an episode that could not be laid out."""
        self.refused[error.reason] += 1
        self.example = self.example or str(error)

    def notes(self, market: Any) -> tuple[str, ...]:
        """What a report must say of the option prices, of the market's days, and of the episodes left out."""
        shares = [
            f"{100.0 * quoted / marks:.1f} % of the marks of {name}"
            for name, (quoted, marks) in self.marks.items()
            if marks
        ]
        traded = (
            "are not traded"
            if market.missing == "hold"
            else f"are traded at {market.missing_spread:g} x the spread of the quotes nearest to them"
        )
        notes = [
            f"Market quotes: {len(self.contracts)} listed contracts of {market.underlying}, marked at the middle of "
            f"their own bid and ask. {' and '.join(shares)} are quotes; on the other days contracts are marked on the "
            f"smile of that day's quotes and {traded}."
        ]
        dates, lost = market.dates, market.missing_days
        told = f"{dates.size} days with quotes from {dates[0]} to {dates[-1]}"
        if lost:
            told += f"; {len(lost)} trading days between them have none, on which nothing is hedged"
        notes.append(told + ".")
        if self.refused:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self.refused.most_common())
            total = self.episodes + self.refused.total()
            notes.append(f"Refused: {self.refused.total()} of {total} episodes: {reasons}.")
        return tuple(notes)
