"""The tuned band: a delta at a scaled volatility inside a no-trade band, two numbers fitted on training paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from scipy.optimize import minimize

from hedgerl.baselines.base import (
    BOOK,
    DELTAS,
    PLACES,
    TERMS,
    Baseline,
    Observation,
    book_shares,
    delta_at,
    excess,
    names,
    net_delta,
    with_less_delta,
)
from hedgerl.baselines.objective import Objective
from hedgerl.baselines.whalley_wilmott import band
from hedgerl.envs.observation import Prepared, Raw
from hedgerl.envs.scenario import Scenario
from hedgerl.envs.task import Task
from hedgerl.envs.transition import Rollout
from hedgerl.pricing._checks import non_negative, positive, whole_number
from hedgerl.sim.backend import to_numpy

Array = Any
Shape = Literal["constant", "whalley_wilmott"]

_SCALES = (0.7, 1.0, 1.4, 2.0, 3.0)  # the coarse grid
_WIDTHS = (0.0, 0.03, 0.07, 0.12, 0.2, 0.35)
_LARGEST = 5.0  # scale


@dataclass(frozen=True)
class Fitted:
    """How a band was tuned: on `n_paths` training paths of `seed`, to `value` of `objective` after `evaluations`."""

    objective: str
    parameter: float
    value: float
    evaluations: int
    n_paths: int
    seed: int | None


@dataclass(frozen=True)
class TunedBand(Baseline):
    """Trades to the edge of a band around the Black-Scholes delta at `scale` x implied volatility, and not inside it.

    A scale above 1 is what Leland's cost does to an option sold; the band is that of Davis, Panas & Zariphopoulou
    (1993). `shape` of its half width, in shares of delta:

        constant         width x shares of the book
        whalley_wilmott  width x that of Whalley & Wilmott (1997) at risk aversion 1 / shares of the book

    so that both are for each share that the book stands for, and the latter is a risk aversion of width^-3 for one
    share. Width 0 at scale 1 is the implied `Delta`. Two numbers tuned for the task at hand on its own costs (`fit`)
    are a bar that few networks clear.
    """

    scale: float = 1.0
    width: float = 0.05
    shape: Shape = "constant"
    fitted: Fitted | None = None

    def __post_init__(self) -> None:
        positive("scale", self.scale)
        non_negative("width", self.width)
        if self.shape not in ("constant", "whalley_wilmott"):
            raise ValueError(f"shape must be one of constant, whalley_wilmott, got {self.shape!r}")

    @property
    def observation(self) -> tuple[str, ...]:
        """See `Baseline.observation`."""
        return names(PLACES, TERMS, BOOK, DELTAS["implied"], "cost_per_share")

    def target(self, observation: Observation) -> Array:
        """See `Baseline.target`."""
        hedge_delta = observation["hedge_bs_delta"]
        exposure = observation["liability_bs_delta"]
        if self.scale != 1.0:
            exposure = delta_at(observation, self.scale * observation["liability_volatility"])
        shares = book_shares(observation)
        if self.shape == "constant":
            half: Array = self.width * shares
        else:  # aversion 1 / N: (3/2 k S (N g)^2 N)^(1/3) = N (3/2 k S g^2)^(1/3)
            half = self.width * shares ** (1.0 / 3.0) * band(observation, 1.0)
        net = net_delta(observation, exposure + observation["kept_bs_delta"], hedge_delta)
        return with_less_delta(observation, excess(net, half), hedge_delta)

    @classmethod
    def fit(
        cls,
        task: Task,
        *,
        objective: str | Objective = "mean_std",
        n_paths: int = 5_000,
        seed: int | None = None,
        shape: Shape = "constant",
        parameter: float | None = None,
        evaluations: int = 80,
        scenario: Scenario | None = None,
    ) -> Self:
        """The band whose P&L has the least `objective` on training paths of the task, costs and unwinding included.

        All candidates meet the same paths, so that the objective is a function of the two numbers without noise of its
        own: the best of a grid of 5 x 6, then Nelder-Mead from there until `evaluations` are spent. Evaluate on
        paths of another seed: the training value, in `fitted`, flatters.

        objective, parameter: see `Objective`. scenario: training paths, instead of n_paths and seed.
        """
        goal = objective if isinstance(objective, Objective) else Objective(objective, parameter)
        grid = len(_SCALES) * len(_WIDTHS)
        whole_number("evaluations", evaluations, minimum=grid)
        if scenario is None:
            scenario = task.scenario(whole_number("n_paths", n_paths), seed)
        prepared = Raw(cls(shape=shape).observation).prepare(scenario, task)
        if shape == "whalley_wilmott":
            usual = _usual_band(prepared, scenario, task)
            widths = [width / usual for width in _WIDTHS]
        else:
            usual, widths = 1.0, list(_WIDTHS)
        values: dict[tuple[float, float], float] = {}

        def value(scale: float, width: float) -> float:
            key = (scale, width)
            if key not in values:
                pnl = rollout_pnl(cls(scale=scale, width=width, shape=shape), task, scenario, prepared)
                values[key] = goal(pnl)
            return values[key]

        for scale in _SCALES:
            for width in widths:
                value(scale, width)
        best = min(values, key=lambda key: values[key])
        unit = 0.05 / usual  # of the width

        def of_simplex(point: np.ndarray) -> float:
            scale, width = float(np.exp(point[0])), float(point[1]) * unit
            if width < 0.0 or scale > _LARGEST or scale < 1.0 / _LARGEST:
                return float("inf")
            return value(scale, width)

        start = np.array([np.log(best[0]), best[1] / unit])
        simplex = start + np.array([[0.0, 0.0], [0.2, 0.0], [0.0, 0.6]])
        spare = max(evaluations - grid, 1)
        minimize(
            of_simplex,
            start,
            method="Nelder-Mead",
            options={"initial_simplex": simplex, "maxfev": spare, "xatol": 2e-3, "fatol": 0.0},
        )
        best = min(values, key=lambda key: values[key])
        assert goal.parameter is not None
        report = Fitted(goal.name, goal.parameter, values[best], len(values), scenario.n_paths, seed)
        return cls(scale=best[0], width=best[1], shape=shape, fitted=report)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names, for JSON or YAML."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The band that `to_dict` wrote."""
        given = dict(values)
        if given.get("fitted") is not None:
            given["fitted"] = Fitted(**given["fitted"])
        return cls(**given)


def rollout_pnl(policy: Baseline, task: Task, scenario: Scenario, prepared: Prepared | None = None) -> np.ndarray:
    """P&L (n,) of a baseline on a scenario, after all costs, without keeping what happened on the way."""
    seen = Raw(policy.observation).prepare(scenario, task) if prepared is None else prepared
    rollout, state = Rollout(scenario, task.execution), None
    start = rollout.wealth
    while not rollout.done:
        target, state = policy.predict(seen.at(rollout), state)
        rollout.act(target)
    return to_numpy(rollout.wealth - start)


def _usual_band(prepared: Prepared, scenario: Scenario, task: Task) -> float:
    """Half width at width 1 for each share at the first step, averaged over paths; 1 where there is none."""
    seen = prepared.at(Rollout(scenario, task.execution))
    shares = book_shares(seen)
    half = band(seen, 1.0) * shares ** (1.0 / 3.0) / (shares + (shares == 0.0))
    return float(half.mean()) or 1.0
