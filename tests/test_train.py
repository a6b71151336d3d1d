"""Training from configuration to saved policy."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import hedgerl.conf
from hedgerl import backtest, cli, train
from hedgerl.agents.agent import Agent
from hedgerl.backtest import BacktestConfig
from hedgerl.baselines import Delta, Objective
from hedgerl.envs import Reward, ShortOption
from hedgerl.envs.reward import TERMS
from hedgerl.evaluation import evaluate
from hedgerl.evaluation.rollouts import roll_out
from hedgerl.report import table
from hedgerl.sim import BlackScholes
from hedgerl.sim.noise import drawn_seed, seed_sequence
from hedgerl.train import TrainConfig
from hedgerl.training import checkpoint, settings
from hedgerl.training.fixed_paths import Acting, FixedPaths, Goal, paired_intervals

TINY = [
    *("market=black_scholes", "task.hedge_options=[]", "task.n_steps=6", "task.backend=numpy"),
    *("baselines=[none,delta,tuned_band]", "n_paths=300", "bootstrap=100", "tuning.n_paths=100"),
    *("validation.n_paths=128", "validation.every=2", "checkpoint=2", "agent.iterations=6", "tracking=none"),
]
AGENTS = {
    "ppo_lstm": ["agent=ppo_lstm", "agent.num_envs=8", "agent.batch_episodes=4", "agent.epochs=2", "agent.lstm=8"],
    "sac": [
        *("agent=sac", "agent.num_envs=4", "agent.gradient_steps=1", "agent.batch_size=16", "agent.buffer=100"),
        *("agent.random_steps=4", "agent.hidden=[8]"),
    ],
    "deep_hedging": ["agent=deep_hedging", "agent.batch_paths=64", "agent.hidden=[8]"],
}


def configured(agent: str, *overrides: str) -> TrainConfig:
    """The configuration of a command line."""
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        typed = OmegaConf.to_object(compose("train", overrides=[*TINY, *AGENTS[agent], *overrides]))
    assert isinstance(typed, TrainConfig)
    return typed


@pytest.fixture
def no_report(monkeypatch):
    """Without the report's charts, which take seconds."""

    def written(studies, folder, **_):
        (folder / "report.html").write_text(table(studies))
        return folder / "report.html"

    monkeypatch.setattr(train, "write_report", written)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run with TensorBoard: PPO-LSTM on a terminal objective, with costs that grow."""
    folder = tmp_path_factory.mktemp("run") / "run"
    config = configured("ppo_lstm", "tracking=tensorboard", "reward=cvar", "reward.lam=0.1", "curriculum=costs")
    return folder, train.run(config, folder, "hedgerl train ...")


def weights(folder: Path) -> bytes:
    return (folder / train.POLICY / "weights.safetensors").read_bytes()


def test_what_a_run_leaves(finished):
    """Behaviour: bundle, report and numbers in one folder, and a card that tells where the policy comes from."""
    folder, policy = finished
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "run.json", "checkpoints", "tensorboard", "validation.csv", "policy"}
    assert names >= {"results.json", "results.csv", "report.html", "charts"}
    assert not [path for path in folder.rglob("*") if path.name.endswith(".partial")]
    card = Agent.load(policy).card
    assert card.seed == 12345
    assert card.training["command"] == "hedgerl train ..."
    assert card.training["config"]["agent"]["num_envs"] == 8
    assert card.observed is not None
    results = json.loads((folder / "results.json").read_text())
    assert results["studies"][0]["reference"] == "PPO-LSTM"
    assert results["studies"][0]["policies"] == ["PPO-LSTM", "none", "delta", "tuned band"]


def test_card_holds_what_the_bundle_does(finished):
    """Identity: the loaded bundle on the test paths has the card's numbers. Catches another network's numbers."""
    _, policy = finished
    agent = Agent.load(policy)
    metrics = agent.card.metrics
    config = configured("ppo_lstm")
    again = evaluate(agent, train.plan(config).task, n_paths=config.n_paths, seed=config.test_seed)
    assert metrics["test"]["cvar_95"] == pytest.approx(again.metrics["cvar_95"], rel=1e-6)
    assert metrics["objective"]["test"] == pytest.approx(again.metrics["cvar_95"], rel=1e-6)
    other = evaluate(Delta(), train.plan(config).task, n_paths=config.n_paths, seed=config.test_seed)
    row = metrics["against"]["delta"]
    assert set(metrics["against"]) == {"none", "delta", "tuned band"}
    for name in ("objective", "cvar_95"):
        assert row[name]["difference"] == pytest.approx(again.metrics["cvar_95"] - other.metrics["cvar_95"], rel=1e-5)
        assert row[name]["low"] <= row[name]["difference"] <= row[name]["high"]


def test_best_weights_are_those_of_the_lowest_validation(finished):
    """Identity: the saved policy scores the least of all validations. Catches the last weights in their place."""
    folder, policy = finished
    rows = pd.read_csv(folder / "validation.csv")
    assert rows["iteration"].tolist() == [0, 2, 4, 6]
    config = configured("ppo_lstm", "reward=cvar")
    paths = FixedPaths(train.plan(config).task, 128, config.validation.seed, Goal("cvar", 0.95))
    assert paths.score(Agent.load(policy)).value == pytest.approx(rows["objective"].min(), rel=1e-6)


def test_tensorboard_has_terms_baselines_and_histograms(finished):
    """Behaviour: every weighted term of the reward, every baseline, losses and actions."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[0] / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert scalars >= {"episode/term/tail_loss", "episode/term/transaction_cost", "episode/reward", "train/value_loss"}
    assert scalars >= {"validation/objective", "baseline/none", "baseline/delta", "baseline/tuned band"}
    assert scalars >= {f"validation/term/{name}" for name in TERMS}
    assert scalars >= {"moments/threshold", "curriculum/stage", "time/seconds", "test/objective"}
    assert set(events.Tags()["histograms"]) >= {"episode/action/0", "validation/action/0", "validation/pnl"}
    assert [event.step for event in events.Scalars("validation/objective")] == [0, 2, 4, 6]
    assert [event.value for event in events.Scalars("curriculum/stage")] == [0, 1, 2, 4, 4, 4]


def test_no_path_is_used_twice(tmp_path, monkeypatch, no_report):
    """Identity: training, tuning, validation and test draw from different seeds, and the test's come last.

    Catches a test on paths that have chosen the weights.
    """
    drawn: list[int] = []
    real = ShortOption.scenario

    def scenario(self, n_paths, seed=None):
        drawn.append(seed)
        return real(self, n_paths, seed)

    monkeypatch.setattr(ShortOption, "scenario", scenario)
    whole = len(drawn)
    train.run(configured("deep_hedging", "agent.pool_batches=1", "agent.epochs=1"), tmp_path / "run")
    whole = len(drawn)
    assert None not in drawn
    assert len(set(drawn)) == whole >= 9  # validation, tuning, six pools, and the test
    config = configured("deep_hedging")
    monkeypatch.setattr(ShortOption, "scenario", real)
    paths = FixedPaths(train.plan(config).task, 128, config.validation.seed, Goal("cvar"))
    same = FixedPaths(train.plan(config).task, 128, config.test_seed, Goal("cvar"), "evaluation")
    test = evaluate(Delta(), train.plan(config).task, n_paths=128, seed=config.test_seed).pnl
    np.testing.assert_array_equal(same.score(Delta()).pnl, test)  # the named stream is the one of the test
    assert not np.intersect1d(paths.score(Delta()).pnl, test).size


KILLED = """
import os, signal, sys
from hedgerl import cli, train
real = train._Trainer.iterate
def iterate(self, learner, stage):
    if self.progress.iteration == 5:
        learner.iterate(5)  # the weights have moved on from the checkpoint when the process dies
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, learner, stage)
train._Trainer.iterate = iterate
sys.exit(cli.main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_a_killed_run_ends_as_if_it_had_not_been(agent, tmp_path, monkeypatch, no_report, capfd):
    """Twin: kill -9 in iteration 6, resume, and the same weights, bit by bit, as without. Stages of a curriculum, too.

    Catches a state that a checkpoint lacks: optimiser, normaliser, moments, generators, the place among the paths.
    """
    monkeypatch.chdir(tmp_path)
    threads = f"threads={torch.get_num_threads()}"
    overrides = [*TINY, *AGENTS[agent], "reward=cvar", "curriculum=ramp", "agent.iterations=8", threads]
    done = subprocess.run([sys.executable, "-c", KILLED, *overrides, "hydra.run.dir=killed"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in checkpoint.found(Path("killed"))] == ["iteration-0000002.pt", "iteration-0000004.pt"]
    assert cli.main(["train", "resume=killed"]) == 0
    assert cli.main(["train", *overrides, "hydra.run.dir=whole"]) == 0
    assert weights(Path("killed")) == weights(Path("whole"))
    assert Path("killed/validation.csv").read_bytes() == Path("whole/validation.csv").read_bytes()
    assert not Path("runs").exists()
    assert "continue" not in capfd.readouterr().err


@pytest.mark.parametrize("agent", AGENTS)
def test_stopped_by_the_user_and_continued(agent, tmp_path, monkeypatch, no_report, capfd):
    """Twin: Ctrl-C in the third iteration saves it whole, says how to go on, and the end is the same."""
    config = configured(agent, "reward=mean_std", f"threads={torch.get_num_threads()}")
    train.run(config, tmp_path / "whole")
    real = train._Trainer.iterate

    def iterate(self, learner, stage):
        if self.progress.iteration == 2:
            signal.raise_signal(signal.SIGINT)
        real(self, learner, stage)

    monkeypatch.setattr(train._Trainer, "iterate", iterate)
    with pytest.raises(KeyboardInterrupt):
        train.run(config, tmp_path / "stopped")
    assert f"continue with: hedgerl train resume={tmp_path / 'stopped'}" in capfd.readouterr().err
    assert checkpoint.found(tmp_path / "stopped")[-1].name == "iteration-0000003.pt"
    monkeypatch.setattr(train._Trainer, "iterate", real)
    torch.manual_seed(99)  # whatever else the process has drawn meanwhile
    train.run(train.configured(OmegaConf.load(tmp_path / "stopped" / "config.yaml")), tmp_path / "stopped", resume=True)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


@pytest.mark.parametrize("agent", ["ppo_lstm", "deep_hedging"])
def test_nan_stops_with_the_iteration_named(agent, tmp_path, monkeypatch):
    """Behaviour: a weight that becomes NaN in iteration 3 ends the run there; the checkpoint of 2 is kept and finite.

    Catches hours of training on nothing, and a good checkpoint that a bad one replaces.
    """
    real = train._Trainer.iterate

    def iterate(self, learner, stage):
        if self.progress.iteration == 2:
            module = learner.model.policy if agent == "ppo_lstm" else learner.learner.network
            with torch.no_grad():
                next(module.parameters()).fill_(math.nan)
        real(self, learner, stage)

    monkeypatch.setattr(train._Trainer, "iterate", iterate)
    with pytest.raises(
        train.Diverged, match="training stopped at iteration 3: .*; the last good checkpoint is "
    ) as told:
        train.run(configured(agent), tmp_path / "run")
    assert "\n" not in str(told.value)
    last = checkpoint.load(tmp_path / "run")
    assert last["iteration"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in last["progress"]["best"]["weights"].values())


def test_an_exploding_objective_stops(tmp_path, monkeypatch):
    """Behaviour: a policy that trades enormously, with finite weights, ends the run at the next validation."""
    real = train._Trainer.iterate

    def iterate(self, learner, stage):
        real(self, learner, stage)
        with torch.no_grad():
            learner.learner.network.head.bias.copy_(torch.tensor([5.0, 0.0]))  # sizes above the delta

    monkeypatch.setattr(train._Trainer, "iterate", iterate)
    with pytest.raises(train.Diverged, match="stopped at iteration 2: CVaR 95 % on the validation paths is "):
        train.run(configured("deep_hedging", "divergence=1.2"), tmp_path / "run")


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    """Behaviour: the one before is read; where none can be, that is said. Nothing in a file is executed."""
    for number in (1, 2, 3):
        checkpoint.save(tmp_path, number, {"value": torch.full((3,), float(number))})
    assert [path.name for path in checkpoint.found(tmp_path)] == ["iteration-0000002.pt", "iteration-0000003.pt"]
    newest = checkpoint.found(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    assert checkpoint.load(tmp_path)["iteration"] == 2
    torch.save({"format": 1, "iteration": 3, "bad": Path}, newest)
    assert checkpoint.load(tmp_path)["iteration"] == 2
    checkpoint.found(tmp_path)[0].write_bytes(b"")
    with pytest.raises(ValueError, match="which has no checkpoint to read .iteration-0000002.pt"):
        checkpoint.load(tmp_path)


def test_configuration_survives_the_disk(tmp_path):
    """Identity: what config.yaml holds reads back as it was. Catches a small number that YAML takes for a text."""
    config = configured("ppo_lstm", "agent.learning_rate=1e-5", "task.perturb={volatility:[0.1,0.3]}", "seed=0")
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    assert train.configured(OmegaConf.load(path)) == config


def test_floor_of_the_entropic_objective_is_a_baseline(tmp_path, no_report):
    """The report of a case that the dynamic programme solves shows how far from optimal the policy is."""
    hedges = "baselines=[delta,{name: dynamic_programming, label: optimal, aversion: 1.0, positions: 101, nodes: 2}]"
    folder = tmp_path / "run"
    train.run(configured("deep_hedging", "reward=entropic", "task.quantity=1.0", hedges), folder)
    against = Agent.load(folder / train.POLICY).card.metrics["against"]
    assert set(against) == {"delta", "optimal"}
    assert against["optimal"]["objective"]["difference"] > 0.0
    with pytest.raises(ValueError, match="market must be BlackScholes"):
        train.run(configured("deep_hedging", "market=heston", hedges), tmp_path / "other")
    mistyped = configured("deep_hedging", "baselines=[{name: dynamic_programming, aversoin: 1.0}]")
    with pytest.raises(ValueError, match="got 'aversoin'; the nearest is 'aversion'"):
        train.plan(mistyped)
    with pytest.raises(ValueError, match="dynamic_programming with data"):
        train.plan(configured("deep_hedging", "data=sp500", hedges))


def test_discrete_actions_are_learned_and_saved(tmp_path, no_report):
    """Identity: the saved policy makes the choices that validation saw: buy, sell or hold, a lot at a time."""
    folder = tmp_path / "run"
    config = configured("ppo_lstm", "action={kind: discrete, scale: 20}")
    train.run(config, folder)
    agent = Agent.load(folder / train.POLICY)
    result = evaluate(agent, agent.task, n_paths=300, seed=config.test_seed)
    measured = agent.card.metrics["objective"]["test"]
    assert result.metrics["cvar_95"] == pytest.approx(measured, rel=1e-6)
    assert set(np.unique(agent.predict(np.random.default_rng(1).normal(size=(500, 11)))[0])) <= {0, 1, 2}


def test_changed_configuration_is_not_continued(tmp_path, monkeypatch, no_report):
    """Catches a run whose first half had another learning rate than its card says."""
    folder = tmp_path / "run"
    config = configured("deep_hedging")
    train.run(config, folder)
    changed = configured("deep_hedging", "agent.learning_rate=0.1")
    with pytest.raises(ValueError, match="resume needs the configuration that the run began with"):
        train.run(changed, folder, resume=True)


@pytest.mark.parametrize(
    ("agent", "overrides", "message"),
    [
        ("ppo_lstm", ["agent.batch_episodes=9"], "agent.batch_episodes must be at most num_envs x episodes = 8"),
        ("ppo_lstm", ["agent.iterations=0"], "agent.iterations must be a whole number of at least 1, got 0"),
        ("ppo_lstm", ["agent.learning_rate=-1"], "agent.learning_rate must be positive, got -1"),
        ("ppo_lstm", ["agent.name=sac"], "agent must name one of conf/agent"),
        ("sac", ["action=discrete"], "action must be continuous for sac, got 'discrete'"),
        ("ppo_lstm", ["action=holdings"], "action must have bounds for a learner, got 'holdings'"),
        ("ppo_lstm", ["observation=[spott]"], "spot"),
        ("sac", ["agent.batch_size=101"], "agent.batch_size must be at most buffer = 100, got 101"),
        ("sac", ["device=gpu"], "device must be auto, cpu, cuda or cuda:NUMBER, got 'gpu'"),
        ("sac", ["agent.algorithm=ddpg"], "agent.algorithm must be one of sac, td3, tqc, got 'ddpg'"),
        ("sac", ["agent.entropy=much"], "agent.entropy must be auto or a positive number, got 'much'"),
        ("deep_hedging", ["action=trade"], "action must be null for deep_hedging"),
        ("deep_hedging", ["agent.head=bend"], "agent.head must be one of band, plain, got 'bend'"),
        ("deep_hedging", ["agent.batch_paths=16"], "batch_paths must leave a path in the tail"),
        ("deep_hedging", ["agent.inputs=[deltta]"], "delt"),
        ("sac", ["reward=cvar", "reward.alpha=1.0"], "reward.alpha must lie in .0, 1., got 1"),
        ("sac", ["objective.name=cvar", "objective.parameter=1.5"], "parameter must lie in .0, 1., got 1.5"),
        ("sac", ["objective.name=cvr"], "objective must be one of mean_std, cvar, entropic, variance, quadratic"),
        ("sac", ["reward.weights.turnover=-1.0"], "weights.'turnover'. must not be negative, got -1"),
        ("sac", ["market=rough_and_heston"], "market must name one model to train in"),
        ("sac", ["baselines=[delta,lelland]"], "baseline must be a known one, got 'lelland'"),
        ("sac", ["name=delta"], "name and baselines must have labels of their own"),
        ("sac", ["test_seed=20240301"], "validation, test and tuning must have seeds of their own"),
        ("sac", ["validation.every=0"], "validation.every must be a whole number of at least 1, got 0"),
        ("sac", ["divergence=0.5"], "divergence must be above 1, got 0.5"),
        ("sac", ["seed=-3"], "seed must be a whole number of at least 0 or None, got -3"),
        ("sac", ["curriculum.costs=0.5"], "curriculum.stages must be at least 1"),
        ("sac", ["data=sp500", "task.maturity=0.5"], "maturity must be n_steps / 252 on history"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_contradictions_fail_before_anything_is_simulated(agent, overrides, message, tmp_path, monkeypatch):
    """Behaviour: one line, at once, and no folder. Catches what only fails after minutes of paths."""
    monkeypatch.setattr("hedgerl.sim.Model.simulate", None)  # would raise TypeError
    with pytest.raises(Exception, match=message):
        train.run(configured(agent, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_tracker_is_told_at_once(tmp_path, monkeypatch):
    """Catches a run that ends before its first line because a package is not there."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="tracking=mlflow needs MLflow, which is not installed: pip install"):
        train.run(configured("sac", "tracking=mlflow"), tmp_path / "run")


def test_domain_randomisation_and_history(tmp_path, no_report, capsys):
    """Behaviour: parameters drawn for each episode, and a last table on history."""
    overrides = ["task.perturb={volatility:[0.1,0.3]}", "data=sp500", "every=21"]
    train.run(configured("deep_hedging", *overrides), tmp_path / "run")
    card = Agent.load(tmp_path / "run" / "policy").card
    assert card.task.perturb == {"volatility": (0.1, 0.3)}
    assert "S&P 500" in capsys.readouterr().out


CONF = Path(hedgerl.conf.__file__).parent
GROUPS = {
    **{f"agent/{name}": kind for name, kind in settings.AGENTS.items()},
    **{f"reward/{name}": settings.RewardConfig for name in ("abs", "mse", "cvar", "mean_std", "entropic")},
    "curriculum/none": settings.CurriculumConfig,
    "tracking/tensorboard": settings.TrackingConfig,
}


def test_device_is_one_that_is_there(monkeypatch):
    """Behaviour: by number, or the first; auto takes the CPU where there is none, and says so once."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for given, expected in (("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu")):
        assert train.usable_device(given) == expected
    with pytest.raises(ValueError, match=r"torch finds 2 GPUs, the first being cuda:0; got 'cuda:2'"):
        train.usable_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for given in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=f"torch finds no GPU; got '{given}'"):
            train.usable_device(given)
    train._warn_no_gpu.cache_clear()
    with pytest.warns(RuntimeWarning, match="torch finds no GPU: training on the CPU") as told:
        assert [train.usable_device("auto") for _ in range(2)] == ["cpu", "cpu"]
    assert len(told) == 1
    assert train.usable_device("cpu") == "cpu"


@pytest.mark.parametrize("name", GROUPS)
def test_yaml_and_dataclass_agree(name):
    """Catches a key that no field reads, and a default that differs between the YAML and Python."""
    keys = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    keys.pop("defaults", None)
    defaults = {item.name: getattr(GROUPS[name](), item.name) for item in dataclasses.fields(GROUPS[name])}
    assert set(keys) == set(defaults)
    if not name.startswith("reward/"):
        assert keys == defaults


def test_train_yaml_has_every_key():
    """Catches a key of hedgerl train whose default lives in the code alone."""
    keys = set(yaml.safe_load((CONF / "training.yaml").read_text())) - {"defaults"}
    groups = {"market", "data", "execution", "task", "agent", "reward", "curriculum", "tracking"}
    assert keys == {item.name for item in dataclasses.fields(TrainConfig)} - groups


def test_reward_lists_every_term():
    """Catches a term that the command line cannot weigh, and one that no code reads."""
    assert set(configured("sac").reward.weights) == set(TERMS)
    assert train.plan(configured("sac", "reward.weights.turnover=0.1")).reward.total_weights["turnover"] == 0.1


def test_goals_agree_with_objectives():
    """Identity: goals are the objectives of the tuned band; entropic risk keeps its meaning in other money."""
    pnl = np.random.default_rng(1).normal(-0.1, 1.0, 1000)
    for name in ("cvar", "mean_std", "entropic", "variance"):
        assert Goal(name)(pnl) == pytest.approx(Goal(name).for_band()(pnl), rel=1e-12)
        assert Goal(name).for_band() == Objective(name)
    task = ShortOption(market=BlackScholes(volatility=0.2, spot=50.0), quantity=10.0)
    scale = 100.0 / (50.0 * 10.0)  # of P&L in money
    goal = Goal("entropic", 2.0)
    assert goal.in_money(task)(pnl / scale) * scale == pytest.approx(goal(pnl), rel=1e-12)


def test_paired_intervals_take_away_what_is_common():
    """Limit: policies that differ by a constant have intervals of no width. Catches unpaired draws."""
    pnl = np.random.default_rng(1).normal(size=500)
    for name in ("cvar", "mean_std"):
        row = paired_intervals(Goal(name), {"a": pnl + 0.25, "b": pnl}, "a", 100, 0.95, 1)["b"]
        assert row["low"] == pytest.approx(-0.25, abs=1e-9)
        assert row["high"] == pytest.approx(-0.25, abs=1e-9)


def test_backtest_shows_saved_policies_beside_the_baselines(finished, tmp_path):
    """Identity: the same policy on the same paths as `evaluate`; labels of one's own; a wrong task is told at once."""
    _, policy = finished
    quick = [
        *("task.backend=numpy", "baselines=[none,delta]", "bootstrap=100", "n_paths=100", "market=black_scholes"),
        *("data=none", "task.hedge_options=[]", "task.n_steps=6"),
    ]

    def configured_backtest(*overrides: str) -> BacktestConfig:
        with initialize_config_module("hedgerl.conf", version_base="1.3"):
            typed = OmegaConf.to_object(compose("backtest", overrides=[*quick, *overrides]))
        assert isinstance(typed, BacktestConfig)
        return typed

    config = configured_backtest(f'agents=["{policy}",{{path:"{policy}",label:mine}}]')
    (study,) = backtest.run(config, tmp_path)
    assert list(study.results) == ["PPO-LSTM", "mine", "none", "delta"]
    task = next(iter(backtest.plan(config).tasks.values()))
    direct = evaluate(Agent.load(policy), task, n_paths=100, seed=1)
    np.testing.assert_array_equal(study.results["mine"].pnl, direct.pnl)
    for overrides, message in (
        (
            [f'agents=["{policy}"]', "task=option_book"],
            "PPO-LSTM was trained for the task ShortOption, this",
        ),
        (
            [f'agents=["{policy}"]', "task.quantity=5"],
            "was trained for a book of 100 shares, this task's is 5",
        ),
        (["agents=[nothing_of_that_name]"], "nothing_of_that_name"),
        (["agents=[3]"], "agents must be names of saved policies, or paths to them, got 3"),
        ([f'agents=[{{path:"{policy}",label:delta}}]'], "agents must have labels of their own, got delta twice"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            backtest.plan(configured_backtest(*overrides))


def test_acting_is_the_agent(finished):
    """Twin: what validation lets act is what the bundle does, action by action."""
    agent = Agent.load(finished[1])
    acting = Acting(agent.module, agent.interface)
    rng, states = np.random.default_rng(1), [None, None]
    for _ in range(3):
        seen = rng.normal(size=(5, len(agent.card.observation.columns(agent.task)))).astype(np.float32)
        (first, states[0]), (second, states[1]) = acting.predict(seen, states[0]), agent.predict(seen, states[1])
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_reward_itself_is_the_objective(agent, tmp_path, no_report, capsys):
    """Identity: validation, test and the interval against every baseline are of the reward, on the paths of the test.

    Catches terms of other paths than the P&L beside them, and a learner that minimises something else.
    """
    weights = ["reward.weights.turnover=0.01", "reward.pnl_weight=0.1"]
    config = configured(agent, "objective.name=reward", "reward=cvar", "reward.lam=0.5", *weights)
    folder = tmp_path / "run"
    train.run(config, folder)
    planned = train.plan(config)
    card = Agent.load(folder / train.POLICY).card
    told = card.metrics["objective"]
    label = "minus the reward (cvar, w 1, lam 0.5, pnl_weight 0.1, turnover 0.01)"
    assert (told["name"], told["label"], told["unit"]) == ("reward", label, "of the reward of an episode")
    assert f"{label} on the test paths, less is better" in capsys.readouterr().out
    assert told["validation"] == min(pd.read_csv(folder / "validation.csv")["objective"])
    test = FixedPaths(planned.task, config.n_paths, config.test_seed, planned.objective, "evaluation")
    own = test.score(Agent.load(folder / train.POLICY)).value
    assert told["test"] == pytest.approx(own, rel=1e-6)
    assert set(card.metrics["against"]) == {"none", "delta", "tuned band"}
    row = card.metrics["against"]["delta"]["objective"]
    assert row["difference"] == pytest.approx(own - test.score(Delta()).value, rel=1e-5)
    assert row["low"] <= row["difference"] <= row["high"]


@pytest.mark.parametrize("loss", ["abs", "mse", "cvar", "entropic", "mean_std"])
def test_goal_of_the_reward_by_hand(loss):
    """Identity: from the record of the episodes, by the formulas of this test. Catches a unit off by the notional."""
    task = ShortOption(market=BlackScholes(volatility=0.2, spot=50.0), quantity=10.0, n_steps=4)
    scale = None if loss == "cvar" else 2.0
    reward = Reward(
        loss=loss, w=0.3, lam=0.7, pnl_weight=0.2, alpha=0.9, risk_aversion=1e-3, weights={"turnover": 0.1}, scale=scale
    )
    goal = Goal.of_reward(reward, task)
    score = FixedPaths(task, 200, 3, goal).score(Delta())
    scenario = task.scenario(200, drawn_seed(seed_sequence(3, "validation", 0)))
    record = roll_out(Delta(), task, scenario)
    money = 50.0 * 10.0 * 1e-6 if scale is None else 2.0
    loss_of = -record.pnl / money
    cost = np.stack(list(record.costs.values())).sum(0)
    gross = np.diff(record.wealth, axis=0) + cost[1:]  # wealth is after the trade of its step
    deviation = {"abs": abs(gross / money).sum(0), "mse": ((gross / money) ** 2).sum(0)}.get(loss, np.zeros(200))
    traded = (abs(record.trades) * scenario.mid[:-1]).sum((0, 2))
    linear = 0.7 * cost.sum(0) / money + 0.1 * traded / money + 0.2 * loss_of + 0.3 * deviation
    np.testing.assert_allclose(score.linear, linear, rtol=1e-9, atol=1e-9 * abs(linear).max())
    risk = {
        "cvar": np.sort(loss_of)[-20:].mean(),
        "entropic": np.log(np.exp(1e-3 * loss_of).mean()) / 1e-3,
        "mean_std": loss_of.mean() + 1e-3 * loss_of.std(),
    }.get(loss, 0.0)
    assert score.value == pytest.approx(linear.mean() + 0.3 * risk, rel=1e-9)
    assert goal(score.pnl, score.linear) == score.value
    in_money = goal.in_money(task)(record.pnl, score.linear)
    assert in_money == pytest.approx(score.value, rel=1e-9)


def test_band_of_a_reward_is_fitted_to_the_nearest_objective():
    """Catches a band that is fitted to risk alone where the reward weighs cost a hundred times as much."""
    task = ShortOption(market=BlackScholes(volatility=0.2))

    def fitted(**changes) -> Objective:
        return Goal.of_reward(Reward(**changes), task).in_money(task).for_band(21)

    assert fitted(loss="cvar", w=1.0, lam=0.0, alpha=0.9) == Objective("cvar", 0.9)
    costly = fitted(loss="cvar", w=0.01, lam=1.0)
    assert costly.parameter == pytest.approx(2.0627 * 0.01 / 1.01, rel=1e-3)
    assert fitted(loss="mse") == Objective("variance")
    assert fitted(loss="abs", lam=0.0) == Objective("variance")
    assert fitted(loss="abs", w=2.0, lam=4.0).parameter == pytest.approx(0.5 * math.sqrt(42 / math.pi))
    assert fitted(loss="mean_std", w=1.0, lam=1.0, risk_aversion=1.5) == Objective("mean_std", 0.75)
    entropic = fitted(loss="entropic", risk_aversion=1e-4)  # 1 per 100 of initial spot x size
    assert entropic.parameter == pytest.approx(Goal("entropic", 1.0).in_money(task).level, rel=1e-12)


def test_a_reward_needs_its_terms():
    """Catches a goal that quietly judges P&L alone."""
    task = ShortOption(market=BlackScholes(volatility=0.2))
    with pytest.raises(ValueError, match="linear must be given where the objective is the reward"):
        Goal.of_reward(Reward(), task)(np.zeros(3))
    with pytest.raises(ValueError, match="reward must be given where the objective is the reward only"):
        Goal("reward")
    with pytest.raises(ValueError, match=r"objective\.parameter must be null where objective\.name is reward, got 0.9"):
        train.plan(configured("sac", "objective.name=reward", "objective.parameter=0.9"))
    with pytest.raises(ValueError, match="reward must give a weight to P&L or to one of its terms"):
        train.plan(configured("deep_hedging", "objective.name=reward", "reward.w=0", "reward.lam=0"))


def test_a_run_for_the_reward_is_continued(tmp_path, monkeypatch, no_report):
    """Twin: stopped in the third iteration, in a stage of a curriculum, and continued: the same weights and moments.

    Catches thresholds or moments of the reward that a checkpoint lacks.
    """
    threads = f"threads={torch.get_num_threads()}"
    config = configured("deep_hedging", "objective.name=reward", "reward=cvar", "curriculum=ramp", threads)
    train.run(config, tmp_path / "whole")
    real = train._Trainer.iterate

    def iterate(self, learner, stage):
        if self.progress.iteration == 2:
            signal.raise_signal(signal.SIGINT)
        real(self, learner, stage)

    monkeypatch.setattr(train._Trainer, "iterate", iterate)
    with pytest.raises(KeyboardInterrupt):
        train.run(config, tmp_path / "stopped")
    monkeypatch.setattr(train._Trainer, "iterate", real)
    train.run(config, tmp_path / "stopped", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "stopped")
    states = [checkpoint.load(tmp_path / name)["learner"]["criterion"] for name in ("whole", "stopped")]
    assert states[0]["_extra_state"] == states[1]["_extra_state"]
    assert states[0]["_extra_state"]["episodes"] == 6 * 64
