"""Many runs from one command line: launchers, failures, stops, and folders of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from hedgerl import cli, multirun
from hedgerl.files import write_text
from hedgerl.studies import workers

SMALL = [
    *("market=black_scholes", "n_paths=16", "n_steps=4", "maturity=0.02", "options=[]", "preview=false"),
    "backend=numpy",
]
LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit"}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEDGERL_DEBUG", raising=False)


def command(*arguments):
    return [sys.executable, "-m", "hedgerl.cli", "simulate", "-m", *SMALL, *arguments]


def states(folder):
    """Number -> state of the runs of a multirun."""
    return {number: record["state"] for number, (_, record) in sorted(multirun.records(Path(folder)).items())}


def test_a_failed_run_does_not_stop_the_others(capfd):
    """Behaviour: the runs after it are done, its folder says why, and the command ends with status 2 and one line.

    Catches twelve trainings of which the second ends the ten after it.
    """
    assert cli.main(["simulate", "-m", *SMALL, "seed=1,-2,3,-4", "hydra.sweep.dir=all"]) == 2
    assert states("all") == {0: "finished", 1: "failed", 2: "finished", 3: "failed"}
    error = json.loads(Path("all/1/error.json").read_text())
    assert error["error"] == "seed must be a whole number of at least 0 or None, got -2"
    assert error["traceback"].startswith("Traceback (most recent call last):")
    assert not Path("all/0/error.json").exists()
    streams = capfd.readouterr()
    lines = streams.err.splitlines()
    assert lines[0] == "hedgerl: run 1 failed: seed must be a whole number of at least 0 or None, got -2"
    assert lines[-1] == "hedgerl: error: 2 of 4 runs failed: see all/1/error.json, and those of 3"
    assert len(lines) == 3
    assert "4 runs below all" in streams.out
    assert [line.split()[:3] for line in streams.out.splitlines() if line.startswith(("0 ", "1 "))] == [
        ["0", "1", "finished"],
        ["1", "-2", "failed"],
    ]


def test_a_defect_of_one_run_is_kept_with_its_traceback(monkeypatch, capfd):
    """Behaviour: an error that nobody expected is one of a run, too. Catches a multirun that ends with a traceback."""

    def broken(config, *_):
        if config.seed == 1:
            raise KeyError("a defect")

    monkeypatch.setattr("hedgerl.simulate.run", broken)
    assert cli.main(["simulate", "-m", *SMALL, "seed=1,2", "hydra.sweep.dir=all"]) == 2
    error = json.loads(Path("all/0/error.json").read_text())
    assert error["error"] == "KeyError: 'a defect'"
    assert 'raise KeyError("a defect")' in error["traceback"]
    assert states("all") == {0: "failed", 1: "finished"}
    assert "Traceback" not in capfd.readouterr().err


def test_many_failures_are_counted_and_a_few_named():
    """Behaviour: the last line stays a line: the first file, some numbers. One that died is told as one that failed."""
    many = multirun.Multirun(Path("all"), {number: [] for number in range(20)}, lost={1: "it is gone"})
    for number in range(19):
        state = "finished" if number == 0 else "running" if number == 1 else "failed"
        folder = Path("all") / str(number)
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps({"number": number, "state": state}))
    assert str(many.ended()) == (
        "19 of 20 runs failed: see all/1/error.json, and those of 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more"
    )
    assert json.loads(Path("all/1/error.json").read_text())["error"] == "it is gone"
    assert states("all")[1] == "failed"
    many.overrides = {0: [], 19: []}
    assert str(many.ended()) == "1 of 2 runs failed: run 19 did not begin: nothing is known of it"
    many.overrides = {0: []}
    assert many.ended() is None


def test_an_unknown_key_ends_it_before_any_run(capfd):
    """Behaviour: what no run could mean is told once, and leaves no folder, also below a choice of several groups."""
    for arguments, message in (
        (["simulate", "-m", *SMALL, "sed=1,2"], "unknown key sed; did you mean seed?"),
        (["simulate", "-m", *SMALL, "seed=1,x"], "seed: Value 'x' of type 'str' could not be converted to Integer"),
        (
            ["simulate", "-m", "market=heston,rbergomi", "market.kapa=1"],
            "unknown key market.kapa; did you mean market.k",
        ),
        (["simulate", "-m", "market=heston,rbergomii"], 'unknown market "rbergomii"; did you mean rbergomi?'),
        (["simulate", "agent=sac"], "unknown key agent; did you mean market?"),
        (["simulate", "-m", *SMALL, "hydra.launcher.n_jobs=2"], "unknown key hydra.launcher.n_jobs; choose a launcher"),
    ):
        assert cli.main([*arguments, "hydra.sweep.dir=all/of/them"]) == 2
        assert capfd.readouterr().err.startswith(f"hedgerl: error: {message}")
        assert not Path("all").exists()


@pytest.mark.parametrize("name", multirun.LAUNCHERS)
def test_a_missing_launcher_is_told_with_its_package(name, monkeypatch, capfd):
    """Behaviour: one line says what to install, where the plugin is not there."""
    Plugins.instance()  # those that are installed have registered themselves
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], f"{name}.yaml", raising=False)
    assert cli.main(["simulate", "-m", *SMALL, f"hydra/launcher={name}"]) == 2
    package = multirun.LAUNCHERS[name]
    assert capfd.readouterr().err == (
        f"hedgerl: error: hydra/launcher={name} needs {package}: pip install 'hedgerl[dist]'\n"
    )


def test_an_unknown_launcher(capfd):
    """Behaviour: the known ones are listed, those that are not installed among them."""
    assert cli.main(["simulate", "-m", *SMALL, "hydra/launcher=joblibb"]) == 2
    assert capfd.readouterr().err == (
        'hedgerl: error: unknown hydra/launcher "joblibb"; did you mean joblib? '
        "(known: basic, joblib, submitit_local, submitit_slurm)\n"
    )


# Folders


def test_a_folder_with_anything_in_it_is_refused(capfd):
    """Behaviour: never two multiruns in one folder; what is there stays as it is. An empty folder will do."""
    Path("all").mkdir()
    assert cli.main(["simulate", "-m", *SMALL, "seed=1,2", "hydra.sweep.dir=all"]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("all").rglob("*")}
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("dear")
    capfd.readouterr()
    for folder, holds in (("all", "another multirun"), ("other", "thesis.tex")):
        assert cli.main(["simulate", "-m", *SMALL, "seed=3", f"hydra.sweep.dir={folder}"]) == 2
        told = f"hydra.sweep.dir must be a new folder or an empty one, got {folder}, which holds {holds}"
        assert capfd.readouterr() == ("", f"hedgerl: error: {told}\n")
    assert {path: path.stat().st_mtime_ns for path in Path("all").rglob("*")} == before
    assert [path.name for path in Path("other").iterdir()] == ["thesis.tex"]


def test_one_of_many_gets_a_folder():
    """Identity: of 16 that ask at once one is given it. Catches a look before a leap."""
    gate, given = threading.Barrier(16), []

    def ask():
        gate.wait()
        try:
            with multirun.claimed(Path("all")):
                time.sleep(0.1)
                given.append(True)
                Path("all/0").touch()
        except ValueError as error:
            given.append(str(error).endswith("which holds another multirun"))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given == [*[True] * 16]
    assert sorted(path.name for path in Path("all").iterdir()) == ["0", "multirun.yaml"]


def test_folders_differ_in_the_same_microsecond(monkeypatch):
    """Behaviour: two runs at one time are in two folders, the runs of a multirun in one. Catches a run in another's."""
    frozen = SimpleNamespace(now=lambda: SimpleNamespace(strftime=lambda pattern: "20240301-120000-000000"))
    monkeypatch.setattr("hydra.core.utils.datetime", frozen)
    for _ in range(2):
        assert cli.main(["simulate", *SMALL]) == 0
        assert cli.main(["simulate", "-m", *SMALL, "seed=1,2"]) == 0
    names = sorted(path.name for path in Path("runs").iterdir())
    assert len(names) == 4
    assert all(name.rpartition("-")[0].endswith("-20240301-120000-000000") for name in names)
    assert len(list(Path("runs").glob("*-sweep-*/[01]/dataset"))) == 4


@pytest.mark.slow
def test_many_at_once_have_folders_of_their_own():
    """Behaviour: four processes whose clocks stand still at the same time, as on several hosts."""
    script = """
import sys, types
import hydra.core.utils
from hedgerl import cli
hydra.core.utils.datetime = types.SimpleNamespace(now=lambda: types.SimpleNamespace(strftime=lambda _: "now"))
sys.exit(cli.main(["simulate", *sys.argv[1:]]))
"""
    begun = [subprocess.Popen([sys.executable, "-c", script, *SMALL, f"seed={seed}"]) for seed in range(4)]
    assert [process.wait() for process in begun] == [0] * 4
    metas = [json.loads(path.read_text()) for path in Path("runs").glob("*/dataset/meta.json")]
    assert sorted(meta["settings"]["seed"] for meta in metas) == list(range(4))


@pytest.mark.parametrize("template", ["same", "${n_paths}"])
def test_runs_that_would_share_a_folder(template, capfd):
    """Behaviour: a subdir that does not tell runs apart is refused before any of them."""
    assert cli.main(["simulate", "-m", *SMALL, "seed=1,2", f"hydra.sweep.subdir={template}"]) == 2
    name = {"same": "same", "${n_paths}": "16"}[template]
    assert capfd.readouterr().err == (
        f"hedgerl: error: hydra.sweep.subdir must give each run a folder of its own, got {name} for 0 and 1\n"
    )
    assert not list(Path().rglob("job.json"))


def test_runs_in_folders_with_names_of_their_own():
    """Behaviour: hydra.sweep.subdir is the user's, and the runs are found below it."""
    assert cli.main(["simulate", "-m", *SMALL, "seed=1,2", "hydra.sweep.dir=all", "hydra.sweep.subdir=x/s${seed}"]) == 0
    assert states("all") == {0: "finished", 1: "finished"}
    assert sorted(path.name for path in Path("all/x").iterdir()) == ["s1", "s2"]


# What a run leaves


def test_seconds_of_a_run_in_parts():
    """Identity: a run that goes on has the seconds of both parts, and none where one was killed; the error goes."""
    folder = Path("run")

    def part(state):
        record = multirun._Record(folder, "train", None)
        record.begin()
        assert multirun.read(folder / "job.json")["state"] == "running"
        assert not (folder / "error.json").exists()
        time.sleep(0.02)
        record.end(state)
        kept = multirun.read(folder / "job.json")
        assert kept["state"] == state
        return kept["seconds"]

    assert 0.02 <= part(multirun.FAILED) < 0.5
    (folder / "error.json").write_text("{}")
    assert 0.04 <= part(multirun.FAILED) < 1.0
    assert 0.06 <= part(multirun.FINISHED) < 1.5
    multirun._Record(folder, "train", None).begin()  # and is killed
    assert part(multirun.STOPPED) is None


@pytest.mark.parametrize("many", [["-m"], []])
def test_who_reads_that_a_run_failed_finds_why(many, monkeypatch):
    """Identity: error.json is there before job.json says that the run failed.

    Catches the line of a run that failed, without its reason, when it is looked at between the two.
    """
    written = []

    def write(file, text):
        if file.name == "job.json":
            written.append((json.loads(text)["state"], file.with_name("error.json").exists()))
        write_text(file, text)

    monkeypatch.setattr(multirun, "write_text", write)
    assert cli.main(["simulate", *many, *SMALL, "n_paths=0"]) == 2
    assert written == [("running", False), ("failed", True)]


def test_a_failure_alone_is_kept_too(capfd):
    """Behaviour: the folder of a single run says why it failed, for `hedgerl report`."""
    assert cli.main(["simulate", *SMALL, "n_paths=0"]) == 2
    assert capfd.readouterr().err == "hedgerl: error: n_paths must be a whole number of at least 1, got 0\n"
    (error,) = Path("runs").glob("simulate-*/error.json")
    assert json.loads(error.read_text())["error"] == "n_paths must be a whole number of at least 1, got 0"


# Launchers


@pytest.mark.parametrize(
    ("kind", "n_jobs", "threads", "n_runs", "expected"),
    [
        ("joblib", 2, None, 6, 4),
        ("joblib", 4, None, 3, 2),
        ("joblib", 3, None, 6, 2),
        ("joblib", 2, 5, 6, 5),
        ("local", None, None, 2, 4),
        ("local", None, None, 20, 1),
        ("slurm", None, None, 2, None),
        ("", None, None, 2, None),
    ],
)
def test_runs_at_once_share_the_cores(kind, n_jobs, threads, n_runs, expected, monkeypatch):
    """Identity: cores / runs at once, unless something is said. Catches eight runs of eight threads on eight cores."""
    if kind == "joblib":
        pytest.importorskip("joblib")
    for name in workers.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(workers, "usable_threads", lambda: 8)
    config = OmegaConf.create({"threads": threads, "hydra": {"launcher": {"n_jobs": n_jobs}}})
    launcher = multirun._Launcher(None, kind, None, config, multirun.Multirun())
    wanted = {} if expected is None else dict.fromkeys(workers.THREAD_VARIABLES, str(expected))
    assert launcher._threads(n_runs) == wanted
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    with workers.environment(launcher._threads(n_runs)):
        assert os.environ.get("OMP_NUM_THREADS") == (None if expected is None else str(expected))
        assert os.environ["MKL_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert launcher._threads(n_runs) == {}


def test_no_hour_for_a_training_of_this_machine():
    """Behaviour: submitit's limit of an hour holds where it was asked for. Catches trainings that end after an hour."""
    for given, expected in (([], multirun._LONG), (["hydra.launcher.timeout_min=60"], 60)):
        config = OmegaConf.create({"hydra": {"launcher": {"timeout_min": 60}, "overrides": {"hydra": given}}})
        OmegaConf.set_readonly(config, True)
        multirun._without_limit(config)
        assert config.hydra.launcher.timeout_min == expected


# Asks for the environment of a run in the place of a number, which is then refused by its text.
THREADS = "perturb={volatility:{_target_:os.getenv,_args_:[OMP_NUM_THREADS]}}"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_runs_in_other_processes(launcher):
    """Behaviour: each launcher does all runs, says how they ended while it goes on, and keeps what each said apart.

    Catches a job that cannot be pickled, output that mingles, and a failure that hides the others.
    """
    pytest.importorskip(LAUNCHERS[launcher])
    several = ["seed=1,-2", f"perturb=null,{THREADS.partition('=')[2]}", "threads=3"]
    environment = {name: value for name, value in os.environ.items() if name not in workers.THREAD_VARIABLES}
    done = subprocess.run(
        command(*several, f"hydra/launcher={launcher}", "hydra.sweep.dir=all"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert states("all") == {0: "finished", 1: "failed", 2: "failed", 3: "failed"}
    assert Path("all/0/log.txt").read_text().startswith("Paths(BlackScholes, n_paths=16")
    assert "Paths(" not in done.stdout
    assert "4 runs below all" in done.stdout
    lines = done.stderr.splitlines()
    assert lines[-1] == "hedgerl: error: 3 of 4 runs failed: see all/1/error.json, and those of 2, 3"
    told = sorted(line for line in lines if line.startswith("run "))
    assert len(lines) == len(told) + 1 == 5
    assert told[0].startswith("run 0 finished after 0 s (")
    assert told[0].endswith("(seed=1 perturb=null)")
    assert told[1].endswith("perturb['volatility'] must be a distribution or a pair (low, high), got '3'")
    assert told[2].endswith("seed must be a whole number of at least 0 or None, got -2")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_process_that_dies_does_not_stop_the_others(launcher):
    """Behaviour: one that aborts, as for want of memory, is told as failed; those that had not begun are done.

    joblib then ends all of its processes: the run beside it is lost, too.

    Catches a multirun that ends, or waits for ever, where a worker is killed.
    """
    pytest.importorskip(LAUNCHERS[launcher])
    # The one that dies waits until the one beside it, which with joblib is cut short, must have begun.
    seconds, until = (90, 10) if launcher == "joblib" else (1, 0)
    sleeps = f"{{drift:{{_target_:time.sleep,_args_:[{seconds}]}}}}"
    dies = f"{{volatility:{{_target_:time.sleep,_args_:[{until}]}},drift:{{_target_:os.abort}}}}"
    more = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    done = subprocess.run(
        command(
            f"perturb={sleeps},{dies},null,{{drift:[0,1]}}", f"hydra/launcher={launcher}", "hydra.sweep.dir=all", *more
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 2
    assert states("all") == {0: "failed", 1: "failed", 2: "finished", 3: "finished"}
    assert "process" in json.loads(Path("all/1/error.json").read_text())["error"]
    error = json.loads(Path("all/0/error.json").read_text())["error"]
    assert ("process" in error) is (launcher == "joblib")
    told = "hedgerl: error: 2 of 4 runs failed: see all/0/error.json, and those of 1"
    assert told in done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("launcher", ["basic", *LAUNCHERS])
def test_a_stop_ends_all_runs(launcher, number):
    """Behaviour: Ctrl-C, and SIGTERM to the command alone, end every process of it, within seconds.

    Catches runs that go on for hours after the command has been stopped.
    """
    if launcher in LAUNCHERS:
        pytest.importorskip(LAUNCHERS[launcher])
    sleeps = "perturb={x:{_target_:time.sleep,_args_:[600]}}"
    process = subprocess.Popen(
        command(sleeps, "seed=1,2", f"hydra/launcher={launcher}", "hydra.sweep.dir=all"),
        stderr=subprocess.PIPE,
        text=True,
        # Where tests run in the background they inherit that it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wanted = 1 if launcher == "basic" else 2
    for _ in range(600):
        if len(multirun.records(Path("all"))) >= wanted:
            break
        time.sleep(0.1)
    begun = [record["pid"] for _, record in multirun.records(Path("all")).values()]
    assert len(begun) >= wanted
    time.sleep(0.5)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert error.splitlines()[-1] == "hedgerl: interrupted"
    for _ in range(100):
        if not any(alive(pid) for pid in begun):
            break
        time.sleep(0.1)
    assert not any(alive(pid) for pid in begun)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
