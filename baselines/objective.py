"""What a tuned hedge minimises: one number of a sample of profit and loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hedgerl.pricing._checks import in_interval, non_negative, positive
from hedgerl.risk import cvar, entropic_risk

Array = Any

DEFAULTS = {"mean_std": 1.5, "cvar": 0.95, "entropic": 1.0, "variance": 0.0}


@dataclass(frozen=True)
class Objective:
    """A measure of loss, in currency (variance: its square), of P&L (n,); less is better.

    ========  ==========================================================  ====================================
    name      formula, L = -P&L                                           parameter
    ========  ==========================================================  ====================================
    mean_std  E[L] + c sd(L)                                              c, at least 0
    cvar      mean of the worst 1 - level of L                            level, in (0, 1)
    entropic  log(E[exp(a L)]) / a                                        risk aversion a, per unit of currency
    variance  Var(L)                                                      none
    ========  ==========================================================  ====================================

    parameter None: 1.5 (Cao, Chen, Hull & Poulos 2021), .95, 1.
    """

    name: str = "mean_std"
    parameter: float | None = None

    def __post_init__(self) -> None:
        if self.name not in DEFAULTS:
            raise ValueError(f"objective must be one of {', '.join(DEFAULTS)}, got {self.name!r}")
        if self.parameter is None:
            object.__setattr__(self, "parameter", DEFAULTS[self.name])
        if self.name == "mean_std":
            non_negative("parameter", self.parameter)
        elif self.name == "cvar":
            in_interval("parameter", self.parameter, 0.0, 1.0)
        elif self.name == "entropic":
            positive("parameter", self.parameter)

    def __call__(self, pnl: Array) -> float:
        """The objective of a sample."""
        c = float(self.parameter or 0.0)
        if self.name == "cvar":
            return float(cvar(pnl, c))
        if self.name == "entropic":
            return float(entropic_risk(pnl, c))
        mean = pnl.mean()
        variance = ((pnl - mean) ** 2).mean()
        return float(variance) if self.name == "variance" else float(c * variance**0.5 - mean)
