"""Delta-gamma, delta-vega and delta-gamma-vega hedges: options against curvature, shares against delta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from array_api_compat import array_namespace, device

from hedgerl.baselines.base import (
    BOOK,
    DELTAS,
    PLACES,
    Baseline,
    Observation,
    Which,
    book_shares,
    deltas,
    names,
    trades_underlying,
)
from hedgerl.pricing._checks import positive

Array = Any


@dataclass(frozen=True)
class GreekNeutral(Baseline):
    """Least squared exposure of liabilities and holdings together to the Greeks named, and to delta.

    Each Greek is weighed by what a usual day makes of it, in currency, so that units do not decide which of them an
    option too few is spent on:

        delta  S m,    gamma  S^2 m^2 / sqrt(2)  (the standard deviation of dS^2 / 2),    vega  u

    with m = spot_move (relative) and u = volatility_move. owed_g is what the liabilities and the options kept from
    earlier listings have. With the underlying among the instruments, options alone
    minimise

        sum_g w_g^2 (owed_g + sum_j h_j option_jg)^2 + (damping S m)^2 sum_j h_j^2

    and the underlying then takes all of the delta. Without it options do everything, delta being one of the Greeks.
    With as many options of different expiries or strikes as Greeks the hedge is exact but for the damping; with fewer
    it is the least squares, with none the delta hedge.

    Fall-back. Options whose gamma and vega die out, on their last days and far from the money, would be held in
    exploding numbers. `damping` takes them out smoothly: an option whose exposures are worth less than damping x that
    of a share is left alone (an at-the-money month's gamma is worth .06 of a share's delta, and damping leaves .2 % of
    the exposure). `most` caps holdings at that many times the shares of the book, after which delta is still
    hedged. Dead instruments are not held.

    which: whose deltas, see `Delta`.
    """

    greeks: ClassVar[tuple[str, ...]]

    which: Which = "model"
    spot_move: float = 0.0126  # a day at 20 % a year
    volatility_move: float = 0.01  # a day of a volatility of 20 % that moves by 80 % a year
    damping: float = 0.003
    most: float = 5.0

    def __post_init__(self) -> None:
        if self.which not in DELTAS:
            raise ValueError(f"which must be one of {', '.join(DELTAS)}, got {self.which!r}")
        for name in ("spot_move", "volatility_move", "damping", "most"):
            positive(name, getattr(self, name))

    @property
    def observation(self) -> tuple[str, ...]:
        """See `Baseline.observation`."""
        exposures = [f"{side}_{greek}" for greek in self.greeks for side in ("liability", "kept", "hedge")]
        return names(PLACES, BOOK, DELTAS[self.which], "spot", tuple(exposures))

    def target(self, observation: Observation) -> Array:
        """See `Baseline.target`."""
        spot, alive = observation["spot"], observation["hedge_alive"]
        xp = array_namespace(spot)
        owed, hedge_delta = deltas(observation, self.which)
        first = int(trades_underlying(observation))
        if alive.shape[1] == first:
            return -owed[:, None] if first else 0.0 * observation["holdings"]

        share = spot * self.spot_move
        weights = {"gamma": share * share * 0.5**0.5, "vega": self.volatility_move + 0.0 * spot}
        rows = [] if first else [(share * owed, share[:, None] * hedge_delta)]
        for greek in self.greeks:
            weight = weights[greek]
            each = weight[:, None] * observation[f"hedge_{greek}"][:, first:]
            rows.append((weight * (observation[f"liability_{greek}"] + observation[f"kept_{greek}"]), each))
        exposure = xp.stack([row for row, _ in rows], axis=-1)  # (n, g)
        options = xp.stack([each for _, each in rows], axis=1) * alive[:, None, first:]  # (n, g, j)
        held = _damped_least_squares(xp, options, exposure, self.damping * share)
        cap = (self.most * book_shares(observation))[:, None]
        held = 0.5 * (abs(held + cap) - abs(held - cap))
        if not first:
            return held
        underlying = -(owed + xp.sum(held * hedge_delta[:, first:], axis=-1))
        return xp.concat([underlying[:, None], held], axis=-1)


@dataclass(frozen=True)
class DeltaGamma(GreekNeutral):
    """Net delta and net gamma are zero: see `GreekNeutral`."""

    greeks: ClassVar[tuple[str, ...]] = ("gamma",)


@dataclass(frozen=True)
class DeltaVega(GreekNeutral):
    """Net delta and net vega are zero: see `GreekNeutral`. Vega is by the model's own volatility at every expiry."""

    greeks: ClassVar[tuple[str, ...]] = ("vega",)


@dataclass(frozen=True)
class DeltaGammaVega(GreekNeutral):
    """Net delta is zero, net gamma and net vega are zero or, with one option only, least: see `GreekNeutral`."""

    greeks: ClassVar[tuple[str, ...]] = ("gamma", "vega")


def _damped_least_squares(xp: Any, options: Array, exposure: Array, damping: Array) -> Array:
    """h (n, j) that minimises |exposure + options h|^2 + damping^2 |h|^2; options (n, g, j), exposure (n, g)."""
    square = (damping * damping)[:, None]
    if options.shape[2] == 1:
        column = options[:, :, 0]
        return -xp.sum(column * exposure, axis=-1)[:, None] / (xp.sum(column * column, axis=-1)[:, None] + square)
    transposed = xp.permute_dims(options, (0, 2, 1))
    unit = xp.eye(options.shape[2], dtype=options.dtype, device=device(options))
    gram = transposed @ options + square[:, :, None] * unit
    return -xp.linalg.solve(gram, transposed @ exposure[:, :, None])[:, :, 0]
