"""A saved policy as a zip of stable-baselines3 or sb3-contrib, which acts identically."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import nn

from hedgerl.agents import features
from hedgerl.agents.bundle import Card
from hedgerl.agents.features import NormalisedFeatures
from hedgerl.agents.networks import ACTIVATIONS, FeedForwardActor, PolicyModule, RecurrentActor


def to_sb3_zip(module: PolicyModule, card: Card, path: str | os.PathLike[str]) -> Path:
    """Writes the policy as a model of sb3-contrib's RecurrentPPO, or of stable-baselines3's SAC; returns the path.

    `predict(..., deterministic=True)` of the loaded model gives the same actions on the same observations: the
    normaliser is inside. A policy is saved without its critic, so that the model's is fresh. Loading needs nothing of
    this package.

    Raises ValueError for a network that neither library has.
    """
    observation_space: Any = card.observation.space(card.task)
    action_space: Any = card.action.space(card.task)
    if card.action.kind != "discrete" and isinstance(module, RecurrentActor | FeedForwardActor):
        low, high = float(action_space.low.min()), float(action_space.high.max())
        if (module.low, module.high) != (low, high):
            raise ValueError(
                f"the actions of the network must span [{low:g}, {high:g}], got {module.low}, {module.high}"
            )
    if isinstance(module, RecurrentActor):
        model = _recurrent_ppo(module, observation_space, action_space)
    elif isinstance(module, FeedForwardActor):
        model = _sac(module, observation_space, action_space)
    else:
        raise ValueError(f"a policy of kind {module.kind!r} has no counterpart in stable-baselines3")
    target = Path(path)
    own = sys.modules[features.__name__]
    cloudpickle.register_pickle_by_value(own)
    try:
        model.save(target)
    finally:
        cloudpickle.unregister_pickle_by_value(own)
    return target if target.suffix else target.with_suffix(".zip")


def _recurrent_ppo(module: RecurrentActor, observation_space: Any, action_space: Any) -> Any:
    from sb3_contrib import RecurrentPPO

    config = module.config
    activation = ACTIVATIONS[config["activation"]]
    model = RecurrentPPO(
        "MlpLstmPolicy",
        None,  # type: ignore[arg-type]  # the spaces are given below
        policy_kwargs={
            "features_extractor_class": NormalisedFeatures,
            "features_extractor_kwargs": {"widths": tuple(config["before"]), "activation": activation},
            "lstm_hidden_size": config["lstm"],
            "net_arch": {"pi": list(config["after"]), "vf": list(config["after"])},
            "activation_fn": activation,
        },
        device="cpu",
        _init_setup_model=False,
    )
    _set_up(model, observation_space, action_space)
    policy: Any = model.policy
    _fill(policy.features_extractor, module.normaliser, module.encoder)
    policy.lstm_actor.load_state_dict(module.lstm.state_dict())
    policy.mlp_extractor.policy_net.load_state_dict(module.decoder.state_dict())
    policy.action_net.load_state_dict(module.head.state_dict())
    return model


def _sac(module: FeedForwardActor, observation_space: Any, action_space: Any) -> Any:
    from stable_baselines3 import SAC

    config = module.config
    activation = ACTIVATIONS[config["activation"]]
    hidden = list(config["hidden"])
    model = SAC(
        "MlpPolicy",
        None,  # type: ignore[arg-type]
        buffer_size=1,
        target_entropy=-float(action_space.shape[0]),  # SAC's own, which it takes from the environment
        policy_kwargs={
            "features_extractor_class": NormalisedFeatures,
            "net_arch": {"pi": hidden, "qf": hidden},
            "activation_fn": activation,
        },
        device="cpu",
        _init_setup_model=False,
    )
    _set_up(model, observation_space, action_space)
    policy: Any = model.policy
    actor = policy.actor
    for part in (actor, policy.critic, policy.critic_target):
        _fill(part.features_extractor, module.normaliser, nn.Sequential())
    actor.latent_pi.load_state_dict(module.body.state_dict())
    actor.mu.load_state_dict(module.head.state_dict())
    return model


def _set_up(model: Any, observation_space: Any, action_space: Any) -> None:
    model.observation_space, model.action_space, model.n_envs = observation_space, action_space, 1
    with torch.random.fork_rng(devices=[]):  # of the critic's weights: the caller's numbers stay as they are
        model._setup_model()


def _fill(extractor: NormalisedFeatures, normaliser: nn.Module, encoder: nn.Module) -> None:
    extractor.load_state_dict(
        normaliser.state_dict() | {f"network.{name}": value for name, value in encoder.state_dict().items()}
    )
