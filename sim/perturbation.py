"""Random parameters, one draw a path: domain randomisation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hedgerl.pricing._checks import finite, positive
from hedgerl.sim.noise import STREAM_PATHS, generator

if TYPE_CHECKING:
    from hedgerl.sim.model import Model


class Distribution(Protocol):
    """What a parameter is drawn from."""

    @property
    def low(self) -> float:
        """The least value."""
        ...

    @property
    def high(self) -> float:
        """The largest value."""
        ...

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        """The draws that the uniforms on (0, 1) stand for, by the inverse of the distribution function."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high]."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if finite("low", self.low) > finite("high", self.high):
            raise ValueError(f"low must not lie above high, got {self.low!r} and {self.high!r}")

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        """See `Distribution.draw`."""
        return self.low + (self.high - self.low) * uniform


@dataclass(frozen=True)
class LogUniform:
    """exp of a uniform on [log low, log high]: equal odds for equal ratios."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if positive("low", self.low) > positive("high", self.high):
            raise ValueError(f"low must not lie above high, got {self.low!r} and {self.high!r}")

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        """See `Distribution.draw`."""
        return self.low * (self.high / self.low) ** uniform


def distributions(model: Model, perturb: Mapping[str, Any] | None) -> dict[str, Distribution]:
    """The distributions by parameter name; a pair (low, high) means `Uniform(low, high)`.

    Raises ValueError for a name that the model does not let vary by path, and for bounds its own rules refuse.
    """
    if perturb is None:
        return {}
    if not isinstance(perturb, Mapping):
        raise ValueError(f"perturb must map names of parameters to distributions, got {perturb!r}")
    result: dict[str, Distribution] = {}
    for name, given in perturb.items():
        if name not in model.perturbable:
            raise ValueError(f"perturb must name one of {', '.join(model.perturbable)}, got {name!r}")
        if hasattr(given, "draw"):
            distribution: Distribution = given
        elif isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) and len(given) == 2:
            low, high = (finite(f"perturb[{name!r}]", bound) for bound in given)
            distribution = Uniform(low, high)
        else:
            raise ValueError(f"perturb[{name!r}] must be a distribution or a pair (low, high), got {given!r}")
        result[name] = distribution
    # the model's own checks, with its own words: rules may join several parameters, and are monotone in each
    for corner in itertools.product(*((item.low, item.high) for item in result.values())):
        changed = model
        for name, bound in zip(result, corner, strict=True):
            changed = changed.with_parameter(name, bound)
    return result


def draw(distributions: Mapping[str, Distribution], seed: int, first_path: int, n_paths: int) -> dict[str, np.ndarray]:
    """Draws by parameter name, each (n_paths,) float64, for the paths from `first_path` on.

    Each parameter has a stream of its own for each STREAM_PATHS paths: naming one more leaves the others as they are.
    """
    result = {}
    for name, distribution in distributions.items():
        groups = range(first_path // STREAM_PATHS, -(-(first_path + n_paths) // STREAM_PATHS))
        uniform = np.concatenate([generator(seed, f"perturb {name}", group).random(STREAM_PATHS) for group in groups])
        start = first_path % STREAM_PATHS
        result[name] = distribution.draw(uniform[start : start + n_paths])
    return result
