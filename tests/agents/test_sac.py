"""SAC, TD3 and TQC on batched episodes, and the actors of all learners as plain modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO

from hedgerl.agents.actors import actor_of
from hedgerl.agents.networks import build
from hedgerl.agents.normalise import NormalisedVecEnv
from hedgerl.agents.ppo_lstm import PPOLSTM
from hedgerl.agents.sac import ALGORITHMS, make_sac
from hedgerl.envs import make_vec
from hedgerl.sim import BlackScholes


def venv(num_envs=16, normalised=False, **more):
    made = make_vec("hedgerl/ShortOption-v0", num_envs, market=BlackScholes(volatility=0.2), n_steps=5, **more)
    made.seed(3)
    return NormalisedVecEnv(made) if normalised else made


class Spy:
    """Keeps what an environment has answered."""

    def __init__(self, env):
        self.env, self.seen, self.steps, self.last = env, [], [], {}
        reset, step = env.reset, env.step_wait

        def spied_reset():
            self.seen.append(reset())
            return self.seen[-1]

        def spied_step():
            self.steps.append(step())
            if self.steps[-1][2].all():  # a wrapper normalises them in place
                self.last[len(self.steps) - 1] = np.stack([info["terminal_observation"] for info in self.steps[-1][3]])
            self.seen.append(self.steps[-1][0])
            return self.steps[-1]

        env.reset, env.step_wait = spied_reset, spied_step


@pytest.mark.parametrize("normalised", [False, True])
def test_replay_buffer(normalised):
    """Identity: transitions as the environment gave them, the last of an episode with its own next observation."""
    plain = venv()
    spy = Spy(plain)
    env = NormalisedVecEnv(plain) if normalised else plain
    model = make_sac(env, learning_starts=10_000, seed=1, device="cpu").learn(12 * 16)
    buffer = model.replay_buffer
    assert buffer.pos == 12
    for step, (_, rewards, dones, _) in enumerate(spy.steps):
        np.testing.assert_array_equal(buffer.observations[step], spy.seen[step])
        np.testing.assert_array_equal(buffer.rewards[step], rewards)
        np.testing.assert_array_equal(buffer.dones[step] > 0, np.full(16, step % 5 == 4))
        np.testing.assert_array_equal(buffer.dones[step] > 0, dones)
        assert not buffer.timeouts[step].any()
        if step % 5 == 4:
            following = spy.last[step]
            assert abs(buffer.next_observations[step] - spy.seen[step + 1]).max() > 0.1
        else:
            following = spy.seen[step + 1]
        np.testing.assert_allclose(buffer.next_observations[step], following, rtol=1e-4, atol=1e-4)
    drawn = buffer.sample(256, env=model._vec_normalize_env)
    assert drawn.observations.shape == (256, 11)
    if normalised:
        assert 0.5 < float(drawn.observations.std()) < 2.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_many_updates_a_batch(algorithm, tmp_path):
    """Behaviour: four updates after each step of all episodes, and the actor as a module acts the same."""
    env = venv(normalised=True)
    model = make_sac(env, algorithm, learning_starts=5 * 16, batch_size=32, seed=1, device="cpu")
    model.learn(20 * 16)
    assert model._n_updates == 4 * 15
    _compare(model, env)
    model.save(tmp_path / "model")
    again = ALGORITHMS[algorithm].load(tmp_path / "model", device="cpu")
    seen = np.random.default_rng(2).normal(size=(9, 11)).astype(np.float32)
    np.testing.assert_array_equal(
        model.predict(seen, deterministic=True)[0], again.predict(seen, deterministic=True)[0]
    )


def _compare(model, normaliser):
    actor = actor_of(model, normaliser)
    assert not actor.training
    again = build(actor.kind, actor.config)
    again.load_state_dict(actor.state_dict(), strict=True)
    rng, state, memory = np.random.default_rng(1), None, again.initial_state(7)
    for step in range(5):
        seen = rng.normal(size=(7, 11)).astype(np.float32) * 3
        given = seen if normaliser is None else normaliser.normalize_obs(seen)
        action, state = model.predict(given, state, np.full(7, step == 0), deterministic=True)
        own, *memory = again(torch.from_numpy(seen), *memory)
        np.testing.assert_allclose(own.detach().numpy(), action, rtol=0, atol=2e-6)


@pytest.mark.parametrize("action", ["target", "coverage", "band"])
@pytest.mark.parametrize("kind", [PPOLSTM, RecurrentPPO])
def test_recurrent_actor(kind, action):
    """Twin: the module acts as `predict`, over an episode with memory; with bounds of other sizes than one, too."""
    env = venv(normalised=True, action=action)
    kwargs = {"net_arch": {"pi": [16], "vf": [16]}, "lstm_hidden_size": 8} if kind is RecurrentPPO else None
    model = kind("MlpLstmPolicy", env, n_steps=5, batch_size=80, policy_kwargs=kwargs, seed=1, device="cpu").learn(400)
    with torch.no_grad():
        model.policy.action_net.weight.mul_(50.0)  # so that some actions are at their bounds
    _compare(model, env)
    _compare(model, None)


def test_discrete_actions_have_scores():
    """Twin: the highest score of the module is the choice of sb3-contrib's own predict."""
    model = PPOLSTM("MlpLstmPolicy", venv(action="discrete"), seed=1, device="cpu")
    seen = np.random.default_rng(1).normal(size=(64, 11)).astype(np.float32)
    module = actor_of(model)
    with torch.no_grad():
        scores = module(torch.from_numpy(seen), *module.initial_state(64))[0]
    chosen, _ = model.predict(seen, episode_start=np.ones(64, bool), deterministic=True)
    np.testing.assert_array_equal(scores.argmax(dim=1).numpy(), chosen)
    assert len(set(chosen.tolist())) > 1


def test_what_has_no_module():
    deep = PPOLSTM("MlpLstmPolicy", venv(), policy_kwargs={"n_lstm_layers": 2}, device="cpu")
    with pytest.raises(ValueError, match="one layer, got 2"):
        actor_of(deep)


def test_what_is_refused():
    """An algorithm that is not known, a batch larger than the buffer."""
    with pytest.raises(ValueError, match="one of SAC, TD3, TQC, got 'DQN'"):
        make_sac(venv(), "DQN")
    with pytest.raises(ValueError, match="batch_size must be at most buffer_size = 100, got 512"):
        make_sac(venv(), buffer_size=100)
