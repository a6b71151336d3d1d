"""Where a study is kept: a journal file of its folder, or a database that several machines share."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study, StudyDirection
from sqlalchemy.exc import DatabaseError, IntegrityError

JOURNAL, LOCK = "journal.log", ".lock"
OUTCOME = "outcome"  # user attribute of a trial: what came of it
_DEFINITION = "hedgerl"  # user attribute: what the study is of
_TIMEOUT = 10  # seconds, to reach a database
_TRIES, _PAUSE = 20, 0.25  # to find the tables that another command is making; the pause in seconds

optuna.logging.set_verbosity(optuna.logging.WARNING)  # else a line for each study and each trial


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Nobody else runs the study of this folder. Raises ValueError where somebody does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"the study in {folder} is being run by another process; wait for it or stop it") from None
    try:
        yield
    finally:
        lock.release()


class _Journal(JournalFileBackend):
    """The journal of one who is `exclusive`: on the disk at each outcome; what can be asked again comes there later."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), lock_obj=_Held(str(path)))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with open(self._file_path, "ab") as file:
            file.write(lines.encode())
            file.flush()
            if any(OUTCOME in log.get("user_attr", ()) for log in logs):
                os.fsync(file.fileno())


class _Held(JournalFileOpenLock):
    """The journal's lock, for one who is `exclusive` already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def opened(storage: str | None, folder: Path) -> BaseStorage:
    """The storage of that address; None: the journal in the folder, which the caller must hold (`exclusive`).

    Raises ValueError for an address that means nothing or cannot be reached.
    """
    if storage is None:
        path = folder / JOURNAL
        _mended(path)
        try:
            return JournalStorage(_Journal(path))
        except Exception as error:
            raise ValueError(f"{path} is damaged and cannot be continued ({_line(error)})") from error
    shown = re.sub(r"//[^/@]*@", "//...@", storage)  # without the password
    url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", storage)
    if not re.match(r"[a-z0-9+]+://", url):
        raise ValueError(f"storage must be null or a database's URL, postgresql://USER@HOST/NAME, got {shown!r}")
    options: dict[str, Any] = {}
    if url.startswith("postgresql+psycopg"):
        options = {"connect_args": {"connect_timeout": _TIMEOUT}, "pool_pre_ping": True}
    elif url.startswith("sqlite"):
        options = {"connect_args": {"timeout": 60}}
    try:
        return _database(url, options)
    except ImportError as error:
        raise ValueError(
            f"storage={shown} needs a driver that is not installed ({_line(error)}): pip install 'hedgerl[dist]'"
        ) from error
    except Exception as error:  # the drivers' own kinds
        raise ValueError(f"storage must be reachable, got {shown}: {_line(error)}") from error


def _database(url: str, options: dict[str, Any]) -> BaseStorage:
    """Its tables are made where there are none; another command may be making them just now."""
    for _ in range(_TRIES):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except DatabaseError as error:
            if not (isinstance(error, IntegrityError) or "already exists" in str(error)):
                raise
            time.sleep(_PAUSE)
    return RDBStorage(url, engine_kwargs=options)


def _mended(path: Path) -> None:
    """Takes off a last line that was not written to its end."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        whole = size
        while whole:
            file.seek(whole - 1)
            if file.read(1) == b"\n":
                break
            whole -= 1
        if whole < size:
            file.truncate(whole)


def study(storage: BaseStorage, name: str, definition: Mapping[str, Any], objectives: Sequence[str]) -> Study:
    """The study of that name, made where there is none. All objectives are minimised.

    Raises ValueError where there is one of another definition, naming what differs.
    """
    try:
        there = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        minimise = [StudyDirection.MINIMIZE] * len(objectives)
        try:
            made = optuna.create_study(storage=storage, study_name=name, directions=minimise)
            return _defined(made, definition, objectives)
        except DuplicatedStudyError:  # by another machine, just now
            there = optuna.load_study(study_name=name, storage=storage)
    known = there.user_attrs.get(_DEFINITION)
    if known is None and not there.trials:  # it was being made when its maker was stopped
        return _defined(there, definition, objectives)
    if known is None:
        raise ValueError(f"study must name a study of hedgerl, got {name!r}, which is another program's")
    difference = differing(known, definition)
    if difference is not None:
        key, old, new = difference
        raise ValueError(
            f"the study {name!r} is of another {key.partition('.')[0]}: {key} was {old}, now {new}; "
            "give this one a name of its own, study=NAME"
        )
    return there


def _defined(made: Study, definition: Mapping[str, Any], objectives: Sequence[str]) -> Study:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        made.set_metric_names(list(objectives))
    made.set_user_attr(_DEFINITION, dict(definition))
    return made


def differing(known: Any, wanted: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """(key, known, wanted) of the first leaf in which two nested mappings differ; None where they are equal."""
    if not (isinstance(known, Mapping) and isinstance(wanted, Mapping)):
        return None if known == wanted else (key, known, wanted)
    for name in [*known, *(each for each in wanted if each not in known)]:
        where = f"{key}.{name}" if key else str(name)
        if name not in known or name not in wanted:
            return where, known.get(name, "not set"), wanted.get(name, "not set")
        found = differing(known[name], wanted[name], where)
        if found is not None:
            return found
    return None


def _line(error: BaseException) -> str:
    """What it says first."""
    return " ".join(str(error).strip().partition("\n")[0].split())
