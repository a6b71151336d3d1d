"""Proximal policy optimisation with an LSTM, on whole episodes: sb3-contrib's RecurrentPPO, several times as fast."""

from __future__ import annotations

import ctypes
import io
import pathlib
import sys
from collections.abc import Iterable
from typing import Any, Self

import cloudpickle
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from hedgerl.agents.recurrent import Batch, EpisodeBuffer, States, default_policy, evaluate_actions, values_along
from hedgerl.envs.vector import tensor_device
from hedgerl.sim.backend import to_numpy

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of malloc.h
_N_STEPS = 128  # of an environment that does not say how long its episodes are
_BY_VALUE = "hedgerl.agents.recurrent"


class PPOLSTM(RecurrentPPO):
    """sb3-contrib's `RecurrentPPO`: the same constructor, `learn`, `predict`, `save`, `load`, callbacks and logger.

    What differs is how it computes. A rollout is kept as tensors (n_steps, n_envs, ..) on the policy's device and is
    cut at the starts of episodes into sequences; a minibatch is a random choice of whole sequences, `batch_size`
    transitions or as near as they allow, which an LSTM takes in one call. sb3-contrib cuts minibatches anywhere and
    goes through them step by step wherever an episode starts inside. Values are computed when the rollout is complete,
    in one call, so that a callback's `locals` have no `values` and `log_probs` at a step. On the same batch and weights
    loss and gradients are sb3-contrib's, and where all episodes of a rollout start together nothing is padded.

    Saved zips are stock: `sb3_contrib.RecurrentPPO.load` reads them where this package is not installed.

    Where the environment steps by tensors on the policy's device (`hedgerl.envs.vector.tensor_device`) a rollout does
    not leave it: within an episode nothing waits for the device. A callback's `actions`, `clipped_actions`, `rewards`
    and `new_obs` are then tensors there, `dones` is an array of the host, and `infos` are filled in where episodes end;
    the empty ones between are the same at all steps. `actions` is memory that the next rollout uses again.

    What has no fast way (observations of several parts, state-dependent exploration, policies with their own
    `evaluate_actions`) is done as sb3-contrib does it.

    Parameters beyond those of `RecurrentPPO`, or with another meaning
    ----------
    n_steps : None: the length of the environment's episodes, which is best: nothing is cut.
    batch_size : transitions in a minibatch; None: all. Raises ValueError where it is more than a rollout has.
    policy_kwargs : None: FC(128) -> LSTM(64) -> FC(64) -> actor and critic, tanh throughout. The first layer is shared,
        each has its own LSTM; {**default_policy(), "enable_critic_lstm": False, "shared_lstm": True} lets the critic
        read the actor's, without gradients to it.

    >>> from hedgerl.envs import make_vec
    >>> from hedgerl.sim import BlackScholes
    >>> venv = make_vec("hedgerl/ShortOption-v0", num_envs=8, market=BlackScholes(volatility=0.2))
    >>> model = PPOLSTM("MlpLstmPolicy", venv, batch_size=4 * 21, n_epochs=2, seed=1).learn(2 * 8 * 21)
    >>> model.num_timesteps, model.policy.lstm_actor
    (336, LSTM(128, 64))
    """

    def __init__(
        self,
        policy: str | type[RecurrentActorCriticPolicy] = "MlpLstmPolicy",
        env: Any = None,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int | None = None,
        batch_size: int | None = None,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if policy_kwargs is None and policy == "MlpLstmPolicy":
            policy_kwargs = default_policy()
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=_N_STEPS if n_steps is None else n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        if n_steps is None and self.env is not None:
            self.n_steps = episode_length(self.env) or _N_STEPS
        rollout = self.n_steps * self.n_envs if self.env is not None else None
        if batch_size is not None and rollout is not None and batch_size > rollout:
            raise ValueError(
                f"batch_size must be at most n_steps x n_envs = {self.n_steps} x {self.n_envs} = {rollout}, "
                f"got {batch_size}"
            )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        kind: Any = type(self.policy)
        self.fast: bool = (
            kind.evaluate_actions is RecurrentActorCriticPolicy.evaluate_actions
            and not isinstance(self.observation_space, spaces.Dict)
            and not self.use_sde
        )
        if not self.fast:
            return
        size = 1 if isinstance(self.action_space, spaces.Discrete) else int(np.prod(self.action_space.shape or (1,)))
        shape = self.observation_space.shape or (1,)
        buffer: Any = EpisodeBuffer(self.n_steps, self.n_envs, shape, size, self.device)
        self.rollout_buffer = buffer
        _fuse(self.policy.optimizer)
        if self.device.type == "cpu":
            _keep_memory()

    # ---- rollouts ----

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """See `OnPolicyAlgorithm.collect_rollouts`."""
        if not self.fast:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        assert self._last_obs is not None, "No previous observation was provided"
        policy: Any = self.policy
        buffer, device = rollout_buffer, self.device
        policy.set_training_mode(False)
        space: Any = self.action_space
        box = isinstance(space, spaces.Box)
        stays = tensor_device(env) == next(policy.parameters()).device  # then actions are a Box's or Discrete
        low: Any = space.low if box else None
        high: Any = space.high if box else None
        if stays and box:
            low, high = (torch.as_tensor(end, dtype=torch.float32, device=device) for end in (low, high))
        actions: Any
        clipped_actions: Any
        spread: Any = policy.log_std.detach().exp() if box else None
        callback.on_rollout_start()
        before: Any = self._last_lstm_states
        buffer.reset(before)
        buffer.starts.zero_()
        states = before.pi
        starts = np.asarray(self._last_episode_starts, dtype=bool)
        seen: Any = self._last_obs
        noise = torch.randn(buffer.actions.shape, device=device) if box else None
        cut: list[tuple[int, int, Any]] = []  # (step, environment, last observation) of episodes that a limit cut
        dones = starts
        by_tensors: Any = env
        none, every = np.zeros(self.n_envs, dtype=bool), np.ones(self.n_envs, dtype=bool)
        nothing: list[dict[str, Any]] = [{} for _ in range(self.n_envs)]
        for step in range(n_rollout_steps):
            with torch.no_grad():
                current = buffer.observations[step]
                current.copy_(torch.as_tensor(seen))
                if starts.any():
                    buffer.starts[step] = torch.from_numpy(starts)
                    going_on = torch.as_tensor(~starts, dtype=torch.float32, device=device)[None, :, None]
                    states = (states[0] * going_on, states[1] * going_on)
                features = policy.pi_features_extractor(policy_input(policy, current))
                latent, states = policy.lstm_actor(features[None], states)
                latent = policy.mlp_extractor.forward_actor(latent[0])
                if noise is not None:
                    drawn = torch.addcmul(policy.action_net(latent), noise[step], spread, out=buffer.actions[step])
                    if stays:
                        actions = drawn.view(self.n_envs, *space.shape)
                        clipped_actions = torch.clamp(actions, low, high)
                    else:
                        actions = drawn.cpu().numpy().reshape(self.n_envs, *space.shape)
                        clipped_actions = np.clip(actions, low, high)
                elif stays:
                    actions = clipped_actions = drawn = chosen(logs := policy.action_net(latent).log_softmax(dim=-1))
                    buffer.log_probs[step] = logs.gather(1, drawn[:, None])[:, 0]
                    buffer.actions[step] = drawn[:, None]
                else:
                    distribution = policy._get_action_dist_from_latent(latent)
                    drawn = distribution.get_actions()
                    buffer.log_probs[step] = distribution.log_prob(drawn)
                    buffer.actions[step] = drawn.view(self.n_envs, -1)
                    actions = clipped_actions = drawn.cpu().numpy().reshape(self.n_envs, *space.shape)
            if stays:
                new_obs, rewards, over, last_infos = by_tensors.step_tensors(clipped_actions)
                dones, infos = (every, last_infos) if over else (none, nothing)
            else:
                new_obs, rewards, dones, infos = env.step(clipped_actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            buffer.rewards[step] = torch.as_tensor(rewards)
            if dones.any():
                self._update_info_buffer(infos, dones)
                for place in np.flatnonzero(dones).tolist():
                    info = infos[place]
                    if info.get("TimeLimit.truncated", False) and info.get("terminal_observation") is not None:
                        cut.append((step, place, info["terminal_observation"]))
            seen, starts = new_obs, dones
        self._last_obs, self._last_episode_starts = to_numpy(seen), starts  # what is saved must not need the device
        with torch.no_grad():
            if noise is not None:
                buffer.log_probs.copy_(
                    -(0.5 * noise.square() + policy.log_std.detach() + 0.5 * np.log(2.0 * np.pi)).sum(dim=-1)
                )
            buffer.values, ended, last = values_along(policy, buffer, before.vf)
            own = policy.lstm_critic is not None
            latest: Any = RNNStates(states, last if own else states)
            self._last_lstm_states = latest
            self._value_cuts(cut, ended)
            ended_now = torch.as_tensor(np.asarray(dones), device=device)
            last_values = torch.zeros(self.n_envs, device=device)
            if not dones.all():
                observation = torch.as_tensor(seen, dtype=torch.float32, device=device)
                ahead = policy.predict_values(observation, latest.vf, ended_now.float())
                last_values = ahead.flatten()
            buffer.estimate(last_values, ended_now, self.gamma, self.gae_lambda)
        callback.on_rollout_end()
        return True

    def _value_cuts(self, cut: list[tuple[int, int, Any]], ended: States) -> None:
        """Adds the value of what would have followed where a limit cut an episode."""
        if not cut:
            return
        buffer: Any = self.rollout_buffer
        every = buffer.sequences
        by_end = {
            (int(last), int(place)): number
            for number, (last, place) in enumerate(
                zip((every.first + every.length - 1).tolist(), every.column.tolist(), strict=True)
            )
        }
        which = torch.tensor([by_end[step, place] for step, place, _ in cut], device=self.device)
        states = (ended[0][:, which].contiguous(), ended[1][:, which].contiguous())
        seen = torch.as_tensor(np.stack([last for *_, last in cut]), dtype=torch.float32, device=self.device)
        policy: Any = self.policy
        values = policy.predict_values(seen, states, torch.zeros(len(cut), device=self.device)).flatten()
        for (step, place, _), value in zip(cut, values, strict=True):
            buffer.rewards[step, place] += self.gamma * value

    # ---- training ----

    def loss(self, batch: Batch, clip_range: float, clip_range_vf: float | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a minibatch and what is logged of it.

        The clipped surrogate of Schulman et al. (2017), equation 7, with the value's squared error and the entropy.
        """
        policy: Any = self.policy
        values, log_prob, entropy = evaluate_actions(policy, batch)
        advantages, returns, old_values, old_log_prob = (
            batch.advantages,
            batch.returns,
            batch.old_values,
            batch.old_log_prob,
        )
        if batch.mask is not None:
            there = batch.mask
            values, log_prob, advantages, returns, old_values, old_log_prob = (
                each[there] for each in (values, log_prob, advantages, returns, old_values, old_log_prob)
            )
            entropy = None if entropy is None else entropy[there]
        if self.normalize_advantage and advantages.numel() > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_prob - old_log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        if clip_range_vf is not None:
            values = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)
        value_loss = (returns - values).square().mean()
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        with torch.no_grad():
            logged = {
                "entropy_loss": entropy_loss,
                "policy_gradient_loss": policy_loss,
                "value_loss": value_loss,
                "approx_kl": (ratio - 1.0 - log_ratio).mean(),
                "clip_fraction": ((ratio - 1.0).abs() > clip_range).float().mean(),
                "loss": loss,
            }
        return loss, {name: value.detach() for name, value in logged.items()}

    def train(self) -> None:
        """See `OnPolicyAlgorithm.train`."""
        if not self.fast:
            super().train()
            return
        policy: Any = self.policy
        buffer: Any = self.rollout_buffer
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        clip_range = _at(self.clip_range, self._current_progress_remaining)
        clip_range_vf = None
        if self.clip_range_vf is not None:
            clip_range_vf = _at(self.clip_range_vf, self._current_progress_remaining)
        parameters = list(policy.parameters())
        rows: list[Tensor] = []
        names: Iterable[str] = ()
        last_epoch = 0
        for epoch in range(self.n_epochs):
            stop = False
            last_epoch = len(rows)
            for batch in buffer.batches(self.batch_size):
                loss, logged = self.loss(batch, clip_range, clip_range_vf)
                rows.append(torch.stack(list(logged.values())))
                names = logged.keys()
                if self.target_kl is not None and float(logged["approx_kl"]) > 1.5 * self.target_kl:
                    stop = True
                    if self.verbose >= 1:
                        print(
                            f"Early stopping at step {epoch} due to reaching max kl: {float(logged['approx_kl']):.2f}"
                        )
                    break
                policy.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                policy.optimizer.step()
            self._n_updates += 1
            if stop:
                break
        table = torch.stack(rows).cpu().numpy()
        means = dict(zip(names, table.mean(axis=0), strict=True))
        means["approx_kl"] = table[last_epoch:, 3].mean()  # of the last epoch, as sb3-contrib has it
        means["loss"] = table[-1, 5]
        for name, value in means.items():
            self.logger.record(f"train/{name}", float(value))
        explained = explained_variance(buffer.values.flatten().cpu().numpy(), buffer.returns.flatten().cpu().numpy())
        self.logger.record("train/explained_variance", explained)
        if hasattr(policy, "log_std"):
            self.logger.record("train/std", policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "PPOLSTM",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """See `OnPolicyAlgorithm.learn`."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    # ---- files ----

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Writes a zip that stock sb3-contrib reads, with the features' class inside it."""
        module = sys.modules[_BY_VALUE]
        cloudpickle.register_pickle_by_value(module)
        try:
            super().save(path, exclude=exclude, include=include)
        finally:
            cloudpickle.unregister_pickle_by_value(module)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "fast"]


def episode_length(env: VecEnv) -> int | None:
    """Steps of an episode, where the environment has a task that says so."""
    if not env.has_attr("task"):
        return None
    steps = getattr(env.get_attr("task", [0])[0], "n_steps", None)
    return int(steps) if steps else None


def policy_input(policy: RecurrentActorCriticPolicy, observations: Tensor) -> Tensor:
    """Observations as the features' extractor takes them; those of a float Box are taken as they are."""
    if isinstance(policy.observation_space, spaces.Box) and len(policy.observation_space.shape) == 1:
        return observations
    made = preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)
    assert isinstance(made, Tensor)
    return made


def chosen(log_probs: Tensor) -> Tensor:
    """A draw (n,) from each row of log-probabilities (n, choices): the first of exponential clocks to ring.

    These are the numbers of `Categorical.sample`, which looks at the probabilities on the host before it draws.
    """
    rates = log_probs.softmax(dim=-1)
    return (rates / torch.empty_like(rates).exponential_()).argmax(dim=-1)


def _at(schedule: Any, progress_remaining: float) -> float:
    return float(schedule(progress_remaining))


def _keep_memory() -> None:
    """Lets the C library keep what is freed for what is asked for next, instead of returning it to the kernel.

    Each minibatch asks for the same tens of megabytes; getting them as fresh pages takes half of an LSTM's time on a
    CPU. Nothing happens where the library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def _fuse(optimizer: Any) -> None:
    """Lets Adam update all parameters in one kernel: the same numbers, without a Python step for each."""
    if isinstance(optimizer, torch.optim.Adam):
        for group in optimizer.param_groups:
            if not (group.get("amsgrad") or group.get("differentiable")):
                group["fused"], group["foreach"] = True, False
