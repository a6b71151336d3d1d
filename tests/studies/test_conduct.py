"""Studies from their first trial to their last, however they are interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hedgerl.studies import conduct, space, storage
from hedgerl.studies.conduct import Conductor, Sampling
from hedgerl.studies.workers import InlinePool, Job, LocalPool, Outcome

SPACE = {"x": {"low": -2.0, "high": 2.0}, "y": {"low": 0.0, "high": 3.0}, "choice": ["a", "b"]}
HERE = Path(__file__).parent


def conducted(folder, n_trials, pool, *, sampler="tpe", address=None, log="", window=4, seed=3, first=(), **more):
    """The study of `jobs.two` in a folder, conducted."""
    searched = space.read(SPACE)

    def job(asked, earlier):
        return Job(asked.number, "jobs:two", {**asked.parameters, "log": log, **more})

    with storage.exclusive(folder):
        kept = storage.opened(address, folder)
        study = storage.study(kept, "toy", {"space": space.described(searched)}, ["a", "b"])
        for parameters in first[len(study.trials) :]:
            study.enqueue_trial(parameters)
        sampling = Sampling(sampler, seed, startup=4, population=4)
        conductor = Conductor(study, kept, searched, sampling, pool, job, n_trials, window, shared=address is not None)
        conductor.run()
        return study


def facts(study):
    return [(trial.number, trial.state, trial.params, trial.values) for trial in study.trials]


class Disorderly(InlinePool):
    """Several jobs at a time, which end in an order of their own; jobs in `cut` end the coordinator."""

    def __init__(self, size, key, cut=()):
        self.size, self.key, self.cut = size, key, set(cut)
        self.jobs = []
        self.inner = InlinePool()

    def submit(self, job):
        assert len(self.jobs) < self.size
        self.jobs.append(job)

    def wait(self, timeout=None):
        job = min(self.jobs, key=lambda job: self.key(job.number))
        self.jobs.remove(job)
        if job.number in self.cut:
            raise KeyboardInterrupt
        self.inner.submit(job)
        return self.inner.wait()


@pytest.mark.parametrize("sampler", conduct.SAMPLERS)
def test_study_does_not_depend_on_the_order_in_which_workers_end(tmp_path, sampler):
    """Identity: one worker, and four that end backwards, make the same trials. Catches a sampler that sees what has
    happened to end, and generators that are shared."""
    plain = facts(conducted(tmp_path / "one", 14, InlinePool(), sampler=sampler))
    mixed = facts(conducted(tmp_path / "four", 14, Disorderly(4, lambda number: -number), sampler=sampler))
    assert plain == mixed
    assert {state for _, state, _, _ in plain} == {TrialState.COMPLETE, TrialState.FAIL}
    assert facts(conducted(tmp_path / "seed", 14, InlinePool(), sampler=sampler, seed=4)) != plain


def test_interrupted_study_goes_on_as_if_it_had_not_been(tmp_path):
    """Identity: stopped three times in the middle, with trials under way, the study is that of one call, each trial
    tried to its end once. Catches a lost or doubled trial."""
    whole = facts(conducted(tmp_path / "whole", 16, InlinePool()))
    log = tmp_path / "log"
    for cut in (2, 7, 11):
        with pytest.raises(KeyboardInterrupt):
            conducted(tmp_path / "cut", 16, Disorderly(3, lambda number: (number * 7) % 5, [cut]), log=str(log))
    study = conducted(tmp_path / "cut", 16, Disorderly(3, lambda number: -number), log=str(log))
    assert facts(study) == whole
    tried = log.read_text().split()
    assert len(tried) == len(set(tried)) == 16
    conducted(tmp_path / "cut", 16, Disorderly(3, lambda number: -number), log=str(log))
    assert len(log.read_text().split()) == 16  # nothing is done twice


@pytest.mark.parametrize("sampler", conduct.SAMPLERS)
def test_trial_that_was_half_asked_is_asked_to_its_end(tmp_path, monkeypatch, sampler):
    """Identity: killed between the first and the last parameter of a trial, at random and by the model. Catches a
    generator that begins anew for the parameters that are missing."""
    whole = facts(conducted(tmp_path / "whole", 12, InlinePool(), sampler=sampler))
    real, calls = conduct._suggest, [0]

    def cut(trial, name, distribution):
        calls[0] += 1
        if calls[0] in (5, 27):  # the second of three parameters of trial 1, the third of one after the first ones
            raise KeyboardInterrupt
        real(trial, name, distribution)

    monkeypatch.setattr(conduct, "_suggest", cut)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            conducted(tmp_path / "cut", 12, InlinePool(), sampler=sampler)
    assert facts(conducted(tmp_path / "cut", 12, InlinePool(), sampler=sampler)) == whole


def test_longer_study_keeps_what_there_is(tmp_path):
    """Behaviour: the same study with more trials goes on with them."""
    short = facts(conducted(tmp_path, 6, InlinePool()))
    long = facts(conducted(tmp_path, 9, InlinePool()))
    assert long[:6] == short
    assert len(long) == 9


def test_failed_trial_is_recorded_and_others_go_on(tmp_path):
    """Behaviour: an exception becomes the trial's error, in one line."""
    study = conducted(tmp_path, 12, InlinePool())
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert failed
    assert all(trial.params["x"] > 1.5 for trial in failed)
    assert failed[0].user_attrs["outcome"]["error"].startswith("RuntimeError: no x above 1.5, got ")
    assert failed[0].user_attrs["outcome"]["seconds"] >= 0.0


def test_objective_that_is_no_number_fails_its_trial(tmp_path, monkeypatch):
    """Behaviour: NaN is a failure with a message, not the end of the study."""

    class Broken(InlinePool):
        def wait(self, timeout=None):
            (outcome,) = super().wait(timeout)
            values = [float("nan"), 1.0] if outcome.number == 1 else [1.0, 1.0]
            return [Outcome(outcome.number, {"values": values, "reports": []}, seconds=0.1)]

    study = conducted(tmp_path, 3, Broken())
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "must be finite, got [nan, 1.0]" in study.trials[1].user_attrs["outcome"]["error"]


def test_dead_workers_trial_is_tried_again_and_not_for_ever(tmp_path):
    """Behaviour: the trial keeps its number and its parameters; three deaths are an error."""

    class Deadly(InlinePool):
        deaths = 0

        def wait(self, timeout=None):
            (outcome,) = super().wait(timeout)
            if outcome.number == 2 or (outcome.number == 1 and Deadly.deaths == 0):
                Deadly.deaths += 1
                return [Outcome(outcome.number, died="signal 9 (SIGKILL)")]
            return [outcome]

    study = conducted(tmp_path, 4, Deadly(), first=[{"x": 0.0}, {"x": 0.5}, {"x": 0.25}])
    assert [trial.state.name for trial in study.trials][:3] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert [trial.params["x"] for trial in study.trials][:3] == [0.0, 0.5, 0.25]
    assert [trial.user_attrs["attempts"] for trial in study.trials][:3] == [1, 2, 3]
    error = study.trials[2].user_attrs["outcome"]["error"]
    assert error == "its worker died 3 times, the last time of signal 9 (SIGKILL)"


def test_full_disk_loses_no_trial_that_was_kept(tmp_path):
    """Behaviour: a journal that cannot grow any more, in the middle of a line, ends the command; with room again the
    study goes on. Catches a torn line that makes the journal unreadable."""
    resource = pytest.importorskip("resource")
    whole = facts(conducted(tmp_path / "whole", 10, InlinePool()))
    lines = (tmp_path / "whole" / storage.JOURNAL).read_bytes().splitlines(keepends=True)
    there, folder = len(lines) * 3 // 5, tmp_path / "full"
    room = sum(map(len, lines[:there])) + len(lines[there]) // 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            conducted(folder, 10, InlinePool())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (folder / storage.JOURNAL).stat().st_size == room
    assert not (folder / storage.JOURNAL).read_bytes().endswith(b"\n")
    assert facts(conducted(folder, 10, InlinePool())) == whole


def test_two_processes_cannot_run_one_study(tmp_path):
    """Behaviour: the second is told so at once. Catches two coordinators that ask for the same trial."""
    with storage.exclusive(tmp_path):
        program = (
            "from pathlib import Path\nfrom hedgerl.studies import storage\n"
            f"with storage.exclusive(Path({str(tmp_path)!r})): pass"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "is being run by another process" in done.stderr


def test_study_of_another_definition_is_refused(tmp_path):
    """Behaviour: another space under the same name is named, key by key, and nothing is changed."""
    conducted(tmp_path, 2, InlinePool())
    before = (tmp_path / storage.JOURNAL).read_bytes()
    kept = storage.opened(None, tmp_path)
    other = space.described(space.read({**SPACE, "x": {"low": -1.0, "high": 2.0}}))
    with pytest.raises(ValueError, match=r"the study 'toy' is of another space: space.x was Float.*-2.0.*now Float"):
        storage.study(kept, "toy", {"space": other}, ["a", "b"])
    assert (tmp_path / storage.JOURNAL).read_bytes() == before


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("study.db", "storage must be null or a database's URL"),
        (
            "postgresql://nobody:secret@127.0.0.1:1/none",
            "storage must be reachable, got postgresql://...@127.0.0.1:1/none",
        ),
        ("sqlite:////nowhere/at/all/study.db", "storage must be reachable"),
        ("nonsense://x/y", "storage must be reachable, got nonsense://x/y: Can't load plugin"),
    ],
)
def test_storage_that_cannot_be_reached(tmp_path, address, message):
    """Behaviour: one line, before any trial, without the password."""
    if address.startswith("postgresql"):
        pytest.importorskip("psycopg")
    with pytest.raises(ValueError, match=r"storage") as caught:
        storage.opened(address, tmp_path)
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)


def test_damaged_journal_is_an_error(tmp_path):
    """Behaviour: a file that is no journal is named."""
    (tmp_path / storage.JOURNAL).write_text("this is\nno journal\n")
    with pytest.raises(ValueError, match=r"journal\.log is damaged"):
        storage.opened(None, tmp_path)


def test_database_is_shared_by_coordinators_in_turn(tmp_path):
    """Twin: a database gives the study of the journal; what a dead coordinator had begun is taken over at once, what
    a living one of another machine is working on is left alone."""
    address = f"sqlite:///{tmp_path / 'study.db'}"
    whole = facts(conducted(tmp_path / "journal", 10, InlinePool()))
    with pytest.raises(KeyboardInterrupt):
        conducted(tmp_path / "a", 10, Disorderly(3, lambda number: number, [4]), address=address)
    study = optuna.load_study(study_name="toy", storage=address)
    running = [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    assert running
    another = {"name": "elsewhere 12 34", "until": time.time() + 3.0}
    for trial in running:
        study._storage.set_trial_user_attr(trial._trial_id, "owner", another)
    began = time.monotonic()
    done = conducted(tmp_path / "b", 10, InlinePool(), address=address)
    assert time.monotonic() - began > 2.0  # their lease had to end
    assert [trial.params for trial in done.trials] == [params for _, _, params, _ in whole]
    assert all(trial.state in (TrialState.COMPLETE, TrialState.FAIL) for trial in done.trials)
    assert len(done.trials) == 10


@pytest.mark.slow
def test_killed_coordinator_and_killed_worker(tmp_path):
    """Behaviour: kill -9 of a worker and then of the coordinator in the middle of real processes; the same command ends
    with the study of an undisturbed one."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from test_conduct import conducted
from hedgerl.studies.workers import LocalPool
if __name__ == "__main__":
    with LocalPool(2, threads=1) as pool:
        study = conducted(Path(sys.argv[1]), 12, pool, log=sys.argv[2], seconds=0.2)
    import json
    print(json.dumps([[t.number, t.state.name, t.params, t.values] for t in study.trials]))
"""
    )

    def start(name):
        arguments = [sys.executable, str(program), str(tmp_path / name), str(tmp_path / f"{name}.log")]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    whole = conducted(tmp_path / "whole", 12, InlinePool(), log=str(tmp_path / "whole.log"), seconds=0.2)
    expected = [[t.number, t.state.name, t.params, t.values] for t in whole.trials]
    coordinator = start("killed")
    log = tmp_path / "killed.log"
    while not log.exists() or len(log.read_text().split()) < 2:
        time.sleep(0.02)
    children = Path(f"/proc/{coordinator.pid}/task/{coordinator.pid}/children")
    if not children.exists():
        pytest.skip("/proc does not list children here")
    workers = [
        int(pid)
        for pid in children.read_text().split()
        if "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    os.kill(workers[0], signal.SIGKILL)
    while len(log.read_text().split()) < 6:
        time.sleep(0.02)
    coordinator.kill()
    coordinator.communicate()
    assert json.loads(start("killed").communicate()[0]) == expected


def test_wrong_settings_are_named():
    """Behaviour: an unknown sampler."""
    with pytest.raises(ValueError, match="sampler must be one of tpe, nsga2, nsga3, random, got 'cma'"):
        Sampling("cma")


def test_local_workers_make_the_same_study(tmp_path):
    """Twin: processes and this process."""
    plain = facts(conducted(tmp_path / "one", 8, InlinePool()))
    with LocalPool(2, threads=1) as pool:
        assert facts(conducted(tmp_path / "two", 8, pool)) == plain
