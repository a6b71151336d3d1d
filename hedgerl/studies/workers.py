"""Worker processes that run one job after another: each has its own device, its threads, and nothing to lose."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context, parent_process
from typing import Any, Protocol, Self

from hedgerl.pricing._checks import whole_number
from hedgerl.sim.backend import THREADS, usable_threads

# Read by NumPy's and torch's libraries when they are loaded, THREADS by hedgerl.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", THREADS)
_LEAVING = 5.0  # seconds that an idle worker has to leave by itself
_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Job:
    """Something to be done by a worker."""

    number: int  # its name, among those that are running
    work: str  # "hedgerl.studies.trial:run": a function of this package, from the arguments to a mapping
    arguments: Mapping[str, Any]  # as JSON knows them


@dataclass(frozen=True)
class Outcome:
    """How a job has ended: with one of value, error and died."""

    number: int
    value: dict[str, Any] | None = None  # what the function returned
    error: str | None = None  # an exception of the function, in a line
    died: str | None = None  # why the worker is gone: the job may be given to another
    seconds: float = 0.0  # of the function


class Pool(Protocol):
    """Workers that take jobs."""

    size: int  # jobs at a time

    def submit(self, job: Job) -> None:
        """Gives the job to an idle worker; ValueError where there is none."""
        ...

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """Those that have ended; blocks until there is one, or so many seconds. Empty where nothing is running."""
        ...

    def close(self) -> None:
        """Ends the workers at once; what was running is lost."""
        ...


def run_all(
    pool: Pool, jobs: Iterable[Job], *, retries: int = 2, ended: Callable[[Outcome], None] = lambda _: None
) -> dict[int, Outcome]:
    """The outcomes of all jobs by number; one whose worker dies is begun again `retries` times.

    ended: told of each final outcome as it comes.
    """
    waiting = list(jobs)[::-1]
    running: dict[int, Job] = {}
    deaths: dict[int, int] = {}
    outcomes: dict[int, Outcome] = {}
    while waiting or running:
        while waiting and len(running) < pool.size:
            job = waiting.pop()
            pool.submit(job)
            running[job.number] = job
        for outcome in pool.wait():
            job = running.pop(outcome.number)
            if outcome.died is not None:
                deaths[job.number] = deaths.get(job.number, 0) + 1
                if deaths[job.number] <= retries:
                    waiting.append(job)
                    continue
                outcome = replace(outcome, died=None, error=epitaph(deaths[job.number], outcome.died))
            outcomes[outcome.number] = outcome
            ended(outcome)
    return outcomes


def epitaph(times: int, last: str) -> str:
    """The error of a job that no worker has survived."""
    return f"its worker died {times} times, the last time of {last}"


def share_of_threads(workers: int) -> int:
    """Threads of each of so many workers on this machine."""
    return max(1, usable_threads() // workers)


def run_job(work: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None, float]:
    """(value, error, seconds) of a job's function."""
    began = time.perf_counter()
    value, error = None, None
    try:
        module, _, name = work.partition(":")
        value = dict(getattr(importlib.import_module(module), name)(**arguments))
    except Exception as caught:
        error = " ".join(f"{type(caught).__name__}: {caught}".split())
        if os.environ.get("HEDGERL_DEBUG") == "1":
            traceback.print_exc()
    return value, error, time.perf_counter() - began


class LocalPool:
    """`workers` processes of this machine, each with `threads` threads.

    Worker i sees the device `devices[i % len(devices)]` alone, as cuda:0; none: all that there are. They are processes
    of their own, started afresh, which end when this one does, however it ends; one that is gone is replaced by the
    next `submit`.
    """

    def __init__(self, workers: int, threads: int | None = None, devices: Sequence[int | str] | None = None) -> None:
        self.size = whole_number("workers", workers)
        self.threads = share_of_threads(workers) if threads is None else whole_number("threads", threads)
        self.devices = [str(device) for device in devices or ()]
        self._context = get_context("spawn")
        self._workers: list[_Worker | None] = [None] * workers

    def submit(self, job: Job) -> None:
        """See `Pool.submit`."""
        for place, worker in enumerate(self._workers):
            if worker is None:
                worker = self._workers[place] = self._started(place)
            if worker.job is None:
                worker.job, worker.since = job.number, time.perf_counter()
                try:
                    worker.line.send((job.work, dict(job.arguments)))
                except OSError:  # it has died while idle; `wait` will see it
                    pass
                return
        raise ValueError(f"submit needs an idle worker, all {self.size} are at work")

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """See `Pool.wait`."""
        busy = {worker.line: place for place, worker in enumerate(self._workers) if worker and worker.job is not None}
        if not busy:
            return []
        outcomes = []
        for line in connection.wait(list(busy), timeout):
            place = busy[line]
            worker = self._workers[place]
            assert worker is not None
            job, worker.job = worker.job, None
            assert job is not None
            try:
                value, error, seconds = worker.line.recv()
                outcomes.append(Outcome(job, value, error, None, seconds))
            except (EOFError, OSError):
                seconds = time.perf_counter() - worker.since
                outcomes.append(Outcome(job, died=worker.epitaph(), seconds=seconds))
                self._workers[place] = None
        return outcomes

    def close(self) -> None:
        """See `Pool.close`."""
        for worker in self._workers:
            if worker is not None:
                worker.line.close()  # on which an idle one leaves
        for worker in self._workers:
            if worker is not None:
                worker.process.join(0.0 if worker.job is not None else _LEAVING)
                worker.process.kill()
                worker.process.join()
        self._workers = [None] * self.size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self, place: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        variables: dict[str, str] = {name: str(self.threads) for name in THREAD_VARIABLES}
        if self.devices:
            variables[_DEVICES] = self.devices[place % len(self.devices)]
        process = self._context.Process(target=_serve, args=(theirs, self.threads), name=f"hedgerl-worker-{place}")
        with environment(variables):
            process.start()
        theirs.close()
        return _Worker(process, ours)


class InlinePool:
    """This process itself as the only worker."""

    size = 1

    def __init__(self) -> None:
        self._job: Job | None = None

    def submit(self, job: Job) -> None:
        """See `Pool.submit`."""
        if self._job is not None:
            raise ValueError("submit needs an idle worker, the only one is at work")
        self._job = job

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """Does the job; see `Pool.wait`."""
        if self._job is None:
            return []
        job, self._job = self._job, None
        value, error, seconds = run_job(job.work, job.arguments)
        return [Outcome(job.number, value, error, None, seconds)]

    def close(self) -> None:
        """See `Pool.close`."""


class _Worker:
    """A process, the line to it, and what it is doing."""

    def __init__(self, process: Any, line: Any) -> None:
        self.process, self.line = process, line
        self.job: int | None = None
        self.since = 0.0

    def epitaph(self) -> str:
        """Why it is gone."""
        self.process.join(5.0)
        self.line.close()
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"signal {-code} ({signal.Signals(-code).name})"
        return f"exit status {code}"


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables for a process that is started within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(line: Any, threads: int) -> None:
    """A worker's life."""
    if hasattr(os, "setsid"):
        os.setsid()  # a Ctrl-C in the terminal is for the coordinator, which ends its workers
    parent = parent_process()
    assert parent is not None

    def orphaned() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=orphaned, daemon=True).start()
    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the machine, which a killed worker leaves behind
    while True:
        try:
            work, arguments = line.recv()
        except EOFError:
            return
        answer = run_job(work, arguments)
        sys.stdout.flush()
        line.send(answer)
