"""A fitted smile: implied volatility as a polynomial in moneyness and in the state of the variance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import chebyshev

from hedgerl.pricing.normal import cdf
from hedgerl.sim.backend import Array
from hedgerl.sim.device import Place, cupy

_EDGE = 0.875  # of the fitted range of x that is used: a polynomial's slope at its very end is noise
_WING = 0.2  # of it that gives the slope of the wing
# slopes of g at which wings may go on at the most, left and right: as far as _REACH, prices then stay monotone in the
# strike, which needs |dg/dx| <= N(-y) / n(y) at y = x / g
_STEEPEST = (0.25, 0.2)
_REACH = 7.0  # x beyond the edge up to which a wing goes on
_LEAST = 0.02  # g: a polynomial may undershoot where no price depends on it
_TURN = 0.3  # x over which the slope at the edge turns into that of the wing: a kink would be a butterfly to sell


class Ratio(NamedTuple):
    """g and its derivatives, each (n,): see `Smile`."""

    value: Array
    by_moneyness: Array  # dg/dx
    by_moneyness_twice: Array  # d^2 g / dx^2
    by_log_deviation: Array  # dg / d log s


@dataclass(frozen=True, eq=False)
class Smile:
    """implied volatility * sqrt(tau) = s g(x, f),    x = log(K / F) / s,

    for one time to expiry tau of one model, where s^2 is the expected variance up to expiry, F the forward price, and f
    describes the state of the variance, log s first. g is a sum of products of Chebyshev polynomials in f and in
    u = x / sqrt(1 + (x / bend)^2), smooth and close to 1, so a few terms price any strike on any path. Near the end of
    the fitted range of x, g goes on in a straight line whose slope is that of the last part on that side; f is held at
    the edge of its range.
    """

    moneyness: float  # fitted for |x| up to here
    bend: float  # far wings need less detail than the centre; where it is infinite, u = x
    low: np.ndarray  # (d,) fitted range of the features
    high: np.ndarray  # (d,)
    degrees: np.ndarray  # (p, d) degree of each feature's Chebyshev polynomial in each basis function
    coefficients: np.ndarray  # (degree in x + 1, p)

    @cached_property
    def range(self) -> float:
        """u at the end of the fitted range."""
        return float(bent(np, self.moneyness, self.bend)[0])

    @cached_property
    def _wings(self) -> np.ndarray:
        """Coefficients of the slope of g beyond the left and the right edge of x, (2, p)."""
        degree = self.coefficients.shape[0] - 1
        places = (self.moneyness * np.array([-edge, edge]) for edge in (_EDGE - _WING, _EDGE))
        inner, outer = (chebyshev.chebvander(bent(np, x, self.bend)[0] / self.range, degree) for x in places)
        run = np.array([[-_WING], [_WING]]) * self.moneyness
        return (outer - inner) / run @ self.coefficients

    @cached_property
    def _stacked(self) -> np.ndarray:
        """Coefficients of g, dg/du and d^2 g / du^2, and of the wings' slopes, (3 (degree + 1) + 2, p): one product
        serves them all."""
        size = self.coefficients.shape[0]
        parts = [self.coefficients]
        for _ in range(2):
            derived = chebyshev.chebder(parts[-1], axis=0) / self.range if size > 1 else 0 * parts[-1]
            parts.append(np.concatenate([derived, np.zeros((size - len(derived), derived.shape[1]))]))
        return np.concatenate([*parts, self._wings])

    def basis(self, xp: ModuleType, features: Array) -> tuple[Array, Array]:
        """The basis functions and their derivatives by the first feature, each (p, n), from features (d, n)."""
        top = self.degrees.max(axis=0)
        powers, slopes = [], []
        for place, (low, high) in enumerate(zip(self.low.tolist(), self.high.tolist(), strict=True)):
            half = 0.5 * (high - low) if top[place] else 1.0
            unit = (features[place] - 0.5 * (high + low)) / half
            clipped = xp.clip(unit, -1.0, 1.0)
            powers.append(polynomials(xp, clipped, int(top[place])))
            if place == 0:
                inside = (unit == clipped).astype(unit.dtype) / half
                slopes = [slope * inside for slope in _derivatives(xp, clipped, powers[0])]
        values = xp.empty((len(self.degrees), features.shape[1]), dtype=features.dtype)
        derivatives = xp.zeros_like(values)
        for row, degrees in enumerate(self.degrees.tolist()):
            rest = [powers[place][degree] for place, degree in enumerate(degrees) if place and degree]
            values[row] = powers[0][degrees[0]]
            if degrees[0]:
                derivatives[row] = slopes[degrees[0]]
            for factor in rest:
                values[row] *= factor
                if degrees[0]:
                    derivatives[row] *= factor
        return values, derivatives

    def __call__(self, xp: ModuleType, x: Array, features: Array) -> Ratio:
        """g and its derivatives at moneyness x (n,) and features (d, n)."""
        values, derivatives = self.basis(xp, features)
        edge = _EDGE * self.moneyness
        clipped = xp.clip(x, -edge, edge)
        inside = clipped == x
        u, by_u = bent(xp, clipped, self.bend)
        by_x = polynomials(xp, u / self.range, self.coefficients.shape[0] - 1)
        sums = xp.asarray(self._stacked, dtype=x.dtype) @ values
        slope = xp.asarray(self.coefficients, dtype=x.dtype) @ derivatives
        size = len(by_x)
        total = [sums[part * size] for part in range(3)]  # degree 0: a polynomial of 1
        by_log_deviation = slope[0]
        for degree in range(1, size):
            for part in range(3):
                term = sums[part * size + degree]
                term *= by_x[degree]
                total[part] += term
            slope[degree] *= by_x[degree]
            by_log_deviation += slope[degree]
        if np.isfinite(self.bend):  # du/dx = (u/x)^3, d^2 u / dx^2 = -3 u (u/x)^4 / bend^2
            root = by_u * by_u
            total[2] *= root
            total[2] -= total[1] * u * (3.0 / self.bend**2)
            total[2] *= root * root
            total[1] *= root * by_u
        # beyond the edges the slope turns from that at the edge into that of the wing, which leads away from the centre
        out = xp.clip(x - clipped, -_REACH, _REACH)
        left, right = xp.clip(sums[3 * size], -_STEEPEST[0], 0.0), xp.clip(sums[3 * size + 1], 0.0, _STEEPEST[1])
        wing = xp.where(x < 0, left, right)
        distance = xp.abs(out)
        fading = (total[1] - wing) * xp.exp(distance * (-1.0 / _TURN))
        value = total[0] + wing * out + xp.sign(out) * _TURN * (total[1] - wing - fading)
        value = xp.maximum(value, _LEAST)
        by_moneyness = (wing + fading) * (distance < _REACH)
        twice = xp.where(inside, total[2], fading * (xp.sign(out) * (-1.0 / _TURN)))
        return Ratio(value, by_moneyness, twice, by_log_deviation)


@lru_cache(maxsize=4096)
def kernel_arguments(smile: Smile, place: Place) -> tuple[Any, ...]:
    """The smile as smile.cu takes it, after the state that it is read at: sent to a device once."""
    size, n_basis = smile.coefficients.shape
    n_features = smile.degrees.shape[1]
    counts = [int(np.flatnonzero(column)[-1]) + 1 if column.any() else 0 for column in smile.coefficients.T]
    degrees = np.concatenate([np.array(counts)[:, None], smile.degrees], axis=1)
    packed = np.zeros((n_basis, size, 4))
    packed[:, :, :3] = smile._stacked[: 3 * size].reshape(3, size, n_basis).transpose(2, 1, 0)
    varies = smile.degrees.max(axis=0) > 0
    half = np.where(varies, 0.5 * (smile.high - smile.low), 1.0)
    numbers = (_EDGE * smile.moneyness, 1.0 / smile.bend, 1.0 / smile.range, _REACH, _TURN)
    return (
        *(np.int32(n_features), np.int32(n_basis), np.int32(size)),
        cupy().asarray(degrees.astype(np.int32)),
        place.sent(np.stack([0.5 * (smile.high + smile.low), half], axis=1)),
        place.sent(packed),
        place.sent(smile._wings.T),
        *(place.dtype.type(number) for number in (*numbers, *_STEEPEST, _LEAST)),
    )


def blend(first: Smile, second: Smile, share: float) -> Smile:
    """The smile with `share` of the second's g and the rest of the first's, over the range of both.

    Chebyshev polynomials on one range are sums of those on another, so that the blend costs no more than a smile. Both
    must have the same basis functions.
    """
    ranges = [(smile.moneyness, smile.bend) for smile in (first, second)]
    if not np.array_equal(first.degrees, second.degrees) or ranges[0] != ranges[1]:
        raise ValueError("smiles must share their basis functions and their range of moneyness")
    low, high = np.minimum(first.low, second.low), np.maximum(first.high, second.high)
    coefficients = (1 - share) * _on_range(first, low, high) + share * _on_range(second, low, high)
    return Smile(first.moneyness, first.bend, low, high, first.degrees, coefficients)


def _on_range(smile: Smile, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The smile's coefficients with its features scaled to [low, high]."""
    change = np.ones((len(smile.degrees), len(smile.degrees)))  # of each basis function into the others
    for place, degrees in enumerate(smile.degrees.T):
        if top := int(degrees.max()):
            nodes = chebyshev.chebpts1(top + 1)
            feature = 0.5 * (low[place] + high[place]) + 0.5 * (high[place] - low[place]) * nodes
            own = (2 * feature - smile.low[place] - smile.high[place]) / (smile.high[place] - smile.low[place])
            expand = np.linalg.solve(chebyshev.chebvander(nodes, top), chebyshev.chebvander(own, top)).T
            change *= expand[degrees[:, None], degrees[None, :]]
    return smile.coefficients @ change


def bent(xp: ModuleType, x: Array, bend: float) -> tuple[Array, Array]:
    """u = x / sqrt(1 + (x / bend)^2) and u / x; u = x where bend is infinite."""
    if bend == np.inf:
        return x, xp.ones_like(x)
    by_x = 1.0 / xp.sqrt(1.0 + (x * (1.0 / bend)) ** 2)
    return x * by_x, by_x


def straight(u: np.ndarray, bend: float) -> np.ndarray:
    """x from u, see `bent`."""
    return u / np.sqrt(1.0 - (u / bend) ** 2)


def polynomials(xp: ModuleType, x: Array, degree: int) -> list[Array]:
    """Chebyshev polynomials T_0 .. T_degree at x in [-1, 1]."""
    values = [xp.ones_like(x), x]
    twice = x + x
    while len(values) <= degree:
        following = twice * values[-1]
        following -= values[-2]
        values.append(following)
    return values[: degree + 1]


def _derivatives(xp: ModuleType, x: Array, values: list[Array]) -> list[Array]:
    """T'_0 .. T'_degree at x, by T'_n = 2 T_(n-1) + 2 x T'_(n-1) - T'_(n-2)."""
    slopes = [xp.zeros_like(x), xp.ones_like(x)]
    while len(slopes) < len(values):
        slopes.append(2.0 * values[len(slopes) - 1] + 2.0 * x * slopes[-1] - slopes[-2])
    return slopes[: len(values)]


def total_degree(n_features: int, degree: int) -> np.ndarray:
    """Degrees (p, n_features) of all products of total degree up to `degree`, the constant first."""
    rows: list[tuple[int, ...]] = [()]
    for _ in range(n_features):
        rows = [(*row, power) for row in rows for power in range(degree - sum(row) + 1)]
    return np.array(sorted(rows, key=lambda row: (sum(row), row)), dtype=int).reshape(len(rows), n_features)


def otm_price(log_strike: np.ndarray, deviation: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Undiscounted Black prices on a forward of 1 at log(K), total deviation and sign (1 call, -1 put)."""
    d1 = -log_strike / deviation + 0.5 * deviation
    return sign * (cdf(sign * d1) - np.exp(log_strike) * cdf(sign * (d1 - deviation)))


def interpolate(
    moneyness: float, low: float, high: float, shape: tuple[int, int], ratio: Callable[..., Any], bend: float = np.inf
) -> Smile:
    """The smile with one feature through the values of g at Chebyshev nodes.

    shape: numbers of nodes in x and in the feature. ratio: g, from x (nodes, 1) and the feature (1, nodes).
    """
    x, feature = (chebyshev.chebpts1(size) for size in shape)
    places = straight(float(bent(np, moneyness, bend)[0]) * x, bend)
    values = ratio(places[:, None], (0.5 * (low + high) + 0.5 * (high - low) * feature)[None, :])
    to_x, to_feature = (np.linalg.inv(chebyshev.chebvander(nodes, nodes.size - 1)) for nodes in (x, feature))
    degrees = np.arange(shape[1])[:, None]
    return Smile(moneyness, bend, np.array([low]), np.array([high]), degrees, to_x @ values @ to_feature.T)
