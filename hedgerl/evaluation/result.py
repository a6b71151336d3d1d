"""What an evaluation hands back: the measures of a hedge, its episodes, where its P&L came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

Kind = Literal["simulated", "history"]

# Terms of the Taylor attribution of a position, and of the whole book, in the order of tables.
POSITION_TERMS = ("delta", "gamma", "vega", "theta", "vanna", "volga", "residual")
TERMS = ("delta", "gamma", "vega", "theta", "vanna", "volga", "carry", "cost", "residual")


@dataclass(frozen=True, eq=False)
class Result:
    """One policy on one set of episodes. Money is per 100 of initial spot x size of the task; losses are negative P&L.

    `metrics`: name -> number, the names and meanings of `hedgerl.evaluation.METRICS`; NaN where a measure is not
    defined (a Sharpe ratio without deviation), empty where there are too few episodes, which `note` then says.

    `episodes`: a row for each episode. pnl, unhedged (P&L of no hedge on the same path), premium, cost (positive),
    cost_<line>, turnover, trades, win_days (share of steps with a profit), max_drawdown, ulcer, pain (of the
    wealth within the episode), hedging_error_mean, hedging_error_square; attribution_<term> for the book, which sum
    to pnl, and liability_<term>, hedge_<term> for its two sides; on history also start and end (dates).
    """

    policy: str
    task: str
    market: str
    kind: Kind
    metrics: dict[str, float]
    episodes: pd.DataFrame
    step_pnl: np.ndarray | None = None  # (n_steps, n), kept on history
    every: int | None = None  # steps from one episode's start to the next, on history
    block: int = 1  # episodes that standard errors and resampling keep together: 1 where they are independent
    years: float = 1.0  # length of an episode
    aversion: float = 1.0  # of the entropic risk, per unit of P&L
    seed: int | None = None
    note: str = ""

    @property
    def pnl(self) -> np.ndarray:
        """P&L of each episode after all costs, (n,)."""
        return self.episodes["pnl"].to_numpy()

    @property
    def n_episodes(self) -> int:
        """Episodes evaluated."""
        return len(self.episodes)

    @property
    def attribution(self) -> pd.DataFrame:
        """Mean P&L of an episode by term: rows `TERMS`, columns liability, hedge, net; the net column sums to the mean.

        carry and cost are the book's, not one side's: NaN in the first two columns.
        """
        mean = self.episodes.mean(numeric_only=True)
        table = {
            side: [float(mean.get(f"{prefix}_{term}", np.nan)) for term in TERMS]
            for side, prefix in (("liability", "liability"), ("hedge", "hedge"), ("net", "attribution"))
        }
        return pd.DataFrame(table, index=pd.Index(TERMS, name="term"))

    def row(self) -> dict[str, Any]:
        """What identifies the result and its metrics, flat; None where a number is not defined."""
        head = {
            "market": self.market,
            "task": self.task,
            "kind": self.kind,
            "policy": self.policy,
            "episodes": self.n_episodes,
        }
        return {**head, **{name: plain(value) for name, value in self.metrics.items()}, "note": self.note}


def plain(value: Any) -> Any:
    """A number or text as JSON and CSV know it: None for NaN and infinities, Python's own types for NumPy's."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
