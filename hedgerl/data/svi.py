"""A smile of one expiry without arbitrage, fitted to bids and asks: a hyperbola (SVI) and a bump."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

_STEEPEST = 1.98  # slope of w in either wing: above 2 the price of a call would not fall to 0 (Lee 2004)
_LEAST = 0.01  # total variance, in units of that at the money
_POINTS = 121  # at which arbitrage is looked for in a fit, and the quotes' own
REACH = 10.0  # deviations of the price that they reach, at least as far as the quotes
_MARGIN = 2e-3  # of g at those points, that nothing may be missed between them
_ROUNDS = 8  # of a fit, each with three times the penalty, and the margin, on what is left of arbitrage
_SHORT, _LONG = 20, 150  # steps of the search, from each starting point and from the best
_GOOD = 0.9  # share of quotes within their spreads with which a fit is content, else other starting points are tried
_ENOUGH = 12  # quotes from which a bump is fitted


class Curve(NamedTuple):
    """Total variance and its derivatives by log-moneyness, each of the shape of k."""

    value: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray


@dataclass(frozen=True)
class SVI:
    """Total implied variance of one expiry at log-moneyness k = log(K / F):

        w(k) = a + b {rho (k - m) + sqrt((k - m)^2 + sigma^2)} + c s / sqrt((k - n)^2 + s^2),

    the "raw" parametrisation of Gatheral (2004) and, where there are three more parameters, a bump of height c at n
    that fades in the wings. A hyperbola is convex; the total variance of an index is not, after a sell-off least of
    all, and without the bump it is off by several spreads near the money.

    parameters: (a, b, rho, m, sigma, [c, n, s]).
    """

    parameters: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.parameters) not in (5, 8):
            raise ValueError(f"parameters must be 5 or 8 numbers, got {len(self.parameters)}")

    def __call__(self, k: np.ndarray) -> Curve:
        """w, w' and w'' at k."""
        given = np.asarray(k, dtype=np.float64)
        return Curve(*(each.reshape(given.shape) for each in _curve(np.array(self.parameters), given.reshape(-1))))

    def density(self, k: np.ndarray) -> np.ndarray:
        """g(k), which is positive where no butterfly spread costs nothing: Gatheral & Jacquier (2014), equation 2.1."""
        given = np.asarray(k, dtype=np.float64)
        return _density(given, *self(given))

    @property
    def slopes(self) -> tuple[float, float]:
        """Of w in the left and in the right wing, both as positive numbers."""
        return _slopes(np.array(self.parameters))


class Quotes(NamedTuple):
    """What a smile is fitted to, each (m,): log-moneyness and volatilities of bid and ask; a bid may imply none."""

    k: np.ndarray
    bid: np.ndarray
    ask: np.ndarray

    @property
    def low(self) -> np.ndarray:
        """The bid, and 0 where it implies none."""
        return np.where(np.isfinite(self.bid), self.bid, 0.0)

    @property
    def middle(self) -> np.ndarray:
        """What a fit aims at."""
        return 0.5 * (self.low + self.ask)

    @property
    def half_spread(self) -> np.ndarray:
        """What its errors are measured by, at least a hundredth of a volatility point."""
        return np.maximum(0.5 * (self.ask - self.low), 1e-4)


def fit(quotes: Quotes, years: float) -> SVI:
    """The smile nearest to the middles of bid and ask, each in units of half its spread, that has no butterflies.

    Robust least squares (soft L1) in volatility, with penalties where g falls below 0 or a wing is steeper than 2, at
    any k within 10 deviations of the price or within the quotes; penalties grow, eight times at most, while anything
    is left there (`SVI.density` tells whether it is). From 12 quotes on there is a bump. What other expiries say is
    for `hedgerl.data.chain_surface`. Raises ValueError for fewer than 5 quotes.
    """
    if quotes.k.size < 5:
        raise ValueError(f"quotes must be 5 at least for a smile, got {quotes.k.size}")
    problem = _Problem(quotes.k, quotes.middle, quotes.half_spread, years)
    tried = sorted((problem.solve(point, _SHORT) for point in problem.starts()), key=lambda found: found.cost)
    best, least = None, np.inf
    for found in tried:
        point = problem.finished(found.x)
        inside = float((np.abs(problem.errors(point)) <= 1.0).mean())
        worth = (1.0 - inside) + 10.0 * problem.violated(point)
        if worth < least:
            best, least = point, worth
        if least < 1.0 - _GOOD:
            break
    assert best is not None
    return SVI(tuple(best.tolist()))


class _Problem:
    """Residuals of a fit and their derivatives."""

    def __init__(self, k: np.ndarray, target: np.ndarray, half: np.ndarray, years: float) -> None:
        self.k, self.target, self.half, self.years = k, target, half, years
        self.deviation = float(target[np.argmin(np.abs(k))]) * years**0.5
        self.least = _LEAST * self.deviation**2
        near = np.sinh(np.linspace(-3.0, 3.0, _POINTS)) / np.sinh(3.0)  # denser at the money
        self.grid = np.unique(np.concatenate([1.1 * REACH * self.deviation * near, 1.05 * k]))
        between = 0.5 * (self.grid[1:] + self.grid[:-1])
        self.check = np.unique(np.concatenate([between, np.linspace(self.grid[0], self.grid[-1], 4001)]))
        self.size = 8 if k.size >= _ENOUGH else 5
        self.weight, self.margin = 30.0, _MARGIN

    def starts(self) -> list[np.ndarray]:
        """The best hyperbola of a search over (m, sigma), with a small bump up or down."""
        k, w = self.k, self.target**2 * self.years
        weight = 1.0 / (2.0 * self.target * self.years * self.half)
        best, least = np.zeros(5), np.inf
        for m in self.deviation * np.linspace(-3.0, 2.0, 9):
            for sigma in self.deviation * np.geomspace(0.05, 10.0, 9):
                x = k - m
                design = np.stack([np.ones_like(k), x, np.sqrt(x * x + sigma * sigma)], axis=1)
                a, tilt, b = np.linalg.lstsq(design * weight[:, None], w * weight, rcond=None)[0]
                b = max(b, 1e-4)
                point = np.array([a, b, np.clip(tilt / b, -0.98, 0.98), m, sigma])
                error = float((((_curve(point, k)[0] - w) * weight) ** 2).sum())
                if error < least:
                    best, least = point, error
        if self.size == 5:
            return [best]
        unit = self.deviation
        return [np.append(best, [c * 0.1 * unit**2, -0.5 * unit, unit]) for c in (1.0, -1.0)]

    def finished(self, point: np.ndarray) -> np.ndarray:
        """The fit from a point near it, without arbitrage if penalties can do it."""
        weight, margin = self.weight, self.margin
        point = self.solve(point, _LONG).x
        for _ in range(_ROUNDS):
            if not self.violated(point):
                break
            self.weight *= 3.0
            self.margin *= 2.0
            point = self.solve(point, _LONG).x
        self.weight, self.margin = weight, margin
        return point

    def solve(self, start: np.ndarray, steps: int) -> Any:
        """The least squares from a starting point."""
        low = np.array([-4.0, 0.0, -0.999, -3.0, 1e-4, -4.0, -3.0, 1e-3])[: self.size]
        high = np.array([4.0, 4.0, 0.999, 3.0, 4.0, 4.0, 3.0, 4.0])[: self.size]
        inside = np.clip(start, low + 1e-9, high - 1e-9)
        scale = np.maximum(np.abs(inside), 1e-3 * self.deviation)
        return least_squares(
            self._residuals,
            inside,
            self._jacobian,  # pyright: ignore[reportArgumentType]
            (low, high),
            x_scale=scale,
            loss="soft_l1",
            f_scale=0.7,
            max_nfev=steps,
        )

    def violated(self, point: np.ndarray) -> bool:
        """Whether arbitrage is left, between the points at which it is penalised as well."""
        found = SVI(tuple(point.tolist()))
        return (
            bool((found(self.check).value < 0.5 * self.least).any())
            or bool((found.density(self.check) < 0.0).any())
            or max(found.slopes) > 2.0
        )

    def errors(self, point: np.ndarray) -> np.ndarray:
        """Of volatilities, in units of half the spread."""
        w = np.maximum(_curve(point, self.k)[0], self.least)
        distance: np.ndarray = (np.sqrt(w / self.years) - self.target) / self.half
        return distance

    def _residuals(self, point: np.ndarray) -> np.ndarray:
        return np.concatenate([self.errors(point), self.weight * np.minimum(self._room(point), 0.0)])

    def _jacobian(self, point: np.ndarray) -> np.ndarray:
        w = np.maximum(_curve(point, self.k)[0], self.least)
        by_w = _derivatives(point, self.k)[0]
        errors = by_w / (2.0 * np.sqrt(w * self.years) * self.half)[:, None]
        room, of_room = self._room(point), self._room_derivatives(point)
        return np.concatenate([errors, self.weight * np.where(room[:, None] < 0, of_room, 0.0)])

    def _room(self, point: np.ndarray) -> np.ndarray:
        """What each constraint has left, in numbers of order one."""
        w, slope, curvature = _curve(point, self.grid)
        unit = self.deviation**2
        ends = np.array(_slopes(point))
        parts = [
            (w - self.least) / unit,
            _density(self.grid, np.maximum(w, self.least), slope, curvature) - self.margin,
        ]
        return np.concatenate([*parts, _STEEPEST - ends])

    def _room_derivatives(self, point: np.ndarray) -> np.ndarray:
        w, slope, curvature = _curve(point, self.grid)
        floored = np.maximum(w, self.least)
        by_w, by_slope, by_curvature = _derivatives(point, self.grid)
        unit, k = self.deviation**2, self.grid
        a = 1.0 - k * slope / (2.0 * floored)
        g_w = (a * k * slope / floored**2 + slope**2 / (4.0 * floored**2)) * (w > self.least)
        g_slope = -a * k / floored - 0.5 * slope * (1.0 / floored + 0.25)
        of_ends = _slope_derivatives(point)
        parts = [
            by_w / unit,
            g_w[:, None] * by_w + g_slope[:, None] * by_slope + 0.5 * by_curvature,
        ]
        return np.concatenate([*parts, -of_ends])


def _slopes(point: np.ndarray) -> tuple[float, float]:
    b, rho = point[1:3].tolist()
    return b * (1.0 - rho), b * (1.0 + rho)


def _slope_derivatives(point: np.ndarray) -> np.ndarray:
    """Of both wings' slopes by each parameter, (2, parameters)."""
    b, rho = point[1:3].tolist()
    result = np.zeros((2, point.size))
    result[:, 1], result[:, 2] = (1.0 - rho, 1.0 + rho), (-b, b)
    return result


def _curve(point: np.ndarray, k: np.ndarray) -> Curve:
    a, b, rho, m, sigma = point[:5].tolist()
    x = k - m
    q = np.sqrt(x * x + sigma * sigma)
    w, slope, curvature = a + b * (rho * x + q), b * (rho + x / q), b * sigma * sigma / q**3
    if point.size > 5:
        c, n, s = point[5:].tolist()
        x = k - n
        q = np.sqrt(x * x + s * s)
        w = w + c * s / q
        slope = slope - c * s * x / q**3
        curvature = curvature + c * s * (2.0 * x * x - s * s) / q**5
    return Curve(w, slope, curvature)


def _derivatives(point: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of w, w' and w'' by each parameter, (m, parameters)."""
    one, none = np.ones_like(k), np.zeros_like(k)
    _, b, rho, m, sigma = point[:5].tolist()
    x = k - m
    q = np.sqrt(x * x + sigma * sigma)
    bend = sigma * sigma / q**3
    by_w = [one, rho * x + q, b * x, -b * (rho + x / q), b * sigma / q]
    by_slope = [none, rho + x / q, b * one, -b * bend, -b * x * sigma / q**3]
    by_sigma = b * sigma * (2.0 - 3.0 * sigma * sigma / q**2) / q**3
    by_curvature = [none, bend, none, 3.0 * b * bend * x / q**2, by_sigma]
    if point.size > 5:
        c, n, s = point[5:].tolist()
        x = k - n
        xx, ss = x * x, s * s
        q = np.sqrt(xx + ss)
        by_w += [s / q, c * s * x / q**3, c * xx / q**3]
        by_slope += [-s * x / q**3, -c * s * (2.0 * xx - ss) / q**5, -c * x * (xx - 2.0 * ss) / q**5]
        by_curvature += [
            s * (2.0 * xx - ss) / q**5,
            -c * s * x * (9.0 * ss - 6.0 * xx) / q**7,
            c * (2.0 * xx * xx - 11.0 * xx * ss + 2.0 * ss * ss) / q**7,
        ]
    return np.stack(by_w, axis=1), np.stack(by_slope, axis=1), np.stack(by_curvature, axis=1)


def _density(k: np.ndarray, w: np.ndarray, slope: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    g: np.ndarray = (1.0 - k * slope / (2.0 * w)) ** 2 - 0.25 * slope**2 * (1.0 / w + 0.25) + 0.5 * curvature
    return g
