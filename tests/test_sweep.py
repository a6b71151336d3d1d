"""`hedgerl sweep`: from a search space to a tested front."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil

import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import hedgerl.conf
from hedgerl import cli, sweep
from hedgerl.agents.agent import Agent
from hedgerl.studies import front, picture, search, storage, trial
from hedgerl.sweep import SweepConfig
from hedgerl.train import TrainConfig

CONF = cli.Path(hedgerl.conf.__file__).parent
TINY = [
    *("market=black_scholes", "task.hedge_options=[]", "task.n_steps=6", "task.backend=numpy", "threads=1"),
    *("baselines=[none,delta]", "n_paths=300", "bootstrap=100", "validation.n_paths=128", "startup=3"),
]
TRAINED = [
    *("search=deep_hedging", "agent.iterations=4", "validation.every=1", "checkpoint=2", "stop.startup=2"),
    "search.space={agent.batch_paths: [32, 64], agent.hidden: [[8], [4, 4]], agent.learning_rate: null, "
    "agent.recurrent: null}",
]


def configured(*overrides: str) -> SweepConfig:
    """The configuration of a command line."""
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        typed = OmegaConf.to_object(compose("sweep", overrides=sweep.hydra_overrides([*TINY, *overrides], [])))
    assert isinstance(typed, SweepConfig)
    return typed


def table(folder):
    return pd.read_csv(folder / sweep.TRIALS)


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """Without pictures, which take seconds; the studies of module scope have theirs."""
    monkeypatch.setattr(picture, "front_png", lambda *_, **__: b"")
    monkeypatch.setattr(picture, "front_html", lambda *_, **__: "")


@pytest.fixture(scope="module")
def band(tmp_path_factory):
    """A study of the tuned band by two workers."""
    folder = tmp_path_factory.mktemp("sweep") / "band"
    sweep.run(configured("n_trials=8", "workers=2"), folder, "hedgerl sweep ...")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of deep hedging, with an objective that any configuration has."""
    folder = tmp_path_factory.mktemp("sweep") / "trained"
    sweep.run(configured(*TRAINED, "n_trials=5", "objectives=[risk,cost,tail]"), folder)
    return folder


def test_what_a_study_leaves(band):
    """Behaviour: trials, front and pictures; one header, a row a trial, the configured band first."""
    names = {path.name for path in band.iterdir()}
    assert names >= {"journal.log", "trials.csv", "front.csv", "front.json", "front.png", "front.html", "test"}
    rows = table(band)
    assert rows["trial"].tolist() == list(range(8))
    assert set(rows["state"]) == {"COMPLETE"}
    assert (rows["baseline.scale"][0], rows["baseline.width"][0]) == (1.0, 0.05)
    assert list(rows.columns)[:6] == ["trial", "state", "risk", "cost", "baseline.scale", "baseline.width"]
    with open(band / "front.csv", newline="") as file:
        tested = list(csv.DictReader(file))
    assert {row["group"] for row in tested} == {"tuned band", "baseline"}
    kept = front.non_dominated(rows[["risk", "cost"]].to_numpy())
    assert [row["label"] for row in tested if row["group"] == "tuned band"] == [
        f"trial {number}" for number in rows[kept].sort_values(["risk", "cost"])["trial"]
    ]


def test_objectives_are_those_of_the_validation_paths(band):
    """Identity: a trial's values are the measures of its band on the validation paths, over the unhedged deviation."""
    row = table(band).iloc[3]
    config = search.trial_config(configured())
    hedge = {"name": "tuned_band", "scale": row["baseline.scale"], "width": row["baseline.width"]}
    again = trial.run({**config, "baselines": ["none"]}, hedge, ["risk", "cost"], "", {}, {})
    assert again["values"] == pytest.approx([row["risk"], row["cost"]], rel=1e-12)


def test_same_command_adds_nothing_and_more_trials_continue(band, tmp_path):
    """Behaviour: a finished study is not begun again; its tests are kept. Catches trials that are counted twice."""
    folder = tmp_path / "band"
    shutil.copytree(band, folder)
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "test").iterdir()}
    sweep.run(configured("n_trials=8", "workers=1"), folder)
    assert table(folder).equals(table(band))
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "test").iterdir()} == before
    sweep.run(configured("n_trials=10"), folder)
    assert table(folder)[:8].equals(table(band))
    assert len(table(folder)) == 10


def test_study_of_agents_keeps_their_policies(trained):
    """Behaviour: every trial that ended well has a policy that loads and acts, of its own hyperparameters."""
    rows = table(trained)
    assert set(rows["state"]) <= {"COMPLETE", "PRUNED"}
    complete = rows[rows["state"] == "COMPLETE"]
    assert len(complete) >= 2
    for _, row in complete.iterrows():
        card = Agent.load(trained / row["policy"]).card
        config = card.training["config"]
        assert config["agent"]["hidden"] == json.loads(row["agent.hidden"])
        assert config["reward"]["lam"] == row["reward.lam"]
    assert not list(trained.glob("trials/*/checkpoints"))
    assert list(complete["policy"])[0].startswith("trials/0000")
    content = json.loads((trained / "front.json").read_text())
    assert content["objectives"] == ["risk", "cost", "tail"]


def test_hopeless_trials_are_stopped_at_equal_budget(tmp_path, monkeypatch):
    """Behaviour: a trial behind all earlier ones in every objective ends early, is told as pruned with what it had
    reached, and is never on the front."""
    real = trial._Known.measured

    def worse_each_time(self, score, objectives):
        calls.append(1)
        return [value + 10.0 * (trial_number[0] >= 4) for value in real(self, score, objectives)]

    calls: list[int] = []
    trial_number = [0]
    folders = []
    fit = trial.fit

    def numbered(config, folder, watch=None):
        trial_number[0] = int(folder.name)
        folders.append(folder.name)
        return fit(config, folder, watch)

    monkeypatch.setattr(trial._Known, "measured", worse_each_time)
    monkeypatch.setattr(trial, "fit", numbered)
    planned = sweep.plan(configured(*TRAINED, "window=1", "stop.warmup=0.3"))
    from hedgerl.studies.workers import InlinePool

    with storage.exclusive(tmp_path):
        study = search.conduct(planned, tmp_path, "s", InlinePool(), 6).study
    states = [each.state.name for each in study.trials]
    assert states == ["COMPLETE"] * 4 + ["PRUNED"] * 2
    outcome = study.trials[5].user_attrs["outcome"]
    assert outcome["stopped"] == 2  # of 4 iterations: the first validation after the warm-up
    assert outcome["values"][0] > 9.0
    assert not (tmp_path / "trials" / "0005" / "policy").exists()
    assert {each.number for each in study.best_trials} <= {0, 1, 2, 3}


def test_interrupted_trial_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    """Twin: a training that is cut off in the middle of a trial and tried again ends with the same values, reports and
    weights as one that was left alone. Catches a trial that starts over, or forgets its reports."""
    from hedgerl import train

    config = {**search.trial_config(configured(*TRAINED)), "baselines": ["none"]}
    arguments = (config, None, ["risk", "cost"])
    stop = {"rule": "none"}
    whole = trial.run(*arguments, str(tmp_path / "whole"), stop, {})
    iterate, count = train._Trainer.iterate, [0]

    def cut(self, learner, stage):
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        iterate(self, learner, stage)

    monkeypatch.setattr(train._Trainer, "iterate", cut)
    with pytest.raises(KeyboardInterrupt):
        trial.run(*arguments, str(tmp_path / "cut"), stop, {})
    again = trial.run(*arguments, str(tmp_path / "cut"), stop, {})
    assert count[0] == 6  # 3 + 1 cut + 2 after the checkpoint of iteration 2
    assert again["values"] == whole["values"]
    assert [list(row) for row in again["reports"]] == [list(row) for row in whole["reports"]]
    weights = [(tmp_path / name / "policy" / "weights.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_warm_start_tries_the_best_of_another_study_first(band, tmp_path):
    """Behaviour: the front of an earlier study is tried afresh, as far as the space has it."""
    space = "search.space={baseline.scale: {low: 0.5, high: 4.0}, baseline.width: {low: 0.0, high: 0.5}}"
    planned = sweep.plan(configured(space, f"warm_start=[{band}]"))
    rows = table(band)
    best = rows[front.non_dominated(rows[["risk", "cost"]].to_numpy())]
    tried = [each.get("baseline.scale") for each in planned.first[1:]]
    assert tried
    assert set(tried) <= set(best["baseline.scale"])
    assert all(each.get("baseline.width", 0.0) <= 0.5 for each in planned.first)
    with pytest.raises(ValueError, match="warm_start must name folders of studies"):
        sweep.plan(configured(f"warm_start=[{tmp_path}]"))
    with pytest.raises(ValueError, match="warm_start must name studies of the objectives cvar_99"):
        sweep.plan(configured(f"warm_start=[{band}]", "objectives=[cvar_99]"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objectives=[risk,coast]"], "objectives must be among .* got 'coast'; the nearest is 'cost'"),
        (["objectives=[]"], "objectives must be"),
        (["search=own"], "search.space must name at least one key"),
        (
            ["search.space={baseline.scale: null, baseline.width: null, baseline.sclae: {low: 1.0, high: 2.0}}"],
            "baseline.sclae = 1.0: parameter of tuned_band",
        ),
        (
            ["search=own", "search.space={task.n_step: {low: 1, high: 2}}"],
            "unknown key task.n_step; did you mean task.n_steps?",
        ),
        (
            ["search=own", "search.space={validation.n_paths: {low: 1, high: 200}}"],
            "validation.n_paths = 1: validation.n_paths must",
        ),
        (["search.baseline=tuned_bnad"], "tuned_band"),
        (["sampler=cma"], "sampler must be one of"),
        (["workers=9"], "workers must be at most window = 8, got 9"),
        (["n_trials=0"], "n_trials must be"),
        (["stop.rule=median"], "stop.rule must be front or none for 2 objectives"),
        (["seed=null"], "seed must be a number for a study"),
        (["reference=[1.0]"], "reference must have a number for each of risk, cost"),
        (["storage=here"], "storage must be null or a database's URL"),
        (["devices=[0]"], "devices must be numbers of GPUs, of which there are 0"),
        (["device=cuda:1"], "device must be auto, cpu or cuda where workers see a GPU each, got 'cuda:1'"),
    ],
)
def test_wrong_settings_end_before_any_trial(tmp_path, overrides, message):
    """Behaviour: what is wrong is named, and no trial is begun."""
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        sweep.run(configured(*overrides), tmp_path / "study")
    assert not (tmp_path / "study" / sweep.TRIALS).exists()


def test_another_search_space_needs_another_name(band, tmp_path):
    """Behaviour: the same folder with another space is refused, and left as it was."""
    folder = tmp_path / "band"
    shutil.copytree(band, folder)
    before = (folder / "journal.log").read_bytes()
    with pytest.raises(
        ValueError, match="is of another space: space.baseline.width was .* give this one a name of its own"
    ):
        sweep.run(configured("search.space={baseline.width: {low: 0.0, high: 0.5}}"), folder)
    with pytest.raises(ValueError, match="is of another config: config.market.volatility was"):
        sweep.run(configured("market.volatility=0.3"), folder)
    assert (folder / "journal.log").read_bytes() == before


def test_one_objective_is_a_study_too(tmp_path):
    """Behaviour: a single objective with the median rule; its best trial is tested."""
    sweep.run(configured("objectives=[mean_std]", "n_trials=4", "stop.rule=median", "timeout=600"), tmp_path)
    content = json.loads((tmp_path / "front.json").read_text())
    assert content["labels"][1:] == ["none", "delta"]
    assert len(table(tmp_path)) == 4


def test_sweep_yaml_has_every_key():
    """Catches a key of hedgerl sweep whose default lives in the code alone, and defaults that differ."""
    keys = yaml.safe_load((CONF / "sweep.yaml").read_text())
    own = {item.name for item in dataclasses.fields(SweepConfig)} - {
        item.name for item in dataclasses.fields(TrainConfig)
    }
    assert set(keys) - {"defaults", "hydra"} == own - {"search"}
    for item in dataclasses.fields(SweepConfig):
        if item.name in own - {"search", "study", "stop"}:
            default = item.default if item.default is not dataclasses.MISSING else item.default_factory()
            assert keys[item.name] == default
    assert keys["stop"] == dataclasses.asdict(sweep.StopConfig())


@pytest.mark.parametrize("name", ["tuned_band", "deep_hedging", "ppo_lstm", "sac"])
def test_shipped_searches_mean_something(name):
    """Catches a search preset with a key that its agent does not have."""
    planned = sweep.plan(configured(f"search={name}"))
    assert planned.first
    assert (planned.baseline is None) is (name != "tuned_band")
