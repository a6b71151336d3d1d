"""Updates of deep hedging by a graph against the same updates as they are, on the stand-in and on a device."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import torch

from hedgerl.agents.deep_hedging import DeepHedging
from hedgerl.agents.hedge_network import HedgeNetwork
from hedgerl.envs import Execution, Listing, Reward, ShortOption
from hedgerl.execution import Commission, HalfSpread
from hedgerl.sim import Heston

STEPS = 5
CALL = Listing(tenor=10 / 252, roll_every=3 / 252)
TASK = ShortOption(
    market=Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04, rate=0.02),
    n_steps=STEPS,
    hedge_options=(CALL,),
    execution=Execution(costs=(Commission(per_contract=0.65), HalfSpread(bps=5.0))),
    backend="numpy",
)
OBJECTIVES = {
    "mean_std": "mean_std",
    "cvar": "cvar",
    "reward": Reward(loss="cvar", w=1.0, alpha=0.8, weights={"turnover": 0.1, "mean_std": 0.3, "drawdown": 0.1}),
}


def learner(device, capture, objective="mean_std", recurrent=0, **more):
    settings = {"batch_paths": 64, "pool_batches": 2, "epochs": 1, "validation_paths": 64, "validate_every": 3}
    return DeepHedging(
        TASK,
        {"hidden": (8, 8), "recurrent": recurrent},
        objective,
        horizon=9,
        seed=1,
        device=device,
        capture=capture,
        **settings | more,
    )


def weights(made):
    return {name: value.clone() for name, value in made.network.state_dict().items()}


def same(ours, theirs):
    """To the bit on the CPU; sums of a device may come in another order."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        exact = value.device.type == "cpu"
        tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(ours[name], value, **tolerance, msg=name)


@pytest.mark.parametrize("recurrent", [0, 6])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_updates_are_the_same(objective, recurrent, device, graphs):
    """Twin: losses, weights and validations of nine updates over five pools of paths, to the bit. Catches a capture
    that holds on to the first batch, gradients that add up, and moments that follow another batch."""
    histories, found = [], []
    for capture in (False, graphs):
        made, history = learner(device, capture, OBJECTIVES[objective], recurrent), []
        before = weights(made)
        made.learn(9, callback=lambda each, rows=history: rows.append((each.loss, each.validation)))
        histories.append(history)
        found.append(made)
    plain, ours = found
    np.testing.assert_allclose(*np.array(histories, float), rtol=0.0 if device.type == "cpu" else 1e-5, atol=0.0)
    same(weights(ours), weights(plain))
    assert not torch.equal(weights(ours)["head.weight"], before["head.weight"])
    assert plain.captured is None
    assert ours.captured.replaying
    if objective == "reward":
        assert ours.criterion.moments.state == pytest.approx(plain.criterion.moments.state, rel=1e-5)
    if device.type == "cpu":
        assert (graphs.captures, graphs.replays) == (1, 8)


def test_continued_updates_are_the_same(device, graphs):
    """Behaviour: weights, moments and the unit of the objective that are loaded are those that the next update meets.
    Catches a graph that goes on dividing by the unit it was captured with."""
    wanted = learner(device, False).learn(4)
    saved = wanted.state_dict()
    saved["criterion"]["unit"] = 3.0 * saved["criterion"]["unit"]
    found = []
    for capture in (False, graphs):
        made = learner(device, capture).learn(3)
        made.load_state_dict(saved)
        made.learn(4)
        found.append(weights(made))
    same(found[1], found[0])
    assert made.captured.replaying


def test_the_last_weights_are_kept_where_an_objective_is_no_number(device, graphs):
    """Behaviour: a batch whose P&L is not finite ends the training by its iteration's number, weights as before, by a
    graph as without."""
    for capture in (False, graphs):
        made = learner(device, capture).learn(3)
        before = weights(made)
        made._pool[1].scenario.spot[-1] = torch.inf  # of the paths that come next
        made._pool[1].scenario.settlement[-1] = torch.inf
        with pytest.raises((FloatingPointError, ValueError)):
            made.learn(2)
        assert made.iteration == 3
        same(weights(made), before)


def test_what_cannot_be_captured_is_told_once(stand_in):
    """Behaviour: one warning, and the same weights."""
    stand_in.fail_at = 1
    plain = learner("cpu", False).learn(5)
    ours = learner("cpu", stand_in)
    with pytest.warns(RuntimeWarning, match="updates are made one kernel.*: out of memory in a graph$") as told:
        ours.learn(5)
    assert len(told) == 1
    same(weights(ours), weights(plain))
    assert not ours.captured.replaying


def test_a_capture_that_is_interrupted(stand_in, monkeypatch):
    """Behaviour: the update is made again, from the paths, and by a graph of its own. Catches a standing scenario whose
    derived numbers were captured and never computed."""
    plain, ours = learner("cpu", False).learn(4), learner("cpu", stand_in).learn(1)
    forward = HedgeNetwork.forward

    def stopped(self, observation, *state):
        if stand_in.capturing:
            raise KeyboardInterrupt
        return forward(self, observation, *state)

    with monkeypatch.context() as patch:
        patch.setattr(HedgeNetwork, "forward", stopped)
        with pytest.raises(KeyboardInterrupt):
            ours.learn(1)
    assert ours.iteration == 1
    ours.learn(3)
    assert ours.captured.replaying
    same(weights(ours), weights(plain))


def test_a_learner_that_is_let_go_of_is_gone(device, graphs):
    """Behaviour: the memory of an update is free when the last name is, without a search for cycles."""
    made = learner(device, graphs).learn(3)
    gone = weakref.ref(made.captured), weakref.ref(made._pool[1].scenario)
    gc.collect()
    gc.disable()
    try:
        del made
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


def test_a_copy_captures_its_own(device, graphs):
    """Behaviour: a copy goes on as the original does; the graph is not shared."""
    ours = learner(device, graphs).learn(3)
    twin = copy.deepcopy(ours)
    assert not twin.captured.replaying
    same(weights(twin.learn(3)), weights(ours.learn(3)))


def test_inputs_anywhere_in_the_observation(device, graphs):
    """Twin: a network that reads columns which do not lie side by side. Catches indices that are sent at each step."""
    found = []
    for capture in (False, graphs):
        network = HedgeNetwork.for_task(TASK, hidden=(8,))
        inputs = network.interface.observation.names[::2]
        torch.manual_seed(3)
        scattered = HedgeNetwork(**{**network.config, "inputs": inputs})
        assert scattered._places is not None
        made = DeepHedging(TASK, scattered, batch_paths=64, horizon=9, seed=1, device=device, capture=capture).learn(4)
        found.append(weights(made))
    same(found[1], found[0])
    assert made.captured.replaying
