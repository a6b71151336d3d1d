"""Rough Bergomi (Bayer, Friz & Gatheral 2016)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.polynomial import chebyshev

from hedgerl.pricing._checks import finite, in_interval, non_negative, positive
from hedgerl.sim.backend import Array, is_numpy, namespace
from hedgerl.sim.device import by_path, launch, tiles
from hedgerl.sim.forward_variance import ForwardVarianceMarker, steps_to
from hedgerl.sim.grid import TimeGrid
from hedgerl.sim.market import Marker
from hedgerl.sim.mixing import N_STATES, WIDER, Bins, Law
from hedgerl.sim.model import Block, Model
from hedgerl.sim.noise import STREAM_PATHS
from hedgerl.sim.paths import Paths
from hedgerl.sim.perturbation import Distribution
from hedgerl.sim.smile import polynomials
from hedgerl.sim.volterra import HybridWeights, hybrid_weights, kernel_average, lower_triangular_product

_NODES = chebyshev.chebpts1(12)  # for a Hurst exponent that differs by path: variances then hold to 1e-6


@dataclass(frozen=True)
class ForwardVarianceCurve:
    """A forward-variance curve xi_0(t) through (times, values): linear between, flat outside.

    times: years, increasing; values: variance per year, above 0. Raises ValueError otherwise.
    """

    times: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(finite("times", t) for t in self.times))
        object.__setattr__(self, "values", tuple(positive("forward_variance", v) for v in self.values))
        if len(self.times) != len(self.values) or not self.times:
            raise ValueError(
                "times and values must have the same length of at least 1, "
                f"got {len(self.times)} and {len(self.values)}"
            )
        if (np.diff(self.times) <= 0).any():
            raise ValueError(f"times must increase, got {self.times!r}")

    def __call__(self, times: np.ndarray) -> np.ndarray:
        """xi_0 at the given years."""
        return np.interp(times, self.times, self.values)


Curve = Callable[[np.ndarray], np.ndarray]
ForwardVariance = float | ForwardVarianceCurve | tuple[Sequence[float], Sequence[float]] | Curve


@dataclass(frozen=True)
class RoughBergomi(Model):
    """dS = (drift - dividend) S dt + sqrt(v) S dB,    v_t = xi_0(t) exp(eta Y_t - eta^2 / 2 Var Y_t),

    Y the Volterra process of `hedgerl.sim.volterra` driven by W, and dB = rho dW + sqrt(1 - rho^2) dW'.
    Variance by the hybrid scheme, compensated by the variance of the discretised Y so that E[v_t] = xi_0(t) at every
    time; spot by log-Euler with the variance at the start of the step, so that the discounted spot is a martingale.

    Parameters
    ----------
    hurst : Hurst exponent H in (0, 1/2)
    eta : volatility of the log variance, per year^H, at least 0
    rho : correlation of W and B, in [-1, 1]
    forward_variance : variance per year: a number (flat), a `ForwardVarianceCurve`, a pair (times, values), or a
        function of an array of years
    variance_risk_premium : real-world drift of W under the pricing measure's eyes, per year: simulated dW = dW^P +
        variance_risk_premium dt. Below 0, realised variance falls short of what the options imply.

    Rows of noise: W, the residual of Y, W'. Perturbing `forward_variance` scales the whole curve; the draw is its value
    at time 0.

    Examples
    --------
    >>> model = RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2)
    >>> paths = model.simulate(n_paths=3, n_steps=21, maturity=21 / 252, seed=1)
    >>> paths.variance.shape
    (22, 3)
    """

    n_noise: ClassVar[int] = 3  # W, the first cell's residual, W'
    perturbable: ClassVar[tuple[str, ...]] = ("hurst", "eta", "rho", "forward_variance", "drift")
    curves_differ_in_shape: ClassVar[bool] = True

    hurst: float
    eta: float
    rho: float
    forward_variance: ForwardVariance
    variance_risk_premium: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_interval("hurst", self.hurst, 0.0, 0.5)
        non_negative("eta", self.eta)
        in_interval("rho", self.rho, -1.0, 1.0, closed=True)
        finite("variance_risk_premium", self.variance_risk_premium)
        curve = self.forward_variance
        if isinstance(curve, ForwardVarianceCurve):
            return
        if callable(curve):
            self.initial_curve(np.array([0.0]))
        elif isinstance(curve, tuple | list | np.ndarray):
            if len(curve) != 2 or not all(hasattr(side, "__len__") for side in curve):
                raise ValueError(
                    f"forward_variance must be a number, a function or a pair (times, values), got {curve!r}"
                )
            object.__setattr__(self, "forward_variance", ForwardVarianceCurve(tuple(curve[0]), tuple(curve[1])))
        else:
            positive("forward_variance", curve)

    def initial_curve(self, times: np.ndarray) -> np.ndarray:
        """xi_0 at the given years. Raises ValueError where a function of the user's gives no positive number."""
        curve = self.forward_variance
        if not callable(curve):
            return np.full(np.shape(times), curve)
        given = curve(np.asarray(times))
        try:
            values = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"forward_variance must give numbers, got {given!r}") from None
        if values.shape != np.shape(times) or not np.isfinite(values).all() or (values <= 0).any():
            raise ValueError(f"forward_variance must be positive at every time, got {values!r}")
        return values

    def with_parameter(self, name: str, value: float) -> Self:
        """See `Model.with_parameter`; a new forward_variance scales the curve to that value at time 0."""
        if name != "forward_variance" or not callable(self.forward_variance):
            return super().with_parameter(name, value)
        positive(name, value)
        curve, scale = self.initial_curve, value / float(self.initial_curve(np.array([0.0]))[0])
        return super().with_parameter(name, lambda times: scale * curve(times))  # type: ignore[arg-type]

    def _state_rows(self, grid: TimeGrid) -> dict[str, int]:
        return {"driver": grid.fine.size - 1}

    def _plan(self, xp: ModuleType, grid: TimeGrid, dtype: np.dtype, spread: Mapping[str, Distribution]) -> _Plan:
        root_dt = np.sqrt(grid.fine_steps)
        bounds = None
        weights = [hybrid_weights(self.hurst, grid.fine)]
        if "hurst" in spread:
            bounds = (spread["hurst"].low, spread["hurst"].high)
            weights = _hurst_expansion(bounds, grid.fine)
        premium = [item.average @ grid.fine_steps * self.variance_risk_premium for item in weights]
        return _Plan(
            convolution=[xp.asarray(item.average * root_dt, dtype=dtype) for item in weights],
            residual=[item.residual.tolist() for item in weights],
            variance=[item.variance.tolist() for item in weights],
            premium=[item.tolist() for item in premium],
            log_curve=np.log(self.initial_curve(grid.fine)).tolist(),
            hurst_bounds=bounds,
        )

    def _simulate(self, block: Block, plan: _Plan) -> None:
        xp, grid = block.xp, block.grid
        eta, rho = block.parameters["eta"], block.parameters["rho"]
        complement = (1.0 - rho * rho) ** 0.5
        growth = self.growth(block.parameters)
        curve_shift = 0.0
        if "forward_variance" in block.perturbed:
            curve_shift = xp.log(block.parameters["forward_variance"]) - plan.log_curve[0]
        steps = grid.fine_steps.tolist()
        basis = _hurst_basis(xp, block.parameters["hurst"], plan.hurst_bounds)

        def at(expansion: list[list[float]], step: int) -> Any:
            return sum(item[step] * factor for item, factor in zip(expansion, basis, strict=True))

        volterra = self._convolve(block, plan, basis)
        driver = block.state["driver"]
        log_spot, volatility, variance = block.zeros("log_spot"), block.scratch("volatility"), block.scratch("variance")
        shock, spot_shock = block.scratch("shock"), block.scratch("spot_shock")

        def exponentiate() -> None:  # from log(v) / 2 to sqrt(v) and v
            xp.exp(volatility, out=volatility)
            xp.multiply(volatility, volatility, out=variance)

        def keep(row: int) -> None:
            xp.exp(log_spot, out=shock)
            xp.multiply(shock, self.spot, out=block.spot[row])
            block.variance[row] = variance

        volatility[...] = 0.5 * (plan.log_curve[0] + curve_shift)
        exponentiate()
        keep(0)
        for step, dt in enumerate(steps):
            noise, own_noise, spot_noise = block.noise[:, step]
            # d log S = (growth - v / 2) dt + sqrt(v dt) (rho Z + sqrt(1 - rho^2) Z')
            xp.multiply(noise, rho * dt**0.5, out=shock)
            shock += xp.multiply(spot_noise, complement * dt**0.5, out=spot_shock)
            shock *= volatility
            log_spot += shock
            variance *= 0.5 * dt
            log_spot -= variance
            log_spot += growth * dt
            xp.multiply(noise, dt**0.5, out=driver[step])
            # log v = log xi_0 + eta Y - eta^2 / 2 Var Y at the end of the step
            xp.multiply(own_noise, at(plan.residual, step), out=volatility)
            volatility += volterra[step]
            volatility *= 0.5 * eta
            volatility += 0.5 * (plan.log_curve[step + 1] + curve_shift) - 0.25 * eta * eta * at(plan.variance, step)
            if self.variance_risk_premium:
                driver[step] += self.variance_risk_premium * dt
                volatility += 0.5 * eta * at(plan.premium, step)
            exponentiate()
            if grid.row_after[step]:
                keep(grid.row_after[step])

    def _kernel(self, perturbed: frozenset[str]) -> Callable[[Block], None] | None:
        return None if "hurst" in perturbed else self._launch

    def _launch(self, block: Block) -> None:
        xp, grid, kind = block.xp, block.grid, block.spot.dtype
        weights, steps = _device_weights(xp, xp.cuda.Device().id, self.hurst, grid.fine.tobytes(), kind)
        log_curve = np.log(self.initial_curve(grid.fine))
        shift: Any = 0.0
        if "forward_variance" in block.perturbed:
            shift = xp.log(block.parameters["forward_variance"]) - float(log_curve[0])
        per_path = (block.parameters["eta"], block.parameters["rho"], self.growth(block.parameters), shift)
        n_fine, n_paths = grid.fine.size - 1, block.n_paths
        launch(
            "rough_bergomi",
            kind,
            n_paths,
            *block.source,
            *(np.int32(n_fine), np.int64(n_paths), weights, steps),
            *(xp.asarray(log_curve, dtype=kind), xp.asarray(np.array(grid.row_after), dtype=np.int32)),
            *(argument for value in per_path for argument in by_path(xp, value, kind)),
            *(kind.type(self.spot), kind.type(self.variance_risk_premium)),
            *(block.spot, block.variance, block.state["driver"]),
        )

    def _convolve(self, block: Block, plan: _Plan, basis: list[Any]) -> Array:
        """Y at the end of each step without the residual, (n_fine, n_block)."""
        noise, count = block.whole_noise[0], block.n_paths
        volterra = self._product(plan.convolution[0], noise, block.work.take("volterra", noise.shape))
        for convolution, factor in zip(plan.convolution[1:], basis[1:], strict=True):
            term = self._product(convolution, noise, block.work.take("volterra_term", noise.shape))
            term[:, :count] *= factor
            volterra += term
        return volterra[:, :count]

    @staticmethod
    def _product(weights: Array, noise: Array, out: Array) -> Array:
        # one stream at a time: BLAS adds up in an order that depends on the width
        width = STREAM_PATHS if is_numpy(namespace(noise)) else noise.shape[1]
        for first in range(0, noise.shape[1], width):
            columns = slice(first, first + width)
            lower_triangular_product(weights, noise[:, columns], out[:, columns])
        return out

    def volatility_slope(self, paths: Paths, step: int, expiry_years: float) -> Array:
        """rho eta / (2 sigma tau sqrt(v) S) sum_j xi_j dt_j K_j; see `Model.volatility_slope`.

        sigma^2 = sum_j xi_j dt_j / tau is the mean forward variance over the time tau to expiry. The shock dW of the
        step moves log xi_j by eta K_j dW, with K_j the kernel sqrt(2H) (t_j - s)^(H - 1/2) averaged over the step, and
        by E[exp(a Z - a^2 / 2) Z] = a the covariance of xi_j with dW is exact for any size of shock. The step's own
        variance is known, so that the slope is 0 one step before expiry.
        """
        xp, spot = namespace(paths.spot), paths.spot[step]
        fine, now = paths.grid.fine, int(paths.grid.kept[step])
        steps = steps_to(fine, now, expiry_years)
        ahead = fine[now] + np.append(0.0, np.cumsum(steps[:-1]))
        bins = Bins.of(steps, self._known_log_curve(ahead))
        end = ahead[0] + float(np.diff(paths.times)[min(step, paths.n_steps - 1)])

        def loadings(hurst: float) -> np.ndarray:
            return bins.lengths * bins.average(kernel_average(hurst, ahead, ahead[:1], np.array([end])))[:, 0]

        if "hurst" in paths.parameters:
            bounds = paths.ranges["hurst"]
            by_degree = list(_expand(np.stack([loadings(node) for node in np.interp(_NODES, (-1, 1), bounds)])))
        else:
            bounds, by_degree = None, [loadings(self.hurst)]
        basis = _hurst_basis(xp, paths.parameters.get("hurst"), bounds)
        curve = xp.exp(self._log_forward_curve(paths, step, ahead, bins, slice(None)))
        lengths = xp.asarray(bins.lengths, dtype=curve.dtype)
        moved = sum(
            factor * (xp.asarray(row, dtype=curve.dtype) @ curve) for row, factor in zip(by_degree, basis, strict=True)
        )
        rho, eta = (paths.parameters.get(name, getattr(self, name)) for name in ("rho", "eta"))
        scale = 2.0 * xp.sqrt(lengths @ curve * float(steps.sum())) * xp.sqrt(paths.variance[step]) * spot
        return rho * eta * moved / scale

    def _marker(self, paths: Paths) -> Marker:
        return ForwardVarianceMarker(paths, self, ("hurst", "eta", "rho"))

    def _known_log_curve(self, times: np.ndarray) -> np.ndarray:
        return np.log(self.initial_curve(times))

    def _law_and_curves(
        self, fine: np.ndarray, first: int, ahead: np.ndarray, rng: np.random.Generator
    ) -> tuple[Law, np.ndarray]:
        steps = np.diff(fine[: first + 1])
        driver = WIDER * rng.standard_normal((first, N_STATES)) * np.sqrt(steps)[:, None]
        loading = kernel_average(self.hurst, ahead, fine[:first], fine[1 : first + 1])
        known = loading**2 @ steps
        curves = self.eta * (loading @ driver)
        curves -= 0.5 * self.eta**2 * known[:, None]
        # what averaging the kernel over past cells loses is drawn with the own cell's residual
        lost = ahead ** (2 * self.hurst) - (ahead - ahead[0]) ** (2 * self.hurst) - known
        lost = np.maximum(lost, 0.0)  # rounding, as H nears 1/2
        curves[0] += self.eta * WIDER * lost[0] ** 0.5 * rng.standard_normal(N_STATES) - 0.5 * self.eta**2 * lost[0]
        return Law(self.eta, self.rho, functools.partial(_weights_ahead, self.hurst, lost[1:])), curves.T

    def _log_forward_curve(self, paths: Paths, step: int, ahead: np.ndarray, bins: Bins, part: Array) -> Array:
        """log xi at times[step] by bins (see `Bins`) of the steps that start at the times `ahead`, (b, n)."""
        xp, grid = namespace(paths.spot), paths.grid
        now = int(grid.kept[step])
        driver = paths.state["driver"][:now][:, part]
        curve = xp.empty((bins.starts.size, driver.shape[1]), dtype=driver.dtype)
        xp.log(paths.variance[step][part], out=curve[0])
        eta = paths.parameters["eta"][part] if "eta" in paths.parameters else self.eta
        known = bins.known[1:, None]
        if "forward_variance" in paths.parameters:
            level = paths.parameters["forward_variance"][part]
            curve[1:] = xp.log(level) - float(np.log(self.initial_curve(np.array([0.0]))[0]))
            curve[1:] += xp.asarray(known, dtype=curve.dtype)
        else:
            curve[1:] = xp.asarray(known, dtype=curve.dtype)
        if now:
            loadings, variances, basis = self._loadings(paths, now, ahead, bins, part)
            for loading, variance, factor in zip(loadings, variances, basis, strict=True):
                curve[1:] += eta * (factor * (xp.asarray(loading, dtype=curve.dtype) @ driver))
                curve[1:] -= 0.5 * eta**2 * (factor * xp.asarray(variance, dtype=curve.dtype))
        return curve

    def _curve_ahead(
        self, fine: np.ndarray, now: int, ahead: np.ndarray, bins: Bins
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See `ForwardVarianceModel`."""
        if not now:
            return bins.lengths * np.exp(np.append(0.0, bins.known[1:])), None
        loading, variance = _loading(self.hurst, fine, now, ahead, bins)
        known = bins.known[1:] - 0.5 * self.eta**2 * variance[:, 0]
        return bins.lengths * np.exp(np.append(0.0, known)), self.eta * loading

    def _loadings(
        self, paths: Paths, now: int, ahead: np.ndarray, bins: Bins, part: Array
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[Any]]:
        """Loadings of log xi / eta on the driver, (b - 1, now), and its variance, (b - 1, 1), maybe expanded in H."""
        fine = paths.grid.fine
        if "hurst" not in paths.parameters:
            loading, variance = _loading(self.hurst, fine, now, ahead, bins)
            return [loading], [variance], [1.0]
        hurst, bounds = paths.parameters["hurst"], paths.ranges["hurst"]
        at_nodes = [_loading(node, fine, now, ahead, bins) for node in np.interp(_NODES, (-1, 1), bounds)]
        loadings, variances = (_expand(np.stack(parts)) for parts in zip(*at_nodes, strict=True))
        return list(loadings), list(variances), _hurst_basis(namespace(hurst), hurst[part], bounds)


@dataclass(frozen=True)
class _Plan:
    """The hybrid scheme on the grid; outer lists hold one entry, or the coefficients of Chebyshev polynomials in H."""

    convolution: list[Array]  # (n, n), times sqrt(dt): applies to standard normals
    residual: list[list[float]]  # (n,)
    variance: list[list[float]]  # (n,)
    premium: list[list[float]]  # (n,) int K ds times the variance risk premium
    log_curve: list[float]  # (n + 1,)
    hurst_bounds: tuple[float, float] | None


@functools.lru_cache(maxsize=8)
def _device_weights(xp: ModuleType, device: int, hurst: float, times: bytes, dtype: np.dtype) -> tuple[Array, Array]:
    """The hybrid scheme as rough_bergomi.cu takes it, on the current device: its tiles, and (n, 4) dt, sqrt(dt),
    residual and variance."""
    fine = np.frombuffer(times)
    average, residual, variance = hybrid_weights(hurst, fine)
    dt = np.diff(fine)
    steps = np.stack([dt, np.sqrt(dt), residual, variance], axis=1)
    return xp.asarray(tiles(average), dtype=dtype), xp.asarray(steps, dtype=dtype)


def _hurst_expansion(bounds: tuple[float, float], times: np.ndarray) -> list[HybridWeights]:
    """Chebyshev coefficients in H, on `bounds`, of the hybrid weights."""
    at_nodes = [hybrid_weights(hurst, times) for hurst in np.interp(_NODES, (-1, 1), bounds)]
    parts = (_expand(np.stack([getattr(item, name) for item in at_nodes])) for name in HybridWeights._fields)
    return [HybridWeights(*part) for part in zip(*parts, strict=True)]


def _expand(at_nodes: np.ndarray) -> np.ndarray:
    """Chebyshev coefficients of what is known at the nodes, both along the first axis."""
    return np.tensordot(np.linalg.inv(chebyshev.chebvander(_NODES, len(_NODES) - 1)), at_nodes, axes=1)


def _hurst_basis(xp: ModuleType, hurst: Any, bounds: tuple[float, float] | None) -> list[Any]:
    """The Chebyshev polynomials at each path's Hurst exponent; [1] where all paths share one."""
    if bounds is None:
        return [1.0]
    low, high = bounds[0], max(bounds[1], bounds[0] + 1e-12)
    return polynomials(xp, (2.0 * hurst - (low + high)) / (high - low), len(_NODES) - 1)


def _loading(hurst: float, fine: np.ndarray, now: int, ahead: np.ndarray, bins: Bins) -> tuple[np.ndarray, np.ndarray]:
    """Loadings of log xi / eta on the driver up to fine[now], (b - 1, now), and its variance, (b - 1, 1)."""
    loading = kernel_average(hurst, ahead, fine[:now], fine[1 : now + 1])
    variance = bins.average(loading**2 @ np.diff(fine[: now + 1]))[1:, None]
    return bins.average(loading)[1:], variance


def _weights_ahead(hurst: float, lost: np.ndarray, times: np.ndarray) -> HybridWeights:
    """The hybrid scheme on a grid that starts now, its residual with the variance `lost` (n,) in earlier cells."""
    average, residual, variance = hybrid_weights(hurst, times)
    return HybridWeights(average, np.sqrt(residual**2 + lost), variance + lost)
