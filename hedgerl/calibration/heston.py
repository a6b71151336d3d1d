"""Heston's smiles, by Fourier prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hedgerl.calibration.chain import Slice
from hedgerl.calibration.fit import Parameter
from hedgerl.calibration.smiles import volatilities
from hedgerl.pricing import heston

_BUMP = 1e-4  # of a logarithm, or of rho: central differences of prices that are exact to 1e-12


@dataclass(frozen=True, eq=False)
class HestonPricer:
    """Volatilities of Heston (1993) at the strikes of `slices`: kappa, theta, sigma, rho, v0."""

    slices: Sequence[Slice]

    parameters = (
        Parameter("kappa", 0.05, 50.0),
        Parameter("theta", 1e-4, 4.0),
        Parameter("sigma", 0.02, 15.0),
        Parameter("rho", -0.995, 0.995, "linear"),
        Parameter("v0", 1e-5, 9.0),
    )
    n_curve = 0
    tolerance = 1e-8

    def starts(self) -> list[np.ndarray]:
        """v0 and theta from the first and the last expiry, at five pairs of kappa and sigma."""
        v0, theta = (self.slices[place].at_the_money ** 2 for place in (0, -1))
        pairs = ((1.0, 0.5), (3.0, 0.8), (8.0, 1.5), (3.0, 2.0), (15.0, 3.0))
        return [np.array([kappa, theta, sigma, -0.7, v0]) for kappa, sigma in pairs]

    def __call__(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Pricer`."""
        moves = np.zeros((9, 5))
        for place in range(4):
            size = _BUMP if place == 3 else _BUMP * point[place]
            moves[1 + 2 * place, place], moves[2 + 2 * place, place] = size, -size
        kappa, theta, sigma, rho, v0 = (point + moves).T[:, :, None]
        k, years = self._quotes
        greeks = heston(
            *(1.0, np.exp(k), years, v0),
            **{"kappa": kappa, "theta": theta, "sigma": sigma, "rho": rho},
            is_call=k >= 0,
        )
        price = np.asarray(greeks.price)
        slopes = (price[1::2] - price[2::2]) / (moves[1::2] - moves[2::2]).sum(axis=1)[:, None]
        return volatilities(price[0], np.vstack([slopes, greeks.vega[0]]).T, k, years)

    @cached_property
    def _quotes(self) -> tuple[np.ndarray, np.ndarray]:
        k = np.concatenate([each.k for each in self.slices])
        return k, np.concatenate([np.full(each.k.size, each.years) for each in self.slices])
