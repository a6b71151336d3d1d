"""Rollouts that stay on the policy's device: wrappers, PPO-LSTM and training by tensors, on the CPU, against NumPy."""

from __future__ import annotations

import io
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecMonitor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import hedgerl.agents.recurrent as recurrent
import hedgerl.training.learners as learners
from hedgerl.agents.callbacks import Episodes
from hedgerl.agents.normalise import NormalisedVecEnv, TensorMeanStd
from hedgerl.agents.ppo_lstm import PPOLSTM, chosen
from hedgerl.agents.recurrent import default_policy
from hedgerl.agents.shaping import AccruedVecEnv
from hedgerl.envs import Listing, Reward, ShortOption, make_vec
from hedgerl.envs.vector import tensor_device
from hedgerl.sim import BlackScholes
from hedgerl.training import checkpoint
from hedgerl.training.settings import PPOLSTMConfig

SMALL = {**default_policy(), "features_extractor_kwargs": {"features_dim": 16}, "lstm_hidden_size": 8}
LOSSES = {
    "mean_std": Reward(loss="mean_std", w=0.7, risk_aversion=1.5, lam=0.01),
    "cvar": Reward(loss="cvar", w=0.7, alpha=0.9, lam=0.01),
}
STEPS = 8
ROLLED = Listing(tenor=6 / 252, roll_every=3 / 252)
KEPT = Listing(tenor=6 / 252, roll_every=3 / 252, keep=True, is_call=False)
TASKS = {
    "ShortOption": {"hedge_options": (ROLLED, KEPT)},
    "SpyOverlay": {"tenor": 4 / 252},
    "OptionBook": {"hedge_options": (ROLLED, KEPT), "arrivals": 1.0},
}


def venv(device, reward=LOSSES["mean_std"], task="ShortOption", num_envs=8, **more):
    made = make_vec(
        f"hedgerl/{task}-v0",
        num_envs,
        block=2 * num_envs,
        device=device,
        market=BlackScholes(volatility=0.2),
        n_steps=STEPS,
        maturity=STEPS / 252,
        reward=reward,
        **more,
    )
    made.seed(3)
    return made


def wrapped(device, **more):
    return NormalisedVecEnv(AccruedVecEnv(venv(device, **more), delta=True), gamma=0.9)


def model(env, seed=1, **more):
    kwargs = {"batch_size": 2 * STEPS, "n_epochs": 2, "policy_kwargs": SMALL, "device": "cpu", **more}
    return PPOLSTM("MlpLstmPolicy", env, seed=seed, **kwargs)


def close(ours, theirs, rtol=1e-6):
    """States of a normaliser agree to the rounding of the float32 sums that stable-baselines3 begins with."""
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        scale = max(1.0, float(np.abs(values).max())) if name not in ("mean", "variance") else 1.0
        np.testing.assert_allclose(ours[name], values, rtol=rtol, atol=1e-6 * scale, err_msg=name)


class Waits(Exception):
    """Something was fetched from a device, or sent to it."""


FETCHES = ("item", "tolist", "numpy", "cpu", "nonzero", "masked_select", "argwhere", "__array__", "__contains__")
NUMBERS = ("__bool__", "__float__", "__int__", "__index__")
SENDS = ("tensor", "as_tensor", "asarray")


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in FETCHES + NUMBERS or (name in SENDS and not isinstance(args[0], torch.Tensor)):
            raise Waits(name)
        if name in ("__getitem__", "__setitem__"):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(each, torch.Tensor) and each.dtype == torch.bool for each in index):
                raise Waits("a mask as an index")
            if name == "__setitem__" and isinstance(args[2], np.ndarray):
                raise Waits("an array of the host")
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"):
            raise Waits(str(func))
        return func(*args, **(kwargs or {}))


class NothingWaits:
    """Raises `Waits` where the host would have to wait for a device, were the tensors there."""

    def __enter__(self):
        self.modes = _Functions(), _Operations()
        for each in self.modes:
            each.__enter__()

    def __exit__(self, *error):
        for each in reversed(self.modes):
            each.__exit__(*error)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: float(x[0]),
        lambda x: x.numpy(),
        lambda x: x.cpu(),
        lambda x: np.asarray(x),
        lambda x: x[x > 0],
        lambda x: x.tolist(),
        lambda x: torch.as_tensor(np.zeros(2)),
    ],
)
def test_the_watch_sees_what_waits(wait):
    """Behaviour: what the next test looks for is found where it is; without it that test would tell nothing."""
    with pytest.raises(Waits), NothingWaits():
        wait(torch.ones(3))


class InEpisodes(BaseCallback):
    """Watches from the end of an episode's first step to the end of its last but one."""

    def __init__(self, where=torch.device("cpu")):  # noqa: B008 (a constant)
        super().__init__()
        self.where, self.calls, self.watched, self.watch = where, 0, 0, None

    def _on_step(self):
        step = self.calls % STEPS
        if self.calls >= STEPS and step == 0:
            self.watch = nothing_waits(self.where)
            self.watch.__enter__()
        elif self.watch is not None:
            self.watched += 1
            if step == STEPS - 2:
                self.stop()
        self.calls += 1
        return True

    def stop(self):
        if self.watch is not None:
            self.watch.__exit__(None, None, None)
            self.watch = None


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("action", [None, "discrete"])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_step_within_an_episode_waits(task, action, loss):
    """Behaviour: from an episode's first step to its last but one nothing is fetched from the device nor sent there, in
    the environment, the wrappers, the policy and the callbacks. Catches a sum tested for NaN, a mask, a host array."""
    accrues = task != "SpyOverlay"
    env = venv("cpu", reward=LOSSES[loss], task=task, action=action, **TASKS[task])
    env = NormalisedVecEnv(AccruedVecEnv(env, delta=accrues))
    watch = InEpisodes()
    try:
        model(env, n_epochs=1).learn(4 * STEPS * 8, [Episodes(), watch])
    finally:
        watch.stop()
    assert watch.calls == 4 * STEPS
    assert watch.watched == 3 * (STEPS - 2)


@contextmanager
def nothing_waits(where):
    """As `NothingWaits`, on a CUDA device by torch's own watch over its synchronisations."""
    if where.type == "cpu":
        with NothingWaits():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("task", TASKS)
def test_episodes_stay_on_the_device(cupy, task):
    """Twin: scenarios that were simulated there, stepped by tensors there, against the same brought to the host; and no
    step within an episode waits. Catches a way through the host that only a device shows."""
    where = torch.from_dlpack(cupy.zeros(1)).device
    plain, tensors = (
        NormalisedVecEnv(AccruedVecEnv(venv(device, task=task, backend="cupy", **TASKS[task])))
        for device in (None, where)
    )
    wanted, seen = plain.reset(), tensors.reset_tensors()
    rng = np.random.default_rng(2)
    for step in range(3 * STEPS):
        np.testing.assert_allclose(seen.cpu().numpy(), wanted, rtol=1e-4, atol=1e-4)
        action = rng.uniform(-1.0, 1.0, (8, *plain.action_space.shape))
        sent = torch.as_tensor(action, device=where)
        within = step >= STEPS and 0 < step % STEPS < STEPS - 1
        with nothing_waits(where) if within else nullcontext():
            seen, rewards, done, _ = tensors.step_tensors(sent)
        wanted, reward, ends, _ = plain.step(action)
        assert done == ends.all()
        assert seen.device == rewards.device == where
        np.testing.assert_allclose(rewards.cpu().numpy(), reward, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("action", ["target", "discrete"])
def test_learning_on_the_device(cupy, action):
    """Behaviour: PPO-LSTM learns from tensors of the device, no step within an episode waits, and a zip of it is
    read on a CPU."""
    where = torch.from_dlpack(cupy.zeros(1)).device
    watch = InEpisodes(where=where)
    made = model(wrapped(where, action=action, backend="cupy"), device=where)
    try:
        made.learn(4 * STEPS * 8, [Episodes(), watch])
    finally:
        watch.stop()
    assert watch.watched == 3 * (STEPS - 2)
    assert all(torch.isfinite(each).all() for each in made.policy.parameters())
    file = io.BytesIO()
    made.save(file)
    file.seek(0)
    again = PPOLSTM.load(file, env=wrapped(None, action=action), device="cpu")
    again.learn(STEPS * 8, reset_num_timesteps=False)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("training", [True, False])
def test_wrappers_are_those_of_numpy(loss, training):
    """Twin: observations, rewards, infos and statistics over four batches, of both interfaces, learning or frozen."""
    plain, border, tensors = (wrapped(device, reward=LOSSES[loss]) for device in (None, "cpu", "cpu"))
    assert tensor_device(tensors) == torch.device("cpu")
    if not training:
        learned = wrapped(None, reward=LOSSES[loss])
        learned.reset()
        for _ in range(STEPS):
            learned.step(np.full((8, 1), 0.3))
        for each in (plain, border, tensors):
            each.restore(learned.state).freeze()
    wanted, seen, inside = plain.reset(), border.reset(), tensors.reset_tensors()
    rng = np.random.default_rng(2)
    for _ in range(4 * STEPS):
        for each in (seen, inside.numpy()):
            assert each.dtype == np.float32
            np.testing.assert_allclose(each, wanted, rtol=1e-4, atol=1e-4)  # few observations: a small scale
        action = rng.uniform(-1.0, 1.0, (8, 1))
        wanted, reward, ends, infos = plain.step(action)
        seen, other_reward, other_ends, other_infos = border.step(action)
        inside, tensor_reward, done, last_infos = tensors.step_tensors(torch.from_numpy(action))
        assert done == ends.all() == other_ends.all()
        assert (last_infos is None) != done
        assert tensor_reward.dtype == torch.float32
        for each in (other_reward, tensor_reward.numpy()):
            np.testing.assert_allclose(each, reward, rtol=1e-5, atol=1e-5)
        for ours in (other_infos, last_infos or infos):
            for one, other in zip(ours, infos, strict=True):
                assert one.keys() == other.keys()
                if other:
                    assert one["episode"]["r"] == pytest.approx(other["episode"]["r"], rel=1e-9)
                    np.testing.assert_allclose(
                        one["terminal_observation"], other["terminal_observation"], rtol=1e-4, atol=1e-4
                    )
        for each in (border, tensors):
            close(each.state, plain.state)
            np.testing.assert_allclose(each.get_original_obs(), plain.get_original_obs(), rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(each.get_original_reward(), plain.get_original_reward(), rtol=1e-5, atol=1e-5)
            for ours, theirs in zip(each.mean_and_scale, plain.mean_and_scale, strict=True):
                assert isinstance(ours, np.ndarray)
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert isinstance(tensors.obs_rms.mean, np.ndarray)
    assert isinstance(tensors.ret_rms.var, np.ndarray)


def test_moments_of_tensors():
    """Twin: stable-baselines3's RunningMeanStd on float64 batches, merged with another's, to rounding."""
    rng = np.random.default_rng(1)
    ours, theirs = TensorMeanStd(shape=(3,), device=torch.device("cpu")), RunningMeanStd(shape=(3,))
    more = RunningMeanStd(shape=(3,))
    more.update(rng.normal(2.0, 3.0, (50, 3)))
    for n in (1, 7, 100):
        batch = rng.normal(100.0, 0.1, (n, 3))
        ours.update(torch.from_numpy(batch))
        theirs.update(batch)
        ours.combine(more)
        theirs.combine(more)
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12)
        np.testing.assert_allclose(ours.var, theirs.var, rtol=1e-12)
        assert ours.count == pytest.approx(theirs.count, rel=1e-12)


@pytest.mark.parametrize("action", ["target", "discrete"])
def test_learning_is_that_of_numpy(action):
    """Twin: two iterations of PPO-LSTM, the same seed: rollouts, parameters, statistics, log and counters to rounding.
    A draw from another stream, a reward of another step or a state that is kept over an end would show."""
    found = []
    for device in (None, "cpu"):
        env = wrapped(device, action=action)
        made = model(env).learn(2 * STEPS * 8)
        assert isinstance(made._last_obs, np.ndarray)
        found.append(
            (
                made,
                env,
                {
                    name: each.clone()
                    for name, each in vars(made.rollout_buffer).items()
                    if each is not None and isinstance(each, torch.Tensor)
                },
            )
        )
    (plain, plain_env, rollout), (ours, env, own) = found
    assert rollout.keys() == own.keys()
    for name, values in rollout.items():
        torch.testing.assert_close(
            own[name], values, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    for one, other in zip(ours.policy.parameters(), plain.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    close(env.state, plain_env.state, rtol=1e-4)
    assert ours.num_timesteps == plain.num_timesteps
    assert [each["l"] for each in ours.ep_info_buffer] == [each["l"] for each in plain.ep_info_buffer]
    np.testing.assert_allclose(
        [each["r"] for each in ours.ep_info_buffer], [each["r"] for each in plain.ep_info_buffer], rtol=1e-5, atol=1e-6
    )
    assert ours.logger.name_to_value.keys() == plain.logger.name_to_value.keys()
    for name, value in plain.logger.name_to_value.items():
        if name.startswith("train/"):
            assert ours.logger.name_to_value[name] == pytest.approx(value, rel=1e-2, abs=1e-4), name


def test_a_draw_of_each_row():
    """Identity: the same numbers as torch's own `sample` from the same generator, so that the two ways act alike."""
    logits = torch.randn(1000, 7, generator=torch.Generator().manual_seed(1))
    distribution = torch.distributions.Categorical(logits=logits)
    torch.manual_seed(5)
    wanted = distribution.sample()
    torch.manual_seed(5)
    assert torch.equal(chosen(logits.log_softmax(dim=-1)), wanted)
    assert wanted.unique().numel() == 7


def test_rollouts_that_cut_episodes():
    """Twin: a rollout that ends within episodes values what follows, and the next goes on from there."""
    found = []
    for device in (None, "cpu"):
        made = model(wrapped(device), n_steps=STEPS + 3, batch_size=STEPS + 3, n_epochs=1)
        found.append(made.learn(3 * 8 * (STEPS + 3)).rollout_buffer)
    plain, ours = found
    starts = (torch.arange(2 * (STEPS + 3), 3 * (STEPS + 3)) % STEPS == 0)[:, None].expand(
        -1, 8
    )  # none of the one before
    assert torch.equal(ours.starts, starts)
    assert torch.equal(plain.starts, starts)
    for name in ("observations", "actions", "rewards", "values", "advantages"):
        torch.testing.assert_close(getattr(ours, name), getattr(plain, name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n_steps", [STEPS, STEPS + 3])
def test_values_however_many_sequences_at_a_time(n_steps, monkeypatch):
    """Twin: values and states of a rollout three sequences at a time and all together, whole episodes and cut ones."""
    made = model(wrapped("cpu"), n_steps=n_steps, batch_size=n_steps, n_epochs=1).learn(2 * 8 * n_steps)
    buffer, found = made.rollout_buffer, []
    for columns in (3, 1000):
        monkeypatch.setattr(recurrent, "_COLUMNS", columns)
        with torch.no_grad():
            values, ended, last = recurrent.values_along(made.policy, buffer, buffer.before.vf)
        found.append((values, *ended, *last))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_callbacks_see_every_step_and_may_stop():
    """Behaviour: a callback meets each step with locals of the right kind, the infos of ends are NumPy's, and it may
    stop within an episode."""

    class Watch(BaseCallback):
        def __init__(self, stop):
            super().__init__()
            self.stop, self.ends, self.calls = stop, [], 0

        def _on_step(self):
            given = self.locals
            self.calls += 1
            assert given["rewards"].shape == (8,)
            assert given["new_obs"].shape[0] == given["actions"].shape[0] == given["clipped_actions"].shape[0] == 8
            assert isinstance(given["dones"], np.ndarray)
            assert len(given["infos"]) == 8
            assert given["dones"].all() == (self.calls % STEPS == 0)
            assert all(bool(info) == over for info, over in zip(given["infos"], given["dones"], strict=True))
            self.ends += [(info["pnl"], info["cost"]) for info in given["infos"] if info]
            return self.calls < self.stop

    ends = []
    for device in (None, "cpu"):
        watch = Watch(2 * STEPS + 3)
        made = model(wrapped(device)).learn(1000 * STEPS, watch)
        assert watch.calls == 2 * STEPS + 3
        assert made.num_timesteps == 8 * (2 * STEPS + 3)
        ends.append(watch.ends)
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-5, atol=1e-5)


def test_episodes_by_tensors():
    """Twin: sums and histograms of the callback, whose actions stay on the device until they are taken."""
    found = []
    for device in (None, "cpu"):
        episodes = Episodes()
        model(wrapped(device)).learn(2 * STEPS * 8, episodes)
        found.append(episodes.take())
    (scalars, histograms), (own, own_histograms) = found
    assert own == pytest.approx(scalars, rel=1e-5, abs=1e-6)
    assert own["episodes"] == 16.0
    assert own_histograms.keys() == histograms.keys()
    for name, values in histograms.items():
        assert isinstance(own_histograms[name], np.ndarray)
        np.testing.assert_allclose(own_histograms[name], values, rtol=1e-4, atol=1e-5)


def test_actions_are_kept_as_they_were():
    """Behaviour: a rollout writes the next actions into the same memory; those of before must not become them."""
    episodes, actions = Episodes(), torch.zeros(2, 1)
    for value in (1.0, 2.0):
        actions.fill_(value)
        episodes.locals = {"actions": actions, "dones": np.zeros(2, bool), "infos": [{}, {}]}
        episodes._on_step()
    np.testing.assert_array_equal(episodes.take()[1]["action/0"], [1.0, 1.0, 2.0, 2.0])


def test_other_environments_and_files(tmp_path):
    """Behaviour: one model goes on from tensors to NumPy, to a wrapper that knows no tensors, and through a zip."""
    made = model(wrapped("cpu"), n_epochs=1).learn(STEPS * 8)
    for env in (venv(None), VecMonitor(venv("cpu")), wrapped("cpu")):
        made.set_env(env)
        before = made.num_timesteps
        made.learn(STEPS * 8, reset_num_timesteps=False)
        assert made.num_timesteps == before + STEPS * 8
    assert len(made.ep_info_buffer) == 8 * 4
    made.save(tmp_path / "model")
    again = PPOLSTM.load(tmp_path / "model", env=wrapped("cpu"), device="cpu")
    again.learn(STEPS * 8, reset_num_timesteps=False)
    assert again.num_timesteps == made.num_timesteps + STEPS * 8


def test_an_action_that_is_no_number_is_refused():
    """Behaviour: a policy that has become NaN stops the rollout in which it acts."""
    made = model(wrapped("cpu"))
    made.learn(STEPS * 8)
    with torch.no_grad():
        made.policy.action_net.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="action must be finite numbers"):
        made.learn(STEPS * 8, reset_num_timesteps=False)


def learner(seed=7):
    config = PPOLSTMConfig(
        iterations=4, num_envs=8, batch_episodes=4, epochs=2, encoder=16, lstm=8, hidden=[16], target_kl=None
    )
    task = ShortOption(market=BlackScholes(volatility=0.2), n_steps=STEPS, maturity=STEPS / 252)
    setting = learners.Setting(task, task, None, None, LOSSES["mean_std"], ("mean_std", 1.0), seed, 0, 4, "cpu")
    return learners.make(config, setting)


def test_a_run_by_tensors_is_continued(tmp_path, monkeypatch):
    """Identity: two iterations, a checkpoint on the disk, a fresh learner and two more give the parameters of four
    without it, to the last bit. Catches what of the wrappers or the batches is not in the state, or not put back."""
    assert tensor_device(learner().env) is None
    monkeypatch.setattr(learners.Episodic, "tensor_device", lambda self: "cpu")
    whole = learner()
    assert tensor_device(whole.env) == torch.device("cpu")
    for iteration in range(2):
        whole.iterate(iteration)
    checkpoint.save(tmp_path, 2, {"learner": whole.state(), "random": checkpoint.random_state()})
    for iteration in range(2, 4):
        whole.iterate(iteration)
    fresh = learner()
    content = checkpoint.load(tmp_path)
    fresh.restore(content["learner"], position=True)
    checkpoint.set_random_state(content["random"])
    for iteration in range(2, 4):
        fresh.iterate(iteration)
    for one, other in zip(fresh.model.policy.parameters(), whole.model.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    ours, theirs = fresh.env.state, whole.env.state
    assert ours == theirs
    seen = np.zeros((1, *whole.env.observation_space.shape), np.float32)
    assert isinstance(whole.env.observation_space, spaces.Box)
    modules = [each.module() for each in (fresh, whole)]
    one, other = (each(torch.from_numpy(seen), *each.initial_state(1))[0] for each in modules)
    assert torch.equal(one, other)


@pytest.mark.parametrize(("device", "wanted"), [("cpu", None), ("cuda", "cuda"), ("cuda:1", "cuda:1")])
def test_where_training_keeps_its_episodes(device, wanted):
    """Behaviour: on a CUDA device by tensors there, on a CPU by NumPy, without a setting of its own."""
    made = object.__new__(learners.Episodic)
    made.setting = type("Setting", (), {"device": device})()
    assert made.tensor_device() == wanted
    assert object.__new__(learners.Replayed).tensor_device() is None
