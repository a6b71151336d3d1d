"""Heston (1993), simulated by the quadratic-exponential scheme of Andersen (2008)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from scipy import special

from hedgerl.pricing import black_scholes, heston
from hedgerl.pricing._checks import finite, in_interval, non_negative, positive
from hedgerl.pricing.normal import sf
from hedgerl.sim.backend import Array, is_numpy, namespace
from hedgerl.sim.device import Place, by_path, cupy, launch, launch_marks
from hedgerl.sim.grid import TimeGrid, distinct_steps
from hedgerl.sim.market import Contract, Marker, Marks
from hedgerl.sim.model import Block, Model
from hedgerl.sim.paths import Paths
from hedgerl.sim.perturbation import Distribution
from hedgerl.sim.spline import Bicubic

_SWITCH = 1.5  # psi above which the exponential branch is drawn; both branches exist for psi in [1, 2]


@dataclass(frozen=True)
class Heston(Model):
    """dS = (drift - dividend) S dt + sqrt(v) S dB,    dv = kappa (theta - v) dt + sigma sqrt(v) dW,    dB dW = rho dt.

    Variance by QE with the switch at psi = 1.5 (Andersen 2008, section 3.2), log spot by his equation (33) with central
    weights gamma_1 = gamma_2 = 1/2 and the martingale correction of his proposition 7, so that the discounted spot is
    a martingale on any grid. Mean and variance of v are exact; the smile at daily steps is within about a basis point.

    Rows of noise: variance, spot.

    Parameters
    ----------
    kappa : speed of mean reversion per year, above 0
    theta : long-run variance per year, above 0
    sigma : volatility of variance, above 0; Feller's condition is not needed
    rho : correlation, in (-1, 1)
    v0 : variance per year at the start, at least 0
    variance_risk_premium : simulated dW = dW^P + variance_risk_premium sqrt(v) dt, so that in the real world kappa is
        kappa - sigma * premium and kappa theta is unchanged. Below 0, realised variance falls short of the implied.

    Examples
    --------
    >>> model = Heston(kappa=2, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04)
    >>> paths = model.simulate(4, n_steps=21, maturity=1 / 12, seed=1)
    >>> bool((paths.variance >= 0).all())
    True
    """

    n_noise: ClassVar[int] = 2  # variance, spot
    perturbable: ClassVar[tuple[str, ...]] = ("kappa", "theta", "sigma", "rho", "v0", "drift")

    kappa: float
    theta: float
    sigma: float
    rho: float
    v0: float
    variance_risk_premium: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("kappa", self.kappa)
        positive("theta", self.theta)
        positive("sigma", self.sigma)
        in_interval("rho", self.rho, -1.0, 1.0)
        non_negative("v0", self.v0)
        if self.kappa - self.sigma * finite("variance_risk_premium", self.variance_risk_premium) <= 0:
            raise ValueError(
                f"variance_risk_premium must lie below kappa / sigma = {self.kappa / self.sigma:g}, "
                f"got {self.variance_risk_premium!r}"
            )

    def volatility_slope(self, paths: Paths, step: int, expiry_years: float) -> Array:
        """rho sigma / (2 sqrt(v) S), the slope of sqrt(v); see `Model.volatility_slope`.

        Cov(dv, dS) = rho sigma v S dt and Var(dS) = v S^2 dt, so that vega times it is rho sigma / S dV/dv, whatever
        v is. Where v is 0, so is vega.
        """
        xp = namespace(paths.spot)
        rho, sigma = (paths.parameters.get(name, getattr(self, name)) for name in ("rho", "sigma"))
        volatility = xp.sqrt(xp.maximum(paths.variance[step], 1e-16))
        return 0.5 * rho * sigma / (volatility * paths.spot[step])

    def _plan(
        self, xp: ModuleType, grid: TimeGrid, dtype: np.dtype, spread: Mapping[str, Distribution]
    ) -> tuple[list[float], list[int]]:
        distinct, which = distinct_steps(grid.fine_steps)
        return distinct.tolist(), which.tolist()

    def _marker(self, paths: Paths) -> Marker:
        if set(paths.parameters) - {"v0", "drift"}:
            return _FourierMarker(paths)
        return _TableMarker(paths)

    def _simulate(self, block: Block, plan: tuple[list[float], list[int]]) -> None:
        xp, grid = block.xp, block.grid
        distinct, which = plan
        coefficients = [self._coefficients(xp, block.parameters, dt) for dt in distinct]
        growth = self.growth(block.parameters)
        log_spot, variance = block.zeros("log_spot"), block.scratch("variance")
        mean, deviation, log_moment = block.scratch("mean"), block.scratch("deviation"), block.scratch("log_moment")
        shock = block.scratch("shock")

        def keep(row: int) -> None:
            xp.exp(log_spot, out=shock)
            xp.multiply(shock, self.spot, out=block.spot[row])
            block.variance[row] = variance

        variance[...] = block.parameters["v0"]
        keep(0)
        for step, kind in enumerate(which):
            c = coefficients[kind]
            self._draw(block, variance, block.noise[0, step], c, mean, deviation, log_moment)
            # Andersen's (33) in d = v' - m, which stays exact as sigma -> 0; K1 drops out:
            # d log S = growth dt + K2 d - log E[exp(A d)] - K3 (v + m) / 2 + sqrt(K3 (v + v')) Z
            variance += mean
            log_spot -= xp.multiply(variance, 0.5 * c.k3, out=shock)
            variance += deviation
            xp.maximum(variance, 0.0, out=variance)  # rounding of m + d where v' is 0
            xp.multiply(variance, c.k3, out=shock)
            xp.sqrt(shock, out=shock)
            shock *= block.noise[1, step]
            log_spot += shock
            log_spot += xp.multiply(deviation, c.k2, out=shock)
            log_spot -= log_moment
            log_spot += growth * distinct[kind]
            xp.add(mean, deviation, out=variance)
            xp.maximum(variance, 0.0, out=variance)
            if grid.row_after[step]:
                keep(grid.row_after[step])

    def _kernel(self, perturbed: frozenset[str]) -> Callable[[Block], None]:
        return self._launch

    def _launch(self, block: Block) -> None:
        xp, grid, kind = block.xp, block.grid, block.spot.dtype
        distinct, which = distinct_steps(grid.fine_steps)
        growth, n_paths = self.growth(block.parameters), block.n_paths
        rows = [[*vars(self._coefficients(xp, block.parameters, dt)).values(), growth * dt] for dt in distinct.tolist()]
        differ = any(hasattr(each, "shape") for row in rows for each in row)
        if differ:
            coefficients = xp.empty((len(rows), len(rows[0]), n_paths), dtype=kind)
            for place, row in enumerate(rows):
                for column, value in enumerate(row):
                    coefficients[place, column] = value
        else:
            coefficients = xp.asarray(np.array(rows), dtype=kind)
        launch(
            "heston",
            kind,
            n_paths,
            *block.source,
            *(np.int32(which.size), np.int64(n_paths)),
            *(xp.asarray(which, dtype=np.int32), xp.asarray(np.array(grid.row_after), dtype=np.int32)),
            *(coefficients, np.int32(differ), *by_path(xp, block.parameters["v0"], kind)),
            *(kind.type(self.spot), block.spot, block.variance),
        )

    def _draw(
        self,
        block: Block,
        variance: Array,
        noise: Array,
        c: _Coefficients,
        mean: Array,
        deviation: Array,
        log_moment: Array,
    ) -> None:
        """QE's draw of v', filled in as m = E[v' | v], d = v' - m and log E[exp(A d)]."""
        xp = block.xp
        psi, inverse = block.scratch("psi"), block.scratch("inverse")
        shift, rest = block.scratch("shift"), block.scratch("rest")
        # psi = s^2 / m^2 with s^2 = Var[v' | v]
        xp.multiply(variance, c.decay, out=mean)
        mean += c.mean_floor
        xp.multiply(variance, c.slope, out=psi)
        psi += c.variance_floor
        psi /= xp.multiply(mean, mean, out=rest)
        # quadratic branch: v' = a (b + Z)^2 with b^2 = 2/psi - 1 + sqrt(2/psi) sqrt(2/psi - 1), a = m / (1 + b^2)
        xp.minimum(psi, _SWITCH, out=rest)
        xp.maximum(rest, 1e-20, out=rest)
        xp.divide(2.0, rest, out=inverse)
        rest *= -0.5
        rest += 1.0
        xp.sqrt(rest, out=rest)
        rest += 1.0
        rest *= inverse  # 1 + b^2
        xp.subtract(rest, 1.0, out=shift)
        scale = xp.divide(mean, rest, out=inverse)  # a
        # log E[exp(A d)] = A a b^2 x / (1 - x) - (log(1 - x) + x) / 2 with x = 2 A a
        xp.multiply(scale, -2.0 * c.exponent, out=rest)
        xp.maximum(rest, -0.999, out=rest)  # the moment is infinite beyond: only for rho near 1 and huge steps
        xp.multiply(scale, shift, out=log_moment)
        log_moment *= -c.exponent
        log_moment *= rest
        xp.log1p(rest, out=deviation)
        deviation -= rest
        deviation *= 0.5
        rest += 1.0
        log_moment /= rest
        log_moment -= deviation
        # d = a (2 b Z + Z^2 - 1)
        xp.sqrt(shift, out=shift)
        shift *= 2.0
        shift += noise
        shift *= noise
        shift -= 1.0
        xp.multiply(shift, scale, out=deviation)
        chosen = xp.flatnonzero(psi > _SWITCH)
        if chosen.size:
            exponent = c.exponent if isinstance(c.exponent, float) else c.exponent[chosen]
            drawn = _exponential_branch(xp, psi[chosen], mean[chosen], noise[chosen], exponent)
            deviation[chosen], log_moment[chosen] = drawn

    def _coefficients(self, xp: ModuleType, parameters: Mapping[str, Any], dt: float) -> _Coefficients:
        theta, sigma, rho = parameters["theta"], parameters["sigma"], parameters["rho"]
        kappa = parameters["kappa"]
        theta = theta * kappa  # kappa theta, which the risk premium leaves as it is
        kappa = kappa - sigma * self.variance_risk_premium
        theta = theta / kappa
        gone = -xp.expm1(-kappa * dt)  # not 1 - exp: small, and all that moves the variance
        gone = gone if hasattr(kappa, "shape") else float(gone)
        return _Coefficients(
            decay=1 - gone,
            mean_floor=theta * gone,
            slope=sigma**2 * (1 - gone) * gone / kappa,
            variance_floor=theta * sigma**2 * gone**2 / (2 * kappa),
            k2=0.5 * dt * (kappa * rho / sigma - 0.5) + rho / sigma,
            k3=0.5 * dt * (1 - rho**2),
            exponent=0.5 * dt * (kappa * rho / sigma - 0.5) + rho / sigma + 0.25 * dt * (1 - rho**2),
        )


def _exponential_branch(xp: ModuleType, psi: Array, mean: Array, noise: Array, exponent: Any) -> tuple[Array, Array]:
    """d and log E[exp(A d)] where v' = 0 with probability p, else exponential with rate beta = (1 - p) / m."""
    atom = 2.0 / (psi + 1.0)  # 1 - p
    per_rate = mean / atom  # 1 / beta
    tail = xp.log(atom / sf(noise))  # sf(Z) = 1 - U, U uniform
    deviation = xp.maximum(tail, 0.0) * per_rate - mean
    # log(p + (1 - p) / (1 - A / beta)) - A m; infinite beyond, only for rho near 1 and huge steps
    moment = xp.maximum(1.0 - exponent * per_rate, 1e-3)
    return deviation, xp.log1p(atom / moment - atom) - exponent * mean


@dataclass(frozen=True)
class _Coefficients:
    """Of one step length; each a Python float, or (n_block,) where a parameter is perturbed."""

    decay: Any  # exp(-kappa dt)
    mean_floor: Any  # m = v decay + mean_floor
    slope: Any  # s^2 = v slope + variance_floor
    variance_floor: Any
    k2: Any  # Andersen's K2; K1 drops out through the martingale correction
    k3: Any  # K3 = K4
    exponent: Any  # A = K2 + K4 / 2


_TABLE = (257, 97)  # nodes in transformed moneyness and in log volatility
_MONEYNESS = 100.0  # tables reach to |log(K / F)| of so many expected standard deviations
_TAIL = 1e-9  # probability of a variance beyond the table, at the model's widest


@lru_cache(maxsize=512)
def _table(model: Heston, left: float) -> Bicubic:
    """(Heston call - Black-Scholes call at the expected volatility) / (F s) by arcsinh(x) and log volatility.

    The difference is smooth, small, and fades in both wings, where an interpolated implied volatility would be
    undefined; s and x are those of `hedgerl.sim.smile.Smile`.
    """
    keep = _mean_weight(model.kappa, left)

    def correction(transformed: np.ndarray, log_volatility: np.ndarray) -> np.ndarray:
        volatility = np.exp(log_volatility)
        variance = np.maximum(model.theta + (volatility**2 - model.theta) / keep, 0.0)
        log_strike = np.clip(np.sinh(transformed) * volatility * left**0.5, -20.0, 20.0)  # both prices are 0 there
        strike, is_call = np.exp(log_strike), log_strike > 0  # by parity the difference is the same for a put
        own = {"kappa": model.kappa, "theta": model.theta, "sigma": model.sigma, "rho": model.rho}
        exact = heston(1.0, strike, left, variance + 0.0 * strike, is_call=is_call, **own).price
        flat = black_scholes(1.0, strike, left, volatility, is_call=is_call).price
        return (exact - flat) / (volatility * left**0.5)

    edge = float(np.arcsinh(_MONEYNESS))
    low, high = (0.5 * float(np.log(model.theta + (v - model.theta) * keep)) for v in (0.0, _ceiling(model)))
    return Bicubic.through((-edge, low), (edge, high), _TABLE, correction)


@lru_cache(maxsize=512)
def _device_table(model: Heston, left: float, place: Place) -> tuple[Any, ...]:
    """The table and what is known of all paths, as heston_marks.cu takes them."""
    table = _table(model, left)
    parameters = (model.kappa, model.theta, model.sigma, model.rho, _mean_weight(model.kappa, left))
    return (
        *(place.dtype.type(value) for value in parameters),
        *(place.sent(table.coefficients), *(np.int32(size) for size in table.coefficients.shape)),
        *(place.dtype.type(value) for value in (*table.low, *table.step, _MONEYNESS)),
    )


def _mean_weight(kappa: float, left: float) -> float:
    """(1 - e^(-kappa tau)) / (kappa tau): what the mean variance up to expiry keeps of v - theta."""
    return float(-np.expm1(-kappa * left) / (kappa * left))


def _ceiling(model: Heston) -> float:
    """A variance that paths pass with probability _TAIL at the most."""
    scale = model.sigma**2 / (4 * model.kappa)
    stationary = scale * special.chdtri(4 * model.kappa * model.theta / model.sigma**2, _TAIL)  # of a chi-squared law
    return float(max(stationary, 4 * model.v0) + 4 * model.v0)


class _TableMarker:
    """Black-Scholes at the expected volatility, corrected to Heston's Fourier price from a table for each time left."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.model: Heston = paths.model  # type: ignore[assignment]
        self.bare = dataclasses.replace(
            self.model,
            spot=1.0,
            rate=0.0,
            dividend=0.0,
            drift=None,
            variance_risk_premium=0.0,
            v0=max(self.model.v0, *paths.ranges.get("v0", (0.0,))),  # the table reaches as far as the highest start
        )

    def marks(self, step: int, expiry_years: float, part: Array, contract: Contract) -> Marks:
        """See `Marker.marks`."""
        spot, strike, is_call = contract
        xp, model = namespace(spot), self.model
        left = round(expiry_years - float(self.paths.times[step]), 12)
        variance = self.paths.variance[step][part]
        if not is_numpy(xp):
            table = _device_table(self.bare, left, Place.of(variance))
            variance = cupy().ascontiguousarray(variance)
            return launch_marks("heston_marks", *contract, left, model.rate, model.dividend, variance, *table)
        keep = _mean_weight(model.kappa, left)
        volatility = xp.sqrt(model.theta + (variance - model.theta) * keep)
        flat = black_scholes(spot, strike, left, volatility, rate=model.rate, dividend=model.dividend, is_call=is_call)
        s = volatility * left**0.5
        x = (xp.log(strike / spot) - (model.rate - model.dividend) * left) / s
        transformed = xp.arcsinh(x)
        c = _table(self.bare, left)(xp, transformed, xp.log(volatility))
        inside = xp.abs(x) <= _MONEYNESS
        # derivatives of the correction c by x instead of arcsinh(x)
        root = inside / xp.sqrt(1.0 + x * x)
        value, by_x, by_log = c.value * inside, c.x * root, c.y * inside
        by_x_twice, mixed = (c.xx - c.x * x * root) * root * root, c.xy * root
        # U = A s c(x, l), with A the discounted forward, l the log volatility, dx/dl = -x and dx/dF = -1 / (F s)
        asset = spot * float(np.exp(-model.dividend * left))
        price = flat.price + asset * s * value
        delta = flat.delta + asset / spot * (s * value - by_x)
        gamma = flat.gamma + asset / (spot * spot) * (by_x_twice / s - by_x)
        log_vega = flat.vega * volatility + asset * s * (value - x * by_x + by_log)
        log_volga = (flat.volga * volatility + flat.vega) * volatility + asset * s * (
            value - x * by_x + 2.0 * by_log + x * x * by_x_twice - 2.0 * x * mixed + c.yy * inside
        )
        log_vanna = flat.vanna * volatility + asset / spot * (s * (value - x * by_x + by_log) + x * by_x_twice - mixed)
        per_variance = 0.5 * keep / (volatility * volatility)  # dl/dv
        by_variance = log_vega * per_variance
        by_variance_twice = (log_volga - 2.0 * log_vega) * per_variance * per_variance
        theta = (  # Heston's equation, solved for dV/dt
            model.rate * price
            - (model.rate - model.dividend) * spot * delta
            - 0.5 * variance * spot * spot * gamma
            - model.rho * model.sigma * variance * spot * log_vanna * per_variance
            - 0.5 * model.sigma**2 * variance * by_variance_twice
            - model.kappa * (model.theta - variance) * by_variance
        )
        sign = xp.where(is_call, 1.0, -1.0).astype(spot.dtype)
        cash = strike * float(np.exp(-model.rate * left))
        price = xp.minimum(xp.maximum(price, xp.maximum(sign * (asset - cash), 0.0)), xp.where(is_call, asset, cash))
        return price, delta, gamma, 2.0 * xp.sqrt(variance) * by_variance, theta


class _FourierMarker:
    """Fourier prices path by path, for parameters that differ by path."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def marks(self, step: int, expiry_years: float, part: Array, contract: Contract) -> Marks:
        """See `Marker.marks`."""
        paths, model = self.paths, self.paths.model
        own = {name: model.parameters[name] for name in ("kappa", "theta", "sigma", "rho")}
        own |= {name: draws[part] for name, draws in paths.parameters.items() if name in own}
        variance = paths.variance[step][part]
        left = expiry_years - float(paths.times[step])
        spot, strike, is_call = contract
        terms = {"rate": model.rate, "dividend": model.dividend, "is_call": is_call}
        greeks = heston(spot, strike, left, variance, **own, **terms)
        return greeks.price, greeks.delta, greeks.gamma, greeks.vega * 2.0 * variance**0.5, greeks.theta
