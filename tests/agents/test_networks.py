"""The networks as plain modules: identity (rebuilt, batched), limits (bounds, clips), bad input."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from hedgerl.agents.networks import NETWORKS, FeedForwardActor, Normaliser, PolicyModule, RecurrentActor, build


def recurrent(**config: Any) -> PolicyModule:
    torch.manual_seed(3)
    return RecurrentActor(
        **{"observation_size": 5, "action_size": 2, "before": (16,), "lstm": 8, "after": (8,)} | config
    )


def feed_forward(**config: Any) -> PolicyModule:
    torch.manual_seed(3)
    return FeedForwardActor(**{"observation_size": 5, "action_size": 2, "hidden": (16, 16)} | config)


MAKERS = [recurrent, feed_forward]


@pytest.mark.parametrize("make", MAKERS)
def test_kind_config_and_weights_are_all_there_is(make):
    """Catches an argument that is missing from the configuration, or a buffer that is not saved."""
    module = make()
    again = build(module.kind, json.loads(json.dumps(module.config)))
    again.load_state_dict(module.state_dict(), strict=True)
    observation, state = torch.randn(4, 5), module.initial_state(4)
    for old, new in zip(module(observation, *state), again(observation, *state), strict=True):
        assert torch.equal(old, new)
    assert {name for name, _ in module.named_buffers()} <= set(module.state_dict())


@pytest.mark.parametrize("make", MAKERS)
def test_a_batch_is_its_rows(make):
    """Catches a normaliser or an LSTM that mixes the paths of a batch."""
    module = make()
    observation = torch.randn(7, 5)
    state = tuple(torch.randn_like(value) for value in module.initial_state(7))
    together = module(observation, *state)
    for i in range(7):
        alone = module(observation[i : i + 1], *(value[i : i + 1] for value in state))
        for whole, row in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[i : i + 1], row, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-2.0, 2.0), (0.0, 3.0)])
def test_actions_keep_to_their_bounds(make, low, high):
    """Catches a squash to [-1, 1] that is not spread over the space of the action."""
    module = make(low=low, high=high)
    with torch.no_grad():
        module.head.weight.mul_(1e4)  # type: ignore[union-attr, operator]
    action = module(torch.randn(100, 5), *module.initial_state(100))[0]
    assert action.min() >= low
    assert action.max() <= high
    assert action.max() - action.min() > 0.9 * (high - low)


def test_without_bounds_scores_are_free():
    module = recurrent(low=None, high=None)
    with torch.no_grad():
        module.head.weight.mul_(1e4)  # type: ignore[union-attr, operator]
    assert module(torch.randn(100, 5), *module.initial_state(100))[0].abs().max() > 10.0


def test_the_recurrent_actor_remembers():
    """Catches an LSTM whose state is not handed on."""
    module = recurrent()
    observation = torch.randn(3, 5)
    first, *state = module(observation, *module.initial_state(3))
    second = module(observation, *state)[0]
    assert (first - second).abs().max() > 1e-4


def test_the_recurrent_actor_is_an_lstm_over_the_episode():
    """The steps one at a time are the whole sequence in one call: h and c are not swapped, nor gates mixed."""
    module = recurrent()
    assert isinstance(module, RecurrentActor)
    observations, state = torch.randn(6, 3, 5), module.initial_state(3)
    out, _ = module.lstm(module.encoder(module.normaliser(observations)))
    wanted = module.head(module.decoder(out)).clamp(-1.0, 1.0)
    for observation, action in zip(observations, wanted, strict=True):
        given, *state = module(observation, *state)
        torch.testing.assert_close(given, action, rtol=1e-5, atol=1e-6)


def test_the_normaliser_shifts_scales_and_clips():
    normaliser = Normaliser(2, clip=3.0)
    normaliser.mean.copy_(torch.tensor([1.0, -1.0]))
    normaliser.scale.copy_(torch.tensor([2.0, 0.5]))
    seen = normaliser(torch.tensor([[3.0, -1.0], [1e30, -1e30]]))
    torch.testing.assert_close(seen, torch.tensor([[1.0, 0.0], [3.0, -3.0]]), rtol=0.0, atol=1e-6)


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"kind must be one of .*recurrent_actor.*, got 'transformer'"):
        build("transformer", {})
    with pytest.raises(ValueError, match="does not take this configuration"):
        build("recurrent_actor", {"observation_size": 5, "action_size": 1, "heads": 8})
    with pytest.raises(ValueError, match="activation must be one of"):
        build("feed_forward_actor", {"observation_size": 5, "action_size": 1, "activation": "system"})


def test_every_kind_is_found_by_its_name():
    assert all(kind == network.kind for kind, network in NETWORKS.items())
    assert build("feed_forward_actor", {"observation_size": 5, "action_size": 1}).kind == "feed_forward_actor"
