"""Delta hedge: hold what offsets the first-order exposure to the spot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hedgerl.baselines.base import (
    DELTAS,
    PLACES,
    Baseline,
    Observation,
    Which,
    deltas,
    names,
    net_delta,
    with_less_delta,
)

Array = Any


@dataclass(frozen=True)
class Delta(Baseline):
    """Net delta of liabilities and holdings is zero after every trade.

        underlying = -(liability delta + sum of other holdings x their deltas)

    in shares, at each step's prices, whatever it costs. Where the underlying cannot be traded, options are, see
    `with_less_delta`; what they leave is 10^-4 of the exposure while one is near the money.

    which: whose delta (of liabilities and options alike).
        "model": dV/dS of the marks, the state of the variance fixed.
        "implied": Black-Scholes at each contract's own implied volatility (Black & Scholes 1973).
        "minimum_variance": the model's delta + vega x Cov(d volatility, dS) / Var(dS), see
        `hedgerl.envs.minimum_variance`; for SABR Bartlett's (2006). The model's own delta where volatility does not
        move with the spot, as under Black-Scholes.
    """

    which: Which = "model"

    def __post_init__(self) -> None:
        if self.which not in DELTAS:
            raise ValueError(f"which must be one of {', '.join(DELTAS)}, got {self.which!r}")

    @property
    def observation(self) -> tuple[str, ...]:
        """See `Baseline.observation`."""
        return names(PLACES, DELTAS[self.which])

    def target(self, observation: Observation) -> Array:
        """See `Baseline.target`."""
        exposure, hedge_delta = deltas(observation, self.which)
        return with_less_delta(observation, net_delta(observation, exposure, hedge_delta), hedge_delta)
