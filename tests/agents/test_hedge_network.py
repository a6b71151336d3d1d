"""Identity and behaviour tests of the hedge network: bands, centres, memory, and its way through an environment."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hedgerl.agents.hedge_network import HedgeNetwork, multipliers
from hedgerl.agents.networks import build
from hedgerl.envs import Execution, Limits, Listing, OptionBook, Position, ShortOption, SpyOverlay, Task
from hedgerl.evaluation.rollouts import roll_out
from hedgerl.execution import HalfSpread, Proportional
from hedgerl.sim import BlackScholes, Heston

HESTON = Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04)
COSTS = Execution(costs=(Proportional(rate=0.001), HalfSpread(volatility_points=0.2, applies_to="options")))
TASKS: dict[str, Task] = {
    "underlying": ShortOption(market=HESTON, quantity=300.0, execution=COSTS),
    "options": ShortOption(
        market=HESTON,
        quantity=300.0,
        execution=COSTS,
        hedge_options=(
            Listing(tenor=42 / 252),
            Listing(tenor=63 / 252, moneyness=0.97, is_call=False, multiplier=10.0),
        ),
    ),
    "overlay": SpyOverlay(market=HESTON, n_steps=42, maturity=1 / 6),
    "book": OptionBook(market=HESTON, portfolio=(Position(),), n_steps=12, maturity=12 / 252, execution=COSTS),
}


def network(task: Task, **changes) -> HedgeNetwork:
    torch.manual_seed(3)
    return HedgeNetwork.for_task(task, **changes)


def fixed_band(task: Task, low: float, high: float, **changes) -> HedgeNetwork:
    """A network whose bands are [low, high] around the centre, whatever it sees."""
    net = network(task, **changes)
    k = len(task.instruments)
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias[:k] = (low + high) / 2
        net.head.bias[k:] = float(np.log(np.expm1((high - low) / 2)))
    return net


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize("changes", [{}, {"head": "plain"}, {"recurrent": 8}], ids=["band", "plain", "recurrent"])
def test_it_hedges_every_task(name, changes):
    """Catches a network that reads a column that is not there, or trades in units other than the environment's."""
    task = TASKS[name]
    record = roll_out(network(task, **changes), task, task.scenario(50, seed=1))
    assert np.isfinite(record.pnl).all()
    assert abs(record.holdings).max() < 10 * task.size
    if task.instruments[0] == "underlying":  # a fresh network holds about what makes the book delta-neutral
        of = record.scenario
        net = of.liability_delta + (record.holdings * of.delta).sum(-1)
        assert abs(net[:-1]).max() < 0.35 * task.size


@pytest.mark.parametrize("name", sorted(TASKS))
def test_multipliers_are_those_of_the_scenario(name):
    """Catches a contract that counts for one share."""
    task = TASKS[name]
    assert multipliers(task) == task.scenario(2, seed=1).multiplier.tolist()


def test_nothing_is_traded_inside_the_band_and_to_its_edge_outside():
    """Catches rounding that trades a millionth of a share every day, and a band that is left through the middle."""
    task = TASKS["underlying"]
    record = roll_out(fixed_band(task, -0.05, 0.1), task, task.scenario(200, seed=2))
    delta = -record.scenario.liability_delta[:-1] / task.size
    held = record.holdings[:-1, :, 0] / task.size
    before = np.concatenate([np.zeros_like(held[:1]), held[:-1]])
    np.testing.assert_allclose(held, np.clip(before, delta - 0.05, delta + 0.1), rtol=0, atol=1e-6)
    inside = (before > delta - 0.05 + 1e-6) & (before < delta + 0.1 - 1e-6)
    assert 0.3 < inside.mean() < 0.95
    assert (record.trades[:, :, 0][inside] == 0.0).all()


def test_the_underlying_offsets_the_options_that_are_traded_with_it():
    """Catches a centre that counts the options held before their trade: delta is neutral after it only."""
    task = TASKS["options"]
    net = fixed_band(task, -1e-6, 1e-6, head="band", option_centre="gamma")
    record = roll_out(net, task, task.scenario(100, seed=3))
    of = record.scenario
    delta = of.liability_delta + (record.holdings * of.delta).sum(-1)
    gamma = of.liability_gamma + (record.holdings * of.gamma).sum(-1)
    assert abs(delta[:-1]).max() < 1e-4 * task.size
    assert abs(gamma[:10]).max() < 0.02 * abs(of.liability_gamma[:10]).max()


def test_contracts_that_are_kept_are_hedged_too():
    """Catches a centre that forgets what was kept when its place rolled."""
    places = (Listing(tenor=10 / 252, roll_every=4 / 252, keep=True),)
    task = ShortOption(market=HESTON, quantity=300.0, execution=COSTS, hedge_options=places)
    net = fixed_band(task, 0.1, 0.1001)
    assert net.config["centre"] == "net"
    record = roll_out(net, task, task.scenario(50, seed=5))
    of = record.scenario
    delta = of.liability_delta + (record.holdings * of.delta).sum(-1) + (record.kept * of.kept.delta).sum(-1)
    assert abs(record.kept).max() > 1.0
    np.testing.assert_allclose(delta[:-1], 0.1 * task.size, rtol=0, atol=0.001 * task.size)


def test_a_call_and_a_put_become_a_synthetic_forward():
    """Identity: neutral in delta and gamma at one strike is -1 call and +1 put, from the first day on. Catches a
    solution that is scaled by the options' Greeks, or drifts as they fade."""
    task = TASKS["overlay"]
    record = roll_out(fixed_band(task, -1e-3, 1e-3), task, task.scenario(100, seed=4))
    held = record.holdings[:-1] / task.size
    assert abs(held - np.array([-1.0, 1.0])).max() < 0.02
    assert record.pnl.std() < 0.005 * task.size * 100 * 0.2 * (1 / 6) ** 0.5 + 0.002 * task.size * 100


def test_gradients_flow_through_the_edges_alone():
    """Catches a clip that passes no gradient, or a band that learns from paths that lie inside it."""
    net = fixed_band(TASKS["underlying"], -0.1, 0.1)
    columns = net.config["observation"]
    seen = torch.zeros(3, len(columns))
    seen[:, columns.index("liability_delta")] = -0.5
    seen[:, columns.index("holdings")] = torch.tensor([0.0, 0.5, 1.0])
    (action,) = net(seen)
    size, scale = net.config["size"], net.config["scale"]
    np.testing.assert_allclose(action.detach()[:, 0] * scale / size, [0.4, 0.0, -0.4], atol=1e-6)
    gradients = [torch.autograd.grad(each, net.head.bias, retain_graph=True)[0] for each in action[:, 0]]
    assert gradients[0][0] > 0
    assert gradients[0][1] < 0
    assert (gradients[1] == 0).all()
    assert gradients[2][0] > 0
    assert gradients[2][1] > 0


@pytest.mark.parametrize("changes", [{}, {"recurrent": 8, "hidden": (8, 8)}], ids=["memoryless", "recurrent"])
def test_configuration_and_weights_rebuild_it(changes):
    """Catches a setting that is not in the config, or a weight that is not in the state dict."""
    net = network(TASKS["options"], **changes)
    twin = build(net.kind, json.loads(json.dumps(net.config)))
    twin.load_state_dict(net.state_dict(), strict=True)
    seen = torch.randn(5, net.observation_size)
    for own, other in zip(net(seen, *net.initial_state(5)), twin(seen, *twin.initial_state(5)), strict=True):
        assert torch.equal(own, other)
    assert twin.interface == net.interface


def test_memory_starts_afresh_with_an_episode():
    """Catches a state that is carried into the next episode, or dropped between steps."""
    net = network(TASKS["underlying"], recurrent=8)
    with torch.no_grad():
        net.head.weight.mul_(30)
    seen = np.random.default_rng(1).normal(size=(4, net.observation_size)).astype(np.float32)
    first, state = net.predict(seen)
    second, _ = net.predict(seen, state, np.zeros(4, bool))
    mixed, _ = net.predict(seen, state, np.array([True, False, True, False]))
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(mixed[::2], first[::2], rtol=1e-6)
    np.testing.assert_allclose(mixed[1::2], second[1::2], rtol=1e-6)


def test_limits_of_the_task_set_the_scale():
    """Catches an action that the limits can never reach, or that overshoots them."""
    assert network(TASKS["overlay"]).config["scale"] == 100.0
    limited = ShortOption(market=BlackScholes(volatility=0.2), execution=Execution(limits=Limits(trade=0.3)))
    net = fixed_band(limited, -1e-4, 1e-4)
    record = roll_out(net, limited, limited.scenario(20, seed=1))
    assert abs(record.trades).max() <= 0.3 + 1e-7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "round"}, "head must be one of"),
        ({"option_centre": "vega"}, "option_centre must be one of"),
        ({"hidden": ()}, "hidden must hold"),
        ({"inputs": ()}, "inputs must name"),
        ({"inputs": ("time_lft",)}, "nearest is 'time_left'"),
        ({"activation": "step"}, "activation must be one of"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    """Catches a setting that would be wrong without a word."""
    with pytest.raises(ValueError, match=message):
        network(TASKS["options"], **changes)


def test_what_the_head_needs_must_be_shown():
    """Catches a band around the delta that is fed another column."""
    config = {**network(TASKS["underlying"]).config, "observation": ["time_left", "holdings"], "inputs": ["time_left"]}
    with pytest.raises(ValueError, match="must show 'liability_delta'"):
        HedgeNetwork(**config)
    with pytest.raises(ValueError, match="multiplier must have 1"):
        HedgeNetwork(**{**network(TASKS["underlying"]).config, "multiplier": [1.0, 100.0]})
