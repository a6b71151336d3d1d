"""Runs and saved policies in MLflow: one store, versions, champion and challenger."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from hedgerl import backtest, train
from hedgerl.agents import registry
from hedgerl.agents.agent import Agent
from hedgerl.agents.bundle import Card, save_bundle
from hedgerl.agents.hedge_network import HedgeNetwork
from hedgerl.agents.registry import Store, Verdict
from hedgerl.backtest import BacktestConfig
from hedgerl.envs import Reward, ShortOption, Task
from hedgerl.evaluation import evaluate
from hedgerl.report import table
from hedgerl.sim import BlackScholes
from hedgerl.train import TrainConfig
from hedgerl.training.champion import Contender
from hedgerl.training.fixed_paths import Goal, linear_terms, paired_intervals
from hedgerl.training.settings import TrackingConfig

pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")
pytest.importorskip("alembic")

TINY = [
    *("market=black_scholes", "task.hedge_options=[]", "task.n_steps=6", "task.backend=numpy"),
    *("baselines=[none,delta]", "n_paths=300", "bootstrap=100", "validation.n_paths=128", "validation.every=2"),
    *("checkpoint=2", "agent=deep_hedging", "agent.iterations=6", "agent.batch_paths=64", "agent.hidden=[8]"),
    *("tracking=mlflow", "tracking.tensorboard=false"),
]
TASK = ShortOption(market=BlackScholes(volatility=0.2), n_steps=6, backend="numpy")
MODEL = "hedgerl-short_option"
MAKE = registry._make


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A store as MLflow makes it, which takes seconds."""
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    registry._make(file)
    return file


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, empty):
    """A current directory of its own, whose name needs quoting, and no store but the default."""
    monkeypatch.setattr(registry, "_make", lambda file: shutil.copy(empty, file))
    folder = tmp_path / "a b%c#d"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture
def no_report(monkeypatch):
    """Without the report's charts, which take seconds."""

    def written(studies, folder, **_):
        (folder / "report.html").write_text(table(studies))
        return folder / "report.html"

    monkeypatch.setattr(train, "write_report", written)


def configured(*overrides: str) -> TrainConfig:
    """The configuration of a command line."""
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        typed = OmegaConf.to_object(compose("train", overrides=[*TINY, *overrides]))
    assert isinstance(typed, TrainConfig)
    return typed


def contender(folder: Path, offset: float, task: Task = TASK, goal: Goal | None = None) -> Contender:
    """A saved policy that holds `offset` of the book more than the delta: the further, the worse."""
    network = HedgeNetwork.for_task(task, hidden=(4,))
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias[0] = offset
    goal = goal or Goal("cvar", 0.95)
    metrics = {"objective": {"name": goal.name, "parameter": goal.level}}
    card = Card(
        task=task,
        observation=network.interface.observation,
        action=network.interface.action,
        name=f"offset {offset}",
        seed=0,
        commit="abc",
        metrics=metrics,
        training={} if goal.reward is None else {"config": {"reward": dataclasses.asdict(goal.reward)}},
    )
    agent = Agent.load(save_bundle(folder / "policy", network, card))
    pnl = evaluate(agent, task, n_paths=300, seed=3).pnl
    linear = linear_terms({"": agent}, task, goal, 300, 3)
    return Contender(
        folder / "policy", task, "a market", goal, pnl, seed=3, resamples=100, linear=linear and linear[""]
    )


def registered(store: Store, policy: Contender, promote: str = "auto") -> Verdict:
    """What becomes of a policy."""
    run = store.new_run("test", policy.bundle.parent.name)
    store.client.log_artifacts(run, str(policy.bundle), "policy")
    return store.register(policy.model, run, "policy", policy.tags, policy.against, promote)


def aliases() -> dict[str, int]:
    return Store.open().aliases(MODEL)


def test_champion_is_beaten_only_beyond_chance(tmp_path):
    """Behaviour: first is champion; worse and equal ones are challengers; a better one takes its place.

    Catches a champion by the sign of a difference alone, one that loses its place to a worse one, and a champion that
    is its own challenger.
    """
    store = Store.open(create=True)
    first = registered(store, contender(tmp_path / "1", 0.1))
    assert (first.version, first.alias, first.difference) == (1, "champion", None)
    assert aliases() == {"champion": 1}

    worse = registered(store, contender(tmp_path / "2", 0.3))
    assert (worse.version, worse.alias, worse.against) == (2, "challenger", 1)
    assert worse.difference is not None
    assert worse.difference.low > 0.0
    assert aliases() == {"champion": 1, "challenger": 2}

    equal = registered(store, contender(tmp_path / "3", 0.1))
    assert equal.difference is not None
    assert (equal.difference.difference, equal.difference.high) == (0.0, 0.0)
    assert aliases() == {"champion": 1, "challenger": 3}

    never = registered(store, contender(tmp_path / "4", 0.0), promote="never")
    assert never.reason.endswith("better, but tracking.promote=never")
    assert aliases() == {"champion": 1, "challenger": 4}

    better = registered(store, contender(tmp_path / "5", 0.0))
    assert (better.version, better.alias, better.against) == (5, "champion", 1)
    assert better.difference is not None
    assert better.difference.high < 0.0
    assert aliases() == {"champion": 5, "former_champion": 1}
    tags = store.client.get_model_version(MODEL, "5").tags
    assert (tags["verdict"], tags["against_version"], tags["high"]) == ("champion", "1", repr(better.difference.high))
    assert str(better).startswith(f"{MODEL} version 5 is champion: CVaR 95 % -")
    assert "\n" not in str(better)
    assert Agent.load(f"models:/{MODEL}@champion").card.name == "offset 0.0"
    assert Agent.load(f"models:/{MODEL}@former_champion").card.name == "offset 0.1"
    assert Agent.load(f"models:/{MODEL}/2").card.name == "offset 0.3"


def test_difference_is_on_the_test_paths(tmp_path):
    """Identity: the verdict is `paired_intervals` of both on the same paths. Catches a champion on paths of its own."""
    store = Store.open(create=True)
    one, two = contender(tmp_path / "1", 0.1), contender(tmp_path / "2", 0.2)
    registered(store, one)
    met = registered(store, two).difference
    pnl = {"new": two.pnl, "old": one.pnl}
    row = paired_intervals(two.objective, pnl, "new", two.resamples, 0.95, two.seed)["old"]
    assert met is not None
    assert (met.difference, met.low, met.high) == (row["difference"], row["low"], row["high"])


@pytest.mark.parametrize(
    ("other", "goal", "reason"),
    [
        (
            ShortOption(market=BlackScholes(volatility=0.3), n_steps=6, backend="numpy"),
            None,
            "task is another, in market",
        ),
        (ShortOption(market=TASK.market, n_steps=7, backend="numpy"), None, "its task is another, in n_steps"),
        (TASK, Goal("cvar", 0.9), "its objective is cvar 0.95, this one's cvar 0.9"),
        (TASK, Goal("variance"), "its objective is cvar 0.95, this one's variance 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_differs_is_not_compared(tmp_path, other, goal, reason):
    """Behaviour: a champion of another market, task or objective keeps its place, however good the newcomer is."""
    store = Store.open(create=True)
    registered(store, contender(tmp_path / "1", 0.3))
    verdict = registered(store, contender(tmp_path / "2", 0.0, other, goal))
    assert (verdict.alias, verdict.difference) == ("challenger", None)
    assert reason in verdict.reason
    assert aliases() == {"champion": 1, "challenger": 2}
    assert "difference" not in store.client.get_model_version(MODEL, "2").tags


def test_the_reward_as_objective(tmp_path):
    """Behaviour: minus the reward is compared where its keys are the same, and only there.

    Catches an objective of the same name with other weights.
    """
    store = Store.open(create=True)
    reward = Reward(loss="cvar", w=1.0, lam=0.5)
    registered(store, contender(tmp_path / "1", 0.3, goal=Goal.of_reward(reward, TASK)))
    other = dataclasses.replace(reward, lam=0.25)
    verdict = registered(store, contender(tmp_path / "2", 0.0, goal=Goal.of_reward(other, TASK)))
    assert verdict.reason == "not compared with version 1: its objective is another reward"
    verdict = registered(store, contender(tmp_path / "3", 0.0, goal=Goal.of_reward(reward, TASK)))
    assert (verdict.alias, verdict.against) == ("champion", 1)
    assert verdict.reason.startswith("minus the reward (cvar, w 1, lam 0.5) -")


def test_other_tasks_have_models_of_their_own(tmp_path):
    """Behaviour: names follow the task's, as the card has it; one model leaves the others alone."""
    store = Store.open(create=True)
    registered(store, contender(tmp_path / "1", 0.3))
    other = contender(tmp_path / "2", 0.0)
    run = store.new_run("test", "2")
    store.client.log_artifacts(run, str(other.bundle), "policy")
    assert store.register("hedgerl-option_book", run, "policy", other.tags, other.against, "auto").alias == "champion"
    assert aliases() == {"champion": 1}
    assert other.model == MODEL


@pytest.mark.parametrize("damage", ["weights", "gone"])
def test_a_champion_that_cannot_be_loaded_stays(tmp_path, damage, elsewhere):
    """Behaviour: said in one line; no promotion and no failure."""
    store = Store.open(create=True)
    registered(store, contender(tmp_path / "1", 0.3))
    (weights,) = (elsewhere / "runs").rglob("weights.safetensors")
    if damage == "gone":
        weights.with_name("card.json").unlink()
    weights.write_bytes(b"") if damage == "weights" else weights.unlink()
    verdict = registered(store, contender(tmp_path / "2", 0.0))
    assert verdict.reason.startswith("not compared with version 1: it cannot be loaded: ")
    assert "\n" not in str(verdict)
    assert aliases() == {"champion": 1, "challenger": 2}


def test_a_champion_that_changes_meanwhile_is_met(tmp_path, monkeypatch):
    """Behaviour: where no lock holds others off (a server), the new champion is compared before the alias moves."""
    monkeypatch.setattr(Store, "_alone", lambda self: registry.contextlib.nullcontext())
    store = Store.open(create=True)
    registered(store, contender(tmp_path / "1", 0.3))
    registered(store, contender(tmp_path / "2", 0.2), promote="never")
    late = contender(tmp_path / "3", 0.1)
    met = []

    class Slow(Contender):
        def against(self, version, folder):
            met.append(version)
            store.client.set_registered_model_alias(MODEL, "champion", "2")  # another training, at that moment
            return super().against(version, folder)

    slow = Slow(**{name: getattr(late, name) for name in late.__dataclass_fields__})
    verdict = registered(store, slow)
    assert met == [1, 2]
    assert (verdict.alias, verdict.against) == ("champion", 2)
    assert aliases() == {"champion": 3, "former_champion": 2}


AT_ONCE = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from test_tracking import Store, contender, registered
import mlflow
from mlflow.store.tracking import sqlalchemy_store
policy = contender(Path(sys.argv[1]), float(sys.argv[2]))
Path(sys.argv[1], "ready").touch()
while not Path(sys.argv[3]).exists():
    time.sleep(0.01)
store = Store.open(create=True)
run = store.new_run("hedgerl", sys.argv[2])
for step in range(20):
    store.log(run, metrics=[(f"m{i}", float(i), 0, step) for i in range(40)])
assert len(store.client.get_metric_history(run, "m0")) == 20
registered(store, policy)
"""


@pytest.mark.slow
def test_processes_at_once(tmp_path, elsewhere):
    """Behaviour: three trainings end together, on a store that none has made yet: one store, one champion, the best.

    Catches tables that two processes create, a locked database, and two champions of which neither met the other.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    go = tmp_path / "go"
    arguments = [str(go), str(Path(__file__).parent)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, str(tmp_path / offset), offset, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for offset in ("0.3", "0.1", "0.0")
    ]
    try:
        while not all((tmp_path / offset / "ready").exists() for offset in ("0.3", "0.1", "0.0")):
            assert all(each.poll() is None for each in running), [each.communicate() for each in running]
        go.touch()
        assert [each.communicate(timeout=300)[1] for each in running] == [""] * 3
    finally:
        for each in running:
            each.kill()
    assert [each.returncode for each in running] == [0] * 3
    assert Agent.load(f"models:/{MODEL}@champion").card.name == "offset 0.0"
    store = Store.open()
    met = [store.client.get_model_version(MODEL, str(each)).tags.get("against_version") for each in (1, 2, 3)]
    assert met.count(None) == 1  # the first; every other one has met a champion
    assert not [path for path in elsewhere.rglob("*") if "partial" in path.name]


def test_a_run_is_kept_and_its_policy_registered(elsewhere, no_report, capfd, monkeypatch):
    """Behaviour: parameters, curves, bundle and version in the one store of the current directory, and nothing else.

    Catches ./mlruns, a message of MLflow's on stderr, and a second store that a second run begins.
    """
    monkeypatch.setattr(registry, "_make", MAKE)
    policy = train.run(configured(), elsewhere / "runs" / "one")
    out, err = capfd.readouterr()
    assert f"registry: {MODEL} version 1 is champion: there was none" in out
    assert [line for line in err.splitlines() if "mlflow" in line.lower() or "alembic" in line.lower()] == []
    told = json.loads((elsewhere / "runs" / "one" / "mlflow_run.json").read_text())
    assert told["uri"] == f"sqlite:///{elsewhere}/runs/mlflow.db"
    store = Store.open()
    run = store.client.get_run(told["run_id"])
    assert (run.info.status, run.data.params["agent.iterations"]) == ("FINISHED", "6")
    assert [row.step for row in store.client.get_metric_history(told["run_id"], "validation/objective")] == [0, 2, 4, 6]
    assert [row.step for row in store.client.get_metric_history(told["run_id"], "time/seconds")] == [1, 2, 3, 4, 5, 6]
    assert "policy" in {item.path for item in store.client.list_artifacts(told["run_id"])}
    version = store.client.get_model_version(MODEL, "1")
    card = json.loads((policy / "card.json").read_text())
    assert version.run_id == told["run_id"]
    assert version.tags["sha256"] == card["sha256"]["weights"]
    assert float(version.tags["objective"]) == pytest.approx(card["metrics"]["objective"]["test"], rel=1e-12)
    assert {"objective_name", "market", "seed", "commit", "hedgerl", "run"} <= version.tags.keys()
    loaded = Agent.load(f"models:/{MODEL}@champion")
    for name, value in Agent.load(policy).module.state_dict().items():
        assert torch.equal(value, loaded.module.state_dict()[name])

    train.run(configured("seed=1"), elsewhere / "runs" / "two")
    assert f"registry: {MODEL} version 2 " in capfd.readouterr().out
    second = json.loads((elsewhere / "runs" / "two" / "mlflow_run.json").read_text())
    assert second["uri"] == told["uri"]
    assert store.client.get_run(second["run_id"]).data.tags["registry.against_version"] == "1"
    assert sorted(path.name for path in elsewhere.iterdir()) == ["runs"]
    names = {path.name for path in (elsewhere / "runs").iterdir() if not path.name.endswith(".lock")}
    assert names == {"mlflow.db", "mlflow_artifacts", "one", "two"}


def test_own_name_and_no_version(elsewhere, no_report):
    """Behaviour: tracking.model names the model; tracking.register=false makes none."""
    train.run(configured("tracking.model=mine"), elsewhere / "runs" / "one")
    train.run(configured("tracking.register=false"), elsewhere / "runs" / "two")
    store = Store.open()
    assert store.aliases("mine") == {"champion": 1}
    assert store.versions("mine") == [1]
    with pytest.raises(ValueError, match=f"there is no model '{MODEL}' in the store .*; it has mine"):
        store.aliases(MODEL)


def test_a_stopped_run_goes_on_as_one(elsewhere, tmp_path, monkeypatch, no_report):
    """Behaviour: one run and one version in MLflow, each iteration once, also when continued from another directory.

    Catches points that come twice after a resume, gaps, and a run that stays RUNNING for ever.
    """
    real = train._Trainer.iterate

    def iterate(self, learner, stage):
        if self.progress.iteration == 2:
            signal.raise_signal(signal.SIGINT)
        real(self, learner, stage)

    folder = elsewhere / "runs" / "one"
    monkeypatch.setattr(train._Trainer, "iterate", iterate)
    with pytest.raises(KeyboardInterrupt):
        train.run(configured(), folder)
    monkeypatch.setattr(train._Trainer, "iterate", real)
    told = json.loads((folder / "mlflow_run.json").read_text())
    store = Store.open()
    assert store.client.get_run(told["run_id"]).info.status == "KILLED"
    for path in (folder / "checkpoints").iterdir():  # as if killed before the last one: iteration 3 comes again
        if path.name == "iteration-0000003.pt":
            path.unlink()
    monkeypatch.chdir(tmp_path)
    train.run(train.configured(OmegaConf.load(folder / "config.yaml")), folder, resume=True)
    assert json.loads((folder / "mlflow_run.json").read_text()) == told
    assert store.client.get_run(told["run_id"]).info.status == "FINISHED"
    steps = [row.step for row in store.client.get_metric_history(told["run_id"], "time/seconds")]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert store.versions(MODEL) == [1]
    assert not (tmp_path / "runs").exists()

    train.run(train.configured(OmegaConf.load(folder / "config.yaml")), folder, resume=True)  # its end a second time
    assert (store.versions(MODEL), store.aliases(MODEL)) == ([1], {"champion": 1})


def test_a_failing_store_never_costs_the_policy(elsewhere, monkeypatch, no_report, capfd):
    """Behaviour: metrics that cannot be sent and a registry that is gone cost a line each, and no training."""
    real, calls = Store.log, []

    def log(self, run_id, **given):
        calls.append(given)
        if len(calls) == 2:
            raise OSError("the server is away")
        real(self, run_id, **given)

    def gone(self, *_):
        raise OSError("the registry is away\nfor long")

    monkeypatch.setattr(Store, "log", log)
    monkeypatch.setattr(Store, "register", gone)
    policy = train.run(configured(), elsewhere / "runs" / "one")
    err = capfd.readouterr().err
    assert err.count("tracking=mlflow: metrics are held back: the server is away") == 1
    assert "tracking=mlflow: the run is not complete in MLflow: the registry is away\n" in err
    Agent.load(policy)
    told = json.loads((elsewhere / "runs" / "one" / "mlflow_run.json").read_text())
    history = Store.open().client.get_metric_history(told["run_id"], "time/seconds")
    assert [row.step for row in history] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_the_store_forgot_begins_anew(elsewhere, monkeypatch, no_report, capfd):
    """Behaviour: a resumed run that was deleted in MLflow says so and has a new one. Catches a training that stops."""
    folder = elsewhere / "runs" / "one"
    train.run(configured(), folder)
    before = json.loads((folder / "mlflow_run.json").read_text())
    Store.open().client.delete_run(before["run_id"])
    train.run(train.configured(OmegaConf.load(folder / "config.yaml")), folder, resume=True)
    assert f"the store has no run {before['run_id']} any more; a new one begins" in capfd.readouterr().err
    after = json.loads((folder / "mlflow_run.json").read_text())
    assert after["run_id"] != before["run_id"]
    assert len(Store.open().client.get_metric_history(after["run_id"], "test/objective")) == 1


def test_registry_errors_name_what_there_is(tmp_path, monkeypatch, elsewhere):
    """Behaviour: one line each: what is not installed, no store, no model, no alias, no version, another form."""
    with pytest.raises(ValueError, match=r"there is no MLflow store at .*runs/mlflow.db; MLFLOW_TRACKING_URI names"):
        Agent.load(f"models:/{MODEL}@champion")
    assert not (elsewhere / "runs").exists()
    store = Store.open(create=True)
    with pytest.raises(ValueError, match="there is no model 'x' in the store .*; it has none yet"):
        Agent.load("models:/x@champion")
    registered(store, contender(tmp_path / "1", 0.3))
    registered(store, contender(tmp_path / "2", 0.3))
    has = rf"{MODEL} has the versions 1, 2 and the aliases challenger \(version 2\), champion \(version 1\)"
    for text, message in (
        ("models:/x@champion", f"there is no model 'x' in the store .*; it has {MODEL}"),
        ("models:/x/1", f"there is no model 'x' in the store .*; it has {MODEL}"),
        (f"models:/{MODEL}@champ", f"there is no models:/{MODEL}@champ: {has}"),
        (f"models:/{MODEL}/9", f"there is no models:/{MODEL}/9: {has}"),
        (f"models:/{MODEL}", "must be models:/NAME@ALIAS or models:/NAME/VERSION, got"),
        (f"models:/{MODEL}/latest", "must be models:/NAME@ALIAS or models:/NAME/VERSION, got"),
    ):
        with pytest.raises(ValueError, match=message):
            Agent.load(text)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    with pytest.raises(ValueError, match=r"there is no MLflow store at .*/elsewhere.db"):
        Agent.load(f"models:/{MODEL}@champion")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs MLflow, which is not installed: pip install 'hedgerl\[track\]'"):
        Agent.load(f"models:/{MODEL}@champion")


def test_environment_names_the_store(tmp_path, monkeypatch):
    """Behaviour: MLFLOW_TRACKING_URI holds for training and loading alike; tracking.uri goes before it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine/store.db")
    store = Store.open(create=True)
    registered(store, contender(tmp_path / "1", 0.3))
    assert store.uri == f"sqlite:///{Path.cwd()}/mine/store.db"
    assert list(Path("mine/mlflow_artifacts").rglob("card.json"))
    assert Agent.load(f"models:/{MODEL}@champion").card.name == "offset 0.3"
    assert Store.open("sqlite:///other.db", create=True).uri == f"sqlite:///{Path.cwd()}/other.db"


def test_tracking_is_checked():
    """Behaviour: a name that no models:/ can hold, and a rule that is none, fail at once."""
    with pytest.raises(ValueError, match="tracking.promote must be one of auto, never, got 'always'"):
        TrackingConfig(promote="always")
    for name in ("a/b", "a@b", "a:b", " "):
        with pytest.raises(ValueError, match="tracking.model must be a name without / : @, got "):
            TrackingConfig(model=name)


def test_backtest_takes_a_registered_policy(tmp_path):
    """Behaviour: agents=[models:/NAME@ALIAS] on a command line, unquoted; two of one name keep apart."""
    store = Store.open(create=True)
    registered(store, contender(tmp_path / "1", 0.3))
    quick = [
        *("task.backend=numpy", "baselines=[none,delta]", "n_paths=100", "market=black_scholes", "data=none"),
        *(
            "task.hedge_options=[]",
            "task.n_steps=6",
            "task.quantity=1",
            f"agents=[models:/{MODEL}@champion,models:/{MODEL}/1]",
        ),
    ]
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        typed = OmegaConf.to_object(compose("backtest", overrides=quick))
    assert isinstance(typed, BacktestConfig)
    assert list(backtest.plan(typed).agents) == ["offset 0.3", f"offset 0.3 (models:/{MODEL}/1)"]


def test_passwords_are_not_shown():
    """Catches a database's password in a message."""
    assert registry._shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
