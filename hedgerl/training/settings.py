"""The keys of conf/agent, conf/tracking and conf/curriculum, typed; units and reasons stand in the YAML."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from hedgerl.agents.curriculum import Curriculum
from hedgerl.agents.registry import check_name
from hedgerl.pricing._checks import finite, in_interval, non_negative, positive, whole_number

DEVICES = re.compile(r"auto|cpu|cuda(:\d+)?")


def _widths(name: str, values: Any) -> None:
    for width in values:
        whole_number(name, width)


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _share(name: str, value: Any) -> None:
    if not 0.0 <= finite(name, value) <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")


@dataclass
class PPOLSTMConfig:
    """conf/agent/ppo_lstm.yaml."""

    name: str = "ppo_lstm"
    iterations: int = 300
    num_envs: int = 2048
    episodes: int = 1
    batch_episodes: int = 256
    epochs: int = 4
    learning_rate: float = 1e-3
    final_rate: float = 0.05
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    entropy: float = 0.0
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float | None = None
    encoder: int = 128
    lstm: int = 64
    hidden: list[int] = field(default_factory=lambda: [64])
    log_std: float = -1.0
    normalise_observation: bool = True
    normalise_reward: bool = True
    accrue: bool = True
    control_variate: bool = True
    capture: bool = True

    def __post_init__(self) -> None:
        for name in ("iterations", "num_envs", "episodes", "batch_episodes", "epochs", "encoder", "lstm"):
            whole_number(f"agent.{name}", getattr(self, name))
        _widths("agent.hidden", self.hidden)
        rollout = self.num_envs * self.episodes
        if self.batch_episodes > rollout:
            raise ValueError(
                f"agent.batch_episodes must be at most num_envs x episodes = {rollout}, the episodes of a rollout, "
                f"got {self.batch_episodes}"
            )
        for name in ("learning_rate", "clip_range", "max_grad_norm"):
            positive(f"agent.{name}", getattr(self, name))
        for name in ("final_rate", "gamma", "gae_lambda"):
            _share(f"agent.{name}", getattr(self, name))
        for name in ("entropy", "value_coefficient"):
            non_negative(f"agent.{name}", getattr(self, name))
        if self.target_kl is not None:
            positive("agent.target_kl", self.target_kl)
        finite("agent.log_std", self.log_std)


@dataclass
class SACConfig:
    """conf/agent/sac.yaml."""

    name: str = "sac"
    algorithm: str = "sac"
    iterations: int = 800
    num_envs: int = 64
    episodes: int = 1
    gradient_steps: int = 4
    batch_size: int = 512
    buffer: int = 300_000
    random_steps: int = 20
    learning_rate: float = 1e-3
    final_rate: float = 0.1
    gamma: float = 1.0
    tau: float = 0.02
    entropy: str = "auto_0.01"
    exploration: float = 0.1
    hidden: list[int] = field(default_factory=lambda: [128, 128])
    normalise_observation: bool = True
    normalise_reward: bool = True
    accrue: bool = True
    control_variate: bool = True

    def __post_init__(self) -> None:
        _one_of("agent.algorithm", self.algorithm, ("sac", "td3", "tqc"))
        for name in ("iterations", "num_envs", "episodes", "gradient_steps", "batch_size", "buffer"):
            whole_number(f"agent.{name}", getattr(self, name))
        whole_number("agent.random_steps", self.random_steps, minimum=0)
        _widths("agent.hidden", self.hidden)
        if self.batch_size > self.buffer:
            raise ValueError(f"agent.batch_size must be at most buffer = {self.buffer}, got {self.batch_size}")
        if self.num_envs > self.buffer:
            raise ValueError(f"agent.num_envs must be at most buffer = {self.buffer}, got {self.num_envs}")
        positive("agent.learning_rate", self.learning_rate)
        for name in ("final_rate", "gamma", "tau"):
            _share(f"agent.{name}", getattr(self, name))
        positive("agent.exploration", self.exploration)
        if not self.entropy.startswith("auto"):
            try:
                positive("agent.entropy", float(self.entropy))
            except ValueError:
                raise ValueError(f"agent.entropy must be auto or a positive number, got {self.entropy!r}") from None


@dataclass
class DeepHedgingConfig:
    """conf/agent/deep_hedging.yaml."""

    name: str = "deep_hedging"
    iterations: int = 800
    batch_paths: int = 8192
    pool_batches: int = 4
    epochs: int = 2
    learning_rate: float = 5e-3
    clip: float = 10.0
    inputs: list[str] | None = None
    hidden: list[int] = field(default_factory=lambda: [32, 32])
    recurrent: int = 0
    activation: str = "silu"
    head: str = "band"
    centre: str | None = None
    option_centre: str | None = None
    capture: bool = True

    def __post_init__(self) -> None:
        for name in ("iterations", "pool_batches", "epochs"):
            whole_number(f"agent.{name}", getattr(self, name))
        whole_number("agent.batch_paths", self.batch_paths, minimum=2)
        whole_number("agent.recurrent", self.recurrent, minimum=0)
        _widths("agent.hidden", self.hidden)
        positive("agent.learning_rate", self.learning_rate)
        positive("agent.clip", self.clip)
        _one_of("agent.head", self.head, ("band", "plain"))
        if self.centre is not None:
            _one_of("agent.centre", self.centre, ("delta", "net", "zero"))
        if self.option_centre is not None:
            _one_of("agent.option_centre", self.option_centre, ("zero", "gamma", "neutral"))


AgentConfig = PPOLSTMConfig | SACConfig | DeepHedgingConfig
AGENTS: dict[str, Any] = {"ppo_lstm": PPOLSTMConfig, "sac": SACConfig, "deep_hedging": DeepHedgingConfig}


@dataclass
class ValidationConfig:
    """The paths that choose the best weights."""

    n_paths: int = 4096
    every: int = 10
    seed: int = 20240301

    def __post_init__(self) -> None:
        whole_number("validation.n_paths", self.n_paths, minimum=2)
        whole_number("validation.every", self.every)
        whole_number("validation.seed", self.seed, minimum=0)


@dataclass
class ObjectiveConfig:
    """What a policy is judged by: one number of its P&L, or its reward."""

    name: str = "auto"
    parameter: float | None = None


@dataclass
class TrackingConfig:
    """conf/tracking."""

    name: str = "tensorboard"
    mlflow: bool = False
    uri: str | None = None
    experiment: str = "hedgerl"
    register: bool = True
    model: str | None = None
    promote: str = "auto"
    tensorboard: bool = True

    def __post_init__(self) -> None:
        _one_of("tracking.promote", self.promote, ("auto", "never"))
        if self.model is not None:
            check_name("tracking.model", self.model)


@dataclass
class CurriculumConfig:
    """conf/curriculum."""

    stages: int = 0
    until: float = 0.5
    costs: float = 1.0
    volatility: float = 1.0
    horizon: float = 1.0

    def __post_init__(self) -> None:
        self.made()

    def made(self) -> Curriculum:
        """The curriculum itself, checked."""
        return Curriculum(
            stages=self.stages,
            until=self.until,
            costs=self.costs,
            volatility=self.volatility,
            horizon=self.horizon,
        )


@dataclass
class RewardConfig:
    """conf/reward: the fields of `hedgerl.envs.Reward`."""

    loss: str = "abs"
    w: float = 0.001
    lam: float = 0.0001
    pnl_weight: float = 0.0
    alpha: float = 0.95
    risk_aversion: float | None = None
    threshold: float | None = None
    memory: int = 10_000
    position_limit: float = 2.0
    weights: dict[str, float] = field(default_factory=dict)
    scale: float | None = None

    def __post_init__(self) -> None:
        in_interval("reward.alpha", self.alpha, 0.0, 1.0)
