"""Trading: what a trade costs, what cash earns, and the ledger that records both."""

from __future__ import annotations

from hedgerl.execution.costs import (
    Commission,
    Cost,
    HalfSpread,
    Proportional,
    QuotedSpread,
    Quotes,
    SquareRootImpact,
    linear_cost,
)
from hedgerl.execution.funding import Funding
from hedgerl.execution.ledger import Ledger

__all__ = [
    "Commission",
    "Cost",
    "Funding",
    "HalfSpread",
    "Ledger",
    "Proportional",
    "QuotedSpread",
    "Quotes",
    "SquareRootImpact",
    "linear_cost",
]
