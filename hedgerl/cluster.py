"""A Ray cluster: how this process joins it, and simulation spread over it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import itertools
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from hedgerl.sim import Paths
from hedgerl.sim.backend import Array, usable_threads
from hedgerl.sim.noise import STREAM_PATHS
from hedgerl.sim.parts import Joined, arrays_of

WITHIN = 20.0  # seconds in which a cluster must answer
_STARTED_WITHIN = 60.0  # ... and a first worker on each of its nodes
_CLIENT_PORT = 10001  # of ray://HOST
_PATHS, _BYTES = 16_384, 32 << 20  # of a task of simulation, at most
_HARMLESS = ("/ray.rpc.NodeInfoGcsService/CheckAlive", "/ray.rpc.RayletDriver/KVExists")  # for a head, and a client's
_TOKEN = "it asks for a token; set RAY_AUTH_MODE=token, and have its ~/.ray/auth_token here or in RAY_AUTH_TOKEN"
_CHANGED = ("PYTHONBREAKPOINT", "RAY_AUTH_MODE")  # by Ray, for the whole process


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, or what Ray takes for one."""

    identity: str
    name: str  # its address
    cpus: int
    gpus: int
    store: int  # bytes of its object store


class Cluster:
    """A cluster that this process has joined; it leaves with `close` or at the end of a `with` block.

    ray: the module. nodes: those with a CPU, when it was joined; all run the versions that this process runs.
    """

    def __init__(self, ray: Any, nodes: tuple[Node, ...], leave: Callable[[], object]) -> None:
        self.ray = ray
        self.nodes = nodes
        self._leave = leave

    @property
    def cpus(self) -> int:
        """Of all nodes."""
        return sum(node.cpus for node in self.nodes)

    def close(self) -> None:
        """Leaves the cluster: its workers for this process end. A cluster that `connect` has started ends, too."""
        self._leave()
        self._leave = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(address: str) -> Cluster:
    """The cluster at `address`, which is one of

    - "ray": the one that RAY_ADDRESS names or `ray start` has started here; where there is none, one of this machine
      alone, which ends with this process;
    - "auto": any that runs on this machine;
    - "HOST:PORT": its head's; this machine must be a node of it;
    - "ray://HOST:PORT": joined from outside, by Ray Client.

    A process that has joined one already stays there, whatever the address. Raises ValueError where Ray is not
    installed, where no cluster answers within 20 seconds, and where a node has other versions of hedgerl, Python,
    NumPy or torch: its numbers could be others.
    """
    if importlib.util.find_spec("ray") is None:
        raise ValueError(f"cluster={address} needs Ray, which is not installed: pip install 'hedgerl[dist]'")
    if not re.fullmatch(r"ray|auto|(ray://)?[^\s/:]+(:\d+)|ray://[^\s/:]+", address):
        raise ValueError(f"cluster must be null, ray, auto, HOST:PORT or ray://HOST:PORT, got {address!r}")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read at import and by the processes that are started
    ray = importlib.import_module("ray")
    with contextlib.ExitStack() as undo:
        if not ray.is_initialized():
            undo.enter_context(_joined(ray, address))
        nodes = _checked(ray, tuple(_nodes(ray)))
        if not nodes:
            raise ValueError(f"cluster must have a node with a CPU, got {address} without")
        return Cluster(ray, nodes, undo.pop_all().close)
    raise AssertionError


@contextmanager
def _joined(ray: Any, address: str) -> Iterator[None]:
    """Within it this process is in the cluster, quietly. Raises ValueError where there is none."""
    debug = os.environ.get("HEDGERL_DEBUG") == "1"
    given: dict[str, Any] = {"log_to_driver": debug, "logging_level": "INFO" if debug else "CRITICAL"}
    found = _found(address)
    with contextlib.ExitStack() as undo:
        undo.enter_context(_kept_environment())
        undo.enter_context(_silenced(debug))
        if found is None:
            # in a folder of its own: by the usual one other processes would find it, and lose it when this one ends
            folder = tempfile.mkdtemp(prefix="hedgerl-ray-")
            if not debug:
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
            cpus = usable_threads()
            given |= {"address": "local", "num_cpus": cpus, "include_dashboard": False, "_temp_dir": folder}
            given |= {"object_store_memory": min(4 * cpus * _BYTES, 2 << 30)}
        else:
            if _reach(address, found):
                _take_token(address, found)
            given |= {"address": found}
        restore = _sigterm_restored()
        undo.callback(restore)
        undo.callback(ray.shutdown)
        try:
            with contextlib.nullcontext() if debug else _stderr_dropped():
                ray.init(**given)
        except Exception as error:
            raise ValueError(_unreachable(address, error)) from error
        restore()
        yield


def _found(address: str) -> str | None:
    """The address of the cluster's head; None where one is to be started."""
    if address not in ("ray", "auto"):
        return _with_port(address)
    try:
        found = _services().get_ray_address_from_environment("auto" if address == "auto" else None, None)
    except ConnectionError:
        raise ValueError(
            "cluster must run where cluster=auto, got none; `ray start --head` starts one, cluster=ray does for a run"
        ) from None
    if found in (None, "local"):
        return None
    if address == "ray" and not os.environ.get("RAY_ADDRESS"):
        try:
            _reach(address, found)
        except ValueError:  # `ray start` has left a note of a cluster that is gone
            return None
    return _with_port(found)


def _with_port(address: str) -> str:
    client = address.startswith("ray://") and not re.search(r":\d+$", address)
    return f"{address}:{_CLIENT_PORT}" if client else address


def _services() -> Any:
    return importlib.import_module("ray._private.services")


def _reach(address: str, found: str) -> bool:
    """Whether the Ray head there asks for a token. ValueError where there is none: Ray's own attempts take minutes."""
    client = found.startswith("ray://")
    until = time.monotonic() + WITHIN
    host, _, port = found.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), WITHIN).close()
    except (OSError, OverflowError, ValueError) as error:
        raise ValueError(_unreachable(address, error)) from error
    asks = False
    if importlib.util.find_spec("grpc") is None:
        if client:
            raise ValueError(f"cluster={address} needs gRPC, which is not installed: pip install grpcio")
    elif os.environ.get("RAY_USE_TLS", "0") == "0":
        grpc = importlib.import_module("grpc")
        with grpc.insecure_channel(f"{host}:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                grpc.channel_ready_future(channel).result(max(1.0, until - time.monotonic()))
                channel.unary_unary(_HARMLESS[client])(b"", timeout=WITHIN)
            except grpc.FutureTimeoutError as error:
                raise ValueError(_unreachable(address, "what listens there is not Ray")) from error
            except grpc.RpcError as error:
                asks = error.code() is grpc.StatusCode.UNAUTHENTICATED
    if not client and not _services().find_node_ids():
        raise ValueError(
            f"cluster={address} can be joined on its nodes alone, which this machine is not; "
            f"`ray start --address={found}` makes it one, and ray://{host}:{_CLIENT_PORT} joins from outside"
        )
    return asks


def _take_token(address: str, found: str) -> None:
    """Has Ray send its token to a cluster of this machine, as its `auto` does; ValueError where it is another's.

    Not by `auto` itself: that sends it to clusters without tokens, too, whose nodes then cannot answer this process.
    """
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is None:
        noted = address in ("ray", "auto") and not os.environ.get("RAY_ADDRESS")
        if noted or found in _services().find_gcs_addresses():
            os.environ["RAY_AUTH_MODE"] = "token"
            _reread_environment()
            return
    if mode != "token":
        raise ValueError(_unreachable(address, _TOKEN))


def _reread_environment() -> None:
    importlib.import_module("ray._raylet").Config.initialize("")


def _unreachable(address: str, why: object) -> str:
    if isinstance(why, ConnectionError) and why.__cause__ is not None:
        why = why.__cause__
    text = why.strerror if isinstance(why, OSError) and why.strerror else str(why)
    if "InvalidAuthToken" in text:
        text = _TOKEN
    elif "Traceback" in text:  # of Ray's own processes
        text = text.strip().rpartition("\n")[2]
    return f"cluster must be one that can be joined, got {address}: {' '.join(text.split())}"


@contextmanager
def _kept_environment() -> Iterator[None]:
    """Puts back what Ray changes in this process's environment."""
    before = {name: os.environ.get(name) for name in _CHANGED}
    try:
        yield
    finally:
        mode = os.environ.get("RAY_AUTH_MODE")
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if mode != before["RAY_AUTH_MODE"]:
            _reread_environment()


def _sigterm_restored() -> Callable[[], object]:
    """What puts back the handler of SIGTERM, which `ray.init` replaces and `ray.shutdown` drops unseen by Python."""
    before = signal.getsignal(signal.SIGTERM)

    def restore() -> None:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)

    return restore


@contextmanager
def _stderr_dropped() -> Iterator[None]:
    """Drops what Ray's core writes of every attempt to join; no setting of Ray's does."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _silenced(debug: bool) -> Iterator[None]:
    """Keeps stdout free of the deaths of workers, which Ray prints there whatever `log_to_driver` is."""
    module = importlib.import_module("ray._private.worker")
    name = "print_to_stdstream"
    if debug or not hasattr(module, name):
        yield
        return
    before = getattr(module, name)
    setattr(module, name, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(module, name, before)


def _nodes(ray: Any) -> Iterator[Node]:
    """Those that are alive and have a CPU."""
    for node in ray.nodes():
        resources = node["Resources"]
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if node["Alive"] and cpus:
            store = int(resources.get("object_store_memory", 0))
            yield Node(node["NodeID"], node["NodeManagerAddress"], cpus, gpus, store)


def _checked(ray: Any, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The nodes, less those that are gone before the cluster knows.

    Raises ValueError naming a node that has another version of what the numbers depend on.
    """

    def versions() -> dict[str, str]:  # inside, so that it travels whole to where there may be no hedgerl
        import importlib
        import importlib.metadata
        import platform

        found = {"Python": platform.python_version().rpartition(".")[0]}
        try:
            found["hedgerl"] = importlib.import_module("hedgerl").__version__
        except ImportError:
            found["hedgerl"] = "none"
        for name in ("numpy", "torch"):
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = "none"
        return found

    affinity = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    task = ray.remote(versions)
    asked = {
        task.options(num_cpus=0, scheduling_strategy=affinity(node.identity, soft=False)).remote(): node
        for node in nodes
    }
    _, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_STARTED_WITHIN)
    for request in silent:
        raise ValueError(
            f"cluster must start a worker on every node within {_STARTED_WITHIN:g} s, got none on {asked[request].name}"
        )
    expected = versions()
    there = []
    for request, node in asked.items():
        try:
            found = ray.get(request)
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue
        except ray.exceptions.RayError as error:
            raise ValueError(f"cluster must start a worker on every node, got none on {node.name}: {error}") from error
        for name, version in expected.items():
            if found[name] != version:
                raise ValueError(f"cluster must have {name} {version} on every node, got {found[name]} on {node.name}")
        there.append(node)
    return tuple(there)


# Simulation


def simulate_on(
    address: str,
    simulate: Callable[..., Paths],
    n_paths: int,
    progress: Callable[[int, int], None] | None = None,
) -> Paths:
    """What `simulate(n_paths)` gives, to the last bit where the nodes' processors are of one kind.

    address: see `connect`. simulate: `Model.simulate` with NumPy and with whatever else it is given, but for n_paths,
    part, threads and progress: each task takes one CPU and a part of the paths. Tasks that are lost with their worker
    are begun again. Raises what `simulate` and `connect` raise, and ConnectionError where a part is lost for good.
    """
    first = simulate(n_paths, part=(0, 1), threads=1)  # refuses what is wrong, draws the seed, shows the arrays
    joined = Joined(first, n_paths)
    with connect(address) as cluster:
        simulate = functools.partial(simulate, seed=first.seed)
        done = 0
        for columns, arrays in _parts(cluster, simulate, n_paths, _width(cluster, n_paths, joined.bytes_per_path)):
            joined.put(columns, arrays)
            done += columns.stop - columns.start
            if progress is not None:
                progress(done, n_paths)
    return joined.paths()


def _parts(
    cluster: Cluster, simulate: Callable[..., Paths], n_paths: int, width: int
) -> Iterator[tuple[slice, dict[str, Array]]]:
    """Columns and what belongs into them, as they come; the arrays lie in the object store until the next."""
    ray = cluster.ray
    task = ray.remote(_simulated).options(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")
    waiting = iter([(start, min(start + width, n_paths)) for start in range(0, n_paths, width)])
    running: dict[Any, tuple[int, int]] = {}
    try:
        while True:
            for part in itertools.islice(waiting, 2 * cluster.cpus - len(running)):
                running[task.remote(simulate, n_paths, part)] = part
            if not running:
                return
            (request,), _ = ray.wait(list(running))
            part = running.pop(request)
            try:
                arrays = ray.get(request)
            except ray.exceptions.RayTaskError as error:
                raise error.cause or ValueError(str(error)) from None
            except ray.exceptions.RayError as error:
                name = type(error).__name__
                raise ConnectionError(f"cluster has lost paths {part[0]} to {part[1]}: {name}: {error}") from error
            yield slice(*part), arrays
            del request, arrays
    finally:
        for request in running:
            ray.cancel(request, force=True)


def _width(cluster: Cluster, n_paths: int, bytes_per_path: int) -> int:
    """Paths of a task: whole streams; few enough that two tasks for each CPU fill half of the object stores."""
    room = min(_BYTES, sum(node.store for node in cluster.nodes) // (4 * cluster.cpus))
    most = min(_PATHS, room // bytes_per_path, n_paths // (2 * cluster.cpus))
    return max(1, most // STREAM_PATHS) * STREAM_PATHS


def _simulated(simulate: Callable[..., Paths], n_paths: int, part: tuple[int, int]) -> dict[str, Array]:
    """The work of a task."""
    return arrays_of(simulate(n_paths, part=part, threads=1))
