"""What cash earns, what loans and short shares cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from hedgerl.pricing._checks import finite, non_negative

Array = Any

LINES = ("interest", "margin", "dividends", "borrow")  # of the ledger


@dataclass(frozen=True, kw_only=True)
class Funding:
    """Cash earns the rate (SOFR), a margin loan pays the rate and a spread, shares sold short pay a borrow cost."""

    rate: float | None = None  # per year, continuously compounded; None: the market's own
    margin_spread: float = 0.0  # per year, on negative cash
    borrow_cost: float = 0.0  # per year, on the value of shares sold short

    def __post_init__(self) -> None:
        if self.rate is not None:
            finite("rate", self.rate)
        non_negative("margin_spread", self.margin_spread)
        non_negative("borrow_cost", self.borrow_cost)

    def lines(
        self, cash: Array, shares: Array | None, spot: Array, years: float, market_rate: Any, dividend: float
    ) -> list[tuple[str, Array]]:
        """Amounts (n,) to be posted for a step of `years`, by line.

        cash, shares: held over the step; None where the underlying is not held. spot: at its end. market_rate: number
        or (n,). Interest and margin are compounded over the step; a share with dividend yield q pays
        S (e^{q dt} - 1) in cash at its end.
        """
        rate = market_rate if self.rate is None else self.rate
        posts: list[tuple[str, Array]] = []
        if isinstance(rate, (int, float)):
            growth: Any = math.exp(rate * years)
            if rate != 0.0:
                posts.append(("interest", cash * (growth - 1.0)))
        else:
            growth = array_namespace(rate).exp(rate * years)
            posts.append(("interest", cash * (growth - 1.0)))
        if self.margin_spread:
            loan = _negative_part(cash)
            posts.append(("margin", loan * (growth * math.expm1(self.margin_spread * years))))
        if shares is not None:
            if dividend:
                posts.append(("dividends", shares * spot * math.expm1(dividend * years)))
            if self.borrow_cost:
                posts.append(("borrow", _negative_part(shares) * spot * math.expm1(self.borrow_cost * years)))
        return posts


def _negative_part(x: Array) -> Array:
    return 0.5 * (x - abs(x))
