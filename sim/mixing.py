"""Smiles of models whose variance is lognormal given the past: rough Bergomi and lognormal SABR.

At time t the variance ahead is v_j = xi_j E_j for the steps j = 0 .. m-1 to expiry, where xi_j = E[v_j | now] is the
forward-variance curve that each path knows, and

    E_j = exp(eta Y_j - eta^2 / 2 Var Y_j),    E_0 = 1,

is driven by noise ahead that is independent of the past. Given the driver W of the variance the spot is lognormal, so
that (Romano & Touzi 1997) a call is worth

    E[BS(exp(rho M - rho^2 I / 2), (1 - rho^2) I)],    M = sum sqrt(v_j) dW_j,    I = sum v_j dt_j.

The curve has too many dimensions to tabulate and a nested simulation is too slow to mark millions of options, so this
expectation is regressed on a few features of the curve. The labels are unbiased estimates, each from noise shared by a
few curves only, so that their noise averages out instead of becoming a bias that a policy could farm; and the
regression is done in price by Gauss-Newton, so that the unbiased labels stay unbiased. Labels live under the simulated,
discretised dynamics; one step before expiry the mark is exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import numpy as np

from hedgerl.pricing import implied_volatility
from hedgerl.pricing.normal import cdf
from hedgerl.sim.backend import Array
from hedgerl.sim.noise import CHUNK, fill_normals, generator
from hedgerl.sim.smile import Smile, bent, otm_price, polynomials, straight, total_degree
from hedgerl.sim.volterra import HybridWeights

N_GROUPS = 512  # independent banks of noise
_MANY = 100  # steps ahead beyond which there are twice as many: their wings are harder
N_STATES = 4  # forward curves priced with each bank
N_SAMPLES = 1024  # of the noise ahead in a bank, in antithetic pairs
N_STRIKES = 16  # priced for each curve
WIDER = 1.25  # standard deviation of the states that are learnt from, relative to those that paths visit
MONEYNESS = 7.0  # |log(K / F)| / s that smiles are fitted up to
BEND = 4.0  # of the moneyness in which smiles are polynomials, see `Smile`
_DEGREES_X = (16, 12, 8, 5)  # in moneyness, for products of features of total degree 0, 1, 2, 3
_MISFIT = 0.01  # of g, what the polynomial itself may miss: it keeps noiseless wings from ruling the fit
_SMOOTH = 1e-3  # ridge on what depends on the state, growing with the degree in x: else wings of rare states ripple
_SINGLE_BINS = 8  # steps of the forward curve taken one at a time; further ones are averaged in growing bins
_RANGE = float(bent(np, MONEYNESS, BEND)[0])
_UP, _SPIKES = 1 / 4, 3 / 8  # shares of the samples whose driver is shifted, see `_tilt`
_DRIFT, _LEAP, _FALL = 1.5, 3.0, 2.0  # standard deviations that it is shifted by
_ROUNDS = 3  # of Gauss-Newton
_SEED = 20160421  # smiles are a part of the model: the same for every user and run


class Law(NamedTuple):
    """The noise ahead: eta, rho and the Volterra weights on a grid that starts now."""

    eta: float
    rho: float
    weights: Callable[[np.ndarray], HybridWeights]


class Group(NamedTuple):
    """Curves to learn from that share a law and a bank of noise."""

    law: Law
    known: np.ndarray  # (m,): the part of log xi_j that no noise enters
    random: np.ndarray  # (N_STATES, m): the rest of it
    parameters: np.ndarray  # (n_perturbed,) what differs between laws
    offset: int = 0  # step of the bank's noise from which on it is used


@dataclass(frozen=True, eq=False)
class Bins:
    """Groups of consecutive steps to expiry; the first holds the current step alone.

    Over each, the known part of xi is averaged, and the logarithm of the random part with the known one as its weight.
    """

    starts: np.ndarray  # (b,)
    lengths: np.ndarray  # (b,) years
    middles: np.ndarray  # (b,) years from now
    known: np.ndarray  # (b,) logarithm of the average of the known part
    masses: np.ndarray  # (m,) known variance of each step

    @classmethod
    def of(cls, steps: np.ndarray, known: np.ndarray) -> Bins:
        """Bins for steps of the given lengths in years, with the logarithm of the known part of xi, each (m,)."""
        edges = [0]
        while edges[-1] < steps.size:
            width = 1 if edges[-1] < _SINGLE_BINS else max(1, edges[-1] // 4)
            edges.append(min(edges[-1] + width, steps.size))
        times = np.append(0.0, np.cumsum(steps))[edges]
        starts, lengths, masses = np.array(edges[:-1]), np.diff(times), np.exp(known) * steps
        of_bins = np.add.reduceat(masses, starts)
        return cls(starts, lengths, 0.5 * (times[1:] + times[:-1]), np.log(of_bins / lengths), masses)

    def average(self, rows: np.ndarray) -> np.ndarray:
        """Averages over each bin along the first axis, each step with its known variance as weight, (b, ...)."""
        shape = (-1, *(1,) * (rows.ndim - 1))
        of_bins = np.add.reduceat(self.masses, self.starts).reshape(shape)
        return np.add.reduceat(rows * self.masses.reshape(shape), self.starts, axis=0) / of_bins


def curve_features(xp: ModuleType, bins: Bins, log_curve: Array, shaped: bool) -> tuple[Array, Array]:
    """s (n,) and features (d, n) of forward curves given as log xi by bins, (b, n).

    s^2 is the expected variance to expiry. Features: log of the expected volatility; the current volatility over it;
    the centre of mass of the expected variance in time; the share that comes in the first quarter. With up to three
    steps to expiry the later ones repeat the earlier and are left out; where all curves of a model have one shape
    (`shaped` is false) the first says all.
    """
    tau = float(bins.lengths.sum())
    mass = xp.exp(log_curve)
    current = xp.sqrt(mass[0])
    for row, length in enumerate(bins.lengths.tolist()):
        mass[row] *= length
    total = mass.sum(axis=0)
    s = xp.sqrt(total)
    volatility = s * tau**-0.5
    if not shaped:
        return s, xp.log(volatility)[None]
    rows = [xp.log(volatility), current / volatility]
    if bins.starts.size > 2:
        weights = xp.asarray(bins.middles / tau, dtype=log_curve.dtype)
        rows.append((weights @ mass) / total)
    if bins.starts.size > 3:
        # by parts of bins: a feature that jumped with the number of steps could not be interpolated between them
        share = np.clip((0.25 * tau - bins.middles) / bins.lengths + 0.5, 0.0, 1.0)
        rows.append((xp.asarray(share, dtype=log_curve.dtype) @ mass) / total)
    return s, xp.stack(rows)


class Sums(NamedTuple):
    """What a group's bank of noise says of its curves: means over pairs of samples. Payoffs y are in units of s."""

    s: np.ndarray  # (n,)
    features: np.ndarray  # (d, n)
    x: np.ndarray  # (n, strikes)
    payoff: np.ndarray  # (n, strikes) of y, the out-of-the-money option
    square: np.ndarray  # (n, strikes) of y^2
    control: np.ndarray  # (n, c) of c, whose expectation is 0
    outer: np.ndarray  # (n, strikes, c) of y c
    inner: np.ndarray  # (n, c, c) of c c'


def fit(
    steps: np.ndarray, groups: Callable[[int, np.random.Generator], Group], *, shaped: bool, alone: bool = False
) -> Smile:
    """The smile for expiry after `steps` (years, (m,)), learnt from N_GROUPS groups of curves.

    groups: the group of a number, given a generator of its own. shaped: whether curves differ in more than level.
    alone: whether no neighbouring smile shares its curves; it is then learnt from twice as many.
    """

    def of_group(number: int) -> Sums:
        group = groups(number, generator(_SEED, "curves", number))
        bins = Bins.of(steps, group.known)
        s, features = curve_features(np, bins, bins.known[:, None] + bins.average(group.random.T), shaped)
        if group.parameters.size:
            features = np.concatenate([features, np.repeat(group.parameters[:, None], s.size, axis=1)])
        places = (np.arange(N_STRIKES) + generator(_SEED, "strikes", number).random((s.size, N_STRIKES))) / N_STRIKES
        u = _RANGE * (2.0 * places - 1.0)
        return _price(number, steps, group, s, features, straight(u, BEND))

    n_groups = N_GROUPS * (2 if alone or steps.size > _MANY else 1)
    parts = [of_group(number) for number in range(n_groups)]  # threads would wait for each other
    features = np.concatenate([part.features for part in parts], axis=1)
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in Sums._fields if name != "features"
    }
    return _regress(Sums(features=features, **joined))


def _price(number: int, steps: np.ndarray, group: Group, s: np.ndarray, features: np.ndarray, x: np.ndarray) -> Sums:
    """The mixing estimator over the group's bank of noise, forward 1, undiscounted.

    Controls, all of known mean: I, M, M^2, the exponential martingales exp(q M - q^2 I / 2) at three q, the forward
    price itself among them, and the weights of the samples.
    """
    eta, rho, _ = group.law
    growth, shocks, weight = _noise_ahead(number, steps, group)
    curves = np.exp(group.known + group.random)
    weighted = (curves * steps).astype(np.float32)
    integral = weighted @ growth
    driver = np.sqrt(curves).astype(np.float32) @ shocks
    expected = weighted.sum(axis=1, keepdims=True)
    unit = s[:, None].astype(np.float32)

    def martingale(q: float) -> np.ndarray:
        return np.exp(q * driver - (0.5 * q * q) * integral)

    log_forward = rho * driver - (0.5 * rho * rho) * integral
    forward = np.exp(log_forward)
    controls = [
        integral / expected - 1.0,
        driver / np.sqrt(expected),
        driver**2 / expected - 1.0,
        (forward - 1.0) / unit,
        *((martingale(q) - 1.0) / unit for q in (-0.5, 0.5)),
    ]
    controls = [values * weight for values in controls] + [np.broadcast_to(weight - 1.0, driver.shape)]
    control = np.stack([_pairs(values) for values in controls], axis=1).astype(np.float64)
    deviation = np.sqrt(np.maximum((1.0 - rho * rho) * integral, 1e-12))
    log_strike = (x * s[:, None]).astype(np.float32)[:, :, None]
    sign = np.where(log_strike > 0, np.float32(1), np.float32(-1))
    deviation = deviation[:, None, :]
    d1 = (log_forward[:, None, :] - log_strike) / deviation  # all strikes at once: few calls, arrays that fit the cache
    d1 += 0.5 * deviation
    d2 = d1 - deviation
    d1 *= sign
    d2 *= sign
    payoff = forward[:, None, :] * cdf(d1)
    payoff -= np.exp(log_strike) * cdf(d2)
    payoff *= sign / unit[:, :, None]
    payoff *= weight
    payoff = _pairs(payoff).astype(np.float64)
    samples = payoff.shape[2]
    across = control.transpose(0, 2, 1)
    return Sums(
        s, features, x, payoff.mean(axis=2), (payoff**2).mean(axis=2), control.mean(axis=2),
        payoff @ across / samples, control @ across / samples,
    )  # fmt: skip


def _pairs(values: np.ndarray) -> np.ndarray:
    """Means of antithetic pairs along the last axis."""
    half = values.shape[-1] // 2
    return 0.5 * (values[..., :half] + values[..., half:])


def _noise_ahead(number: int, steps: np.ndarray, group: Group) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E_j and sqrt(E_j) dW_j, each (m, N_SAMPLES) float32, and weights (N_SAMPLES,): antithetic in both halves.

    Of a given bank the noise for fewer steps is the beginning of that for more, or the end where it is tied to the
    calendar by an `offset`: the errors of neighbouring smiles move together, and their difference, which is what a
    hedger could earn, nearly cancels.
    """
    m, half, law = steps.size, N_SAMPLES // 2, group.law
    normals = np.empty((2, m, N_SAMPLES), dtype=np.float32)
    scratch = np.empty(CHUNK // 2, dtype=np.float32)
    rows = CHUNK // half  # whole chunks are drawn, so that the beginning does not depend on m
    for place, name in enumerate(("driver ahead", "residual ahead")):
        drawn = np.empty((-(-(group.offset + m) // rows) * rows, half), dtype=np.float32)
        fill_normals(generator(_SEED, name, number), drawn.reshape(-1), scratch)
        normals[place, :, :half] = drawn[group.offset : group.offset + m]
        np.negative(normals[place, :, :half], out=normals[place, :, half:])
    shocks, residual = normals
    weight = np.ones(N_SAMPLES, dtype=np.float32)
    growth = np.ones((m, N_SAMPLES), dtype=np.float32)
    root = np.sqrt(steps)[:, None].astype(np.float32)
    if m > 1:
        weights = law.weights(np.append(0.0, np.cumsum(steps[:-1])))
        own = np.stack([np.diagonal(weights.average) * np.sqrt(steps[:-1]), weights.residual])
        weight = _tilt(number, group.offset, steps * np.exp(group.known), shocks, residual, own)
        ahead = weights.average.astype(np.float32) @ (shocks[:-1] * root[:-1])
        ahead += weights.residual[:, None].astype(np.float32) * residual[:-1]
        ahead *= law.eta
        ahead -= (0.5 * law.eta**2 * weights.variance[:, None]).astype(np.float32)
        np.exp(ahead, out=growth[1:])
    shocks *= root
    shocks *= np.sqrt(growth)
    return growth, shocks, weight


def _tilt(
    number: int, offset: int, masses: np.ndarray, driver: np.ndarray, residual: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """Weights (N_SAMPLES,) of the bank's samples, after the normals (m, N_SAMPLES) of some were shifted.

    Far wings live on what plain samples hardly meet. Low strikes (rho < 0): a driver, and with it a variance, that goes
    up all the way. High strikes: a variance that leaps up on one step and a driver that falls on the next, which lifts
    the spot. Each has its share of the samples, and each sample the weight 1 / (mean likelihood ratio of all kinds),
    which is below 2.7. The larger a step's known variance, of `masses` (m,), the more often a leap comes before it; in
    a flat curve its step does not depend on m unless m passes a power of 2, for the reason in `_noise_ahead`.

    own: what a step's driver and residual add to Y at its end, (2, m - 1): the leap is the shortest for its height.
    """
    m, size = driver.shape
    half = size // 2
    up = int(_UP * half)
    drift = (_DRIFT * np.sqrt(masses / masses.sum())).astype(np.float32)
    clock = np.cumsum(masses[1:] / np.median(masses[1:]))
    place = generator(_SEED, "leaps", number).integers(1 << 30, size=int(_SPIKES * half))
    place = (place - offset) % (1 << int(np.ceil(clock[-1]) - 1).bit_length())
    leap = np.searchsorted(clock, place + 0.5)
    inside = np.flatnonzero(leap < m - 1)
    leap = leap[inside]
    by_driver, by_residual = (_LEAP * own / np.hypot(*own)).astype(np.float32)
    fall = np.float32(_FALL)
    for first in (0, half):
        driver[:, first : first + up] += drift[:, None]
        here = first + up + inside
        driver[leap, here] += by_driver[leap]
        residual[leap, here] += by_residual[leap]
        driver[leap + 1, here] -= fall
    shares = (np.bincount(leap, minlength=m - 1) / half).astype(np.float32)
    leapt = by_driver[:, None] * driver[:-1] + by_residual[:, None] * residual[: m - 1] - fall * driver[1:]
    leapt -= np.float32(0.5 * (_LEAP**2 + _FALL**2))
    drifted = np.exp(drift @ driver - np.float32(0.5 * _DRIFT**2))
    plain = np.float32(1.0 - (up + leap.size) / half)
    return 1.0 / (plain + np.float32(up / half) * drifted + shares @ np.exp(leapt))


def _controlled(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """Means of the payoffs (labels,) with the controls taken off, and typical standard errors at like moneyness.

    Slopes are shared by all labels of like moneyness: fitted to each label's own samples they would bias it, as the
    controls have heavy tails. Errors are shared for a like reason: where a few large samples make a price they make its
    error too, and weighting by it would favour labels that are too low.
    """
    x, payoff, square = (array.reshape(-1) for array in (sums.x, sums.payoff, sums.square))
    n_strikes = sums.x.shape[1]
    outer = sums.outer.reshape(x.size, -1)
    control = np.repeat(sums.control, n_strikes, axis=0)
    inner = np.repeat(sums.inner, n_strikes, axis=0)
    means, errors = np.empty_like(payoff), np.empty_like(payoff)
    place = np.minimum(((bent(np, x, BEND)[0] / _RANGE + 1.0) * 20).astype(int), 39)
    for number in range(40):
        here = place == number
        pooled = inner[here].mean(axis=0)
        pooled[np.diag_indices_from(pooled)] += 1e-9 * np.trace(pooled)
        covariance = (outer[here] - payoff[here, None] * control[here]).mean(axis=0)
        slopes = np.linalg.solve(pooled, covariance)
        means[here] = payoff[here] - control[here] @ slopes
        left = (square[here] - payoff[here] ** 2).mean() - slopes @ covariance
        errors[here] = np.sqrt(max(left, 0.0) / (N_SAMPLES // 2))
    return means, errors


def _regress(sums: Sums) -> Smile:
    """Gauss-Newton fit of the smile to the prices, each weighted by what its noise is worth in g."""
    features, means_and_errors = sums.features, _controlled(sums)
    low, high = features.min(axis=1), features.max(axis=1)
    varying = np.flatnonzero(high - low > 1e-5)  # where all curves start from one, none does
    products = total_degree(varying.size, len(_DEGREES_X) - 1)
    state_degrees = np.zeros((len(products), features.shape[0]), dtype=int)
    state_degrees[:, varying] = products
    kept = [(i, place) for place, row in enumerate(products) for i in range(_DEGREES_X[row.sum()] + 1)]
    rows_x, rows_state = (np.array(column) for column in zip(*kept, strict=True))
    blank = Smile(MONEYNESS, BEND, low, high, state_degrees, np.zeros((_DEGREES_X[0] + 1, len(products))))
    state_basis = np.repeat(blank.basis(np, features)[0], sums.x.shape[1], axis=1)
    s, x = np.repeat(sums.s, sums.x.shape[1]), sums.x.reshape(-1)
    target, errors = (s * values for values in means_and_errors)
    x_basis = np.stack(polynomials(np, bent(np, x, BEND)[0] / _RANGE, _DEGREES_X[0]))
    design = (x_basis[rows_x] * state_basis[rows_state]).T
    log_strike, sign = x * s, np.where(x > 0, 1.0, -1.0)
    penalty = 1e-8 + _SMOOTH * (rows_x / 8.0) ** 4 * (products.sum(axis=1)[rows_state] > 0)
    # from the labels' own implied volatilities, biased as they are: from a flat smile far wings, whose prices are then
    # next to nothing, would not be found
    implied = implied_volatility(target, 1.0, np.exp(log_strike), 1.0, is_call=x > 0) / s
    ratio, solution = np.where(np.isfinite(implied), np.clip(implied, 0.2, 3.0), 1.0), np.zeros(len(kept))
    for _ in range(_ROUNDS):
        total = s * ratio
        d1 = -log_strike / total + 0.5 * total
        price = otm_price(log_strike, total, sign)
        slope = s * np.maximum(np.exp(-0.5 * d1 * d1) / np.sqrt(2 * np.pi), 1e-12)
        wanted = ratio + (target - price) / slope  # cut anywhere, labels would be too low: their noise is skewed
        weight = 1.0 / np.hypot(errors / slope, _MISFIT)
        weighted = design * weight[:, None]
        normal = weighted.T @ weighted
        normal[np.diag_indices_from(normal)] += penalty * np.trace(normal) / len(normal)
        solution = np.linalg.solve(normal, weighted.T @ (wanted * weight))
        ratio = np.clip(np.clip(design @ solution, ratio - 0.3, ratio + 0.3), 0.05, 4.0)
    coefficients = np.zeros_like(blank.coefficients)
    coefficients[rows_x, rows_state] = solution
    return dataclasses.replace(blank, coefficients=coefficients)
