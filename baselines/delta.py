"""Delta hedge: hold what offsets the option's first-order exposure to the spot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hedgerl.execution import MarketView

Array = Any


@dataclass(frozen=True)
class Delta:
    """Holds -(options held) x delta shares, with the delta of the market's own mark, at every step."""

    def predict(self, view: MarketView) -> Array:
        """The number of shares that makes option and shares together flat in the spot."""
        return -view.option_position * view.mark.delta
