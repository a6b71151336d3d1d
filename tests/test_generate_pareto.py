"""`hedgerl generate-pareto`: a grid of reward weights, trained, tested and drawn."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import hedgerl.conf
from hedgerl import generate_pareto, train
from hedgerl.agents.agent import Agent
from hedgerl.evaluation import evaluate
from hedgerl.generate_pareto import ParetoConfig
from hedgerl.studies import cell, front, picture
from hedgerl.train import TrainConfig

CONF = Path(hedgerl.conf.__file__).parent
TINY = [
    *("market=black_scholes", "task.hedge_options=[]", "task.n_steps=6", "task.backend=numpy", "threads=1"),
    *("baselines=[none,delta,tuned_band]", "n_paths=300", "bootstrap=100", "validation.n_paths=128"),
    *("tuning.n_paths=100", "agent.iterations=4", "agent.batch_paths=64", "validation.every=2", "checkpoint=2"),
    *("loss=[abs,cvar]", "w=[0.01]", "lam=[0.1]", "seeds=[1,2]", "agent.hidden=[8]", "band.n_trials=4"),
    *(
        "hpo.n_trials=2",
        "hpo.iterations=2",
        "hpo.space={agent.learning_rate: {low: 0.001, high: 0.01}, agent.hidden: null, agent.batch_paths: null}",
    ),
    "hpo.space={agent.recurrent: null}",
]


def configured(*overrides: str) -> ParetoConfig:
    """The configuration of a command line."""
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        typed = OmegaConf.to_object(
            compose("generate_pareto", overrides=generate_pareto.hydra_overrides([*TINY, *overrides], []))
        )
    assert isinstance(typed, ParetoConfig)
    return typed


def raw(folder):
    return pd.read_csv(folder / generate_pareto.RAW)


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """Without pictures, which take seconds; the studies of module scope have theirs."""
    monkeypatch.setattr(picture, "front_png", lambda *_, **__: b"")
    monkeypatch.setattr(picture, "front_html", lambda *_, **__: "")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Two losses with two seeds, by two workers."""
    folder = tmp_path_factory.mktemp("pareto") / "grid"
    generate_pareto.run(configured("workers=2"), folder)
    return folder


def test_what_a_grid_leaves(grid):
    """Behaviour: a row for each cell and seed under one header, with intervals, and a policy each that loads."""
    rows = raw(grid)
    assert rows["cell"].tolist() == [f"{a}-w0.01-lam0.1-seed{b}" for a in ("abs", "cvar") for b in (1, 2)]
    assert set(rows["status"]) == {"finished"}
    for name in front.OBJECTIVES:
        assert (rows[f"{name}_low"] <= rows[name]).all()
        assert (rows[name] <= rows[f"{name}_high"]).all()
    assert (rows["seconds"] > 0).all()
    text = (grid / generate_pareto.RAW).read_text()
    assert text.count("cell,status") == 1
    for _, row in rows.iterrows():
        card = Agent.load(grid / row["policy"]).card
        assert card.seed == row["seed"]
        assert card.training["config"]["reward"]["loss"] == row["loss"]
        assert card.training["config"]["agent"]["learning_rate"] == json.loads(row["parameters"])["agent.learning_rate"]
    names = {path.name for path in grid.iterdir()}
    assert names >= {"pareto_raw.csv", "pareto.csv", "pareto.json", "pareto.png", "pareto.html", "cells", "band"}
    content = json.loads((grid / "pareto.json").read_text())
    assert set(content["hypervolume"]) == {"learned", "tuned band", "baseline"}
    assert set(content["difference"]) == {"tuned band", "baseline"}


def test_rows_are_what_the_policy_does_on_the_test_paths(grid):
    """Identity: hedgerl.evaluate on the saved policy, n_paths and test_seed give the row's numbers."""
    row = raw(grid).iloc[3]
    config = configured()
    agent = Agent.load(grid / row["policy"])
    result = evaluate(agent, agent.task, n_paths=config.n_paths, seed=config.test_seed)
    unit = result.episodes["unhedged"].std(ddof=1)
    assert row["risk"] == pytest.approx(result.metrics["sd"] / unit, rel=1e-9)
    assert row["cost"] == pytest.approx(result.metrics["cost"] / unit, rel=1e-9)
    assert row["tail"] == pytest.approx(result.metrics["cvar_95"] / unit, rel=1e-9)


def test_rerun_fills_what_is_missing_and_keeps_the_rest(grid, tmp_path):
    """Behaviour: a lost cell and a new seed are trained, the others are not touched; a lost cell comes out the same."""
    folder = tmp_path / "grid"
    shutil.copytree(grid, folder)
    lost = folder / "cells" / "abs-w0.01-lam0.1-seed2"
    shutil.rmtree(lost)
    others = {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/result.json")}
    generate_pareto.run(configured("seeds=[1,2,3]"), folder)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in others.items())
    rows, before = raw(folder), raw(grid)
    assert len(rows) == 6
    assert set(rows["status"]) == {"finished"}
    again = rows.merge(before, on="cell", suffixes=("", "_before"))
    assert len(again) == 4
    assert np.array_equal(again["risk"], again["risk_before"])
    assert np.array_equal(again["cost"], again["cost_before"])


def test_cell_that_fails_leaves_its_error_and_the_others(tmp_path):
    """Behaviour: weights that diverge are a row with an error; the same command tries them again."""
    huge = "hpo.space={agent.learning_rate: {low: 1.0e+30, high: 1.0e+33}}"
    config = configured(huge, "loss=[abs]", "seeds=[1]", "divergence=1.1", "hpo.n_trials=1")
    with pytest.raises(ValueError, match=r"every cell failed, the last one of .*no trial of the search of settings"):
        generate_pareto.run(config, tmp_path)
    rows = raw(tmp_path)
    assert rows["status"].tolist() == ["failed"]
    assert "no trial of the search of settings has ended well" in rows["error"][0]
    assert (tmp_path / "cells" / rows["cell"][0] / "log.txt").is_file()


def test_another_grid_of_another_configuration_is_refused(grid, tmp_path):
    """Behaviour: the key that differs is named and nothing is touched."""
    folder = tmp_path / "grid"
    shutil.copytree(grid, folder)
    with pytest.raises(ValueError, match=r"is of another configuration: agent\.iterations was 4, now 5"):
        generate_pareto.run(configured("agent.iterations=5"), folder)
    assert raw(folder).equals(raw(grid))


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(tmp_path):
    """Twin: kill -9 of the command, then the same command: every cell as in an undisturbed run, none trained twice."""
    arguments = [*TINY, "seeds=[1,2,3]", "loss=[abs]", "band.n_trials=0", "agent.iterations=30", "workers=2"]
    program = [sys.executable, "-m", "hedgerl.cli", "generate-pareto", *arguments]
    folder = tmp_path / "runs" / "pareto"
    with subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as command:
        while not list(folder.glob("cells/*/result.json")):
            assert command.poll() is None
            time.sleep(0.02)
        command.send_signal(signal.SIGKILL)
    done = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}
    assert 1 <= len(done) < 3
    subprocess.run(program, cwd=tmp_path, check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())
    whole = tmp_path / "whole"
    generate_pareto.run(configured(*arguments[len(TINY) : -1], "workers=1"), whole)
    assert raw(folder)["risk"].equals(raw(whole)["risk"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss=[abs,cvarr]"], "loss must be among .* got 'cvarr'; the nearest is 'cvar'"),
        (["w=[]"], "w must be a list of different values"),
        (["w=[1.0,1.0]"], "w must be a list of different values"),
        (["lam=[-1.0]"], "lam must not be negative"),
        (["objectives=[risk]"], "objectives must be 2 to"),
        (["reference=[1.0]"], "reference must have a number"),
        (["data=sp500"], "data must be none"),
        (["hpo.space={agent.learning_rate: null}"], "search.space must name"),
        (["hpo.space={agent.lstm: {low: 1, high: 2}}"], "unknown key agent.lstm"),
        (["band.space={baseline.wdith: {low: 0.0, high: 1.0}}"], "parameter of tuned_band must be a known one"),
        (["workers=0"], "workers must be"),
    ],
)
def test_wrong_settings_end_before_anything_is_trained(tmp_path, overrides, message):
    """Behaviour: what is wrong is named, and nothing is written."""
    with pytest.raises(ValueError, match=message):
        generate_pareto.run(configured(*overrides), tmp_path / "grid")
    assert not (tmp_path / "grid").exists()


def test_yaml_has_every_key_and_the_classic_grid():
    """Catches a key whose default lives in the code alone, and a grid that is not 3 x 8 x 3."""
    keys = yaml.safe_load((CONF / "generate_pareto.yaml").read_text())
    own = {item.name for item in dataclasses.fields(ParetoConfig)} - {
        item.name for item in dataclasses.fields(TrainConfig)
    }
    assert set(keys) - {"defaults", "hydra", "objective"} == own
    assert (len(keys["loss"]), len(keys["w"]), len(keys["lam"])) == (3, 8, 3)
    assert keys["hpo"] == {
        key: value for key, value in dataclasses.asdict(generate_pareto.HPOConfig()).items() if key != "space"
    }
    assert keys["band"] == {
        key: value for key, value in dataclasses.asdict(generate_pareto.BandSearchConfig()).items() if key != "space"
    }


@pytest.mark.parametrize("agent", ["ppo_lstm", "sac", "deep_hedging"])
def test_any_agent_has_a_grid(agent):
    """Behaviour: the search of settings is the agent's own. Catches a space of another agent's keys."""
    more = {"ppo_lstm": ["agent.hidden=[8]"], "sac": [], "deep_hedging": []}[agent]
    base = [item for item in TINY if not item.startswith(("agent.batch_paths", "hpo.space"))]
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        typed = OmegaConf.to_object(compose("generate_pareto", overrides=[*base, f"agent={agent}", *more]))
    planned = generate_pareto.plan(typed)
    assert len(planned.cells) == 4
    assert planned.cells[0].config["agent"]["name"] == agent
    assert set(typed.hpo.space) == set(yaml.safe_load((CONF / "space" / f"{agent}.yaml").read_text()))


def test_cell_is_finished_only_when_all_of_it_is_there(grid, tmp_path):
    """Catches a half-written cell that counts."""
    source = next((grid / "cells").iterdir())
    assert cell.finished(source) is not None
    for name in (cell.RESULT, cell.TEST, train.POLICY):
        folder = tmp_path / name
        shutil.copytree(source, folder)
        gone = folder / name
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        assert cell.finished(folder) is None
    (tmp_path / cell.TEST / cell.RESULT).write_text("{")
    assert cell.finished(tmp_path / cell.TEST) is None
    with open(grid / generate_pareto.RAW, newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
