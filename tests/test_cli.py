"""The command line: exit status, one line for each expected error, and what a run leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml

import hedgerl
from hedgerl import cli
from hedgerl.sim import dataset


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEDGERL_DEBUG", raising=False)


SMALL = [
    "market=black_scholes",
    "data=none",
    "n_paths=16",
    "bootstrap=100",
    "baselines=[none,delta]",
    "task.backend=numpy",
    "task.hedge_options=[]",
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bactest"], 'unknown command "bactest"; did you mean backtest? (known: backtest, simulate, train, sw'),
        (["--colour"], "unrecognized arguments: --colour"),
        (["backtest", "n_pathz=3"], "unknown key n_pathz; did you mean n_paths?"),
        (["backtest", "+n_pathz=3"], "unknown key n_pathz; did you mean n_paths?"),
        (["simulate", "n_pathz=3"], "unknown key n_pathz; did you mean n_paths?"),
        (["backtest", "tuning.objektive=cvar"], "unknown key tuning.objektive; did you mean tuning.objective?"),
        (["backtest", "task.matury=1"], "unknown key task.matury; did you mean task.maturity?"),
        (["backtest", "--seed"], "--seed needs a value"),
        (["backtest", "--seed=many"], "seed: Value 'many' of type 'str' could not be converted to Integer"),
        (["backtest", "market=heston", "market.kapa=3"], "unknown key market.kapa; did you mean market.kappa?"),
        (["backtest", "market=rbergomi", "+market.hurts=0.1"], "unknown key market.hurts; did you mean market.hurst?"),
        (
            ["backtest", "market=rbergomii"],
            'unknown market "rbergomii"; did you mean rbergomi?',
        ),
        (["backtest", "n_paths=0"], "n_paths must be a whole number of at least 2, got 0"),
        (["simulate", "n_paths=0"], "n_paths must be a whole number of at least 1, got 0"),
        (["simulate", "backend=cuda"], "backend must be one of auto, numpy, cupy, got 'cuda'"),
        (
            ["simulate", "devices=[0,1]", "backend=numpy"],
            "devices are CUDA devices of this machine and must not be given with backend=numpy",
        ),
        (["simulate", "devices=[0]", "cluster=ray"], "devices are CUDA devices of this machine and must not"),
        (["simulate", "dtype=float16"], "dtype must be one of float32, float64, got 'float16'"),
        (["simulate", "seed=-1"], "seed must be a whole number of at least 0 or None, got -1"),
        (["backtest", "market=rbergomi", "market.hurst=0.7"], "hurst must lie in (0, 0.5), got 0.7"),
        (["backtest", "market=rbergomi", "market.hurst=rough"], "hurst must be a finite number, got 'rough'"),
        (["backtest", "n_paths=many"], "n_paths: Value 'many' of type 'str' could not be converted to Integer"),
        (["backtest", "n_paths"], 'cannot read "n_paths" as key=value'),
        (["simulate", "out=dátå"], """cannot read "out=dátå" as key=value; with quotes: 'out="dátå"'"""),
        (["simulate", "perturb={hurst:[1,2}"], 'cannot read "perturb={hurst:[1,2}" as key=value\n'),
        (["simulate", "out="], "out must name a folder or be null, got ''"),
        (["backtest", "--foo"], "unrecognized arguments: --foo"),
        (["simulate", "options=[{name:a/b,strike:1,expiry_years:0.1}]"], "option name must consist of letters"),
        (
            ["simulate", "options=[{name:a,strike:1,expiry_year:0.1}]"],
            "unknown key expiry_year; did you mean expiry_years?",
        ),
        (["simulate", "options=[{name:a,strike:0,expiry_years:0.1}]"], "strike of a must be positive, got 0.0"),
        (
            ["simulate", "options=[{name:a,strike:1,expiry_years:1},{name:a,strike:2,expiry_years:1}]"],
            "options must have different names, got 'a' twice",
        ),
        (["simulate", "times=[]", "n_steps=null", "maturity=null"], "times must be one-dimensional with at least two"),
        (["simulate", "perturb=3"], "perturb must be null or {parameter: [low, high]}, got 3"),
        (["simulate", "perturb={eta:[null,2]}"], "perturb['eta'] must be a finite number, got None"),
        (["simulate", "perturb={eta:[a,b]}"], "perturb['eta'] must be a finite number, got 'a'"),
        (
            ["backtest", "baselines=[delta,lelland]"],
            "baseline must be a known one, got 'lelland'; the nearest is 'leland'",
        ),
        (["backtest", "baselines=[]"], "baselines must name at least one hedge, got none"),
        (["backtest", "market=black_scholes", "task.moneyness=0"], "moneyness must be positive, got 0"),
        (["backtest", "market=black_scholes", "execution.costs.underlying.bps=-1"], "bps must not be negative, got -1"),
        (["backtest", "market=black_scholes", "execution=cheap"], 'unknown execution "cheap"; known: free, quoted'),
        (["backtest", "data=file"], "data.series.path must be given"),
        (["backtest", "data=file", "data.series.path=a.csv"], "a.csv must be a file, and is not there"),
        (["backtest", "market=none"], "baselines must not name tuned_band on history alone"),
        (["backtest", "market=none", "data=none"], "market and data must name at least one market between them"),
        (["backtest", "+regimes.x=[2009-01-41,2009-02-01]"], "regimes must hold days as YYYY-MM-DD, got x ="),
        (["backtest", "+regimes.x=[2009-03-01,2009-02-01]"], "regimes must not end before they start, got x ="),
        (["backtest", "seed=-1"], "seed must be a whole number of at least 0, got -1"),
        (["backtest", "tuning.objective=foo"], "objective must be one of"),
        (["backtest", "reference=dleta"], "reference must be the label of one of the baselines (none, delta,"),
        (["backtest", "task.maturity=0.5"], "maturity must be n_steps / 252 on history, a trading day a step, got 0.5"),
        (["simulate", "market=rough_and_heston"], "market must name a model of conf/market"),
        (["simulate", "perturb={etta:[1,2]}"], "perturb must name one of hurst, eta, rho, forward_variance, drift"),
        (["simulate", "perturb.eta=[1,2]"], "unknown key perturb.eta; did you mean market.eta?"),
        (["train", "agent=ppo"], 'unknown agent "ppo"; did you mean ppo_lstm? (known: deep_hedging, ppo_lstm, sac)'),
        (["train", "agent.itertions=3"], "unknown key agent.itertions; did you mean agent.iterations?"),
        (["train", "agent=sac", "agent.clip_range=1"], "unknown key agent.clip_range; did you mean agent."),
        (["train", "agent.iterations=many"], "agent.iterations: Value 'many' of type 'str' could not be converted"),
        (["train", "agent.batch_episodes=2049"], "agent.batch_episodes must be at most num_envs x episodes = 2048"),
        (["train", "--loss_type", "cvr"], "loss must be one of abs, mse, cvar, entropic, mean_std, got 'cvr'"),
        (["train", "--w"], "--w needs a value"),
        (["train", "reward.weights.drawdwn=1"], "unknown key reward.weights.drawdwn; did you mean reward.weights.draw"),
        (["train", "resume=nowhere"], "resume must name the folder of a run, got nowhere, which has no config.yaml"),
        (["train", "resume=nowhere", "seed=1"], "resume goes with no other key: a run continues as it began, got seed"),
        (["train", "-m", "resume=nowhere"], "resume goes with no other key: a run continues as it began, got -m"),
        (["backtest", "--w", "1"], "unrecognized arguments: --w"),
        (["backtest", "agents=[nowhere/policy]"], "there is no policy at nowhere/policy"),
        (["sweep", "search=tuned_bend"], 'unknown search "tuned_bend"; did you mean tuned_band? (known: '),
        (["sweep", "execution=ray", "n_trialz=3"], "unknown key n_trialz; did you mean n_trials?"),
        (["generate-pareto", "execution=ray", "--sed", "1"], "unrecognized arguments: --sed"),
        (["generate-pareto", "execution=ray", "workerz=3"], "unknown key workerz; did you mean workers?"),
        (["report", "--seed", "1"], "report: unrecognized arguments: --seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_expected_error_is_one_line_and_status_2(arguments, message, capfd):
    """Catches a traceback, Hydra's own report, and an unknown key that is silently ignored."""
    assert cli.main(arguments) == 2
    streams = capfd.readouterr()
    assert streams.err.startswith(f"hedgerl: error: {message}")
    assert streams.err.count("\n") == 1
    assert streams.out == ""


def test_debug_shows_the_traceback(monkeypatch):
    """Catches an error that can no longer be traced."""
    monkeypatch.setenv("HEDGERL_DEBUG", "1")
    with pytest.raises(ValueError, match="n_paths must be a whole number"):
        cli.main(["backtest", "n_paths=0"])


def test_a_defect_keeps_its_traceback(monkeypatch):
    """Catches a bug of ours that is shown as if the user had made a mistake."""

    def broken(*_):
        raise KeyError("a defect")

    monkeypatch.setattr("hedgerl.backtest.run", broken)
    with pytest.raises(KeyError, match="a defect"):
        cli.main(["backtest", *SMALL])


def test_version_and_help(capfd):
    """Catches a version that differs from the package's, and a help that fails."""
    assert cli.main(["--version"]) == 0
    assert capfd.readouterr().out == f"hedgerl {hedgerl.__version__}\n"
    for arguments in ([], ["--help"]):
        assert cli.main(arguments) == 0
        assert "simulate" in capfd.readouterr().out
    for command, key in (("sweep", "n_trials: 40"), ("generate-pareto", "workers: 1"), ("report", "--sort KEY")):
        assert cli.main([command, "--help"]) == 0
        assert key in capfd.readouterr().out


def test_a_command_may_read_its_keys_in_its_own_way(monkeypatch, capfd):
    """Behaviour: `hydra_overrides` sees the arguments before anything refuses them, also where another is wrong.

    Catches execution=ray that is looked for among trading costs.
    """
    asked = []

    def hydra_overrides(arguments, keys):
        asked.append((arguments, keys))
        return ["n_paths=17" if item == "execution=ray" else item for item in arguments]

    monkeypatch.setattr("hedgerl.simulate.hydra_overrides", hydra_overrides, raising=False)
    monkeypatch.setattr("hedgerl.simulate.run", lambda config, *_: print(config.n_paths))
    assert cli.main(["simulate", "--seed", "3", "execution=ray"]) == 0
    assert capfd.readouterr().out == "17\n"
    assert cli.main(["simulate", "execution=ray", "-m", "n_pathz=3"]) == 2
    assert capfd.readouterr().err == "hedgerl: error: unknown key n_pathz; did you mean n_paths?\n"
    assert asked == [
        (["seed=3", "execution=ray"], ["seed=3", "execution=ray"]),
        (["-m", "execution=ray", "n_pathz=3"], ["execution=ray", "n_pathz=3"]),
    ]


def test_backtest_leaves_one_folder(tmp_path, capfd):
    """Behaviour: a run writes its report, its configuration and its log into one folder of runs/, and nothing else."""
    assert cli.main(["backtest", *SMALL, "--seed", "3"]) == 0
    assert "simulated Black-Scholes" in capfd.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("backtest-")
    assert {"results.json", "results.csv", "report.html", ".hydra"} <= {path.name for path in folder.iterdir()}
    assert sys.argv[0] != "hedgerl backtest"


def test_simulate_writes_a_data_set(tmp_path, capfd):
    """Behaviour: from the command line to arrays and marks that load, and again where `out` is not given."""
    small = ["market=black_scholes", "n_paths=20", "n_steps=21", "maturity=0.08333333333333333", "backend=numpy"]
    assert cli.main(["simulate", *small, "market.spot=50", "seed=0", "perturb={volatility:[0.1,0.3]}", "out=a/b"]) == 0
    paths = dataset.load(tmp_path / "a" / "b", verify=True)
    assert (paths.n_paths, paths.n_steps, paths.seed, paths.model.spot) == (20, 21, 0, 50.0)
    assert paths.parameters["volatility"].shape == (20,)
    marks = dataset.load_marks(tmp_path / "a" / "b")
    assert marks["call_atm_30d"].option.strike == 50.0
    call, put = (marks[name].greeks.price for name in ("call_atm_30d", "put_atm_30d"))
    np.testing.assert_allclose(call - put, paths.spot - 50.0, rtol=0, atol=1e-4)  # parity, rate 0
    assert (tmp_path / "a" / "b" / "preview.png").read_bytes().startswith(b"\x89PNG")
    settings = json.loads((tmp_path / "a" / "b" / "meta.json").read_text())["settings"]
    assert settings["perturb"] == {"volatility": [0.1, 0.3]}
    assert capfd.readouterr().out.startswith("Paths(BlackScholes, n_paths=20")

    assert cli.main(["simulate", *small, "preview=false", "options=[]"]) == 0
    (folder,) = (tmp_path / "runs").glob("simulate-*/dataset")
    assert dataset.load(folder).model.spot == 100.0


def test_simulate_refuses_before_it_works(tmp_path, capfd, monkeypatch):
    """Behaviour: a folder in the way is told at once. Catches an hour of simulation that cannot be stored."""
    (tmp_path / "taken").mkdir()
    monkeypatch.setattr("hedgerl.sim.BlackScholes.simulate", None)  # would raise TypeError
    assert cli.main(["simulate", "market=black_scholes", "out=taken"]) == 2
    assert "folder must not exist yet, unless overwrite is set" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_nothing(number, status, tmp_path):
    """Behaviour: Ctrl-C, and SIGTERM as schedulers send it, while marking. Catches gigabytes left behind."""
    script = """
import os, signal, sys
from hedgerl import cli
from hedgerl.sim import Market
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits that it is ignored
number = int(sys.argv[1])
def mark(self, option, step):
    os.kill(os.getpid(), number)
Market.mark = mark
sys.exit(cli.main(["simulate", "market=black_scholes", "n_paths=16", "backend=numpy", "preview=false", "out=set"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(int(number))], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, "hedgerl: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_multirun_makes_a_folder_for_each_job(tmp_path):
    """Behaviour: -m runs the grid. Catches jobs that overwrite each other's results."""
    assert cli.main(["backtest", *SMALL, "-m", "seed=1,2", "execution.costs.underlying.bps=0,5"]) == 0
    (sweep,) = (tmp_path / "runs").iterdir()
    assert sweep.name.startswith("backtest-sweep-")
    assert len(list(sweep.glob("*/results.json"))) == 4


def test_read_only_folder(tmp_path, capfd):
    """Behaviour: where nothing can be written there is one line. A file named `runs` stands for a read-only disk."""
    (tmp_path / "runs").write_text("in the way")
    assert cli.main(["backtest", *SMALL]) == 2
    error = capfd.readouterr().err
    assert error.startswith("hedgerl: error: ")
    assert error.count("\n") == 1


def test_installed_command(tmp_path):
    """Behaviour: the process itself leaves with status 2 and says one line on stderr, nothing on stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "hedgerl.cli", "backtest", "n_pathz=3"],
        cwd=tmp_path,
        env=os.environ | {"HEDGERL_DEBUG": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "hedgerl: error: unknown key n_pathz; did you mean n_paths?\n"


TINY = [
    *("agent=deep_hedging", "market=black_scholes", "task.hedge_options=[]", "task.n_steps=4", "task.backend=numpy"),
    *("agent.iterations=2", "agent.batch_paths=32", "validation.n_paths=32", "n_paths=32", "bootstrap=100"),
    *("baselines=[delta]", "tracking=none"),
]


def test_classic_flags_of_train(capfd):
    """Behaviour: --loss_type, --w, --lam and --seed are keys; without them they are what they always were."""
    for flags, expected in (
        (["--loss_type", "mse", "--w", "0.01", "--lam=0.001", "--seed", "42"], ("mse", 0.01, 0.001, 42)),
        ([], ("abs", 0.001, 0.0001, 12345)),
    ):
        assert cli.main(["train", *flags, "--cfg", "job"]) == 0
        shown = yaml.safe_load(capfd.readouterr().out)
        reward = shown["reward"]
        assert (reward["loss"], reward["w"], reward["lam"], shown["seed"]) == expected


def test_train_over_a_grid(tmp_path, capfd):
    """Behaviour: -m trains each combination into a folder of its own, told how it was made, with a policy inside."""
    assert cli.main(["train", *TINY, "-m", "seed=1,2"]) == 0
    (sweep,) = (tmp_path / "runs").iterdir()
    folders = sorted(path.parent for path in sweep.glob("*/policy"))
    assert [folder.name for folder in folders] == ["0", "1"]
    told = [json.loads((folder / "run.json").read_text()) for folder in folders]
    assert [run["seed"] for run in told] == [1, 2]
    assert told[1]["command"].endswith("seed=2")
    out = capfd.readouterr().out
    assert out.count("deep hedging") >= 2
    assert f"policy: runs/{sweep.name}/1/policy" in out
    table = out.partition(f"2 runs below runs/{sweep.name}\n")[2].splitlines()
    tests = [json.loads((folder / "policy" / "card.json").read_text())["metrics"]["objective"] for folder in folders]
    assert table[2].split()[:5] == ["0", "1", "deep", "hedging", "finished"]
    assert [f"{each['test']:.3f}" in line for each, line in zip(tests, table[2:4], strict=True)] == [True, True]
    assert "over seeds:" in table
    assert f"{np.mean([each['test'] for each in tests]):.3f}" in table[-1]
    assert cli.main(["train", f"resume=runs/{sweep.name}/1"]) == 2
    assert "resume must name a run that has not ended" in capfd.readouterr().err


def test_a_diverged_run_leaves_with_status_2(monkeypatch, capfd):
    """Behaviour: one line with the iteration, on stderr, and no table of results."""
    from hedgerl import train

    def iterate(self, learner, stage):
        raise self._diverged(self.progress.iteration + 1, "train/objective is nan")

    monkeypatch.setattr(train._Trainer, "iterate", iterate)
    assert cli.main(["train", *TINY]) == 2
    streams = capfd.readouterr()
    last = streams.err.strip().splitlines()[-1]
    assert last.startswith("hedgerl: error: training stopped at iteration 1: train/objective is nan; the last good ")
    assert last.endswith("iteration-0000000.pt")
    assert streams.out == ""


def test_a_device_that_is_full_is_told_in_a_line(monkeypatch, capfd):
    """Behaviour: what torch asked for, what is free, and what takes less. Catches a traceback, and torch's advice."""
    import torch

    from hedgerl import train

    asked = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB of which 1 GiB is free"
    )

    def iterate(self, learner, stage):
        raise torch.OutOfMemoryError(
            f"{asked}. Including non-PyTorch memory, this process has 77 GiB. See documentation"
        )

    monkeypatch.setattr(train._Trainer, "iterate", iterate)
    assert cli.main(["train", *TINY]) == 2
    assert capfd.readouterr().err.strip().splitlines()[-1] == (
        f"hedgerl: error: not enough memory on the device ({asked}): smaller n_paths, agent.batch_paths or "
        "agent.num_envs take less"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_says_how_to_go_on(number, status, tmp_path):
    """Behaviour: Ctrl-C, and SIGTERM as schedulers send it: the command that it prints goes on and ends well."""
    script = """
import os, signal, sys
from hedgerl import cli, train
signal.signal(signal.SIGINT, signal.default_int_handler)
real, number = train._Trainer.iterate, int(sys.argv[1])
def iterate(self, learner, stage):
    os.kill(os.getpid(), number)
    real(self, learner, stage)
train._Trainer.iterate = iterate
sys.exit(cli.main(["train", *sys.argv[2:]]))
"""
    command = [sys.executable, "-c", script, str(int(number)), *TINY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status
    last, interrupted = done.stderr.strip().splitlines()[-2:]
    assert interrupted == "hedgerl: interrupted"
    saved, _, how = last.partition("; continue with: ")
    assert saved.endswith("iteration-0000001.pt")
    assert cli.main(how.split()[1:]) == 0
    assert len(list(tmp_path.glob("runs/*/policy/card.json"))) == 1
