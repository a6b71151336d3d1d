"""Deterministic policies as plain torch modules: from an observation to an action, with everything inside.

What training adds (a critic, noise, an optimiser) is left behind, so that a policy can be saved as its weights and a
small configuration, run without the learner's library, and exported.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


class PolicyModule(nn.Module, ABC):
    """A policy without noise: normaliser, network, squashing and scaling of the action in one module.

    `config` holds the constructor's arguments as JSON has them, so that `build(kind, config)` and the strict loading of
    a state dict give the same policy back: a buffer outside the state dict must follow from `config`. The constructor
    must work on torch's "meta" device, where tensors have shapes and no numbers.
    """

    kind: ClassVar[str]
    config: dict[str, Any]

    def initial_state(self, n: int) -> tuple[Tensor, ...]:
        """The state of n paths at the start of an episode, each (n, ..); empty where there is no memory."""
        return ()

    @abstractmethod
    def forward(self, observation: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The action (n, a) of the observation (n, d), then the new state."""


class Normaliser(nn.Module):
    """(x - mean) / scale, clipped to [-clip, clip]; the identity up to the clip until the statistics are set."""

    mean: Tensor  # (d,)
    scale: Tensor  # (d,): what is divided by, a standard deviation
    clip: Tensor  # ()

    def __init__(self, size: int, clip: float = 10.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("clip", torch.tensor(float(clip)))

    def forward(self, observation: Tensor) -> Tensor:
        shifted = (observation - self.mean) / self.scale
        return torch.minimum(torch.maximum(shifted, -self.clip), self.clip)


class RecurrentActor(PolicyModule):
    """Normaliser -> linear layers -> LSTM -> linear layers -> mean action, clipped to [low, high].

    The actor of a recurrent PPO: its action is the mean of the Gaussian, or, with no bounds, the scores of a discrete
    action's choices. The state is the LSTM's (h, c), (n, lstm) each.
    """

    kind: ClassVar[str] = "recurrent_actor"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        before: Sequence[int] = (128,),
        lstm: int = 64,
        after: Sequence[int] = (64,),
        activation: str = "tanh",
        low: float | None = -1.0,
        high: float | None = 1.0,
        clip: float = 10.0,
    ) -> None:
        super().__init__()
        self.config = {
            "observation_size": observation_size,
            "action_size": action_size,
            "before": list(before),
            "lstm": lstm,
            "after": list(after),
            "activation": activation,
            "low": low,
            "high": high,
            "clip": clip,
        }
        self.low, self.high, self.hidden = low, high, lstm
        self.normaliser = Normaliser(observation_size, clip)
        self.encoder, width = layers(observation_size, before, activation)
        self.lstm = nn.LSTM(width, lstm)
        self.decoder, width = layers(lstm, after, activation)
        self.head = nn.Linear(width, action_size)

    def initial_state(self, n: int) -> tuple[Tensor, ...]:
        return self.head.weight.new_zeros(n, self.hidden), self.head.weight.new_zeros(n, self.hidden)

    def forward(self, observation: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        hidden, cell = state
        inner = self.encoder(self.normaliser(observation))
        out, (hidden, cell) = self.lstm(inner[None], (hidden[None], cell[None]))
        action = self.head(self.decoder(out[0]))
        if self.low is not None or self.high is not None:
            action = action.clamp(self.low, self.high)
        return action, hidden[0], cell[0]


class FeedForwardActor(PolicyModule):
    """Normaliser -> linear layers -> tanh of the mean, spread over [low, high]. The actor of SAC."""

    kind: ClassVar[str] = "feed_forward_actor"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int] = (256, 256),
        activation: str = "relu",
        low: float = -1.0,
        high: float = 1.0,
        clip: float = 10.0,
    ) -> None:
        super().__init__()
        self.config = {
            "observation_size": observation_size,
            "action_size": action_size,
            "hidden": list(hidden),
            "activation": activation,
            "low": low,
            "high": high,
            "clip": clip,
        }
        self.low, self.high = low, high
        self.normaliser = Normaliser(observation_size, clip)
        self.body, width = layers(observation_size, hidden, activation)
        self.head = nn.Linear(width, action_size)

    def forward(self, observation: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        squashed = torch.tanh(self.head(self.body(self.normaliser(observation))))
        return (self.low + 0.5 * (squashed + 1.0) * (self.high - self.low),)


def layers(size: int, widths: Sequence[int], activation: str) -> tuple[nn.Sequential, int]:
    """Linear layers of these widths, each followed by the activation, and the width of what they give."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    modules: list[nn.Module] = []
    for width in widths:
        modules += [nn.Linear(size, width), ACTIVATIONS[activation]()]
        size = width
    return nn.Sequential(*modules), size


# By kind, as a saved policy names it. A module that defines another adds it here when imported.
NETWORKS: dict[str, type[PolicyModule]] = {net.kind: net for net in (RecurrentActor, FeedForwardActor)}
ELSEWHERE = {"hedge_network": "hedgerl.agents.hedge_network"}


def build(kind: str, config: dict[str, Any]) -> PolicyModule:
    """The network of this kind and configuration, with fresh weights.

    Raises ValueError for a kind that is not known and for a configuration that the network does not take.
    """
    if kind not in NETWORKS and kind in ELSEWHERE:
        importlib.import_module(ELSEWHERE[kind])
    if kind not in NETWORKS:
        known = sorted({*NETWORKS, *ELSEWHERE})
        raise ValueError(f"kind must be one of {', '.join(known)}, got {kind!r}")
    try:
        return NETWORKS[kind](**config)
    except TypeError as error:
        raise ValueError(f"{kind} does not take this configuration: {error}") from error
