"""Soft actor-critic on whole batches: stable-baselines3's SAC with settings for episodes that end together."""

from __future__ import annotations

from typing import Any

import numpy as np
from sb3_contrib import TQC
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

ALGORITHMS: dict[str, type[OffPolicyAlgorithm]] = {"SAC": SAC, "TD3": TD3, "TQC": TQC}


def make_sac(env: VecEnv, algorithm: str = "SAC", **settings: Any) -> OffPolicyAlgorithm:
    """A SAC, TD3 or TQC of stable-baselines3 on an environment of many episodes at once.

    Episodes are finite and judged at their end, so nothing is discounted. Each step of the environment brings
    `num_envs` transitions, which one call adds to the replay buffer, and is followed by `gradient_steps` updates: an
    update for each of them would cost a thousand times the step. The buffer keeps observations and rewards as they
    were before a `NormalisedVecEnv` and normalises what it draws with the statistics of that moment.

    env: wrap it in `AccruedVecEnv`, where the reward is terminal (a critic that looks one step ahead learns it slowly
    else), and then in `NormalisedVecEnv`. settings: the constructor's own; those given replace these:

        learning_rate 1e-3, buffer_size 300,000, batch_size 512, gamma 1, tau .02, n_steps 5, train_freq 1,
        gradient_steps 4, learning_starts 20 steps of the environment, net_arch (128, 128); SAC and TQC: ent_coef
        "auto_0.01"; TD3: Gaussian action noise of .1

    With one-step targets, a slower tau and a larger coefficient and buffer the hedge traded far too often: see
    docs/research_notes.md.

    Raises ValueError for an algorithm that is not known and for a batch larger than the buffer.

    >>> from hedgerl.envs import make_vec
    >>> from hedgerl.sim import BlackScholes
    >>> venv = make_vec("hedgerl/ShortOption-v0", num_envs=64, market=BlackScholes(volatility=0.2))
    >>> model = make_sac(venv, seed=1, batch_size=64).learn(64 * 30)
    >>> model.replay_buffer.pos, model._n_updates
    (30, 40)
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    given: dict[str, Any] = {
        "learning_rate": 1e-3,
        "buffer_size": 300_000,
        "batch_size": 512,
        "gamma": 1.0,
        "tau": 0.02,
        "n_steps": 5,
        "train_freq": 1,
        "gradient_steps": 4,
        "learning_starts": 20 * env.num_envs,
        "policy_kwargs": {"net_arch": [128, 128]},
        "device": "auto",
    }
    if algorithm == "TD3":
        size = int(np.prod(env.action_space.shape or (1,)))
        noise = NormalActionNoise(np.zeros(size), np.full(size, 0.1))
        given["action_noise"] = VectorizedActionNoise(noise, env.num_envs)
    else:
        given["ent_coef"] = "auto_0.01"
    given.update(settings)
    if given["batch_size"] > given["buffer_size"]:
        raise ValueError(f"batch_size must be at most buffer_size = {given['buffer_size']}, got {given['batch_size']}")
    return ALGORITHMS[algorithm](given.pop("policy", "MlpPolicy"), env, **given)
