"""A simulation on disk: memory-mappable arrays, and what they were made from.

    folder/
      meta.json               format version, model and its parameters, seed, and of every file shape, dtype and sha256
      times.npy               (n_steps + 1,) years; grid/fine.npy and grid/kept.npy say what was stepped through
      spot.npy, variance.npy  (n_steps + 1, n_paths)
      parameters/<name>.npy   (n_paths,) draws of the perturbed parameters
      state/<name>.npy        what the model needs for its marks
      marks/<option>/price.npy, delta.npy, gamma.npy, vega.npy, theta.npy   (steps up to the expiry, n_paths)

A data set is written into a hidden folder beside its own, put on disk, and only then given its name: a process that is
killed half-way leaves no folder that looks finished, and what it leaves goes with the next data set of that name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hedgerl
from hedgerl.files import synced
from hedgerl.pricing import Greeks, Option
from hedgerl.pricing._checks import non_negative, whole_number
from hedgerl.sim.backend import to_numpy
from hedgerl.sim.grid import TimeGrid
from hedgerl.sim.model import Model
from hedgerl.sim.paths import Paths
from hedgerl.sim.rbergomi import ForwardVarianceCurve

FORMAT = "hedgerl paths"
FORMAT_VERSION = 1
GREEKS = ("price", "delta", "gamma", "vega", "theta")


@dataclass(frozen=True)
class MarkedOption:
    """One option of a data set, with its marks along the paths up to its expiry."""

    option: Option
    times: np.ndarray  # (n_marked,) years: the kept times that are not after the expiry
    greeks: Greeks  # each (n_marked, n_paths)


def save(
    paths: Paths,
    folder: str | os.PathLike[str],
    marks: Mapping[str, Option] | None = None,
    *,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    attach: Mapping[str, bytes] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the paths, and marks of the options named in `marks`, as a data set that `load` maps back.

    `settings` is kept in meta.json as it is; `attach` is a file name -> content of further files.
    `progress` is called with (steps marked, steps to mark).

    Raises ValueError where the folder exists and may not be overwritten, also where it appeared meanwhile, and where
    the model has a parameter that cannot be written down (a function); OSError from the disk, after everything
    half-written is removed.
    """
    target = check_destination(folder, overwrite=overwrite)
    description = _describe_model(paths.model)
    options = {name: check_option(name, option) for name, option in (marks or {}).items()}
    with _appearing_whole(target, overwrite) as partial:
        writer = _Writer(partial)
        writer.array("times", paths.times)
        writer.array("grid/fine", paths.grid.fine)
        writer.array("grid/kept", paths.grid.kept)
        writer.array("spot", paths.spot)
        writer.array("variance", paths.variance)
        for name, values in paths.parameters.items():
            writer.array(f"parameters/{name}", values)
        for name, values in paths.state.items():
            writer.array(f"state/{name}", values)
        _write_marks(writer, paths, options, progress)
        for name, content in (attach or {}).items():
            writer.content(name, content)
        meta = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "hedgerl": hedgerl.__version__,
            "numpy": np.__version__,
            "model": description,
            "seed": paths.seed,
            "n_paths": paths.n_paths,
            "n_steps": paths.n_steps,
            "dtype": str(paths.spot.dtype),
            "ranges": {name: list(bounds) for name, bounds in paths.ranges.items()},
            "backend": type(paths.spot).__module__.partition(".")[0],
            "marks": {name: dataclasses.asdict(option) for name, option in options.items()},
            "settings": settings,
            "files": writer.files,
        }
        writer.content("meta.json", (json.dumps(meta, indent=1) + "\n").encode())


def load(folder: str | os.PathLike[str], *, verify: bool = False) -> Paths:
    """The paths of a data set, mapped from disk: nothing large is read until it is used.

    Always checks the format version and each file's size, shape and dtype; with `verify` also each sha256, which
    reads everything. Raises ValueError naming the file that is missing, truncated or not what meta.json says.
    """
    root = Path(folder)
    meta = _read_meta(root)
    with _naming(root):
        _check_files(root, meta, verify)
        grid = TimeGrid(*(_read(root, meta, name) for name in ("times", "grid/fine", "grid/kept")))
        return Paths(
            model=_rebuild_model(meta["model"]),
            grid=grid,
            seed=None if meta["seed"] is None else whole_number("seed", meta["seed"], minimum=0),
            spot=_map(root, meta, "spot"),
            variance=_map(root, meta, "variance"),
            parameters={name: _map(root, meta, f"parameters/{name}") for name in _names(meta, "parameters")},
            state={name: _map(root, meta, f"state/{name}") for name in _names(meta, "state")},
            ranges={name: (float(low), float(high)) for name, (low, high) in meta["ranges"].items()},
        )


def load_marks(folder: str | os.PathLike[str], *, verify: bool = False) -> dict[str, MarkedOption]:
    """The marked options of a data set by name, mapped from disk. Checks and errors are those of `load`."""
    root = Path(folder)
    meta = _read_meta(root)
    with _naming(root):
        _check_files(root, meta, verify)
        times = _read(root, meta, "times")
        result = {}
        for name, option in meta["marks"].items():
            greeks = Greeks(**{greek: _map(root, meta, f"marks/{name}/{greek}") for greek in GREEKS})
            result[name] = MarkedOption(check_option(name, Option(**option)), times[: len(greeks.price)], greeks)
        return result


def check_destination(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The folder as a path without symbolic links, if a data set may be written there; nothing is changed.

    Raises ValueError where something exists and `overwrite` is not set, or where it is set and what exists is not a
    data set: overwriting removes a folder with all that is in it.
    """
    target = Path(os.path.realpath(folder))
    if not os.path.lexists(target):
        return target
    if not overwrite:
        raise ValueError(f"folder must not exist yet, unless overwrite is set, got {target}")
    try:
        _read_meta(target)
    except ValueError as error:
        raise ValueError(f"folder must be a data set to be overwritten, got {target} ({error})") from error
    return target


# Writing


class _Writer:
    """Writes files below `root` and keeps what meta.json says about each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, dict[str, Any]] = {}

    def array(self, name: str, array: Any) -> None:
        """Writes a whole array, a row at a time: only a row of it need be on the host or contiguous."""
        with self.rows(name, array.shape, array.dtype) as append:
            for row in array if array.ndim > 1 else [array]:
                append(row)

    @contextlib.contextmanager
    def rows(self, name: str, shape: tuple[int, ...], dtype: Any) -> Iterator[Callable[[Any], None]]:
        """A .npy file of the shape, to which rows are appended.

        Not a memory map: a full disk then raises OSError, where a page that finds no room would kill the process.
        """
        kind = np.dtype(str(dtype))
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": tuple(shape)}
        )
        with self._file(f"{name}.npy", {"shape": list(shape), "dtype": str(kind)}) as write:
            write(header.getvalue())

            def append(row: Any) -> None:
                write(np.ascontiguousarray(to_numpy(row), dtype=kind).view(np.uint8))

            yield append

    def content(self, name: str, content: bytes) -> None:
        """Writes a file as it is."""
        with self._file(name, {}) as write:
            write(content)

    @contextlib.contextmanager
    def _file(self, name: str, facts: dict[str, Any]) -> Iterator[Callable[[Any], None]]:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with open(path, "xb") as file:

            def write(data: Any) -> None:
                file.write(data)
                digest.update(data)

            yield write
            file.flush()
            os.fsync(file.fileno())
            self.files[name] = facts | {"bytes": file.tell(), "sha256": digest.hexdigest()}


def _write_marks(
    writer: _Writer, paths: Paths, options: Mapping[str, Option], progress: Callable[[int, int], None] | None
) -> None:
    """Marks of every option at each kept time up to its expiry, five files an option, written side by side."""
    if not options:
        return
    market = paths.model.market(paths)
    n_marked = {name: int(np.sum(paths.times <= option.expiry_years + 1e-9)) for name, option in options.items()}
    done, total = 0, sum(n_marked.values())
    for name, option in options.items():
        shape = (n_marked[name], paths.n_paths)
        with contextlib.ExitStack() as stack:
            append = {
                greek: stack.enter_context(writer.rows(f"marks/{name}/{greek}", shape, paths.spot.dtype))
                for greek in GREEKS
            }
            for step in range(n_marked[name]):
                mark = market.mark(option, step)
                for greek in GREEKS:
                    append[greek](np.broadcast_to(to_numpy(getattr(mark, greek)), shape[1:]))
                done += 1
                if progress is not None:
                    progress(done, total)


@contextlib.contextmanager
def _appearing_whole(target: Path, overwrite: bool) -> Iterator[Path]:
    """A hidden folder to write into, which becomes `target` at the end, or vanishes if anything goes wrong.

    It is locked while it is written. The lock falls with the process, so that a folder without one is a leftover.
    """
    token = secrets.token_hex(4)
    partial = target.with_name(f".{target.name}.partial-{token}")
    retired = target.with_name(f".{target.name}.replaced-{token}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        partial.mkdir()
        with _locked(partial):
            yield partial
            for folder in [partial, *(path for path in partial.rglob("*") if path.is_dir())]:
                synced(folder)
            check_destination(target, overwrite=overwrite)  # again: others may have written meanwhile
            if overwrite and os.path.lexists(target):
                target.rename(retired)
            partial.rename(target)  # fails where a folder with content appeared just now
        synced(target.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if os.path.lexists(retired) and not os.path.lexists(target):
            retired.rename(target)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, f"cannot write the data set, {error.strerror}", str(target)) from error
        raise
    if os.path.lexists(retired):
        retired.rename(partial)  # a leftover from here on
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether this process alone holds the folder's lock; False also where the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except OSError:
        alone = False
    try:
        yield alone
    finally:
        os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    """Removes what killed processes left half-written beside `target`."""
    for path in target.parent.iterdir():
        if path.name.startswith(f".{target.name}.partial-"):
            with contextlib.suppress(OSError), _locked(path) as alone:
                if alone:
                    shutil.rmtree(path, ignore_errors=True)


def check_option(name: str, option: Option) -> Option:
    """The option with plain numbers.

    Raises ValueError for a name unfit for a folder, a negative strike or expiry, or an option that differs by path.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"option name must consist of letters, digits and _ . -, got {name!r}")
    if any(np.ndim(value) for value in (option.strike, option.expiry_years, option.is_call)):
        raise ValueError(f"option {name} must have one strike and expiry for all paths, got {option}")
    strike, expiry_years = float(option.strike), float(option.expiry_years)
    non_negative(f"strike of option {name}", strike)
    non_negative(f"expiry_years of option {name}", expiry_years)
    return Option(strike, expiry_years, bool(option.is_call))


def _describe_model(model: Model) -> dict[str, Any]:
    """The model's class and parameters as JSON holds them."""
    parameters: dict[str, Any] = {}
    for name, value in model.parameters.items():
        if isinstance(value, ForwardVarianceCurve):
            parameters[name] = dataclasses.asdict(value)
        elif value is None or isinstance(value, int | float | np.integer | np.floating):
            parameters[name] = None if value is None else float(value)
        else:
            raise ValueError(f"{name} must be a number or a curve of times and values to be saved, got {value!r}")
    return {"class": type(model).__name__, "parameters": parameters}


# Reading


class _Damaged(ValueError):
    """A data set is not what it should be; names the file."""


@contextlib.contextmanager
def _naming(root: Path) -> Iterator[None]:
    """Whatever fails because meta.json holds the wrong things becomes a ValueError that names it."""
    try:
        yield
    except _Damaged:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _Damaged(f"{root / 'meta.json'} is damaged: {type(error).__name__}: {error}") from error


def _rebuild_model(description: Mapping[str, Any]) -> Model:
    """The model of the description. Only classes of this package (or imported subclasses of Model) are ever called."""
    known: dict[str, Callable[..., Model]] = {each.__name__: each for each in Model.__subclasses__()}
    if description["class"] not in known:
        names = ", ".join(sorted(known))
        raise ValueError(f"model must be one of {names}, got {description['class']!r}")
    parameters = {
        name: ForwardVarianceCurve(tuple(value["times"]), tuple(value["values"])) if isinstance(value, dict) else value
        for name, value in description["parameters"].items()
    }
    return known[description["class"]](**parameters)


def _read_meta(root: Path) -> dict[str, Any]:
    path = root / "meta.json"
    if not path.is_file():
        raise ValueError(f"{root} is not a data set: it has no meta.json")
    try:
        meta = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError(f"{path} does not describe a data set of hedgerl")
    if meta.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version must be {FORMAT_VERSION} for hedgerl {hedgerl.__version__}, "
            f"got {meta.get('format_version')!r} (written by hedgerl {meta.get('hedgerl')})"
        )
    lacking = {"model", "seed", "ranges", "marks", "files"} - meta.keys()
    if lacking:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(sorted(lacking))}")
    return meta


def _check_files(root: Path, meta: Mapping[str, Any], verify: bool) -> None:
    """ValueError naming the first file that is missing or has the wrong size or, with `verify`, the wrong content."""
    for name, facts in meta["files"].items():
        path = root / name
        if not path.is_file():
            raise _Damaged(f"{path} is missing from the data set")
        size = path.stat().st_size
        if size != facts["bytes"]:
            raise _Damaged(f"{path} is damaged: it must have {facts['bytes']} bytes, got {size}")
        if verify:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                    raise _Damaged(f"{path} is damaged: its sha256 is not that in meta.json")


def _read(root: Path, meta: Mapping[str, Any], name: str) -> np.ndarray:
    return np.array(_map(root, meta, name))


def _map(root: Path, meta: Mapping[str, Any], name: str) -> np.ndarray:
    path, facts = root / f"{name}.npy", meta["files"].get(f"{name}.npy")
    if facts is None:
        raise _Damaged(f"{path} is missing from the files in meta.json")
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise _Damaged(f"{path} is damaged: {error}") from error
    if list(array.shape) != facts["shape"] or str(array.dtype) != facts["dtype"]:
        raise _Damaged(
            f"{path} is damaged: it must be {facts['dtype']} {facts['shape']}, got {array.dtype} {list(array.shape)}"
        )
    return array


def _names(meta: Mapping[str, Any], folder: str) -> Iterable[str]:
    prefix = f"{folder}/"
    return [name[len(prefix) : -len(".npy")] for name in meta["files"] if name.startswith(prefix)]
