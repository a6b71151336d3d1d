"""Lognormal SABR (Hagan et al. 2002, beta = 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hedgerl.pricing._checks import finite, in_interval, non_negative, positive
from hedgerl.sim.backend import Array, namespace
from hedgerl.sim.forward_variance import ForwardVarianceMarker
from hedgerl.sim.market import Marker
from hedgerl.sim.mixing import N_STATES, WIDER, Bins, Law
from hedgerl.sim.model import Block, Model
from hedgerl.sim.paths import Paths
from hedgerl.sim.volterra import HybridWeights


@dataclass(frozen=True)
class SABR(Model):
    """dS = (drift - dividend) S dt + alpha S dB,    d alpha = volvol alpha dW,    dB dW = rho dt,    v = alpha^2.

    The volatility is simulated exactly, the spot by log-Euler with the volatility at the start of the step, so that
    the discounted spot is a martingale on any grid. With rho > 0 the model in continuous time is not one: much of the
    mean then lies in paths too rare to be sampled once volvol^2 t nears 1. Rows of noise: volatility, spot.

    Parameters
    ----------
    volatility : alpha at the start, per square root of a year, above 0
    volvol : volatility of alpha, per square root of a year, at least 0
    rho : correlation, in [-1, 1]
    variance_risk_premium : simulated dW = dW^P + variance_risk_premium dt

    Examples
    --------
    >>> paths = SABR(volatility=0.2, volvol=0.8, rho=-0.5).simulate(4, n_steps=21, maturity=1 / 12, seed=1)
    >>> paths.spot.shape
    (22, 4)
    """

    n_noise: ClassVar[int] = 2  # volatility, spot
    perturbable: ClassVar[tuple[str, ...]] = ("volatility", "volvol", "rho", "drift")
    curves_differ_in_shape: ClassVar[bool] = False

    volatility: float
    volvol: float
    rho: float
    variance_risk_premium: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("volatility", self.volatility)
        non_negative("volvol", self.volvol)
        in_interval("rho", self.rho, -1.0, 1.0, closed=True)
        finite("variance_risk_premium", self.variance_risk_premium)

    def volatility_slope(self, paths: Paths, step: int, expiry_years: float) -> Array:
        """rho volvol / S, as d alpha = volvol alpha dW and dS = alpha S dB (Bartlett 2006); see
        `Model.volatility_slope`."""
        rho, volvol = (paths.parameters.get(name, getattr(self, name)) for name in ("rho", "volvol"))
        return rho * volvol / paths.spot[step]

    def _marker(self, paths: Paths) -> Marker:
        return ForwardVarianceMarker(paths, self, ("volvol", "rho"))

    def _known_log_curve(self, times: np.ndarray) -> np.ndarray:
        return np.zeros(times.size)  # all of it moves with alpha

    def _law_and_curves(
        self, fine: np.ndarray, first: int, ahead: np.ndarray, rng: np.random.Generator
    ) -> tuple[Law, np.ndarray]:
        now = fine[first]
        shock = WIDER * now**0.5 * rng.standard_normal(N_STATES)
        level = 2 * np.log(self.volatility) + self.volvol * (2 * shock - self.volvol * now)
        curves = level[:, None] + self.volvol**2 * (ahead - now)
        return Law(2.0 * self.volvol, self.rho, _brownian_weights), curves

    def _log_forward_curve(self, paths: Paths, step: int, ahead: np.ndarray, bins: Bins, part: Array) -> Array:
        """log xi at times[step] by bins (see `Bins`) of the steps that start at the times `ahead`, (b, n)."""
        xp = namespace(paths.spot)
        volvol = paths.parameters["volvol"][part] if "volvol" in paths.parameters else self.volvol
        level = xp.log(paths.variance[step][part])
        later = bins.average(ahead - ahead[0])
        return level + volvol**2 * xp.asarray(later[:, None], dtype=level.dtype)

    def _curve_ahead(
        self, fine: np.ndarray, now: int, ahead: np.ndarray, bins: Bins
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See `ForwardVarianceModel`; the whole curve moves with alpha, as one bin."""
        growth = np.exp(self.volvol**2 * bins.average(ahead - ahead[0]))
        return np.array([bins.lengths @ growth]), None

    def _simulate(self, block: Block, plan: Any) -> None:
        xp, grid = block.xp, block.grid
        volvol, rho = block.parameters["volvol"], block.parameters["rho"]
        complement = (1.0 - rho * rho) ** 0.5
        growth = self.growth(block.parameters)
        log_spot, alpha, growth_factor = block.zeros("log_spot"), block.scratch("alpha"), block.scratch("growth_factor")
        shock, half_variance = block.scratch("shock"), block.scratch("half_variance")

        def keep(row: int) -> None:
            xp.exp(log_spot, out=shock)
            xp.multiply(shock, self.spot, out=block.spot[row])
            xp.multiply(alpha, alpha, out=block.variance[row])

        alpha[...] = block.parameters["volatility"]
        keep(0)
        for step, dt in enumerate(grid.fine_steps.tolist()):
            noise, spot_noise = block.noise[:, step]
            # d log S = (growth - alpha^2 / 2) dt + alpha sqrt(dt) (rho Z + sqrt(1 - rho^2) Z')
            xp.multiply(noise, rho * dt**0.5, out=shock)
            shock += xp.multiply(spot_noise, complement * dt**0.5, out=growth_factor)
            shock *= alpha
            log_spot += shock
            xp.multiply(alpha, alpha, out=half_variance)
            half_variance *= 0.5 * dt
            log_spot -= half_variance
            log_spot += growth * dt
            # alpha' = alpha exp(volvol dW - volvol^2 / 2 dt)
            xp.multiply(noise, volvol * dt**0.5, out=growth_factor)
            growth_factor += (self.variance_risk_premium * volvol - 0.5 * volvol * volvol) * dt
            xp.exp(growth_factor, out=growth_factor)
            alpha *= growth_factor
            if grid.row_after[step]:
                keep(grid.row_after[step])


def _brownian_weights(times: np.ndarray) -> HybridWeights:
    """Y = W: a Volterra process whose kernel is 1."""
    size = times.size - 1
    return HybridWeights(np.tril(np.ones((size, size))), np.zeros(size), times[1:])
