"""Behaviour and twin tests: names, state, torch beside NumPy, saved settings, and the tuning of bands."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hedgerl.baselines import BASELINES, Baseline, Lazy, MinimumVariance, Objective, Policy, TunedBand, baseline
from hedgerl.baselines.tuned_band import rollout_pnl
from hedgerl.envs import RAW, Environment, Raw
from hedgerl.risk import cvar


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_every_baseline_speaks_the_common_language(name):
    """Catches a hedge that reads an array that is not there, or that the evaluation cannot recognise."""
    hedge = baseline(name)
    assert isinstance(hedge, Baseline)
    assert isinstance(hedge, Policy)
    assert hedge.action == "holdings"
    assert set(hedge.observation) <= set(RAW)
    assert len(set(hedge.observation)) == len(hedge.observation)


def test_unknown_names_are_refused_with_the_nearest_one():
    """Catches a misspelt name that silently means another hedge, or a parameter that is not read."""
    with pytest.raises(ValueError, match="'delta_gama'; the nearest is 'delta_gamma'"):
        baseline("delta_gama")
    with pytest.raises(ValueError, match="'limt'; the nearest is 'limit'"):
        baseline("lazy", limt=0.2)
    with pytest.raises(ValueError, match="got 'which'"):
        baseline("minimum_variance", which="model")
    assert baseline("lazy", limit=0.2) == Lazy(limit=0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: baseline("delta", which="bs"), "which must be one of"),
        (lambda: baseline("lazy", limit=-0.1), "limit must"),
        (lambda: baseline("lazy", back_to="edge"), "back_to must be one of"),
        (lambda: baseline("gamma_scaled", fraction=1.5), "fraction must"),
        (lambda: baseline("whalley_wilmott", aversion=0.0), "aversion must"),
        (lambda: baseline("delta_gamma", damping=0.0), "damping must"),
        (lambda: baseline("tuned_band", shape="round"), "shape must be one of"),
        (lambda: baseline("tuned_band", width=-1.0), "width must"),
        (lambda: Objective("median"), "objective must be one of"),
        (lambda: Objective("cvar", 1.5), "parameter must"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    """Catches a setting that would be wrong without a word."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"synthetic_forward", "dynamic_programming"}))
@pytest.mark.parametrize("book", ["options", "overlay", "book", "kept"])
def test_torch_gives_what_numpy_gives(kit, books, name, book):
    """Twin: catches arithmetic that is NumPy's alone, at a step with memory and one after an expiry."""
    torch = pytest.importorskip("torch")
    task, scenario = books[book]
    hedge, other = baseline(name), None
    start = np.ones(scenario.n_paths, dtype=bool)
    for rollout, seen, target in kit.walk(hedge, task, scenario):
        sent = {key: torch.asarray(np.array(value)) for key, value in seen.items()}
        twin, other = hedge.predict(sent, other, torch.asarray(start))
        assert isinstance(twin, torch.Tensor)
        scale = max(1.0, float(abs(target).max()))
        np.testing.assert_allclose(twin.numpy(), target, rtol=1e-7, atol=1e-9 * scale)
        start = np.zeros_like(start)
        if rollout.step == 25:
            break


def test_torch_carries_gradients(kit, books):
    """Catches a hedge that detaches what it reads: a network may learn on top of it."""
    torch = pytest.importorskip("torch")
    task, scenario = books["underlying"]
    hedge = Lazy(0.1, "limit")
    seen = {key: torch.asarray(np.array(v)) for key, v in kit.seen_at(task, scenario, hedge.observation).items()}
    seen["holdings"].requires_grad_(True)
    hedge.target(seen).sum().backward()
    assert seen["holdings"].grad is not None


def test_one_path_is_hedged_as_in_a_batch(books):
    """Twin: catches what leaks from path to path, by one path at a time."""
    task, scenario = books["options"]
    for name in ("minimum_variance_regression", "delta_gamma_vega", "leland", "tuned_band"):
        together = rollout_pnl(baseline(name), task, scenario)
        alone = np.concatenate([rollout_pnl(baseline(name), task, scenario.part(i, i + 1)) for i in range(3)])
        np.testing.assert_allclose(alone, together[:3], rtol=1e-9, atol=1e-12)


def test_memory_ends_where_an_episode_starts(kit, books):
    """Catches a regression that carries one episode's slope into the next, on all paths or on some."""
    task, scenario = books["options"]
    hedge = MinimumVariance()
    prepared = Raw(hedge.observation).prepare(scenario, task)
    walked = [(seen, target) for _, seen, target in kit.walk(hedge, task, scenario)]
    state = None
    for seen, _ in walked[:10]:
        _, state = hedge.predict(seen, state)
    assert (abs(hedge.slope(state)) > 0.01).mean() > 0.9
    first = walked[0]
    np.testing.assert_array_equal(hedge.predict(first[0], None)[0], first[1])
    np.testing.assert_allclose(hedge.predict(first[0], state, np.ones(200, bool))[0], first[1], rtol=1e-12)
    some = np.arange(200) < 50
    target, new = hedge.predict(first[0], state, some)
    np.testing.assert_allclose(target[some], first[1][some], rtol=1e-12)
    assert (hedge.slope(new)[some] == 0.0).all()
    assert (abs(hedge.slope(new)[~some]) > 0.01).mean() > 0.9
    assert prepared is not None


def test_a_regression_finds_the_slope_that_is_there(kit, books):
    """Behaviour: volatility and spot move with a slope of -1 by hand. Catches x and y exchanged, levels for changes."""
    task, scenario = books["underlying"]
    hedge = MinimumVariance(prior_weight=0.01)
    rng, state = np.random.default_rng(1), None
    base = kit.seen_at(task, scenario, hedge.observation)
    log_spot = np.zeros(200)
    for step in range(12):
        seen = dict(base)
        log_spot = log_spot + 0.01 * rng.standard_normal(200)
        seen["spot"] = 100.0 * np.exp(log_spot)
        seen["liability_volatility"] = (0.2 - 1.0 * log_spot)[:, None]
        seen["liability_years_left"] = base["liability_years_left"] - step / 252
        _, state = hedge.predict(seen, state)
    np.testing.assert_allclose(hedge.slope(state), -1.0, rtol=0, atol=0.01)


def test_baselines_act_in_the_environment(books):
    """Catches a hedge that works with its own loop only."""
    for task, scenario in books.values():
        for name in ("delta", "minimum_variance_regression", "delta_gamma", "tuned_band"):
            hedge, state = baseline(name), None
            environment = Environment(task, Raw(hedge.observation), hedge.action)
            seen, done = environment.reset(scenario), False
            wealth = environment.rollout.wealth
            while not done:
                target, state = hedge.predict(seen, state)
                seen, _, done = environment.step(target)
            np.testing.assert_allclose(
                environment.rollout.wealth - wealth, rollout_pnl(hedge, task, scenario), rtol=1e-12, atol=1e-9
            )


@pytest.mark.parametrize("name", ["mean_std", "cvar", "entropic", "variance"])
def test_tuning_beats_the_grid_and_is_repeatable(kit, name):
    """Catches a fit that returns another point than its best, or that depends on more than its seed."""
    task = kit.black_scholes_task(n_steps=10)
    first, second = (TunedBand.fit(task, objective=name, n_paths=1_000, seed=3, evaluations=50) for _ in range(2))
    assert first == second
    assert first.fitted is not None
    goal, scenario = Objective(name), task.scenario(1_000, 3)
    assert goal(rollout_pnl(first, task, scenario)) == pytest.approx(first.fitted.value, rel=1e-12)
    for scale, width in ((1.0, 0.0), (1.0, 0.07), (1.4, 0.07), (2.0, 0.12)):
        assert first.fitted.value <= goal(rollout_pnl(TunedBand(scale, width), task, scenario))
    assert first.fitted.evaluations <= 51
    assert (first.fitted.objective, first.fitted.n_paths, first.fitted.seed) == (name, 1_000, 3)


def test_a_tuned_band_survives_json(kit):
    """Catches a saved band that loads as another."""
    task = kit.black_scholes_task(n_steps=5)
    tuned = TunedBand.fit(task, n_paths=200, seed=1, shape="whalley_wilmott", evaluations=35)
    assert TunedBand.from_dict(json.loads(json.dumps(tuned.to_dict()))) == tuned


def test_objectives_by_hand():
    """Golden by hand: losses 1, 2, 3, 6. Catches a gain taken for a loss, and n - 1 for n."""
    pnl = -np.array([1.0, 2.0, 3.0, 6.0])
    assert Objective("variance")(pnl) == pytest.approx(3.5)
    assert Objective("mean_std", 2.0)(pnl) == pytest.approx(3.0 + 2.0 * 3.5**0.5)
    assert Objective("cvar", 0.5)(pnl) == pytest.approx(4.5)
    assert Objective("cvar", 0.5)(pnl) == pytest.approx(float(cvar(pnl, 0.5)))
    assert Objective("entropic", 1.0)(pnl) == pytest.approx(np.log(np.exp(-pnl).mean()))
