"""GJR-GARCH(1, 1) (Glosten, Jagannathan & Runkle 1993), locally risk-neutral (Duan 1995)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any, ClassVar, Self

import numpy as np

from hedgerl.pricing import implied_volatility
from hedgerl.pricing._checks import non_negative, positive
from hedgerl.pricing.normal import cdf
from hedgerl.sim.backend import Array, namespace
from hedgerl.sim.grid import TimeGrid, refine
from hedgerl.sim.market import Implied, Marker, SmileMarker, flat_smile, from_smile
from hedgerl.sim.model import Block, Model
from hedgerl.sim.paths import Paths
from hedgerl.sim.smile import Smile, interpolate


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
        return self.alpha + 0.5 * self.gamma + self.beta

    @property
    def long_run_variance(self) -> float:
        """Unconditional variance per year."""
        return self.omega / (1 - self.persistence) * self.steps_per_year

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

    def expected_variance_weight(self, n_steps: int) -> float:
        """How much of v - long_run_variance the mean variance of the next n_steps steps keeps."""
        return (1 - self.persistence**n_steps) / (n_steps * (1 - self.persistence))

    def _marker(self, paths: Paths) -> Marker:
        return _InductionMarker(paths)

    def _simulate(self, block: Block, plan: Any) -> None:
        xp, grid, given = block.xp, block.grid, block.parameters
        dt = 1.0 / self.steps_per_year
        growth = self.growth(given)
        first = given["v0"]
        if first is None:
            persistence = given["alpha"] + 0.5 * given["gamma"] + given["beta"]
            first = given["omega"] / (1 - persistence) * self.steps_per_year
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


_MONEYNESS = 5.0  # smiles reach to |log(K / F)| of so many expected standard deviations
_NODES = (19, 15)  # in moneyness and in log volatility
_QUADRATURE = 48  # nodes on either side of 0, where the recursion has a kink
_TOP = 100.0  # smiles reach to so many times the long-run variance


@dataclass(frozen=True)
class _Smiles:
    """Smiles by steps to expiry, each the expectation over one step of the one before: exact but for interpolation.

    c_m(k, h) = E[e^R c_(m-1)(k - R, h')],    R = -h/2 + sqrt(h) Z,

    for undiscounted prices c on a forward of 1 at log strike k; c_1 is Black-Scholes at volatility sqrt(h).
    """

    model: GARCH
    known: list[Smile] = field(default_factory=list)  # for 2, 3, .. steps
    lock: Lock = field(default_factory=Lock)

    def smile(self, n_steps: int) -> Smile:
        """The smile n_steps >= 2 before expiry."""
        with self.lock:
            while len(self.known) < n_steps - 1:
                self.known.append(self._step_back(len(self.known) + 2))
            return self.known[n_steps - 2]

    def mean_variance(self, h: Any, n_steps: int) -> Any:
        """Expected variance a step over the next n_steps steps."""
        long_run = self.model.long_run_variance / self.model.steps_per_year
        return long_run + (h - long_run) * self.model.expected_variance_weight(n_steps)

    def _step_back(self, n_steps: int) -> Smile:
        model = self.model
        long_run = model.long_run_variance / model.steps_per_year
        lowest = model.omega  # h' = omega + .. for any h
        if model.v0 is not None:
            lowest = min(lowest, model.v0 / model.steps_per_year)
        weight = model.expected_variance_weight(n_steps)
        nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE)
        z = np.concatenate([4.5 * (nodes - 1), 4.5 * (nodes + 1)])  # [-9, 0] and [0, 9]
        density = np.tile(4.5 * weights, 2) * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
        response = model.alpha + model.gamma * (z < 0)

        def ratio(x: np.ndarray, log_volatility: np.ndarray) -> np.ndarray:
            mean = np.exp(2 * log_volatility) / model.steps_per_year
            h = (long_run + (mean - long_run) / weight)[..., None]
            s = np.sqrt(mean * n_steps)
            log_strike = x * s
            sign = np.where(x > 0, 1.0, -1.0)
            log_return = -0.5 * h + np.sqrt(h) * z
            following = model.omega + (response * z * z + model.beta) * h
            later = self._deviation(log_strike[..., None] - log_return, following, n_steps - 1)
            price = np.exp(log_return) * _otm_price(log_strike[..., None] - log_return, later, sign[..., None])
            expected = (price * density).sum(axis=-1)
            # with a unit of time left the implied volatility is the deviation
            return implied_volatility(expected, 1.0, np.exp(log_strike), 1.0, is_call=log_strike > 0) / s

        low, high = (
            0.5 * np.log(self.mean_variance(h, n_steps) * model.steps_per_year) for h in (lowest, _TOP * long_run)
        )
        return interpolate(_MONEYNESS, float(low), float(high), _NODES, ratio)

    def _deviation(self, log_strike: np.ndarray, h: np.ndarray, n_steps: int) -> np.ndarray:
        """Implied volatility times the root of time, n_steps before expiry."""
        if n_steps == 1:
            return np.sqrt(h) + 0.0 * log_strike
        mean = self.mean_variance(h, n_steps)
        s = np.sqrt(mean * n_steps) + 0.0 * log_strike
        features = np.broadcast_to(0.5 * np.log(mean * self.model.steps_per_year), s.shape)
        ratio = self.known[n_steps - 2](np, (log_strike / s).reshape(-1), features.reshape(1, -1))
        return s * ratio.value.reshape(s.shape)


def _otm_price(log_strike: np.ndarray, deviation: np.ndarray, sign: np.ndarray) -> np.ndarray:
    d1 = -log_strike / deviation + 0.5 * deviation
    return sign * (cdf(sign * d1) - np.exp(log_strike) * cdf(sign * (d1 - deviation)))


@lru_cache(maxsize=32)
def _smiles(model: GARCH) -> _Smiles:
    return _Smiles(model)


class _InductionMarker(SmileMarker):
    """Marks by backward induction; between two steps implied volatility is interpolated in time."""

    def __init__(self, paths: Paths) -> None:
        unmarked = set(paths.parameters) - {"v0", "drift"}
        if unmarked:
            raise ValueError(f"perturb must leave {', '.join(sorted(unmarked))} alone where GARCH options are marked")
        self.paths = paths
        self.model: GARCH = paths.model  # type: ignore[assignment]
        self.smiles = _smiles(dataclasses.replace(self.model, spot=1.0, rate=0.0, dividend=0.0, drift=None))

    def implied(self, step: int, expiry_years: float, part: Array, log_moneyness: Array) -> Implied:
        """See `SmileMarker.implied`."""
        left = (expiry_years - float(self.paths.times[step])) * self.model.steps_per_year
        variance = self.paths.variance[step][part]
        whole = round(left)
        if abs(left - whole) < 1e-6 * max(1.0, left):
            return self._on_step(whole, variance, log_moneyness)
        whole = int(left)
        after = self._on_step(whole + 1, variance, log_moneyness)
        if whole == 0:
            return after
        before = self._on_step(whole, variance, log_moneyness)
        share = left - whole
        return Implied(*((1 - share) * early + share * late for early, late in zip(before, after, strict=True)))

    def _on_step(self, n_steps: int, variance: Array, log_moneyness: Array) -> Implied:
        xp, model = namespace(variance), self.model
        if n_steps == 1:
            return flat_smile(log_moneyness, xp.sqrt(variance), 1.0)
        left = n_steps / model.steps_per_year
        weight = model.expected_variance_weight(n_steps)
        mean = model.long_run_variance + (variance - model.long_run_variance) * weight
        features = (0.5 * xp.log(mean))[None]
        by_volatility = weight * xp.sqrt(variance) / mean
        return from_smile(
            self.smiles.smile(n_steps), log_moneyness, xp.sqrt(mean * left), features, left, by_volatility
        )
