"""Hedging environments: scenarios, the transition, tasks, observations, actions and rewards."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hedgerl.envs.action import Action
from hedgerl.envs.environment import Environment
from hedgerl.envs.gym import HedgingEnv, register
from hedgerl.envs.observation import FEATURES, RAW, Flat, Raw
from hedgerl.envs.reward import Reward
from hedgerl.envs.scenario import Contracts, Listing, Scenario
from hedgerl.envs.task import TASKS, OptionBook, Position, ShortOption, SpyOverlay, Task
from hedgerl.envs.transition import Execution, Limits, Record, Rollout

if TYPE_CHECKING:
    from hedgerl.envs.vector import HedgingVecEnv, make_vec

register()


def __getattr__(name: str) -> Any:
    if name in ("HedgingVecEnv", "make_vec"):  # stable-baselines3 brings torch: seconds that few programs need to wait
        return getattr(importlib.import_module("hedgerl.envs.vector"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "FEATURES",
    "RAW",
    "TASKS",
    "Action",
    "Contracts",
    "Environment",
    "Execution",
    "Flat",
    "HedgingEnv",
    "HedgingVecEnv",
    "Limits",
    "Listing",
    "OptionBook",
    "Position",
    "Raw",
    "Record",
    "Reward",
    "Rollout",
    "Scenario",
    "ShortOption",
    "SpyOverlay",
    "Task",
    "make_vec",
]
