"""The Gymnasium environments and the vectorised one of stable-baselines3."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env as check_for_sb3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from hedgerl.envs import Reward, make_vec
from hedgerl.sim import BlackScholes

MONTH = {"market": BlackScholes(volatility=0.2), "n_steps": 6, "maturity": 6 / 252, "backend": "numpy"}
SHORT = "hedgerl/ShortOption-v0"
VARIANTS = [
    (SHORT, {}),
    (SHORT, {"action": "trade", "observation": ("time_left", "holdings")}),
    (SHORT, {"observation": ("raw", "spot", "holdings", "liability_position"), "action": "discrete"}),
    ("hedgerl/SpyOverlay-v0", {"tenor": 3 / 252}),
    ("hedgerl/SpyOverlay-v0", {"tenor": 3 / 252, "action": "discrete"}),
    ("hedgerl/OptionBook-v0", {}),
]


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_checkers_pass(name, changes):
    """Both environment checkers, every warning an error.

    Raw arrays have no bounds, at which Gymnasium's warns, and numbers among them, for which that of stable-baselines3
    fails on NumPy 2.
    """
    env = gymnasium.make(name, **MONTH, **changes)
    raw = "raw" in changes.get("observation", ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if raw else "error")
        check_env(env.unwrapped)
        if not raw:
            check_for_sb3(env.unwrapped)


def episode(env, **how):
    seen, _ = env.reset(**how)
    rows, done = [seen], False
    while not done:
        seen, reward, done, truncated, info = env.step(np.array([0.4], dtype=np.float32))
        assert not truncated
        rows.append(np.append(seen, np.float32(reward)))
    return b"".join(row.tobytes() for row in rows), info


def test_same_seed_same_bytes():
    """Determinism: of the episode that is seeded, and of those that follow; without a seed they are fresh."""
    env, other, fresh = (gymnasium.make(SHORT, **MONTH) for _ in range(3))
    first = [episode(env, seed=5)[0], episode(env)[0], episode(env)[0]]
    assert [episode(other, seed=5)[0], episode(other)[0], episode(other)[0]] == first
    assert [episode(env, seed=5)[0], episode(env)[0], episode(env)[0]] == first
    unseeded = {episode(fresh)[0], episode(fresh)[0], episode(env, seed=0)[0], episode(env, seed=6)[0]}
    assert len({*first, *unseeded}) == 7


def test_episode_ends_with_its_books():
    """The last info has P&L, cost and terms, and they are those of the books."""
    env = gymnasium.make(SHORT, **MONTH)
    _, info = episode(env, seed=1)
    rollout = env.unwrapped.environment.rollout
    assert info["pnl"] == rollout.wealth[0]
    assert info["cost"] == rollout.total_cost[0]
    assert set(info["reward_terms"]) == {"pnl_deviation", "transaction_cost"}
    with pytest.raises(ValueError, match="reset"):
        env.unwrapped.step(np.array([0.0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_step": 5}, "n_step is not known to ShortOption; the nearest name is n_steps"),
        ({"rewards": Reward()}, "the nearest name is reward"),
        ({"reward": {"los": "abs"}}, "reward has no field los; the nearest name is loss"),
        ({"reward": "abs"}, "reward must be a Reward"),
        ({"action": {"kid": "trade"}}, "the nearest name is kind"),
        ({"render_mode": "human"}, "render_mode"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium warns of a render mode that is not declared
        with pytest.raises(ValueError, match=message):
            gymnasium.make(SHORT, **changes)


def test_wrong_calls_are_refused():
    env = gymnasium.make(SHORT, **MONTH).unwrapped
    env.reset(seed=1)
    with pytest.raises(ValueError, match=r"shape \(1,\), got \(2,\)"):
        env.step(np.zeros(2))
    with pytest.raises(ValueError, match="NaN"):
        env.step(np.array([np.nan]))
    with pytest.raises(ValueError, match="a scenario and nothing else"):
        env.reset(options={"scenarios": 1})
    with pytest.raises(ValueError, match="Scenario of one path"):
        env.reset(options={"scenario": env.task.scenario(2, seed=1)})
    with pytest.raises(ValueError, match="nearest is 'hedgerl/ShortOption-v0'"):
        make_vec("hedgerl/ShortOptions-v0", 2)
    with pytest.raises(ValueError, match="num_envs"):
        make_vec(SHORT, 0)


def test_vector_environment_says_what_monitor_says():
    """Rewards, lengths and terminal observations of the infos against sums of what was handed out."""
    venv = make_vec(SHORT, 3, **MONTH, reward={"weights": {"turnover": 0.5}})
    venv.seed(3)
    seen, total = venv.reset(), np.zeros(3)
    for step in range(6):
        seen, reward, done, infos = venv.step(np.full((3, 1), 0.2))
        total += reward
        assert done.all() == (step == 5)
        assert (infos[0] == {}) == (step < 5)
    assert reward.dtype == np.float32
    np.testing.assert_array_equal(seen[:, 0], 1.0)  # the next episode has begun
    for i, info in enumerate(infos):
        assert info["terminal_observation"][0] == 0.0
        assert info["TimeLimit.truncated"] is False
        assert info["episode"]["l"] == 6
        assert abs(info["episode"]["r"] - total[i]) < 1e-6 * abs(total[i])
        terms = info["reward_terms"]
        weighed = 0.001 * terms["pnl_deviation"] + 0.0001 * terms["transaction_cost"] + 0.5 * terms["turnover"]
        assert abs(info["episode"]["r"] + weighed) < 1e-9 * abs(weighed)


def test_vector_environment_is_seeded_like_any():
    """The same seed gives the same episodes, from the next reset on; without one a reset goes on to fresh ones."""
    one, two = (make_vec(SHORT, 4, **MONTH) for _ in range(2))
    for venv in (one, two):
        venv.seed(8)
    first = one.reset()
    np.testing.assert_array_equal(first, two.reset())
    one.step(np.zeros((4, 1)))
    two.step(np.zeros((4, 1)))
    np.testing.assert_array_equal(one.reset(), two.reset())
    one.seed(8)
    np.testing.assert_array_equal(one.reset(), first)

    def spots(venv):
        return venv.environment.scenario.spot[-1].tobytes()

    one.reset()
    second = spots(one)
    assert second == spots(two)
    one.seed(None)
    one.reset()
    assert spots(one) != second


def test_vector_environment_attributes():
    venv = make_vec(SHORT, 3, **MONTH)
    assert venv.get_attr("task", [0, 2]) == [venv.environment.task] * 2
    assert venv.get_attr("render_mode") == [None] * 3
    assert venv.env_is_wrapped(Monitor) == [True] * 3
    assert venv.env_is_wrapped(VecMonitor) == [False] * 3
    venv.set_attr("learn", False)
    assert venv.environment.learn is False
    with pytest.raises(ValueError, match="share"):
        venv.set_attr("learn", True, indices=0)
    assert not venv.has_attr("nothing_like_this")
    assert len(venv.env_method("prepare", venv.environment.task.scenario(3, seed=1))) == 3
    venv.close()


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_stable_baselines_train(algorithm):
    """Both algorithms run on it, normalised, and count its episodes; evaluation takes it for monitored."""
    venv = make_vec(SHORT, 8, **MONTH)
    few = {"n_steps": 12, "batch_size": 32, "n_epochs": 1} if algorithm is PPO else {"learning_starts": 20}
    model = algorithm("MlpPolicy", VecNormalize(venv), seed=1, device="cpu", **few)
    model.learn(96)
    assert len(model.ep_info_buffer) >= 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, _ = evaluate_policy(model, venv, n_eval_episodes=8)
    assert np.isfinite(mean)
