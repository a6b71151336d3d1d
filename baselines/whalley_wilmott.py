"""The band of Whalley and Wilmott: trade to its edge, never inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from hedgerl.baselines.base import (
    DELTAS,
    PLACES,
    TERMS,
    Baseline,
    Observation,
    deltas,
    excess,
    names,
    net_delta,
    repriced,
    trades_underlying,
    with_less_delta,
)
from hedgerl.pricing._checks import positive

Array = Any


def half_width(cost: Array, gamma: Array, aversion: float, discount: Array | float = 1.0) -> Array:
    """(3/2 e^(-r tau) k S Gamma^2 / aversion)^(1/3), in shares (Whalley & Wilmott 1997).

    cost: k S, one-way, currency per share. gamma: of the whole book, shares per unit of spot. aversion: of exponential
    utility, per unit of currency. discount: e^(-r tau).

    >>> from hedgerl.pricing import black_scholes
    >>> gamma = black_scholes(100.0, 100.0, 0.25, 0.2).gamma
    >>> round(float(half_width(0.01 * 100, gamma, aversion=1.0)), 6)
    0.133539
    """
    return (1.5 / aversion * discount * cost * gamma * gamma) ** (1.0 / 3.0)


def band(observation: Observation, aversion: float) -> Array:
    """`half_width` (n,) of a book at Black-Scholes gammas; discounted over the gamma's mean time to expiry. 0 where the
    underlying is not traded or nothing is owed that has gamma."""
    position = observation["liability_position"]
    if not (trades_underlying(observation) and position.shape[1]):
        return 0.0 * observation["spot"]
    xp = array_namespace(position)
    each = position * repriced(observation, observation["liability_volatility"]).gamma
    weight = abs(each)
    mean_left = xp.sum(weight * observation["liability_years_left"], axis=-1) / (xp.sum(weight, axis=-1) + 1e-300)
    discount = xp.exp(-observation["rate"] * mean_left)
    return half_width(observation["cost_per_share"][:, 0], xp.sum(each, axis=-1), aversion, discount)


@dataclass(frozen=True)
class WhalleyWilmott(Baseline):
    """Trades to the edge of the band of that half width around the implied Black-Scholes delta, and not inside it.

    The expansion for small costs of the hedge of an investor of exponential utility. The cost is what the underlying
    costs now, linear and one-way. aversion: per unit of currency of the whole book's P&L: a book ten times as large
    with a tenth of the aversion has the same band for each share. At expiry, and deep in or out of the money, the band
    closes with gamma.
    """

    aversion: float = 1.0

    def __post_init__(self) -> None:
        positive("aversion", self.aversion)

    @property
    def observation(self) -> tuple[str, ...]:
        """See `Baseline.observation`."""
        return names(PLACES, TERMS, DELTAS["implied"], "cost_per_share")

    def target(self, observation: Observation) -> Array:
        """See `Baseline.target`."""
        exposure, hedge_delta = deltas(observation, "implied")
        net = net_delta(observation, exposure, hedge_delta)
        return with_less_delta(observation, excess(net, band(observation, self.aversion)), hedge_delta)
