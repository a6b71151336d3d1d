"""What is seen of the episodes that a stable-baselines3 learner collects, as a callback."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from hedgerl.sim.backend import to_numpy

Array = Any


class Episodes(BaseCallback):
    """Adds up the episodes that end while a learner collects: P&L, cost, reward and every term of the reward.

    `take` returns what came together since the last time, so that one callback serves many calls of `learn`. The
    environment is one whose infos are those of `HedgingVecEnv`; infos without them are passed over.

    >>> from hedgerl.envs import make_vec
    >>> from hedgerl.sim import BlackScholes
    >>> from stable_baselines3 import SAC
    >>> venv = make_vec("hedgerl/ShortOption-v0", num_envs=4, market=BlackScholes(volatility=0.2))
    >>> callback = Episodes()
    >>> _ = SAC("MlpPolicy", venv, learning_starts=1000, seed=1).learn(84, callback)
    >>> scalars, histograms = callback.take()
    >>> sorted(scalars)
    ['cost', 'episodes', 'pnl', 'reward', 'term/pnl_deviation', 'term/transaction_cost']
    >>> histograms["action/0"].shape
    (84,)
    """

    def __init__(self) -> None:
        super().__init__()
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._pnl: list[float] = []
        self._actions: list[Array] = []

    def _on_step(self) -> bool:
        given = self.locals.get("clipped_actions", self.locals.get("actions"))
        if given is not None:  # a tensor stays where it is: to fetch it at each step would be to wait for a device
            self._actions.append(given.detach().clone() if isinstance(given, torch.Tensor) else np.array(given))
        if np.any(self.locals["dones"]):
            for info in self.locals["infos"]:
                self._add(info)
        return True

    def _add(self, info: dict[str, Any]) -> None:
        if "pnl" not in info:
            return
        numbers = {"pnl": info["pnl"], "cost": info["cost"]}
        if "episode" in info:
            numbers["reward"] = info["episode"]["r"]
        numbers |= {f"term/{name}": value for name, value in info.get("reward_terms", {}).items()}
        for name, value in numbers.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._counts[name] = self._counts.get(name, 0) + 1
        self._pnl.append(float(info["pnl"]))

    def take(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """(means by name with the number of episodes, samples for histograms by name) since the last call."""
        scalars = {name: total / self._counts[name] for name, total in self._sums.items()}
        histograms: dict[str, np.ndarray] = {}
        if self._pnl:
            scalars["episodes"] = float(len(self._pnl))
            histograms["pnl"] = np.array(self._pnl)
        if self._actions:
            tensors = all(isinstance(each, torch.Tensor) for each in self._actions)  # then in one piece
            rows = to_numpy(torch.stack(self._actions)) if tensors else [to_numpy(each) for each in self._actions]
            actions = np.concatenate([each.reshape(each.shape[0], -1) for each in rows])
            histograms |= {f"action/{i}": actions[:, i] for i in range(actions.shape[1])}
        self._clear()
        return scalars, histograms
