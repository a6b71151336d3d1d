"""Normalisation against known statistics, and the terminal objective paid out as it accrues."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

from hedgerl.agents.normalise import NormalisedVecEnv
from hedgerl.agents.shaping import AccruedVecEnv
from hedgerl.envs import Action, Environment, HedgingVecEnv, Reward, ShortOption, make_vec
from hedgerl.sim import BlackScholes


def venv(num_envs=64, **more):
    made = make_vec("hedgerl/ShortOption-v0", num_envs, market=BlackScholes(volatility=0.2), **{"n_steps": 5, **more})
    made.seed(3)
    return made


def play(env, steps, seed=1):
    """Observations, rewards and infos of random actions."""
    rng, seen, rewards, infos = np.random.default_rng(seed), [env.reset()], [], []
    for _ in range(steps):
        observation, reward, _, info = env.step(rng.uniform(-1, 1, (env.num_envs, *env.action_space.shape)))
        seen.append(observation), rewards.append(reward), infos.append(info)
    return np.stack(seen), np.stack(rewards), infos


def test_moments_are_those_of_all_that_was_seen():
    """Identity: mean, variance and count over many batches, of observations and of returns, from NumPy."""
    raw, rewards, _ = play(venv(), 23)
    normalised = NormalisedVecEnv(venv())
    seen, _, _ = play(normalised, 23)
    every = raw.reshape(-1, raw.shape[-1]).astype(np.float64)
    count = len(every)  # besides the 1e-4 that stand for nothing
    np.testing.assert_allclose(normalised.obs_rms.mean, every.mean(axis=0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(normalised.obs_rms.var, every.var(axis=0), rtol=1e-5, atol=1e-6)
    assert normalised.obs_rms.count == pytest.approx(count, abs=1e-3)
    mean, scale = every.mean(axis=0), np.sqrt(every.var(axis=0) + 1e-8)
    np.testing.assert_allclose(seen[-1], np.clip((raw[-1] - mean) / scale, -10, 10), rtol=1e-4, atol=1e-4)
    returns, running = [], np.zeros(64)
    for step, reward in enumerate(rewards):
        running = running + reward
        returns.append(running.copy())
        if step % 5 == 4:
            running[:] = 0
    np.testing.assert_allclose(normalised.ret_rms.var, np.var(returns), rtol=1e-4)


def test_known_distribution():
    """Statistical: 0.3 and 2.0 of a normal sample within 5 standard errors; what comes out has 0 and 1."""

    class Drawn(VecEnvWrapper):
        rng = np.random.default_rng(1)

        def reset(self):
            self.venv.reset()
            return self.rng.normal(0.3, 2.0, (64, 11)).astype(np.float32)

        def step_wait(self):
            _, reward, done, infos = self.venv.step_wait()
            return self.rng.normal(0.3, 2.0, (64, 11)).astype(np.float32), reward, done, infos

    normalised = NormalisedVecEnv(Drawn(venv()))
    seen, _, _ = play(normalised, 400)
    error = 2.0 / (64 * 401) ** 0.5
    np.testing.assert_allclose(normalised.obs_rms.mean, 0.3, atol=5 * error)
    np.testing.assert_allclose(np.sqrt(normalised.obs_rms.var), 2.0, atol=5 * error)
    assert abs(seen[200:].mean()) < 0.02
    assert abs(seen[200:].std() - 1.0) < 0.02


def test_as_stable_baselines3_has_it():
    """Twin: observations, rewards and last observations of VecNormalize, whose loop goes episode by episode."""
    own, stock = NormalisedVecEnv(venv(), gamma=0.9), VecNormalize(venv(), gamma=0.9)
    (seen, rewards, infos), (seen2, rewards2, infos2) = play(own, 12), play(stock, 12)
    np.testing.assert_allclose(seen, seen2, rtol=1e-5, atol=1e-4)  # float32 against float64
    np.testing.assert_allclose(rewards, rewards2, rtol=1e-6)
    for one, other in zip(infos[4], infos2[4], strict=True):
        np.testing.assert_allclose(one["terminal_observation"], other["terminal_observation"], rtol=1e-5, atol=1e-4)


def test_frozen_and_saved(tmp_path):
    """Behaviour: what is loaded acts the same, frozen statistics stay, and training goes on where it was."""
    trained = NormalisedVecEnv(venv())
    play(trained, 7)
    trained.save(tmp_path / "statistics.json")
    frozen = NormalisedVecEnv.load(tmp_path / "statistics.json", venv(), training=False)
    state = frozen.state
    raw, reward, _ = play(venv(), 6, seed=2)
    seen, unchanged, _ = play(frozen, 6, seed=2)
    assert frozen.state["mean"] == state["mean"] == trained.state["mean"]
    assert frozen.state["return_variance"] == trained.state["return_variance"]
    np.testing.assert_array_equal(unchanged, reward)
    np.testing.assert_array_equal(seen, np.stack([trained.normalize_obs(each) for each in raw]))
    going_on = NormalisedVecEnv.load(tmp_path / "statistics.json", venv())
    assert going_on.state == trained.state
    play(going_on, 2)
    assert going_on.state["count"] > trained.state["count"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.0]}, "mean must be finite numbers of shape"),
        ({"variance": [-1.0] * 11}, "variance must be finite"),
        ({"mean": [float("nan")] * 11}, "mean must be finite"),
        ({"format": 2}, "format 1, got 2"),
        ({"surprise": 1}, r"not known \['surprise'\]"),
    ],
)
def test_what_is_refused(tmp_path, change, message):
    """Statistics of another shape, that are no numbers, or of another format; nothing is taken over by halves."""
    normalised = NormalisedVecEnv(venv())
    state = normalised.state
    (tmp_path / "bad.json").write_text(json.dumps(state | change))
    with pytest.raises(ValueError, match=message):
        NormalisedVecEnv.load(tmp_path / "bad.json", venv())
    with pytest.raises(ValueError, match=message):
        normalised.restore(state | change)
    assert normalised.state == state


def test_without_observations_to_normalise():
    """Rewards alone; observations of several parts are refused."""
    normalised = NormalisedVecEnv(venv(), norm_obs=False)
    seen, _, _ = play(normalised, 3)
    np.testing.assert_array_equal(seen, play(venv(), 3)[0])
    with pytest.raises(ValueError, match="must be a Box"):
        NormalisedVecEnv(venv(observation=("raw", "spot")))
    assert isinstance(normalised.observation_space, spaces.Box)


LOSSES = {
    "mean_std": Reward(loss="mean_std", w=0.7, risk_aversion=1.5, lam=0.01),
    "cvar": Reward(loss="cvar", w=0.7, alpha=0.9, lam=0.0),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_accrues_adds_up_to_the_terminal_reward(loss):
    """Identity: an episode's sum is that of the environment's own rewards, step rewards beside them included."""
    plain, accrued = venv(reward=LOSSES[loss]), AccruedVecEnv(venv(reward=LOSSES[loss]))
    (_, rewards, infos), (_, own, infos2) = play(plain, 20), play(accrued, 20)
    for first in range(0, 20, 5):
        wanted, found = rewards[first : first + 5].sum(axis=0), own[first : first + 5].sum(axis=0)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * abs(wanted).max())
        assert [info["episode"]["r"] for info in infos[first + 4]] == [
            info["episode"]["r"] for info in infos2[first + 4]
        ]
    np.testing.assert_array_equal(own[:5], rewards[:5])  # before the moments are known nothing is changed
    if loss == "mean_std":
        assert (abs(own[5:9]) > 0).mean() > 0.99


@pytest.mark.parametrize("loss", LOSSES)
def test_without_the_noise_that_no_hedge_escapes(loss):
    """Statistical: what is taken away is the same for two policies within 4 standard errors, and noise goes."""
    reward = replace(LOSSES[loss], w=1.0, lam=0.0, scale=1.0)
    task = ShortOption(market=BlackScholes(volatility=0.2), n_steps=10)
    sums = {}
    for delta in (False, True):
        for coverage in (0.6, 1.0):
            env = HedgingVecEnv(Environment(task, None, Action("coverage"), reward, learn=False), 8192)
            known = {"episodes": 1e4, "mean": 0.1, "variance": 0.25, "threshold": 0.6, "entropic": 0.0}
            env.environment.moments.state = known
            accrued = AccruedVecEnv(env, delta=delta)
            accrued.seed(5)
            accrued.reset()
            sums[delta, coverage] = sum(accrued.step(np.full((8192, 1), coverage))[1].astype(float) for _ in range(10))
    taken = {coverage: sums[True, coverage] - sums[False, coverage] for coverage in (0.6, 1.0)}
    difference = taken[1.0] - taken[0.6]
    assert difference.std() > 0
    assert abs(difference.mean()) < 4 * difference.std() / 8192**0.5
    if loss == "mean_std":
        assert sums[True, 1.0].std() < 0.2 * sums[False, 1.0].std()
    else:
        assert abs(taken[1.0].mean()) < 4 * taken[1.0].std() / 8192**0.5


def test_only_terminal_objectives_accrue():
    """A reward of steps has nothing to pay out."""
    with pytest.raises(ValueError, match="mean_std or cvar to accrue, got 'abs'"):
        AccruedVecEnv(venv())
