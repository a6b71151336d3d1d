"""A terminal objective paid out as it accrues, so that each action is judged by the steps that follow it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from array_api_compat import array_namespace
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor

from hedgerl.envs.environment import Environment
from hedgerl.envs.vector import tensor_device
from hedgerl.execution.costs import clip
from hedgerl.sim.backend import to_numpy

Array = Any


class AccruedVecEnv(VecEnvWrapper):
    """Rewards of which each episode's sum is that of the environment's `mean_std` or `cvar` reward, step by step.

    The terminal term is a function of the loss L at the end. With L_t the loss so far (positions at their marks) and
    f that function, the reward of a step is -w (f(L_{t+1}) - f(L_t)), and f(L_0) at the first: a potential-based
    shaping (Ng, Harada & Russell 1999, theorem 1), which leaves the best policy where it is for gamma = 1, and a
    critic nothing to learn but what is still to come. f moves with the episodes' moments only between batches.

    delta: whether, besides, each step is relieved of what the frictionless delta hedge of the liabilities, of loss d
    over it, would have made of L_t: mean_std gains w (f(L_t + d) - f(L_t)), cvar w f'(L_t) d. As d is a martingale's
    increment that no action changes, cvar's expectations stay as they are, and mean_std's move by w a / 2s E[d^2],
    f being quadratic: the same for all policies. The order of policies stays, and what is learned from is the
    difference from the delta hedge, with a fraction of the noise. It needs marks that are martingales under the
    simulated dynamics, or nearly so: Black-Scholes with a drift is, to the order of dt^2.

    Where the environment steps by tensors (`hedgerl.envs.vector.tensor_device`) so does this one.
    """

    def __init__(self, venv: VecEnv, *, delta: bool = False) -> None:
        super().__init__(venv)
        environment = getattr(venv, "environment", None) or venv.get_attr("environment", [0])[0]
        assert isinstance(environment, Environment)
        loss = environment.reward.loss
        if loss not in ("mean_std", "cvar"):
            raise ValueError(f"reward's loss must be mean_std or cvar to accrue, got {loss!r}")
        self.environment = environment
        self.delta = delta
        self.tensor_device = tensor_device(venv)

    def reset(self) -> Any:
        """See `VecEnv.reset`."""
        seen = self.venv.reset()
        self._begin()
        return seen

    def reset_tensors(self) -> Any:
        """See `HedgingVecEnv.reset_tensors`."""
        inner: Any = self.venv
        seen = inner.reset_tensors()
        self._begin()
        return seen

    def step_tensors(self, actions: Any) -> tuple[Any, Tensor, bool, list[dict[str, Any]] | None]:
        """See `HedgingVecEnv.step_tensors`."""
        self.step_async(actions)
        return self.wait_tensors()

    def wait_tensors(self) -> tuple[Any, Tensor, bool, list[dict[str, Any]] | None]:
        """See `HedgingVecEnv.wait_tensors`."""
        inner: Any = self.venv
        step = self._rollout.step
        seen, rewards, done, infos = inner.wait_tensors()
        if self._known:
            rewards = self._accrued(step, rewards.double(), done).to(torch.float32)
        if done:
            self._begin()
        return seen, rewards, done, infos

    def _begin(self) -> None:
        judge = self.environment.judge
        self._judge, self._rollout = judge, judge.rollout
        self._loss = judge.losses()
        moments, config = judge.moments, judge.config
        self._level, self._spread, self._threshold = moments.mean, max(moments.variance**0.5, 1e-6), moments.threshold
        if config.threshold is not None:
            self._threshold = config.threshold
        self._known = bool(moments.episodes)
        self._paid: Array = array_namespace(self._loss).zeros_like(self._loss)

    def _potential(self, loss: Array) -> Array:
        config = self._judge.config
        if config.loss == "cvar":
            return self._threshold + clip(loss - self._threshold, 0.0, math.inf) / (1.0 - config.alpha)
        half = 0.5 * config.aversion("mean_std")
        return loss + half * ((loss - self._level) ** 2 / self._spread + self._spread)

    def _slope(self, loss: Array) -> Array:
        """Of the cvar's potential."""
        return array_namespace(loss).astype(loss > self._threshold, loss.dtype) / (1.0 - self._judge.config.alpha)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """See `VecEnv.step_wait`."""
        if self.tensor_device is not None:
            tensor, reward, over, ended = self.wait_tensors()
            if ended is None:
                ended = [{} for _ in range(self.num_envs)]
            return to_numpy(tensor), to_numpy(reward), np.full(self.num_envs, over), ended
        step = self._rollout.step
        seen, rewards, dones, infos = self.venv.step_wait()
        done = bool(dones.any())
        if self._known:
            rewards = self._accrued(step, rewards.astype(np.float64), done).astype(np.float32)
        if done:
            self._begin()
        return seen, rewards, dones, infos

    def _accrued(self, step: int, own: Array, done: bool) -> Array:
        """The rewards of a step, from the environment's own of it, float64; before the next batch begins.

        Nothing accrues in the first batch of all, whose moments are not known before it ends.
        """
        judge, rollout, before = self._judge, self._rollout, self._loss
        w = judge.config.w
        after = judge.losses()
        accrued = self._potential(after) - self._potential(before)
        if step == 0:
            accrued += self._potential(before)
        self._paid += accrued
        own -= w * accrued
        if self.delta:
            of = rollout.scenario
            ahead = of.liability_value[step + 1]
            if of.liabilities.listings:
                ahead = ahead + of.settlement[step + 1] + (0.0 if done else of.premium[step + 1])
            gained = ahead - of.liability_value[step] - of.liability_delta[step] * (of.spot[step + 1] - of.spot[step])
            lost = -gained * judge.per_money
            if judge.config.loss == "mean_std":
                own += w * (self._potential(before + lost) - self._potential(before))
            else:
                own += w * self._slope(before) * lost
        if done:
            own += w * self._paid  # the terminal term, of which the accrued ones have been paid
        self._loss = after
        return own
