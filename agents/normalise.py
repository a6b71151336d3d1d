"""Observations and rewards of order one: running moments of whole batches, kept as numbers, frozen in evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from hedgerl.envs.vector import tensor_device
from hedgerl.sim.backend import to_numpy

FORMAT = 1  # of saved statistics


class TensorMeanStd(RunningMeanStd):
    """stable-baselines3's `RunningMeanStd` as float64 tensors: `mean` and `var` come to the host when asked for.

    It takes a batch in without waiting for the device. The count is the host's own, as a batch's size is known there.
    """

    def __init__(self, epsilon: float = 1e-4, shape: tuple[int, ...] = (), *, device: torch.device) -> None:
        self.device = device
        super().__init__(epsilon, shape)

    @property
    def mean(self) -> np.ndarray:
        """On the host."""
        return to_numpy(self.mean_tensor)

    @mean.setter
    def mean(self, values: np.ndarray) -> None:
        self.mean_tensor = torch.tensor(np.asarray(values), dtype=torch.float64, device=self.device)

    @property
    def var(self) -> np.ndarray:
        """On the host."""
        return to_numpy(self.var_tensor)

    @var.setter
    def var(self, values: np.ndarray) -> None:
        self.var_tensor = torch.tensor(np.asarray(values), dtype=torch.float64, device=self.device)

    def update(self, arr: np.ndarray | Tensor) -> None:
        """Takes in a batch (n, ..)."""
        batch = torch.as_tensor(arr, dtype=torch.float64, device=self.device)
        var, mean = torch.var_mean(batch, dim=0, correction=0)
        self.update_from_moments(mean, var, batch.shape[0])

    def update_from_moments(self, batch_mean: Any, batch_var: Any, batch_count: float) -> None:
        """Takes in a batch of these moments, by the formula of `RunningMeanStd` in the fewest kernels."""
        batch_mean, batch_var = (
            torch.as_tensor(each, dtype=torch.float64, device=self.device) for each in (batch_mean, batch_var)
        )
        count = self.count + batch_count
        share = batch_count / count
        delta = batch_mean - self.mean_tensor
        self.mean_tensor = torch.add(self.mean_tensor, delta, alpha=share)
        within = torch.add(self.var_tensor * (self.count / count), batch_var, alpha=share)
        self.var_tensor = torch.addcmul(within, delta, delta, value=share * (self.count / count))
        self.count = count


class NormalisedVecEnv(VecNormalize):
    """stable-baselines3's `VecNormalize` on whole batches, with statistics that are saved as plain numbers.

    Observations become (x - mean) / sqrt(variance + 1e-8), clipped to `clip_obs`; rewards are divided by the standard
    deviation of returns so far, sqrt(variance + 1e-8), and clipped to `clip_reward`. Each batch (n, d) is merged into
    mean and variance by Chan, Golub & LeVeque (1979), so that they are those of all observations seen since the start.

    Where the environment steps by tensors (`hedgerl.envs.vector.tensor_device`) so does this one, and its statistics
    lie on the same device; `state` and whoever asks for them have them on the host.

    training: whether the statistics follow what is seen. In evaluation they must not (`freeze`), nor need rewards be
    changed. gamma: of the returns; 1 where episodes are judged at their end.

    >>> from hedgerl.envs import make_vec
    >>> from hedgerl.sim import BlackScholes
    >>> venv = make_vec("hedgerl/ShortOption-v0", num_envs=256, market=BlackScholes(volatility=0.2))
    >>> normalised = NormalisedVecEnv(venv)
    >>> seen = normalised.reset()
    >>> frozen = NormalisedVecEnv.from_state(venv, normalised.state, training=False)
    >>> frozen.training, bool(np.allclose(frozen.obs_rms.mean, normalised.obs_rms.mean))
    (False, True)
    """

    obs_rms: RunningMeanStd  # type: ignore[assignment]

    def __init__(
        self,
        venv: VecEnv,
        training: bool = True,
        norm_obs: bool = True,
        norm_reward: bool = True,
        clip_obs: float = 10.0,
        clip_reward: float = 10.0,
        gamma: float = 1.0,
        epsilon: float = 1e-8,
    ) -> None:
        if not isinstance(venv.observation_space, spaces.Box):
            raise ValueError(f"observations must be a Box to be normalised, got {venv.observation_space}")
        super().__init__(
            venv,
            training=training,
            norm_obs=norm_obs,
            norm_reward=norm_reward,
            clip_obs=clip_obs,
            clip_reward=clip_reward,
            gamma=gamma,
            epsilon=epsilon,
        )
        if not norm_obs:
            self.obs_rms = RunningMeanStd(shape=venv.observation_space.shape or ())
        where = self.tensor_device = tensor_device(venv)
        if where is not None:
            self.obs_rms = TensorMeanStd(shape=venv.observation_space.shape or (), device=where)
            self.ret_rms = TensorMeanStd(device=where)
            self._set_returns(self.returns)

    def _set_returns(self, values: np.ndarray) -> None:
        given: Any = values if self.tensor_device is None else torch.as_tensor(values, device=self.tensor_device)
        self.returns = given

    def reset(self) -> Any:
        """See `VecNormalize.reset`."""
        return super().reset() if self.tensor_device is None else to_numpy(self.reset_tensors())

    def reset_tensors(self) -> Tensor:
        """See `HedgingVecEnv.reset_tensors`."""
        inner: Any = self.venv
        seen: Tensor = inner.reset_tensors()
        self.old_obs = seen  # type: ignore[assignment]
        self._set_returns(np.zeros(self.num_envs))
        if self.training and self.norm_obs:
            self.obs_rms.update(seen)  # type: ignore[arg-type]
        return self._normalised(seen)

    def step_tensors(self, actions: Any) -> tuple[Tensor, Tensor, bool, list[dict[str, Any]] | None]:
        """See `HedgingVecEnv.step_tensors`."""
        self.step_async(actions)
        return self.wait_tensors()

    def wait_tensors(self) -> tuple[Tensor, Tensor, bool, list[dict[str, Any]] | None]:
        """See `HedgingVecEnv.wait_tensors`."""
        inner: Any = self.venv
        seen, rewards, done, infos = inner.wait_tensors()
        self.old_obs, self.old_reward = seen, rewards
        if self.training:
            if self.norm_obs:
                self.obs_rms.update(seen)
            self._update_reward(rewards)
        if infos is not None:
            self._set_returns(np.zeros(self.num_envs))
            self._normalise_last(infos, range(self.num_envs))
        if self.norm_reward:
            moments: Any = self.ret_rms
            scaled = rewards.double() / torch.sqrt(moments.var_tensor + self.epsilon)
            rewards = scaled.clamp_(-self.clip_reward, self.clip_reward).float()
        return self._normalised(seen), rewards, done, infos

    def _normalised(self, seen: Tensor) -> Tensor:
        """What `normalize_obs` returns, without leaving the device."""
        if not self.norm_obs:
            return seen
        moments: Any = self.obs_rms
        mean, scale = moments.mean_tensor.float(), torch.sqrt(moments.var_tensor + self.epsilon).float()
        return ((seen - mean) / scale).clamp_(-self.clip_obs, self.clip_obs)

    def _normalise_last(self, infos: list[dict[str, Any]], ended: Sequence[int]) -> None:
        """Normalises the last observations of episodes that have ended, together."""
        places = [place for place in ended if "terminal_observation" in infos[place]]
        if places:
            last = self.normalize_obs(np.stack([infos[place]["terminal_observation"] for place in places]))
            for place, row in zip(places, last, strict=True):
                infos[place]["terminal_observation"] = row

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """See `VecNormalize.step_wait`; last observations are normalised together."""
        if self.tensor_device is not None:
            tensor, reward, done, ended_infos = self.wait_tensors()
            if ended_infos is None:
                ended_infos = [{} for _ in range(self.num_envs)]
            return to_numpy(tensor), to_numpy(reward), np.full(self.num_envs, done), ended_infos
        assert self.venv is not None
        seen, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(seen, np.ndarray)
        self.old_obs, self.old_reward = seen, rewards
        if self.training:
            if self.norm_obs:
                self.obs_rms.update(seen)
            self._update_reward(rewards)
        ended = np.flatnonzero(dones)
        if ended.size:
            self.returns[ended] = 0.0
            self._normalise_last(infos, ended.tolist())
        return self.normalize_obs(seen), self.normalize_reward(rewards), dones, infos

    def normalize_obs(self, obs: Any) -> Any:
        """See `VecNormalize.normalize_obs`; in float32 throughout, bit by bit what `networks.Normaliser` does."""
        if not self.norm_obs:
            return obs
        mean, scale = self.mean_and_scale
        shifted = (np.asarray(obs, dtype=np.float32) - mean) / scale
        return np.clip(shifted, np.float32(-self.clip_obs), np.float32(self.clip_obs), out=shifted)

    def get_original_obs(self) -> Any:
        """See `VecNormalize.get_original_obs`."""
        return to_numpy(self.old_obs).copy()

    def get_original_reward(self) -> np.ndarray:
        """See `VecNormalize.get_original_reward`."""
        return to_numpy(self.old_reward).copy()

    def freeze(self) -> Self:
        """Stops the statistics, for evaluation; rewards pass as they are."""
        self.training = self.norm_reward = False
        return self

    @property
    def mean_and_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """What observations are moved by and divided by, (d,) float32 each; 0 and 1 where they are not normalised."""
        if not self.norm_obs:
            return np.zeros(self.obs_rms.mean.shape, np.float32), np.ones(self.obs_rms.mean.shape, np.float32)
        return self.obs_rms.mean.astype(np.float32), np.sqrt(self.obs_rms.var + self.epsilon).astype(np.float32)

    @property
    def state(self) -> dict[str, Any]:
        """All statistics and settings as JSON has them."""
        return {
            "format": FORMAT,
            "mean": self.obs_rms.mean.tolist(),
            "variance": self.obs_rms.var.tolist(),
            "count": float(self.obs_rms.count),
            "return_mean": float(self.ret_rms.mean),
            "return_variance": float(self.ret_rms.var),
            "return_count": float(self.ret_rms.count),
            "returns": self.returns.tolist(),
            **{name: getattr(self, name) for name in _SETTINGS},
        }

    def restore(self, state: Mapping[str, Any]) -> Self:
        """Takes over what `state` gave. Raises ValueError for numbers that are missing or do not fit."""
        known = {"format", *_MOMENTS, "returns", *_SETTINGS}
        if set(state) != known:
            missing, strange = sorted(known - set(state)), sorted(set(state) - known)
            raise ValueError(f"statistics must have the known names; missing {missing}, not known {strange}")
        if state["format"] != FORMAT:
            raise ValueError(f"statistics must be of format {FORMAT}, got {state['format']!r}")
        arrays = {name: np.asarray(state[name], dtype=np.float64) for name in _MOMENTS}
        shape = self.observation_space.shape
        for name, values in arrays.items():
            wanted = shape if name in ("mean", "variance") else ()
            if values.shape != wanted or not np.isfinite(values).all() or (name != "mean" and (values < 0.0).any()):
                if not (name == "return_mean" and values.shape == () and np.isfinite(values)):
                    raise ValueError(f"{name} must be finite numbers of shape {wanted}, got {state[name]!r}")
        for name in _SETTINGS:
            setattr(self, name, state[name])
        self.obs_rms.mean, self.obs_rms.var = arrays["mean"], arrays["variance"]
        self.obs_rms.count = float(arrays["count"])
        self.ret_rms.mean, self.ret_rms.var = arrays["return_mean"], arrays["return_variance"]
        self.ret_rms.count = float(arrays["return_count"])
        returns = np.asarray(state["returns"], dtype=np.float64)
        self._set_returns(returns if returns.shape == (self.num_envs,) else np.zeros(self.num_envs))
        return self

    @classmethod
    def from_state(cls, venv: VecEnv, state: Mapping[str, Any], *, training: bool = True) -> Self:
        """The wrapper with statistics that `state` gave; frozen unless it is to go on training."""
        made = cls(venv).restore(state)
        return made if training else made.freeze()

    def save(self, save_path: str | Path) -> None:
        """Writes `state` as JSON."""
        Path(save_path).write_text(json.dumps(self.state, indent=1) + "\n")

    @classmethod
    def load(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, load_path: str | Path, venv: VecEnv, *, training: bool = True
    ) -> Self:
        """Reads what `save` wrote. Unlike `VecNormalize.load` it executes nothing from the file."""
        return cls.from_state(venv, json.loads(Path(load_path).read_text()), training=training)


_MOMENTS = ("mean", "variance", "count", "return_mean", "return_variance", "return_count")
_SETTINGS = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
