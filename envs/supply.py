"""Episodes without end: blocks of paths are drawn and marked ahead, and handed out batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from hedgerl.envs.action import Action
from hedgerl.envs.environment import Environment
from hedgerl.envs.observation import Flat, Prepared, Raw, n_liabilities
from hedgerl.envs.reward import Reward
from hedgerl.envs.scenario import Scenario
from hedgerl.envs.task import TASKS, Task
from hedgerl.pricing._checks import nearest
from hedgerl.sim.backend import to_numpy, to_torch
from hedgerl.sim.noise import drawn_seed

_MARKS = 12 << 20  # in a block at most
_PATHS = (256, 1024, 12288)  # in a block at least, and at most for a handful of environments and for more


class Supply:
    """Batches of `num_envs` episodes of a task, with what is observed of them.

    They are NumPy arrays, or tensors on a device of torch. Each block of paths has its own seed, spawned from the one
    given; batches are its parts in order. The same seed gives the same batches, None fresh ones.
    """

    def __init__(self, environment: Environment, num_envs: int, block: int | None = None, device: Any = None) -> None:
        task = environment.task
        self.environment = environment
        self.num_envs = num_envs
        self.device = device
        contracts = len(task.instruments) + n_liabilities(task)
        most = _PATHS[1] if num_envs < 64 else _PATHS[2]
        wanted = min(max(_MARKS // (task.n_steps * contracts), _PATHS[0]), most) if block is None else block
        self.block = max(1, wanted // num_envs) * num_envs  # paths
        self._sent: dict[Any, Any] = {}
        self.seed(None)

    def seed(self, seed: int | None) -> None:
        """Starts again from this seed."""
        self._seeds = np.random.SeedSequence(seed)
        self._next = self.block
        self._scenario: Scenario | None = None
        self._prepared: Prepared | None = None

    def batch(self) -> tuple[Scenario, Prepared]:
        """The next batch and what is observed of it."""
        if self._scenario is None or self._prepared is None or self._next + self.num_envs > self.block:
            self._draw()
        assert self._scenario is not None
        assert self._prepared is not None
        first, self._next = self._next, self._next + self.num_envs
        if self.num_envs == self.block:
            return self._scenario, self._prepared
        return self._scenario.part(first, self._next), self._prepared.part(first, self._next)

    def _draw(self) -> None:
        seed = drawn_seed(self._seeds.spawn(1)[0])
        scenario = self.environment.task.scenario(self.block, seed)
        if self.device is not None:
            scenario = scenario.mapped(lambda array: to_torch(array, self.device))
        elif not isinstance(scenario.spot, np.ndarray):
            scenario = scenario.mapped(to_numpy)
        scenario.known(self._sent)  # once for all batches
        self._scenario, self._next = scenario, 0
        self._prepared = self.environment.prepare(scenario)


Interface = tuple[Task, Flat | Raw | tuple[str, ...] | str | None, Action | str | None, Reward | None]


def configured(name: str, overrides: Mapping[str, Any]) -> Interface:
    """The task of that name with some of its fields changed, and its observation, action and reward.

    Raises ValueError for a key that is neither a field of the task nor one of these three, with the nearest that is.
    """
    task = TASKS[name]
    fields = [item.name for item in dataclasses.fields(task)]
    known = [*fields, "observation", "action", "reward"]
    for key in overrides:
        if key not in known:
            raise ValueError(f"{key} is not known to {name}; the nearest name is {nearest(key, known)}")
    values = dict(overrides)
    observation, action, reward = (values.pop(key, None) for key in ("observation", "action", "reward"))
    if isinstance(reward, Mapping):
        reward = _from_mapping(Reward, "reward", reward)
    if isinstance(action, Mapping):
        action = _from_mapping(Action, "action", action)
    if not (reward is None or isinstance(reward, Reward)):
        raise ValueError(f"reward must be a Reward or a mapping of its fields, got {reward!r}")
    return task(**values), observation, action, reward


def _from_mapping(kind: Any, what: str, values: Mapping[str, Any]) -> Any:
    known = [item.name for item in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise ValueError(f"{what} has no field {key}; the nearest name is {nearest(key, known)}")
    return kind(**values)
