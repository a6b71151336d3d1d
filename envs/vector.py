"""The tasks as vectorised environments of stable-baselines3."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from hedgerl.envs.captured import CapturedEpisodes
from hedgerl.envs.environment import Environment
from hedgerl.envs.graphs import Graphs, graphs_for
from hedgerl.envs.gym import ENVIRONMENTS
from hedgerl.envs.supply import Supply, configured
from hedgerl.pricing._checks import nearest, whole_number
from hedgerl.sim.backend import to_numpy

Array = Any


class HedgingVecEnv(VecEnv):
    """`num_envs` episodes at once, all on the same step, reset together and of themselves.

    The info of an episode's last step has "terminal_observation", "TimeLimit.truncated" (False: an episode ends, it
    is not cut), "episode" ({"r", "l", "t"}, as of stable-baselines3's Monitor), "pnl", "cost" and "reward_terms" as
    `HedgingEnv`. `seed` holds from the next `reset`, which then begins the sequence of episodes that belongs to it.

    block: paths that are simulated and marked together, in whole batches; None: up to 12,288, which for a book of
        random clients takes some 2 GB.
    device: of torch, on which episodes are then tensors; None: NumPy. `reset_tensors` and `step_tensors` keep to it,
        and wait for it only where an episode ends; the interface of `VecEnv` brings their answers to the host.
    capture: whether steps are captured as CUDA graphs and replayed, see `CapturedEpisodes`; None: on a CUDA device.

    >>> import torch
    >>> from hedgerl.envs import ShortOption
    >>> from hedgerl.sim import BlackScholes
    >>> venv = HedgingVecEnv(Environment(ShortOption(market=BlackScholes(volatility=0.2))), 4, device="cpu")
    >>> seen, done = venv.reset_tensors(), False
    >>> while not done:
    ...     seen, rewards, done, infos = venv.step_tensors(torch.zeros(4, 1))
    >>> seen.shape, rewards.dtype, len(infos)
    (torch.Size([4, 11]), torch.float32, 4)
    """

    def __init__(
        self,
        environment: Environment,
        num_envs: int,
        *,
        block: int | None = None,
        device: torch.device | str | None = None,
        capture: bool | Graphs | None = None,
    ) -> None:
        self.environment = environment
        self.num_envs = whole_number("num_envs", num_envs)
        self.render_mode: str | None = None
        self.tensor_device = None if device is None else _there(device)
        graphs = graphs_for(self.tensor_device, capture)
        self.captured = None if graphs is None else CapturedEpisodes(environment, graphs)
        self._supply = Supply(environment, num_envs, block, self.tensor_device)
        self._actions: Array = None
        self._began = time.time()
        super().__init__(num_envs, environment.observation_space, environment.action_space)

    def reset(self) -> Any:
        """The first observations of the next batch of episodes."""
        return _on_host(self._begin())

    def reset_tensors(self) -> Any:
        """The same as tensors on `tensor_device`."""
        self._need_device()
        return self._begin()

    def _begin(self) -> Any:
        if self._seeds[0] is not None:
            self._supply.seed(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self._next_batch()

    def step_async(self, actions: Array) -> None:
        """Takes the actions of the next step."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Observations, rewards, whether episodes have ended, infos."""
        seen, reward, done, infos = self._advance()
        if infos is None:
            infos = [{} for _ in range(self.num_envs)]
        return _on_host(seen), to_numpy(reward).astype(np.float32), np.full(self.num_envs, done), infos

    def step_tensors(self, actions: Array) -> tuple[Any, Any, bool, list[dict[str, Any]] | None]:
        """Observations (n, d), rewards (n,) float32, whether the episodes have ended, and then their infos, else None.

        Observations and rewards are tensors on `tensor_device`, those of `reset_tensors` included: the observations
        are of the next batch where the episodes have ended. Actions should lie there. Raises ValueError at the end of
        the episodes for actions that were NaN or infinite.
        """
        self.step_async(actions)
        return self.wait_tensors()

    def wait_tensors(self) -> tuple[Any, Any, bool, list[dict[str, Any]] | None]:
        """What `step_tensors` returns, of the actions that `step_async` has taken."""
        self._need_device()
        seen, reward, done, infos = self._advance()
        return seen, reward.to(torch.float32), done, infos

    def _need_device(self) -> None:
        if self.tensor_device is None:
            raise ValueError("device must be given for tensors, got None")

    def _advance(self) -> tuple[Any, Array, bool, list[dict[str, Any]] | None]:
        """A step with the actions taken: as `step_tensors`, rewards float64, in the library of the episodes."""
        seen, reward, done = (self.captured or self.environment).step(self._actions)
        if not done:
            return seen, reward, False, None
        infos = self._summaries(_on_host(seen))
        return self._next_batch(), reward, True, infos

    def _next_batch(self) -> Any:
        scenario, prepared = self._supply.batch()
        episodes = self.captured or self.environment
        return episodes.reset(scenario, prepared=prepared, late=self.tensor_device is not None)

    def _summaries(self, seen: Any) -> list[dict[str, Any]]:
        """Infos of the episodes that have ended; all their numbers come from a device in one piece."""
        judge, rollout = self.environment.judge, self.environment.rollout
        length, elapsed = rollout.step, round(time.time() - self._began, 6)
        last: Iterable[Any] = seen
        if isinstance(seen, dict):
            last = ({name: values[i] for name, values in seen.items()} for i in range(self.num_envs))
        names = tuple(judge.sums)
        numbers = [judge.total, rollout.wealth - judge.opening, rollout.total_cost, *judge.sums.values()]
        totals, pnl, costs, *sums = to_numpy(rollout.xp.stack(numbers)).tolist()
        terms = zip(*sums, strict=True) if names else [()] * self.num_envs
        return [
            {
                "terminal_observation": final,
                "TimeLimit.truncated": False,
                "episode": {"r": total, "l": length, "t": elapsed},
                "pnl": gained,
                "cost": cost,
                "reward_terms": dict(zip(names, each, strict=True)),
            }
            for final, total, gained, cost, each in zip(last, totals, pnl, costs, terms, strict=True)
        ]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """The seed of the next `reset`; None draws one."""
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._seeds = [seed] * self.num_envs
        return self._seeds

    def close(self) -> None:
        """Nothing is held open."""

    def get_images(self) -> Sequence[np.ndarray | None]:
        """There are no pictures."""
        return [None] * self.num_envs

    def has_attr(self, attr_name: str) -> bool:
        """Whether `get_attr` knows it."""
        return hasattr(self._owner(attr_name), attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute, of the batched `Environment` or else of this object, for each of the episodes asked for."""
        return [getattr(self._owner(attr_name), attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute, of all episodes together: they share one environment."""
        if len(set(self._get_indices(indices))) != self.num_envs:
            raise ValueError("indices must name all environments, which share their attributes")
        setattr(self._owner(attr_name), attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Calls a method, once; its answer for each of the episodes asked for."""
        answer = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        return [answer] * len(list(self._get_indices(indices)))

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """True for `Monitor`, whose infos are filled in; there are no other wrappers."""
        return [issubclass(wrapper_class, Monitor)] * len(list(self._get_indices(indices)))

    def _owner(self, name: str) -> Any:
        return self.environment if hasattr(self.environment, name) and name != "reset" else self


def tensor_device(env: VecEnv) -> torch.device | None:
    """Where an environment steps by tensors; None where it does not, or a wrapper around it knows nothing of them."""
    device: torch.device | None = vars(env).get("tensor_device")  # a wrapper would look for it in what it wraps
    return device


def _there(device: torch.device | str) -> torch.device:
    """The device, with its number. Raises ValueError where torch has none of that name."""
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError) as error:  # a torch without CUDA asserts
        why = str(error).partition("\n")[0]
        raise ValueError(f"device must be one that torch has here, got {str(device)!r}: {why}") from None


def _on_host(seen: Any) -> Any:
    if isinstance(seen, dict):
        return {name: to_numpy(values) for name, values in seen.items()}
    return to_numpy(seen)


def make_vec(
    id: str,
    num_envs: int,
    *,
    block: int | None = None,
    device: torch.device | str | None = None,
    capture: bool | Graphs | None = None,
    **overrides: Any,
) -> HedgingVecEnv:
    """`num_envs` episodes at once of the task registered as `id`, for stable-baselines3.

    overrides: as of `gymnasium.make`. block, device, capture: see `HedgingVecEnv`.

    >>> from hedgerl.sim import BlackScholes
    >>> venv = make_vec("hedgerl/ShortOption-v0", num_envs=4, market=BlackScholes(volatility=0.2))
    >>> _ = venv.seed(7)
    >>> venv.reset().shape
    (4, 11)
    """
    if id not in ENVIRONMENTS:
        raise ValueError(
            f"id must be one of {', '.join(ENVIRONMENTS)}, got {id!r}; the nearest is {nearest(id, ENVIRONMENTS)!r}"
        )
    task, observation, action, reward = configured(ENVIRONMENTS[id].task_name, overrides)
    environment = Environment(task, observation, action, reward)
    return HedgingVecEnv(environment, num_envs, block=block, device=device, capture=capture)
