"""Reward terms against their formulas; the terminal losses against the risks that they stand for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from hedgerl.envs import Environment, Reward, Rollout
from hedgerl.envs.reward import LOSSES, TERMS, Judge, Moments

by_task = pytest.mark.parametrize("name", ["short", "rolled", "kept", "overlay", "book"])


@by_task
@pytest.mark.parametrize("loss", ["abs", "mse"])
def test_terms_by_formula(name, loss, tasks, full):
    """Every term from the record by formulas of this test, and the reward as their weighted sum.

    Catches a Greek taken after the move instead of before it, a cost counted twice, a weight with the wrong sign.
    """
    task = tasks(execution=full)[name]
    batch = task.scenario(8, seed=5)
    rng = np.random.default_rng(1)
    weights = {term: 0.1 + 0.1 * number for number, term in enumerate(TERMS)}
    reward = Reward(loss=loss, w=0.5, lam=0.25, pnl_weight=2.0, weights=weights, threshold=3.0)
    environment = Environment(task, ("raw", "wealth"), "holdings", reward, record=True)
    wealth = [environment.reset(batch)["wealth"]]
    targets, got = rng.normal(size=(task.n_steps, 8, len(task.instruments))) * task.size, []
    for target in targets:
        seen, value, _ = environment.step(target)
        wealth.append(seen["wealth"])
        got.append(value)
    record, wealth = environment.result(), np.stack(wealth)
    money = task.size * batch.spot[0] * 1e-6
    pnl = np.diff(wealth, axis=0) / money
    replay, paid = Rollout(batch, full), np.zeros_like(pnl)  # of the trade at t and of what was forced at t + 1
    for step, target in enumerate(targets):
        replay.act(target)
        paid[step] = replay.cost
    held, spot = record.holdings[:-1], batch.spot[:-1]
    kept = record.kept[:-1]
    move = 0.2 * math.sqrt(task.maturity / task.n_steps)

    def net(greek):
        value = getattr(batch, f"liability_{greek}")[:-1] + (held * getattr(batch, greek)[:-1]).sum(-1)
        return abs(value + (kept * getattr(batch.kept, greek)[:-1]).sum(-1))

    option = batch.is_option
    margin = (0.2 * option * np.maximum(-held, 0) + 0.5 * (1 - option) * abs(held)).sum(-1)
    margin = margin + 0.2 * np.maximum(-kept, 0).sum(-1)
    peak = np.maximum.accumulate(wealth, axis=0)
    worst = np.maximum.accumulate(peak - wealth, axis=0)
    loss_at_end = -(wealth[-1] - wealth[0]) / money
    last = np.zeros((task.n_steps, 1))
    last[-1] = 1.0
    moments = environment.moments
    deviation = abs(pnl + paid / money)
    expected = {
        "pnl_deviation": deviation**2 if loss == "mse" else deviation,
        "transaction_cost": paid / money,
        "turnover": (abs(record.trades) * batch.mid[:-1]).sum(-1) / money,
        "delta_neutrality": net("delta") * spot * move / money,
        "gamma_neutrality": net("gamma") * (spot * move) ** 2 / 2 / money,
        "vega_neutrality": net("vega") * 0.01 / money,
        "position_limit": np.maximum(abs(targets) - 100.0 * batch.multiplier, 0).sum(-1) * spot / money,
        "trade_size": ((record.trades / task.size) ** 2).sum(-1),
        "margin_use": (np.maximum(-record.cash[:-1], 0) + margin * spot) / money,
        "drawdown": np.diff(worst, axis=0) / money,
        "terminal_exposure": last
        * ((abs(held) * batch.mid[:-1]).sum(-1) + (abs(kept) * batch.kept.price[:-1]).sum(-1))
        / money,
        "tail_loss": last * (3.0 + np.maximum(loss_at_end - 3.0, 0) / 0.05),
    }
    assert set(TERMS) - set(expected) == {"entropic", "mean_std"}
    for term, values in expected.items():
        scale = abs(values).max()
        assert term in ("position_limit", "gamma_neutrality", "vega_neutrality") or scale > 0, term
        np.testing.assert_allclose(
            record.reward_terms[term], values, rtol=1e-8, atol=1e-9 * scale + 1e-12, err_msg=term
        )
    np.testing.assert_allclose(record.reward_terms["drawdown"].sum(0), worst[-1] / money, rtol=1e-9, atol=1e-9)
    total = 2.0 * pnl - 0.5 * expected["pnl_deviation"] - 0.25 * expected["transaction_cost"]
    for term, values in record.reward_terms.items():
        total = total - weights[term] * values
    np.testing.assert_allclose(np.stack(got), total, rtol=1e-9, atol=1e-9 * abs(total).max())
    np.testing.assert_allclose(record.rewards, np.stack(got), rtol=0, atol=0)
    assert moments.episodes == 8  # the terminal terms have weights


def test_default_reward(tasks, full):
    """abs, 0.001 and 0.0001, in currency for 10,000 shares at 100; terms without a weight are not computed."""
    task = tasks(execution=full)["overlay"]
    environment = Environment(task, None, "holdings")
    environment.reset(task.scenario(4, seed=1))
    opening = environment.rollout.wealth
    _, reward, _ = environment.step(np.full((4, 2), 1000.0))
    rollout = environment.rollout
    gained = rollout.wealth - opening + rollout.cost
    np.testing.assert_allclose(reward, -0.001 * abs(gained) - 0.0001 * rollout.cost, rtol=1e-12, atol=0)
    assert set(environment.judge.sums) == {"pnl_deviation", "transaction_cost"}
    scaled = Environment(task, None, "holdings", Reward(scale=10.0))
    scaled.reset(rollout.scenario)
    np.testing.assert_allclose(scaled.step(np.full((4, 2), 1000.0))[1], reward / 10.0, rtol=1e-12, atol=0)


def played(environment, task, n_paths, seed):
    environment.reset(task.scenario(n_paths, seed=seed))
    done, total = False, 0.0
    while not done:
        _, reward, done = environment.step(np.zeros((n_paths, len(task.instruments))))
        total = total + reward
    return total, -(environment.rollout.wealth - environment.judge.opening) * environment.judge.per_money


def test_cvar_reward_is_the_tail(tasks):
    """Statistical: the threshold converges to the empirical VaR, and then the mean reward to minus CVaR.

    200 batches of 100 episodes; the threshold within 4 standard errors of a quantile of 20,000, density by histogram.
    """
    task = tasks(n_steps=2)["short"]
    reward = Reward(loss="cvar", w=1.0, lam=0.0, alpha=0.9, memory=1_000_000)
    environment = Environment(task, ("raw", "wealth"), "holdings", reward)
    losses = np.concatenate([played(environment, task, 100, seed)[1] for seed in range(200)])
    quantile = np.quantile(losses, 0.9)
    near = 0.05 * losses.std()
    density = (abs(losses - quantile) < near).mean() / (2 * near)
    error = math.sqrt(0.9 * 0.1 / losses.size) / density
    assert abs(environment.moments.threshold - quantile) < 4 * error, (environment.moments.state, quantile, error)

    environment.learn = False
    before = environment.moments.state
    rewards, losses = played(environment, task, 20_000, 1000)
    assert environment.moments.state == before
    tail = np.sort(losses)[-2000:].mean()
    spread = rewards.std() / math.sqrt(rewards.size)
    assert abs(rewards.mean() + tail) < 4 * spread
    assert rewards.mean() <= -tail + 1e-6 * tail  # any other threshold says more than the tail


@pytest.mark.parametrize("n", [1, 50])
def test_threshold_follows_a_quantile(n):
    """Statistical: one episode at a time or many, from a bad start; 40,000 losses, 10 % of a standard deviation."""
    moments, rng = Moments(), np.random.default_rng(4)
    reward = Reward(loss="cvar", alpha=0.95, memory=20_000)
    for _ in range(40_000 // n):
        moments.learn(rng.normal(5.0, 2.0, n), reward)
    assert abs(moments.threshold - (5.0 + 2.0 * 1.6449)) < 0.2
    assert abs(moments.mean - 5.0) < 0.1
    assert abs(moments.variance - 4.0) < 0.2


def test_entropic_and_mean_std_are_the_risks(tasks):
    """Identity: with the moments of the very episodes, the mean terms are the entropic risk and mean plus deviation."""
    task = tasks()["short"]
    for loss, aversion in (("entropic", 2e-4), ("mean_std", 1.5)):
        reward = Reward(loss=loss, w=1.0, lam=0.0, risk_aversion=aversion)
        environment = Environment(task, ("raw", "wealth"), "holdings", reward)
        rewards, losses = played(environment, task, 500, 1)  # the first batch is learned from before it is judged
        if loss == "entropic":
            risk = math.log(np.exp(aversion * losses).mean()) / aversion
        else:
            risk = losses.mean() + aversion * losses.std()
        np.testing.assert_allclose(rewards.mean(), -risk, rtol=1e-10)


def judged(reward, task, batch, moments, targets):
    """The judge of episodes with these targets (n_steps, n, k), in the library of the batch."""
    execution = dataclasses.replace(task.execution, limits=dataclasses.replace(task.execution.limits, whole=False))
    rollout = Rollout(batch, execution)
    judge = Judge(reward, task, rollout, moments, learn=False)
    for target in targets:
        judge.reward(target, rollout.act(target))
    return judge


@pytest.mark.parametrize("what", [*LOSSES, *(f"term {name}" for name in TERMS)])
@pytest.mark.parametrize("name", ["short", "kept"])
def test_gradients_are_those_of_differences(what, name, tasks, full):
    """Twin and gradient: torch's rewards are NumPy's, and their gradient to every trade is NumPy's finite difference.

    Catches a term that leaves the graph, and a moment or a bend with a gradient of its own. Central differences of
    1e-5 shares, float64; the targets are not at a bend.
    """
    if what.startswith("term "):
        reward = Reward(w=0.0, lam=0.0, weights={what.removeprefix("term "): 1.0})
    else:
        reward = Reward(loss=what, w=0.5, lam=0.25, pnl_weight=0.1, risk_aversion=2e-4)
    task = tasks(execution=full)[name]
    batch = task.scenario(8, seed=5)
    rng = np.random.default_rng(1)
    targets = 2.0 * task.size * rng.normal(size=(task.n_steps, 8, len(task.instruments)))
    moments = Moments()
    moments.learn(judged(reward, task, batch, moments, targets).losses(), reward)
    known = moments.state

    leaves = torch.tensor(targets, requires_grad=True)
    mapped = batch.mapped(lambda array: torch.as_tensor(np.ascontiguousarray(array)))
    total = judged(reward, task, mapped, moments, leaves).total
    expected = judged(reward, task, batch, moments, targets).total
    np.testing.assert_allclose(total.detach().numpy(), expected, rtol=1e-10, atol=1e-9)
    (gradient,) = torch.autograd.grad(total.sum(), leaves)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) > 0.0 or (
        name == "short" and what in ("term gamma_neutrality", "term vega_neutrality")
    )
    for _ in range(3):
        direction, eps = rng.normal(size=targets.shape), 1e-5
        up, down = (
            judged(reward, task, batch, moments, targets + sign * eps * direction).total.sum() for sign in (1.0, -1.0)
        )
        wanted = (up - down) / (2.0 * eps)
        got = float((gradient * torch.as_tensor(direction)).sum())
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-6 * abs(expected).max())
    assert moments.state == known


def test_moments_learn_from_tensors_with_gradients():
    """Catches moments that keep a graph alive, or that refuse torch."""
    one, two = Moments(), Moments()
    losses = torch.linspace(-1.0, 2.0, 7, dtype=torch.float64, requires_grad=True)
    one.learn(losses * 2.0, Reward(loss="cvar"))
    two.learn(2.0 * losses.detach().numpy(), Reward(loss="cvar"))
    assert one.state == two.state
    assert {type(value) for value in one.state.values()} == {float}


@pytest.mark.parametrize("loss", LOSSES)
def test_linear_and_risks_are_the_reward(loss, tasks, full):
    """Identity: at the moments of the very episodes, minus the mean reward is the mean of `linear` plus the risks.

    Catches a term that is in both or in neither, and a given threshold that is taken for a moving one.
    """
    task = tasks(execution=full)["short"]
    weights = {"turnover": 0.1, "terminal_exposure": 0.2, "mean_std": 0.3, "tail_loss": 0.4}
    batch, rng = task.scenario(200, seed=3), np.random.default_rng(2)
    targets = 50.0 * rng.normal(size=(task.n_steps, 200, len(task.instruments)))
    for threshold in (None, 3.0):
        reward = Reward(loss=loss, w=0.5, lam=0.25, pnl_weight=0.1, alpha=0.9, weights=weights, threshold=threshold)
        assert ("tail_loss" in reward.risks) is (threshold is None)
        moments = Moments()
        losses = judged(reward, task, batch, moments, targets).losses()
        moments.learn(losses, reward)
        judge = judged(reward, task, batch, moments, targets)
        risks = {
            "tail_loss": np.sort(losses)[-20:].mean(),
            "entropic": math.log(np.exp(1e-4 * losses).mean()) / 1e-4,
            "mean_std": losses.mean() + losses.std(),
        }
        expected = judge.linear().mean() + sum(weight * risks[name] for name, weight in reward.risks.items())
        assert -judge.total.mean() == pytest.approx(expected, rel=1e-9)


def test_moments_can_be_kept():
    """State read from one and set in another goes on the same way; a wrong state is refused."""
    one, two, rng = Moments(), Moments(), np.random.default_rng(1)
    reward = Reward(loss="cvar")
    one.learn(rng.normal(size=10), reward)
    two.state = one.state
    more = rng.normal(size=10)
    one.learn(more, reward)
    two.learn(more, reward)
    assert one.state == two.state
    with pytest.raises(ValueError, match="state must have the numbers"):
        one.state = {"mean": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "cvr"}, "loss must be one of abs, mse, cvar"),
        ({"w": -1.0}, "w must not be negative"),
        ({"alpha": 1.0}, r"alpha must lie in \(0, 1\)"),
        ({"weights": {"turnver": 1.0}}, "nearest is 'turnover'"),
        ({"weights": {"turnover": -1.0}}, "must not be negative"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"threshold": float("nan")}, "threshold must be a finite number"),
    ],
)
def test_wrong_rewards_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Reward(**changes)
