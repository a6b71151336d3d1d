"""When a trial is hopeless: measured against earlier ones at equal budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hedgerl.pricing._checks import in_interval, non_negative, whole_number

RULES = ("front", "median", "none")
Reports = Sequence[tuple[int, Sequence[float]]]  # (iteration, objectives of the best policy so far)


@dataclass(frozen=True)
class Stopping:
    """Whether a trial is worth going on, by its objectives at a validation and those of earlier trials at the same.

    front : stopped where some earlier trial was better in every objective by more than `margin` times the spread (from
        the 10th to the 90th percentile over earlier trials at that iteration) of the objective. With one objective:
        worse than the best by that much.
    median : of one objective alone; stopped where it is worse than the median of earlier trials (Golovin et al. 2017,
        "Google Vizier", section 3.2.2). Optuna's pruners are for one objective; this is the same rule.
    none : never.

    No trial is stopped before `warmup` of its iterations, nor against fewer than `startup` earlier trials. Iterations
    are what is equal: trials that differ in the cost of one are compared at equal counts, not at equal seconds.
    """

    rule: str = "front"
    startup: int = 5
    warmup: float = 0.25
    margin: float = 0.1

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"stop.rule must be one of {', '.join(RULES)}, got {self.rule!r}")
        whole_number("stop.startup", self.startup)
        in_interval("stop.warmup", self.warmup, 0.0, 1.0, closed=True)
        non_negative("stop.margin", self.margin)

    def hopeless(self, values: Sequence[float], rivals: Sequence[Sequence[float]], done: float) -> bool:
        """Whether to stop a trial with these objectives after this share of its iterations.

        rivals: objectives of earlier trials after as many.
        """
        if self.rule == "none" or done < self.warmup or done >= 1.0 or len(rivals) < self.startup:
            return False
        others, own = np.asarray(rivals, dtype=np.float64), np.asarray(values, dtype=np.float64)
        if self.rule == "median":
            return bool(own[0] > np.median(others[:, 0]))
        low, high = np.quantile(others, [0.1, 0.9], axis=0)
        return bool((others < own - self.margin * (high - low)).all(axis=1).any())


def at_equal_budget(earlier: Sequence[Reports]) -> dict[int, list[list[float]]]:
    """Iteration -> objectives of each earlier trial that reported there."""
    table: dict[int, list[list[float]]] = {}
    for reports in earlier:
        for iteration, values in reports:
            table.setdefault(int(iteration), []).append([float(value) for value in values])
    return table


def check(stopping: Stopping, objectives: Mapping[str, object] | Sequence[str]) -> None:
    """Raises ValueError where the rule is for one objective and there are several."""
    if stopping.rule == "median" and len(objectives) > 1:
        raise ValueError(f"stop.rule must be front or none for {len(objectives)} objectives, got 'median'")
