"""Gamma-scaled hedge: rebalance when the spot has moved far, where "far" is measured by gamma."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

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
from hedgerl.pricing._checks import in_interval, non_negative

Array = Any


@dataclass(frozen=True)
class GammaScaled(Baseline):
    """Trades `fraction` of the net delta away when |net delta| > moves x |net gamma| x S sigma sqrt(dt).

    |gamma| S sigma sqrt(dt) is the delta that one standard deviation of the spot over a step brings about, so that the
    hedge is left alone until the spot has moved by about `moves` of them since the last trade: rebalancing by moves
    instead of by the clock (Henrotte 1993; Toft 1996). Where gamma is large the threshold is wide in delta yet as wide
    as ever in the spot; where gamma dies out, deep in or out of the money or at expiry, so does the threshold, but
    with it the delta that there is to trade.

    moves: standard deviations of a step of the spot; 0 trades at every step. fraction: in (0, 1], of the net delta.
    Gamma is of liabilities and holdings together, before the trade; sigma the volatility of the spot now.
    """

    moves: float = 1.0
    fraction: float = 1.0
    which: Which = "model"

    def __post_init__(self) -> None:
        non_negative("moves", self.moves)
        if self.fraction != 1.0:
            in_interval("fraction", self.fraction, 0.0, 1.0)
        if self.which not in DELTAS:
            raise ValueError(f"which must be one of {', '.join(DELTAS)}, got {self.which!r}")

    @property
    def observation(self) -> tuple[str, ...]:
        """See `Baseline.observation`."""
        gammas = ("liability_gamma", "kept_gamma", "hedge_gamma", "spot", "volatility", "step_years")
        return names(PLACES, DELTAS[self.which], gammas)

    def target(self, observation: Observation) -> Array:
        """See `Baseline.target`."""
        exposure, hedge_delta = deltas(observation, self.which)
        net = net_delta(observation, exposure, hedge_delta)
        held = array_namespace(net).sum(observation["holdings"] * observation["hedge_gamma"], axis=-1)
        move = observation["spot"] * observation["volatility"] * observation["step_years"] ** 0.5
        threshold = self.moves * move * abs(observation["liability_gamma"] + observation["kept_gamma"] + held)
        return with_less_delta(observation, self.fraction * net * (abs(net) > threshold), hedge_delta)
