"""The measures of a hedge, each a function of its episodes, for the sample itself and for resampled ones alike."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from hedgerl.evaluation.result import Result
from hedgerl.risk import drawdown
from hedgerl.risk.tail import tail_mass
from hedgerl.sim.backend import single_threaded_blas

LEVELS = (0.95, 0.99)


class Metric(NamedTuple):
    """How a measure is shown and read."""

    label: str
    unit: str  # "money": per 100 of initial spot x size; "share": of 1; "number"
    better: Literal["high", "low", "none"]
    meaning: str


METRICS: dict[str, Metric] = {
    "mean": Metric("Mean P&L", "money", "high", "mean P&L of an episode after all costs"),
    "mean_se": Metric("Standard error", "money", "none", "of the mean: sd / sqrt n, on history from sums of blocks"),
    "sd": Metric("Deviation", "money", "low", "standard deviation of P&L, with n - 1"),
    "semi_deviation": Metric("Semi-deviation", "money", "low", "root mean square of what falls short of the mean"),
    "var_95": Metric("VaR 95 %", "money", "low", "loss not exceeded in 95 % of episodes"),
    "cvar_95": Metric("CVaR 95 %", "money", "low", "mean loss in the worst 5 % of episodes"),
    "var_99": Metric("VaR 99 %", "money", "low", "loss not exceeded in 99 % of episodes"),
    "cvar_99": Metric("CVaR 99 %", "money", "low", "mean loss in the worst 1 % of episodes"),
    "entropic": Metric("Entropic risk", "money", "low", "(1/a) log E exp(-a P&L), a = Result.aversion"),
    "sharpe": Metric("Sharpe ratio", "number", "high", "mean / sd of episodes x sqrt(episodes in a year)"),
    "max_drawdown": Metric(
        "Maximum drawdown",
        "money",
        "low",
        "deepest fall of wealth from its peak. On history: of the curve over all days of a book that begins an episode "
        "every so many days, each scaled so that the book's size stays that of one. Simulated: within an episode, "
        "in the mean over episodes",
    ),
    "ulcer": Metric("Ulcer index", "money", "low", "root mean square of drawdowns over time; same curves"),
    "pain": Metric("Pain index", "money", "low", "mean drawdown over time; same curves"),
    "win_rate": Metric("Winning episodes", "share", "high", "share of episodes with a profit"),
    "win_rate_days": Metric("Winning days", "share", "high", "share of steps with a profit"),
    "premium": Metric("Premium", "money", "none", "mean cash received for liabilities, net of what was paid for them"),
    "cost": Metric("Cost", "money", "low", "mean trading cost of an episode"),
    "cost_commission": Metric("Commission", "money", "low", "part of the cost"),
    "cost_proportional": Metric("Proportional cost", "money", "low", "part of the cost"),
    "cost_spread": Metric("Spread", "money", "low", "part of the cost"),
    "cost_impact": Metric("Impact", "money", "low", "part of the cost"),
    "turnover": Metric("Turnover", "number", "low", "value traded at mid over initial spot x size"),
    "trades": Metric("Trades", "number", "none", "trades of an instrument in an episode, forced ones included"),
    "hedging_error_mean": Metric(
        "Mean net delta", "share", "none", "book's delta after each trade less the target, as a share of size"
    ),
    "hedging_error_rms": Metric("Net delta, rms", "share", "low", "root mean square of the same"),
    "effectiveness": Metric("Effectiveness", "share", "high", "1 - variance / variance of no hedge, same paths"),
    "drawdown_to_premium": Metric(
        "Drawdown to premium", "share", "low", "mean of the largest drawdown within an episode over mean premium"
    ),
    "cost_to_reference": Metric(
        "Cost to reference", "share", "low", "mean cost over the mean cost of the policy compared with"
    ),
}

COST_COLUMNS = ("cost_commission", "cost_proportional", "cost_spread", "cost_impact")
_MEANS = (
    *("premium", "cost", *COST_COLUMNS, "turnover", "trades"),
    *("hedging_error_mean", "hedging_error_square", "max_drawdown", "ulcer", "pain", "win_days"),
)


class Sample:
    """A result's episodes, made ready to be measured under many resamplings at once."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.n = result.n_episodes
        if self.n < 2:
            raise ValueError(f"a result must have at least two episodes to be measured, got {self.n}")
        episodes = result.episodes
        self.pnl = result.pnl.astype(np.float64)
        if not np.isfinite(self.pnl).all():
            raise ValueError(f"P&L of {result.policy!r} must be finite, got NaN or infinite values")
        unhedged = episodes["unhedged"].to_numpy()
        self.center, self.unhedged_center = float(self.pnl.mean()), float(unhedged.mean())
        x, u = self.pnl - self.center, unhedged - self.unhedged_center
        self.worst = float(self.pnl.min())
        columns: dict[str, np.ndarray] = {
            "x": x,
            "xx": x * x,
            "u": u,
            "uu": u * u,
            "exp": np.exp(-result.aversion * (self.pnl - self.worst)),
            "win": self.pnl > 0.0,
        }
        for name in (*_MEANS, "reference_cost"):
            if name in episodes:
                columns[name] = episodes[name].to_numpy()
        self.names = tuple(columns)
        self.columns = np.column_stack([column.astype(np.float64) for column in columns.values()])
        self.order = np.argsort(self.pnl, kind="stable")
        self.inflation = _block_deviation(x, result.block)

    def measure(self, counts: np.ndarray, draws: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Every metric under every resampling, each (b,).

        counts: (b, n) float64, how often each episode is drawn, n in all. draws: (b, n) which, in their order, for
        what depends on the order; None: as they are.
        """
        n, result = self.n, self.result
        with single_threaded_blas():
            means = dict(zip(self.names, (counts @ self.columns).T / n, strict=True))
        nothing = np.zeros(counts.shape[0])
        mean = self.center + means["x"]
        variance = _variance(means["x"], means["xx"], n)
        sd = np.sqrt(variance)
        out = {"mean": mean, "mean_se": sd * (self.inflation / math.sqrt(n)), "sd": sd}
        short = np.minimum(self.pnl - mean[:, None], 0.0)
        out["semi_deviation"] = np.sqrt(np.einsum("bn,bn,bn->b", counts, short, short) / n)
        for level in LEVELS:
            out.update(self._tail(counts, level))
        out["entropic"] = np.log(means["exp"]) / result.aversion - self.worst
        flat = variance <= 1e-28 * mean**2
        out["sharpe"] = np.where(flat, np.nan, mean / np.where(flat, 1.0, sd) / math.sqrt(result.years))
        out.update(self._drawdowns(means, draws))
        out["win_rate"] = means["win"]
        out["win_rate_days"] = means["win_days"]
        out["premium"] = means["premium"]
        out["cost"] = means["cost"]
        for name in (*COST_COLUMNS, "turnover", "trades", "hedging_error_mean"):
            out[name] = means.get(name, nothing)
        out["hedging_error_rms"] = np.sqrt(means["hedging_error_square"])
        out["effectiveness"] = 1.0 - _ratio(variance, _variance(means["u"], means["uu"], n))
        out["drawdown_to_premium"] = _ratio(means["max_drawdown"], means["premium"])
        out["cost_to_reference"] = _ratio(means["cost"], means.get("reference_cost", nothing))
        return {name: out[name] for name in METRICS}

    def _tail(self, counts: np.ndarray, level: float) -> dict[str, np.ndarray]:
        """VaR and CVaR, as `hedgerl.risk` defines them, from outcomes sorted once: only the worst are looked at."""
        mass = tail_mass(self.n, level)
        reach = min(self.n, int(mass + 12.0 * math.sqrt(mass)) + 32)  # beyond any resampling's tail ...
        while True:
            worst = self.order[:reach]
            drawn = counts[:, worst]
            reached = np.cumsum(drawn, axis=1)
            if reach == self.n or reached[:, -1].min() > mass:
                break
            reach = self.n  # ... but for one in 1e30
        weights = np.clip(mass - (reached - drawn), 0.0, drawn)
        boundary = np.argmax(reached > math.floor(mass), axis=1)
        sorted_pnl = self.pnl[worst]
        label = f"{100 * level:.0f}"
        return {
            f"var_{label}": -sorted_pnl[boundary],
            f"cvar_{label}": -np.einsum("bn,n->b", weights, sorted_pnl) / mass,
        }

    def _drawdowns(self, means: dict[str, np.ndarray], draws: np.ndarray | None) -> dict[str, np.ndarray]:
        names = ("max_drawdown", "ulcer", "pain")
        steps, every = self.result.step_pnl, self.result.every
        if steps is None or every is None:
            return {name: means[name] for name in names}
        order = np.arange(self.n)[None] if draws is None else draws
        down = drawdown(equity_curve(steps, every, order).T)
        values = (down.max(axis=0), np.sqrt((down * down).mean(axis=0)), down.mean(axis=0))
        return dict(zip(names, values, strict=True))


def equity_curve(step_pnl: np.ndarray, every: int, order: np.ndarray) -> np.ndarray:
    """P&L so far of a book that begins an episode every `every` days, (b, n_days + 1), from 0 on.

    step_pnl: (n_steps, n). order: (b, n), which episode comes at each place. Where episodes overlap each counts
    every / n_steps, so that the book's size is that of one episode.
    """
    n_steps, n = step_pnl.shape[0], order.shape[1]
    days = np.zeros((order.shape[0], (n - 1) * every + n_steps + 1))
    for step in range(n_steps):
        days[:, step + 1 : step + 2 + (n - 1) * every : every] += step_pnl[step][order]
    curve: np.ndarray = np.cumsum(days, axis=1) * min(1.0, every / n_steps)
    return curve


def _block_deviation(x: np.ndarray, block: int) -> float:
    """Deviation of the sums of `block` neighbours (circular) over what it were if they were independent.

    It is what the circular block bootstrap (Politis & Romano 1992) makes of the standard error of the mean, in closed
    form. x: centred.
    """
    length = max(1, min(block, x.size // 3))
    if length == 1 or not (x * x).sum() > 0.0:
        return 1.0
    total = np.concatenate([[0.0], np.cumsum(np.concatenate([x, x[: length - 1]]))])
    sums = total[length:] - total[:-length]
    return float(np.sqrt((sums * sums).mean() / (length * (x * x).mean())))


def measure(result: Result) -> dict[str, float]:
    """Every metric of `METRICS` on a result's episodes; NaN where one is not defined.

    Raises ValueError for fewer than two episodes.
    """
    sample = Sample(result)
    return {name: float(value[0]) for name, value in sample.measure(np.ones((1, sample.n))).items()}


def check_metric(name: str) -> str:
    """The name; ValueError with the names there are unless it is one of `METRICS`."""
    if name not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {name!r}")
    return name


def _variance(mean: np.ndarray, square: np.ndarray, n: int) -> np.ndarray:
    return np.maximum(square - mean * mean, 0.0) * (n / (n - 1))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where bottom is not positive."""
    return np.where(bottom > 0.0, top / np.where(bottom > 0.0, bottom, 1.0), np.nan)
