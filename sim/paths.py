"""Simulated paths and what they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hedgerl.sim.backend import Array

if TYPE_CHECKING:
    from hedgerl.sim.grid import TimeGrid
    from hedgerl.sim.model import Model


@dataclass(frozen=True, eq=False)
class Paths:
    """A simulated market: spot and variance of every path at every kept time.

    Time comes first: row i of `spot` and `variance` holds all paths at `times[i]`. `variance` is the instantaneous
    variance per year at that time. `parameters` holds what was drawn per path, by name;
    `state` what else the model needs for its marks (rough Bergomi: the increments of the Brownian motion behind the
    variance, on the fine grid).
    """

    model: Model
    grid: TimeGrid
    seed: int | None  # None where the noise came from outside
    spot: Array  # (n_steps + 1, n_paths)
    variance: Array  # (n_steps + 1, n_paths)
    parameters: Mapping[str, Array] = field(default_factory=dict)  # name -> (n_paths,)
    state: Mapping[str, Array] = field(default_factory=dict)  # name -> (.., n_paths)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # what `parameters` were drawn between

    @property
    def times(self) -> np.ndarray:
        """Years from the start, (n_steps + 1,), float64."""
        return self.grid.times

    @property
    def n_paths(self) -> int:
        """How many paths."""
        return int(self.spot.shape[1])

    @property
    def n_steps(self) -> int:
        """How many kept steps."""
        return int(self.times.size - 1)

    def __repr__(self) -> str:
        return (
            f"Paths({type(self.model).__name__}, n_paths={self.n_paths}, n_steps={self.n_steps}, "
            f"maturity={self.times[-1]:g}, dtype={self.spot.dtype}, seed={self.seed})"
        )
