"""The ledger: the one place where a trade turns into cash, holdings and cost."""

from __future__ import annotations

import math
from typing import Any

from array_api_compat import array_namespace

from hedgerl.pricing._checks import non_negative

Array = Any


class Ledger:
    """Cash and holdings of the underlying for a batch of hedgers, one a path.

    A trade at mid price S of q shares (q < 0 sells) changes

        holdings += q,    cash -= q S + cost,    cost = half_spread |q| S,

    so cash + holdings S falls by the cost and by nothing else. Amounts are float64 whatever the dtype of the prices:
    they are sums of many terms and differences of large ones.

    >>> import numpy as np
    >>> ledger = Ledger(np.zeros(1), half_spread_bps=10.0)
    >>> ledger.trade(target=0.5, spot=np.array([100.0]))
    >>> ledger.cash, ledger.cost
    (array([-50.05]), array([0.05]))

    Parameters
    ----------
    like: an array (n_paths,) whose library and device the amounts share.
    half_spread_bps: half the bid-ask spread, in 1/10,000 of the amount traded, paid one-way.

    Raises ValueError for a negative or non-finite half spread.
    """

    def __init__(self, like: Array, half_spread_bps: float) -> None:
        xp = array_namespace(like)
        self.half_spread = non_negative("half_spread_bps", half_spread_bps) * 1e-4
        self.cash: Array = xp.zeros_like(like, dtype=xp.float64)  # (n_paths,)
        self.holdings: Array = xp.zeros_like(like, dtype=xp.float64)  # (n_paths,), shares after the last trade
        self.cost: Array = xp.zeros_like(like, dtype=xp.float64)  # (n_paths,), paid so far

    def receive(self, amount: Array) -> None:
        """Adds an amount (n_paths,) to the cash: a premium, or a payoff with its sign."""
        self.cash = self.cash + amount

    def trade(self, target: Array, spot: Array) -> None:
        """Buys or sells up to `target` shares at mid `spot`, and pays the half spread."""
        quantity = target - self.holdings
        cost = self.half_spread * abs(quantity) * spot
        self.cash = self.cash - quantity * spot - cost
        self.cost = self.cost + cost
        self.holdings = self.holdings + quantity

    def accrue(self, years: float, spot: Array, rate: float = 0.0, dividend: float = 0.0) -> None:
        """Pays interest on the cash, and the dividends of the shares held, over `years` that end at price `spot`.

        A share with a continuous dividend yield q grows to e^{q dt} shares; the extra ones are turned into cash at the
        closing price and at no cost. A short holding pays them.
        """
        self.cash = self.cash * math.exp(rate * years) + self.holdings * spot * math.expm1(dividend * years)
