"""Marks from the forward-variance curve that each path knows: rough Bergomi and SABR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from hedgerl.sim.backend import Array, namespace, single_threaded_blas, usable_threads
from hedgerl.sim.market import Implied, SmileMarker, flat_smile, from_smile
from hedgerl.sim.mixing import Bins, Group, Law, curve_features, fit
from hedgerl.sim.smile import Smile, blend

if TYPE_CHECKING:
    from hedgerl.sim.paths import Paths


class ForwardVarianceModel(Protocol):
    """What a model must tell for its marks."""

    curves_differ_in_shape: ClassVar[bool]  # or in level alone

    def _law_and_curves(
        self, fine: np.ndarray, first: int, ahead: np.ndarray, rng: np.random.Generator
    ) -> tuple[Law, np.ndarray]:
        """The law of the noise after fine[first], and log xi at the times `ahead` as paths meet it there, spread out a
        little, (N_STATES, m)."""
        ...

    def _log_forward_curve(self, paths: Paths, step: int, ahead: np.ndarray, bins: Bins, part: Array) -> Array:
        """log xi of paths at times[step], averaged over the bins of the steps that start at `ahead`, (b, n)."""
        ...


_EVERY = 10
_RATIO = 1.15
Ranges = tuple[tuple[str, float, float], ...]  # of the perturbed parameters, by name


@dataclass(frozen=True)
class SmileLibrary:
    """The smiles of one model on one grid, each fitted when it is first asked for."""

    model: Any
    fine: tuple[float, ...]
    ranges: Ranges  # of all perturbed parameters
    features: tuple[str, ...]  # those among them that the curve does not show
    smiles: dict[bytes, Smile] = field(default_factory=dict)
    nodes: dict[tuple[int, float], Smile] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def smile(self, steps: np.ndarray) -> Smile:
        """The smile for steps of these lengths up to expiry.

        From _EVERY equal steps on only some numbers of steps are fitted, and g is interpolated between them in the
        logarithm of the number, which may then be broken.
        """
        key = np.round(steps, 12).tobytes()
        with self.lock:
            if key not in self.smiles:
                self.smiles[key] = self._made(steps)
            return self.smiles[key]

    def _made(self, steps: np.ndarray) -> Smile:
        number = float(steps.sum() / steps[0])
        if number < _EVERY + 1e-6 or not np.allclose(steps[:-1], steps[0], rtol=1e-6, atol=0.0):
            return self._fit(steps)
        above = _EVERY
        while above < number - 1e-6:
            below, above = above, int(np.ceil(above * _RATIO))
        share = float(np.log(number / below) / np.log(above / below))
        return blend(self._node(below, steps[0]), self._node(above, steps[0]), share)

    def _node(self, number: int, length: float) -> Smile:
        key = (number, round(float(length), 12))
        if key not in self.nodes:
            self.nodes[key] = self._fit(np.full(number, length))
        return self.nodes[key]

    def _fit(self, steps: np.ndarray) -> Smile:
        fine = np.array(self.fine)
        grid = extended(fine, fine[-1] + float(steps.sum()) * (1 + 1e-9))
        lengths = np.diff(grid)
        # curves are learnt at every time from which the grid goes on in the same way; the last step may be cut short
        full = steps.size - 1
        starts = [
            start
            for start in range(fine.size)
            if np.allclose(lengths[start : start + full], steps[:full], rtol=1e-6, atol=0.0)
        ]
        ahead = np.append(0.0, np.cumsum(steps[:-1]))

        def group(number: int, rng: np.random.Generator) -> Group:
            # the start of the simulation is one state among many, yet the one that every user prices
            first = starts[0] if number % 8 == 0 else starts[int(rng.integers(len(starts)))]
            model, drawn = self.model, {}
            for name, low, high in self.ranges:
                drawn[name] = low + (high - low) * rng.random()
                model = model.with_parameter(name, drawn[name])
            law, curves = model._law_and_curves(fine, first, fine[first] + ahead, rng)
            return Group(law, curves, np.array([drawn[name] for name in self.features]))

        with single_threaded_blas():
            return fit(steps, group, shaped=self.model.curves_differ_in_shape, threads=usable_threads())


@lru_cache(maxsize=32)
def library(model: Any, fine: tuple[float, ...], ranges: Ranges, features: tuple[str, ...]) -> SmileLibrary:
    """The library of smiles, shared by all paths of the same model, grid and ranges of perturbed parameters."""
    return SmileLibrary(model, fine, ranges, features)


class ForwardVarianceMarker(SmileMarker):
    """A marker for models whose variance ahead is lognormal (see `hedgerl.sim.mixing`)."""

    def __init__(self, paths: Paths, hidden: tuple[str, ...]) -> None:
        """hidden: the model's parameters that a forward curve does not show."""
        self.paths = paths
        self.features = tuple(name for name in hidden if name in paths.parameters)
        ranges = tuple((name, *bounds) for name, bounds in paths.ranges.items() if name != "drift")
        self.library = library(paths.model, tuple(paths.grid.fine.tolist()), ranges, self.features)

    def implied(self, step: int, expiry_years: float, part: Array, log_moneyness: Array) -> Implied:
        """See `SmileMarker.implied`."""
        paths = self.paths
        xp = namespace(log_moneyness)
        now = int(paths.grid.kept[step])
        steps = steps_to(paths.grid.fine, now, expiry_years)
        if steps.size == 1:
            volatility = xp.sqrt(paths.variance[step][part])
            return flat_smile(log_moneyness, volatility, 1.0)
        smile = self.library.smile(steps)
        bins = Bins.of(steps)
        ahead = paths.grid.fine[now] + np.append(0.0, np.cumsum(steps[:-1]))
        curve = paths.model._log_forward_curve(paths, step, ahead, bins, part)  # type: ignore[attr-defined]
        s, features = curve_features(xp, bins, curve, self.library.model.curves_differ_in_shape)
        if self.features:
            features = xp.concatenate([features, xp.stack([paths.parameters[name][part] for name in self.features])])
        left = float(steps.sum())
        return from_smile(smile, log_moneyness, s, features, left, left**0.5 / s)


def extended(fine: np.ndarray, until: float) -> np.ndarray:
    """The fine grid, going on with its last step until a time at least."""
    last = fine[-1] - fine[-2]
    missing = int(np.ceil((until - fine[-1]) / last - 1e-6))
    return fine if missing <= 0 else np.append(fine, fine[-1] + last * np.arange(1, missing + 1))


def steps_to(fine: np.ndarray, now: int, expiry_years: float) -> np.ndarray:
    """Lengths of the steps from fine[now] to expiry, the last one cut short where expiry is between two times."""
    grid = extended(fine, expiry_years)
    tolerance = 1e-9 * max(1.0, expiry_years)
    between = grid[now + 1 :][grid[now + 1 :] < expiry_years - tolerance]
    return np.diff(np.concatenate([[grid[now]], between, [expiry_years]]))
