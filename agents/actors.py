"""The actor of a trained model as a plain module that acts as it does, without noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from hedgerl.agents.networks import ACTIVATIONS, FeedForwardActor, Normaliser, PolicyModule, RecurrentActor

NO_CLIP = 1e9  # of observations that are not normalised


def actor_of(model: Any, normaliser: VecNormalize | None = None) -> PolicyModule:
    """What `model.predict(normaliser.normalize_obs(observation), deterministic=True)` does, as one module.

    model: a `PPOLSTM` (or any RecurrentPPO) with a one-layer LSTM, or an SAC, TD3 or TQC on a flat observation. Where
    actions are discrete the module answers with the score of each.
    normaliser: the environment's wrapper, a `NormalisedVecEnv`, whose statistics go into the module. None: none.

    Raises ValueError for a model that has no such module, saying which part does not fit.
    """
    policy = model.policy
    space, actions = model.observation_space, model.action_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"observations must be a flat Box, got {space}")
    low: float | None = None
    high: float | None = None
    if isinstance(actions, spaces.Discrete):
        count = int(actions.n)  # scores, of which the highest is chosen
    elif isinstance(actions, spaces.Box):
        low, high = (float(np.unique(end)[0]) for end in (actions.low, actions.high))
        if (actions.low != low).any() or (actions.high != high).any():
            raise ValueError(f"all actions must have the same bounds, got {actions}")
        count = int(np.prod(actions.shape))
    else:
        raise ValueError(f"actions must be a Box or Discrete, got {actions}")
    size = int(space.shape[0])
    normalised = normaliser is not None and normaliser.norm_obs
    clip = float(normaliser.clip_obs) if normalised and normaliser is not None else NO_CLIP
    actor: PolicyModule
    if hasattr(policy, "lstm_actor"):
        before, first = _layers(_encoder(policy.pi_features_extractor))
        after, second = _layers(policy.mlp_extractor.policy_net)
        if policy.lstm_actor.num_layers != 1:
            raise ValueError(f"the LSTM must have one layer, got {policy.lstm_actor.num_layers}")
        if policy.squash_output:
            raise ValueError("a squashed recurrent policy has no module of its own")
        recurrent = RecurrentActor(
            size,
            count,
            [layer.out_features for layer in before],
            policy.lstm_actor.hidden_size,
            [layer.out_features for layer in after],
            _same(first, second),
            low,
            high,
            clip,
        )
        _copy(before, recurrent.encoder)
        _copy(after, recurrent.decoder)
        recurrent.lstm.load_state_dict(policy.lstm_actor.state_dict())
        recurrent.head.load_state_dict(policy.action_net.state_dict())
        actor = recurrent
    elif hasattr(policy, "actor") and low is not None and high is not None:
        if not isinstance(policy.actor.features_extractor, FlattenExtractor):
            raise ValueError("a policy that is not recurrent must read its observation as it is")
        if hasattr(policy.actor, "latent_pi"):  # SAC and TQC
            hidden, head = list(policy.actor.latent_pi), policy.actor.mu
        else:  # TD3: linear layers, the last one squashed
            *hidden, head, _ = list(policy.actor.mu)
        body, activation = _layers(hidden)
        feed_forward = FeedForwardActor(
            size, count, [layer.out_features for layer in body], activation or "relu", low, high, clip
        )
        _copy(body, feed_forward.body)
        feed_forward.head.load_state_dict(head.state_dict())
        actor = feed_forward
    else:
        raise ValueError(f"no actor is known of {type(model).__name__}")
    if normalised and normaliser is not None:
        _fill(actor.get_submodule("normaliser"), normaliser)
    return actor.eval().requires_grad_(False)


def _fill(module: nn.Module, normaliser: VecNormalize) -> None:
    assert isinstance(module, Normaliser)
    moments: Any = normaliser.obs_rms
    module.mean.copy_(torch.as_tensor(moments.mean, dtype=torch.float32))
    module.scale.copy_(torch.as_tensor(np.sqrt(moments.var + normaliser.epsilon), dtype=torch.float32))


def _encoder(extractor: nn.Module) -> Any:
    """The layers of a features' extractor that is a plain stack of them."""
    if isinstance(extractor, FlattenExtractor):
        return []
    network = getattr(extractor, "network", None)
    if not isinstance(network, nn.Sequential):
        raise ValueError(f"features must come from a stack of layers, got {type(extractor).__name__}")
    return [module for module in network if not isinstance(module, nn.Flatten)]


def _layers(modules: Any) -> tuple[list[nn.Linear], str | None]:
    """The linear layers of a stack and the name of the activation that follows each; None where there are none."""
    stack = list(modules)
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    linear, activations = stack[::2], {names.get(type(module)) for module in stack[1::2]}
    fits = len(stack) % 2 == 0 and all(isinstance(module, nn.Linear) for module in linear) and None not in activations
    if not fits or len(activations) > 1:
        raise ValueError(f"a stack must be of linear layers, each followed by the same activation, got {stack}")
    return linear, next(iter(activations), None)


def _same(first: str | None, second: str | None) -> str:
    if first and second and first != second:
        raise ValueError(f"the activation must be the same before and after the LSTM, got {first} and {second}")
    return first or second or "tanh"


def _copy(source: list[nn.Linear], target: nn.Sequential) -> None:
    for layer, own in zip(source, list(target)[::2], strict=True):
        own.load_state_dict(layer.state_dict())
