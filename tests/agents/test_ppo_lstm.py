"""PPOLSTM against sb3-contrib's RecurrentPPO: the same loss and gradients, the same zips, whole episodes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import Env, spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from hedgerl.agents.ppo_lstm import PPOLSTM
from hedgerl.agents.recurrent import Sequences, default_policy
from hedgerl.envs import make_vec
from hedgerl.sim import BlackScholes

SMALL = {**default_policy(), "features_extractor_kwargs": {"features_dim": 16}, "lstm_hidden_size": 8}
CRITICS = {
    "own LSTM": {},
    "shared LSTM": {"enable_critic_lstm": False, "shared_lstm": True},
    "no LSTM": {"enable_critic_lstm": False},
    "own features": {"share_features_extractor": False},
    "two layers": {"n_lstm_layers": 2},
}
by_critic = pytest.mark.parametrize("critic", CRITICS)


def venv(num_envs=4, **more):
    made = make_vec("hedgerl/ShortOption-v0", num_envs, market=BlackScholes(volatility=0.2), n_steps=7, **more)
    made.seed(3)
    return made


class Ragged(Env):
    """Episodes of lengths of their own, some cut by a limit."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, place):
        self.rng = np.random.default_rng(place)

    def reset(self, *, seed=None, options=None):
        self.left = int(self.rng.integers(1, 9))
        return self.rng.normal(size=3).astype(np.float32), {}

    def step(self, action):
        self.left -= 1
        over = self.left == 0
        cut = over and bool(self.rng.random() < 0.5)
        seen = self.rng.normal(size=3).astype(np.float32)
        return seen, float(-((action[0] - seen[0]) ** 2)), over and not cut, cut, {}


def ragged(num_envs=4):
    return DummyVecEnv([lambda place=place: Ragged(place) for place in range(num_envs)])


def set_up(model):
    _, callback = model._setup_learn(1000, None)
    callback.on_training_start({}, {})
    return callback


def filled(model):
    """A rollout of the model's own policy, in its own buffer."""
    callback = set_up(model)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return callback


def gradients_of_training(model):
    """The gradients that `train` hands to the optimiser."""
    found = []
    model.policy.optimizer.step = lambda *_: found.append(
        [None if each.grad is None else each.grad.clone() for each in model.policy.parameters()]
    )
    model.train()
    return found


def twins(environment, n_steps, kwargs, **settings):
    """sb3-contrib's model with a rollout, and ours with the same weights and the same rollout."""
    common = {
        "n_steps": n_steps,
        "batch_size": n_steps * 4,
        "n_epochs": 1,
        "policy_kwargs": {**SMALL, **kwargs},
        "seed": 5,
        "device": "cpu",
        "max_grad_norm": 1e9,
        "ent_coef": 0.01,
        **settings,
    }
    stock = RecurrentPPO("MlpLstmPolicy", environment(), **common)
    own = PPOLSTM("MlpLstmPolicy", environment(), **common)
    own.policy.load_state_dict(stock.policy.state_dict())
    filled(stock), set_up(own)
    theirs, buffer = stock.rollout_buffer, own.rollout_buffer
    before = [torch.as_tensor(each[0]) for each in (theirs.hidden_states_pi, theirs.cell_states_pi)]
    values = [torch.as_tensor(each[0]) for each in (theirs.hidden_states_vf, theirs.cell_states_vf)]
    buffer.reset(type(own._last_lstm_states)(tuple(before), tuple(values)))
    for name in ("observations", "actions", "log_probs", "values", "rewards", "advantages", "returns"):
        getattr(buffer, name).copy_(torch.as_tensor(getattr(theirs, name)))
    buffer.starts.copy_(torch.as_tensor(theirs.episode_starts) > 0.5)
    return stock, own


@by_critic
@pytest.mark.parametrize("layout", ["whole", "cut", "ragged"])
def test_same_loss_and_gradients(critic, layout, monkeypatch):
    """Twin: one minibatch of all transitions, with sb3-contrib's own `train` on its own buffer."""
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: 0)  # where sb3-contrib begins its pass
    environment, n_steps = {"whole": (venv, 14), "cut": (venv, 10), "ragged": (ragged, 24)}[layout]
    stock, own = twins(environment, n_steps, CRITICS[critic], clip_range_vf=0.3 if layout == "cut" else None)
    with torch.no_grad():  # so that ratios are not all one
        for model in (stock, own):
            torch.manual_seed(1)
            for each in model.policy.parameters():
                each.add_(0.02 * torch.randn_like(each))
    assert own.rollout_buffer.sequences.whole == (layout == "whole")
    theirs, ours = gradients_of_training(stock), gradients_of_training(own)
    assert len(theirs) == len(ours) == 1
    for name, one, other in zip(dict(own.policy.named_parameters()), theirs[0], ours[0], strict=True):
        if one is None:
            assert other is None, name
        else:
            torch.testing.assert_close(other, one, rtol=2e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
    for name, value in stock.logger.name_to_value.items():
        if name.startswith("train/"):
            assert own.logger.name_to_value[name] == pytest.approx(value, rel=2e-4, abs=2e-6), name


@by_critic
@pytest.mark.parametrize("layout", ["whole", "cut", "ragged"])
def test_same_values_and_advantages(critic, layout):
    """Twin: sb3-contrib's step-by-step values, log-probabilities and advantages of the rollout that we collected."""
    environment, n_steps = {"whole": (venv, 14), "cut": (venv, 10), "ragged": (ragged, 24)}[layout]
    kwargs = {**SMALL, **CRITICS[critic]}
    own = PPOLSTM("MlpLstmPolicy", environment(), n_steps=n_steps, policy_kwargs=kwargs, seed=2, device="cpu")
    callback, buffer = set_up(own), own.rollout_buffer
    for _ in range(2):  # the second goes on from states of the first
        states, starts = own._last_lstm_states, torch.as_tensor(own._last_episode_starts).float()
        own.collect_rollouts(own.env, callback, buffer, n_steps)
    rewards = buffer.rewards.clone()
    values, log_probs = torch.zeros_like(buffer.values), torch.zeros_like(buffer.values)
    with torch.no_grad():
        for step in range(n_steps):
            starts = buffer.starts[step].float()
            latest = own.policy.evaluate_actions(buffer.observations[step], buffer.actions[step], states, starts)
            values[step], log_probs[step] = latest[0].flatten(), latest[1]
            states = own.policy(buffer.observations[step], states, starts, deterministic=True)[3]
    torch.testing.assert_close(buffer.values, values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(buffer.log_probs, log_probs, rtol=1e-5, atol=1e-5)
    for one, other in zip(
        (*own._last_lstm_states.pi, *own._last_lstm_states.vf), (*states.pi, *states.vf), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    dones = torch.as_tensor(own._last_episode_starts)
    ahead = own.policy.predict_values(torch.as_tensor(own._last_obs), states.vf, dones.float()).flatten()
    reckoned, last = torch.zeros_like(values), torch.zeros(4)
    for step in reversed(range(n_steps)):
        end = step == n_steps - 1
        going_on = 1.0 - (dones if end else buffer.starts[step + 1]).float()
        delta = rewards[step] + own.gamma * (ahead if end else values[step + 1]) * going_on - values[step]
        last = delta + own.gamma * own.gae_lambda * going_on * last
        reckoned[step] = last
    torch.testing.assert_close(buffer.advantages, reckoned, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(buffer.returns, reckoned + values, rtol=1e-5, atol=1e-5)


def test_value_of_what_a_limit_cut():
    """Identity: a cut episode's last reward gains gamma x the critic's value of its last observation, no other does."""

    class Keep(BaseCallback):
        rewards, infos, observations = [], [], []

        def _on_step(self):
            self.rewards.append(self.locals["rewards"].copy())
            self.infos.append(self.locals["infos"])
            return True

    own = PPOLSTM("MlpLstmPolicy", ragged(), n_steps=30, policy_kwargs=SMALL, seed=2, device="cpu")
    _, keep = own._setup_learn(1000, Keep())
    own.collect_rollouts(own.env, keep, own.rollout_buffer, 30)
    buffer = own.rollout_buffer
    extra = buffer.rewards.numpy() - np.stack(keep.rewards)
    cuts = 0
    for step in range(30):
        for place in range(4):
            info = keep.infos[step][place]
            if not info.get("TimeLimit.truncated", False):
                assert extra[step, place] == 0.0
                continue
            first = max(at for at in range(step + 1) if buffer.starts[at, place] or at == 0)
            sequence = torch.cat(
                [buffer.observations[first : step + 1, place], torch.as_tensor(info["terminal_observation"])[None]]
            )
            assert buffer.starts[first, place]
            states = tuple(torch.zeros(1, 1, 8) for _ in range(2))
            with torch.no_grad():
                value = own.policy.predict_values(sequence, states, torch.zeros(len(sequence))).flatten()[-1]
            assert extra[step, place] == pytest.approx(0.99 * float(value), abs=1e-5)
            cuts += 1
    assert cuts > 3


def test_sequences_are_cut_at_starts():
    """Identity: every transition is in one sequence, none goes beyond a start."""
    starts = torch.tensor([[0, 1], [0, 0], [1, 0], [0, 0], [0, 1]], dtype=torch.bool)
    cut = Sequences.of(starts)
    assert cut.column.tolist() == [0, 0, 1, 1]
    assert cut.first.tolist() == [0, 2, 0, 4]
    assert cut.length.tolist() == [2, 3, 4, 1]
    assert cut.fresh.tolist() == [False, True, True, True]
    index, mask = cut.index(2)
    assert sorted(index[mask].tolist()) == list(range(10))
    whole = Sequences.of(torch.tensor([[1, 1], [0, 0], [1, 1], [0, 0]], dtype=torch.bool))
    assert whole.whole
    assert whole.all_fresh
    assert whole.index(2)[1] is None


def test_minibatches_are_whole_episodes():
    """Identity: an epoch meets every transition once, in minibatches of the size asked for, in another order each."""
    own = PPOLSTM("MlpLstmPolicy", venv(12), batch_size=3 * 7, policy_kwargs=SMALL, seed=1, device="cpu")
    assert own.n_steps == 7
    filled(own)
    epochs = [[batch.observations for batch in own.rollout_buffer.batches(own.batch_size)] for _ in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [21] * 4
        seen = torch.cat(epoch).sort(dim=0).values
        torch.testing.assert_close(seen, own.rollout_buffer.observations.flatten(0, 1).sort(dim=0).values)
    assert not torch.equal(epochs[0][0], epochs[1][0])


@pytest.mark.parametrize("action", ["target", "discrete"])
def test_zip_in_stock_sb3_contrib(tmp_path, action):
    """Twin: the zip loads in sb3-contrib where hedgerl cannot be imported, and acts as our model does."""
    own = PPOLSTM("MlpLstmPolicy", venv(action=action), n_epochs=1, seed=1, device="cpu").learn(2 * 28)
    own.save(tmp_path / "model")
    seen = np.random.default_rng(1).normal(size=(5, 4, 11)).astype(np.float32)
    state, acted = None, []
    for step in range(5):
        action, state = own.predict(seen[step], state, np.full(4, step == 0), deterministic=True)
        acted.append(action)
    np.savez(tmp_path / "cases.npz", seen=seen, acted=np.stack(acted))
    program = """
import sys
sys.modules["hedgerl"] = None
import numpy as np
from sb3_contrib import RecurrentPPO
model, cases, state = RecurrentPPO.load("model", device="cpu"), np.load("cases.npz"), None
assert type(model) is RecurrentPPO
for step, (seen, acted) in enumerate(zip(cases["seen"], cases["acted"])):
    action, state = model.predict(seen, state, np.full(4, step == 0), deterministic=True)
    assert np.array_equal(action, acted), (action, acted)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    again = PPOLSTM.load(tmp_path / "model", env=venv(), device="cpu") if own.action_space.shape else None
    if again is not None:
        assert type(again.rollout_buffer).__name__ == "EpisodeBuffer"
        again.learn(28, reset_num_timesteps=False)
        assert again.num_timesteps == own.num_timesteps + 28
        again.save(tmp_path / "again")
        assert type(RecurrentPPO.load(tmp_path / "again", device="cpu")) is RecurrentPPO


def test_callbacks_and_logger():
    """Behaviour: a callback sees every step and may stop; what sb3-contrib logs is logged."""

    class Watch(BaseCallback):
        seen = 0

        def _on_step(self):
            self.seen += 1
            assert self.locals["rewards"].shape == (4,)
            assert len(self.locals["infos"]) == 4
            return self.seen < 10

    own, stock = (
        kind("MlpLstmPolicy", venv(), n_steps=7, batch_size=28, policy_kwargs=SMALL, seed=1, device="cpu")
        for kind in (PPOLSTM, RecurrentPPO)
    )
    watch = Watch()
    own.learn(1000, watch)
    assert watch.seen == 10
    stock.learn(28)
    own.learn(28)
    names = {name for name in stock.logger.name_to_value if name.startswith("train/")}
    assert names
    assert names <= set(own.logger.name_to_value)
    assert len(own.ep_info_buffer) == 4


def test_policies_without_a_fast_way():
    """Behaviour: state-dependent exploration and observations of several parts are trained as sb3-contrib does."""
    for policy, environment, more in (
        ("MlpLstmPolicy", venv(), {"use_sde": True}),
        ("MultiInputLstmPolicy", venv(observation=("raw", "hedge_mid", "holdings")), {}),
    ):
        own = PPOLSTM(policy, environment, n_steps=7, batch_size=14, n_epochs=1, seed=1, device="cpu", **more)
        assert not own.fast
        own.learn(28)
        assert own.num_timesteps == 28


def test_what_is_refused():
    """A batch larger than the rollout."""
    with pytest.raises(ValueError, match="batch_size must be at most n_steps x n_envs = 7 x 4 = 28, got 29"):
        PPOLSTM("MlpLstmPolicy", venv(), batch_size=29)


class Recall(Env):
    """The sign that the first observation shows is to be told at the last of 6 steps."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, place):
        self.rng = np.random.default_rng(place)

    def reset(self, *, seed=None, options=None):
        self.step_count, self.sign = 0, float(self.rng.choice([-1.0, 1.0]))
        return np.array([self.sign], np.float32), {}

    def step(self, action):
        self.step_count += 1
        over = self.step_count == 6
        reward = -abs(float(action[0]) - self.sign) if over else 0.0
        return np.zeros(1, np.float32), reward, over, False, {}


@pytest.mark.slow
def test_memory_is_used():
    """Behaviour: what only the first observation showed is known at the last step; without memory the best is -1."""
    environment = DummyVecEnv([lambda place=place: Recall(place) for place in range(64)])
    own = PPOLSTM(
        "MlpLstmPolicy", environment, learning_rate=3e-3, n_steps=6, batch_size=192, gamma=1.0, seed=1, device="cpu"
    )
    own.learn(64 * 6 * 60)
    assert own.rollout_buffer.rewards[-1].mean() > -0.5
