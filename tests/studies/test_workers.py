"""Worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hedgerl.sim.backend import usable_threads
from hedgerl.studies.workers import InlinePool, Job, LocalPool, run_all, share_of_threads

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def pool():
    with LocalPool(2, threads=1, devices=[5, 7]) as made:
        yield made


def test_jobs_end_with_a_value_or_an_error(pool):
    """Behaviour: more jobs than workers, one of which fails. Catches an error that stops the others."""
    jobs = [Job(i, "jobs:square", {"x": float(i)}) for i in range(4)] + [
        Job(4, "jobs:two", {"x": 2.0, "y": 0.0}),
        Job(5, "jobs:missing", {}),
    ]
    outcomes = run_all(pool, jobs)
    assert [outcomes[i].value["values"] for i in range(4)] == [[0.0], [1.0], [4.0], [9.0]]
    assert outcomes[4].error == "RuntimeError: no x above 1.5, got 2.0"
    assert outcomes[5].error.startswith("AttributeError: ")
    assert all(outcome.died is None for outcome in outcomes.values())


def test_worker_has_its_device_and_threads(pool):
    """Behaviour: each worker sees one device and its threads; this process keeps its own environment."""
    before = dict(os.environ)
    outcomes = run_all(pool, [Job(i, "jobs:surroundings", {}) for i in range(2)])
    seen = [outcome.value for outcome in outcomes.values()]
    assert {each["CUDA_VISIBLE_DEVICES"] for each in seen} <= {"5", "7"}
    assert all(each["OMP_NUM_THREADS"] == each["HEDGERL_THREADS"] == "1" for each in seen)
    assert all(each["torch"] == 1 for each in seen)
    assert os.getpid() not in {each["pid"] for each in seen}
    assert dict(os.environ) == before


def test_killed_worker_costs_its_own_job(pool, tmp_path):
    """Behaviour: a job whose worker is killed is begun again; one that kills every worker fails. Catches a hang."""
    marker = str(tmp_path / "marker")
    jobs = [Job(0, "jobs:die", {"marker": marker}), Job(1, "jobs:square", {"x": 3.0}), Job(2, "jobs:die", {})]
    outcomes = run_all(pool, jobs, retries=1)
    assert outcomes[0].value == {"values": [0.0], "reports": []}
    assert outcomes[1].value["values"] == [9.0]
    assert outcomes[2].error == "its worker died 2 times, the last time of signal 9 (SIGKILL)"


def test_worker_killed_while_idle_is_replaced(pool):
    """Behaviour: a worker that dies between two jobs loses none."""
    (outcome,) = run_all(pool, [Job(0, "jobs:surroundings", {})]).values()
    os.kill(outcome.value["pid"], signal.SIGKILL)
    time.sleep(0.2)
    outcomes = run_all(pool, [Job(i, "jobs:square", {"x": 2.0}) for i in range(3)])
    assert [outcome.value["values"] for outcome in outcomes.values()] == [[4.0]] * 3


def test_a_pool_takes_no_more_than_it_can():
    """Catches a job that is lost in a queue."""
    with LocalPool(1, threads=1) as pool:
        pool.submit(Job(0, "jobs:square", {"x": 1.0}))
        with pytest.raises(ValueError, match="all 1 are at work"):
            pool.submit(Job(1, "jobs:square", {"x": 1.0}))
    with pytest.raises(ValueError, match="workers must be a whole number"):
        LocalPool(0)


@pytest.mark.slow
def test_workers_end_with_their_coordinator(tmp_path):
    """Behaviour: kill -9 of the coordinator in the middle of a job leaves no process behind."""
    program = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from hedgerl.studies.workers import Job, LocalPool
if __name__ == "__main__":
    pool = LocalPool(1, threads=1)
    pool.submit(Job(0, "jobs:surroundings", {{}}))
    print(pool.wait()[0].value["pid"], flush=True)
    pool.submit(Job(1, "jobs:square", {{"x": 1.0, "seconds": 60.0}}))
    pool.wait()
"""
    file = tmp_path / "coordinator.py"
    file.write_text(program)
    with subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True) as coordinator:
        worker = int(coordinator.stdout.readline())
        coordinator.kill()
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its coordinator")


def test_inline_pool_is_a_pool():
    """Twin: the process itself as a worker gives what a worker gives."""
    outcomes = run_all(InlinePool(), [Job(i, "jobs:square", {"x": float(i)}) for i in range(3)])
    assert [outcomes[i].value["values"] for i in range(3)] == [[0.0], [1.0], [4.0]]


def test_threads_are_shared_and_limited(monkeypatch):
    """Limit: workers share the cores, one at least; HEDGERL_THREADS is an upper bound."""
    cores = usable_threads()
    assert share_of_threads(1) == cores
    assert share_of_threads(10 * cores) == 1
    monkeypatch.setenv("HEDGERL_THREADS", "1")
    assert usable_threads() == 1
    for meaningless in ("", "0", "many", str(10 * cores)):
        monkeypatch.setenv("HEDGERL_THREADS", meaningless)
        assert usable_threads() == cores
