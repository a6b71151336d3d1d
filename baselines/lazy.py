"""Lazy hedge: nothing happens while the net delta is within a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hedgerl.baselines.base import (
    BOOK,
    DELTAS,
    PLACES,
    Baseline,
    Observation,
    Which,
    book_shares,
    deltas,
    excess,
    names,
    net_delta,
    with_less_delta,
)
from hedgerl.pricing._checks import non_negative

Array = Any


@dataclass(frozen=True)
class Lazy(Baseline):
    """Trades only when |net delta| > limit x shares of the book, and then back to zero or to the limit.

    limit: shares of delta for each share that the book stands for (`book_shares`); 0 is `Delta`.
    back_to: "zero" trades rarely and much; "limit" often and little, as is optimal under proportional costs (Davis,
    Panas & Zariphopoulou 1993); "zero" is what a fee for each trade asks for (Whalley & Wilmott 1997).
    """

    limit: float = 0.1
    back_to: Literal["zero", "limit"] = "zero"
    which: Which = "model"

    def __post_init__(self) -> None:
        non_negative("limit", self.limit)
        if self.back_to not in ("zero", "limit"):
            raise ValueError(f"back_to must be one of zero, limit, got {self.back_to!r}")
        if self.which not in DELTAS:
            raise ValueError(f"which must be one of {', '.join(DELTAS)}, got {self.which!r}")

    @property
    def observation(self) -> tuple[str, ...]:
        """See `Baseline.observation`."""
        return names(PLACES, BOOK, DELTAS[self.which])

    def target(self, observation: Observation) -> Array:
        """See `Baseline.target`."""
        exposure, hedge_delta = deltas(observation, self.which)
        net = net_delta(observation, exposure, hedge_delta)
        limit = self.limit * book_shares(observation)
        amount = excess(net, limit) if self.back_to == "limit" else net * (abs(net) > limit)
        return with_less_delta(observation, amount, hedge_delta)
