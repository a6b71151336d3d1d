"""Minimum-variance hedge by regression on what the episode has shown so far."""

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
    names,
    net_delta,
    with_less_delta,
)
from hedgerl.pricing import black_scholes
from hedgerl.pricing._checks import finite, positive

Array = Any


@dataclass(frozen=True)
class MinimumVariance(Baseline):
    """Net delta zero, each option's delta being Black-Scholes delta + vega x b / S (after Hull & White 2017),

        b = (b_0 n_0 m^2 + sum w dlogS dsigma) / (n_0 m^2 + sum w dlogS^2),

    one for each path: the slope, through the origin, of changes of the implied volatilities sigma of fixed contracts on
    those of log S. The sums run over the steps of the episode so far, the change up to this step included, and over all
    contracts, owed and tradable, that lived at both ends of a step; w = exp(-d1^2), so that far wings, whose implied
    volatilities say little, count little. Without a model it sees how volatility moves with
    the spot, at fixed strike: the skew and its move together.

    The prior, of slope b_0 = prior, is worth n_0 = prior_weight steps in which spot moved by m = spot_move; without
    options to look at it is all there is. At the first step the hedge is the implied `Delta` where prior is 0.

    `state` carries the sums and the last volatilities: a mapping of arrays, by path. It begins anew on the paths of
    `episode_start`, and altogether where it is None. The model's own minimum variance is `Delta("minimum_variance")`.
    """

    prior: float = 0.0  # d sigma / d log S; -1: a fall by 1 % comes with a point of volatility
    prior_weight: float = 20.0
    spot_move: float = 0.0126  # a day at 20 % a year

    def __post_init__(self) -> None:
        finite("prior", self.prior)
        positive("prior_weight", self.prior_weight)
        positive("spot_move", self.spot_move)

    @property
    def observation(self) -> tuple[str, ...]:
        """See `Baseline.observation`."""
        return names(PLACES, TERMS, DELTAS["implied"], "kept_bs_vega", "hedge_volatility", "hedge_years_left")

    def predict(
        self, observation: Observation, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, Any]:
        """`target` with the slope of what has been seen, and the new state."""
        state = self._seen(observation, state, episode_start)
        return self._hedge(observation, self.slope(state)), state

    def target(self, observation: Observation) -> Array:
        """The hedge of the first step of an episode."""
        return self._hedge(observation, self.prior + 0.0 * observation["spot"])

    def slope(self, state: Any) -> Array:
        """b (n,), from the state."""
        weight = self.prior_weight * self.spot_move**2
        return (self.prior * weight + state["xy"]) / (weight + state["xx"])

    def _hedge(self, observation: Observation, slope: Array) -> Array:
        xp = array_namespace(slope)
        exposure, hedge_delta = deltas(observation, "implied")
        exposure = exposure + observation["kept_bs_vega"] * slope / observation["spot"]
        per_spot = (slope / observation["spot"])[:, None]
        position = observation["liability_position"]
        if position.shape[1]:
            exposure = exposure + xp.sum(position * _vega(observation, "liability") * per_spot, axis=-1)
        if hedge_delta.shape[1]:
            hedge_delta = hedge_delta + _vega(observation, "hedge") * per_spot
        return with_less_delta(observation, net_delta(observation, exposure, hedge_delta), hedge_delta)

    def _seen(self, observation: Observation, state: Any, episode_start: Any) -> dict[str, Array]:
        spot = observation["spot"]
        xp = array_namespace(spot)
        strike, left, volatility = (
            xp.concat([observation[f"liability_{name}"], observation[f"hedge_{name}"]], axis=-1)
            for name in ("strike", "years_left", "volatility")
        )
        now = {"spot": spot, "strike": strike, "left": left, "volatility": volatility}
        if state is None:
            return {"xx": 0.0 * spot, "xy": 0.0 * spot, **now}
        going = 1.0 + 0.0 * spot
        if episode_start is not None:
            going = xp.where(xp.asarray(episode_start) != 0, 0.0 * spot, going)
        same = (strike == state["strike"]) & (strike > 0.0) & (left < state["left"]) & (left > 0.0)
        there = xp.where(same, 1.0 + 0.0 * strike, 0.0 * strike)
        before = state["spot"]
        x = xp.log(spot / before) * going
        # d1 at the start of the step; dead contracts get a harmless strike
        deviation = state["volatility"] * state["left"] ** 0.5 + 1e-9
        d1 = xp.log(before[:, None] / xp.where(same, strike, before[:, None])) / xp.where(same, deviation, there + 1.0)
        weight = there * xp.exp(-d1 * d1)
        y = xp.sum(weight * (volatility - state["volatility"]), axis=-1)
        return {
            "xx": going * state["xx"] + x * x * xp.sum(weight, axis=-1),
            "xy": going * state["xy"] + x * y,
            **now,
        }


def _vega(observation: Observation, side: str) -> Array:
    """Black-Scholes vegas, (n, c) of the liabilities or (n, k) of the instruments; 0 for what is no living option."""
    strike, left = observation[f"{side}_strike"], observation[f"{side}_years_left"]
    volatility = observation[f"{side}_volatility"]
    rate, dividend = observation["rate"][:, None], observation["dividend"][:, None]
    vega = black_scholes(observation["spot"][:, None], strike, left, volatility, rate=rate, dividend=dividend).vega
    return vega * (left > 0.0)
