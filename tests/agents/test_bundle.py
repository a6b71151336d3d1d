"""Saved policies: what comes back is what was saved; anything else is one error, and nothing is loaded or run."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hedgerl
import hedgerl.model_files
from hedgerl.agents import Agent, load_bundle, save_bundle
from hedgerl.agents import bundle as bundle_module
from hedgerl.agents.bundle import CARD, WEIGHTS, schema
from hedgerl.agents.hedge_network import HedgeNetwork
from hedgerl.agents.networks import FeedForwardActor, PolicyModule, RecurrentActor
from hedgerl.agents.settings import NotSaved, described, task_of
from hedgerl.envs import Action, Execution, Flat, Limits, Listing, OptionBook, Position, ShortOption, SpyOverlay
from hedgerl.envs.observation import FEATURES
from hedgerl.execution import Commission, Funding, HalfSpread, Proportional, SquareRootImpact
from hedgerl.sim import GARCH, SABR, BlackScholes, ForwardVarianceCurve, Heston, LogUniform, RoughBergomi

TASK = ShortOption(market=BlackScholes(volatility=0.2), n_steps=5)
CARD_FIELDS: dict[str, Any] = {
    "task": TASK,
    "name": "small",
    "training": {"agent": "ppo_lstm", "rate": np.float64(3e-4), "layers": (128, 64), "none": None},
    "seed": 7,
    "commit": "0123abc",
    "metrics": {"sd": {"value": 0.5, "low": 0.4, "high": 0.6}, "ratio": float("inf")},
}


def recurrent(size: int = 11, actions: int = 1, **config: Any) -> RecurrentActor:
    torch.manual_seed(5)
    module = RecurrentActor(size, actions, before=(8,), lstm=4, after=(6,), **config)
    module.normaliser.mean.uniform_(-1.0, 1.0)
    module.normaliser.scale.uniform_(0.5, 2.0)
    return module


def feed_forward(size: int = 11, actions: int = 1) -> FeedForwardActor:
    torch.manual_seed(5)
    return FeedForwardActor(size, actions, hidden=(8,))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_bundle(tmp_path / "policy", recurrent(), CARD_FIELDS)


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the card and makes its own sum right again, as a forger or another version would."""
    content = json.loads((folder / CARD).read_text())
    change(content)
    content["sha256"]["card"] = bundle_module._card_sum(content)
    (folder / CARD).write_text(json.dumps(content))


def with_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = safetensors.torch.load((folder / WEIGHTS).read_bytes())
    change(state)
    raw = safetensors.torch.save(state)
    (folder / WEIGHTS).write_bytes(raw)
    changed(folder, lambda card: card["sha256"].update(weights=bundle_module.hashlib.sha256(raw).hexdigest()))


# ---- what is saved comes back ----


def shown(n: int = 6, size: int = 11, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, size)).astype(np.float32)


@pytest.mark.parametrize("module", [recurrent(), feed_forward(), HedgeNetwork.for_task(TASK, recurrent=4)])
def test_a_loaded_policy_acts_as_the_saved_one(tmp_path, module):
    folder = save_bundle(tmp_path / "policy", module, {"task": TASK})
    agent, original = Agent.load(folder), Agent(module, {"task": TASK})
    state, other = None, None
    size = len(agent.card.observation.columns(TASK))
    for step in range(4):
        observation = shown(size=size, seed=step)
        action, state = agent.predict(observation, state)
        wanted, other = original.predict(observation, other)
        np.testing.assert_array_equal(action, wanted)


def test_the_card_comes_back(saved):
    card = load_bundle(saved).card
    assert card.task == TASK
    assert (card.name, card.seed, card.commit) == ("small", 7, "0123abc")
    assert card.training == {"agent": "ppo_lstm", "rate": 3e-4, "layers": [128, 64], "none": None}
    assert card.metrics == {"sd": {"value": 0.5, "low": 0.4, "high": 0.6}, "ratio": None}
    assert card.interface.action == Action("target")
    assert card.interface.observation.names == card.observation.names


def test_the_interface_of_a_network_is_the_cards_unless_given(tmp_path):
    """Catches a hedge network that is shown the task's own features, or read as targets."""
    module = HedgeNetwork.for_task(TASK)
    agent = Agent.load(save_bundle(tmp_path / "policy", module, {"task": TASK}))
    assert agent.interface.observation == module.interface.observation
    assert agent.interface.action == module.interface.action


def test_the_same_policy_gives_the_same_bytes(tmp_path, saved):
    again = load_bundle(saved).save(tmp_path / "again")
    for name in (WEIGHTS, CARD):
        assert (again / name).read_bytes() == (saved / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "policy"]
    assert sorted(path.name for path in saved.iterdir()) == [CARD, WEIGHTS]


def test_white_space_in_the_card_is_no_damage(saved):
    """Line ends that a checkout has changed are not content."""
    content = json.loads((saved / CARD).read_text())
    (saved / CARD).write_bytes(json.dumps(content, indent=4, sort_keys=True).replace("\n", "\r\n").encode())
    load_bundle(saved)


EXECUTION = Execution(
    costs=(
        Commission(per_contract=0.65),
        HalfSpread(bps=5.0, base_volatility=0.2, applies_to="options"),
        Proportional(rate=0.001),
        SquareRootImpact(coefficient=0.5),
    ),
    funding=Funding(margin_spread=0.02),
    limits=Limits(trade=60.0, whole=True),
)
CURVE = ForwardVarianceCurve((0.0, 0.5), (0.04, 0.06))


@pytest.mark.parametrize(
    "task",
    [
        ShortOption(),
        ShortOption(market=RoughBergomi(hurst=0.1, eta=1.5, rho=-0.7, forward_variance=CURVE), execution=EXECUTION),
        ShortOption(market=BlackScholes(volatility=0.2), perturb={"volatility": (0.1, 0.4)}),
        ShortOption(market=BlackScholes(volatility=0.2), perturb={"volatility": LogUniform(0.1, 0.4)}),
        SpyOverlay(market=Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04), moneyness=(1.02, 0.98)),
        OptionBook(portfolio=(Position(quantity=-3.0, option=Listing(strike_step=5.0)),), execution=EXECUTION),
        OptionBook(market=SABR(volatility=0.2, volvol=0.5, rho=-0.3)),
    ],
    ids=lambda task: f"{task.name} {type(task.market).__name__}",
)
def test_tasks_survive_json(task):
    again = task_of(json.loads(json.dumps(described(task))))
    assert described(again) == described(task)
    assert again.instruments == task.instruments
    assert again.execution == task.execution
    if not task.perturb:
        assert again == task


def test_garch_survives_json():
    import inspect

    needed = [name for name, item in inspect.signature(GARCH).parameters.items() if item.default is item.empty]
    values = {"omega": 2e-6, "alpha": 0.05, "beta": 0.9, "gamma": 0.05, "variance": 1e-4, "v0": 1e-4, "h0": 1e-4}
    if set(needed) <= set(values):
        task = ShortOption(market=GARCH(**{name: values[name] for name in needed}))
        assert task_of(json.loads(json.dumps(described(task)))) == task


def test_a_market_that_json_cannot_hold_is_named(tmp_path):
    """History, or a forward curve that is a function: the policy is saved, the market told by its name."""
    market = RoughBergomi(hurst=0.1, eta=1.5, rho=-0.7, forward_variance=lambda times: 0.04 + 0.0 * times)
    agent = Agent.load(save_bundle(tmp_path / "policy", feed_forward(), {"task": ShortOption(market=market)}))
    assert agent.task.market == NotSaved("RoughBergomi")
    with pytest.raises(ValueError, match=r"RoughBergomi.*is not saved with the policy"):
        agent.task.scenario(2, 1)


def test_evaluation_takes_a_loaded_policy(saved):
    result = hedgerl.evaluate(hedgerl.Agent.load(saved), TASK, n_paths=64, seed=3)
    assert np.isfinite(result.metrics["sd"])


# ---- predict ----


@pytest.fixture
def agent() -> Agent:
    return Agent(recurrent(), {"task": TASK})


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 8).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=2, max_size=5),
            st.integers(0, 1000),
        )
    )
)
def test_a_batch_is_one_at_a_time_whenever_episodes_start(case):
    """Catches a state that goes to another path, or that outlives its episode."""
    n, starts, seed = case
    agent = Agent(recurrent(), {"task": TASK})
    rng = np.random.default_rng(seed)
    together: Any = None
    alone: list[Any] = [None] * n
    for flags in starts:
        observation = rng.normal(size=(n, 11)) * 3.0
        action, together = agent.predict(observation, together, np.array(flags))
        for i in range(n):
            single, alone[i] = agent.predict(observation[i], alone[i], np.array([flags[i]]))
            assert single.shape == (1,)
            np.testing.assert_allclose(single, action[i], rtol=1e-5, atol=1e-6)
            if flags[i]:
                np.testing.assert_array_equal(agent.predict(observation[i])[0], single)


def test_states_are_not_written_to(agent):
    first = agent.predict(shown())[1]
    kept = [value.copy() for value in first]
    agent.predict(shown(seed=1), first, np.array([True] * 6))
    for before, after in zip(kept, first, strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_policy_without_memory_has_the_empty_state():
    agent = Agent(feed_forward(), {"task": TASK})
    for state in (None, ()):
        action, after = agent.predict(shown(), state, np.ones(6, dtype=bool))
        assert after == ()
    assert action.shape == (6, 1)
    with pytest.raises(ValueError, match="state must be None"):
        agent.predict(shown(), (np.zeros((6, 4)),))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_a_number_is_refused(agent, value):
    observation = np.zeros((3, 11))
    observation[1, 4] = value
    with pytest.raises(ValueError, match=r"observation must be finite numbers, .* in columns \[4\]"):
        agent.predict(observation)


@pytest.mark.parametrize("value", [1e38, -1e38, 1e10])
def test_huge_observations_are_clipped(agent, value):
    action, state = agent.predict(np.full(11, value))
    assert abs(action[0]) <= 1.0
    assert all(np.isfinite(each).all() for each in state)


@pytest.mark.parametrize("given", [np.zeros(10), np.zeros((2, 12)), np.zeros((2, 2, 11)), 3.0, {"a": 1}, "text", None])
def test_observations_of_another_shape_are_refused(agent, given):
    with pytest.raises(ValueError, match=r"observation must (have|be numbers of) shape \(11,\)"):
        agent.predict(given)


@pytest.mark.parametrize("state", [(np.zeros((6, 4)),), (np.zeros((5, 4)), np.zeros((6, 4))), np.zeros((2, 6, 4)), 3])
def test_states_of_another_shape_are_refused(agent, state):
    with pytest.raises(ValueError, match="state"):
        agent.predict(shown(), state)


def test_a_discrete_policy_chooses_the_highest_score():
    task = replace(TASK)
    agent = Agent(recurrent(actions=3, low=None, high=None), {"task": task, "action": "discrete"})
    action, _ = agent.predict(shown())
    assert action.dtype == np.int64
    assert action.shape == (6,)
    scores = agent._act(shown(), None, None)[0]
    np.testing.assert_array_equal(action, scores.argmax(axis=1))
    hedgerl.evaluate(agent, task, n_paths=8)


# ---- damage ----


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_no_byte_can_be_changed(saved, name):
    """Every fifth byte of the card, and every 37th of the weights."""
    path = saved / name
    whole = path.read_bytes()
    for place in range(0, len(whole), 5 if name == CARD else 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError):  # noqa: PT011  (which check finds it differs)
            load_bundle(saved)
    path.write_bytes(whole)
    load_bundle(saved)


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_truncated_files_are_damaged(saved, name, keep):
    path = saved / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged"):
        load_bundle(saved)


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(ValueError, match=f"is not a saved policy: it has no {name}"):
        load_bundle(saved)


def test_weights_of_another_policy_are_refused(tmp_path, saved):
    other = recurrent()
    with torch.no_grad():
        other.head.bias.add_(1.0)
    (saved / WEIGHTS).write_bytes((save_bundle(tmp_path / "other", other, CARD_FIELDS) / WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match=r"weights.safetensors is damaged or of another policy: its SHA-256"):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("head.bias"), r"weights.safetensors lacks head.bias"),
        (lambda state: state.update(more=torch.zeros(2)), r"weights.safetensors has besides more"),
        (lambda state: state.update({"head.bias": torch.zeros(2)}), r"head.bias must be \(1,\) .*, got \(2,\)"),
        (lambda state: state.update({"head.bias": torch.zeros(1).double()}), r"head.bias must be .*float32.*float64"),
        (lambda state: state.update({"head.bias": torch.tensor([np.nan])}), r"head.bias must be finite"),
        (lambda state: state["normaliser.scale"].fill_(np.inf), r"normaliser.scale must be finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(saved, change, message):
    with_weights(saved, change)
    with pytest.raises(ValueError, match=message):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(format_version=2, new=1), "format_version 2, written by hedgerl .* reads up to 1"),
        (lambda card: card.update(format_version="1"), "format_version must be a whole number"),
        (lambda card: card.update(format_version=True), "format_version must be a whole number"),
        (lambda card: card.update(format="other"), "does not describe a policy of hedgerl"),
        (lambda card: card.update(more=1), "has besides more"),
        (lambda card: card.pop("seed"), "lacks seed"),
        (lambda card: card.update(seed="seven"), "seed must be of int"),
        (lambda card: card.update(name=3), "name must be of str"),
        (lambda card: card.update(metrics=[1]), "metrics must be a mapping"),
        (lambda card: card["policy"].update(kind="os.system"), "kind must be one of"),
        (lambda card: card["policy"].update(config=[1]), "config must be a mapping"),
        (lambda card: card["policy"]["config"].update(layers=1), "does not take this configuration"),
        (lambda card: card["policy"]["config"].update(lstm=5), "must be .* got"),
        (lambda card: card["policy"]["config"].update(lstm=10**6), "must be .* got"),
        (lambda card: card["policy"]["config"].update(lstm=10**10), "does not take this configuration"),
        (lambda card: card["policy"]["config"].update(lstm=-1), "does not take this configuration|hidden_size"),
        (lambda card: card["policy"]["config"].update(observation_size="many"), "does not take this configuration"),
        (lambda card: card["policy"].pop("kind"), "KeyError: 'kind'"),
        (lambda card: card["task"].update({"class": "Popen"}), "must be of a class that hedgerl has, got 'Popen'"),
        (lambda card: card["task"].update({"class": ["ShortOption"]}), "must be of a class that hedgerl has"),
        (lambda card: card["task"].update({"class": "Limits"}), "Limits, which has no"),
        (lambda card: card.update(task=3), "task must be one of ShortOption"),
        (lambda card: card["task"].update(moneynes=1.0), "no 'moneynes'; the nearest is 'moneyness'"),
        (lambda card: card["task"].update(moneyness=-1.0), "moneyness must be positive"),
        (lambda card: card["task"]["market"].update(volatility="high"), "volatility"),
        (lambda card: card["task"]["execution"].update(costs=[{"class": "Listing"}]), "costs must hold costs"),
        (lambda card: card["observation"].update(names=["time_left"]), "is not what hedgerl .* shows"),
        (lambda card: card["observation"].update(sha256="0" * 64), "SHA-256 of its observation"),
        (lambda card: card["observation"]["names"].reverse(), "is not what hedgerl .* shows: column 0"),
        (lambda card: card["observation"]["names"].append("moon"), "got 'moon'; the nearest is"),
        (lambda card: card["action"].update(kind="guess"), "action must be one of"),
        (lambda card: card["action"].update(kind="discrete"), "action_size of the network must be 3"),
        (lambda card: card["action"].update(wide=1), "TypeError"),
        (lambda card: card.update(marks={"delta": [0.0], "gamma": [], "vega": []}), "delta must be 35 finite"),
        (lambda card: card.update(marks=[1.0]), "TypeError"),
        (lambda card: card.update(observed={"low": [0.0], "high": [1.0]}), "observed must be two ends of 11"),
        (lambda card: card.update(observed={"low": ["x"] * 11, "high": [1.0] * 11}), "could not convert"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(saved, change, message):
    changed(saved, change)
    with pytest.raises(ValueError, match=message):
        load_bundle(saved)


def test_a_formula_that_has_changed_is_another_observation(saved, monkeypatch):
    """A feature of the same name that this version computes otherwise."""
    feature = replace(FEATURES["volatility"], formula="sigma_t")
    monkeypatch.setitem(FEATURES, "volatility", feature)
    with pytest.raises(ValueError, match=r"column 2 was saved as .*log\(sigma_t / 0.2\).*it is .*sigma_t"):
        load_bundle(saved)


def test_a_feature_of_a_newer_version_is_not_known(saved, monkeypatch):
    monkeypatch.delitem(FEATURES, "liability_vega")
    with pytest.raises(ValueError, match="got 'liability_vega'"):
        load_bundle(saved)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 100_000,
        '{"format": "hedgerl policy", "format": "hedgerl policy"}',
        '{"format": "hedgerl policy", "format_version": NaN}',
        '{"format": "hedgerl policy", "format_version": 1, "sha256": 3}',
        '{"format": "hedgerl policy", "format_version": 1, "sha256": {"card": "", "weights": ""}, "seed": 1e999}',
        "\xff\xfe",
    ],
)
def test_a_card_that_is_no_card(saved, text):
    (saved / CARD).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"card.json"):
        load_bundle(saved)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_for_weights_are_one_error(raw):
    policy = {"kind": "feed_forward_actor", "config": feed_forward().config}
    with pytest.raises(ValueError, match=r"weights.safetensors"):
        bundle_module._module(policy, raw)


def test_nothing_in_a_bundle_is_run(saved, tmp_path):
    """A pickle in place of the weights, and torch's own format, which is one inside."""
    witness = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {witness}",)

    for raw in (pickle.dumps(Bomb()), pickle.dumps({"head.bias": Bomb()})):
        (saved / WEIGHTS).write_bytes(raw)
        changed(
            saved, lambda card, raw=raw: card["sha256"].update(weights=bundle_module.hashlib.sha256(raw).hexdigest())
        )
        with pytest.raises(ValueError, match=r"weights.safetensors is damaged"):
            load_bundle(saved)
    assert not witness.exists()


# ---- names and paths ----


@pytest.mark.parametrize("path", ["nowhere/at_all", "./nothing", "/nonexistent/policy"])
def test_a_path_without_anything_is_told(path):
    with pytest.raises(FileNotFoundError, match="there is no policy at"):
        Agent.load(path)


def test_a_folder_or_file_that_is_no_bundle(tmp_path):
    with pytest.raises(ValueError, match="is not a saved policy"):
        Agent.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is not a saved policy"):
        Agent.load(tmp_path / "file")


@pytest.fixture
def shipped(saved, monkeypatch) -> Path:
    """A folder of shipped policies with one in it."""
    folder = saved.parent / "shipped"
    folder.mkdir()
    saved.rename(folder / "short_option_ppo")
    monkeypatch.setattr(hedgerl.model_files, "_HERE", folder)
    return folder


def test_shipped_policies_load_by_name(shipped):
    assert hedgerl.model_files.names() == ("short_option_ppo",)
    assert Agent.load("short_option_ppo").card.name == "small"


def test_an_unknown_name_gets_the_nearest(shipped):
    with pytest.raises(ValueError, match=r"no policy called 'short_option_pp0'; the nearest is 'short_option_ppo'"):
        Agent.load("short_option_pp0")


@pytest.mark.parametrize("name", ["../policy", "short_option_ppo/../../policy", "..", ".", "/etc/passwd", "a\0b", ""])
def test_names_do_not_leave_the_folder(shipped, name):
    """model_files.path gives nothing but what names() lists."""
    save_bundle(shipped.parent / "policy", recurrent(), CARD_FIELDS)
    with pytest.raises(ValueError, match="there is no policy called"):
        hedgerl.model_files.path(name)


@pytest.mark.parametrize("name", ["", "a\0b", 3, None, b"short_option_ppo"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="name_or_path must be"):
        Agent.load(name)


@pytest.mark.parametrize("name", hedgerl.model_files.names())
def test_every_shipped_policy_loads_and_acts(name):
    agent = Agent.load(name)
    size = len(agent.card.observation.columns(agent.task))
    assert np.isfinite(agent.predict(np.zeros(size))[0]).all()
    assert agent.card.metrics


# ---- writing ----


def test_a_bundle_replaces_a_bundle_and_nothing_else(tmp_path, saved):
    assert save_bundle(saved, feed_forward(), CARD_FIELDS) == saved
    assert load_bundle(saved).module.kind == "feed_forward_actor"
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not a saved policy"):
        save_bundle(other, recurrent(), CARD_FIELDS)
    with pytest.raises(FileExistsError, match="is not a saved policy"):
        save_bundle(other / "chapter", recurrent(), CARD_FIELDS)
    assert (other / "chapter").read_text() == "years of work"


def test_a_disk_that_fails_leaves_the_old_policy(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_bundle(saved, feed_forward(), CARD_FIELDS)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["policy"]


class OwnNetwork(PolicyModule):
    """One that cannot be loaded again: its kind is not known."""

    kind = "own"

    def __init__(self) -> None:
        super().__init__()
        self.config = {}
        self.weight = torch.nn.Parameter(torch.zeros(11, 1))

    def forward(self, observation: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (observation @ self.weight,)


@pytest.mark.parametrize(
    ("module", "card", "message"),
    [
        (recurrent(size=10), {"task": TASK}, "observation_size of the network must be 11.*got 10"),
        (recurrent(actions=2), {"task": TASK}, "action_size of the network must be 1.*got 2"),
        (recurrent(), {"tsk": TASK}, "card has no 'tsk'; the nearest is 'task'"),
        (recurrent(), {}, "card must have a task"),
        (recurrent(), {"task": "Unheard"}, "task must be a Task"),
        (recurrent(), {"task": TASK, "observation": ("raw", "spot")}, "observation must be flat"),
        (recurrent(), {"task": TASK, "metrics": {"a": {"b": object()}}}, r"metrics.a.b must be something that JSON"),
        (torch.nn.Linear(11, 1), {"task": TASK}, "module must be a PolicyModule"),
        (OwnNetwork(), {"task": TASK}, "kind must be one of .*, got 'own'"),
        (HedgeNetwork.for_task(TASK), {"task": TASK, "observation": ("holdings",)}, "the network sees"),
        (HedgeNetwork.for_task(TASK), {"task": replace(TASK, quantity=2.0)}, "size of the network must be 2"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, module, card, message):
    with pytest.raises(ValueError, match=message):
        save_bundle(tmp_path / "policy", module, card)
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_has_diverged_is_not_saved(tmp_path):
    module = recurrent()
    with torch.no_grad():
        module.head.weight.fill_(np.nan)
    with pytest.raises(ValueError, match=r"head.weight must be finite"):
        save_bundle(tmp_path / "policy", module, CARD_FIELDS)


def test_observed_ranges_are_those_of_its_own_hedging():
    agent = Agent(recurrent(), {"task": TASK})
    low, high = agent.observed(n_paths=32)
    card = replace(agent.card, observed=(low, high))
    labels = [name for name, _ in card.observation.columns(TASK)]
    assert low[labels.index("time_left")] == pytest.approx(0.2, abs=1e-6)
    assert high[labels.index("time_left")] == 1.0
    assert all(a <= b for a, b in zip(low, high, strict=True))


def test_the_schema_tells_everything_of_a_column():
    columns = schema(Flat(("holdings", "time_left")), SpyOverlay())
    assert [(column["name"], column["of"]) for column in columns] == [
        ("holdings", "call"),
        ("holdings", "put"),
        ("time_left", ""),
    ]
    assert columns[2]["formula"] == "(T - t) / T"


def test_importing_the_package_waits_for_no_network():
    """`hedgerl --version` must not import torch."""
    code = (
        "import sys, hedgerl, hedgerl.agents, hedgerl.model_files; dir(hedgerl.agents); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_exported_name_is_there():
    import hedgerl.agents

    for name in hedgerl.agents.__all__:
        assert getattr(hedgerl.agents, name) is not None
    assert hedgerl.Agent is Agent
    with pytest.raises(AttributeError, match="no attribute 'Agnt'"):
        _ = hedgerl.agents.Agnt


@pytest.mark.benchmark
def test_loading_and_acting_is_fast(tmp_path):
    """Under 1 ms at the median on one thread, with the default network."""
    import time

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        folder = save_bundle(tmp_path / "policy", RecurrentActor(11, 1), {"task": TASK})
        begin = time.perf_counter()
        agent = Agent.load(folder)
        loading = time.perf_counter() - begin
        observation, state = np.zeros(11, np.float32), None
        taken = []
        for _ in range(3000):
            begin = time.perf_counter()
            _, state = agent.predict(observation, state)
            taken.append(time.perf_counter() - begin)
        median = float(np.median(taken[500:]))
        print(f"load {1e3 * loading:.1f} ms, act {1e6 * median:.0f} us")
        assert median < 1e-3
    finally:
        torch.set_num_threads(threads)
