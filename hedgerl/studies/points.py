"""Policies in objective space, as rows of tables: for a file, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from hedgerl.report.numbers import DASH, decimals
from hedgerl.studies.front import OBJECTIVES, FrontComparison, check_objectives

Group = Literal["learned", "tuned band", "baseline"]
GROUPS: tuple[Group, ...] = ("learned", "tuned band", "baseline")


@dataclass(frozen=True)
class Point:
    """A policy in objective space; `values` and intervals are dimensionless, as of `hedgerl.studies.front`."""

    label: str
    group: Group
    values: Mapping[str, float] = field(default_factory=dict)  # by objective
    low: Mapping[str, float] = field(default_factory=dict)  # of the interval, by objective
    high: Mapping[str, float] = field(default_factory=dict)
    family: str = ""  # what colours it: of a learned policy its loss
    parameters: Mapping[str, Any] = field(default_factory=dict)  # w, lam, seed, ...
    on_front: bool = False  # of all policies together
    path: str = ""  # of its bundle

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"group must be one of {', '.join(GROUPS)}, got {self.group!r}")


def measured(points: Sequence[Point], comparison: FrontComparison) -> list[Point]:
    """The points with the values, the intervals and the place on the front of the comparison's policies, in order."""
    if len(points) != len(comparison.values):
        raise ValueError(f"points must be of the comparison's {len(comparison.values)} policies, got {len(points)}")

    def by_name(row: np.ndarray) -> dict[str, float]:
        return dict(zip(comparison.objectives, row.tolist(), strict=True))

    return [
        replace(
            point,
            values=by_name(comparison.values[i]),
            low=by_name(comparison.low[i]),
            high=by_name(comparison.high[i]),
            on_front=bool(comparison.on_front[i]),
        )
        for i, point in enumerate(points)
    ]


def records(points: Iterable[Point]) -> list[dict[str, Any]]:
    """A flat row for each point, for a table or a file; intervals as `<objective>_low` and `<objective>_high`."""
    return [
        {
            "label": point.label,
            "group": point.group,
            "family": point.family,
            **point.parameters,
            **point.values,
            **{f"{name}_low": each for name, each in point.low.items()},
            **{f"{name}_high": each for name, each in point.high.items()},
            "on_front": point.on_front,
            "path": point.path,
        }
        for point in points
    ]


def front_text(points: Iterable[Point], objectives: Sequence[str] = ("risk", "cost")) -> str:
    """The points as an aligned table: policy, parameters, objectives with intervals, a star for the front."""
    names = check_objectives(objectives)
    head, rows = cells(points, names)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    numbers = range(3, len(head))

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    note = "* no other policy is as good on all of these and better on one. Unit: the deviation of the unhedged P&L."
    return "\n".join([line(head), rule, *map(line, rows), note])


def cells(points: Iterable[Point], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table: mark of the front, policy, parameters, each objective with its interval."""
    rows = list(points)
    head = ["", "policy", "parameters", *(OBJECTIVES[name].label for name in names)]
    places = {name: min(6, decimals([number(each.values.get(name)) for each in rows], "money") + 1) for name in names}
    return head, [
        [
            "*" if point.on_front else "",
            cut(point.label, 36),
            ", ".join(f"{name} {plain(each)}" for name, each in point.parameters.items()),
            *(with_interval(point, name, places[name]) for name in names),
        ]
        for point in rows
    ]


def with_interval(point: Point, name: str, places: int = 4) -> str:
    """An objective as text, with its interval where there is one."""
    value, low, high = (number(each.get(name)) for each in (point.values, point.low, point.high))
    if not math.isfinite(value):
        return DASH
    text = f"{value:.{places}f}"
    known = math.isfinite(low) and math.isfinite(high)
    return f"{text} [{low:.{places}f}, {high:.{places}f}]" if known else text


def number(value: Any) -> float:
    """The value as a float, NaN where there is none."""
    return math.nan if value is None else float(value)


def plain(value: Any) -> str:
    """A parameter as text."""
    return f"{value:g}" if isinstance(value, int | float | np.number) and not isinstance(value, bool) else str(value)


def cut(text: str, most: int) -> str:
    """The text on one line of at most so many letters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
