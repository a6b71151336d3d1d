"""The Riemann-Liouville (Volterra) process behind rough volatility, on a grid.

    Y_t = sqrt(2H) int_0^t (t - s)^(H - 1/2) dW_s,        Var Y_t = t^(2H)

discretised by the hybrid scheme of Bennedsen, Lunde & Pakkanen (2017) with the first cell exact (kappa = 1): the cell
next to t carries the exact joint law of (Delta W, int K dW); in every other cell the kernel is replaced by its average
over the cell, which is their optimal b* and the projection of the integral on Delta W.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from hedgerl.sim.backend import Array


class HybridWeights(NamedTuple):
    """Y at times[i + 1] = sum_{k <= i} average[i, k] dW_k + residual[i] Z_i, with Z independent of W."""

    average: np.ndarray  # (n, n) lower triangular: the kernel averaged over each cell, times sqrt(2H)
    residual: np.ndarray  # (n,) what the averages leave of the standard deviation
    variance: np.ndarray  # (n,) of the sum: exactly t^(2H)


def kernel_average(hurst: float, times: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """sqrt(2H) times the average of (t - s)^(H - 1/2) over each cell [start, end], as (times, cells).

    Zero where the cell does not end by t.
    """
    power = hurst + 0.5
    to_start = np.maximum(times[:, None] - starts, 0.0)
    to_end = np.maximum(times[:, None] - ends, 0.0)
    average = np.sqrt(2 * hurst) / power * (to_start**power - to_end**power) / (ends - starts)
    return np.where(times[:, None] >= ends, average, 0.0)


def hybrid_weights(hurst: float, times: np.ndarray) -> HybridWeights:
    """The hybrid scheme on the grid `times` (n + 1,) from 0, equal steps or not.

    The residual is that of the own cell plus the variance that averaging loses in the others, .1 % on equal steps but
    some per cent where a long step comes before a short one: so Var Y = t^(2H) on every grid.
    """
    return _hybrid_weights(float(hurst), np.asarray(times, dtype=np.float64).tobytes())


@functools.lru_cache(maxsize=8)  # smiles are learnt from hundreds of groups of curves on one grid
def _hybrid_weights(hurst: float, grid: bytes) -> HybridWeights:
    times = np.frombuffer(grid)
    steps = np.diff(times)
    average = kernel_average(hurst, times[1:], times[:-1], times[1:])
    variance = times[1:] ** (2 * hurst)
    residual = np.sqrt(np.maximum(variance - average**2 @ steps, 0.0))  # rounding, as H nears 1/2
    for array in (average, residual, variance):
        array.flags.writeable = False
    return HybridWeights(average, residual, variance)


def lower_triangular_product(weights: Array, noise: Array, out: Array, rows: int = 64) -> None:
    """weights @ noise into `out` for a lower triangular (n, n) and an (n, n_paths), skipping the blocks of zeros.

    A product of matrices, not an FFT: at 252 steps it is 3 times faster, it takes any grid, and it cannot wrap
    future shocks round into the past.
    """
    for start in range(0, weights.shape[0], rows):
        stop = min(start + rows, weights.shape[0])
        # matmul, not dot: it takes the views as they are
        out[start:stop] = weights[start:stop, :stop] @ noise[:stop]
