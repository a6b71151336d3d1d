"""Policies judged on the same paths again and again: simulated once, kept, and never trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hedgerl.agents.networks import PolicyModule
from hedgerl.agents.objectives import Criterion
from hedgerl.baselines import Objective
from hedgerl.envs import Action, Raw, Reward, Rollout, Scenario, Task
from hedgerl.envs.observation import Prepared, observed_as
from hedgerl.envs.reward import Judge, Moments
from hedgerl.evaluation.bootstrap import resamples
from hedgerl.evaluation.rollouts import default_chunk, interface_of
from hedgerl.sim.backend import to_numpy
from hedgerl.sim.noise import drawn_seed, seed_sequence


@dataclass(frozen=True)
class Goal:
    """What policies are judged by: one number of P&L (n,), less is better; the measures of `Criterion`.

    parameter None: the measure's own. P&L is per 100 of initial spot x size, as in results, but for `in_money`.
    """

    name: str
    parameter: float | None = None

    def __post_init__(self) -> None:
        Criterion(self.name, self.parameter)  # raises for what is not known or out of range

    @property
    def level(self) -> float:
        """The parameter."""
        return Criterion(self.name, self.parameter).parameter

    @property
    def label(self) -> str:
        """For people."""
        c = f"{self.level:g}"
        return {
            "cvar": f"CVaR {100 * self.level:g} %",
            "mean_std": f"mean + {c} sd",
            "entropic": f"entropic risk ({c})",
            "variance": "variance",
            "quadratic": "mean square",
        }[self.name]

    def __call__(self, pnl: np.ndarray) -> float:
        return Criterion(self.name, self.parameter).measure(np.ascontiguousarray(pnl))

    def in_money(self, task: Task) -> Goal:
        """The same goal of P&L in currency."""
        if self.name != "entropic":
            return self
        return Goal(self.name, self.level * 100.0 / (task.market.spot * task.size))

    def for_band(self) -> Objective:
        """What the tuned band minimises: the variance where the goal is the mean square."""
        name = "variance" if self.name == "quadratic" else self.name
        return Objective(name, None if name == "variance" else self.level)


@dataclass(frozen=True, eq=False)
class Score:
    """How a policy did. Money is per 100 of initial spot x size of the task."""

    value: float  # of the objective: less is better
    pnl: np.ndarray  # (n,)
    cost: float  # mean
    actions: np.ndarray  # (n x n_steps, a), of a network
    observed: tuple[tuple[float, ...], tuple[float, ...]] | None  # least and largest of each column seen
    terms: dict[str, float]  # mean of every term of the reward in an episode, before weights; where it was asked for


class FixedPaths:
    """`n_paths` episodes of a task from a seed, held in memory with what each kind of policy observes of them.

    The stream is named, so that no path of training, tuning or the final test is among them, whatever the seeds.
    """

    def __init__(self, task: Task, n_paths: int, seed: int, objective: Goal, name: str = "validation") -> None:
        self.task = task
        self.objective = objective
        chunk = default_chunk(task)
        self._parts: list[Scenario] = []
        for index, first in enumerate(range(0, n_paths, chunk)):
            drawn = drawn_seed(seed_sequence(seed, name, index))
            made = task.scenario(min(chunk, n_paths - first), drawn)
            self._parts.append(made if isinstance(made.spot, np.ndarray) else made.mapped(to_numpy))
        self._network: tuple[Any, list[Prepared]] | None = None  # the last network's observation, prepared

    def score(self, policy: Any, reward: Reward | None = None, moments: Moments | None = None) -> Score:
        """The policy on these paths. A network's observation is prepared once, a baseline's each time.

        reward: whose terms are added up, at the moments of the episodes so far.
        """
        observation, action = interface_of(policy)
        seen_as = observed_as(observation, self.task)
        flat = not isinstance(seen_as, Raw)
        if not flat:
            prepared = None
        elif self._network is not None and self._network[0] == seen_as:
            prepared = self._network[1]
        else:
            prepared = [seen_as.prepare(part, self.task) for part in self._parts]
            self._network = seen_as, prepared
        pnl, costs, actions, low, high = [], [], [], [], []
        sums: dict[str, float] = {}
        for index, part in enumerate(self._parts):
            view = seen_as.prepare(part, self.task) if prepared is None else prepared[index]
            convert = Action.of(action, self.task).bind(part, self.task)
            rollout = Rollout(part, self.task.execution)
            scale = 100.0 / (part.spot[0] * self.task.size)
            opening = rollout.wealth
            judge = None
            if reward is not None:
                known = Moments() if moments is None else moments
                judge = Judge(reward, self.task, rollout, known, record=True, learn=False)
            state, start = None, np.ones(part.n_paths, dtype=bool)
            while not rollout.done:
                seen = view.at(rollout)
                answer, state = policy.predict(seen, state=state, episode_start=start, deterministic=True)
                if flat:
                    actions.append(np.asarray(answer).reshape(part.n_paths, -1))
                    low.append(seen.min(axis=0))
                    high.append(seen.max(axis=0))
                target = convert(answer, rollout)
                gained = rollout.act(target)
                if judge is not None:
                    judge.reward(target, gained)
                start = np.zeros(part.n_paths, dtype=bool)
            pnl.append((rollout.wealth - opening) * scale)
            costs.append(rollout.total_cost * scale)
            for name, amount in judge.sums.items() if judge is not None else ():
                sums[name] = sums.get(name, 0.0) + float(amount.sum())
        sample = np.concatenate(pnl)
        observed = None
        if flat:
            observed = tuple(np.min(low, axis=0).tolist()), tuple(np.max(high, axis=0).tolist())
        return Score(
            value=self.objective(sample),
            pnl=sample,
            cost=float(np.concatenate(costs).mean()),
            actions=np.concatenate(actions) if actions else np.zeros((0, 0)),
            observed=observed,
            terms={name: total / sample.size for name, total in sums.items()},
        )


class Acting:
    """A network as a policy that `evaluate` and `FixedPaths` take; `interface` has the observation and the action."""

    def __init__(self, module: PolicyModule, interface: Any) -> None:
        self.module = module
        self.interface = interface
        self._discrete = interface.action.kind == "discrete"

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """The action, and the state after it; all episodes begin together."""
        with torch.inference_mode():
            parameter = next(self.module.parameters())
            seen = torch.as_tensor(np.asarray(observation, dtype=np.float32), device=parameter.device)
            carried = self.module.initial_state(seen.shape[0]) if state is None else state
            action, *after = self.module(seen, *carried)
            if self._discrete:
                action = action.argmax(dim=1)
        return action.cpu().numpy(), tuple(after)


def paired_intervals(
    objective: Goal, pnl: Mapping[str, np.ndarray], policy: str, count: int, confidence: float, seed: int
) -> dict[str, dict[str, float]]:
    """Objective of `policy` less that of each other one on the same episodes: name -> value, difference, low, high.

    A percentile bootstrap that draws the same episodes for all. Below zero: the policy is better.
    """
    own = np.ascontiguousarray(pnl[policy])
    changes: dict[str, list[float]] = {name: [] for name in pnl if name != policy}
    for draws, _ in resamples(own.size, count, seed):
        for row in draws:
            base = objective(own[row])
            for name, values in changes.items():
                values.append(base - objective(pnl[name][row]))
    tail = 0.5 * (1.0 - confidence)
    out = {}
    for name, values in changes.items():
        low, high = (float(each) for each in np.quantile(values, [tail, 1.0 - tail]))
        value = objective(pnl[name])
        out[name] = {"value": value, "difference": objective(own) - value, "low": low, "high": high}
    return out
