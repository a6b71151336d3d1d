"""Trading: what a trade costs and the ledger that records it."""

from __future__ import annotations

from hedgerl.execution.ledger import Ledger
from hedgerl.execution.short_option import Episode, Hedge, MarketView, option_payoff, sell_and_hedge

__all__ = ["Episode", "Hedge", "Ledger", "MarketView", "option_payoff", "sell_and_hedge"]
