"""Fitted smiles on disk: what one process has fitted no other needs to fit again."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock

from hedgerl.files import write_bytes

FOLDER = "HEDGERL_CACHE"  # environment variable: the folder, or "" for none
_LOCKS = 256  # files to wait at: more would only be fewer needless waits
Arrays = dict[str, np.ndarray]


def folder() -> Path | None:
    """Where fits are kept: HEDGERL_CACHE, or hedgerl in the user's folder for caches.

    None where that is "", and for a user without a home.
    """
    given = os.environ.get(FOLDER)
    if given == "":
        return None
    if given is None:
        given = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "hedgerl")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        return None


def kept(question: str, answer: Callable[[], Arrays]) -> Arrays:
    """The arrays that `answer` computes for a question, computed once for all processes that share the folder.

    The question must say all that the answer depends on, but for the code of this package's models and prices, which is
    part of the key. A process that needs what another is computing waits for it. A file that cannot be read is computed
    again, and one that cannot be written is done without, with a warning.
    """
    place = folder()
    if place is None:
        return answer()
    digest = hashlib.sha256(question.encode()).hexdigest()[:32]
    file = place / _of_code() / f"{digest}.npz"
    found = _read(file)
    if found is None:
        with _alone(place / "locks" / str(int(digest[:8], 16) % _LOCKS)):
            found = _read(file)  # another process may have been first
            if found is None:
                found = answer()
                _write(file, found)
    return found


def _read(file: Path) -> Arrays | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _write(file: Path, arrays: Arrays) -> None:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    try:
        write_bytes(file, content.getvalue())
    except OSError as error:
        _warn(str(file.parent), str(error))


@functools.cache
def _warn(where: str, why: str) -> None:
    warnings.warn(f"fitted smiles cannot be kept in {where} ({why}): set {FOLDER}", RuntimeWarning, stacklevel=6)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Waits until no other process is inside; not at all where files cannot be locked."""
    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        held.release()


@functools.cache
def _of_code() -> str:
    """What stands for the code that fits: other code, other fits."""
    import hedgerl.pricing
    import hedgerl.sim

    digest = hashlib.sha256(np.__version__.encode())
    for package in (hedgerl.pricing, hedgerl.sim):
        for file in sorted(Path(next(iter(package.__path__))).glob("*.py")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
