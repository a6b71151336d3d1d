"""What is seen of episodes while a learner collects."""

from __future__ import annotations

import numpy as np
import pytest
from sb3_contrib import RecurrentPPO
from stable_baselines3 import SAC

from hedgerl.agents.callbacks import Episodes
from hedgerl.envs import Reward, make_vec
from hedgerl.sim import BlackScholes

REWARD = Reward(loss="cvar", w=1.0, lam=0.5, weights={"turnover": 0.1})


def venv(num_envs: int = 4):
    """A batched environment with three weighted terms."""
    return make_vec(
        "hedgerl/ShortOption-v0", num_envs=num_envs, market=BlackScholes(volatility=0.2), n_steps=5, reward=REWARD
    )


@pytest.mark.parametrize("kind", ["ppo", "sac"])
def test_weighted_terms_add_up_to_the_reward(kind):
    """Identity: mean reward = - sum of weight x mean term, for both kinds of stock learners. Catches a lost term."""
    callback = Episodes()
    if kind == "ppo":
        RecurrentPPO("MlpLstmPolicy", venv(), n_steps=10, batch_size=20, n_epochs=1, seed=1).learn(40, callback)
    else:
        SAC("MlpPolicy", venv(), learning_starts=100, seed=1).learn(40, callback)
    scalars, histograms = callback.take()
    assert scalars["episodes"] == 8.0
    weights = {"tail_loss": 1.0, "transaction_cost": 0.5, "turnover": 0.1}
    assert {name for name in scalars if name.startswith("term/")} == {f"term/{name}" for name in weights}
    total = -sum(weight * scalars[f"term/{name}"] for name, weight in weights.items())
    assert scalars["reward"] == pytest.approx(total, rel=1e-5)
    assert histograms["pnl"].shape == (8,)
    assert scalars["pnl"] == pytest.approx(histograms["pnl"].mean())
    assert histograms["action/0"].shape == (40,)
    assert np.abs(histograms["action/0"]).max() <= 1.0


def test_take_begins_anew():
    """Behaviour: what was taken does not come again, and an empty time gives nothing."""
    callback = Episodes()
    model = SAC("MlpPolicy", venv(), learning_starts=100, seed=1).learn(20, callback)
    assert callback.take()[0]["episodes"] == 4.0
    assert callback.take() == ({}, {})
    model.learn(20, callback, reset_num_timesteps=False)
    assert callback.take()[0]["episodes"] == 4.0
