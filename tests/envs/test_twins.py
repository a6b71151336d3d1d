"""Twins: NumPy and torch, a batch and its parts, blocks drawn ahead and one batch alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import hedgerl.envs.scenario as module
from hedgerl.envs import RAW, Environment, Reward, Rollout, ShortOption, make_vec
from hedgerl.envs.gym import ShortOptionEnv
from hedgerl.envs.scenario import _DERIVED
from hedgerl.sim.backend import to_numpy

by_task = pytest.mark.parametrize("name", ["short", "rolled", "kept", "overlay", "book"])
EVERYTHING = Reward(loss="cvar", weights=dict.fromkeys(["turnover", "delta_neutrality", "drawdown", "mean_std"], 0.1))


@pytest.fixture(params=["torch", pytest.param("cupy", marks=pytest.mark.gpu)])
def sent(request):
    """Takes NumPy's arrays to another library; tests/sim/test_device.py runs those of CuPy on its stand-in, too."""
    if request.param == "torch":
        return torch.as_tensor
    return request.getfixturevalue("cupy").asarray


@by_task
def test_another_library_is_numpy(name, tasks, full, play, sent):
    """The same scenario in float64 of torch or CuPy gives the same rewards, features and books, to rounding.

    Catches a host array that meets a device's, and a lost dtype.
    """
    task = tasks(execution=full)[name]
    batch = task.scenario(8, seed=5)
    one = Environment(task, None, "holdings", EVERYTHING, record=True)
    two = Environment(task, None, "holdings", EVERYTHING, record=True)
    rewards, seen = play(one, batch)
    other_rewards, other_seen = play(two, batch.mapped(sent))
    assert isinstance(other_rewards[0], type(sent(batch.spot)))
    host_rewards, host_seen = (np.stack([to_numpy(each) for each in rows]) for rows in (other_rewards, other_seen))
    assert host_seen.dtype == np.float32
    np.testing.assert_allclose(host_rewards, np.stack(rewards), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(host_seen, np.stack(seen), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(to_numpy(two.result().cash), one.result().cash, rtol=1e-10, atol=1e-8)
    for term, values in one.result().reward_terms.items():
        np.testing.assert_allclose(to_numpy(two.result().reward_terms[term]), values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("action", ["trade", "target", "coverage", "band", "discrete"])
def test_actions_in_another_library(action, tasks, sent):
    """Every kind of action gives the same profits in torch and CuPy as in NumPy, to rounding."""
    task = tasks()["rolled"]
    batch, rng = task.scenario(8, seed=4), np.random.default_rng(1)
    whole = action == "discrete"
    columns = {"coverage": 1, "band": 4}.get(action, 2)
    drawn = rng.integers(6, size=(task.n_steps, 8)) if whole else rng.uniform(-1.0, 1.0, (task.n_steps, 8, columns))
    profits = []
    for scenario in (batch, batch.mapped(sent)):
        environment = Environment(task, None, action)
        environment.reset(scenario)
        for each in drawn:
            environment.step(each)
        profits.append(to_numpy(environment.rollout.wealth))
    np.testing.assert_allclose(*profits, rtol=1e-9)


@by_task
def test_batch_is_one_at_a_time(name, tasks, full, play):
    """Each path of a batch fares as it would alone, whether its arrays were known before it was cut out or not."""
    task = tasks(execution=full)[name]
    batch = task.scenario(3, seed=6)
    rng = np.random.default_rng(1)
    targets = rng.normal(size=(task.n_steps, 3, len(task.instruments))) * task.size

    def run(scenario, columns):
        environment = Environment(task, None, "holdings", record=True)
        seen = [environment.reset(scenario)]
        rewards = []
        for target in targets[:, columns]:
            observation, reward, _ = environment.step(target)
            seen.append(observation)
            rewards.append(reward)
        return np.stack(rewards), np.stack(seen), environment.result().cash

    early = [batch.part(i, i + 1) for i in range(3)]
    whole = run(batch, slice(None))
    late = [batch.part(i, i + 1) for i in range(3)]
    assert set(late[0].__dict__) & _DERIVED
    assert not set(early[0].__dict__) & _DERIVED
    for parts in (early, late):
        for i, part in enumerate(parts):
            for mine, all_of_them in zip(run(part, slice(i, i + 1)), whole, strict=True):
                np.testing.assert_allclose(mine, all_of_them[:, i : i + 1], rtol=1e-12, atol=1e-12)


def test_part_cuts_every_array(tasks):
    """What is derived of a part is the part of what is derived: catches a name that `part` does not know."""
    task = tasks()["kept"]
    batch = task.scenario(6, seed=1)
    fresh = batch.part(2, 5)
    for name in _DERIVED:
        getattr(batch, name)
    known = batch.part(2, 5)
    for name in _DERIVED:
        np.testing.assert_array_equal(getattr(known, name), getattr(fresh, name), err_msg=name)
    np.testing.assert_array_equal(fresh.hedges.slope, batch.hedges.slope[:, 2:5])
    again = pickle.loads(pickle.dumps(fresh))
    np.testing.assert_array_equal(again.hedges.slope, fresh.hedges.slope)


def test_only_what_is_owed_is_marked(tasks, monkeypatch):
    """Twin: contracts marked on the paths alone that hold them leave every sum over liabilities as it is."""
    task = tasks()["book"]
    few = task.scenario(200, seed=2)
    monkeypatch.setattr(module, "_where", lambda market, quantity: (market, slice(None)))
    every = task.scenario(200, seed=2)
    assert (few.liabilities.price == 0).sum() > 1.2 * (every.liabilities.price == 0).sum()
    for name in ("premium", "settlement", "liability_value", "liability_delta", "liability_gamma", "liability_theta"):
        ours, theirs = getattr(few, name), getattr(every, name)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * abs(theirs).max(), err_msg=name)


def test_looking_ahead_changes_nothing(tasks):
    """The environments' batches, cut from blocks drawn ahead, are what the batched environment sees of the blocks."""
    task = tasks()["short"]
    changes = {"market": task.market, "n_steps": task.n_steps, "maturity": task.maturity, "backend": "numpy"}
    venv = make_vec("hedgerl/ShortOption-v0", 4, block=12, **changes)
    venv.seed(9)
    first = venv.reset()
    block = venv._supply._scenario
    assert block.n_paths == 12
    environment = Environment(venv.environment.task)
    alone = environment.reset(block)
    np.testing.assert_array_equal(first, alone[:4])
    action, latest = np.full((12, 1), 0.3), first
    for batch in range(3):
        np.testing.assert_array_equal(environment.reset(block.part(4 * batch, 4 * batch + 4)), latest)
        for _ in range(task.n_steps):
            latest, reward, done, infos = venv.step(action[:4])
            mine, my_reward, ended = environment.step(action[:4])
            np.testing.assert_array_equal(reward, my_reward.astype(np.float32))
            assert done.all() == ended
            if not ended:
                np.testing.assert_array_equal(latest, mine)
        np.testing.assert_array_equal(np.stack([info["terminal_observation"] for info in infos]), mine)

    single = ShortOptionEnv(**changes)
    seen, _ = single.reset(seed=3)
    ahead = single._supply._scenario
    np.testing.assert_array_equal(seen, environment.reset(ahead.part(0, 1))[0])
    options = {"scenario": ahead.part(0, 1)}
    again, _ = single.reset(options=options)
    np.testing.assert_array_equal(seen, again)


def test_gradients_flow_from_the_profit_to_the_targets(tasks, full):
    """The derivative of the P&L by a target is the price's move less costs, as a difference quotient says."""
    task = tasks(execution=full)["rolled"]
    smooth = ShortOption(**{name: getattr(task, name) for name in ("market", "n_steps", "maturity", "hedge_options")})
    batch = smooth.scenario(4, seed=3).mapped(torch.as_tensor)
    costs = full.__class__(costs=full.costs, funding=full.funding)
    torch.manual_seed(1)
    targets = torch.randn(smooth.n_steps, 4, 2, dtype=torch.float64)

    def profit(values: torch.Tensor) -> torch.Tensor:
        rollout = Rollout(batch, costs)
        return sum(rollout.act(target) for target in values)

    assert torch.autograd.gradcheck(profit, (targets.requires_grad_(),), eps=1e-6, atol=1e-5)


def test_gradients_flow_through_rewards_and_features(tasks):
    """A network that acts on features learns from rewards: its gradient is there, and finite."""
    task = tasks()["short"]
    environment = Environment(task, None, "target", Reward(loss="entropic", weights={"delta_neutrality": 1.0}))
    network = torch.nn.Linear(11, 1)
    seen, done, total = environment.reset(task.scenario(16, seed=1).mapped(torch.as_tensor)), False, 0.0
    while not done:
        seen, reward, done = environment.step(torch.tanh(network(seen)))
        total = total + reward.mean()
    total.backward()
    gradient = network.weight.grad
    assert torch.isfinite(gradient).all()
    assert (gradient[0, [0, 5, 8]] != 0).all()


def test_raw_arrays_are_the_same(tasks, sent):
    """Every raw array, by name, in another library and in NumPy, with the shape that its space says."""
    task = tasks()["book"]
    names = tuple(name for name in RAW if RAW[name].per != "liability" or "volatility" not in name)
    batch = task.scenario(5, seed=2)
    one, two = Environment(task, ("raw", *names), "holdings"), Environment(task, ("raw", *names), "holdings")
    mine, other = one.reset(batch), two.reset(batch.mapped(sent))
    for name in names:
        assert mine[name].shape == (5, *one.observation_space[name].shape), name
        np.testing.assert_allclose(to_numpy(other[name]), mine[name], rtol=1e-7, atol=1e-9, err_msg=name)
