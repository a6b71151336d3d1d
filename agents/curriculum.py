"""A curriculum: training begins with an easier task and ends with the one that is meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hedgerl.envs.task import Task
from hedgerl.execution.costs import Cost
from hedgerl.pricing._checks import finite, positive, whole_number
from hedgerl.sim import Model

# What a cost is proportional to, and what of a model is a volatility (power 1) or a variance (power 2).
_PRICES = ("price", "bps", "volatility_points", "per_contract", "per_share_fee", "rate", "coefficient")
_VOLATILITIES: Mapping[str, Mapping[str, int]] = {
    "BlackScholes": {"volatility": 1},
    "SABR": {"volatility": 1},
    "RoughBergomi": {"forward_variance": 2},
    "Heston": {"v0": 2, "theta": 2, "sigma": 1},  # sigma, too: then the smile keeps its shape
    "GARCH": {"omega": 2, "v0": 2},
}


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Stages of training. In stage s of S the costs, the volatility and the horizon are those of the task times

        f + (1 - f) s / S,   s = 0 .. S,

    f the share that each begins with; stage S is the task itself. The first S stages share the first `until` of all
    iterations evenly. No stages: the task itself from the beginning.

    >>> from hedgerl.envs import ShortOption
    >>> ramp = Curriculum(stages=4, until=0.5, costs=0.0)
    >>> [ramp.stage(i, 100) for i in (0, 12, 13, 49, 50, 99)]
    [0, 0, 1, 3, 4, 4]
    >>> [ramp.task(ShortOption(), s).execution.costs[0].bps for s in range(5)]
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """

    stages: int = 0
    until: float = 0.5  # share of the iterations before the last stage
    costs: float = 1.0
    volatility: float = 1.0
    horizon: float = 1.0  # of the steps, each as long as in the task

    def __post_init__(self) -> None:
        whole_number("curriculum.stages", self.stages, minimum=0)
        if not 0.0 < finite("curriculum.until", self.until) <= 1.0:
            raise ValueError(f"curriculum.until must lie in (0, 1], got {self.until!r}")
        if finite("curriculum.costs", self.costs) < 0.0:
            raise ValueError(f"curriculum.costs must not be negative, got {self.costs!r}")
        positive("curriculum.volatility", self.volatility)
        if not 0.0 < finite("curriculum.horizon", self.horizon) <= 1.0:
            raise ValueError(f"curriculum.horizon must lie in (0, 1], got {self.horizon!r}")
        if not self.stages and (self.costs, self.volatility, self.horizon) != (1.0, 1.0, 1.0):
            raise ValueError("curriculum.stages must be at least 1 where costs, volatility or horizon grow, got 0")

    def stage(self, iteration: int, iterations: int) -> int:
        """The stage of an iteration, counted from 0, of so many in all."""
        if not self.stages:
            return 0
        return min(self.stages, int(iteration * self.stages / (self.until * iterations)))

    def task(self, task: Task, stage: int) -> Task:
        """The task as it is in that stage. Raises ValueError where its market has no volatility to scale."""
        done = stage / self.stages if self.stages else 1.0
        if done >= 1.0:
            return task
        costs, volatility, horizon = (
            share + (1.0 - share) * done for share in (self.costs, self.volatility, self.horizon)
        )
        changes: dict[str, Any] = {}
        if costs != 1.0:
            scaled = tuple(_cheaper(cost, costs) for cost in task.execution.costs)
            changes["execution"] = dataclasses.replace(task.execution, costs=scaled)
        if volatility != 1.0:
            changes["market"] = _calmer(task, volatility)
        steps = max(1, round(horizon * task.n_steps))
        if steps < task.n_steps:
            changes |= {"n_steps": steps, "maturity": task.maturity * steps / task.n_steps}
        return dataclasses.replace(task, **changes)


def _cheaper(cost: Cost, factor: float) -> Cost:
    values = {name: factor * getattr(cost, name) for name in _PRICES if hasattr(cost, name)}
    return dataclasses.replace(cost, **values)


def _calmer(task: Task, factor: float) -> Model:
    """The task's model at `factor` times its volatility, the shape of its smile kept."""
    model, powers = task.market, _VOLATILITIES.get(type(task.market).__name__)
    if powers is None:
        raise ValueError(f"curriculum.volatility needs a model whose volatility can grow, got {type(model).__name__}")
    drawn = sorted(set(powers) & set(task.perturb or ()))
    if drawn:
        raise ValueError(f"curriculum.volatility cannot grow where task.perturb draws {', '.join(drawn)}")
    changes: dict[str, Any] = {}
    for name, power in powers.items():
        value, scale = getattr(model, name), factor**power
        if value is None:  # of GARCH's v0: the long run, which omega scales
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):  # a curve through points
            curve: Any = value
            changes[name] = dataclasses.replace(curve, values=tuple(scale * each for each in curve.values))
        elif callable(value):
            changes[name] = _Scaled(value, scale)
        else:
            changes[name] = scale * value
    return dataclasses.replace(model, **changes)


@dataclass(frozen=True)
class _Scaled:
    """A curve times a number."""

    curve: Any
    scale: float

    def __call__(self, times: Any) -> Any:
        return self.scale * self.curve(times)
