"""Steps replayed from graphs against the same steps as they are, on the stand-in for CUDA graphs and on a device."""

from __future__ import annotations

import copy
import pickle
import warnings

import cloudpickle
import numpy as np
import pytest
import torch
from gymnasium import spaces

from hedgerl.agents.normalise import NormalisedVecEnv
from hedgerl.agents.shaping import AccruedVecEnv
from hedgerl.data import DailySeries
from hedgerl.envs import (
    Action,
    Environment,
    Execution,
    HedgingVecEnv,
    Limits,
    Listing,
    OptionBook,
    Position,
    Reward,
    ShortOption,
    SpyOverlay,
    captured,
    make_vec,
)
from hedgerl.envs.captured import CapturedEpisodes, Standing
from hedgerl.envs.graphs import Replay
from hedgerl.envs.observation import PreparedFlat
from hedgerl.envs.reward import Moments
from hedgerl.execution import Commission, Funding, HalfSpread, SquareRootImpact
from hedgerl.sim import BlackScholes, Heston, History

STEPS = 6
DAY = 1 / 252
FLAT = BlackScholes(volatility=0.2)
MARKET = Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04, rate=0.03, dividend=0.01)
FULL = Execution(
    costs=(
        Commission(per_contract=0.65, per_share_fee=0.005),
        HalfSpread(price=0.01, volatility_points=0.3, base_volatility=0.2),
        SquareRootImpact(coefficient=0.8, daily_volume=1e5),
    ),
    funding=Funding(margin_spread=0.02, borrow_cost=0.01),
    limits=Limits(trade=60.0, holding=100.0, whole=True),
    initial_cash=50.0,
)
LATE = Execution(costs=FULL.costs, delay=2)
ROLLED = Listing(name="rolled", moneyness=1.02, tenor=STEPS * DAY, roll_every=STEPS // 2 * DAY)
KEPT = Listing(name="kept", tenor=4 * DAY, roll_every=STEPS // 2 * DAY, is_call=False, keep=True)


def made_history():
    """Two years of closes whose rate differs by day."""
    rng, days = np.random.default_rng(3), np.arange(504)
    close = 100.0 * np.exp(np.cumsum(0.01 * rng.standard_normal(days.size)))
    rate = 0.03 + 0.02 * np.sin(days / 50.0)
    return History(DailySeries("made", np.busday_offset("2006-01-02", days), close, rate=rate), rate="series")


SHARED = {"market": MARKET, "n_steps": STEPS, "backend": "numpy", "execution": FULL}
TASKS = {
    "short": ShortOption(**SHARED),
    "rolled": ShortOption(hedge_options=(ROLLED,), expiry=2 * STEPS * DAY, **SHARED),
    "kept": ShortOption(hedge_options=(KEPT,), **SHARED),
    "overlay": SpyOverlay(tenor=3 * DAY, **SHARED),
    "book": OptionBook(portfolio=(Position(quantity=-150.0),), hedge_options=(ROLLED, KEPT), arrivals=2.0, **SHARED),
    "delayed": ShortOption(**{**SHARED, "execution": LATE}),
    "perturbed": ShortOption(**{**SHARED, "market": FLAT, "perturb": {"volatility": (0.1, 0.4)}}),
    "history": SpyOverlay(tenor=3 * DAY, **{**SHARED, "market": made_history()}),  # each path with rates of its own
}
REWARD = Reward(
    loss="mean_std",
    w=0.5,
    weights=dict.fromkeys(["turnover", "margin_use", "drawdown", "gamma_neutrality", "tail_loss"], 0.1),
)


def venv(task, device, capture, *, num_envs=5, batches=2, action=None, reward=REWARD, observation=None):
    """Two batches a block, so that some are parts of one and some begin another."""
    environment = Environment(task, observation, action, reward)
    made = HedgingVecEnv(environment, num_envs, block=batches * num_envs, device=device, capture=capture)
    made.seed(4)
    return made


def random_action(made, rng, device):
    space = made.action_space
    if isinstance(space, spaces.Discrete):
        return torch.as_tensor(rng.integers(space.n, size=made.num_envs), device=device)
    values = rng.uniform(-1.2, 1.2, (made.num_envs, *space.shape))
    return torch.as_tensor(values, dtype=torch.float32, device=device)


def play(made, steps, device, seed=1, look=lambda made: None):
    """What is seen, rewarded and told on the way."""
    rng, rows = np.random.default_rng(seed), [made.reset_tensors()]
    for _ in range(steps):
        seen, reward, done, infos = made.step_tensors(random_action(made, rng, device))
        rows.append((seen, reward, done, infos, look(made)))
    return rows


def same(ours, theirs):
    """Equal to the bit, all the way down."""
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)
    elif isinstance(theirs, np.ndarray):
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs.keys() - {"t"}:  # an episode's seconds
            same(ours[name], theirs[name])
    else:
        assert ours == theirs


def state(made):
    """All that the environment's objects hold, copied."""
    environment = made.environment
    rollout, judge = environment.rollout, environment.judge
    items = (vars(rollout), vars(rollout.ledger), vars(judge))
    plain = (torch.Tensor, int, float, list, dict)
    kept = [{name: value for name, value in item.items() if isinstance(value, plain)} for item in items]
    for each in kept:
        each.pop("_places", None)
    assert judge.rollout is rollout
    return [_copy(each) for each in kept], _copy(rollout.scenario.spot), _copy(judge.losses())


def _copy(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list):
        return [_copy(each) for each in value]
    return {name: _copy(each) for name, each in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("action", [None, "band", "discrete"])
@pytest.mark.parametrize("name", TASKS)
def test_replays_are_the_steps_themselves(name, action, device, graphs):
    """Twin: observations, rewards, infos, and every attribute of rollout, ledger and judge after each step, over five
    batches in three blocks, to the bit. Catches a number of the host that a capture has taken in, what is derived from
    an earlier batch, state that is not put back, and memory that two steps share."""
    task = TASKS[name]
    plain, ours = (venv(task, device, capture, action=action) for capture in (False, graphs))
    assert plain.captured is None
    wanted, seen = (play(made, 5 * STEPS, device, look=state) for made in (plain, ours))
    same(seen, wanted)
    assert ours.captured.replaying
    assert ours.captured.refused is None
    if device.type == "cpu":
        assert graphs.captures == STEPS  # the beginning and all steps but the last
        assert graphs.replays == 4 * STEPS + 1  # of four batches, and the beginning of one more
    assert plain.environment.moments.state == ours.environment.moments.state


def test_the_objects_of_a_batch_outlive_it(device, graphs):
    """Behaviour: who holds a batch's judge reads that batch's losses when the next has begun, as the shaping of
    rewards does at an episode's end. Catches objects, and memory of theirs, that the next batch takes over."""
    task = TASKS["short"]
    made = [venv(task, device, capture) for capture in (False, graphs)]
    found = []
    for each in made:
        rows, rng = [], np.random.default_rng(3)
        each.reset_tensors()
        for _ in range(4):
            judge, scenario = each.environment.judge, each.environment.scenario
            for _ in range(STEPS):
                each.step_tensors(random_action(each, rng, device))
            assert each.environment.judge is not judge
            rows.append((judge.losses(), judge.rollout.wealth, judge.sums, scenario.spot, scenario.settlement))
        found.append(rows)
    same(found[1], found[0])


@pytest.mark.parametrize("loss", ["mean_std", "cvar"])
def test_wrappers_on_top(loss, device, graphs):
    """Twin: the shaping and the normaliser of training on replayed steps, to the bit."""
    reward = Reward(loss=loss, w=0.7, lam=0.01)
    rows, states = [], []
    for capture in (False, graphs):
        made = NormalisedVecEnv(AccruedVecEnv(venv(TASKS["rolled"], device, capture, reward=reward), delta=True))
        rows.append(play(made, 5 * STEPS, device))
        states.append(made.state)
    same(rows[1], rows[0])
    same(states[1], states[0])


def test_what_was_seen_is_kept(device, graphs):
    """Behaviour: observations and rewards of a batch are still theirs when the next goes through the same memory."""
    made = venv(TASKS["short"], device, graphs)
    rows = play(made, 2 * STEPS, device)
    before = _copy([list(row[:2]) for row in rows[1:]])
    play(made, 2 * STEPS, device, seed=2)
    same([list(row[:2]) for row in rows[1:]], before)


def test_a_batch_that_is_broken_off(device, graphs):
    """Behaviour: a reset in the middle of the first, of the captured and of a replayed batch; each batch is as without
    graphs. Catches steps that are captured out of order, and a beginning that is not begun again."""
    made = [venv(TASKS["kept"], device, capture) for capture in (False, graphs)]
    found = [[play(each, steps, device) for steps in (3, STEPS + 2, 2, 3 * STEPS, 1, 2 * STEPS)] for each in made]
    same(found[1], found[0])
    assert made[1].captured.replaying


def test_actions_of_another_kind(device, graphs):
    """Behaviour: an action of another dtype, of NumPy, or with gradients is not squeezed into the captured one's place:
    the rest of the batch is stepped as it is, and the next is replayed again."""
    made = [venv(TASKS["short"], device, capture) for capture in (False, graphs)]
    found = []
    for each in made:
        play(each, 3 * STEPS, device)
        rows, exact = [], torch.full((5, 1), 1.0 / 3.0, dtype=torch.float64, device=device)
        for batch in range(5):
            for step in range(STEPS):
                action = exact.float()
                if step == 2:
                    action = [exact, exact.cpu().numpy(), exact.float().requires_grad_(), exact.float()][batch % 4]
                seen, reward, *_ = each.step_tensors(action)
                rows.append((seen.detach(), reward.detach()))
            if batch == 3 and each.captured is not None:
                assert each.captured.replaying
        found.append(rows)
    same(found[1], found[0])


def test_wrong_actions_are_refused_as_ever(device, graphs):
    """Behaviour: a wrong shape at once; what is no number at the episode's end, and the next batch is clean."""
    made = venv(TASKS["short"], device, graphs)
    good = torch.zeros((5, 1), device=device)
    made.reset_tensors()
    for _ in range(2 * STEPS):
        made.step_tensors(good)
    with pytest.raises(ValueError, match=r"action must have shape \(5, 1\), got \(5, 2\)"):
        made.step_tensors(torch.zeros((5, 2), device=device))
    made.reset_tensors()
    for step in range(STEPS - 1):
        made.step_tensors(good if step else torch.full_like(good, torch.nan))
    with pytest.raises(ValueError, match="finite numbers"):
        made.step_tensors(good)
    made.reset_tensors()
    for _ in range(STEPS):
        made.step_tensors(good)
    discrete = venv(TASKS["short"], device, graphs, action="discrete")
    whole = torch.zeros(5, dtype=torch.int64, device=device)
    discrete.reset_tensors()
    for _ in range(STEPS):
        discrete.step_tensors(whole)
    with pytest.raises(ValueError, match="whole numbers"):
        discrete.step_tensors(whole.float())  # the first to be captured, had it been right
    for _ in range(STEPS):
        discrete.step_tensors(whole)
    assert discrete.captured.replaying
    assert discrete.captured.refused is None


CHANGES = {
    "reward": Reward(loss="abs", w=3.0, weights={"position_limit": 1.0}),
    "action": Action("target", scale=123.0),
    "learn": False,
    "moments": Moments(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_is_captured_anew(name, device, graphs):
    """Behaviour: a reward, an action, moments or their learning, set between batches, hold from the next reset on.
    Catches a capture that goes on with the old, and one of the new that begins before its kernels and small arrays are
    there."""
    made = [venv(TASKS["short"], device, capture) for capture in (False, graphs)]
    found = []
    for each in made:
        rows = [play(each, 3 * STEPS, device)]
        each.set_attr(name, copy.copy(CHANGES[name]))  # moments of its own
        rows.append(play(each, 3 * STEPS, device))
        found.append((rows, each.environment.moments.state))
    same(found[1], found[0])
    assert made[1].captured.replaying


def test_who_resets_the_environment_itself(device, graphs):
    """Behaviour: steps after a reset past the vector environment are of the scenario given there."""
    task = TASKS["short"]
    made = [venv(task, device, capture) for capture in (False, graphs)]
    scenario = task.scenario(5, 99).mapped(lambda each: torch.as_tensor(each, device=device))
    found = []
    for each in made:
        play(each, 2 * STEPS + 2, device)
        each.environment.reset(scenario, late=True)
        found.append([each.step_tensors(torch.ones((5, 1), device=device))[:3] for _ in range(STEPS)])
    same(found[1], found[0])


@pytest.mark.parametrize("fails_at", [1, 3])
def test_a_capture_that_is_interrupted(fails_at, stand_in, monkeypatch):
    """Behaviour: after a stop in the middle of a capture, the batch goes on from where it stood, and later ones are
    captured anew. Catches objects that stand half-way and are captured from, which no error would tell."""
    plain, ours = (venv(TASKS["short"], "cpu", capture) for capture in (False, stand_in))
    original = PreparedFlat.at

    def at(self, rollout):
        if stand_in.captures == fails_at and stand_in.capturing:
            raise KeyboardInterrupt
        return original(self, rollout)

    monkeypatch.setattr(PreparedFlat, "at", at)
    rng, rows = np.random.default_rng(2), []
    plain.reset_tensors()
    ours.reset_tensors()
    interrupted = 0
    for _ in range(5 * STEPS):
        action = random_action(plain, rng, "cpu")
        wanted = plain.step_tensors(action)
        try:
            rows.append(ours.step_tensors(action))
        except KeyboardInterrupt:
            interrupted += 1
            if fails_at == 1:  # between two batches: the next is asked for again, and so is another one
                ours.seed(4)
                plain.seed(4)
                same(ours.reset_tensors(), plain.reset_tensors())
                continue
            rows.append(ours.step_tensors(action))
        same(rows[-1], wanted)
    assert interrupted == 1
    assert ours.captured.replaying


def test_a_step_is_taken_once_where_its_answer_finds_no_room(stand_in, monkeypatch):
    """Behaviour: memory that is full after a replay costs the graphs, not a step."""
    plain, ours = (venv(TASKS["short"], "cpu", capture) for capture in (False, stand_in))
    for made in (plain, ours):
        play(made, 2 * STEPS + 1, "cpu")
    run = captured.CapturedEpisodes._replay

    def full(self, number, batch):
        put = captured._Moment.put
        monkeypatch.setattr(captured._Moment, "put", lambda *_: pytest.fail("the batch has moved on"))
        replay, moment = self._moments[number]
        broken = Replay(replay.run, (replay.result[0], _Full()))
        self._moments[number] = (broken, moment)
        try:
            return run(self, number, batch)
        finally:
            monkeypatch.setattr(captured._Moment, "put", put)

    monkeypatch.setattr(captured.CapturedEpisodes, "_replay", full)
    action = torch.ones((5, 1))
    with pytest.warns(RuntimeWarning, match="no room"):
        same(ours.step_tensors(action), plain.step_tensors(action))
    same(state(ours), state(plain))


class _Full:
    def clone(self):
        raise torch.OutOfMemoryError("no room")


def test_a_copy_captures_its_own(device, graphs):
    """Behaviour: an environment that is copied in the middle of a replayed batch goes on as the original does."""
    ours = venv(TASKS["kept"], device, graphs)
    play(ours, 3 * STEPS, device)
    twin = pickle.loads(cloudpickle.dumps(ours))
    assert not twin.captured.replaying
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        action = random_action(ours, rng, device)
        same(twin.step_tensors(action)[:3], ours.step_tensors(action)[:3])


def test_what_the_host_decides_by_must_be_the_same():
    """Behaviour: a scenario with other times, rates or contracts is not taken; one with other paths is."""
    task = TASKS["rolled"]
    first, other = (task.scenario(4, seed).mapped(torch.as_tensor) for seed in (1, 2))
    standing = Standing(first, Environment(task).prepare(first))
    assert standing.takes(other)
    longer = ShortOption(hedge_options=(ROLLED,), expiry=3 * STEPS * DAY, **SHARED)
    richer = ShortOption(hedge_options=(ROLLED,), **{**SHARED, "market": Heston(2.0, 0.04, 0.5, -0.7, 0.04, rate=0.05)})
    for task in (longer, richer):
        assert not standing.takes(task.scenario(4, 1).mapped(torch.as_tensor))
    assert not standing.takes(first.part(0, 3))
    assert not standing.takes(first.mapped(lambda array: array.float()))


def test_a_batch_of_another_kind_is_stepped_as_it_is(device, graphs):
    """Behaviour: a batch whose clock differs, between two that do not, and the numbers are its own."""
    task = TASKS["short"]
    environment, plain = Environment(task, reward=REWARD), Environment(task, reward=REWARD)
    episodes = CapturedEpisodes(environment, graphs)
    other = ShortOption(**{**SHARED, "maturity": 2 * STEPS * DAY})
    rng, sent = np.random.default_rng(1), {}
    for number, source in enumerate((task, task, other, task)):
        scenario = source.scenario(5, number).mapped(lambda each: torch.as_tensor(each, device=device))
        scenario.known(sent)
        seen = episodes.reset(scenario, prepared=environment.prepare(scenario))
        same(seen, plain.reset(scenario, late=True))
        assert episodes.replaying == (number in (1, 3))
        for _ in range(STEPS):
            action = torch.as_tensor(rng.uniform(-1, 1, (5, 1)), device=device)
            same(episodes.step(action), plain.step(action))


@pytest.mark.parametrize("fail_at", [1, 2, 4])
def test_what_cannot_be_captured_is_told_once(fail_at, stand_in):
    """Behaviour: one warning with the reason; the step in question, and all others, are taken as they are. Catches a
    step that is taken twice, or lost, where its capture fails."""
    stand_in.fail_at = fail_at
    plain, ours = (venv(TASKS["kept"], "cpu", capture) for capture in (False, stand_in))
    wanted = play(plain, 4 * STEPS, "cpu", look=state)
    with pytest.warns(RuntimeWarning, match="one kernel at a time.*: out of memory in a graph$") as told:
        seen = play(ours, 4 * STEPS, "cpu", look=state)
    assert len(told) == 1
    same(seen, wanted)
    assert stand_in.captures == fail_at
    assert not ours.captured.replaying


def test_the_stand_in_refuses_what_a_device_would(stand_in):
    """Behaviour: what brings a number to the host or an array to the device; what is captured is not done, and replays
    read what lies in the same memory by then. Without these the twins above would tell little."""
    x = torch.ones(3)
    for work in (lambda: float(x.sum()), lambda: x[x > 0], lambda: bool(x.any()), lambda: torch.as_tensor(np.ones(3))):
        with pytest.raises(RuntimeError, match="when stream is capturing"):
            stand_in.capture(work)
    replay = stand_in.capture(lambda: (x * 2.0, x[1:] + 1.0))
    assert all(each.isnan().all() for each in replay.result)
    x.copy_(torch.tensor([1.0, 2.0, 3.0]))
    replay.run()
    same(replay.result, (torch.tensor([2.0, 4.0, 6.0]), torch.tensor([3.0, 4.0])))
    times = [5.0]
    baked = stand_in.capture(lambda: x * times[0])
    times[0] = 7.0
    baked.run()
    same(baked.result, 5.0 * x)


def test_where_steps_are_captured():
    """Behaviour: on a CUDA device unless told otherwise, never elsewhere, and who asks for it there is told."""
    for device in (None, "cpu"):
        assert make_vec("hedgerl/ShortOption-v0", 2, market=FLAT, device=device).captured is None
        with pytest.raises(ValueError, match="capture must be False or None without a CUDA device, got True"):
            make_vec("hedgerl/ShortOption-v0", 2, market=FLAT, device=device, capture=True)


def test_observations_that_are_not_flat(device, graphs):
    """Behaviour: named arrays are stepped as they are, without a word."""
    made = venv(TASKS["short"], device, graphs, observation=("raw", "spot", "holdings"), action=Action("holdings"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.reset_tensors()
        for _ in range(3 * STEPS):
            made.step_tensors(torch.zeros((5, 1), device=device))
    assert not made.captured.replaying
