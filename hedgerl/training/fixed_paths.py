"""Policies judged on the same paths again and again: simulated once, kept, and never trained on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, Self

import numpy as np
import torch

from hedgerl.agents.networks import PolicyModule
from hedgerl.agents.objectives import PARAMETERS, Criterion, RewardCriterion
from hedgerl.baselines import Objective
from hedgerl.envs import Action, Raw, Reward, Rollout, Scenario, Task
from hedgerl.envs.observation import Prepared, observed_as
from hedgerl.envs.reward import Judge, Moments
from hedgerl.evaluation.bootstrap import resamples
from hedgerl.evaluation.rollouts import default_chunk, interface_of
from hedgerl.pricing._checks import nearest
from hedgerl.sim.backend import to_numpy
from hedgerl.sim.noise import drawn_seed, seed_sequence


@dataclass(frozen=True)
class Goal:
    """What policies are judged by: one number of P&L (n,), less is better; the measures of `Criterion`, or "reward".

    parameter None: the measure's own. P&L is per 100 of initial spot x size, as in results, but for `in_money`.

    "reward" is minus the mean reward of an episode, in the reward's own unit (its weights times multiples of its M),
    with the risk of exactly the sample for each terminal loss: see `RewardCriterion`. Of each episode it needs
    `Judge.linear` beside the P&L. `of_reward` makes it.
    """

    name: str
    parameter: float | None = None
    reward: Reward | None = None  # of "reward"
    unit: float = 1.0  # its M for each unit of P&L

    def __post_init__(self) -> None:
        if self.name != "reward":
            if self.name not in PARAMETERS:
                known = (*PARAMETERS, "reward")
                raise ValueError(
                    f"objective must be one of {', '.join(known)}, got {self.name!r}; the nearest is "
                    f"{nearest(self.name, known)!r}"
                )
        elif self.parameter is not None:
            raise ValueError(f"parameter must be null where the objective is the reward, got {self.parameter!r}")
        if (self.reward is None) is (self.name == "reward"):
            raise ValueError(f"reward must be given where the objective is the reward only, got {self.name!r}")
        _ = self._criterion  # raises for a parameter out of range, and where nothing has a weight

    @cached_property
    def _criterion(self) -> Criterion | RewardCriterion:
        return Criterion(self.name, self.parameter) if self.reward is None else RewardCriterion(self.reward)

    @classmethod
    def of_reward(cls, reward: Reward, task: Task) -> Self:
        """The goal that is the reward itself, of P&L per 100 of initial spot x size."""
        notional = task.market.spot * task.size
        return cls("reward", reward=reward, unit=1e4 if reward.scale is None else 0.01 * notional / reward.scale)

    @property
    def level(self) -> float:
        """The parameter; of a reward that of its loss, 0 where it has none."""
        if isinstance(self._criterion, Criterion):
            return self._criterion.parameter
        assert self.reward is not None
        if self.reward.loss == "cvar":
            return self.reward.alpha
        return self.reward.aversion(self.reward.loss) if self.reward.loss in ("entropic", "mean_std") else 0.0

    @property
    def label(self) -> str:
        """For people."""
        if self.reward is not None:
            of = self.reward
            more = {"pnl_weight": of.pnl_weight, **of.weights}
            parts = [of.loss, f"w {of.w:g}", f"lam {of.lam:g}"]
            parts += [f"{name} {weight:g}" for name, weight in more.items() if weight]
            return f"minus the reward ({', '.join(parts)})"
        c = f"{self.level:g}"
        return {
            "cvar": f"CVaR {100 * self.level:g} %",
            "mean_std": f"mean + {c} sd",
            "entropic": f"entropic risk ({c})",
            "variance": "variance",
            "quadratic": "mean square",
        }[self.name]

    @property
    def money(self) -> str:
        """What its values are in, for people."""
        return "per 100 of initial spot x size" if self.reward is None else "of the reward of an episode"

    def __call__(self, pnl: np.ndarray, linear: np.ndarray | None = None) -> float:
        """The objective of a sample. linear (n,): `Judge.linear` of each episode, where the goal is the reward."""
        if isinstance(self._criterion, Criterion):
            return self._criterion.measure(np.ascontiguousarray(pnl))
        if linear is None:
            raise ValueError("linear must be given where the objective is the reward, got None")
        return self._criterion.measure(self.unit * pnl, linear)

    def in_money(self, task: Task) -> Goal:
        """The same goal of P&L in currency."""
        if self.reward is not None:
            return dataclasses.replace(self, unit=self.unit * 100.0 / (task.market.spot * task.size))
        if self.name != "entropic":
            return self
        return Goal(self.name, self.level * 100.0 / (task.market.spot * task.size))

    def for_band(self, n_steps: int = 1) -> Objective:
        """What the tuned band minimises: the variance where the goal is the mean square; where it is the reward, the
        objective of P&L that is nearest to it, see `_nearest_objective`. n_steps: of an episode."""
        if self.reward is not None:
            return _nearest_objective(self.reward, self.unit, n_steps)
        name = "variance" if self.name == "quadratic" else self.name
        return Objective(name, None if name == "variance" else self.level)


def _nearest_objective(reward: Reward, unit: float, n_steps: int) -> Objective:
    """The objective of P&L, `unit` of the reward's M in one of its units, that is nearest to a reward.

    =========  ========================================================================================================
    loss       objective
    =========  ========================================================================================================
    entropic   entropic, at the same aversion
    mse        variance
    cvar       cvar at alpha; with a weight on cost or P&L, mean_std at c = k w / (w + lam + pnl_weight), k = 2.06 for
               95 %: what CVaR less the mean is for normal P&L in deviations, as marks are fair and a mean is a cost
    mean_std   mean_std at c = a w / (w + lam + pnl_weight)
    abs        mean_std at c = w sqrt(2 n / pi) / (lam + pnl_weight): the sum over n steps of mean |P&L| is so many
               deviations of the whole where steps are normal, alike and uncorrelated; variance, where nothing
               weighs cost
    =========  ========================================================================================================

    w and lam with what `weights` adds to them; other terms do not count.
    """
    weights = reward.total_weights
    loss, cost = reward.loss, weights.get("transaction_cost", 0.0) + max(reward.pnl_weight, 0.0)
    if loss == "entropic":
        return Objective("entropic", reward.aversion("entropic") * unit)
    if loss == "mse":
        return Objective("variance")
    if loss == "abs":
        deviation, mean = weights.get("pnl_deviation", 0.0) * math.sqrt(2.0 * n_steps / math.pi), cost
        return Objective("mean_std", deviation / mean) if mean > 0.0 else Objective("variance")
    if loss == "cvar":
        weight, normal = weights.get("tail_loss", 0.0), NormalDist()
        if not cost:
            return Objective("cvar", reward.alpha)
        ratio = normal.pdf(normal.inv_cdf(reward.alpha)) / (1.0 - reward.alpha)
    else:
        weight, ratio = weights.get("mean_std", 0.0), reward.aversion("mean_std")
    return Objective("mean_std", ratio * weight / (weight + cost) if weight + cost else ratio)


@dataclass(frozen=True, eq=False)
class Score:
    """How a policy did. Money is per 100 of initial spot x size of the task."""

    value: float  # of the objective: less is better
    pnl: np.ndarray  # (n,)
    cost: float  # mean
    actions: np.ndarray  # (n x n_steps, a), of a network
    observed: tuple[tuple[float, ...], tuple[float, ...]] | None  # least and largest of each column seen
    terms: dict[str, float]  # mean of every term of the reward in an episode, before weights; where it was asked for
    linear: np.ndarray | None = None  # (n,), `Judge.linear`; where the objective is the reward


class FixedPaths:
    """`n_paths` episodes of a task from a seed, held in memory with what each kind of policy observes of them.

    The stream is named, so that no path of training, tuning or the final test is among them, whatever the seeds.
    """

    def __init__(self, task: Task, n_paths: int, seed: int, objective: Goal, name: str = "validation") -> None:
        self.task = task
        self.objective = objective
        self._parts = list(_scenarios(task, n_paths, seed, name))
        self._network: tuple[Any, list[Prepared]] | None = None  # the last network's observation, prepared

    @classmethod
    def of(cls, scenario: Scenario, task: Task, objective: Goal) -> Self:
        """The episodes of a scenario of NumPy's arrays."""
        made = cls(task, 0, 0, objective)
        made._parts = [scenario]
        return made

    def score(self, policy: Any, reward: Reward | None = None, moments: Moments | None = None) -> Score:
        """The policy on these paths. A network's observation is prepared once, a baseline's each time.

        reward: whose terms are added up, at the moments of the episodes so far; where the objective is a reward, its.
        """
        own = self.objective.reward
        judged = reward if own is None else own
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
        pnl, costs, linear, actions, low, high = [], [], [], [], [], []
        sums: dict[str, float] = {}
        for index, part in enumerate(self._parts):
            view = seen_as.prepare(part, self.task) if prepared is None else prepared[index]
            convert = Action.of(action, self.task).bind(part, self.task)
            rollout = Rollout(part, self.task.execution)
            scale = 100.0 / (part.spot[0] * self.task.size)
            opening = rollout.wealth
            judge = None
            if judged is not None:
                known = Moments() if moments is None else moments
                judge = Judge(judged, self.task, rollout, known, record=reward is not None, learn=False)
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
            if judge is not None and own is not None:
                linear.append(judge.linear())
            for name, amount in judge.sums.items() if judge is not None and reward is not None else ():
                sums[name] = sums.get(name, 0.0) + float(amount.sum())
        sample = np.concatenate(pnl)
        counted = np.concatenate(linear) if linear else None
        observed = None
        if flat:
            observed = tuple(np.min(low, axis=0).tolist()), tuple(np.max(high, axis=0).tolist())
        return Score(
            value=self.objective(sample, counted),
            pnl=sample,
            cost=float(np.concatenate(costs).mean()),
            actions=np.concatenate(actions) if actions else np.zeros((0, 0)),
            observed=observed,
            terms={name: total / sample.size for name, total in sums.items()},
            linear=counted,
        )


def _scenarios(task: Task, n_paths: int, seed: int, name: str) -> Iterator[Scenario]:
    """The chunks of a named stream, on the host; "evaluation" is that of `hedgerl.evaluate`."""
    chunk = default_chunk(task)
    for index, first in enumerate(range(0, n_paths, chunk)):
        made = task.scenario(min(chunk, n_paths - first), drawn_seed(seed_sequence(seed, name, index)))
        yield made if isinstance(made.spot, np.ndarray) else made.mapped(to_numpy)


def linear_terms(
    policies: Mapping[str, Any], task: Task, goal: Goal, n_paths: int, seed: int
) -> dict[str, np.ndarray] | None:
    """`Judge.linear` (n,) of each policy on the paths that `hedgerl.compare` has with this seed, which are simulated
    once more, a chunk at a time; None where the goal is not the reward."""
    if goal.reward is None:
        return None
    rows: dict[str, list[np.ndarray]] = {name: [] for name in policies}
    for part in _scenarios(task, n_paths, seed, "evaluation"):
        paths = FixedPaths.of(part, task, goal)
        for name, policy in policies.items():
            linear = paths.score(policy).linear
            assert linear is not None
            rows[name].append(linear)
    return {name: np.concatenate(parts) for name, parts in rows.items()}


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
    objective: Goal,
    pnl: Mapping[str, np.ndarray],
    policy: str,
    count: int,
    confidence: float,
    seed: int,
    linear: Mapping[str, np.ndarray] | None = None,
) -> dict[str, dict[str, float]]:
    """Objective of `policy` less that of each other one on the same episodes: name -> value, difference, low, high.

    A percentile bootstrap that draws the same episodes for all. Below zero: the policy is better. linear: as `Goal`
    needs it.
    """

    def value(name: str, row: Any = slice(None)) -> float:
        return objective(pnl[name][row], None if linear is None else linear[name][row])

    changes: dict[str, list[float]] = {name: [] for name in pnl if name != policy}
    for draws, _ in resamples(pnl[policy].size, count, seed):
        for row in draws:
            base = value(policy, row)
            for name, values in changes.items():
                values.append(base - value(name, row))
    tail = 0.5 * (1.0 - confidence)
    out = {}
    for name, values in changes.items():
        low, high = (float(each) for each in np.quantile(values, [tail, 1.0 - tail]))
        other = value(name)
        out[name] = {"value": other, "difference": value(policy) - other, "low": low, "high": high}
    return out
