"""Policies side by side on the same episodes: what a report is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from hedgerl.envs.transition import Record
from hedgerl.evaluation.metrics import measure
from hedgerl.evaluation.result import Kind, Result, plain

Period = tuple[Any, Any]  # first and last day, dates or text that pandas reads; both belong to it

LEAST_EPISODES = 2  # fewer have no deviation and no tail: a regime of one episode shows no numbers


@dataclass(frozen=True, eq=False)
class Study:
    """The results of several policies on one market and task, in the shape that reports read.

    `differences`: a row for each policy but the reference and each metric, with columns policy, metric, value,
    reference (value of the reference), difference, se, low, high: bootstrap intervals of policy minus reference on
    the same episodes, at `confidence`. Empty where there is one policy.
    `regimes`: name -> policy -> Result on the episodes that lie inside the period; a regime with fewer than two
    episodes has Results with empty metrics and a note.
    `marks`: what options were marked by: "quotes", else "" for what goes with the kind, a model or a simulation.
    """

    market: str
    task: str
    kind: Kind
    results: dict[str, Result]
    reference: str | None = None
    confidence: float = 0.95
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    example: dict[str, Record] = field(default_factory=dict)  # one episode, the same for each policy
    notes: tuple[str, ...] = ()
    regimes: dict[str, dict[str, Result]] = field(default_factory=dict)
    marks: str = ""

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of the policies, in the order given."""
        return tuple(self.results)

    @property
    def metrics(self) -> pd.DataFrame:
        """Metrics of all policies: a row a policy, a column a metric."""
        return _table(self.results)

    def rows(self) -> list[dict[str, Any]]:
        """A flat record for each policy, over all episodes (regime "all") and in each regime; None for no number."""
        everything = [("all", self.results), *self.regimes.items()]
        return [
            {"market": self.market, "task": self.task, "kind": self.kind, "regime": regime, **_own(result, name)}
            for regime, results in everything
            for name, result in results.items()
        ]

    def difference_rows(self) -> list[dict[str, Any]]:
        """A flat record for each row of `differences`; None for no number."""
        head = {"market": self.market, "task": self.task, "kind": self.kind, "against": self.reference}
        records = self.differences.to_dict(orient="records")
        return [{**head, **{str(key): plain(value) for key, value in record.items()}} for record in records]

    def to_json(self, indent: int | None = 1) -> str:
        """Rows, differences and notes as strict JSON (no NaN)."""
        content = {"rows": self.rows(), "differences": self.difference_rows(), "notes": list(self.notes)}
        return json.dumps(content, indent=indent, allow_nan=False)


@dataclass(frozen=True, eq=False)
class Comparison(Study):
    """What `compare` returns: a study named after its task and market."""

    def study(
        self,
        *,
        market: str | None = None,
        task: str | None = None,
        notes: Sequence[str] = (),
        regimes: Mapping[str, Period] | None = None,
    ) -> Study:
        """The study under labels of one's own, with regimes cut by date where the episodes have dates."""
        return Study(
            market=self.market if market is None else market,
            task=self.task if task is None else task,
            kind=self.kind,
            results=self.results,
            reference=self.reference,
            confidence=self.confidence,
            differences=self.differences,
            example=self.example,
            notes=(*self.notes, *notes),
            regimes=cut_regimes(self.results, regimes) if regimes else dict(self.regimes),
            marks=self.marks,
        )


def cut_regimes(results: Mapping[str, Result], periods: Mapping[str, Period]) -> dict[str, dict[str, Result]]:
    """Every result within every period: name -> policy -> Result."""
    return {
        name: {policy: within(result, start, end, name) for policy, result in results.items()}
        for name, (start, end) in periods.items()
    }


def within(result: Result, start: Any, end: Any, name: str = "") -> Result:
    """The result on the episodes that lie wholly inside a period, from `start` to `end` (days, both inside).

    Raises ValueError where episodes have no dates (a simulated market), or the period ends before it starts.
    """
    if "start" not in result.episodes:
        raise ValueError(f"regimes need episodes with dates, from history, got a {result.kind} market")
    first, last = pd.Timestamp(start), pd.Timestamp(end)
    if last < first:
        raise ValueError(f"a regime must not end before it starts, got {name or 'period'} = ({start!r}, {end!r})")
    dates = result.episodes
    inside = ((dates["start"] >= first) & (dates["end"] <= last)).to_numpy()
    chosen = np.flatnonzero(inside)
    steps = None if result.step_pnl is None else result.step_pnl[:, chosen]
    part = replace(result, episodes=dates.iloc[chosen].reset_index(drop=True), step_pnl=steps, metrics={})
    if chosen.size < LEAST_EPISODES:
        count = "no episode lies" if not chosen.size else "only one episode lies"
        label = f"{name}: " if name else ""
        return replace(part, note=f"{label}{count} between {first.date()} and {last.date()}; too few to measure")
    return replace(part, metrics=measure(part))


def _own(result: Result, name: str) -> dict[str, Any]:
    row = {**result.row(), "policy": name}
    return {key: value for key, value in row.items() if key not in ("market", "task", "kind")}


def _table(results: Mapping[str, Result]) -> pd.DataFrame:
    frame = pd.DataFrame.from_dict({name: result.metrics for name, result in results.items()}, orient="index")
    return frame.rename_axis("policy")
