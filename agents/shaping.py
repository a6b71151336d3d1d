"""A terminal objective paid out as it accrues, so that each action is judged by the steps that follow it."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from hedgerl.envs.environment import Environment


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
        self._sum: np.ndarray = np.zeros(self.num_envs)
        self._before: Any = None

    def reset(self) -> Any:
        """See `VecEnv.reset`."""
        seen = self.venv.reset()
        self._begin()
        return seen

    def _begin(self) -> None:
        judge = self.environment.judge
        self._judge, self._rollout = judge, judge.rollout
        self._loss = judge.losses()
        moments, config = judge.moments, judge.config
        self._level, self._spread, self._threshold = moments.mean, max(moments.variance**0.5, 1e-6), moments.threshold
        if config.threshold is not None:
            self._threshold = config.threshold
        self._known = bool(moments.episodes)
        self._paid = np.zeros(self.num_envs)

    def _potential(self, loss: np.ndarray) -> np.ndarray:
        config = self._judge.config
        if config.loss == "cvar":
            return self._threshold + np.maximum(loss - self._threshold, 0.0) / (1.0 - config.alpha)
        half = 0.5 * config.aversion("mean_std")
        return loss + half * ((loss - self._level) ** 2 / self._spread + self._spread)

    def _slope(self, loss: np.ndarray) -> np.ndarray:
        """Of the cvar's potential."""
        return (loss > self._threshold) / (1.0 - self._judge.config.alpha)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """See `VecEnv.step_wait`."""
        judge, rollout, before = self._judge, self._rollout, self._loss
        step = rollout.step
        seen, rewards, dones, infos = self.venv.step_wait()
        w = judge.config.w
        if not self._known:  # the first batch of all: its moments are not known before it ends
            if dones.any():
                self._begin()
            return seen, rewards, dones, infos
        after = judge.losses()
        own = rewards.astype(np.float64)
        accrued = self._potential(after) - self._potential(before)
        if step == 0:
            accrued += self._potential(before)
        self._paid += accrued
        own -= w * accrued
        if self.delta:
            of = rollout.scenario
            ahead = of.liability_value[step + 1]
            if of.liabilities.listings:
                ahead = ahead + of.settlement[step + 1] + (0.0 if dones.any() else of.premium[step + 1])
            gained = ahead - of.liability_value[step] - of.liability_delta[step] * (of.spot[step + 1] - of.spot[step])
            lost = -gained * judge.per_money
            if judge.config.loss == "mean_std":
                own += w * (self._potential(before + lost) - self._potential(before))
            else:
                own += w * self._slope(before) * lost
        if dones.any():
            own += w * self._paid  # the terminal term, of which the accrued ones have been paid
            self._begin()
        else:
            self._loss = after
        return seen, own.astype(np.float32), dones, infos
