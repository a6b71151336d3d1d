"""Geometric Brownian motion: the market of Black and Scholes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from hedgerl.pricing._checks import positive
from hedgerl.sim.backend import Array
from hedgerl.sim.grid import TimeGrid
from hedgerl.sim.market import Contract, Implied, Marker, Marks, SmileMarker, flat_marks, flat_smile
from hedgerl.sim.model import Block, Model
from hedgerl.sim.paths import Paths
from hedgerl.sim.perturbation import Distribution


@dataclass(frozen=True)
class BlackScholes(Model):
    """dS = (drift - dividend) S dt + volatility S dW, simulated exactly on any grid (Black & Scholes 1973).

    volatility: per square root of a year, above 0.

    >>> paths = BlackScholes(volatility=0.2).simulate(n_paths=4, n_steps=2, maturity=0.5, seed=1)
    >>> paths.spot.shape
    (3, 4)
    """

    n_noise: ClassVar[int] = 1
    perturbable: ClassVar[tuple[str, ...]] = ("volatility", "drift")

    volatility: float

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("volatility", self.volatility)

    def _variance_array(
        self, xp: ModuleType, grid: TimeGrid, n_paths: int, dtype: np.dtype, spread: Mapping[str, Distribution]
    ) -> Array:
        if "volatility" in spread:
            return xp.empty((grid.times.size, n_paths), dtype=dtype)
        # constant: a view of one number instead of a full array
        return xp.broadcast_to(xp.asarray(self.volatility**2, dtype=dtype), (grid.times.size, n_paths))

    def _marker(self, paths: Paths) -> Marker:
        return _FlatMarker(paths)

    def _simulate(self, block: Block, plan: Any) -> None:
        xp = block.xp
        volatility = block.parameters["volatility"]
        log_drift = self.growth(block.parameters) - 0.5 * volatility**2
        if "volatility" in block.perturbed:
            block.variance[...] = volatility**2
        log_spot = block.zeros("log_spot")
        shock = block.scratch("shock")
        block.spot[0] = self.spot
        for step, dt in enumerate(block.grid.fine_steps.tolist()):
            xp.multiply(block.noise[0, step], volatility * dt**0.5, out=shock)
            log_spot += shock
            log_spot += log_drift * dt
            row = block.grid.row_after[step]
            if row:
                xp.exp(log_spot, out=shock)
                xp.multiply(shock, self.spot, out=block.spot[row])


@dataclass(frozen=True, eq=False)
class _FlatMarker(SmileMarker):
    paths: Paths

    def implied(self, step: int, expiry_years: float, part: Array, log_moneyness: Array) -> Implied:
        """See `SmileMarker.implied`."""
        return flat_smile(log_moneyness, self.paths.variance[step][part] ** 0.5, 1.0)

    def _device_marks(self, step: int, expiry_years: float, part: Array, contract: Contract, left: float) -> Marks:
        """See `SmileMarker._device_marks`."""
        variance = self.paths.variance[step]
        own = variance[part] if "volatility" in self.paths.parameters else variance[:1]
        return flat_marks(contract, left, self.paths.model, own)
