"""No hedge: the bar that any hedge must clear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hedgerl.execution import MarketView

Array = Any


@dataclass(frozen=True)
class NoHedge:
    """Holds nothing, so its P&L is the premium less the payoff."""

    def predict(self, view: MarketView) -> Array:
        """Zero shares."""
        return 0.0 * view.holdings
