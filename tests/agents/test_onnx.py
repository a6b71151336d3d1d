"""ONNX graphs do what the networks do, for any batch, with the state going in and coming out."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
import torch

from hedgerl.agents import Agent, OnnxPolicy
from hedgerl.agents.hedge_network import HedgeNetwork
from hedgerl.agents.networks import FeedForwardActor, PolicyModule, RecurrentActor
from hedgerl.envs import Listing, ShortOption, SpyOverlay
from hedgerl.sim import BlackScholes

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TASK = ShortOption(market=BlackScholes(volatility=0.2))
TWO = ShortOption(market=BlackScholes(volatility=0.2), hedge_options=(Listing(tenor=0.25),))
OVERLAY = SpyOverlay(market=BlackScholes(volatility=0.2))


def spread(module: PolicyModule) -> PolicyModule:
    """Weights and statistics of an order that no symmetry hides."""
    torch.manual_seed(11)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.05 * torch.randn_like(value))
        for name, value in module.named_buffers():
            if name.endswith("mean"):
                value.add_(torch.randn_like(value))
            if name.endswith("scale"):
                value.mul_(torch.rand_like(value) + 0.5)
    return module


AGENTS: dict[str, Any] = {
    "recurrent": lambda: Agent(spread(RecurrentActor(11, 1)), {"task": TASK}),
    "deeper": lambda: Agent(spread(RecurrentActor(11, 1, before=(), lstm=16, after=(8, 8))), {"task": TASK}),
    "feed_forward": lambda: Agent(spread(FeedForwardActor(11, 1)), {"task": TASK}),
    "discrete": lambda: Agent(spread(RecurrentActor(11, 3, low=None, high=None)), {"task": TASK, "action": "discrete"}),
    "band": lambda: Agent(spread(HedgeNetwork.for_task(TASK)), {"task": TASK}),
    "recurrent_band": lambda: Agent(spread(HedgeNetwork.for_task(TASK, recurrent=8)), {"task": TASK}),
    "gamma_band": lambda: Agent(spread(HedgeNetwork.for_task(TWO, option_centre="gamma")), {"task": TWO}),
    "overlay": lambda: Agent(spread(HedgeNetwork.for_task(OVERLAY)), {"task": OVERLAY}),
}


@pytest.fixture(params=AGENTS)
def agent(request) -> Agent:
    return AGENTS[request.param]()


def test_the_graph_is_the_network_along_an_episode(agent, tmp_path):
    """Twin: actions and states to 1e-6, batches of other sizes than the one traced, episodes that start anew."""
    twin = OnnxPolicy(agent.to_onnx(tmp_path / "policy.onnx"))
    size = len(agent.card.observation.columns(agent.task))
    rng = np.random.default_rng(1)
    for n in (1, 5, 64):
        state: Any = None
        other: Any = None
        for _ in range(6):
            observation = rng.normal(size=(n, size)).astype(np.float32)
            starts = rng.random(n) < 0.2
            action, state = agent.predict(observation, state, starts)
            given, other = twin.predict(observation, other, starts)
            np.testing.assert_allclose(given, action, rtol=0.0, atol=1e-6)
            assert len(other) == len(state)
            for left, right in zip(other, state, strict=True):
                np.testing.assert_allclose(left, right, rtol=0.0, atol=1e-6)


def test_the_graph_says_what_it_takes(agent, tmp_path):
    """The runtime needs nothing of this package: names, free batch, and the schema in the metadata."""
    graph = onnx.load(str(agent.to_onnx(tmp_path / "policy.onnx")))
    count = len(agent.initial_state(1))
    assert [item.name for item in graph.graph.input] == ["observation", *(f"state_{i}" for i in range(count))]
    assert [item.name for item in graph.graph.output] == ["action", *(f"new_state_{i}" for i in range(count))]
    for item in (*graph.graph.input, *graph.graph.output):
        assert item.type.tensor_type.shape.dim[0].dim_param == "n"
    (about,) = [json.loads(item.value) for item in graph.metadata_props if item.key == "hedgerl"]
    assert [column["name"] for column in about["columns"]] == [
        name for name, _ in agent.card.observation.columns(agent.task)
    ]
    assert about["action"] == {"kind": agent.interface.action.kind, "scale": agent.interface.action.scale}


def test_the_same_policy_gives_the_same_graph(tmp_path):
    agent = AGENTS["recurrent"]()
    first, second = (agent.to_onnx(tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx"))
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_one_observation_has_no_batch(tmp_path):
    agent = AGENTS["recurrent"]()
    twin = OnnxPolicy(agent.to_onnx(tmp_path / "policy.onnx"))
    action, state = twin.predict(np.zeros(11))
    assert action.shape == (1,)
    assert [value.shape for value in state] == [(1, 64), (1, 64)]
    with pytest.raises(ValueError, match=r"observation must have shape \(11,\)"):
        twin.predict(np.zeros(10))
    with pytest.raises(ValueError, match="finite"):
        twin.predict(np.full(11, np.nan))


def test_what_is_no_graph_of_ours_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no ONNX graph"):
        OnnxPolicy(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ValueError, match="is not a policy that hedgerl wrote"):
        OnnxPolicy(tmp_path / "text.onnx")


@pytest.mark.benchmark
def test_acting_through_the_runtime_is_fast(tmp_path):
    """Under 0.1 ms at the median on one thread, with the default network, checks of the input included."""
    twin = OnnxPolicy(Agent(RecurrentActor(11, 1), {"task": TASK}).to_onnx(tmp_path / "policy.onnx"))
    observation, state = np.zeros(11, np.float32), None
    taken = []
    for _ in range(5000):
        begin = time.perf_counter()
        _, state = twin.predict(observation, state)
        taken.append(time.perf_counter() - begin)
    median = float(np.median(taken[500:]))
    print(f"{1e6 * median:.0f} us")
    assert median < 1e-4
