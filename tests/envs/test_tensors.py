"""Environments whose episodes are tensors, on the CPU, against those of NumPy."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecMonitor

from hedgerl.envs import Action, Environment, HedgingVecEnv, Reward, make_vec
from hedgerl.envs.scenario import Scenario
from hedgerl.envs.vector import tensor_device
from hedgerl.sim import BlackScholes

KINDS = ("short", "rolled", "kept", "overlay", "book")
EVERYTHING = Reward(loss="cvar", weights=dict.fromkeys(["turnover", "margin_use", "position_limit", "mean_std"], 0.1))
by_task = pytest.mark.parametrize("name", KINDS)


def venv(task, device, num_envs=6, action=None, observation=None, reward=EVERYTHING, **more):
    """Two batches a block, so that some are parts of one."""
    environment = Environment(task, observation, action, reward)
    made = HedgingVecEnv(environment, num_envs, block=2 * num_envs, device=device, **more)
    made.seed(4)
    return made


def actions_of(made, steps):
    rng, space = np.random.default_rng(2), made.action_space
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=(steps, made.num_envs))
    return rng.uniform(-1.2, 1.2, (steps, made.num_envs, *space.shape))


def same_infos(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        if not other:
            continue
        last, wanted = one["terminal_observation"], other["terminal_observation"]
        parts = wanted if isinstance(wanted, dict) else {"": wanted}
        for part, values in parts.items():
            found = last[part] if isinstance(wanted, dict) else last
            assert isinstance(found, np.ndarray | np.generic)
            np.testing.assert_allclose(found, values, rtol=1e-6, atol=1e-6)
        assert one["episode"]["l"] == other["episode"]["l"]
        assert one["episode"]["r"] == pytest.approx(other["episode"]["r"], rel=1e-9, abs=1e-9)
        assert one["pnl"] == pytest.approx(other["pnl"], rel=1e-9, abs=1e-9)
        assert one["cost"] == pytest.approx(other["cost"], rel=1e-9, abs=1e-9)
        assert one["reward_terms"] == pytest.approx(other["reward_terms"], rel=1e-9, abs=1e-9)


@by_task
@pytest.mark.parametrize("action", [None, "discrete", "band"])
def test_both_interfaces_are_those_of_numpy(name, action, tasks, full):
    """Twin: observations, rewards, ends and infos over five batches, blocks and parts of them; the two interfaces of
    the tensors and NumPy. Catches a part with another's numbers, and a sum that was told before an episode's end."""
    task = tasks(execution=full)[name]
    plain, border, tensors = (venv(task, device, action=action) for device in (None, "cpu", "cpu"))
    wanted, seen, inside = plain.reset(), border.reset(), tensors.reset_tensors()
    assert isinstance(seen, np.ndarray)
    assert inside.dtype == torch.float32
    for step, action in enumerate(actions_of(plain, 5 * task.n_steps)):
        for each in (seen, inside.numpy()):
            np.testing.assert_allclose(each, wanted, rtol=1e-6, atol=1e-6)
        wanted, reward, ends, infos = plain.step(action)
        seen, other_reward, other_ends, other_infos = border.step(action)
        inside, tensor_reward, done, last_infos = tensors.step_tensors(torch.from_numpy(action))
        assert isinstance(done, bool)
        assert done == ends.all() == other_ends.all() == (step % task.n_steps == task.n_steps - 1)
        assert tensor_reward.dtype == torch.float32
        assert other_reward.dtype == np.float32
        for each in (other_reward, tensor_reward.numpy()):
            np.testing.assert_allclose(each, reward, rtol=1e-6, atol=1e-7)
        same_infos(other_infos, infos)
        assert (last_infos is None) != done
        if last_infos is not None:
            same_infos(last_infos, infos)


def test_named_arrays(tasks):
    """Twin: observations of several parts come to the host part by part, at ends as well."""
    task = tasks()["kept"]
    plain, border = (venv(task, device, observation=("raw",)) for device in (None, "cpu"))
    wanted, seen = plain.reset(), border.reset()
    for action in actions_of(plain, task.n_steps + 1):
        assert wanted.keys() == seen.keys()
        for part, values in wanted.items():
            assert isinstance(seen[part], np.ndarray)
            np.testing.assert_allclose(seen[part], values, rtol=1e-6, atol=1e-9)
        wanted, _, _, infos = plain.step(action)
        seen, _, _, other_infos = border.step(action)
        same_infos(other_infos, infos)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(device, bad, tasks):
    """Behaviour: at once on NumPy; of tensors at the episode's end, before the reward's moments learn from them. The
    clip of a bounded action would hide an infinity. Catches a flag that is not read, or is lost before the end."""
    task = tasks()["short"]
    made = venv(task, device)
    good = np.zeros((6, 1))
    wrong = good.copy()
    wrong[2] = bad
    made.reset()
    if device is None:
        with pytest.raises(ValueError, match=r"finite numbers of shape \(6, 1\), got NaN or infinity"):
            made.step(wrong)
        return
    made.step(wrong)
    for _ in range(task.n_steps - 2):
        made.step(good)
    with pytest.raises(ValueError, match=r"finite numbers of shape \(6, 1\), got NaN or infinity"):
        made.step(good)
    assert made.environment.moments.episodes == 0.0
    made.reset()
    for _ in range(task.n_steps):
        made.step(good)  # nothing of it is left in another episode


def test_huge_numbers_are_numbers(tasks):
    """Behaviour: a finite action whose sum overflows is taken, late as at once."""
    task = tasks()["short"]
    made = venv(task, "cpu")
    made.reset()
    for _ in range(task.n_steps):
        made.step(np.full((6, 1), 1e308))


def test_places_that_are_not_there_are_refused(tasks):
    """Behaviour: a discrete action out of range is told at the end, and reads nothing beyond the table till then."""
    task = tasks()["short"]
    made = venv(task, "cpu", action="discrete")
    made.reset_tensors()
    made.step_tensors(torch.full((6,), 3))
    for _ in range(task.n_steps - 2):
        made.step_tensors(torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        made.step_tensors(torch.zeros(6, dtype=torch.int64))
    made.reset_tensors()
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        made.step_tensors(torch.zeros(6))


def test_an_environment_alone_checks_at_once(tasks):
    """Behaviour: a batched environment on tensors of a CPU, where nothing waits, refuses NaN at its step."""
    task = tasks()["short"]
    environment = Environment(task)
    environment.reset(task.scenario(3, seed=1).mapped(torch.as_tensor))
    with pytest.raises(ValueError, match="finite numbers"):
        environment.step(torch.full((3, 1), torch.nan))
    bound = Action.of(None, task).bind(environment.scenario, task)
    with pytest.raises(ValueError, match="finite numbers"):
        bound(torch.full((3, 1), torch.nan), environment.rollout)


def test_small_arrays_are_sent_once(tasks, full, monkeypatch):
    """Behaviour: in the second batch of a block no host array reaches a step, wherever places roll or contracts end.
    Catches a cache that parts do not share, or that keeps what is large; and one that a pickle would carry."""
    task = tasks(execution=full)["book"]
    made = venv(task, "cpu")
    seen = made.reset_tensors()
    action = torch.zeros(6, *made.action_space.shape)
    for _ in range(task.n_steps):
        seen, *_ = made.step_tensors(action)
    assert seen.shape[0] == 6
    block = made._supply._scenario
    kept = dict(block.sent)
    assert kept
    assert made.environment.scenario.sent is block.sent
    for _ in range(task.n_steps - 1):
        made.step_tensors(action)
    assert block.sent.keys() == kept.keys()
    assert max(each.numel() for each in kept.values()) <= 256
    assert "sent" not in pickle.loads(pickle.dumps(block)).__dict__


def test_what_is_sent_has_its_own_shape_and_content(tasks):
    """Identity: arrays of the same bytes and another shape, or of other content, are not mistaken for one another."""
    scenario: Scenario = tasks()["short"].scenario(3, seed=1).mapped(torch.as_tensor)
    given = [np.arange(4.0), np.arange(4.0).reshape(2, 2), np.arange(4.0) + 1, np.array([True, False])]
    for values in given * 2:
        sent = scenario._array(values)
        assert sent.dtype == torch.float64
        np.testing.assert_array_equal(sent.numpy(), values)
    assert scenario._array(given[0]) is scenario.part(1, 2)._array(given[0])


def test_who_steps_by_tensors():
    """Behaviour: only an environment with a device, and no wrapper that knows nothing of tensors: a monitor would be
    passed by. Without a device the tensors' interface says what is missing."""
    market = BlackScholes(volatility=0.2)
    plain, tensors = (make_vec("hedgerl/ShortOption-v0", 2, market=market, device=device) for device in (None, "cpu"))
    assert tensor_device(plain) is None
    assert tensor_device(tensors) == torch.device("cpu")
    assert tensor_device(VecMonitor(tensors)) is None
    for call in (plain.reset_tensors, lambda: plain.step_tensors(torch.zeros(2, 1))):
        with pytest.raises(ValueError, match="device must be given for tensors"):
            call()


@pytest.mark.parametrize("name", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(tasks, name):
    """Behaviour: one line with the name, whatever torch raises."""
    with pytest.raises(ValueError, match=f"device must be one that torch has here, got '{name}': "):
        venv(tasks()["short"], name)
