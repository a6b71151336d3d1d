"""Jobs and simulation on a Ray cluster: two nodes of one CPU each, on this machine."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hedgerl
from hedgerl import cli, cluster
from hedgerl.sim import BlackScholes, Heston, Paths, RoughBergomi, load
from hedgerl.studies.ray_pool import RayPool, _share
from hedgerl.studies.workers import InlinePool, Job, run_all

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
HESTON = Heston(kappa=2.0, theta=0.04, sigma=0.9, rho=-0.7, v0=0.04)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the cluster's head."""
    utilities = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
    folder = tempfile.mkdtemp(prefix="hr-")  # a socket's path is short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)  # where `auto` looks
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_AUTH_MODE", raising=False)
        patch.setenv("RAY_idle_worker_killing_time_threshold_ms", "600000")  # a new one has everything to import
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)  # jobs.py
        made = utilities.Cluster()
        try:
            for _ in range(2):
                made.add_node(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20)
            yield made.address
        finally:
            made.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def pool(address: str) -> Iterator[RayPool]:
    with RayPool(address, 2) as made:
        yield made


# Before there is a cluster


@pytest.fixture
def apart() -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    if ray.is_initialized():
        pytest.skip("this process is in a cluster already")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_no_cluster_at_the_address(apart: None, scheme: str) -> None:
    """Behaviour: one line, at once. Catches the minutes of attempts that Ray makes by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
    began = time.perf_counter()
    with pytest.raises(ValueError, match=rf"^cluster must be one that can be joined, got {where}: Connection refused$"):
        cluster.connect(where)
    assert time.perf_counter() - began < 10.0


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_something_else_at_the_address(apart: None, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour: a port that is open but silent. Catches a wait without an end."""
    monkeypatch.setattr(cluster, "WITHIN", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        where = f"{scheme}127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ValueError, match=rf"^cluster must .* got {where}: what listens there is not Ray$"):
            cluster.connect(where)


def test_a_cluster_of_other_machines(apart: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour: HOST:PORT from outside. Catches a minute's wait for a node that this machine is not."""
    grpc, futures = importlib.import_module("grpc"), importlib.import_module("concurrent.futures")
    monkeypatch.setattr("ray._private.services.find_node_ids", set)
    head = grpc.server(futures.ThreadPoolExecutor(1))
    where = f"127.0.0.1:{head.add_insecure_port('127.0.0.1:0')}"
    head.start()
    try:
        with pytest.raises(ValueError, match=rf"^cluster={where} can be joined on its nodes alone, .*; `ray start "):
            cluster.connect(where)
    finally:
        head.stop(None)


def test_what_is_no_address(apart: None) -> None:
    """Catches a mistyped name that is taken for a host."""
    with pytest.raises(ValueError, match=r"^cluster must be null, ray, auto, HOST:PORT or ray://HOST:PORT, got 'rya'$"):
        cluster.connect("rya")


def test_auto_needs_a_cluster(apart: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Behaviour: `auto` starts none of its own."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", frozenset)
    with pytest.raises(ValueError, match=r"^cluster must run where cluster=auto, got none; "):
        cluster.connect("auto")


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an ImportError where a line is due."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    with pytest.raises(ValueError, match=r"^cluster=ray needs Ray, .* pip install 'hedgerl\[dist\]'$"):
        cluster.connect("ray")


def test_share_of_threads() -> None:
    """By hand: as many threads as leave room for all jobs."""
    assert [_share([4, 4], size) for size in (1, 2, 3, 4, 8, 9)] == [4, 4, 2, 2, 1, 1]
    assert _share([8, 2], 2) == 4


# Jobs


def test_jobs_end_with_a_value_or_an_error(pool: RayPool) -> None:
    """Twin of the local pool: more jobs than workers, some of which fail, in the same words."""
    jobs = [Job(i, "jobs:square", {"x": float(i)}) for i in range(4)] + [
        Job(4, "jobs:two", {"x": 2.0, "y": 0.0}),
        Job(5, "jobs:missing", {}),
    ]
    outcomes = run_all(pool, jobs)
    assert [outcomes[i].value["values"] for i in range(4)] == [[0.0], [1.0], [4.0], [9.0]]
    assert outcomes[4].error == "RuntimeError: no x above 1.5, got 2.0"
    assert outcomes[5].error.startswith("AttributeError: ")
    assert all(outcome.died is None for outcome in outcomes.values())


def test_workers_have_their_threads(pool: RayPool) -> None:
    """Identity: the threads that a local worker has, or sums would be taken in another order."""
    (outcome,) = run_all(pool, [Job(0, "jobs:surroundings", {})]).values()
    assert pool.threads == 1
    assert outcome.value["OMP_NUM_THREADS"] == outcome.value["HEDGERL_THREADS"] == "1"
    assert outcome.value["torch"] == 1
    assert outcome.value["pid"] != os.getpid()


def test_results_come_as_they_are_ready(pool: RayPool) -> None:
    """Behaviour: the quick one first; a timeout gives nothing; no third job. Catches a wait for the oldest."""
    run_all(pool, [Job(i, "jobs:square", {"x": 1.0, "seconds": 0.2}) for i in range(2)])  # both workers are there
    pool.submit(Job(1, "jobs:square", {"x": 1.0, "seconds": 3.0}))
    pool.submit(Job(2, "jobs:square", {"x": 2.0}))
    with pytest.raises(ValueError, match=r"^submit needs an idle worker, all 2 are at work$"):
        pool.submit(Job(3, "jobs:square", {"x": 3.0}))
    assert [outcome.number for outcome in pool.wait()] == [2]
    assert pool.wait(timeout=0.05) == []
    assert [outcome.number for outcome in pool.wait()] == [1]
    assert pool.wait() == []


def test_killed_worker_costs_its_own_job(pool: RayPool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Behaviour: its death is told, not hidden by an attempt of Ray's; the pool goes on. Catches a hang."""
    pool.submit(Job(0, "jobs:die", {"marker": str(tmp_path / "marker")}))
    (outcome,) = pool.wait()
    assert outcome.value is None
    assert outcome.error is None
    assert outcome.died == "WorkerCrashedError: The worker died unexpectedly while executing this task"
    pool.submit(Job(0, "jobs:die", {"marker": str(tmp_path / "marker")}))
    assert pool.wait()[0].value == {"values": [0.0], "reports": []}
    assert capfd.readouterr() == ("", "")


def test_study_is_that_of_one_machine(pool: RayPool, tmp_path: Path) -> None:
    """Twin: tasks on two nodes and this process make the same trials with the same values."""
    studies = importlib.import_module("test_conduct")
    here = studies.conducted(tmp_path / "here", 8, InlinePool())
    there = studies.conducted(tmp_path / "there", 8, pool)
    assert studies.facts(there) == studies.facts(here)


def test_room_that_no_node_has(address: str, pool: RayPool) -> None:
    """Catches a job that waits for ever, and a pool that, refused, takes the others' cluster away."""
    with pytest.raises(ValueError, match=r"^threads must be at most the CPUs of a node, 1, got 2$"):
        RayPool(address, 2, threads=2)
    assert pool.cluster.ray.is_initialized()


def test_nodes_of_another_version(address: str, pool: RayPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches results of two programs in one study."""
    version = hedgerl.__version__
    monkeypatch.setattr(hedgerl, "__version__", "9.0")
    with pytest.raises(ValueError, match=rf"^cluster must have hedgerl 9.0 on every node, got {version} on "):
        cluster.connect(address)


# Simulation


def seen(simulate: Any, folder: str, *args: Any, **options: Any) -> Paths:
    """What it simulates; leaves a file named after the node that it is on."""
    import ray

    Path(folder, ray.get_runtime_context().get_node_id()).touch()
    return simulate(*args, **options)


def fragile(simulate: Any, marker: str, *args: Any, **options: Any) -> Paths:
    """What it simulates; kills the first worker that is not given the first path alone."""
    if options["part"] != (0, 1) and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return simulate(*args, **options)


def by_value(function: Any) -> Any:
    """The function made such that it travels whole: the nodes know nothing of this file."""
    pickle = importlib.import_module("ray.cloudpickle")
    pickle.register_pickle_by_value(sys.modules[__name__])
    return function


def assert_same(ours: Paths, expected: Paths) -> None:
    assert (ours.model, ours.seed, ours.ranges) == (expected.model, expected.seed, expected.ranges)
    assert ours.variance.strides == expected.variance.strides
    for name in ("spot", "variance"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name), err_msg=name)
        assert getattr(ours, name).dtype == getattr(expected, name).dtype
    for kind in ("parameters", "state"):
        assert getattr(ours, kind).keys() == getattr(expected, kind).keys()
        for name, values in getattr(expected, kind).items():
            np.testing.assert_array_equal(getattr(ours, kind)[name], values, err_msg=name)


def test_simulation_is_that_of_one_machine(address: str, pool: RayPool, tmp_path: Path) -> None:
    """Identity, to the last bit, by the work of both nodes. Catches parts that are put in the order they come, and a
    cluster of which one node idles."""
    options: dict[str, Any] = {"n_steps": 20, "maturity": 20 / 252, "seed": 3, "backend": "numpy", "antithetic": True}
    simulate = functools.partial(HESTON.simulate, perturb={"kappa": (1.0, 4.0)}, **options)
    told: list[tuple[int, int]] = []
    spread = functools.partial(by_value(seen), simulate, str(tmp_path))
    # the driver is on a node, too, but draws the first path only
    ours = cluster.simulate_on(address, spread, 20_002, lambda *each: told.append(each))
    assert_same(ours, simulate(20_002))
    assert told[-1] == (20_002, 20_002)
    assert len(told) == 5
    with cluster.connect(address) as joined:
        assert {path.name for path in tmp_path.iterdir()} >= {node.identity for node in joined.nodes}
        assert len(joined.nodes) == 2


@pytest.mark.parametrize(
    "model",
    [BlackScholes(volatility=0.2), RoughBergomi(hurst=0.1, eta=1.5, rho=-0.7, forward_variance=((0, 1), (0.04, 0.05)))],
    ids=["constant variance", "state"],
)
def test_arrays_of_every_kind(address: str, pool: RayPool, model: Any) -> None:
    """Identity. Catches a constant variance that grows into an array, and state that is left behind."""
    simulate = functools.partial(model.simulate, n_steps=5, maturity=0.1, seed=3, backend="numpy", dtype="float64")
    assert_same(cluster.simulate_on(address, simulate, 5_000), simulate(5_000))


def test_a_seed_is_drawn_once(address: str, pool: RayPool) -> None:
    """Identity. Catches parts of which each has fresh entropy of its own."""
    simulate = functools.partial(HESTON.simulate, n_steps=2, maturity=0.1, backend="numpy")
    ours = cluster.simulate_on(address, simulate, 3_000)
    assert_same(ours, simulate(3_000, seed=ours.seed))


def test_a_part_that_is_lost_is_made_again(address: str, pool: RayPool, tmp_path: Path) -> None:
    """Behaviour: a worker that is killed costs time alone."""
    simulate = functools.partial(HESTON.simulate, n_steps=2, maturity=0.1, seed=1, backend="numpy")
    spread = functools.partial(by_value(fragile), simulate, str(tmp_path / "marker"))
    assert_same(cluster.simulate_on(address, spread, 5_000), simulate(5_000))
    assert (tmp_path / "marker").exists()


def test_what_is_wrong_is_told_in_the_models_words(address: str, pool: RayPool) -> None:
    """Catches a number of paths that is refused as that of a part, or a traceback of Ray's."""
    simulate = functools.partial(HESTON.simulate, n_steps=2, maturity=0.1, backend="numpy", antithetic=True)
    with pytest.raises(ValueError, match=r"^n_paths must be even where antithetic is set, got 5001$"):
        cluster.simulate_on(address, simulate, 5_001)


def test_command_writes_the_same_data_set(
    pool: RayPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Identity: `execution=ray` changes no byte. Catches an address that meta.json keeps."""
    monkeypatch.chdir(tmp_path)
    given = ["market=heston", "n_paths=3000", "n_steps=5", "maturity=0.1", "options=[]", "preview=false"]
    assert cli.main(["simulate", *given, "backend=numpy", "out=here"]) == 0
    assert cli.main(["simulate", *given, "backend=numpy", "out=there", "execution=ray"]) == 0
    assert capfd.readouterr().err == ""
    for name in ("meta.json", "spot.npy", "variance.npy"):
        assert Path("there", name).read_bytes() == Path("here", name).read_bytes(), name
    assert load("there", verify=True).n_paths == 3_000
    assert cli.main(["simulate", *given, "backend=cupy", "cluster=ray"]) == 2
    assert "backend must be numpy or auto, which means numpy, on a cluster, got 'cupy'" in capfd.readouterr().err


def test_a_cluster_for_one_process() -> None:
    """Behaviour: `ray` starts one where there is none, and nothing is left of it: no output, no folder. Catches a
    SIGTERM that ends the process at once, within or afterwards, and so leaves what is half-written."""
    pytest.importorskip("ray", reason="Ray is not installed")
    program = """
import os, signal
from hedgerl import cluster
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append("stop"))
before = dict(os.environ)
with cluster.connect("ray") as joined:
    print(joined.cpus, os.listdir(os.environ["TMPDIR"])[0][:12])
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == ["stop"]
os.kill(os.getpid(), signal.SIGTERM)
assert heard == ["stop", "stop"]
assert not joined.ray.is_initialized()
assert {**before, "RAY_USAGE_STATS_ENABLED": "0"} == dict(os.environ)
"""
    folder = tempfile.mkdtemp(prefix="hr-")
    hidden = ("RAY_ADDRESS", "RAY_TMPDIR", "HEDGERL_DEBUG")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"TMPDIR": folder, "HEDGERL_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "1 hedgerl-ray-\n", "")
        assert os.listdir(folder) == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
