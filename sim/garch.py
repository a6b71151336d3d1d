"""GJR-GARCH(1, 1) (Glosten, Jagannathan & Runkle 1993), locally risk-neutral (Duan 1995)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hedgerl.pricing._checks import non_negative, positive
from hedgerl.sim.backend import Array
from hedgerl.sim.grid import TimeGrid, refine
from hedgerl.sim.induction import InductionMarker, Recursion
from hedgerl.sim.market import Marker
from hedgerl.sim.model import Block, Model
from hedgerl.sim.paths import Paths


@dataclass(frozen=True)
class GARCH(Model):
    """log S' = log S + (drift - dividend) dt - h/2 + sqrt(h) Z,   h' = omega + (alpha + gamma 1[Z < 0]) h Z^2 + beta h.

    h is the variance of one step's log return, a step being 1 / steps_per_year of a year; `variance` is h *
    steps_per_year. Innovations are standard normal, and the risk-neutral variance follows the same recursion in the
    risk-neutral innovations (Duan 1995 with no unit risk premium), so that the discounted spot is a martingale.

    Parameters
    ----------
    omega, alpha, gamma, beta : of the recursion, in decimal (not percent) returns; omega > 0, alpha, beta at least 0,
        alpha + gamma at least 0, alpha + gamma / 2 + beta below 1
    v0 : variance per year of the first step; None is the long-run variance
    steps_per_year : 252 for a fit to daily closes. Kept times must be whole numbers of steps.

    Examples
    --------
    >>> model = GARCH(omega=2e-6, alpha=0.01, gamma=0.15, beta=0.89)
    >>> round(model.long_run_variance ** 0.5, 3)
    0.142
    """

    n_noise: ClassVar[int] = 1
    perturbable: ClassVar[tuple[str, ...]] = ("omega", "alpha", "gamma", "beta", "v0", "drift")

    omega: float
    alpha: float
    gamma: float
    beta: float
    v0: float | None = None
    steps_per_year: float = 252.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("omega", self.omega)
        non_negative("alpha", self.alpha)
        non_negative("alpha + gamma", self.alpha + self.gamma)
        non_negative("beta", self.beta)
        positive("steps_per_year", self.steps_per_year)
        if self.v0 is not None:
            positive("v0", self.v0)
        if self.persistence >= 1:
            raise ValueError(f"alpha + gamma / 2 + beta must be below 1, got {self.persistence:g}")

    @property
    def persistence(self) -> float:
        """alpha + gamma / 2 + beta: the share of a variance shock that is left after a step."""
        return float(self._recursion(self.parameters).persistence)

    @property
    def long_run_variance(self) -> float:
        """Unconditional variance per year."""
        return float(self._recursion(self.parameters).long_run * self.steps_per_year)

    @staticmethod
    def _recursion(parameters: Mapping[str, Any]) -> Recursion:
        return Recursion(*(parameters[name] for name in Recursion._fields))

    @classmethod
    def fit(cls, returns: Any, *, steps_per_year: float = 252.0, **market: Any) -> Self:
        """The model fitted by maximum likelihood (`arch`) to log returns in decimals, one a step, oldest first.

        `v0` is the fitted variance of the step after the last return. `market`: spot, rate, dividend, drift.
        Raises ValueError for fewer than 250 returns, NaN or infinity, and for a fit that is not stationary.
        """
        from arch import arch_model  # heavy, and needed here alone

        values = np.asarray(returns, dtype=np.float64)
        if values.ndim != 1 or values.size < 250:
            raise ValueError(f"returns must be one-dimensional with at least 250 entries, got shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"returns must be finite, got {values[~np.isfinite(values)][0]}")
        result = arch_model(100 * values, mean="Constant", vol="GARCH", p=1, o=1, q=1).fit(disp="off")
        following = result.forecast(horizon=1, reindex=False).variance.to_numpy()[-1, 0]
        return cls(
            omega=float(result.params["omega"]) / 1e4,
            alpha=float(result.params["alpha[1]"]),
            gamma=float(result.params["gamma[1]"]),
            beta=float(result.params["beta[1]"]),
            v0=float(following) / 1e4 * steps_per_year,
            steps_per_year=steps_per_year,
            **market,
        )

    def _grid(self, times: np.ndarray, substeps: int) -> TimeGrid:
        if refine(times, substeps).fine.size != times.size:
            raise ValueError(f"substeps must be 1, as a GARCH step is 1 / steps_per_year of a year, got {substeps!r}")
        steps = times * self.steps_per_year
        kept = np.rint(steps).astype(int)
        if np.abs(steps - kept).max() > 1e-6 * max(1.0, float(steps[-1])) or (np.diff(kept) < 1).any():
            raise ValueError(
                f"times must be whole numbers of steps of 1/{self.steps_per_year:g} year, got steps of "
                f"{np.diff(times).min():g} to {np.diff(times).max():g} years"
            )
        return TimeGrid(times, np.arange(kept[-1] + 1) / self.steps_per_year, kept)

    def volatility_slope(self, paths: Paths, step: int, expiry_years: float) -> Array:
        """-gamma sqrt(steps_per_year / (2 pi)) / S over a step of the recursion; see `Model.volatility_slope`.

        Only the leverage term is skewed: Cov(h', sqrt(h) Z) = gamma h^(3/2) E[1[Z < 0] Z^3] = -gamma h^(3/2)
        sqrt(2 / pi), to be divided by the h of Var(log S'), and d sqrt(v) = sqrt(steps_per_year) dh / (2 sqrt(h)) to
        first order: one shock moves h by much, and what bends in it takes back some tenth of the slope.
        Where kept times are several steps apart, the shocks of earlier ones have decayed by the last.
        """
        given = self.parameters | dict(paths.parameters)
        kept = paths.grid.kept
        apart = int(kept[min(step + 1, paths.n_steps)] - kept[min(step, paths.n_steps - 1)])
        fading = self._recursion(given).weight(apart)
        return -given["gamma"] * fading * ((0.5 * self.steps_per_year / math.pi) ** 0.5 / paths.spot[step])

    def _marker(self, paths: Paths) -> Marker:
        return InductionMarker(paths, self)

    def _simulate(self, block: Block, plan: Any) -> None:
        xp, grid, given = block.xp, block.grid, block.parameters
        dt = 1.0 / self.steps_per_year
        growth = self.growth(given)
        first = given["v0"]
        if first is None:
            first = self._recursion(given).long_run * self.steps_per_year
        log_spot, h, square = block.zeros("log_spot"), block.scratch("h"), block.scratch("square")
        shock, response = block.scratch("shock"), block.scratch("response")

        def keep(row: int) -> None:
            xp.exp(log_spot, out=shock)
            xp.multiply(shock, self.spot, out=block.spot[row])
            xp.multiply(h, self.steps_per_year, out=block.variance[row])

        h[...] = first * dt
        keep(0)
        for step, noise in enumerate(block.noise[0]):
            xp.sqrt(h, out=shock)
            shock *= noise
            log_spot += shock
            xp.multiply(shock, shock, out=square)  # h Z^2
            xp.less(noise, 0.0, out=response)
            response *= given["gamma"]
            response += given["alpha"]
            square *= response
            log_spot -= xp.multiply(h, 0.5, out=response)
            log_spot += growth * dt
            h *= given["beta"]
            h += square
            h += given["omega"]
            if grid.row_after[step]:
                keep(grid.row_after[step])
