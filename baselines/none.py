"""No hedge: the bar that any hedge must clear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hedgerl.baselines.base import Baseline, Observation

Array = Any


@dataclass(frozen=True)
class NoHedge(Baseline):
    """Holds nothing, so that its P&L is that of the liabilities."""

    @property
    def observation(self) -> tuple[str, ...]:
        """See `Baseline.observation`."""
        return ("holdings",)

    def target(self, observation: Observation) -> Array:
        """Zero of each instrument."""
        return 0.0 * observation["holdings"]
