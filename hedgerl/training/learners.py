"""The three ways to learn behind one interface: an iteration, the policy so far, and the whole state."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from hedgerl.agents.callbacks import Episodes
from hedgerl.agents.networks import PolicyModule
from hedgerl.envs import Environment, Reward, Task
from hedgerl.envs.reward import Moments
from hedgerl.envs.vector import HedgingVecEnv
from hedgerl.training import checkpoint
from hedgerl.training.settings import AgentConfig, DeepHedgingConfig, PPOLSTMConfig, SACConfig

Scalars = dict[str, float]
Histograms = dict[str, np.ndarray]


@dataclass(frozen=True)
class Setting:
    """What a learner is to learn in."""

    task: Task  # of this stage
    whole: Task  # as configured
    observation: Any
    action: Any
    reward: Reward
    objective: tuple[str, float]  # of P&L in currency; "reward": the reward's
    seed: int
    stage: int
    iterations: int  # in all
    device: str


@dataclass(frozen=True)
class Interface:
    """What a policy is shown and how its answer is read."""

    observation: Any
    action: Any


class Learner(Protocol):
    """`iterate` learns from some episodes; `state` after it, given to `restore` of a fresh one, continues the same."""

    interface: Any

    @property
    def moments(self) -> Moments | None:
        """What the reward's terminal terms know of the episodes so far; None where there is no reward."""
        ...

    def iterate(self, iteration: int) -> tuple[Scalars, Histograms]:
        """One iteration, counted from 0: what it measured, by name."""
        ...

    def module(self) -> PolicyModule:
        """The policy as it is now, without noise."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything, as numbers, texts and tensors."""
        ...

    def restore(self, state: Mapping[str, Any], *, position: bool) -> None:
        """Takes over a state; position: also where among its episodes the other one was."""
        ...

    def finite(self) -> str | None:
        """The name of a parameter that is no longer finite, or None."""


def make(config: AgentConfig, setting: Setting) -> Learner:
    """The learner that a configuration means."""
    if isinstance(config, DeepHedgingConfig):
        return Pathwise(config, setting)
    if isinstance(config, PPOLSTMConfig):
        return Episodic(config, setting)
    assert isinstance(config, SACConfig)
    return Replayed(config, setting)


class _Stable:
    """A learner of stable-baselines3 on a `HedgingVecEnv`, that learns from whole batches of episodes."""

    model: Any

    def __init__(self, config: PPOLSTMConfig | SACConfig, setting: Setting) -> None:
        from hedgerl.agents.normalise import NormalisedVecEnv
        from hedgerl.agents.shaping import AccruedVecEnv

        self.config, self.setting = config, setting
        environment = Environment(setting.task, setting.observation, setting.action, setting.reward)
        self.interface = Interface(environment.observation, environment.action)
        self.seed = setting.seed
        self.base = HedgingVecEnv(environment, config.num_envs, device=self.tensor_device(), capture=self.capture())
        env: Any = self.base
        self.inner = env
        if config.accrue and setting.reward.loss in ("mean_std", "cvar"):
            env = self.inner = AccruedVecEnv(env, delta=config.control_variate)
        self.env = NormalisedVecEnv(
            env, norm_obs=config.normalise_observation, norm_reward=config.normalise_reward, gamma=config.gamma
        )
        self.episodes = Episodes()
        # Weights and noise of another stage must not begin as those of the first.
        random = checkpoint.random_state() if setting.stage else None
        self.model = self.build()
        if random is not None:
            checkpoint.set_random_state(random)
        self._quiet()

    @property
    def moments(self) -> Moments | None:
        return self.base.environment.moments

    def build(self) -> Any:
        """The model, on `env`."""
        raise NotImplementedError

    def tensor_device(self) -> str | None:
        """Where episodes are tensors; None: NumPy's arrays."""
        return None

    def capture(self) -> bool | None:
        """Whether steps are captured; None: where they can be."""
        return None

    def _quiet(self) -> None:
        from stable_baselines3.common.logger import Logger

        self.model.set_logger(Logger(folder=None, output_formats=[]))

    @property
    def model_seed(self) -> int:
        """What fits the generators that stable-baselines3 seeds."""
        return self.seed % 2**32

    def iterate(self, iteration: int) -> tuple[Scalars, Histograms]:
        from stable_baselines3.common.utils import FloatSchedule

        model = self.model
        done = iteration / self.setting.iterations
        rate = self.config.learning_rate * (1.0 + done * (self.config.final_rate - 1.0))
        model.lr_schedule = FloatSchedule(rate)
        per_iteration = self.config.num_envs * self.setting.task.n_steps * self.config.episodes
        model.learn(per_iteration, callback=self.episodes, log_interval=None, reset_num_timesteps=False)
        losses = {name: float(value) for name, value in model.logger.name_to_value.items() if _number(value)}
        for record in (model.logger.name_to_value, model.logger.name_to_count, model.logger.name_to_excluded):
            record.clear()
        scalars, histograms = self.episodes.take()
        moments = self.base.environment.moments.state if _learns(self.setting.reward) else {}
        scalars = {f"episode/{name}": value for name, value in scalars.items()}
        scalars |= {name if "/" in name else f"train/{name}": value for name, value in losses.items()}
        scalars |= {f"moments/{name}": value for name, value in moments.items()}
        return scalars, {f"episode/{name}": value for name, value in histograms.items()}

    def module(self) -> PolicyModule:
        from hedgerl.agents.actors import actor_of

        return actor_of(self.model, self.env)

    def state(self) -> dict[str, Any]:
        model = self.model
        _, variables = model._get_torch_save_params()
        supply = self.base._supply
        last = model._last_obs
        state: dict[str, Any] = {
            "parameters": {name: copy.deepcopy(value) for name, value in model.get_parameters().items()},
            "variables": {name: _of(model, name).detach().clone() for name in variables},
            "counters": {name: getattr(model, name) for name in _COUNTERS if hasattr(model, name)},
            "normaliser": self.env.state,
            "moments": self.base.environment.moments.state,
            "position": None
            if last is None
            else {
                "blocks": supply._seeds.n_children_spawned,
                "next": supply._next,
                "last_obs": last,
                "last_original_obs": getattr(model, "_last_original_obs", None),
                "old_obs": self.env.get_original_obs(),
                "old_reward": self.env.get_original_reward(),
                "starts": model._last_episode_starts,
                "spaces": [_generator_state(space) for space in self._spaces()],
            },
        }
        return checkpoint.plain(state) | {"more": self._more()}

    def _more(self) -> dict[str, Any]:
        """What one kind of model has beside."""
        return {}

    def _restore_more(self, more: Mapping[str, Any], *, position: bool) -> None:
        pass

    def _spaces(self) -> list[Any]:
        return [self.model.action_space, self.model.observation_space]

    def restore(self, state: Mapping[str, Any], *, position: bool) -> None:
        model = self.model
        model.set_parameters(state["parameters"], exact_match=True, device=model.device)
        with torch.no_grad():
            for name, value in state["variables"].items():
                _of(model, name).copy_(value)
        for name, value in state["counters"].items():
            setattr(model, name, value)
        self.env.restore(state["normaliser"])
        self.base.environment.moments.state = state["moments"]
        here = state["position"]
        if position and here is not None:
            self._place(here)
        self._restore_more(state["more"], position=position)

    def _place(self, here: Mapping[str, Any]) -> None:
        """Goes to the same batch of episodes: its block is drawn again from its own seed."""
        model, supply = self.model, self.base._supply
        supply.seed(self.model_seed)
        self.base._reset_seeds()
        supply._seeds = np.random.SeedSequence(self.model_seed, n_children_spawned=here["blocks"] - 1)
        supply._draw()
        supply._next = here["next"] - supply.num_envs
        self.inner.reset()
        model._last_obs = here["last_obs"].numpy()
        model._last_episode_starts = here["starts"].numpy()
        if here["last_original_obs"] is not None:
            model._last_original_obs = here["last_original_obs"].numpy()
        self.env.old_obs = here["old_obs"].numpy()
        self.env.old_reward = here["old_reward"].numpy()
        for space, state in zip(self._spaces(), here["spaces"], strict=True):
            _set_generator_state(space, state)

    def finite(self) -> str | None:
        for name, value in self.model.policy.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                return str(name)
        return None


_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_num_timesteps_at_start")


class Episodic(_Stable):
    """PPO-LSTM: a rollout is `episodes` whole episodes of each environment."""

    config: PPOLSTMConfig

    def tensor_device(self) -> str | None:
        """A CUDA device's rollouts stay there; on a CPU NumPy is a little faster than torch."""
        return self.setting.device if self.setting.device.startswith("cuda") else None

    def capture(self) -> bool | None:
        return None if self.config.capture else False

    def build(self) -> Any:
        from hedgerl.agents.ppo_lstm import PPOLSTM
        from hedgerl.agents.recurrent import Encoder

        config, steps = self.config, self.setting.task.n_steps
        return PPOLSTM(
            "MlpLstmPolicy",
            self.env,
            learning_rate=config.learning_rate,
            n_steps=steps * config.episodes,
            batch_size=config.batch_episodes * steps,
            n_epochs=config.epochs,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip_range,
            ent_coef=config.entropy,
            vf_coef=config.value_coefficient,
            max_grad_norm=config.max_grad_norm,
            target_kl=config.target_kl,
            policy_kwargs={
                "features_extractor_class": Encoder,
                "features_extractor_kwargs": {"features_dim": config.encoder},
                "lstm_hidden_size": config.lstm,
                "net_arch": {"pi": list(config.hidden), "vf": list(config.hidden)},
                "log_std_init": config.log_std,
            },
            seed=self.model_seed,
            device=self.setting.device,
        )

    def _more(self) -> dict[str, Any]:
        states = self.model._last_lstm_states
        return {"lstm": [each.detach().clone() for part in states for each in part]}

    def _restore_more(self, more: Mapping[str, Any], *, position: bool) -> None:
        from sb3_contrib.common.recurrent.type_aliases import RNNStates

        if position:
            hidden, cell, value_hidden, value_cell = (each.to(self.model.device) for each in more["lstm"])
            self.model._last_lstm_states = RNNStates((hidden, cell), (value_hidden, value_cell))


class Replayed(_Stable):
    """SAC, TD3 or TQC: batches of whole episodes into the replay buffer, with gradient steps after each step."""

    config: SACConfig

    def build(self) -> Any:
        from hedgerl.agents.sac import make_sac

        config = self.config
        more: dict[str, Any] = {} if config.algorithm == "td3" else {"ent_coef": config.entropy}
        if config.algorithm == "td3":
            from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise

            size = self.env.action_space.shape or (1,)
            noise = NormalActionNoise(np.zeros(size), np.full(size, config.exploration))
            more["action_noise"] = VectorizedActionNoise(noise, config.num_envs)
        return make_sac(
            self.env,
            config.algorithm.upper(),
            learning_rate=config.learning_rate,
            buffer_size=config.buffer,
            learning_starts=config.random_steps * config.num_envs,
            batch_size=config.batch_size,
            tau=config.tau,
            gamma=config.gamma,
            train_freq=1,
            gradient_steps=config.gradient_steps,
            policy_kwargs={"net_arch": list(config.hidden)},
            seed=self.model_seed,
            device=self.setting.device,
            **more,
        )

    def _more(self) -> dict[str, Any]:
        buffer = self.model.replay_buffer
        filled = buffer.buffer_size if buffer.full else buffer.pos
        arrays = {name: torch.from_numpy(getattr(buffer, name)[:filled]) for name in _REPLAYED}
        return {"replay": arrays, "pos": buffer.pos, "full": buffer.full}

    def _restore_more(self, more: Mapping[str, Any], *, position: bool) -> None:
        buffer = self.model.replay_buffer
        for name, value in more["replay"].items():
            getattr(buffer, name)[: value.shape[0]] = value.numpy()
        buffer.pos, buffer.full = more["pos"], more["full"]


_REPLAYED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class Pathwise:
    """Deep hedging: an iteration is an update on a batch of paths."""

    def __init__(self, config: DeepHedgingConfig, setting: Setting) -> None:
        from hedgerl.agents.deep_hedging import DeepHedging
        from hedgerl.agents.hedge_network import HedgeNetwork
        from hedgerl.agents.objectives import Criterion, RewardCriterion

        self.setting, self.config = setting, config
        name, parameter = setting.objective
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.seed % 2**63)
            network = HedgeNetwork.for_task(setting.whole, **network_arguments(config))
        self.learner = DeepHedging(
            setting.task,
            network,
            RewardCriterion(setting.reward) if name == "reward" else Criterion(name, parameter),
            learning_rate=config.learning_rate,
            batch_paths=config.batch_paths,
            pool_batches=config.pool_batches,
            epochs=config.epochs,
            validation_paths=2,  # the run has validation paths of its own
            validate_every=setting.iterations + 1,
            horizon=setting.iterations,
            clip=config.clip,
            seed=setting.seed,
            device=setting.device,
            capture=None if config.capture else False,
        )
        self.interface = network.interface

    @property
    def moments(self) -> Moments | None:
        return getattr(self.learner.criterion, "moments", None)

    def iterate(self, iteration: int) -> tuple[Scalars, Histograms]:
        learner = self.learner
        learner.learn(self.setting.iterations - learner.iteration, callback=lambda _: False)
        assert learner.loss is not None
        scale = 100.0 / (self.setting.whole.market.spot * self.setting.whole.size)
        power = {"variance": 2, "quadratic": 2, "reward": 0}.get(self.setting.objective[0], 1)
        scalars = {"train/objective": learner.loss * scale**power, "train/learning_rate": learner.rate(iteration)}
        if self.moments is not None and _learns(self.setting.reward):
            scalars |= {f"moments/{name}": value for name, value in self.moments.state.items()}
        return scalars, {}

    def module(self) -> PolicyModule:
        return copy.deepcopy(self.learner.network).eval().requires_grad_(False)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = checkpoint.plain(self.learner.state_dict())
        return state

    def restore(self, state: Mapping[str, Any], *, position: bool) -> None:
        loaded = dict(state)
        loaded["network"] = OrderedDict(state["network"])
        if not position:  # paths are drawn from the seed of a stage
            loaded["progress"] = {**state["progress"], "seed": self.learner.seed}
        self.learner.load_state_dict(loaded)

    def finite(self) -> str | None:
        for name, value in self.learner.network.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                return str(name)
        return None


def network_arguments(config: DeepHedgingConfig) -> dict[str, Any]:
    """What `HedgeNetwork.for_task` is given."""
    return {
        "inputs": config.inputs,
        "hidden": list(config.hidden),
        "recurrent": config.recurrent,
        "activation": config.activation,
        "head": config.head,
        "centre": config.centre,
        "option_centre": config.option_centre,
    }


def _learns(reward: Reward) -> bool:
    """Whether the reward has moments that follow the episodes."""
    return any(name in ("tail_loss", "entropic", "mean_std") for name in reward.total_weights)


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.floating | np.integer)


def _of(model: Any, name: str) -> Any:
    for part in name.split("."):
        model = getattr(model, part)
    return model


def _generator_state(space: Any) -> Any:
    state = space.np_random.bit_generator.state
    return {**state, "state": {key: str(value) for key, value in state["state"].items()}}


def _set_generator_state(space: Any, state: Mapping[str, Any]) -> None:
    numbers = {key: int(value) for key, value in state["state"].items()}
    space.np_random.bit_generator.state = {**state, "state": numbers}
