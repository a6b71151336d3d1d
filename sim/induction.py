"""GARCH marks by backward induction over the model's own steps (after Duan 1995).

    c_m(k, h) = E[e^R c_(m-1)(k - R, h')],
    R = -h/2 + sqrt(h) Z,    h' = omega + (alpha + gamma 1[Z < 0]) h Z^2 + beta h,

for undiscounted prices c at log strike k on a forward of 1, m steps before expiry, where h is the variance of the next
step; c_1 is Black-Scholes at volatility sqrt(h). The expectation is a quadrature over Z, and c_(m-1) is read from the
smile of the step before, so there is no sampling error.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.polynomial import chebyshev

from hedgerl.pricing import implied_volatility
from hedgerl.sim.backend import Array, namespace
from hedgerl.sim.device import Place
from hedgerl.sim.forward_variance import Curves
from hedgerl.sim.market import Contract, Implied, Marks, SmileMarker, fitted_marks, flat_marks, flat_smile, from_smile
from hedgerl.sim.smile import Ratio, Smile, interpolate, otm_price, polynomials

if TYPE_CHECKING:
    from hedgerl.sim.garch import GARCH
    from hedgerl.sim.paths import Paths

_MONEYNESS = 5.0  # smiles are fitted to |log(K / F)| of so many expected standard deviations
_NODES = (19, 15)  # in moneyness and in log volatility
_QUADRATURE = 48  # nodes on either side of 0, where the recursion has a kink
_TOP = 100.0  # smiles reach to so many times the long-run variance


class Recursion(NamedTuple):
    """Parameters of the recursion of h, each a number or one for each path."""

    omega: Any
    alpha: Any
    gamma: Any
    beta: Any

    @property
    def long_run(self) -> Any:
        """Unconditional variance of a step."""
        return self.omega / (1.0 - self.persistence)

    @property
    def persistence(self) -> Any:
        """The share of a variance shock that is left after a step."""
        return self.alpha + 0.5 * self.gamma + self.beta

    def weight(self, n_steps: int) -> Any:
        """What the mean variance of the next n_steps steps keeps of h - long_run."""
        return (1.0 - self.persistence**n_steps) / (n_steps * (1.0 - self.persistence))

    def mean_variance(self, h: Any, n_steps: int) -> Any:
        """Expected variance a step over the next n_steps steps."""
        return self.long_run + (h - self.long_run) * self.weight(n_steps)

    def bounds(self, n_steps: int, floor: float) -> tuple[Any, Any]:
        """Least and largest mean variance of the smiles: h from `floor` omega to _TOP times the long run."""
        return self.mean_variance(floor * self.omega, n_steps), self.mean_variance(_TOP * self.long_run, n_steps)


@dataclass(frozen=True, eq=False)
class Induction:
    """The smiles of one recursion by steps to expiry.

    Their feature is where the log of the mean variance lies between its bounds, from 0 to 1.
    """

    recursion: Recursion
    floor: float
    known: list[Smile] = field(default_factory=list)  # for 2, 3, .. steps
    lock: Lock = field(default_factory=Lock)

    def smile(self, n_steps: int) -> Smile:
        """The smile n_steps >= 2 before expiry."""
        with self.lock:
            while len(self.known) < n_steps - 1:
                self.known.append(self._step_back(len(self.known) + 2))
            return self.known[n_steps - 2]

    def _step_back(self, n_steps: int) -> Smile:
        recursion = self.recursion
        low, high = recursion.bounds(n_steps, self.floor)
        nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE)
        z = np.concatenate([4.5 * (nodes - 1), 4.5 * (nodes + 1)])  # [-9, 0] and [0, 9]
        density = np.tile(4.5 * weights, 2) * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
        response = recursion.alpha + recursion.gamma * (z < 0)

        def ratio(x: np.ndarray, position: np.ndarray) -> np.ndarray:
            mean = low * (high / low) ** position
            h = (recursion.long_run + (mean - recursion.long_run) / recursion.weight(n_steps))[..., None]
            s = np.sqrt(mean * n_steps)
            log_strike = x * s
            log_return = -0.5 * h + np.sqrt(h) * z
            following = recursion.omega + (response * z * z + recursion.beta) * h
            moved = log_strike[..., None] - log_return
            sign = np.where(x > 0, 1.0, -1.0)[..., None]
            later = self._deviation(moved, following, n_steps - 1)
            expected = (np.exp(log_return) * otm_price(moved, later, sign) * density).sum(axis=-1)
            # with a unit of time left the implied volatility is the deviation
            return implied_volatility(expected, 1.0, np.exp(log_strike), 1.0, is_call=log_strike > 0) / s

        return interpolate(_MONEYNESS, 0.0, 1.0, _NODES, ratio)

    def _deviation(self, log_strike: np.ndarray, h: np.ndarray, n_steps: int) -> np.ndarray:
        """Implied volatility times the root of time, n_steps before expiry."""
        if n_steps == 1:
            return np.sqrt(h) + 0.0 * log_strike
        mean = self.recursion.mean_variance(h, n_steps)
        low, high = self.recursion.bounds(n_steps, self.floor)
        s = np.sqrt(mean * n_steps) + 0.0 * log_strike
        position = np.broadcast_to(np.log(mean / low) / np.log(high / low), s.shape)
        ratio = self.known[n_steps - 2](np, (log_strike / s).reshape(-1), position.reshape(1, -1))
        return s * ratio.value.reshape(s.shape)


@lru_cache(maxsize=512)
def _induction(recursion: Recursion, floor: float) -> Induction:
    return Induction(recursion, floor)


@lru_cache(maxsize=2048)
def _ahead(induction: Induction, n_steps: int, per_year: float, place: Place) -> tuple[Smile, Curves]:
    """The smile n_steps before expiry by the log of the root of the mean variance, and the way there, on a device."""
    recursion = induction.recursion
    low, high = (0.5 * float(np.log(bound)) for bound in recursion.bounds(n_steps, induction.floor))
    smile = dataclasses.replace(induction.smile(n_steps), low=np.array([low]), high=np.array([high]))
    # s^2 = n_steps (long_run + (h - long_run) weight): a part that moves with the variance, and one that does not
    kept = recursion.weight(n_steps)
    factors = n_steps * np.array([kept / per_year, recursion.long_run * (1.0 - kept)])
    bins = np.stack([factors, np.zeros(2), np.zeros(2)], axis=1)
    return smile, Curves.of(place, bins, None, False, n_steps)


class InductionMarker(SmileMarker):
    """GARCH marks; between two steps implied volatility is interpolated in time.

    Where parameters differ by path, g is interpolated between the smiles of the recursions at Chebyshev nodes of their
    ranges: 5 in one parameter, 4 in each of two, 3 in each of more, so up to 81 smiles a mark.
    """

    def __init__(self, paths: Paths, model: GARCH) -> None:
        self.paths = paths
        self.per_year = model.steps_per_year
        given = {name: model.parameters[name] for name in Recursion._fields}
        self.ranges = {name: bounds for name, bounds in paths.ranges.items() if name in given}
        lowest = paths.ranges["v0"][0] if "v0" in paths.ranges else model.parameters["v0"]
        least_omega = self.ranges["omega"][0] if "omega" in self.ranges else given["omega"]
        self.floor = 1.0 if lowest is None else min(1.0, lowest / self.per_year / least_omega)
        count = {0: 1, 1: 5, 2: 4}.get(len(self.ranges), 3)
        self.nodes = chebyshev.chebpts1(count)
        at_nodes = [np.interp(self.nodes, (-1, 1), bounds).tolist() for bounds in self.ranges.values()]
        self.inductions = [
            _induction(Recursion(**(given | dict(zip(self.ranges, values, strict=True)))), self.floor)
            for values in itertools.product(*at_nodes)
        ]

    def implied(self, step: int, expiry_years: float, part: Array, log_moneyness: Array) -> Implied:
        """See `SmileMarker.implied`."""
        left = (expiry_years - float(self.paths.times[step])) * self.per_year
        whole = round(left)
        if abs(left - whole) < 1e-6 * max(1.0, left):
            return self._on_step(whole, step, part, log_moneyness)
        whole = int(left)
        after = self._on_step(whole + 1, step, part, log_moneyness)
        if whole == 0:
            return after
        before = self._on_step(whole, step, part, log_moneyness)
        share = left - whole
        return Implied(*((1 - share) * early + share * late for early, late in zip(before, after, strict=True)))

    def _device_marks(self, step: int, expiry_years: float, part: Array, contract: Contract, left: float) -> Marks:
        """See `SmileMarker._device_marks`; between two steps, and where the recursion differs by path, the array code
        implies the volatilities."""
        model, variance = self.paths.model, self.paths.variance[step][part]
        steps_left = left * self.per_year
        n_steps = round(steps_left)
        between = abs(steps_left - n_steps) >= 1e-6 * max(1.0, steps_left)
        if (steps_left if between else n_steps) <= 1:
            return flat_marks(contract, left, model, variance)
        if between or self.ranges:
            return super()._device_marks(step, expiry_years, part, contract, left)
        smile, curves = _ahead(self.inductions[0], n_steps, self.per_year, Place.of(variance))
        return fitted_marks(contract, left, model, smile, curves.state(variance), n_steps / self.per_year)

    def _on_step(self, n_steps: int, step: int, part: Array, log_moneyness: Array) -> Implied:
        xp, paths = namespace(log_moneyness), self.paths
        variance = paths.variance[step][part]
        if n_steps == 1:
            return flat_smile(log_moneyness, xp.sqrt(variance), 1.0)
        drawn = {name: draws[part] for name, draws in paths.parameters.items()}
        recursion = Recursion(*(drawn.get(name, paths.model.parameters[name]) for name in Recursion._fields))
        mean = recursion.mean_variance(variance / self.per_year, n_steps)
        low, high = (xp.log(xp.asarray(bound, dtype=mean.dtype)) for bound in recursion.bounds(n_steps, self.floor))
        position = (xp.log(mean) - low) / (high - low)
        shares = self._shares(xp, drawn)

        def blended(xp: ModuleType, x: Array, features: Array) -> Ratio:
            parts = [induction.smile(n_steps)(xp, x, features) for induction in self.inductions]
            columns = [
                sum(share * part[place] for share, part in zip(shares, parts, strict=True)) for place in range(4)
            ]
            # the feature is not log s itself: log s moves it by 2 / (high - low)
            return Ratio(columns[0], columns[1], columns[2], columns[3] * (2.0 / (high - low)))

        left = n_steps / self.per_year
        by_volatility = recursion.weight(n_steps) * xp.sqrt(variance) / (mean * self.per_year)
        return from_smile(blended, log_moneyness, xp.sqrt(mean * n_steps), position[None], left, by_volatility)

    def _shares(self, xp: ModuleType, drawn: dict[str, Array]) -> list[Any]:
        """Weights of the nodes' smiles by path, in the order of `inductions`: Lagrange's polynomials."""
        shares: list[Any] = [1.0]
        to_nodes = np.linalg.inv(chebyshev.chebvander(self.nodes, self.nodes.size - 1)).T
        for name, (low, high) in self.ranges.items():
            unit = (2.0 * drawn[name] - (low + high)) / max(high - low, 1e-300)
            basis = xp.stack(polynomials(xp, unit, self.nodes.size - 1))
            lagrange = xp.asarray(to_nodes, dtype=basis.dtype) @ basis
            shares = [share * row for share in shares for row in lagrange]
        return shares
