"""The time grid of a simulation: the times that are kept and the finer times that are stepped through."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from hedgerl.pricing._checks import positive, whole_number


@dataclass(frozen=True, eq=False)
class TimeGrid:
    """Times in years from 0. `kept[i]` is the place of `times[i]` in `fine`, so `times = fine[kept]`."""

    times: np.ndarray  # (n_steps + 1,)
    fine: np.ndarray  # (n_fine + 1,)
    kept: np.ndarray  # (n_steps + 1,) whole numbers

    @functools.cached_property
    def row_after(self) -> list[int]:
        """For each fine step the row of `times` that it ends at, or 0 where that time is not kept."""
        rows = np.zeros(self.fine.size, dtype=int)
        rows[self.kept] = np.arange(self.kept.size)
        return rows[1:].tolist()

    @property
    def fine_steps(self) -> np.ndarray:
        """Lengths of the fine steps in years, (n_fine,)."""
        return np.diff(self.fine)


def kept_times(n_steps: Any, maturity: Any, times: Any) -> np.ndarray:
    """The grid that is kept, (n_steps + 1,): equal steps to `maturity`, or the given `times`.

    Raises ValueError unless either `times` or both others are given, and unless times start at 0 and increase.
    """
    if times is None:
        if n_steps is None or maturity is None:
            raise ValueError("n_steps and maturity must both be given where times is not")
        steps = whole_number("n_steps", n_steps)
        return np.linspace(0.0, positive("maturity", maturity), steps + 1)
    if n_steps is not None or maturity is not None:
        raise ValueError("times must not be given together with n_steps or maturity")
    try:
        grid = np.array(times, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"times must be a sequence of numbers, got {times!r}") from None
    if grid.ndim != 1 or grid.size < 2:
        raise ValueError(f"times must be one-dimensional with at least two entries, got shape {grid.shape}")
    if not np.isfinite(grid).all():
        raise ValueError(f"times must be finite, got {grid[~np.isfinite(grid)][0]}")
    if grid[0] != 0.0:
        raise ValueError(f"times must start at 0, got {float(grid[0])}")
    if (np.diff(grid) <= 0).any():
        place = int(np.argmax(np.diff(grid) <= 0))
        raise ValueError(f"times must increase, got {float(grid[place])} before {float(grid[place + 1])}")
    return grid


def refine(times: np.ndarray, substeps: Any) -> TimeGrid:
    """`times` with each step cut into `substeps` equal ones."""
    pieces = whole_number("substeps", substeps)
    if pieces == 1:
        return TimeGrid(times, times, np.arange(times.size))
    within = np.arange(pieces) / pieces
    fine = (times[:-1, None] + np.diff(times)[:, None] * within).reshape(-1)
    return TimeGrid(times, np.append(fine, times[-1]), np.arange(times.size) * pieces)


def distinct_steps(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct step lengths, and for each step which one it is; equal to a part in 10^9 counts as the same."""
    rounded = np.array([float(f"{step:.9e}") for step in steps])
    _, first, which = np.unique(rounded, return_index=True, return_inverse=True)
    return steps[first], which
