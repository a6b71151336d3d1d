"""Numbers as a report shows them: formats, the non-dominated front, equity curves, rows for files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hedgerl.evaluation.comparison import Study
from hedgerl.evaluation.folds import WalkForward
from hedgerl.evaluation.metrics import METRICS, Metric, equity_curve
from hedgerl.evaluation.result import Result, plain
from hedgerl.risk import drawdown

DASH = "–"


def metric(name: str) -> Metric:
    """How a measure is shown and read; a measure that is not of `METRICS` goes by its name."""
    return METRICS.get(name) or Metric(name.replace("_", " "), "number", "none", "")


def value(result: Result, name: str) -> float:
    """A metric of a result; NaN where it is not known."""
    found = result.metrics.get(name)
    return math.nan if found is None else float(found)


def decimals(values: Iterable[float], unit: str) -> int:
    """Decimals with which a column of numbers is shown: three or four significant digits of its typical number."""
    finite = sorted(abs(each) for each in values if math.isfinite(each) and each != 0.0)
    if unit == "share":
        return 1
    if not finite:
        return 2
    typical = finite[len(finite) // 2]
    return max(0, min(5, 2 - math.floor(math.log10(typical))))


def show(number: float, places: int, unit: str = "money") -> str:
    """A number as text: shares in per cent, a true minus sign, a dash for what is not defined."""
    if not math.isfinite(number):
        return DASH
    text = f"{100 * number:.{places}f} %" if unit == "share" else f"{number:.{places}f}"
    if not any(digit in text for digit in "123456789"):
        text = text.replace("-", "")
    return text.replace("-", "−")


def best(values: dict[str, float], better: str, eligible: Iterable[str] | None = None) -> set[str]:
    """The names with the best number; none where all are equal, or where no direction is better."""
    names = list(values) if eligible is None else [name for name in eligible if name in values]
    finite = {name: values[name] for name in names if math.isfinite(values[name])}
    if better == "none" or len(finite) < 2 or len(set(finite.values())) == 1:
        return set()
    top = max(finite.values()) if better == "high" else min(finite.values())
    return {name for name, number in finite.items() if number == top}


def traders(study: Study) -> list[str]:
    """The policies that trade at all: one that does nothing has the lowest cost of all, which says nothing."""
    return [name for name, result in study.results.items() if value(result, "turnover") != 0.0]


def front(study: Study, risk: str = "cvar_95", cost: str = "cost") -> list[str]:
    """The policies that no other beats in both risk and cost, by rising cost.

    One policy beats another where it is no worse in either and better in one.
    """
    points = {name: (value(result, cost), value(result, risk)) for name, result in study.results.items()}
    points = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    kept = [
        name
        for name, (c, r) in points.items()
        if not any(oc <= c and other <= r and (oc < c or other < r) for oc, other in points.values())
    ]
    return sorted(kept, key=lambda name: points[name])


@dataclass(frozen=True, eq=False)
class Equity:
    """P&L so far of a book of constant size over the days of history."""

    dates: np.ndarray  # (m,), datetime64
    wealth: np.ndarray  # (m,), P&L so far
    overlap: float  # episodes that run at once, among which the book is split; at least 1

    @property
    def drawdown(self) -> np.ndarray:
        """How far wealth lies below its own peak, (m,), never negative."""
        return drawdown(self.wealth)


def equity(result: Result) -> Equity | None:
    """The curve whose drawdowns the result's metrics are; None where episodes have no dates or no steps.

    Days between the first and the last of an episode have no date in a result: they lie evenly between the two.
    """
    steps, every, episodes = result.step_pnl, result.every, result.episodes
    if steps is None or every is None or not len(episodes) or "start" not in episodes or "end" not in episodes:
        return None
    n_steps, n = steps.shape
    wealth = equity_curve(steps, every, np.arange(n)[None])[0]
    starts, ends = (
        pd.to_datetime(episodes[name]).to_numpy("datetime64[s]").astype(np.int64) for name in ("start", "end")
    )
    first = every * np.arange(n)
    days, where = np.unique(np.concatenate([first, first + n_steps]), return_index=True)
    seconds = np.interp(np.arange(wealth.size), days, np.concatenate([starts, ends])[where])
    return Equity(seconds.round().astype("datetime64[s]"), wealth, max(1.0, n_steps / every))


def label(study: Study) -> str:
    """What a study is called."""
    return f"{study.market}, {study.task}"


def long_rows(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """A row for each number: of each policy in each regime, then of its difference from the reference."""
    rows: list[dict[str, Any]] = []
    for study in studies:
        head = {"study": label(study), "market": study.market, "task": study.task, "kind": study.kind}
        for regime, results in [("all", study.results), *study.regimes.items()]:
            for policy, result in results.items():
                more = {**head, "regime": regime, "policy": policy, "quantity": "value", "against": None}
                rows.append({**more, "metric": "episodes", "value": result.n_episodes})
                rows += [{**more, "metric": name, "value": plain(number)} for name, number in result.metrics.items()]
        for row in study.difference_rows():
            rows.append(
                {
                    **head,
                    "regime": "all",
                    "policy": row["policy"],
                    "quantity": "difference",
                    "against": row["against"],
                    "metric": row["metric"],
                    "value": row["difference"],
                    "low": row["low"],
                    "high": row["high"],
                }
            )
        if isinstance(study, WalkForward):
            rows += _fold_rows(study, head)
    return rows


def _fold_rows(study: WalkForward, head: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each number of each fold, then for each difference that holds beside all others."""
    rows: list[dict[str, Any]] = []
    for fold in study.folds:
        for policy, result in fold.results.items():
            more = {**head, "fold": fold.name, "regime": "all", "policy": policy, "quantity": "value", "against": None}
            rows.append({**more, "metric": "episodes", "value": result.n_episodes})
            rows += [{**more, "metric": name, "value": plain(number)} for name, number in result.metrics.items()]
    for row in study.simultaneous_rows():
        more = {**head, "regime": "all", "quantity": "simultaneous difference", "against": study.reference}
        chosen = {key: row[key] for key in ("policy", "metric", "low", "high", "p_value")}
        rows.append({**more, **chosen, "value": row["difference"]})
    return rows


LONG_COLUMNS = (
    *("study", "market", "task", "kind", "regime", "policy", "quantity", "against", "metric"),
    *("value", "low", "high"),
)
FOLD_COLUMNS = ("fold", "p_value")  # of a walk-forward, beside them


def strict(item: Any) -> Any:
    """The item as strict JSON knows it: text, numbers, lists and mappings; None for NaN and infinities."""
    if isinstance(item, dict):
        return {str(key): strict(each) for key, each in item.items()}
    if isinstance(item, list | tuple | set | frozenset):
        return [strict(each) for each in (sorted(item, key=str) if isinstance(item, set | frozenset) else item)]
    if isinstance(item, np.ndarray):
        return strict(item.tolist())
    item = plain(item)
    return item if item is None or isinstance(item, str | int | float | bool) else str(item)
