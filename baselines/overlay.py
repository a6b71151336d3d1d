"""Static overlays on shares that are held: a protective put, a collar, a synthetic forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from hedgerl.baselines.base import Baseline, Observation, names
from hedgerl.pricing._checks import finite

Array = Any


@dataclass(frozen=True)
class Overlay(Baseline):
    """Holds `calls` and `puts` for each share of the liabilities' delta, through rolls, whatever the market does.

    The liabilities' delta is the number of shares in a book of shares, for which this is meant. A number of calls is
    spread evenly over the calls that live at a step, puts likewise; they are told apart by the sign of their delta.
    Without a living one nothing is held of that kind; the underlying, where it can be traded, is not.
    """

    calls: float = 0.0
    puts: float = 0.0

    def __post_init__(self) -> None:
        finite("calls", self.calls)
        finite("puts", self.puts)

    @property
    def observation(self) -> tuple[str, ...]:
        """See `Baseline.observation`."""
        return names("liability_delta", "hedge_bs_delta", "hedge_strike", "hedge_alive")

    def target(self, observation: Observation) -> Array:
        """See `Baseline.target`."""
        delta = observation["hedge_bs_delta"]
        xp = array_namespace(delta)
        option = observation["hedge_alive"] * (observation["hedge_strike"] > 0.0)
        calls, puts = option * (delta > 0.0), option * (delta < 0.0)
        shares = observation["liability_delta"][:, None]
        total = 0.0 * delta
        for number, kind in ((self.calls, calls), (self.puts, puts)):
            count = xp.sum(kind, axis=-1)[:, None]
            total = total + number * shares * kind / (count + (count == 0.0))
        return total


@dataclass(frozen=True)
class ProtectivePut(Overlay):
    """A put for each share: what is lost below the strike comes back."""

    puts: float = 1.0


@dataclass(frozen=True)
class Collar(Overlay):
    """A put for each share, paid for by a call sold: outcomes lie between the strikes. With both strikes equal it is
    the synthetic forward."""

    calls: float = -1.0
    puts: float = 1.0


@dataclass(frozen=True)
class SyntheticForward(Collar):
    """A call sold and a put bought at one strike for each share, which is the share sold forward: by parity delta is
    -e^(-q tau), and gamma and vega are 0. Raises ValueError where the options' strikes differ."""

    def target(self, observation: Observation) -> Array:
        """See `Baseline.target`."""
        xp = array_namespace(observation["hedge_strike"])
        strike, option = observation["hedge_strike"], observation["hedge_alive"] * (observation["hedge_strike"] > 0.0)
        if strike.shape[1]:
            highest = xp.max(strike * option, axis=-1)
            apart = abs(strike - highest[:, None]) * option > 1e-9 * highest[:, None]
            if bool(xp.any(apart)):
                raise ValueError("the call and the put of a synthetic forward must have one strike, got several")
        return super().target(observation)
