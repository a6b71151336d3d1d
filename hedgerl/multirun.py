"""The runs of the command line as Hydra jobs: one, or many of which none stops or overwrites another.

Read from the top down: one job and what it leaves, the folder of many, how they are launched and counted.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from hedgerl.files import write_text
from hedgerl.studies.workers import THREAD_VARIABLES, environment, share_of_threads

JOB, ERROR, LOG = "job.json", "error.json", "log.txt"
RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"
LAUNCHERS = {  # of Hydra's, and the packages that bring them
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
_MARK = "multirun.yaml"  # Hydra's own; who creates it has the folder
_LONG = 60 * 24 * 365  # minutes
_NAMED = 10  # files, and runs beside the first that failed, that an error names


class Failed(BaseException):
    """Carries an error out of a Hydra job: Hydra catches every Exception and prints lines of its own about it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class RunsFailed(ValueError):
    """Some runs of a multirun failed; the others have ended well."""


def register() -> None:
    """Makes ${token:} known: eight digits, drawn once for a run or a multirun.

    With it, folders have different names where two processes start in the same microsecond, on one machine or several.
    """
    OmegaConf.register_new_resolver("token", lambda: secrets.token_hex(4), use_cache=True, replace=True)


# One run


@dataclass(frozen=True)
class Job:
    """What Hydra calls for each run, in this process or pickled in another.

    work : does the run of a command, from its configuration, in a folder.
    explain : an error in one line; None for a defect.
    logged : whether what the run says goes to log.txt, as that of several at once would mingle.

    It leaves job.json in the run's folder (state, seconds, where it runs), and error.json after an error (error: one
    line, traceback). A run alone raises it as `Failed`; one of many only writes it, and the others go on.
    """

    command: str
    work: Callable[[str, DictConfig, Path], None]
    explain: Callable[[BaseException, list[str]], str | None]
    logged: bool = False

    def __call__(self, config: DictConfig) -> None:
        """Does the run of this configuration."""
        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        many = hydra.mode == RunMode.MULTIRUN
        record = _Record(folder, self.command, int(hydra.job.num) if many else None)
        try:
            record.begin()
            with _said_to(folder / LOG if self.logged else None):
                self.work(self.command, config, folder)
            record.end(FINISHED)
        except Exception as error:
            line = self.explain(error, [self.command, *hydra.overrides.task])
            line = line or f"{type(error).__name__}: {' '.join(str(error).split())}"
            _write_error(folder, line, "".join(traceback.format_exception(error)))
            record.end(FAILED)  # after error.json: who reads that it failed finds why
            if not many:
                raise Failed(error) from error
            if not self.logged:
                _say(f"hedgerl: run {record.number} failed: {line}")
            if os.environ.get("HEDGERL_DEBUG") == "1":
                traceback.print_exception(error)
        except BaseException:
            record.end(STOPPED)
            raise


class _Record:
    """job.json of a run, from its beginning to its end; the seconds of a run that was continued are those of all parts.

    An error.json of an earlier attempt goes.
    """

    def __init__(self, folder: Path, command: str, number: int | None) -> None:
        self.folder, self.number = folder, number
        earlier = read(folder / JOB)
        if number is not None and earlier.get("number", number) != number:
            raise ValueError(f"hydra.sweep.subdir must give each run a folder of its own, got {folder} twice")
        seconds = earlier.get("seconds") if earlier else 0.0
        self.seconds = seconds if isinstance(seconds, int | float) else None  # a part of it is not known
        self.content: dict[str, Any] = {
            "command": command,
            "number": number,
            "state": RUNNING,
            "seconds": None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }

    def begin(self) -> None:
        """Says that it runs."""
        self.began = time.monotonic()
        (self.folder / ERROR).unlink(missing_ok=True)
        self._write()

    def end(self, state: str) -> None:
        """Says how it ended."""
        seconds = time.monotonic() - self.began
        known = None if self.seconds is None else round(self.seconds + seconds, 3)
        self.content |= {"state": state, "seconds": known}
        if state == FINISHED:  # a second process may have tried in the meantime
            (self.folder / ERROR).unlink(missing_ok=True)
        self._write()

    def _write(self) -> None:
        write_text(self.folder / JOB, json.dumps(self.content) + "\n")


def _write_error(folder: Path, line: str, trace: str = "") -> None:
    write_text(folder / ERROR, json.dumps({"error": line, "traceback": trace}, indent=1) + "\n")


def read(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty where there is none or it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def _said_to(file: Path | None) -> Iterator[None]:
    if file is None:
        yield
        return
    with open(file, "a", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# The folder of many


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The folder is this process's alone, and goes where the block raises before anything has been written into it.

    Raises ValueError where it holds anything: runs of two multiruns are never mixed.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / _MARK
    told = f"hydra.sweep.dir must be a new folder or an empty one, got {folder}, which holds"
    try:
        mark.touch(exist_ok=False)  # of two processes, one only succeeds, on a shared file system too
    except FileExistsError:
        raise ValueError(f"{told} another multirun") from None
    others = sorted(each.name for each in folder.iterdir() if each != mark)
    if others:
        mark.unlink()
        raise ValueError(f"{told} {', '.join(others[:_NAMED])}{', ...' if len(others) > _NAMED else ''}")
    try:
        yield
    except BaseException:
        if all(each == mark for each in folder.iterdir()):
            mark.unlink(missing_ok=True)
            for each in made:
                try:
                    each.rmdir()
                except OSError:
                    break
        raise


def records(folder: Path) -> dict[int, tuple[Path, dict[str, Any]]]:
    """Number -> (folder, job.json) of the runs below the folder of a multirun that have begun."""
    found: dict[int, tuple[Path, dict[str, Any]]] = {}
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if JOB in files:
            folders.clear()
            content = read(Path(where) / JOB)
            if isinstance(content.get("number"), int):
                found[content["number"]] = Path(where), content
    return found


# Launching


@dataclass
class Multirun:
    """The runs of a multirun, as its launcher has been told to do them."""

    folder: Path | None = None  # None: no multirun has been launched
    overrides: dict[int, Sequence[str]] = field(default_factory=dict)  # number -> those of the run
    lost: dict[int, str] = field(default_factory=dict)  # number -> why nothing is known of how it ended
    _exit: ExitStack = field(default_factory=ExitStack)

    def begin(self, folder: Path) -> None:
        """Takes the folder. Raises ValueError where it holds anything."""
        self._exit.enter_context(claimed(folder))
        self.folder = folder

    def ended(self) -> RunsFailed | None:
        """What is to be raised where not every run has ended well; those that were lost get their error.json."""
        assert self.folder is not None
        begun = records(self.folder)
        failed: dict[int, str] = {}  # number -> where to look
        for number in sorted(self.overrides):
            if number not in begun:
                failed[number] = f"run {number} did not begin: {self.lost.get(number, 'nothing is known of it')}"
                continue
            folder, record = begun[number]
            if record.get("state") == RUNNING:  # all have ended
                why = self.lost.get(number, "its process died, perhaps for want of memory")
                _write_error(folder, why)
                write_text(folder / JOB, json.dumps({**record, "state": FAILED}) + "\n")
            elif record.get("state") == FINISHED:
                continue
            failed[number] = f"see {folder / ERROR}"
        if not failed:
            return None
        first, *others = failed
        more = f", and those of {', '.join(map(str, others[:_NAMED]))}" if others else ""
        more += f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        return RunsFailed(f"{len(failed)} of {len(self.overrides)} runs failed: {failed[first]}{more}")


@contextmanager
def launched() -> Iterator[Multirun]:
    """Hydra's launchers, within, do multiruns as this module says; what they have done."""
    many = Multirun()
    plugins = Plugins.instance()
    hydras = plugins.instantiate_launcher

    def instantiate(hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> Launcher:
        many.begin(Path(str(config.hydra.sweep.dir)))
        kind = _kind(str(config.hydra.launcher._target_))
        if kind == "local":
            _without_limit(config)
        assert isinstance(task_function, Job)
        job = replace(task_function, logged=kind != "basic")
        return _Launcher(hydras(hydra_context, job, config), kind, hydra_context, config, many)

    plugins.instantiate_launcher = instantiate  # type: ignore[method-assign]
    try:
        with many._exit:
            yield many
    finally:
        del plugins.instantiate_launcher


def _kind(target: str) -> str:
    """Of a launcher, by the class that it is of: basic, joblib, local, slurm; "" for another."""
    names = {"BasicLauncher": "basic", "JoblibLauncher": "joblib", "LocalLauncher": "local", "SlurmLauncher": "slurm"}
    return names.get(target.rpartition(".")[2], "")


def _without_limit(config: DictConfig) -> None:
    """Takes away the hour after which submitit ends a run of this machine, where the user has not set it."""
    if not any(str(item).startswith("hydra.launcher.timeout_min=") for item in config.hydra.overrides.hydra):
        with read_write(config):
            config.hydra.launcher.timeout_min = _LONG


class _Launcher(Launcher):
    """Does what one of Hydra's launchers does, and sees to it that each run is done and is heard of.

    Runs at once share the cores. One whose process dies does not take the others with it, and a stop reaches all.
    """

    def __init__(self, inner: Launcher, kind: str, context: HydraContext, config: DictConfig, many: Multirun) -> None:
        self.inner, self.kind, self.context, self.config, self.many = inner, kind, context, config, many

    def setup(self, **_: Any) -> None:
        """Nothing: the launcher inside has been set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Does the runs of a batch; what those returned that are known of."""
        batch = dict(enumerate(job_overrides, initial_job_idx))
        self._check_subdir(batch)
        self.many.overrides |= batch
        if self.kind == "basic":
            return self.inner.launch(job_overrides, initial_job_idx)
        assert self.many.folder is not None
        with environment(self._threads(len(batch))), _watched(self.many.folder, batch):
            if self.kind == "joblib":
                return self._joblib(batch)
            if self.kind in ("local", "slurm"):
                with _sturdy(initial_job_idx, self.many.lost, self.many.folder):
                    done = self.inner.launch(job_overrides, initial_job_idx)
                return [each for each in done if each is not None]
            return self.inner.launch(job_overrides, initial_job_idx)

    def _check_subdir(self, batch: Mapping[int, Sequence[str]]) -> None:
        """Raises ValueError where two runs would share a folder."""
        template = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[call-overload, index]
        if re.search(r"hydra[.:]job\.(num|id)\b", template):
            return
        taken: dict[str, int] = {}
        for number, overrides in batch.items():
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            subdir = str(config.hydra.sweep.subdir)
            if subdir in taken:
                raise ValueError(
                    "hydra.sweep.subdir must give each run a folder of its own, "
                    f"got {subdir} for {taken[subdir]} and {number}"
                )
            taken[subdir] = number

    def _threads(self, n_runs: int) -> dict[str, str]:
        """Variables by which each run has its share; none where the environment or another machine decides."""
        if "OMP_NUM_THREADS" in os.environ or self.kind not in ("joblib", "local"):
            return {}
        given = OmegaConf.select(self.config, "threads")
        at_once = n_runs
        if self.kind == "joblib":
            joblib = importlib.import_module("joblib")
            at_once = min(n_runs, joblib.effective_n_jobs(self.config.hydra.launcher.n_jobs))
        threads = share_of_threads(at_once) if given is None else int(given)
        return {name: str(threads) for name in THREAD_VARIABLES if name not in os.environ}

    def _joblib(self, batch: Mapping[int, Sequence[str]]) -> list[JobReturn]:
        """Where a worker dies, joblib ends them all: those runs are lost, and those not begun are launched again."""
        broken = importlib.import_module("joblib.externals.loky.process_executor").BrokenProcessPool
        assert self.many.folder is not None
        done: list[JobReturn] = []
        left = dict(batch)
        while left:
            first = min(left)
            last = first
            while last + 1 in left:
                last += 1
            begun = list(range(first, last + 1))
            try:
                done += self.inner.launch([left[number] for number in begun], first)
            except broken:
                begun = [number for number in records(self.many.folder) if first <= number <= last]
                if not begun:
                    raise
                why = "a process of joblib died, perhaps for want of memory, and took the runs under way with it"
                self.many.lost |= dict.fromkeys(begun, why)
            for number in begun:
                del left[number]
        return done


@contextmanager
def _watched(folder: Path, batch: Mapping[int, Sequence[str]]) -> Iterator[None]:
    """Says of each run that it has ended, and how, while others are under way."""
    over = threading.Event()
    common = set.intersection(*map(set, batch.values()))
    told: set[int] = set()

    def look() -> None:
        for number, (where, record) in sorted(records(folder).items()):
            if number not in batch or number in told or record.get("state") == RUNNING:
                continue
            told.add(number)
            changed = " ".join(item for item in batch[number] if item not in common)
            error = read(where / ERROR).get("error")
            after = f" after {record['seconds']:.0f} s" if isinstance(record.get("seconds"), int | float) else ""
            _say(
                f"run {number} {record.get('state')}{after}{changed and f' ({changed})'}{f': {error}' if error else ''}"
            )

    def watch() -> None:
        while not over.wait(1.0):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


@contextmanager
def _stderr_in(file: Path) -> Iterator[None]:
    """Processes that begin within have their stderr there."""
    file.parent.mkdir(exist_ok=True)
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with open(file, "ab") as there:
            os.dup2(there.fileno(), 2)
            yield
    finally:
        os.dup2(before, 2)
        os.close(before)


class _Sturdy:
    """A job of submitit whose death is told, not raised."""

    def __init__(self, job: Any, number: int, lost: dict[int, str]) -> None:
        self.job, self.number, self.lost = job, number, lost

    def results(self) -> list[Any]:
        try:
            return list(self.job.results())
        except Exception:
            self.lost[self.number] = f"its process died, see {self.job.paths.stderr}"
            return [None]


@contextmanager
def _sturdy(first: int, lost: dict[int, str], folder: Path) -> Iterator[None]:
    """submitit waits for all of its jobs, whichever fail, and ends them where it is stopped itself."""
    executor = importlib.import_module("submitit").AutoExecutor
    whole = executor.map_array
    begun: list[Any] = []

    def map_array(self: Any, function: Any, *arguments: Any) -> list[_Sturdy]:
        with _stderr_in(folder / ".submitit" / "controllers.err"):  # a traceback for each that is stopped
            begun.extend(whole(self, function, *arguments))
        return [_Sturdy(job, number, lost) for number, job in enumerate(begun, first)]

    executor.map_array = map_array  # it inherits the one that it had
    try:
        yield
    except BaseException:
        for job in begun:
            if not job.done():
                job.cancel(check=False)
        raise
    finally:
        del executor.map_array
