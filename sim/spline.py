"""Uniform bicubic B-splines: a function of two variables and its derivatives at millions of points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from hedgerl.sim.backend import Array


class Surface(NamedTuple):
    """The function and its derivatives by the first (x) and second (y) variable, each (n,)."""

    value: Array
    x: Array
    xx: Array
    y: Array
    xy: Array
    yy: Array


@dataclass(frozen=True, eq=False)
class Bicubic:
    """The spline through values on a uniform grid; points outside are taken at its edge."""

    low: tuple[float, float]
    step: tuple[float, float]
    coefficients: np.ndarray  # (nodes in x + 2, nodes in y + 2)

    @classmethod
    def through(
        cls, low: tuple[float, float], high: tuple[float, float], nodes: tuple[int, int], function: Callable[..., Any]
    ) -> Bicubic:
        """The spline through `function` of arrays (nodes, 1) and (1, nodes)."""
        x, y = (np.linspace(*ends) for ends in zip(low, high, nodes, strict=True))
        values = function(x[:, None], y[None, :])
        coefficients = np.linalg.solve(_collocation(nodes[0]), np.pad(values, ((1, 1), (0, 0))))
        coefficients = np.linalg.solve(_collocation(nodes[1]), np.pad(coefficients.T, ((1, 1), (0, 0)))).T
        step = ((high[0] - low[0]) / (nodes[0] - 1), (high[1] - low[1]) / (nodes[1] - 1))
        return cls(low, step, np.ascontiguousarray(coefficients))

    def __call__(self, xp: ModuleType, x: Array, y: Array) -> Surface:
        """Value and derivatives at x, y (n,)."""
        table = xp.asarray(self.coefficients, dtype=x.dtype).reshape(-1)
        row, at_x = _weights(xp, (x - self.low[0]) / self.step[0], self.coefficients.shape[0])
        column, at_y = _weights(xp, (y - self.low[1]) / self.step[1], self.coefficients.shape[1])
        corner = row * self.coefficients.shape[1] + column
        sums = [xp.zeros_like(x) for _ in range(6)]
        for i in range(4):
            by_y = [xp.zeros_like(x) for _ in range(3)]
            for j in range(4):
                entry = xp.take(table, corner + (i * self.coefficients.shape[1] + j))
                for derivative in range(3):
                    by_y[derivative] += at_y[derivative][j] * entry
            for place, (dx, dy) in enumerate(((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2))):
                sums[place] += at_x[dx][i] * by_y[dy]
        value, along_x, twice_x, along_y, mixed, twice_y = sums
        per_x, per_y = 1.0 / self.step[0], 1.0 / self.step[1]
        return Surface(
            value, along_x * per_x, twice_x * per_x**2, along_y * per_y, mixed * (per_x * per_y), twice_y * per_y**2
        )


def _collocation(nodes: int) -> np.ndarray:
    """Values of the nodes + 2 B-splines at the nodes; at both ends the third derivative goes on (not a knot)."""
    size = nodes + 2
    matrix = np.zeros((size, size))
    for row in range(1, size - 1):
        matrix[row, row - 1 : row + 2] = (1 / 6, 4 / 6, 1 / 6)
    matrix[0, :5] = matrix[-1, -5:] = (1, -4, 6, -4, 1)
    return matrix


def _weights(xp: ModuleType, place: Array, size: int) -> tuple[Array, list[list[Array]]]:
    """First of the four B-splines that reach a place, and their values, first and second derivatives there."""
    place = xp.clip(place, 0.0, size - 3.0)
    first = xp.minimum(place.astype(xp.int32), size - 4)
    t = place - first.astype(place.dtype)
    rest = 1.0 - t
    square, rest_square = t * t, rest * rest
    values = [
        rest * rest_square * (1 / 6),
        (0.5 * t - 1.0) * square + 2 / 3,
        (0.5 * rest - 1.0) * rest_square + 2 / 3,
        t * square * (1 / 6),
    ]
    slopes = [-0.5 * rest_square, (1.5 * t - 2.0) * t, (2.0 - 1.5 * rest) * rest, 0.5 * square]
    return first, [values, slopes, [rest, 3.0 * t - 2.0, 3.0 * rest - 2.0, t]]
