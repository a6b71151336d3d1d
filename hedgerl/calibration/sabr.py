"""SABR's smiles as the simulator has them: by conditional Monte Carlo, not by Hagan's expansion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hedgerl.calibration.chain import Slice
from hedgerl.calibration.conditional import Noise, Prices, Variance, path_sums, priced, time_grid
from hedgerl.calibration.fit import Parameter
from hedgerl.pricing import sabr_volatility


@dataclass(frozen=True, eq=False)
class SabrPricer:
    """Volatilities of `hedgerl.sim.SABR` at the strikes of `slices`: volatility, volvol, rho.

    v = volatility^2 exp(2 volvol W - volvol^2 t). Noise and grid as in `RoughBergomiPricer`.
    """

    slices: Sequence[Slice]
    n_paths: int = 32_768
    steps_per_year: int = 252
    seed: int = 1

    parameters = (
        Parameter("volatility", 0.003, 3.0),
        Parameter("volvol", 0.02, 12.0),
        Parameter("rho", -0.99, 0.5, "linear"),  # far above 0 the model is no martingale
    )
    n_curve = 0
    tolerance = 1e-4

    def starts(self) -> list[np.ndarray]:
        """The first expiry's volatility at the money, at two volatilities of it."""
        level = self.slices[0].at_the_money
        return [np.array([level, volvol, -0.7]) for volvol in (0.8, 2.5)]

    def __call__(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Pricer`."""
        found = self.prices(point)
        return found.volatility, found.slopes

    def prices(self, point: np.ndarray) -> Prices:
        """As `__call__`, with the errors of the Monte Carlo."""
        volatility, volvol, rho = point.tolist()
        times, places = self._grid
        steps, now = np.diff(times), times[:-1]
        loading = np.tril(np.ones((steps.size, steps.size)), -1) * np.sqrt(steps)
        none = np.zeros(steps.size)
        by_volvol = (np.array(1.0 / volvol), np.array(1.0 / volvol), 2.0 * volvol * now)
        law = Variance(2.0 * volvol * loading, none, volvol**2 * now, [by_volvol])
        sums = path_sums(law, self._noise, steps, places)
        growth = np.exp(volvol**2 * now) * steps
        starts = np.append(0, places[:-1])
        masses = np.add.reduceat(growth, starts)
        of_masses = np.add.reduceat(2.0 * volvol * now * growth, starts)
        levels = np.full(len(self.slices), volatility**2)
        found = priced(self.slices, sums, rho, levels, masses, [of_masses])
        by_level = 2.0 * volatility * found.slopes[:, 2:].sum(axis=1)
        return found._replace(slopes=np.column_stack([by_level, found.slopes[:, :2]]))

    def expansion(self, point: np.ndarray) -> np.ndarray:
        """Hagan's volatilities (n,) of the same options."""
        volatility, volvol, rho = point.tolist()
        return np.concatenate(
            [
                np.asarray(sabr_volatility(1.0, np.exp(each.k), each.years, volatility, rho=rho, volvol=volvol))
                for each in self.slices
            ]
        )

    @cached_property
    def _grid(self) -> tuple[np.ndarray, np.ndarray]:
        return time_grid(np.array([each.years for each in self.slices]), self.steps_per_year)

    @cached_property
    def _noise(self) -> Noise:
        return Noise(self._grid[0].size - 1, self.n_paths, self.seed)
