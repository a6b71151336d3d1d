"""What trading costs: components that add up, each a line of its own in the ledger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from hedgerl.pricing._checks import non_negative, positive

Array = Any
Traded = Literal["underlying", "options", "all"]


class Quotes(NamedTuple):
    """What can be traded at one step. Instruments come last; the underlying, where it is one of them, first."""

    spot: Array  # (n,)
    volatility: Array  # (n,), of the spot now, per square root of a year
    mid: Array  # (n, k), per share
    vega: Array  # (n, k), of one share per 1.00 of volatility; 0 for the underlying
    is_option: Array  # (k,), 1.0 or 0.0
    multiplier: Array  # (k,), shares a contract: 1 for the underlying
    half_spread: Array | None = None  # (n, k), half of the ask less the bid that is quoted, 0 for the underlying


@dataclass(frozen=True, kw_only=True)
class Cost(ABC):
    """A cost of trading. Quantities are in shares (contracts times multiplier), amounts in currency, one-way."""

    line: ClassVar[str]  # its line in the ledger
    applies_to: Traded = "all"

    def __post_init__(self) -> None:
        if self.applies_to not in ("underlying", "options", "all"):
            raise ValueError(f"applies_to must be one of underlying, options, all, got {self.applies_to!r}")

    @abstractmethod
    def per_share(self, quotes: Quotes) -> Array:
        """Cost of trading one share more where costs are linear, (n, k) or (k,); 0 for what is not linear."""

    def amount(self, trade: Array, quotes: Quotes) -> Array:
        """Cost of a trade (n, k), by instrument, (n, k)."""
        return abs(trade) * (self.per_share(quotes) * self.applies(quotes))

    def applies(self, quotes: Quotes) -> Any:
        """1.0 for the instruments that pay, 0.0 for the others, (k,), or the number 1.0."""
        if self.applies_to == "all":
            return 1.0
        return quotes.is_option if self.applies_to == "options" else 1.0 - quotes.is_option


@dataclass(frozen=True, kw_only=True)
class Commission(Cost):
    """A fee per contract of an option and per share of the underlying."""

    line: ClassVar[str] = "commission"
    per_contract: float = 0.0
    per_share_fee: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        non_negative("per_contract", self.per_contract)
        non_negative("per_share_fee", self.per_share_fee)

    def per_share(self, quotes: Quotes) -> Array:
        """See `Cost.per_share`."""
        option = quotes.is_option
        return option * (self.per_contract / quotes.multiplier) + (1.0 - option) * self.per_share_fee


@dataclass(frozen=True, kw_only=True)
class Proportional(Cost):
    """A share of the value traded."""

    line: ClassVar[str] = "proportional"
    rate: float = 0.0  # of the value at mid, one-way: 0.01 is 1 %

    def __post_init__(self) -> None:
        super().__post_init__()
        non_negative("rate", self.rate)

    def per_share(self, quotes: Quotes) -> Array:
        """See `Cost.per_share`."""
        return self.rate * quotes.mid


@dataclass(frozen=True, kw_only=True)
class HalfSpread(Cost):
    """Half the bid-ask spread: in price, in basis points of the mid, and for options in volatility.

    With `base_volatility` the spread widens with the market's volatility, half = base x volatility / base_volatility.
    """

    line: ClassVar[str] = "spread"
    price: float = 0.0  # currency per share
    bps: float = 0.0  # 1/10,000 of the mid
    volatility_points: float = 0.0  # hundredths of implied volatility; times vega
    base_volatility: float | None = None  # at which the numbers above hold; None: always

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("price", "bps", "volatility_points"):
            non_negative(name, getattr(self, name))
        if self.base_volatility is not None:
            positive("base_volatility", self.base_volatility)

    def per_share(self, quotes: Quotes) -> Array:
        """See `Cost.per_share`."""
        half: Any = self.price
        if self.bps:
            half = half + (1e-4 * self.bps) * quotes.mid
        if self.volatility_points:
            half = half + (0.01 * self.volatility_points) * quotes.vega
        if self.base_volatility is not None:
            half = half * (quotes.volatility / self.base_volatility)[:, None]
        return half + 0.0 * quotes.is_option


@dataclass(frozen=True, kw_only=True)
class QuotedSpread(Cost):
    """Half of the quoted ask less bid of each option and moment: options are bought at their ask and sold at their bid.

    model_volatility_points: half the spread where a market has no quotes, in hundredths of implied volatility; None
    raises ValueError there, so that nothing is traded free.
    """

    line: ClassVar[str] = "spread"
    applies_to: Traded = "options"
    model_volatility_points: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.applies_to != "options":
            raise ValueError(f"applies_to must be options for quoted spreads, got {self.applies_to!r}")
        if self.model_volatility_points is not None:
            non_negative("model_volatility_points", self.model_volatility_points)

    def per_share(self, quotes: Quotes) -> Array:
        """See `Cost.per_share`."""
        if quotes.half_spread is not None:
            return quotes.half_spread
        if self.model_volatility_points is None:
            raise ValueError(
                "model_volatility_points must be given where a market has no quotes (this one has model marks): "
                "half the spread in hundredths of volatility, got None"
            )
        return (0.01 * self.model_volatility_points) * quotes.vega


@dataclass(frozen=True, kw_only=True)
class SquareRootImpact(Cost):
    """Market impact: cost = coefficient x sigma_day x S x |q| sqrt(|q| / daily_volume), q in shares.

    The square-root law (Almgren, Thum, Hauptmann & Li 2005; Toth et al. 2011); an option's trade counts by the shares
    that it stands for.
    """

    line: ClassVar[str] = "impact"
    coefficient: float = 1.0
    daily_volume: float = 1e6  # shares a day

    def __post_init__(self) -> None:
        super().__post_init__()
        non_negative("coefficient", self.coefficient)
        positive("daily_volume", self.daily_volume)

    def per_share(self, quotes: Quotes) -> Array:
        """See `Cost.per_share`."""
        return 0.0 * quotes.is_option

    def amount(self, trade: Array, quotes: Quotes) -> Array:
        """See `Cost.amount`."""
        scale = (self.coefficient * (252.0 * self.daily_volume) ** -0.5) * quotes.volatility * quotes.spot
        return abs(trade) ** 1.5 * scale[:, None] * self.applies(quotes)


def linear_cost(costs: tuple[Cost, ...], quotes: Quotes) -> Array:
    """What trading one share more costs by all linear components together, (n, k)."""
    total = 0.0 * quotes.mid
    for cost in costs:
        total = total + cost.per_share(quotes) * cost.applies(quotes)
    return total


def total(amount: Array) -> Array:
    """Sum over instruments, (n, k) -> (n,)."""
    count = amount.shape[-1]
    if not 1 <= count <= 8:
        return amount.sum(-1)
    result = amount[..., 0]
    for column in range(1, count):  # faster than a sum along so short an axis
        result = result + amount[..., column]
    return result


def clip(array: Array, low: Any, high: Any) -> Array:
    """The array between two bounds, numbers or arrays."""
    if isinstance(array, np.ndarray):  # np.clip costs five times as much on a handful of numbers
        return np.minimum(np.maximum(array, low), high)
    return array_namespace(array).clip(array, low, high)
