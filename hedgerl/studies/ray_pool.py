"""Workers on a Ray cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Self

from hedgerl.cluster import Cluster, connect
from hedgerl.pricing._checks import whole_number
from hedgerl.studies.workers import THREAD_VARIABLES, Job, Outcome, run_job

_PERMANENT = ("RuntimeEnvSetupError", "TaskUnschedulableError")  # errors of Ray's that another attempt would repeat


class RayPool:
    """`size` jobs at a time on the cluster at `address` (see `hedgerl.cluster.connect`), each with `threads` threads.

    threads: as many CPUs a job takes; None: the most with which all jobs find room. gpus: GPUs a job takes, of which it
    sees no other; none where no node has one. A job runs in the folder that this process is in and writes into those
    that its arguments name: where the cluster has several machines, these must be on a file system that all share.
    Raises ValueError for a cluster that cannot be joined, and for a job that finds room on no node.
    """

    def __init__(self, address: str, size: int, threads: int | None = None, gpus: float = 0.0) -> None:
        self.size = whole_number("workers", size)
        if threads is not None:
            whole_number("threads", threads)
        self._cluster = connect(address)
        try:
            nodes = self._cluster.nodes
            self.gpus = gpus if any(node.gpus for node in nodes) else 0.0
            cpus = [node.cpus for node in nodes if node.gpus >= self.gpus]
            if not cpus:
                raise ValueError(f"gpus must be at most those of a node, {max(n.gpus for n in nodes)}, got {gpus:g}")
            self.threads = _share(cpus, self.size) if threads is None else threads
            if self.threads > max(cpus):
                raise ValueError(f"threads must be at most the CPUs of a node, {max(cpus)}, got {threads}")
        except BaseException:
            self._cluster.close()
            raise
        environment = {str(name): str(self.threads) for name in THREAD_VARIABLES}
        if "HEDGERL_DEBUG" in os.environ:
            environment["HEDGERL_DEBUG"] = os.environ["HEDGERL_DEBUG"]
        self._task = self._cluster.ray.remote(_work).options(
            num_cpus=self.threads,
            num_gpus=self.gpus,
            max_retries=0,  # whoever uses the pool decides
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": environment},  # there before NumPy and torch are loaded
        )
        self._running: dict[Any, tuple[int, float]] = {}

    @property
    def cluster(self) -> Cluster:
        """The cluster."""
        return self._cluster

    def submit(self, job: Job) -> None:
        """See `Pool.submit`."""
        if len(self._running) >= self.size:
            raise ValueError(f"submit needs an idle worker, all {self.size} are at work")
        request = self._task.remote(job.work, dict(job.arguments), self.threads, os.getcwd())
        self._running[request] = job.number, time.perf_counter()

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """See `Pool.wait`."""
        if not self._running:
            return []
        ray = self._cluster.ray
        ready, busy = ray.wait(list(self._running), timeout=timeout)
        if ready and busy:
            ready += ray.wait(busy, num_returns=len(busy), timeout=0)[0]
        return [self._outcome(request) for request in ready]

    def close(self) -> None:
        """See `Pool.close`; leaves the cluster."""
        for request in self._running:
            self._cluster.ray.cancel(request, force=True)
        self._running = {}
        self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _outcome(self, request: Any) -> Outcome:
        number, since = self._running.pop(request)
        exceptions = self._cluster.ray.exceptions
        try:
            value, error, seconds = self._cluster.ray.get(request)
            return Outcome(number, value, error, None, seconds)
        except exceptions.RayTaskError as failed:  # outside of the job's function: its value cannot travel
            cause = failed.cause or failed
            text = " ".join(f"{type(cause).__name__}: {cause}".split())
            return Outcome(number, error=text, seconds=time.perf_counter() - since)
        except exceptions.RayError as lost:
            name = type(lost).__name__
            text = f"{name}: {' '.join(str(lost).split()).partition('. ')[0]}"
            seconds = time.perf_counter() - since
            if name in _PERMANENT:
                return Outcome(number, error=text, seconds=seconds)
            return Outcome(number, died=text, seconds=seconds)


def _share(cpus: list[int], size: int) -> int:
    """The most threads with which `size` jobs run at once on nodes of so many CPUs; 1 where they do not with any."""
    return next((each for each in range(max(cpus), 1, -1) if sum(count // each for count in cpus) >= size), 1)


def _work(
    work: str, arguments: Mapping[str, Any], threads: int, folder: str
) -> tuple[dict[str, Any] | None, str | None, float]:
    """A job, in a worker."""
    if os.path.isdir(folder):
        os.chdir(folder)
    import torch

    torch.set_num_threads(threads)
    return run_job(work, arguments)
