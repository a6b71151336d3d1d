"""Where a P&L came from: Taylor's expansion of every position, step by step, with carry and cost beside it.

Over a step in which the spot moves by dS, a contract's own implied volatility by dv and time by dt, one share of the
contract gains

    delta dS + 1/2 gamma dS^2 + vega dv + theta dt + vanna dS dv + 1/2 volga dv^2 + residual,

Black-Scholes Greeks at the contract's implied volatility when the step begins. The residual is what is left of the
change of its mark, of third order for small moves; nothing is fitted. The underlying is all delta. Carry is what the
ledger calls interest, margin, dividends and borrow; cost is what trading cost, negative. Trades at mid gain nothing,
so that the terms sum to the P&L.

Volatility is held fixed into the expiry, where none is implied, and wherever a mark on its no-arbitrage bound implies
none. Vega and theta are thus of implied volatility, not of the model's own variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hedgerl.envs.scenario import Contracts, Scenario
from hedgerl.envs.transition import Record
from hedgerl.evaluation.result import POSITION_TERMS, TERMS
from hedgerl.execution.funding import LINES
from hedgerl.pricing import black_scholes, implied_volatility

Terms = dict[str, np.ndarray]  # of `POSITION_TERMS`


@dataclass(frozen=True, eq=False)
class Expansion:
    """The terms of one share of everything that can be held in a scenario, for as many policies as ask.

    The scenario's arrays must be NumPy's.
    """

    scenario: Scenario

    @cached_property
    def hedge_terms(self) -> Terms:
        """Of one share of each hedge option over each step, (n_steps, n, c)."""
        return contract_terms(self.scenario, self.scenario.hedges, self.scenario.hedge_volatility)

    @cached_property
    def kept_terms(self) -> Terms:
        """Of one share of each earlier contract that is kept when its place rolls, (n_steps, n, c)."""
        kept = self.scenario.kept
        return contract_terms(self.scenario, kept, self.scenario.kept_volatility)

    @cached_property
    def liability(self) -> Terms:
        """Of the liabilities, summed over steps and contracts, (n,)."""
        of = self.scenario
        if of.liabilities.listings:
            terms = contract_terms(of, of.liabilities, of.liability_volatility)
            sums = {name: _sum(of.position[:-1], terms[name]) for name in POSITION_TERMS}
        else:
            sums = {name: np.zeros(of.n_paths) for name in POSITION_TERMS}
        sums["delta"] = sums["delta"] + of.shares * (of.spot[-1] - of.spot[0])
        return sums

    def hedge(self, record: Record) -> Terms:
        """Of what a record holds after each trade, summed over steps and instruments, (n,)."""
        of = self.scenario
        first = int(of.trades_underlying)
        sums = {name: np.zeros(of.n_paths) for name in POSITION_TERMS}
        if of.hedges.listings:
            held = record.holdings[:-1, :, first:]
            sums = {name: sums[name] + _sum(held, self.hedge_terms[name]) for name in POSITION_TERMS}
        if of.kept.listings:
            sums = {name: sums[name] + _sum(record.kept[:-1], self.kept_terms[name]) for name in POSITION_TERMS}
        if first:
            moved = np.einsum("tn,tn->n", record.holdings[:-1, :, 0], np.diff(of.spot, axis=0))
            sums["delta"] = sums["delta"] + moved
        return sums


def attribute(record: Record, expansion: Expansion | None = None) -> dict[str, dict[str, np.ndarray]]:
    """The P&L of each episode of a record by term: "liability", "hedge" and "net", each term (n,), in currency.

    The first two have `POSITION_TERMS`; net has `TERMS`, which sum to record.pnl.
    `expansion`: that of the record's scenario, where it is at hand.
    """
    expansion = Expansion(record.scenario) if expansion is None else expansion
    liability, hedge = expansion.liability, expansion.hedge(record)
    carry = np.zeros_like(record.pnl)
    for line in LINES:
        if line in record.flows:
            carry = carry + record.flows[line].sum(axis=0)
    net = {name: liability[name] + hedge[name] for name in POSITION_TERMS}
    net = {**net, "carry": carry, "cost": -record.total_cost}
    return {"liability": liability, "hedge": hedge, "net": {name: net[name] for name in TERMS}}


def contract_terms(scenario: Scenario, which: Contracts, volatility: np.ndarray) -> Terms:
    """The terms of one share of each contract over each step, (n_steps, n, c); 0 where it does not live.

    volatility: implied, (n_steps + 1, n, c).
    """
    shape = (scenario.n_steps, scenario.n_paths, len(which.listings))
    terms = {name: np.zeros(shape) for name in POSITION_TERMS}
    for step in range(scenario.n_steps):
        columns = np.flatnonzero(which.alive[step])
        if not columns.size:
            continue
        spot, rate = scenario.spot[step][:, None], scenario.rates[step]
        years = float(scenario.times[step + 1] - scenario.times[step])
        start = volatility[step][:, columns]
        greeks = black_scholes(
            spot,
            which.strike[step][:, columns],
            which.years_left[step, columns][None, :],
            start,
            rate=rate if isinstance(rate, int | float) else rate[:, None],
            dividend=scenario.dividend,
            is_call=which.is_call[columns][None, :],
        )
        ds = scenario.spot[step + 1][:, None] - spot
        dv = _volatility_change(scenario, which, volatility, step, columns)
        values = {
            "delta": greeks.delta * ds,
            "gamma": 0.5 * greeks.gamma * ds * ds,
            "vega": greeks.vega * dv,
            "theta": greeks.theta * years,
            "vanna": greeks.vanna * ds * dv,
            "volga": 0.5 * greeks.volga * dv * dv,
        }
        change = which.carried[step + 1][:, columns] - which.price[step][:, columns]
        values["residual"] = change - sum(values.values())
        for name, value in values.items():
            terms[name][step][:, columns] = value
    return terms


def _volatility_change(
    scenario: Scenario, which: Contracts, volatility: np.ndarray, step: int, columns: np.ndarray
) -> np.ndarray:
    """Change of implied volatility over a step of the contracts held in it, (n, len(columns))."""
    after = step + 1
    change: np.ndarray = volatility[after][:, columns] - volatility[step][:, columns]
    # `Scenario.implied_volatility` answers with the spot's volatility where a price implies none
    known = volatility[step][:, columns] != scenario.volatility[step][:, None]
    known &= volatility[after][:, columns] != scenario.volatility[after][:, None]
    change *= known
    for place, column in enumerate(columns.tolist()):
        if which.settles[after, column]:
            change[:, place] = 0.0
        elif which.replaced[after, column]:  # sold, or the episode ends: the column goes on with another contract
            left = float(which.years_left[step, column] - (scenario.times[after] - scenario.times[step]))
            end: Any = implied_volatility(
                which.carried[after, :, column],
                scenario.spot[after],
                which.strike[step, :, column],
                left,
                rate=scenario.rates[min(after, scenario.n_steps - 1)],
                dividend=scenario.dividend,
                is_call=bool(which.is_call[column]),
            )
            start = volatility[step, :, column]
            good = np.isfinite(end) & (end > 1e-4) & (start != scenario.volatility[step])
            change[:, place] = np.where(good, end - start, 0.0)
    return change


def _sum(quantity: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.einsum("tnc,tnc->n", quantity, value)
