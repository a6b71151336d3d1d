"""Fourier sums of the Heston model along a contour bent to the integrand.

With x = ln(F/K), K' = K e^{-rT} and E[(S_T/F)^{iu}] = exp(A(u) + B(u) v) the out-of-the-money option is worth

    V = -K'/pi  Re int exp(iux + A(u) + B(u) v) / (u^2 + iu) du

over the right half of any contour that crosses the imaginary axis above 0 (a put) or below -1 (a call), short
of the first moment that explodes. Between the two poles the same integral is V less the asset (call) or the
cash (put). The contour is a branch of a hyperbola, u = i t + b sinh(i psi + y), summed by the trapezoidal
rule in y: the integrand decays doubly exponentially in y and is analytic in a strip, so that the error falls
exponentially in the number of nodes (Boyarchenko & Levendorskii 2019, "SINH-acceleration"; the bend in place
of the straight line is what keeps oscillation away where the variance starts near zero, as in Andersen & Lake
2019). 15 to 40 nodes give twelve digits; the alternate nodes alone give about half as many, which is the
check that each option must pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from hedgerl.pricing.base import Array, at_least, is_numpy

_CUT_OFF = 30.0  # the integrand is followed until it has fallen by exp(-_CUT_OFF)
_DISCRETE = 36.0  # the trapezoidal error aimed at is exp(-_DISCRETE) of the size on the strip's edge
_CAP = 4.0  # logarithm of the size allowed where the strip's edge crosses the imaginary axis
_ALTERNATE = 1e-6  # largest difference, in forwards, of the sum of every other node; the error is its square
_TAIL = 1e-12  # largest last term, in forwards
_MOST_NODES = 2048
_CLASSES = (8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256)  # nodes; options are sorted into these
_NODES = 16_384  # nodes at a time on NumPy: complex work arrays of 256 kB
_NODES_DEVICE = 131_072  # and on other libraries: 2 MB
_STEP = 0.5  # width of a group in standard deviations of ln S
_LINEAR = 16.0  # number of such groups before their width grows
_RATIO = 1.25  # by this factor


def mean_variance(xp: Any, left: Array, kappa: Array, theta: Array, variance: Array) -> Array:
    """The mean of the variance over the time left."""
    return theta + (variance - theta) * variance_weight(xp, left, kappa)


def variance_weight(xp: Any, left: Array, kappa: Array) -> Array:
    """The weight of today's variance in its mean over the time left."""
    return -xp.expm1(-kappa * left) / (kappa * left)


def _complex(xp: Any, real: Array, imag: Array) -> Array:
    if is_numpy(xp):
        z = np.empty(np.broadcast_shapes(real.shape, imag.shape), np.complex128)
        z.real, z.imag = real, imag
        return z
    return real + 1j * imag


def _sqrt(xp: Any, z: Array) -> Array:
    """The root with non-negative real part (three times as fast as numpy.sqrt on complex numbers)."""
    x, y = xp.real(z), xp.imag(z)
    large = xp.sqrt((xp.sqrt(x * x + y * y) + xp.abs(x)) * 0.5)
    small = xp.abs(y) * 0.5 / at_least(xp, large, 1e-150)
    right = x >= 0
    imag = xp.where(right, small, large)
    return _complex(xp, xp.where(right, large, small), xp.where(y < 0, -imag, imag))


def _rotation(xp: Any, y: Array) -> tuple[Array, Array]:
    """1 - cos(y) and sin(y), the first without the loss of digits at small y.

    NumPy runs the tangent in vector registers and, in float64, not the sine and cosine; the half angle gives
    both.
    """
    if is_numpy(xp):
        tangent = np.tan(y * 0.5)
        share = 2.0 * tangent / (tangent * tangent + 1.0)
        return tangent * share, share
    half = xp.sin(y * 0.5)
    return 2.0 * half * half, xp.sin(y)


def _exp(xp: Any, z: Array) -> Array:
    versine, sine = _rotation(xp, xp.imag(z))
    size = xp.exp(xp.real(z))
    return _complex(xp, size - size * versine, size * sine)


def exponents(
    xp: Any, u: Array, left: Array, kappa: Array, theta: Array, sigma: Array, rho: Array
) -> tuple[Array, Array, Array, Array]:
    """A, B of E[(S_T/F)^{iu}] = exp(A + B v), and their derivatives in the time left.

    Heston (1993), eq. 17, in the form that stays on the principal branch (Albrecher et al. 2007), also off
    the real axis: Re d > 0 in the right half plane. beta - d, 1 - e^{-dT} and the logarithm are computed so
    that none loses digits for small sigma, small T or large u.
    """
    iu = 1j * u
    q = u * u + iu
    beta = kappa - rho * sigma * iu
    square = sigma * sigma
    d = _sqrt(xp, beta * beta + square * q)
    versine, sine = _rotation(xp, xp.imag(d) * -left)
    fall = xp.expm1(xp.real(d) * -left)
    kept = fall + 1.0
    decay = _complex(xp, kept * versine - fall, -kept * sine)  # 1 - e^{-dT}
    b = -q * decay / (d * (2.0 - decay) + beta * decay)
    excess = xp.where(xp.real(beta) > 0, -square * q / (beta + d), beta - d)
    z = excess * decay / (2.0 * d)
    x, y = xp.real(z), xp.imag(z)
    log = _complex(xp, 0.5 * xp.log1p(x * (2.0 + x) + y * y), xp.atan2(y, 1.0 + x))
    pull = kappa * theta
    return pull / square * (excess * left - 2.0 * log), b, pull * b, (0.5 * square * b - beta) * b - 0.5 * q


@dataclass(frozen=True)
class _Contour:
    """A contour for each option or group of options; every field has shape (m,)."""

    side: Array  # 1: upper half plane (put out of the money), -1: reflected into the lower one (call)
    middle: Array  # bool: crosses the imaginary axis between the poles 0 and -i
    offset: Array  # t0, counted from the pole outwards
    scale: Array  # b
    tilt: Array  # psi, radians; positive bends away from the real axis
    length: Array  # the y at which the integrand is negligible
    nodes: Array  # the number of nodes on [0, length] for the error aimed at

    def take(self, index: Array) -> _Contour:
        return _Contour(**{name: value[index] for name, value in vars(self).items()})

    def points(self, xp: Any, count: int) -> tuple[Array, Array]:
        """u and the quadrature weights du, both (m, count)."""
        grid = xp.arange(count, dtype=xp.float64, device=array_api_compat.device(self.scale)) / (count - 1)
        y = self.length[:, None] * grid[None, :]
        grow = xp.exp(y)
        sinh, cosh = 0.5 * (grow - 1.0 / grow), 0.5 * (grow + 1.0 / grow)
        across, along = xp.cos(self.tilt)[:, None], xp.sin(self.tilt)[:, None]
        scale, side = self.scale[:, None], self.side[:, None]
        out = self.offset[:, None] + scale * along * cosh
        u = _complex(xp, scale * across * sinh, xp.where(side > 0, out, -1.0 - out))
        step = scale * (self.length / (count - 1))[:, None]
        step = step * xp.where(grid == 0, 0.5, 1.0)[None, :]
        return u, _complex(xp, step * across * cosh, side * step * along * sinh)


def _reach(xp: Any, side: Array, k: Array, v: Array, model: list[Array], root: Array) -> Array:
    """How far from the pole, on the imaginary axis, the integrand stays below exp(_CAP); within 5 %, from
    below.

    The moment p explodes when gamma T/2 = atan2(gamma, -chi), chi = kappa - rho sigma p, gamma^2 = sigma^2
    (p^2 - p) - chi^2 > 0, or at the hyperbolic twin of that (Andersen & Piterbarg 2007, prop. 3.1). Bisection
    in the logarithm.
    """
    left, kappa, _, sigma, rho = model
    low = xp.zeros_like(k) + math.log(0.05)
    gauss = (k / root + 4.0) / root
    explosion = (7.0 / left + 3.0 * kappa) / (sigma * xp.sqrt(1.0 - rho * rho))
    high = xp.log(xp.minimum(20.0 * gauss, explosion) + 1.0)
    for _ in range(9):
        middle = 0.5 * (low + high)
        t = xp.exp(middle)
        p = xp.where(side > 0, -t, 1.0 + t)
        chi = kappa - rho * sigma * p
        square = sigma * sigma * t * (1.0 + t) - chi * chi
        gamma = xp.sqrt(xp.abs(square))
        ratio = xp.minimum(gamma / xp.abs(chi), 1.0 + 0.0 * chi)
        bound = xp.where(chi < 0, xp.atanh(ratio), math.inf + 0.0 * chi)
        bound = xp.where(square > 0, xp.atan2(gamma, -chi), bound)
        a, b, _, _ = exponents(xp, -1j * p, *model)
        size = xp.real(a) + xp.real(b) * v - t * k
        fine = (gamma * left * 0.5 < 0.98 * bound) & (size < _CAP)
        low, high = xp.where(fine, middle, low), xp.where(fine, high, middle)
    return xp.exp(low)


def _contour(xp: Any, side: Array, k: tuple[Array, Array], v: tuple[Array, Array], model: list[Array]) -> _Contour:
    """The contour for options with |ln(K/F)| and variance within the two ranges (low, high).

    Far out the integrand behaves like exp(-r |u| cos(arg u - psi*)), tan(psi*) = (|k| - side a rho) / (a
    sqrt(1 - rho^2)), a = (v + kappa theta T)/sigma, and decays where the angle is within a right angle of
    psi*; near in it is Gaussian and decays within 45 degrees of the real axis. eta says which of the two
    rules.
    """
    left, kappa, theta, sigma, rho = model
    mean_low = mean_variance(xp, left, kappa, theta, v[0]) * left
    mean_high = mean_variance(xp, left, kappa, theta, v[1]) * left
    rest = xp.sqrt(1.0 - rho * rho)
    pull = kappa * theta * left
    a = [(value + pull) / sigma for value in v]

    root = xp.sqrt(mean_high)
    reach = _reach(xp, side, k[0], v[1], model, root)
    middle = (reach < 0.9) & (reach < 4.0 / root)
    inner = xp.where(middle, -xp.minimum(8.0 / at_least(xp, k[1], 1.0), 0.97 + 0.0 * reach), 0.03 * reach)
    outer = xp.where(middle, -0.03 + 0.0 * reach, reach)

    lean = [xp.atan2(k[i] - side * a[1 - i] * rho, a[1 - i] * rest) for i in (0, 1)]
    eta = a[1] * a[1] / mean_high
    limit = 0.25 * math.pi * (1.0 + xp.minimum((3.0 / eta) ** 0.55, 1.0 + 0.0 * eta))
    top = xp.minimum(lean[0] + 0.5 * math.pi, limit)
    bottom = xp.maximum(lean[1] - 0.5 * math.pi, -limit)
    tilt = 0.5 * (top + bottom)
    width = 0.475 * at_least(xp, top - bottom, 0.1)

    scale = (outer - inner) / (2.0 * xp.sin(width) * xp.cos(tilt))
    offset = inner - scale * xp.sin(tilt - width)
    rate = [a[i] * rest * xp.cos(tilt) + (k[j] - side * a[i] * rho) * xp.sin(tilt) for i in (0, 1) for j in (0, 1)]
    slowest = xp.minimum(xp.minimum(rate[0], rate[1]), xp.minimum(rate[2], rate[3]))
    end = xp.sqrt((_CUT_OFF / at_least(xp, slowest, 1e-12)) ** 2 + 3.0 * _CUT_OFF / mean_low)
    length = xp.asinh(end / scale)
    nodes = xp.ceil(length * (_DISCRETE / (2.0 * math.pi)) / width) + 1.0
    return _Contour(side, middle, offset, scale, tilt, length, nodes)


def _classes(xp: Any, nodes: Array) -> Iterator[tuple[int, Array]]:
    """(number of nodes, indices of those who need at most that many), smallest class first."""
    least = 0.0
    for size in (*_CLASSES, _MOST_NODES):
        members = xp.nonzero((nodes > least) & ((nodes <= size) | (size == _MOST_NODES)))[0]
        if members.shape[0]:
            yield size, members
        least = float(size)


def sum_each(xp: Any, k: Array, v: Array, model: list[Array]) -> list[Array]:
    """V, V_x, V_xx - V_x, V_v and V_T at constant x, per unit of discounted strike; every argument (n,)."""
    size = xp.abs(k)
    side = xp.where(k < 0, 1.0, -1.0 + 0.0 * k)
    contour = _contour(xp, side, (size, size), (v, v), model)
    results = [xp.zeros_like(k) for _ in range(5)]
    budget = _NODES if is_numpy(xp) else _NODES_DEVICE
    work = list(_classes(xp, contour.nodes))
    while work:
        count, members = work.pop()
        rows = max(1, budget // count)
        failed = []
        for start in range(0, members.shape[0], rows):
            index = members[start : start + rows]
            *sums, alternate, tail = _sum_rows(
                xp, contour.take(index), count, k[index], v[index], [array[index] for array in model]
            )
            for result, value in zip(results, sums, strict=True):
                result[index] = value
            forwards = xp.exp(k[index])
            right = (alternate * forwards <= _ALTERNATE) & (tail * forwards <= _TAIL)  # False for a NaN
            failed.append(index[~right])
        again = xp.concat(failed)
        if again.shape[0] and count < _MOST_NODES:
            contour.length[again] = contour.length[again] * 1.1
            work.append((min(2 * count, _MOST_NODES), again))
    return results


def _add_middle(xp: Any, middle: Array, k: Array, value: Array, slope: Array) -> tuple[Array, Array]:
    """Between the poles the integral is V less the asset (call) or the cash (put); their slopes are asset and 0."""
    asset = xp.exp(-k)
    call = k >= 0
    value = value + xp.where(middle, xp.where(call, asset, 1.0 + 0.0 * k), 0.0 * k)
    return value, slope + xp.where(middle & call, asset, 0.0 * k)


def _sum_rows(xp: Any, contour: _Contour, count: int, k: Array, v: Array, model: list[Array]) -> tuple[Array, ...]:
    u, du = contour.points(xp, count)
    a, b, a_left, b_left = exponents(xp, u, *[array[:, None] for array in model])
    v_column = v[:, None]
    iu = 1j * u
    density = _exp(xp, a + b * v_column - iu * k[:, None]) * (du * (-1.0 / math.pi))
    value = density / (u * u + iu)

    def total(terms: Array) -> Array:
        return xp.sum(xp.real(terms), axis=1)

    price = total(value)
    alternate = xp.abs(price - 2.0 * total(value[:, ::2]))
    tail = xp.abs(xp.real(value[:, -1]))
    price, slope = _add_middle(xp, contour.middle, k, price, total(iu * value))
    drift = total((a_left + b_left * v_column) * value)
    return price, slope, -total(density), total(b * value), drift, alternate, tail


def sum_shared(xp: Any, k: Array, v: Array, model: list[Array]) -> list[Array]:
    """As `sum_each` for options that share the model, whose five fields have shape (1,).

    Options are grouped by total variance (octaves) and |k| (half a standard deviation); a group shares its
    contour and its nodes' A and B, so that an option costs one exponential a node and a product of matrices.
    What fails the check of the group is summed on its own.
    """
    left, kappa, theta, _, _ = model
    device = array_api_compat.device(k)
    size = xp.abs(k)
    weight = variance_weight(xp, left, kappa)
    octave = xp.floor(xp.log2((theta + (v - theta) * weight) * left))
    lowest = xp.min(octave)
    steps = size * xp.exp2(-0.5 * (octave + 1.0)) / _STEP
    far = at_least(xp, xp.floor(xp.log(at_least(xp, steps, 1.0) / _LINEAR) / math.log(_RATIO)), 0.0)
    far = xp.minimum(far, 40.0 + 0.0 * far)
    cell = xp.where(steps < _LINEAR, xp.floor(steps), _LINEAR + far)
    key = ((octave - lowest) * 64.0 + cell) * 2.0 + xp.where(k < 0, 1.0, 0.0 * k)
    key = xp.astype(key, xp.int32)
    order = xp.argsort(key, stable=True)
    names, counts = xp.unique_counts(key)
    ends = np.cumsum([int(c) for c in counts])

    group = xp.astype(names, xp.float64)
    side = 2.0 * (group - 2.0 * xp.floor(group * 0.5)) - 1.0
    group = xp.floor(group * 0.5)
    group_octave = xp.floor(group / 64.0)
    group_cell = group - 64.0 * group_octave
    group_octave = group_octave + lowest

    def edge(cell: Array) -> Array:
        return xp.where(cell < _LINEAR, cell, _LINEAR * _RATIO ** at_least(xp, cell - _LINEAR, 0.0)) * _STEP

    deviation = xp.exp2(0.5 * (group_octave + 1.0))
    ks = (edge(group_cell) * deviation, edge(group_cell + 1.0) * deviation)
    smallest, largest = xp.min(v), xp.max(v)
    vs = tuple(
        xp.clip((xp.exp2(group_octave + i) / left - theta) / weight + theta, smallest, largest) for i in (0.0, 1.0)
    )
    models = [array + 0.0 * side for array in model]
    contour = _contour(xp, side, ks, (vs[0], vs[1]), models)

    results = [xp.zeros_like(k) for _ in range(5)]
    failed = []
    budget = _NODES if is_numpy(xp) else _NODES_DEVICE
    for count, groups in _classes(xp, contour.nodes):
        part = contour.take(groups)
        u, du = part.points(xp, count)
        a, b, a_left, b_left = exponents(xp, u, *[array[groups][:, None] for array in models])
        iu = 1j * u
        du = du * (-1.0 / math.pi)
        value = du / (u * u + iu)
        alternate = xp.zeros_like(value)
        alternate[:, ::2] = 2.0 * value[:, ::2]
        alternate = value - alternate
        last = xp.zeros_like(value)
        last[:, -1] = value[:, -1]
        columns = [value, iu * value, -du, b * value, a_left * value, b_left * value, alternate, last]
        weights = xp.stack(columns, axis=-1)
        weights = xp.concat([xp.real(weights), -xp.imag(weights)], axis=1)  # (groups, 2 count, 8)
        ones = xp.stack([a, b, -iu], axis=1)
        real, imag = xp.real(ones), xp.imag(ones)
        for row in range(groups.shape[0]):
            number = int(groups[row])
            start, end = int(ends[number] - int(counts[number])), int(ends[number])
            for first in range(start, end, max(1, budget // count)):
                index = order[first : min(first + max(1, budget // count), end)]
                inputs = xp.stack([xp.ones_like(k[index]), v[index], k[index]], axis=1)
                versine, sine = _rotation(xp, inputs @ imag[row])
                height = xp.exp(inputs @ real[row])
                sums = xp.concat([height - height * versine, height * sine], axis=1) @ weights[row]
                middle = part.middle[row : row + 1]
                price, slope = _add_middle(xp, middle, k[index], sums[:, 0], sums[:, 1])
                drift = sums[:, 4] + v[index] * sums[:, 5]
                for result, column in zip(results, (price, slope, sums[:, 2], sums[:, 3], drift), strict=True):
                    result[index] = column
                checks = xp.abs(sums[:, 6:]) * xp.exp(k[index])[:, None]
                failed.append(index[~((checks[:, 0] <= _ALTERNATE) & (checks[:, 1] <= _TAIL))])
    again = xp.concat(failed)
    if again.shape[0]:
        ones = xp.ones((again.shape[0],), dtype=xp.float64, device=device)
        for result, value in zip(
            results, sum_each(xp, k[again], v[again], [array * ones for array in model]), strict=True
        ):
            result[again] = value
    return results
