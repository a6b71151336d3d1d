"""Recurrent policies over whole episodes: rollouts by time, cut into sequences that an LSTM takes in one call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

States = tuple[Tensor, ...]  # hidden and cell, (layers, n, hidden)

_COLUMNS = 64  # sequences that are valued at a time on a CPU: what of them stays in a core's cache
_TRANSITIONS = 1 << 20  # that are valued at a time elsewhere: features of them take half a gigabyte


class Encoder(BaseFeaturesExtractor):
    """A linear layer and tanh before the LSTM.

    A saved model carries this class within it (see `PPOLSTM.save`), so it must name nothing else of this package.
    """

    def __init__(self, observation_space: spaces.Space[Any], features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(spaces.flatdim(observation_space), features_dim), nn.Tanh()
        )

    def forward(self, observations: Tensor) -> Tensor:
        return self.network(observations)


def default_policy() -> dict[str, Any]:
    """FC(128) -> LSTM(64) -> FC(64) -> actor, and the same -> critic; the first layer is shared, the LSTMs are not."""
    return {
        "features_extractor_class": Encoder,
        "features_extractor_kwargs": {"features_dim": 128},
        "lstm_hidden_size": 64,
        "net_arch": {"pi": [64], "vf": [64]},
    }


@dataclass(frozen=True)
class Sequences:
    """A rollout (T, n) cut at the starts of episodes: M sequences that no start interrupts."""

    first: Tensor  # (M,), step of each one's first transition
    column: Tensor  # (M,), whose environment's it is
    length: Tensor  # (M,)
    fresh: Tensor  # (M,) bool: begins an episode; the others go on from the rollout before
    longest: int
    whole: bool  # whether all are as long
    all_fresh: bool

    @classmethod
    def of(cls, starts: Tensor) -> Sequences:
        """Of the flags of transitions that begin an episode, (T, n) bool."""
        n_steps, n = starts.shape
        cuts = starts.clone()
        cuts[0] = True
        column, first = torch.nonzero(cuts.T, as_tuple=True)  # by environment, then by time
        following = torch.cat([first[1:], first.new_zeros(1)])
        ends = torch.cat([column[1:] != column[:-1], column.new_ones(1, dtype=torch.bool)])
        length = torch.where(ends, n_steps, following) - first
        fresh = starts[first, column]
        longest = int(length.max())
        return cls(first, column, length, fresh, longest, bool((length == longest).all()), bool(fresh.all()))

    def __len__(self) -> int:
        return int(self.first.shape[0])

    def part(self, chosen: Tensor) -> Sequences:
        """Some of them."""
        length = self.length[chosen]
        longest = self.longest if self.whole else int(length.max())
        whole = self.whole or bool((length == longest).all())
        fresh = self.fresh[chosen]
        return Sequences(
            self.first[chosen], self.column[chosen], length, fresh, longest, whole, self.all_fresh or bool(fresh.all())
        )

    def index(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Places (L, M) of their transitions in a flattened rollout (T n, ..), and which of them there are.

        None: all. A place beyond a sequence's end repeats its last transition.
        """
        steps = torch.arange(self.longest, device=self.first.device)[:, None]
        if self.whole:
            return (self.first + steps) * n + self.column, None
        return (self.first + torch.minimum(steps, self.length - 1)) * n + self.column, steps < self.length

    def states(self, before: States) -> States:
        """States (layers, M, hidden) at their first transitions; `before` are those at the rollout's, by environment.

        The state of a place (layers, n, hidden) is 0 where an episode begins.
        """
        hidden, cell = before
        if self.all_fresh:
            layers, _, size = hidden.shape
            nothing = hidden.new_zeros(layers, len(self), size)
            return nothing, nothing
        going_on = (~self.fresh)[None, :, None].to(hidden.dtype)
        return hidden[:, self.column] * going_on, cell[:, self.column] * going_on


@dataclass(frozen=True)
class Batch:
    """Transitions of whole sequences, (L, B, ..), by time first."""

    observations: Tensor  # (L B, d)
    actions: Tensor  # (L B, a)
    old_values: Tensor  # (L B,)
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    pi: States
    vf: States
    mask: Tensor | None  # (L B,) bool; None: all are there
    n_sequences: int


class EpisodeBuffer:
    """Rollouts of n environments over T steps as tensors (T, n, ..) on the policy's device."""

    def __init__(
        self, n_steps: int, n_envs: int, observation_shape: tuple[int, ...], action_size: int, device: torch.device
    ) -> None:
        def room(*more: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(n_steps, n_envs, *more, dtype=dtype, device=device)

        self.n_steps, self.n_envs = n_steps, n_envs
        self.observations = room(*observation_shape)
        self.actions = room(action_size)
        self.log_probs, self.values, self.rewards, self.advantages, self.returns = (room() for _ in range(5))
        self.starts = room(dtype=torch.bool)
        self.before: RNNStates | None = None  # states at the first step, before `starts` is applied
        self._sequences: Sequences | None = None

    def reset(self, before: RNNStates) -> None:
        """Begins a rollout from these states."""
        self.before = before
        self._sequences = None

    @property
    def sequences(self) -> Sequences:
        """The rollout cut at the starts of episodes."""
        if self._sequences is None:
            self._sequences = Sequences.of(self.starts)
        return self._sequences

    def estimate(self, last_values: Tensor, dones: Tensor, gamma: float, gae_lambda: float) -> None:
        """Advantages and returns by generalised advantage estimation (Schulman et al. 2016).

        delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lambda A_{t+1}, both cut where an episode ends;
        last_values, dones: (n,), of the observations after the last step.
        """
        going_on = 1.0 - torch.cat([self.starts[1:].float(), dones[None].float()])
        ahead = torch.cat([self.values[1:], last_values[None]])
        deltas = self.rewards + gamma * ahead * going_on - self.values
        factors = gamma * gae_lambda * going_on
        advantage = torch.zeros_like(last_values)
        for step in range(self.n_steps - 1, -1, -1):
            advantage = torch.addcmul(deltas[step], factors[step], advantage, out=self.advantages[step])
        torch.add(self.advantages, self.values, out=self.returns)

    def batches(self, batch_size: int | None) -> Iterator[Batch]:
        """All sequences in random order, in batches of about `batch_size` transitions, at least one sequence each."""
        every = self.sequences
        total = self.n_steps * self.n_envs
        count = len(every) if batch_size is None else max(1, round(batch_size * len(every) / total))
        order = torch.randperm(len(every), device=self.starts.device)
        for begin in range(0, len(every), count):
            yield self.batch(every.part(order[begin : begin + count]))

    def batch(self, chosen: Sequences) -> Batch:
        """The transitions of some sequences."""
        assert self.before is not None
        index, mask = chosen.index(self.n_envs)
        flat = index.flatten()

        def pick(values: Tensor) -> Tensor:
            return values.flatten(0, 1).index_select(0, flat)

        return Batch(
            pick(self.observations),
            pick(self.actions),
            pick(self.values),
            pick(self.log_probs),
            pick(self.advantages),
            pick(self.returns),
            chosen.states(self.before.pi),
            chosen.states(self.before.vf),
            None if mask is None else mask.flatten(),
            len(chosen),
        )


def evaluate_actions(policy: RecurrentActorCriticPolicy, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Values, log-probabilities and entropies (L B,) of a batch, as the policy's own `evaluate_actions` gives them.

    An LSTM takes all sequences in one call, since none is interrupted.
    """
    features = policy.extract_features(batch.observations)
    pi_features, vf_features = features if isinstance(features, tuple) else (features, features)
    latent_pi = _along(policy.lstm_actor, pi_features, batch.pi, batch.n_sequences)
    if policy.lstm_critic is not None:
        latent_vf = _along(policy.lstm_critic, vf_features, batch.vf, batch.n_sequences)
    elif policy.shared_lstm:
        latent_vf = latent_pi.detach()
    else:
        assert policy.critic is not None
        latent_vf = policy.critic(vf_features)
    distribution = policy._get_action_dist_from_latent(policy.mlp_extractor.forward_actor(latent_pi))
    values = policy.value_net(policy.mlp_extractor.forward_critic(latent_vf)).flatten()
    actions = batch.actions
    if isinstance(policy.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    return values, distribution.log_prob(actions), distribution.entropy()


def _along(lstm: nn.LSTM, features: Tensor, before: States, n_sequences: int) -> Tensor:
    return lstm(features.view(-1, n_sequences, lstm.input_size), before)[0].flatten(0, 1)


def values_along(
    policy: RecurrentActorCriticPolicy, buffer: EpisodeBuffer, before: States
) -> tuple[Tensor, States, States]:
    """Values (T, n) of a rollout's observations, and the critic's states when its sequences have ended.

    The states are those of all sequences, (layers, M, hidden), then of the environments' last ones, (layers, n, ..).
    A critic without memory, or with the actor's, has the states it is given, or the actor's.
    """
    every = buffer.sequences
    lstm = policy.lstm_critic if policy.lstm_critic is not None else policy.lstm_actor
    values = torch.empty_like(buffer.values)
    layers, _, size = before[0].shape
    ended = (before[0].new_zeros(layers, len(every), size), before[1].new_zeros(layers, len(every), size))
    flat, observations = values.flatten(), buffer.observations.flatten(0, 1)
    columns_at_once = _COLUMNS if values.device.type == "cpu" else max(_COLUMNS, _TRANSITIONS // every.longest)
    for begin in range(0, len(every), columns_at_once):
        columns = torch.arange(begin, min(begin + columns_at_once, len(every)), device=values.device)
        chosen = every.part(columns)
        index, mask = chosen.index(buffer.n_envs)
        seen = observations.index_select(0, index.flatten())
        features = BasePolicy.extract_features(policy, seen, policy.vf_features_extractor)
        if policy.lstm_critic is None and not policy.shared_lstm:
            assert policy.critic is not None
            latent = policy.critic(features)
        else:
            inputs: Any = features.view(-1, len(chosen), lstm.input_size)
            if mask is None:
                latent, final = lstm(inputs, chosen.states(before))
            else:
                packed = pack_padded_sequence(inputs, chosen.length.cpu(), enforce_sorted=False)
                latent, final = lstm(packed, chosen.states(before))
                latent = pad_packed_sequence(latent)[0]
            latent = latent.flatten(0, 1)
            for state, value in zip(ended, final, strict=True):
                state[:, columns] = value
        found = policy.value_net(policy.mlp_extractor.forward_critic(latent)).flatten()
        if mask is None:
            flat[index.flatten()] = found
        else:
            there = mask.flatten()
            flat[index.flatten()[there]] = found[there]
    last = torch.nonzero(every.first + every.length == buffer.n_steps).flatten()  # by environment, in order
    return values, ended, (ended[0][:, last], ended[1][:, last])
