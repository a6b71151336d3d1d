"""Leland's hedge: the Black-Scholes delta at a volatility that has the costs in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from hedgerl.baselines.base import (
    DELTAS,
    PLACES,
    TERMS,
    Baseline,
    Observation,
    delta_at,
    names,
    net_delta,
    repriced,
    trades_underlying,
    with_less_delta,
)

Array = Any

_LEAST = 0.1  # of the variance that is left where costs would eat it up


def leland_volatility(volatility: Array, cost: Array, step_years: Array, short: Array | float = 1.0) -> Array:
    """sigma sqrt(1 + short sqrt(8 / pi) k / (sigma sqrt(dt))), annualised as sigma is (Leland 1985).

    cost: k, one-way, as a share of the value traded; Leland's own k is round-trip, hence 8 for his 2. short: 1 for an
    option sold, -1 for one bought (Hoggard, Whalley & Wilmott 1994), between them for a book of both. A bought
    option's variance is kept above a tenth of sigma^2: at frequent trading the formula makes it negative.

    >>> round(float(leland_volatility(0.2, 0.01, 1 / 250)), 6)
    0.30077
    """
    variance = volatility * volatility
    adjusted = variance + short * math.sqrt(8.0 / math.pi) * cost * volatility / step_years**0.5
    least = _LEAST * variance
    return (0.5 * (adjusted + least + abs(adjusted - least))) ** 0.5


@dataclass(frozen=True)
class Leland(Baseline):
    """Net delta zero at every step, the liabilities' options at Leland's volatility instead of the implied.

    k is what the underlying costs now over the spot, dt the length of the step. In a book of options sold and bought
    what counts is the net gamma, -sum(position x gamma) / sum(|position| x gamma): 1 if all are sold, -1 if all are
    bought. Without costs, or where the underlying is not traded, it is the implied `Delta`.
    """

    @property
    def observation(self) -> tuple[str, ...]:
        """See `Baseline.observation`."""
        return names(PLACES, TERMS, DELTAS["implied"], "cost_per_share", "step_years")

    def target(self, observation: Observation) -> Array:
        """See `Baseline.target`."""
        exposure = observation["liability_bs_delta"]
        position, implied = observation["liability_position"], observation["liability_volatility"]
        if trades_underlying(observation) and position.shape[1]:
            xp = array_namespace(position)
            gamma = repriced(observation, implied).gamma
            net, gross = (xp.sum(amount * gamma, axis=-1) for amount in (position, abs(position)))
            cost = observation["cost_per_share"][:, 0] / observation["spot"]
            short = -net / (gross + 1e-300)
            terms = (cost[:, None], observation["step_years"][:, None], short[:, None])
            exposure = delta_at(observation, leland_volatility(implied, *terms))
        hedge_delta = observation["hedge_bs_delta"]
        exposure = exposure + observation["kept_bs_delta"]
        return with_less_delta(observation, net_delta(observation, exposure, hedge_delta), hedge_delta)
