"""Exported zips: the stock libraries load them and act identically."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import SAC

from hedgerl.agents import PPOLSTM, Agent
from hedgerl.agents.hedge_network import HedgeNetwork
from hedgerl.agents.networks import FeedForwardActor, PolicyModule, RecurrentActor
from hedgerl.envs import ShortOption, SpyOverlay, make_vec
from hedgerl.sim import BlackScholes

TASK = ShortOption(market=BlackScholes(volatility=0.2), n_steps=5)
OVERLAY = SpyOverlay(market=BlackScholes(volatility=0.2), n_steps=42)


def spread(module: PolicyModule) -> Any:
    torch.manual_seed(2)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.2 * torch.randn_like(value))
    module.normaliser.mean.uniform_(-1.0, 1.0)  # type: ignore[union-attr, operator]
    module.normaliser.scale.uniform_(0.5, 2.0)  # type: ignore[union-attr, operator]
    return module


@pytest.mark.parametrize(
    ("module", "card"),
    [
        (RecurrentActor(11, 1), {"task": TASK}),
        (RecurrentActor(11, 1, before=(), lstm=8, after=(16, 16), activation="relu"), {"task": TASK}),
        (RecurrentActor(11, 1, low=-2.0, high=2.0), {"task": TASK, "action": "coverage"}),
        (RecurrentActor(11, 3, low=None, high=None), {"task": TASK, "action": "discrete"}),
        (RecurrentActor(13, 2), {"task": OVERLAY}),
    ],
    ids=["default", "shaped", "coverage", "discrete", "overlay"],
)
def test_recurrent_ppo_acts_identically(tmp_path, module, card):
    agent = Agent(spread(module), card)
    path = agent.to_sb3_zip(tmp_path / "policy")
    assert path.name == "policy.zip"
    size, rng = agent.module.config["observation_size"], np.random.default_rng(4)
    for kind in (RecurrentPPO, PPOLSTM):
        model = kind.load(path, device="cpu")
        mine: Any = None
        theirs: Any = None
        for step in range(6):
            observation = rng.normal(size=(3, size)).astype(np.float32)
            starts = np.array([step == 0, step in (0, 2), step in (0, 4)])
            action, mine = agent.predict(observation, mine, starts)
            wanted, theirs = model.predict(observation, theirs, starts, deterministic=True)
            np.testing.assert_allclose(action, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "card"),
    [
        (FeedForwardActor(11, 1), {"task": TASK}),
        (
            FeedForwardActor(11, 1, hidden=(32,), activation="tanh", low=-2.0, high=2.0),
            {"task": TASK, "action": "coverage"},
        ),
    ],
    ids=["default", "coverage"],
)
def test_sac_acts_identically(tmp_path, module, card):
    agent = Agent(spread(module), card)
    model = SAC.load(agent.to_sb3_zip(tmp_path / "policy.zip"), device="cpu")
    observation = np.random.default_rng(4).normal(size=(50, 11)).astype(np.float32)
    wanted, _ = model.predict(observation, deterministic=True)
    np.testing.assert_allclose(agent.predict(observation)[0], wanted, rtol=1e-6, atol=1e-6)


def test_the_zip_can_be_trained_on(tmp_path):
    """Loaded onto an environment it learns: the spaces are the environment's own."""
    path = Agent(RecurrentActor(11, 1), {"task": TASK}).to_sb3_zip(tmp_path / "policy.zip")
    venv = make_vec("hedgerl/ShortOption-v0", num_envs=4, market=TASK.market, n_steps=5)
    model = PPOLSTM.load(path, env=venv, device="cpu", n_steps=5, batch_size=20)
    model.learn(40)
    assert model.num_timesteps == 40


def test_the_zip_needs_nothing_of_this_package(tmp_path):
    """Loads with hedgerl out of reach."""
    for module in (RecurrentActor(11, 1), FeedForwardActor(11, 1)):
        Agent(module, {"task": TASK}).to_sb3_zip(tmp_path / f"{module.kind}.zip")
    code = (
        "import sys; sys.modules['hedgerl'] = None\n"
        "from sb3_contrib import RecurrentPPO; from stable_baselines3 import SAC; import numpy as np\n"
        "for kind, name in ((RecurrentPPO, 'recurrent_actor'), (SAC, 'feed_forward_actor')):\n"
        "    print(kind.load(name + '.zip', device='cpu').predict(np.zeros(11, np.float32), deterministic=True)[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_exporting_draws_no_numbers_of_the_callers(tmp_path):
    torch.manual_seed(1)
    wanted = torch.rand(1)
    module = RecurrentActor(11, 1)
    torch.manual_seed(1)
    Agent(module, {"task": TASK}).to_sb3_zip(tmp_path / "policy.zip")
    assert torch.equal(torch.rand(1), wanted)


def test_what_has_no_counterpart_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'hedge_network' has no counterpart"):
        Agent(HedgeNetwork.for_task(TASK), {"task": TASK}).to_sb3_zip(tmp_path / "policy.zip")
    with pytest.raises(ValueError, match=r"must span \[-2, 2\], got -1.0, 1.0"):
        Agent(RecurrentActor(11, 1), {"task": TASK, "action": "coverage"}).to_sb3_zip(tmp_path / "policy.zip")
    assert list(tmp_path.iterdir()) == []
