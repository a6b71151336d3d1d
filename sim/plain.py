"""Plain twins of the generators: the schemes as their papers print them, without blocks, buffers or threads.

Each takes the model and standard normals (n_noise, n_steps, n_paths), and returns spot and variance (n_steps + 1,
n_paths) on n_steps equal steps. They are there to be read, to be compared with in tests, and to be timed against.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from hedgerl.sim.garch import GARCH
from hedgerl.sim.gbm import BlackScholes
from hedgerl.sim.heston import Heston
from hedgerl.sim.model import Model
from hedgerl.sim.rbergomi import RoughBergomi
from hedgerl.sim.sabr import SABR
from hedgerl.sim.volterra import hybrid_weights

Pair = tuple[np.ndarray, np.ndarray]


def simulate(model: Model, noise: np.ndarray, maturity: float) -> Pair:
    """Spot and variance of any model without perturbed parameters or a variance risk premium.

    Raises ValueError for a model that has no twin.
    """
    twins: dict[type, Callable[..., Pair]] = {
        BlackScholes: _gbm,
        RoughBergomi: _rbergomi,
        Heston: _heston,
        SABR: _sabr,
        GARCH: _garch,
    }
    if type(model) not in twins:
        raise ValueError(f"model must have a plain twin, got {type(model).__name__}")
    return twins[type(model)](model, noise, maturity)


def _growth(model: Model) -> float:
    return (model.rate if model.drift is None else model.drift) - model.dividend


def _gbm(model: BlackScholes, noise: np.ndarray, maturity: float) -> Pair:
    dt = maturity / noise.shape[1]
    steps = (_growth(model) - model.volatility**2 / 2) * dt + model.volatility * np.sqrt(dt) * noise[0]
    spot = model.spot * np.exp(np.cumsum(np.vstack([np.zeros(noise.shape[2]), steps]), axis=0))
    return spot, np.full_like(spot, model.volatility**2)


def _rbergomi(model: RoughBergomi, noise: np.ndarray, maturity: float) -> Pair:
    times = np.linspace(0.0, maturity, noise.shape[1] + 1)
    dt = np.diff(times)[:, None]
    driver = np.sqrt(dt) * noise[0]
    weights = hybrid_weights(model.hurst, times)
    volterra = weights.average @ driver + weights.residual[:, None] * noise[1]
    volterra = np.vstack([np.zeros(noise.shape[2]), volterra])
    compensator = model.eta**2 / 2 * times[:, None] ** (2 * model.hurst)
    variance = model.initial_curve(times)[:, None] * np.exp(model.eta * volterra - compensator)
    shocks = model.rho * driver + np.sqrt(1 - model.rho**2) * np.sqrt(dt) * noise[2]
    steps = (_growth(model) - variance[:-1] / 2) * dt + np.sqrt(variance[:-1]) * shocks
    return model.spot * np.exp(np.cumsum(np.vstack([np.zeros(noise.shape[2]), steps]), axis=0)), variance


def _heston(model: Heston, noise: np.ndarray, maturity: float) -> Pair:
    """Andersen (2008), algorithm of section 3.2.4 and equation (33) with the martingale correction."""
    kappa, theta, sigma, rho = model.kappa, model.theta, model.sigma, model.rho
    dt = maturity / noise.shape[1]
    decay = np.exp(-kappa * dt)
    k1 = dt / 2 * (kappa * rho / sigma - 0.5) - rho / sigma
    k2 = dt / 2 * (kappa * rho / sigma - 0.5) + rho / sigma
    k3 = k4 = dt / 2 * (1 - rho**2)
    a_exponent = k2 + k4 / 2
    v = np.full(noise.shape[2], model.v0)
    log_spot = np.zeros(noise.shape[2])
    spots, variances = [log_spot], [v]
    for z_variance, z_spot in zip(noise[0], noise[1], strict=True):
        m = theta + (v - theta) * decay
        s2 = v * sigma**2 * decay * (1 - decay) / kappa + theta * sigma**2 * (1 - decay) ** 2 / (2 * kappa)
        psi = s2 / m**2
        quadratic = psi <= 1.5
        inverse = 2 / np.minimum(psi, 1.5)
        b2 = inverse - 1 + np.sqrt(inverse) * np.sqrt(inverse - 1)
        a = m / (1 + b2)
        p = (psi - 1) / (psi + 1)
        beta = (1 - p) / m
        u = ndtr(z_variance)
        with np.errstate(divide="ignore", invalid="ignore"):
            exponential = np.where(u <= p, 0.0, np.log((1 - p) / ndtr(-z_variance)) / beta)
            log_m = np.where(
                quadratic,
                a_exponent * b2 * a / (1 - 2 * a_exponent * a) - np.log(1 - 2 * a_exponent * a) / 2,
                np.log(p + beta * (1 - p) / (beta - a_exponent)),
            )
        following = np.where(quadratic, a * (np.sqrt(b2) + z_variance) ** 2, exponential)
        k0 = -log_m - (k1 + k3 / 2) * v
        log_spot = log_spot + _growth(model) * dt + k0 + k1 * v + k2 * following
        log_spot = log_spot + np.sqrt(k3 * v + k4 * following) * z_spot
        v = following
        spots.append(log_spot)
        variances.append(v)
    return model.spot * np.exp(np.stack(spots)), np.stack(variances)


def _sabr(model: SABR, noise: np.ndarray, maturity: float) -> Pair:
    dt = maturity / noise.shape[1]
    steps = model.volvol * np.sqrt(dt) * noise[0] - model.volvol**2 / 2 * dt
    alpha = model.volatility * np.exp(np.cumsum(np.vstack([np.zeros(noise.shape[2]), steps]), axis=0))
    shocks = np.sqrt(dt) * (model.rho * noise[0] + np.sqrt(1 - model.rho**2) * noise[1])
    steps = (_growth(model) - alpha[:-1] ** 2 / 2) * dt + alpha[:-1] * shocks
    return model.spot * np.exp(np.cumsum(np.vstack([np.zeros(noise.shape[2]), steps]), axis=0)), alpha**2


def _garch(model: GARCH, noise: np.ndarray, maturity: float) -> Pair:
    dt = 1 / model.steps_per_year
    h = np.full(noise.shape[2], (model.long_run_variance if model.v0 is None else model.v0) * dt)
    log_spot = np.zeros(noise.shape[2])
    spots, variances = [log_spot], [h]
    for z in noise[0]:
        log_spot = log_spot + _growth(model) * dt - h / 2 + np.sqrt(h) * z
        h = model.omega + (model.alpha + model.gamma * (z < 0)) * h * z**2 + model.beta * h
        spots.append(log_spot)
        variances.append(h)
    return model.spot * np.exp(np.stack(spots)), np.stack(variances) / dt
