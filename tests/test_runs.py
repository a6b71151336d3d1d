"""`hedgerl report`: what is read from the folders of runs, and what is said of them."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
import statistics
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from hedgerl import backtest, cli, runs, train
from hedgerl.agents.agent import Agent

BERGOMI = {"_target_": "hedgerl.sim.RoughBergomi", "hurst": 0.07, "spot": 100.0}
HESTON = {"_target_": "hedgerl.sim.Heston", "kappa": 2.0, "spot": 100.0}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("HEDGERL_DEBUG", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def trained(folder, seed=1, test=1.0, market=BERGOMI, agent=None, **more):
    """The files of a finished training that the table reads; as `train.run` leaves them."""
    folder = Path(folder)
    (folder / "policy").mkdir(parents=True)
    agent = agent or {"name": "sac", "iterations": 40, "learning_rate": 0.001}
    config = {"market": market, "agent": agent, "seed": seed, "name": None, "n_paths": 100, **more}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(json.dumps({"command": "hedgerl train", "seed": seed}))
    (folder / "validation.csv").write_text("iteration,objective,cost\n0,3.0,0.1\n20,1.5,0.1\n40,1.6,0.1\n")
    (folder / "results.json").write_text(json.dumps({"studies": []}))
    (folder / "job.json").write_text(json.dumps({"command": "train", "state": "finished", "seconds": 90.25}))
    metrics = {
        "objective": {"name": "cvar", "parameter": 0.95, "test": test, "validation": 1.5},
        "market": "simulated",
        "confidence": 0.95,
        "test": {"cvar_95": test, "cost": 0.125},
        "against": {
            "delta": {"objective": {"value": 2.0, "difference": test - 2.0, "low": test - 2.5, "high": test - 1.5}},
            "none": {"objective": {"value": 9.0, "difference": test - 9.0, "low": test - 9.5, "high": test - 8.5}},
        },
    }
    (folder / "policy" / "card.json").write_text(json.dumps({"name": agent["name"].upper(), "metrics": metrics}))
    return folder


def table(*arguments):
    """(the lines that `hedgerl report` prints, the records of its CSV)."""
    found = runs.read_all(arguments)
    text = runs.shown(found, runs.differing(found))
    runs.main([*map(str, arguments), "--csv", "table.csv"])
    with open("table.csv", newline="") as file:
        return text.splitlines(), list(csv.DictReader(file))


def over_seeds(lines):
    """The second table: its rows as lists of cells."""
    return [line.split() for line in lines[lines.index("over seeds:") + 3 :]] if "over seeds:" in lines else []


def test_a_training_is_judged_by_its_best_baseline(capsys):
    """Behaviour: the bar is the baseline of the least objective, and the verdict is read from the interval."""
    for number, test in enumerate((1.0, 1.9, 4.0)):
        trained(f"all/{number}", test=test, market={**BERGOMI, "hurst": 0.1 + number})
    lines, rows = table("all")
    assert [row["verdict"] for row in rows] == ["better", "not told apart", "worse"]
    assert {row["baseline"] for row in rows} == {"delta"}
    first = rows[0]
    assert {name: float(first[name]) for name in ("test", "difference", "low", "high", "cost", "seconds")} == {
        **{"test": 1.0, "difference": -1.0, "low": -1.5, "high": -0.5, "cost": 0.125, "seconds": 90.25},
    }
    assert first["objective"] == "cvar 0.95"
    assert float(first["validation"]) == 1.5
    assert lines[0] == "3 runs below all"
    head = lines[1].split("  ")
    assert [name for name in map(str.strip, head) if name] == [
        *("run", "hurst", "policy", "status", "cvar 0.95: validation", "test", "best baseline", "its test"),
        *("difference", "95 % interval", "verdict", "CVaR 95", "cost", "time"),
    ]
    assert "[-1.500, -0.500]" in lines[3]
    assert lines[3].endswith("2 min")
    assert "over seeds:" not in lines


def test_keys_in_which_runs_differ():
    """Behaviour: what is chosen is one key; what comes with the choice is none. Catches a column for each parameter."""
    sac = {"name": "sac", "iterations": 40, "learning_rate": 0.001}
    ppo = {"name": "ppo_lstm", "iterations": 90, "learning_rate": 0.01, "lstm": 64}
    trained("all/0", market=BERGOMI, agent=sac)
    trained("all/1", market=HESTON, agent=ppo)
    trained("all/2", market={**HESTON, "kappa": 3.0}, agent=ppo)
    found = runs.read_all(["all"])
    assert runs.differing(found) == ["agent.name", "market._target_", "market.kappa"]
    lines, rows = table("all")
    assert lines[1].split()[:4] == ["run", "agent", "market", "kappa"]
    assert lines[3].split()[:3] == ["0", "sac", "RoughBergomi"]
    assert lines[5].split()[:4] == ["2", "ppo_lstm", "Heston", "3"]
    assert [row["market.kappa"] for row in rows] == ["", "2.0", "3.0"]
    trained("all/3", market=BERGOMI, agent={**sac, "learning_rate": 0.002})
    assert "agent.learning_rate" in runs.differing(runs.read_all(["all"]))
    spread = {"underlying": {"_target_": "hedgerl.execution.HalfSpread", "bps": 2.0}}
    for name, costs in (("free", {}), ("spread", spread)):
        trained(f"costs/{name}", execution={"_target_": "hedgerl.execution.Execution", "costs": costs})
    assert runs.differing(runs.read_all(["costs"])) == ["execution.costs"]
    assert table("costs")[0][3].split()[:2] == ["free", "[]"]


def test_seeds_together_and_never_the_best_alone():
    """Identity: mean, deviation, least and most over the seeds of what is else alike. Catches the best seed alone."""
    tests = [1.0, 1.25, 2.5]
    for seed, test in enumerate(tests):
        trained(f"all/a{seed}", seed=seed, test=test)
        trained(f"all/b{seed}", seed=seed, test=test + 1.0, market=HESTON)
    trained("all/again", seed=0, test=1.0)  # the same run twice is one seed
    trained("all/single", seed=0, test=0.5, n_paths=50)
    trained("all/unlike", seed=9, test=0.1, name="mine")
    shutil.rmtree(trained("all/stopped", seed=7) / "policy")
    lines, _ = table("all")
    a, b = over_seeds(lines)
    assert a == ["RoughBergomi", "SAC", "3", f"{statistics.mean(tests):.3f}", *a[4:]]
    assert a[4:7] == [f"{statistics.stdev(tests):.3f}", "1.000", "2.500"]
    assert " ".join(a[7:]) == "2 of 3"  # better than the best baseline
    assert b[:4] == ["Heston", "SAC", "3", f"{statistics.mean(tests) + 1.0:.3f}"]


def test_how_unfinished_runs_stand():
    """Behaviour: finished, stopped at an iteration of n, running, failed with its error, trained without a test."""
    for name in ("stopped", "running", "dead", "elsewhere", "failed", "begun"):
        shutil.rmtree(trained(f"all/{name}") / "policy")
        (Path("all") / name / "job.json").unlink()
    trained("all/done")
    job = {"command": "train", "state": "running", "host": socket.gethostname(), "seconds": None}
    Path("all/running/job.json").write_text(json.dumps({**job, "pid": os.getpid()}))
    Path("all/dead/job.json").write_text(json.dumps({**job, "pid": 2**22 + 1}))
    Path("all/elsewhere/job.json").write_text(json.dumps({**job, "host": "node7", "pid": 1}))
    Path("all/failed/error.json").write_text(json.dumps({"error": "training stopped", "traceback": "..."}))
    Path("all/begun/validation.csv").unlink()
    card = trained("all/trial") / "policy" / "card.json"
    card.write_text(json.dumps({"name": "SAC", "metrics": {}, "training": {"validation": 0.75}}))
    lines, rows = table("all")
    assert {Path(row["folder"]).name: row["status"] for row in rows} == {
        "begun": "stopped at iteration 0 of 40",
        "dead": "stopped at iteration 40 of 40",
        "done": "finished",
        "elsewhere": "begun on node7, at iteration 40 of 40",
        "failed": "failed",
        "running": "running at iteration 40 of 40",
        "stopped": "stopped at iteration 40 of 40",
        "trial": "trained, not tested",
    }
    by_name = {Path(row["folder"]).name: row for row in rows}
    assert by_name["failed"]["problem"] == "training stopped"
    assert "failed: training stopped" in lines
    assert by_name["stopped"]["validation"] == "1.5"  # the best so far
    assert by_name["trial"]["validation"] == "0.75"
    assert by_name["stopped"]["test"] == by_name["trial"]["test"] == ""


FILES = ("config.yaml", "run.json", "validation.csv", "results.json", "job.json", "policy/card.json")


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_run_is_listed_beside_the_others(name, capsys):
    """Behaviour: whatever is wrong with a file, its run is named with it, and the others are as they were.

    Catches a traceback in the place of a table of a hundred runs.
    """
    for number, content in enumerate(
        [
            None,
            b"",
            b"{",
            b"[1, 2]",
            b"\xff\xfe\x00",
            b"null",
            b'{"metrics": 3, "agent": [], "seconds": "x"}',
            b"[" * 9999,
        ]
    ):
        file = trained(f"all/{number}") / name
        file.unlink()
        if content is not None:
            file.write_bytes(content)
    for part in (0.2, 0.5, 0.9, 0.99):
        file = trained(f"all/part{part}") / name
        file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    (trained("all/folder") / name).unlink()
    (Path("all/folder") / name).mkdir()
    trained("all/whole", test=1.125)
    _, rows = table("all")
    by_name = {Path(row["folder"]).name: row for row in rows}
    assert len(rows) == 14
    assert by_name["whole"]["status"] == "finished"
    assert by_name["whole"]["test"] == "1.125"
    assert not by_name["whole"]["problem"]
    if name not in ("job.json", "validation.csv"):  # a run may be without them
        assert by_name["0"]["status"] == "damaged"
        assert by_name["0"]["problem"] == f"{name} is missing"
    for each in ("1", "2", "3", "4", "7", "folder"):
        assert by_name[each]["problem"].startswith(f"{name} cannot be read: ")
        assert by_name[each]["status"] == "damaged"
    capsys.readouterr()
    assert cli.main(["report", "all"]) == 0
    assert f"2: {by_name['2']['problem']}" in capsys.readouterr().out


def test_folders_without_a_result_are_listed():
    """Behaviour: a job that was begun and left nothing, one that failed, a data set, each with its state."""
    for name in ("left", "failed", "set"):
        (Path("all") / name / ".hydra").mkdir(parents=True)
        (Path("all") / name / ".hydra" / "config.yaml").write_text("{seed: 3, n_paths: 7}")
        (Path("all") / name / ".hydra" / "hydra.yaml").write_text("{hydra: {job: {name: simulate}}}")
    Path("all/failed/error.json").write_text('{"error": "no room"}')
    Path("all/set/dataset").mkdir()
    Path("all/set/dataset/meta.json").write_text("{}")
    _, rows = table("all")
    told = {Path(row["folder"]).name: (row["command"], row["status"], row["problem"]) for row in rows}
    assert told == {
        "failed": ("simulate", "failed", "no room"),
        "left": ("simulate", "no result", ""),
        "set": ("simulate", "finished", ""),
    }


def test_studies_are_counted_and_not_looked_into():
    """Behaviour: a study is one row, by the states of its table; its trials are no runs. A damaged one is named."""
    trained("all/study/trials/0000")
    Path("all/study/trials.csv").write_text("trial,state,risk\n0,COMPLETE,1.0\n1,PRUNED,\n2,FAIL,\n3,COMPLETE,1.0\n")
    trained("all/front/cells/0")
    Path("all/front/pareto_raw.csv").write_text("cell,status,loss\na,finished,cvar\nb,missing,cvar\n")
    Path("all/front/error.json").write_text('{"error": "interrupted"}')
    Path("all/broken").mkdir()
    Path("all/broken/trials.csv").write_bytes(b"\xff\xfe")
    Path("all/new").mkdir()
    Path("all/new/trials.csv").touch()
    trained("all/run")
    lines, rows = table("all")
    told = {Path(row["folder"]).name: (row["command"], row["trials"], row["status"]) for row in rows}
    assert told == {
        "broken": ("sweep", "", "damaged"),
        "front": ("generate-pareto", "2", "1 finished, 1 missing"),
        "new": ("sweep", "0", "empty"),
        "run": ("train", "", "finished"),
        "study": ("sweep", "4", "2 complete, 1 failed, 1 stopped early"),
    }
    assert "front: interrupted" in lines
    assert [row["folder"] for row in table("all/study/trials")[1]] == ["all/study/trials/0000"]


def test_csv_has_every_column_and_plain_numbers():
    """Identity: one header, and each number with all its digits. Catches thousands separators and rounded cells."""
    trained("all/0", test=1.0 / 3.0, market={**BERGOMI, "hurst": 1e-7})
    trained("all/1", test=123456.789, cost=2)
    trained("all/2", test=2.0, objective={"name": "auto"}, verdict="mine")
    trained("all/3", test=2.0, objective={"name": "cvar"}, verdict="yours")
    Path("out").mkdir()
    assert cli.main(["report", "all", "--csv", "out/table.csv"]) == 0
    text = Path("out/table.csv").read_text()
    assert text.count("folder,") == 1
    rows = list(csv.DictReader(text.splitlines()))
    assert [float(row["test"]) for row in rows] == [1.0 / 3.0, 123456.789, 2.0, 2.0]
    assert float(rows[0]["market.hurst"]) == 1e-7
    assert tuple(rows[0])[: len(runs.COLUMNS)] == runs.COLUMNS
    assert [row["config.verdict"] for row in rows[2:]] == ["mine", "yours"]
    assert {row["verdict"] for row in rows} == {"better", "worse", "not told apart"}


def test_sorting(capsys):
    """Behaviour: numbers as numbers, what is not known last, keys by their last part; natural order without."""
    for number, test in ((2, 3.0), (10, 20.0), (1, 100.0)):
        trained(f"all/{number}", test=test, agent={"name": "sac", "iterations": 5, "learning_rate": 1.0 / number})
    shutil.rmtree(trained("all/11", agent={"name": "sac", "iterations": 5, "learning_rate": 0.05}) / "policy")

    def order(*arguments):
        runs.main(["all", "--csv", "t.csv", *arguments])
        return [Path(row["folder"]).name for row in csv.DictReader(Path("t.csv").read_text().splitlines())]

    assert order() == ["1", "2", "10", "11"]
    assert order("--sort", "test") == ["2", "10", "1", "11"]
    assert order("--sort=learning_rate") == ["11", "10", "2", "1"]
    capsys.readouterr()
    assert cli.main(["report", "all", "--sort", "tset"]) == 2
    assert capsys.readouterr().err == (
        "hedgerl: error: --sort must name a column or a key of the configuration, got 'tset'; the nearest is 'test'\n"
    )
    assert cli.main(["report", "all", "--sort", "name"]) == 0  # the configuration's own, before agent.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "report: the following arguments are required: FOLDER"),
        (["nowhere"], "report needs folders of runs, got nowhere, which is not one"),
        (["empty"], "report needs folders of runs, got empty, which has none"),
        (["all", "empty"], "report needs folders of runs, got empty, which has none"),
        (["all", "--colour"], "report: unrecognized arguments: --colour"),
        (["all", "--csv"], "report: argument --csv: expected one argument"),
        (["all", "--csv", "empty"], "Is a directory: "),
        (["file"], "report needs folders of runs, got file, which is not one"),
    ],
    ids=" ".join,
)
def test_expected_errors(arguments, message, capfd):
    """Behaviour: one line and status 2."""
    trained("all/0")
    Path("empty").mkdir()
    Path("file").touch()
    assert cli.main(["report", *arguments]) == 2
    streams = capfd.readouterr()
    assert streams.err.startswith(f"hedgerl: error: {message}")
    assert streams.err.count("\n") == 1


def test_help(capfd):
    """Behaviour: as that of the other commands."""
    assert cli.main(["report", "--help"]) == 0
    assert "--sort KEY" in capfd.readouterr().out


def test_folders_that_overlap_are_listed_once():
    """Behaviour: a run that is named twice is one row; symbolic links are not followed into circles."""
    trained("all/0")
    trained("all/1")
    Path("all/loop").symlink_to(Path("all").resolve(), target_is_directory=True)
    _, rows = table("all", "all/1", "all/../all")
    assert [Path(row["folder"]).name for row in rows] == ["0", "1"]
    lines, _ = table("all/1")
    assert lines[0].split()[0] == "run"
    assert lines[2].split()[0] == "all/1"


@pytest.mark.parametrize("width", [60, 80, 120, 400])
def test_no_line_is_wider_than_the_terminal(width, monkeypatch):
    """Behaviour: a table that does not fit comes in pieces, each of which names the runs, and no column is lost."""
    for seed in range(12):
        folder = trained(f"all/{seed}", seed=seed, test=1.0 + seed, market={**BERGOMI, "hurst": 0.1 * (seed % 2)})
    (folder / "run.json").write_text("[")
    whole, _ = table("all")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    lines = [re.sub(r"\x1b\[\d*m", "", line) for line in table("all")[0]]
    assert max(map(len, lines)) <= width < 2000
    assert len(max(whole, key=len)) > 120
    for header in ("hurst", "seed", "status", "its test", "95 % interval", "verdict", "CVaR 95", "cost", "time"):
        assert sum(line.count(header) for line in lines) >= 1
    pieces = sum(line.startswith("run ") for line in lines)
    assert (pieces == 1) is (width == 400)
    assert sum(line.startswith("11 ") for line in lines) == pieces
    assert sum("hurst " in line for line in lines) >= 2  # each piece of the second table has it, too
    assert "\x1b" not in "".join([*lines, *whole])


# The files that train and backtest really leave

TINY = [
    *("market=black_scholes", "task.hedge_options=[]", "task.n_steps=4", "task.backend=numpy", "bootstrap=100"),
    *("baselines=[none,delta]", "n_paths=64"),
]


def configured(command, *overrides):
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        return OmegaConf.to_object(compose(command, overrides=[*TINY, *overrides]))


def test_a_real_training(tmp_path):
    """Twin: the table has the numbers of the saved policy's card. Catches a file whose form has changed."""
    learner = ["agent=deep_hedging", "agent.iterations=2", "agent.batch_paths=32", "agent.hidden=[4]", "tracking=none"]
    policy = train.run(configured("train", *learner, "validation.n_paths=32"), tmp_path / "all" / "0")
    lines, (row,) = table("all")
    metrics = Agent.load(policy).card.metrics
    assert row["status"] == "finished"
    assert not row["problem"]
    assert float(row["test"]) == metrics["objective"]["test"]
    assert float(row["validation"]) == metrics["objective"]["validation"]
    best = min(metrics["against"], key=lambda label: metrics["against"][label]["objective"]["value"])
    assert row["baseline"] == best == "delta"
    assert float(row["low"]) == metrics["against"]["delta"]["objective"]["low"]
    assert float(row["cost"]) == metrics["test"]["cost"]
    assert row["iterations"] == row["iteration"] == "2"
    assert row["seconds"] == ""  # of the command line only
    assert "deep hedging" in lines[2]


def test_a_backtest_on_history_with_regimes(tmp_path):
    """Identity: the numbers are those of all episodes. Catches rows of a regime that take the place of the whole."""
    periods = {"2017": ["2017-01-01", "2017-12-31"]}
    config = configured("backtest", "market=none", "data=sp500", "baselines=[none,delta]", "agents=[]", "every=63")
    config.regimes = periods
    (study,) = backtest.run(config, tmp_path / "all" / "0")
    _, (row,) = table("all")
    assert study.regimes["2017"]["delta"].metrics["cvar_95"] != study.results["delta"].metrics["cvar_95"]
    assert float(row["test"]) == pytest.approx(study.results["delta"].metrics["cvar_95"], rel=1e-9)


def test_a_real_backtest(tmp_path):
    """Identity: the reference against the best of the others by CVaR 95 %, the difference with its sign turned."""
    config = configured("backtest", "data=none", "baselines=[none,lazy,delta]", "agents=[]")
    (study,) = backtest.run(config, tmp_path / "all" / "0")
    _, (row,) = table("all")
    values = {name: result.metrics["cvar_95"] for name, result in study.results.items()}
    best = min((name for name in values if name != "delta"), key=lambda name: values[name])
    assert (row["command"], row["policy"], row["baseline"]) == ("backtest", "delta", best)
    assert float(row["test"]) == pytest.approx(values["delta"], rel=1e-9)
    assert float(row["difference"]) == pytest.approx(values["delta"] - values[best], rel=1e-6, abs=1e-9)
    assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
