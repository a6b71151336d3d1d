"""Prices of options given the path of the variance's driver, with derivatives by all parameters.

A variance v = x(t) E, E = exp(Y) of a driver W, and a spot dS = sqrt(v) S (rho dW + sqrt(1 - rho^2) dW'). Given W the
spot is lognormal, so that (Romano & Touzi 1997) an option with forward 1 is worth

    E[Black(exp(rho M - rho^2 I / 2), (1 - rho^2) I)],    M = int sqrt(v) dW,    I = int v dt,

smooth in every parameter: with common random numbers (antithetic, and with controls: McCrickerd & Pakkanen 2018) its
derivatives are means over the same paths. x is constant between expiries, so that M and I to each expiry are sums over
buckets, sqrt(x_b) m_b and x_b i_b, and the levels are changed without new paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from hedgerl.calibration.chain import Slice
from hedgerl.calibration.smiles import volatilities
from hedgerl.pricing.normal import cdf, pdf
from hedgerl.sim.backend import single_threaded_blas, usable_threads
from hedgerl.sim.noise import CHUNK, STREAM_PATHS, fill_normals, generator
from hedgerl.sim.volterra import lower_triangular_product

_RIDGE = 1e-10  # of the controls' covariance: without volatility of volatility one of them is 0
_CHUNK = 2048  # paths at a time
_ORDER = 4  # of the Hermite polynomials of M, martingales as exp(q M - q^2 I / 2) is for every q, that are controls


def time_grid(years: np.ndarray, steps_per_year: int) -> tuple[np.ndarray, np.ndarray]:
    """Times (n + 1,) from 0 through whole steps and all expiries (E,) in years, and the place of each expiry.

    They are the steps that paths are simulated on, as marks live under those: at daily steps and rho near -1 the wing
    of the calls lies a volatility point above that of the continuous model, towards which it falls slowly.
    """
    whole = np.arange(1, int(np.ceil(years[-1] * steps_per_year))) / steps_per_year
    near = np.abs(whole[:, None] - years).min(axis=1) < 1e-3 / steps_per_year  # would be a step of no length
    times = np.sort(np.concatenate([[0.0], whole[~near], years]))
    return times, np.searchsorted(times, years)


class Variance(NamedTuple):
    """log E at the start of each step as a linear function of the noise, and its derivatives by p parameters.

    log E = loading @ Z + residual Z' - shift, with standard normals Z of the driver and Z' beside it: E[E] = 1, or what
    `shift` makes of it.
    """

    loading: np.ndarray  # (n, n), the first row 0
    residual: np.ndarray  # (n,)
    shift: np.ndarray  # (n,)
    slopes: Sequence[tuple[np.ndarray | float, np.ndarray | float, np.ndarray]]
    # of each parameter: loading and residual (a number where they are as above times it), and shift


class Sums(NamedTuple):
    """m_b and i_b of all paths, (E, paths), and their derivatives by the parameters of the variance."""

    shock: np.ndarray
    clock: np.ndarray
    shock_slopes: list[np.ndarray]
    clock_slopes: list[np.ndarray]


class Noise:
    """Standard normals of a driver and beside it, of n steps; the other half of the paths is minus them."""

    def __init__(self, n_steps: int, n_paths: int, seed: int) -> None:
        blocks = max(1, n_paths // (2 * STREAM_PATHS))
        scratch = np.empty(CHUNK // 2, dtype=np.float32)
        self.blocks: list[tuple[np.ndarray, np.ndarray]] = []
        for block in range(blocks):
            drawn = np.empty((2, n_steps, STREAM_PATHS), dtype=np.float32)
            fill_normals(generator(seed, "calibration", block), drawn.reshape(-1), scratch)
            self.blocks.append((drawn[0], drawn[1]))
        self.n_paths = 2 * STREAM_PATHS * blocks


def path_sums(variance: Variance, noise: Noise, steps: np.ndarray, places: np.ndarray) -> Sums:
    """m_b and i_b for unit levels: sums over the steps between expiries, `places` (E,) their last steps' ends.

    v is taken at the start of each step, so that exp(rho M - rho^2 I / 2) is a martingale on any grid.
    """
    n_buckets, starts = places.size, np.append(0, places[:-1])
    size = STREAM_PATHS
    n_slopes = len(variance.slopes)
    rows = np.empty((2 + 2 * n_slopes, n_buckets, noise.n_paths))
    root, length = (np.asarray(each, dtype=np.float32)[:, None] for each in (np.sqrt(steps), steps))
    loading, residual, shift = (np.asarray(each, dtype=np.float32) for each in variance[:3])
    slopes = [tuple(np.asarray(each, dtype=np.float32) for each in slope) for slope in variance.slopes]
    half = noise.n_paths // 2

    def of_block(block: int) -> None:
        driver, beside = noise.blocks[block]
        moved = _applied(loading, residual, driver, beside)
        by_parameter = [
            moved * of_driver if not of_driver.ndim else _applied(of_driver, of_beside, driver, beside)
            for of_driver, of_beside, _ in slopes
        ]
        shock = driver * root
        for sign in (0, 1):
            columns = slice(sign * half + block * size, sign * half + (block + 1) * size)
            if sign:
                np.negative(moved, out=moved)
                np.negative(shock, out=shock)
            volatility = np.exp(0.5 * (moved - shift[:, None]))
            martingale = volatility * shock
            clock = volatility * volatility * length
            rows[0, :, columns] = np.add.reduceat(martingale, starts)
            rows[1, :, columns] = np.add.reduceat(clock, starts)
            for number, (each, (_, _, of_shift)) in enumerate(zip(by_parameter, slopes, strict=True)):
                slope = (-each if sign else each) - of_shift[:, None]
                rows[2 + 2 * number, :, columns] = np.add.reduceat(0.5 * martingale * slope, starts)
                rows[3 + 2 * number, :, columns] = np.add.reduceat(clock * slope, starts)

    _in_threads(of_block, range(len(noise.blocks)))
    return Sums(rows[0], rows[1], list(rows[2::2]), list(rows[3::2]))


def _in_threads(work: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
    with single_threaded_blas(), ThreadPoolExecutor(usable_threads()) as pool:
        return list(pool.map(work, items))


def _applied(loading: np.ndarray, residual: np.ndarray, driver: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """loading @ driver + residual beside, rows of which come one step late: the first is the start."""
    out = np.zeros_like(driver)
    lower_triangular_product(loading[1:, :-1], driver[:-1], out[1:])
    out[1:] += residual[1:, None] * beside[:-1]
    return out


class Prices(NamedTuple):
    """Of all options, expiry after expiry."""

    volatility: np.ndarray  # (n,)
    slopes: np.ndarray  # (n, variance's parameters, rho, levels)
    noise: np.ndarray  # (n,) standard error of the volatility
    price: np.ndarray  # (n,) forward 1, undiscounted


class Move(NamedTuple):
    """Derivatives of M and I, each (paths,), and of E[I] by one parameter."""

    shock: np.ndarray
    clock: np.ndarray
    expected: float


def priced(
    slices: Sequence[Slice],
    sums: Sums,
    rho: float,
    levels: np.ndarray,
    masses: np.ndarray,
    masses_slopes: Sequence[np.ndarray],
) -> Prices:
    """Volatilities of all options, from levels x (E,) of the variance by bucket.

    masses: expectations of i_b (E,), which the controls need; masses_slopes: their derivatives by the parameters of the
    variance.
    """
    root = np.sqrt(levels)[:, None]
    n_law = len(sums.shock_slopes)
    n_buckets = levels.size
    shock = np.cumsum(root * sums.shock, axis=0)
    clock = np.cumsum(levels[:, None] * sums.clock, axis=0)
    expected = np.cumsum(levels * masses)
    law = [
        (np.cumsum(root * m, axis=0), np.cumsum(levels[:, None] * i, axis=0), np.cumsum(levels * mass))
        for m, i, mass in zip(sums.shock_slopes, sums.clock_slopes, masses_slopes, strict=True)
    ]

    def of_slice(place: int) -> tuple[np.ndarray, ...]:
        each = slices[place]
        moves = [Move(m[place], i[place], of_mean[place]) for m, i, of_mean in law]
        moves += [
            Move(0.5 * root[b] * sums.shock[b], levels[b] * sums.clock[b], levels[b] * masses[b])
            for b in range(place + 1)
        ]
        price, slopes, error = _of_expiry(each.k, shock[place], clock[place], expected[place], rho, moves, n_law)
        full = np.zeros((each.k.size, n_law + 1 + n_buckets))
        full[:, : slopes.shape[1]] = slopes
        full[:, n_law + 1 :] /= levels  # derivatives came by the logarithm of each level
        years = np.full(each.k.size, each.years)
        volatility, by = volatilities(price, np.column_stack([full, error]), each.k, years)
        return volatility, by[:, :-1], by[:, -1], price

    parts = _in_threads(of_slice, range(n_buckets))
    return Prices(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _of_expiry(
    k: np.ndarray,
    m: np.ndarray,
    i: np.ndarray,
    expected: float,
    rho: float,
    moves: Sequence[Move],
    n_law: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prices (m,), derivatives (m, len(moves) + 1) with rho after the first n_law, and standard errors (m,)."""
    rest = 1.0 - rho * rho
    paired = np.empty((k.size, m.size // 2), dtype=np.float32)
    slopes, by_rho = np.zeros((k.size, len(moves))), np.zeros(k.size)
    by_m, by_i = (np.stack(each) for each in zip(*((each.shock, each.clock) for each in moves), strict=True))
    sign = np.where(k < 0, -1.0, 1.0).astype(np.float32)[:, None]
    log_strike = k.astype(np.float32)[:, None]
    strike = sign * np.exp(log_strike)
    half = m.size // 2
    control, of_m, of_i = _controls(m, i, expected)
    centred = control - control.mean(axis=1, keepdims=True)
    normal = centred @ centred.T
    normal[np.diag_indices_from(normal)] += _RIDGE * np.trace(normal)
    # with controls a price is a mean over paths with these weights, under which the controls have their expectation;
    # derivatives are taken under them, too
    weight = np.tile(0.5 / half - 0.5 * np.linalg.solve(normal, control.mean(axis=1)) @ centred, 2)
    by_m, by_i = by_m * weight, by_i * weight
    for first in range(0, half, _CHUNK):  # arrays of all strikes that stay in the cache
        here = slice(first, min(first + _CHUNK, half))
        for side in (0, half):
            columns = slice(side + here.start, side + here.stop)
            here_m, here_i = m[columns], i[columns]
            unit = np.sqrt(rest * here_i).astype(np.float32)
            log_forward = (rho * here_m - 0.5 * rho * rho * here_i).astype(np.float32)
            forward = np.exp(log_forward)
            d1 = (log_forward - log_strike) / unit + np.float32(0.5) * unit
            by_variance = pdf(d1)
            by_variance *= forward * (np.float32(0.5) / unit)
            share = cdf(sign * d1)
            share *= sign * forward  # the derivative by the logarithm of the forward
            d1 -= unit
            payoff = share - strike * cdf(sign * d1)
            if side:
                paired[:, here] = 0.5 * (paired[:, here] + payoff)
            else:
                paired[:, here] = payoff
            through_i = np.float32(rest) * by_variance - np.float32(0.5 * rho * rho) * share
            slopes += np.float32(rho) * share @ by_m[:, columns].T.astype(np.float32)
            slopes += through_i @ by_i[:, columns].T.astype(np.float32)
            of_path = weight[columns]
            by_rho += share @ (of_path * (here_m - rho * here_i)) - 2.0 * rho * (by_variance @ (of_path * here_i))
    loading = np.linalg.solve(normal, centred @ paired.T).T  # (m, controls)
    price = paired.mean(axis=1, dtype=np.float64) - loading @ control.mean(axis=1)
    error = (paired - loading @ control).std(axis=1) / half**0.5
    of_control = of_m @ by_m.T + of_i @ by_i.T
    of_control[0] -= np.array([each.expected for each in moves]) / expected
    return price, np.insert(slopes - loading @ of_control, n_law, by_rho, axis=1), error


def _controls(m: np.ndarray, i: np.ndarray, expected: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Controls of mean 0 by pairs (c, paths / 2), and their derivatives by M and by I, (c, paths).

    I / E[I] - 1, and the Hermite polynomials of M under the clock I, which are martingales as exp(q M - q^2 I / 2) is.
    """
    scale = expected**0.5
    hermite = [np.ones_like(m), m / scale]
    for order in range(1, _ORDER):
        hermite.append(m / scale * hermite[order] - order * i / expected * hermite[order - 1])
    of_m, of_i = [0.0 * m], [1.0 / expected + 0.0 * m]
    for order in range(1, _ORDER + 1):
        of_m.append(order / scale * hermite[order - 1])
        of_i.append(-0.5 * order * (order - 1) / expected * hermite[max(order - 2, 0)])
    return _pairs(np.stack([i / expected - 1.0, *hermite[1:]])), np.stack(of_m), np.stack(of_i)


def _pairs(values: np.ndarray) -> np.ndarray:
    """Means of antithetic pairs along the last axis."""
    half = values.shape[-1] // 2
    return 0.5 * (values[..., :half] + values[..., half:])
