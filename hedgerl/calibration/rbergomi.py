"""Rough Bergomi's smiles, by conditional Monte Carlo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hedgerl.calibration.chain import Slice
from hedgerl.calibration.conditional import Noise, Prices, Sums, Variance, path_sums, priced, time_grid
from hedgerl.calibration.fit import Parameter
from hedgerl.sim.volterra import hybrid_weights

_BUMP = 1e-3  # of hurst, for the derivative of the weights
_LEAST = 0.1  # of the mean variance to an expiry, that the forward variance before it is at least, to start from


@dataclass(frozen=True, eq=False)
class RoughBergomiPricer:
    """Volatilities of `hedgerl.sim.RoughBergomi` at the strikes of `slices`: hurst, eta, rho, and the forward variance
    between expiries, constant from each to the next.

    The Volterra process by the hybrid scheme on the simulator's steps, n_paths paths in antithetic pairs.
    """

    slices: Sequence[Slice]
    n_paths: int = 32_768
    steps_per_year: int = 252
    seed: int = 1

    tolerance = 1e-4

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """See `Pricer`."""
        shape = (
            Parameter("hurst", 0.005, 0.495),
            Parameter("eta", 0.05, 12.0),
            Parameter("rho", -0.99, 0.99, "linear"),
        )
        return (*shape, *(Parameter(f"forward_variance_{i + 1}", 1e-5, 9.0) for i in range(len(self.slices))))

    @property
    def n_curve(self) -> int:
        """See `Pricer`."""
        return len(self.slices)

    def starts(self) -> list[np.ndarray]:
        """Forward variances from the variance swaps of the smiles, at one roughness."""
        years = np.array([each.years for each in self.slices])
        total = np.array([each.swap_variance for each in self.slices])
        forward = np.diff(total, prepend=0.0) / np.diff(years, prepend=0.0)
        return [np.append([0.1, 2.0, -0.8], np.maximum(forward, _LEAST * total / years))]

    def __call__(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Pricer`."""
        found = self.prices(point)
        return found.volatility, found.slopes

    def prices(self, point: np.ndarray) -> Prices:
        """As `__call__`, with the errors of the Monte Carlo."""
        hurst, eta, rho = point[:3].tolist()
        masses = np.diff([each.years for each in self.slices], prepend=0.0)
        nothing = np.zeros_like(masses)
        return priced(self.slices, self._sums(hurst, eta), rho, point[3:], masses, [nothing, nothing])

    def _sums(self, hurst: float, eta: float) -> Sums:
        times, places = self._grid
        steps = np.diff(times)
        here, down, up = (_weights(each, times, steps) for each in (hurst, hurst - _BUMP, hurst + _BUMP))
        by_hurst = [eta * (high - low) / (2.0 * _BUMP) for high, low in zip(up, down, strict=True)]
        loading, residual, variance = here
        law = Variance(
            eta * loading,
            eta * residual,
            0.5 * eta**2 * variance,
            [
                (by_hurst[0], by_hurst[1], 0.5 * eta * by_hurst[2]),
                (np.array(1.0 / eta), np.array(1.0 / eta), eta * variance),
            ],
        )
        return path_sums(law, self._noise, steps, places)

    @cached_property
    def _grid(self) -> tuple[np.ndarray, np.ndarray]:
        return time_grid(np.array([each.years for each in self.slices]), self.steps_per_year)

    @cached_property
    def _noise(self) -> Noise:
        return Noise(self._grid[0].size - 1, self.n_paths, self.seed)


def _weights(hurst: float, times: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loading (n, n), residual (n,) and variance (n,) of Y at the start of each step, by standard normals."""
    found = hybrid_weights(hurst, times)
    size = steps.size
    loading = np.zeros((size, size))
    loading[1:, :-1] = (found.average * np.sqrt(steps))[:-1, :-1]
    return loading, np.append(0.0, found.residual[:-1]), np.append(0.0, found.variance[:-1])
