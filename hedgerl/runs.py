"""`hedgerl report`: finished runs side by side, in the keys in which they differ, and seeds together.

Read from the top down: find runs, read each, compare, show. Whatever is damaged is listed with what is wrong.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import socket
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hedgerl.files import write_csv
from hedgerl.parsing import CommandParser
from hedgerl.pricing._checks import nearest

STUDIES = {"trials.csv": "sweep", "pareto_raw.csv": "generate-pareto"}  # a file of a study, and what made it
MARKS = ("run.json", "results.json", "job.json", "error.json")  # files of which a run has one
COLUMNS = (
    *("folder", "command", "market", "policy", "status", "iteration", "iterations", "objective", "validation", "test"),
    *("baseline", "baseline_test", "difference", "low", "high", "confidence", "verdict", "cvar_95", "cost", "seconds"),
    *("trials", "problem"),
)
NOT_SETTINGS = ("resume", "out", "overwrite", "preview", "threads")  # keys that make no other run
SEED = "seed"
_CHOICES = ("_target_", "name", "loss", "kind")  # keys by which a mapping says what it is
_DASH = "–"
_CELL, _STATUS = 36, 44  # most signs of a text in a table
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Run:
    """A row of the table: a run, one market of a backtest, or a study."""

    folder: Path
    values: dict[str, Any] = field(default_factory=dict)  # of COLUMNS
    settings: dict[str, Any] = field(default_factory=dict)  # dotted key -> value, of its configuration
    problems: list[str] = field(default_factory=list)

    @property
    def kind(self) -> Any:
        """What may be compared: runs of one command."""
        return self.values.get("command")


def main(arguments: list[str]) -> None:
    """Prints the tables that a command line asks for. Raises ValueError where there are no runs, and for a bad flag."""
    parser = CommandParser(
        prog="hedgerl report",
        allow_abbrev=False,
        description="A table of finished runs: train, backtest, simulate, and studies of sweep and generate-pareto.",
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="runs, or folders with runs somewhere below")
    parser.add_argument("--csv", metavar="FILE", help="write every column of every run there, too")
    parser.add_argument("--sort", metavar="KEY", help="a column of the CSV, or a key of the configuration")
    given = parser.parse_args(arguments)
    runs = read_all(given.folders)
    keys = differing(runs)
    if given.sort is not None:
        runs = _sorted(runs, given.sort)
    if given.csv is not None:
        columns = [*COLUMNS, *(_column(key) for key in keys)]
        write_csv(Path(given.csv), columns, [_record(run, keys) for run in runs])
    print(shown(runs, keys))


def summary(folder: Path) -> str:
    """The tables of the runs below a folder, as text for this terminal; empty where there are none."""
    runs = [row for path in found(folder) for row in read(path)]
    return shown(runs, differing(runs)) if runs else ""


# Finding


def read_all(folders: Iterable[str | Path]) -> list[Run]:
    """The runs in and below these folders, each once, in the order of their names, numbers as numbers.

    Raises ValueError for a folder that is not there or has none.
    """
    seen: set[Path] = set()
    result: list[Run] = []
    for given in map(Path, folders):
        if not given.is_dir():
            raise ValueError(f"report needs folders of runs, got {given}, which is not one")
        here = {path.resolve(): path for path in found(given)}
        if not here:
            raise ValueError(f"report needs folders of runs, got {given}, which has none")
        for place, path in here.items():
            result += [] if place in seen else read(path)
        seen |= here.keys()
    return result


def found(folder: Path) -> Iterator[Path]:
    """The folders of runs and studies in and below a folder; what lies within one is its own."""
    try:
        names = sorted((entry.name for entry in os.scandir(folder)), key=_natural)
    except OSError:
        yield folder  # which then says what is wrong
        return
    if any(name in names for name in (*MARKS, *STUDIES, ".hydra")):
        yield folder
        return
    for name in names:
        path = folder / name
        if not name.startswith(".") and path.is_dir() and not path.is_symlink():
            yield from found(path)


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


# Reading


def read(folder: Path) -> list[Run]:
    """The rows of one run: one for each market of a backtest, one for any other. Nothing is raised."""
    run = Run(folder)
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        run.values |= {"status": "damaged"}
        run.problems.append(error.strerror or str(error))
        return [run]
    job = _json(run, "job.json") if "job.json" in names else {}
    run.values["command"] = job.get("command")
    run.values["seconds"] = _number(job.get("seconds"))
    for name, command in STUDIES.items():
        if name in names:
            _study(run, name, command)
            return [run]
    if "run.json" in names or "policy" in names:
        _train(run, names, job)
        return [run]
    _settings(run, ".hydra/config.yaml", wanted=False)
    if "results.json" in names:
        return _backtest(run)
    if run.values["command"] is None and ".hydra" in names:
        hydra = _yaml(run, ".hydra/hydra.yaml")
        run.values["command"] = _get(hydra, "hydra", "job", "name")
    if (folder / "dataset" / "meta.json").is_file():
        run.values |= {"command": run.values["command"] or "simulate", "status": "finished"}
    elif job.get("state") == "finished":
        run.values["status"] = "finished"
    else:
        run.values["status"] = _unfinished(run, job)
    return [run]


def _train(run: Run, names: set[str], job: Mapping[str, Any]) -> None:
    """A training: its card tells what it is worth, its validations how far it has come."""
    values = run.values
    values["command"] = "train"
    _json(run, "run.json")
    _settings(run, "config.yaml")
    total = run.settings.get("agent.iterations")
    history = _validations(run) if "validation.csv" in names else []
    values |= {
        "policy": run.settings.get("name") or run.settings.get("agent.name"),
        "iterations": total,
        "iteration": history[-1][0] if history else None,
        "validation": min((value for _, value in history), default=None),
    }
    if "policy" in names:
        card = _json(run, "policy/card.json")
        values["policy"] = card.get("name") or values["policy"]
        metrics = card.get("metrics")
        if _get(metrics, "objective", "test") is not None:
            _json(run, "results.json")
            _measured(run, metrics)
            values["status"] = "finished"
        elif card:
            values["validation"] = _number(_get(card, "training", "validation")) or values["validation"]
            values["status"] = "trained, not tested"
        if run.problems or not card:
            values["status"] = "damaged"
        return
    values["status"] = _unfinished(run, job, values["iteration"], total)


def _measured(run: Run, metrics: Any) -> None:
    """What a card's metrics say: the objective, and the baseline that is best by it, which is the bar."""
    against = _get(metrics, "against")
    bars = {
        str(name): row["objective"]
        for name, row in (against.items() if isinstance(against, dict) else ())
        if _number(_get(row, "objective", "value")) is not None
    }
    parameter = _number(_get(metrics, "objective", "parameter"))
    name = str(_get(metrics, "objective", "name") or "")
    run.values |= {
        "market": _get(metrics, "market"),
        "objective": name if parameter is None else f"{name} {parameter:g}",
        "validation": _number(_get(metrics, "objective", "validation")),
        "test": _number(_get(metrics, "objective", "test")),
        "cvar_95": _number(_get(metrics, "test", "cvar_95")),
        "cost": _number(_get(metrics, "test", "cost")),
        "confidence": _number(_get(metrics, "confidence")),
    }
    if bars:
        best = min(bars, key=lambda label: float(bars[label]["value"]))
        _compare(run, best, bars[best], sign=1.0)


def _compare(run: Run, label: str, row: Mapping[str, Any], sign: float) -> None:
    """Its difference from a baseline and the verdict; sign -1: the row's is of the baseline from it."""
    difference, low, high = (_number(row.get(name)) for name in ("difference", "low", "high"))
    run.values |= {"baseline": label, "baseline_test": _number(row.get("value"))}
    if difference is None or low is None or high is None:
        return
    if sign < 0.0:
        difference, low, high = -difference, -high, -low
    verdict = "better" if high < 0.0 else "worse" if low > 0.0 else "not told apart"
    run.values |= {"difference": difference, "low": low, "high": high, "verdict": verdict}


def _backtest(run: Run) -> list[Run]:
    """A row for each market: the hedge that others are compared with, and the best of the others by CVaR 95 %."""
    content = _json(run, "results.json")
    run.values |= {"command": run.values["command"] or "backtest", "status": "finished"}
    if isinstance(content.get("config"), dict):
        run.settings = _flat(content["config"])
    studies = content.get("studies")
    if not isinstance(studies, list) or not studies:
        if not run.problems:
            run.problems.append("results.json holds no studies")
        run.values["status"] = "damaged"
        return [run]
    rows = []
    for study in studies:
        row = Run(run.folder, dict(run.values), run.settings, list(run.problems))
        rows.append(row)
        try:
            reference = study["reference"]
            results = {each["policy"]: each for each in study["rows"] if each.get("regime", "all") == "all"}
            known = {name: _number(each.get("cvar_95")) for name, each in results.items()}
            own = results[reference]
            row.values |= {
                "market": study["market"],
                "policy": reference,
                "objective": "cvar 0.95",
                "test": known[reference],
                "cvar_95": known[reference],
                "cost": _number(own.get("cost")),
                "confidence": _number(study.get("confidence")),
            }
            others = {name: value for name, value in known.items() if name != reference and value is not None}
            if others:
                best = min(others, key=lambda name: others[name])
                told = [each for each in study["differences"] if each["policy"] == best and each["metric"] == "cvar_95"]
                _compare(row, best, {**(told[0] if told else {}), "value": others[best]}, sign=-1.0)
        except (KeyError, TypeError, AttributeError) as error:
            row.values["status"] = "damaged"
            row.problems.append(f"results.json has a study without {error}")
    return rows


def _study(run: Run, name: str, command: str) -> None:
    """How many rows its table has, in which states."""
    run.values["command"] = command
    rows = _table(run, name, ())
    if run.problems:
        run.values["status"] = "damaged"
        return
    states = Counter(str(row.get("state") or row.get("status") or "unknown").lower() for row in rows)
    told = [f"{count} {_STATES.get(state, state)}" for state, count in sorted(states.items())]
    run.values |= {"trials": len(rows), "status": ", ".join(told) or "empty"}
    if (run.folder / "error.json").is_file():
        run.problems.append(str(_json(run, "error.json").get("error") or "failed"))


_STATES = {"fail": "failed", "pruned": "stopped early"}


def _unfinished(run: Run, job: Mapping[str, Any], iteration: Any = None, total: Any = None) -> str:
    """How a run that has no result stands."""
    if (run.folder / "error.json").is_file():
        run.problems.append(str(_json(run, "error.json").get("error") or "failed"))
        return "failed"
    where = f" at iteration {0 if iteration is None else iteration} of {total}" if total is not None else ""
    if job.get("state") == "running":
        if job.get("host") != socket.gethostname():
            return f"begun on {job.get('host')}{where and f',{where}'}"
        if _alive(job.get("pid")):
            return f"running{where}"
    if run.problems:
        return "damaged"
    return f"stopped{where}" if where or job else "no result"


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError, TypeError, ValueError):
        return False
    return True


def _validations(run: Run) -> list[tuple[int, float]]:
    """(iteration, objective) of each validation; a last line that is cut short does not count."""
    rows: list[tuple[int, float]] = []
    lines = _table(run, "validation.csv", ("iteration", "objective"))
    for number, row in enumerate(lines, 1):
        try:
            rows.append((int(row["iteration"]), float(row["objective"])))
        except (ValueError, TypeError):
            if number < len(lines):
                run.problems.append(f"validation.csv cannot be read: row {number} holds no numbers")
            break
    return rows


def _table(run: Run, name: str, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a CSV; empty where it cannot be read or lacks a column, which is noted."""
    try:
        with open(run.folder / name, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            columns, rows = reader.fieldnames or (), list(reader)
    except (OSError, ValueError, csv.Error) as error:
        run.problems.append(f"{name} cannot be read: {_told(error)}")
        return []
    missing = [column for column in wanted if column not in columns]
    if missing:
        run.problems.append(f"{name} cannot be read: it has no column {missing[0]}")
        return []
    return rows


def _told(error: Exception) -> str:
    line = error.strerror if isinstance(error, OSError) else None
    return line or " ".join(str(error).split())[:80]


def _json(run: Run, name: str) -> dict[str, Any]:
    return _mapping(run, name, json.loads)


def _yaml(run: Run, name: str) -> dict[str, Any]:
    return _mapping(run, name, lambda text: yaml.load(text, Loader=_LOADER))


def _mapping(run: Run, name: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    """The mapping in a file; empty where it cannot be read, which is noted."""
    try:
        content = parse((run.folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        run.problems.append(f"{name} is missing")
        return {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        run.problems.append(f"{name} cannot be read: {_told(error)}")
        return {}
    if not isinstance(content, dict):
        run.problems.append(f"{name} cannot be read: it holds no mapping")
        return {}
    return content


def _settings(run: Run, name: str, wanted: bool = True) -> None:
    if wanted or (run.folder / name).is_file():
        run.settings = _flat(_yaml(run, name))


def _flat(content: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; a list is a value, and so are the names in a mapping that is of no kind."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if not isinstance(value, Mapping):
            flat[f"{prefix}{key}"] = value
            continue
        if not any(each in value for each in _CHOICES):
            flat[f"{prefix}{key}"] = sorted(map(str, value))
        flat |= _flat(value, f"{prefix}{key}.")
    return flat


def _get(content: Any, *path: str) -> Any:
    """What lies there in nested mappings; None where nothing does."""
    for key in path:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if known else None


# Comparing


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys in which runs of one command differ.

    A key counts where two that have it differ in it, though what it belongs to is of one kind: of runs in rough
    Bergomi and in Heston market._target_ differs, and market.spot only if it does within either.
    """
    seen: dict[tuple[Any, ...], set[str]] = {}
    order: dict[str, None] = {}
    for run in runs:
        for key, value in run.settings.items():
            if key.partition(".")[0] in NOT_SETTINGS:
                continue
            parts = key.split(".")
            kinds = []
            for i in range(1, len(parts)):
                above = ".".join(parts[:i])
                kinds += [str(run.settings.get(f"{above}.{each}")) for each in _CHOICES if f"{above}.{each}" != key]
            seen.setdefault((run.kind, key, *kinds), set()).add(_plain(value))
            order[key] = None
    several = {group[1] for group, values in seen.items() if len(values) > 1}
    return [key for key in order if key in several]


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def over_seeds(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs with a result that differ in nothing but their seed, together; a seed once, and at least two of them."""
    groups: dict[tuple[str, ...], dict[str, Run]] = {}
    for run in runs:
        if run.values.get("test") is None or SEED not in run.settings:
            continue
        rest = {
            key: value
            for key, value in run.settings.items()
            if key != SEED and key.partition(".")[0] not in NOT_SETTINGS
        }
        about = (str(run.kind), *(str(run.values.get(name)) for name in ("market", "policy", "objective")))
        groups.setdefault((*about, _plain(rest)), {}).setdefault(_plain(run.settings[SEED]), run)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def _sorted(runs: list[Run], key: str) -> list[Run]:
    """By a column or a key: numbers, then texts, then what is not known."""
    known = {*COLUMNS, *(name for run in runs for name in run.settings)}
    if key not in known:
        ends = sorted({name for name in known if name.endswith(f".{key}")})
        if len(ends) != 1:
            told = f"; one of {', '.join(ends)}?" if ends else f"; the nearest is {nearest(key, sorted(known))!r}"
            raise ValueError(f"--sort must name a column or a key of the configuration, got {key!r}{told}")
        key = ends[0]

    def rank(run: Run) -> tuple[int, float, list[tuple[int, int, str]]]:
        value = run.values.get(key) if key in COLUMNS else run.settings.get(key)
        if key == "folder":
            value = str(run.folder)
        if value is None:
            return 2, 0.0, []
        number = _number(value)
        return (0, float(number), []) if number is not None else (1, 0.0, _natural(str(value)))

    return sorted(runs, key=rank)


def _column(key: str) -> str:
    """The name of a key in the CSV."""
    return f"config.{key}" if key in COLUMNS else key


def _record(run: Run, keys: Sequence[str]) -> dict[str, Any]:
    """A row of the CSV."""
    values = {name: run.values.get(name) for name in COLUMNS}
    values |= {"folder": str(run.folder), "problem": "; ".join(run.problems) or None}
    for key in keys:
        value = run.settings.get(key)
        values[_column(key)] = value if isinstance(value, str | int | float | None) else _plain(value)
    return values


# Showing


@dataclass(frozen=True)
class _Shown:
    """A column of a table."""

    header: str
    cells: list[str]
    right: bool = False


def shown(runs: Sequence[Run], keys: Sequence[str]) -> str:
    """The tables as text: no wider than the terminal, in one piece where there is none."""
    top = Path(os.path.commonpath([run.folder.absolute() for run in runs]))
    single = all(run.folder.absolute() == top for run in runs)
    names = [str(run.folder) if single else os.path.relpath(run.folder.absolute(), top) for run in runs]
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, width=100_000)
    with console.capture() as text:
        studies = [(name, run) for name, run in zip(names, runs, strict=True) if run.values.get("trials") is not None]
        rest = [(name, run) for name, run in zip(names, runs, strict=True) if run.values.get("trials") is None]
        if not single:
            _line(console, f"{_count(len({run.folder for run in runs}), 'run')} below {_short(top)}")
        for rows in filter(None, (rest, studies)):
            _draw(console, _columns([name for name, _ in rows], [run for _, run in rows], keys))
        told = dict.fromkeys(
            f"{name}: {'; '.join(run.problems)}" for name, run in zip(names, runs, strict=True) if run.problems
        )
        for line in told:
            _line(console, line)
        groups = over_seeds(runs)
        if groups:
            _line(console, "\nover seeds:")
            columns = _seed_columns(groups, [key for key in keys if key != SEED])
            _draw(console, columns, next(i for i, column in enumerate(columns) if column.header == "seeds"))
    return "\n".join(line.rstrip() for line in text.get().splitlines()).rstrip("\n")


def _columns(names: list[str], runs: list[Run], keys: Sequence[str]) -> list[_Shown]:
    """The columns of the table of runs; one that is empty is left out, and so is what all have in common."""

    def values(name: str) -> list[Any]:
        return [run.values.get(name) for run in runs]

    columns = [_Shown("run", [_cut(name, _CELL, tail=True) for name in names])]
    if len(set(values("command"))) > 1 or runs[0].values.get("trials") is not None:
        columns.append(_Shown("command", [_cell(value) for value in values("command")]))
    columns += _key_columns(runs, keys)
    if "backtest" in values("command"):
        columns.append(_Shown("market", [_cell(value) for value in values("market")]))
    columns.append(_Shown("policy", [_cell(value) for value in values("policy")]))
    columns.append(_Shown("status", [_cut(_cell(value), _STATUS) for value in values("status")]))
    goals = {value for value in values("objective") if value is not None}
    if len(goals) > 1:
        columns.append(_Shown("objective", [_cell(value) for value in values("objective")]))
    goal = goals.pop() if len(goals) == 1 else "objective"
    digits = _digits([number for name in ("validation", "test", "baseline_test") for number in values(name)])
    columns.append(_Shown(f"{goal}: validation", _numbers(values("validation"), digits), right=True))
    columns.append(_Shown("test", _numbers(values("test"), digits), right=True))
    columns.append(_Shown("best baseline", [_cell(value) for value in values("baseline")]))
    columns.append(_Shown("its test", _numbers(values("baseline_test"), digits), right=True))
    columns.append(_Shown("difference", _numbers(values("difference"), digits, sign=True), right=True))
    levels = {value for value in values("confidence") if value is not None}
    level = f"{100 * levels.pop():g} % " if len(levels) == 1 else ""
    ends = zip(_numbers(values("low"), digits, sign=True), _numbers(values("high"), digits, sign=True), strict=True)
    columns.append(_Shown(f"{level}interval", [f"[{low}, {high}]" if low else "" for low, high in ends], right=True))
    columns.append(_Shown("verdict", [_cell(value) for value in values("verdict")]))
    columns.append(_Shown("CVaR 95", _numbers(values("cvar_95")), right=True))
    columns.append(_Shown("cost", _numbers(values("cost")), right=True))
    columns.append(_Shown("trials", [_cell(value) for value in values("trials")], right=True))
    columns.append(_Shown("time", [_time(value) for value in values("seconds")], right=True))
    return [column for column in columns if any(column.cells)]


def _seed_columns(groups: Sequence[Sequence[Run]], keys: Sequence[str]) -> list[_Shown]:
    """A row for each group of runs that differ in their seed: the objective on the test paths."""
    firsts = [group[0] for group in groups]
    tests = [[float(run.values["test"]) for run in group] for group in groups]
    columns = _key_columns(firsts, [key for key in keys if len({_plain(run.settings.get(key)) for run in firsts}) > 1])
    for name in ("market", "policy", "objective"):
        cells = [_cell(run.values.get(name)) for run in firsts]
        if name == "policy" or len(set(cells)) > 1:
            columns.append(_Shown(name, cells))
    goals = {run.values.get("objective") for run in firsts}
    digits = _digits([value for test in tests for value in test])
    columns.append(_Shown("seeds", [str(len(test)) for test in tests], right=True))
    name = f"{goals.pop()} on test: " if len(goals) == 1 else ""
    for header, measure in (
        (f"{name}mean", statistics.fmean),
        ("sd", statistics.stdev),
        ("least", min),
        ("most", max),
    ):
        columns.append(_Shown(header, _numbers([measure(test) for test in tests], digits), right=True))
    verdicts = [[run.values.get("verdict") for run in group] for group in groups]
    if any(map(any, verdicts)):
        counts = [f"{each.count('better')} of {len(each)}" for each in verdicts]
        columns.append(_Shown("better than its best baseline", counts))
    return columns


def _key_columns(runs: Sequence[Run], keys: Sequence[str]) -> list[_Shown]:
    """A column for each key, under the last part of its name where that is clear."""
    names = {key: re.sub(r"\.(_target_|name)$", "", key) for key in keys}
    last = Counter(name.rpartition(".")[2] for name in names.values())
    columns = []
    for key, name in names.items():
        short = name.rpartition(".")[2]
        cells = [_setting(run.settings[key]) if key in run.settings else "" for run in runs]
        right = all(_number(run.settings.get(key)) is not None for run in runs if key in run.settings)
        columns.append(_Shown(short if last[short] == 1 else name, cells, right))
    return columns


def _setting(value: Any) -> str:
    """The value of a key, short."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return _cut(value.rpartition(".")[2] if re.fullmatch(r"hedgerl(\.\w+)+", value) else value, _CELL)
    return _cut("null" if value is None else _plain(value), _CELL)


def _cell(value: Any) -> str:
    return "" if value is None else _cut(str(value), _CELL)


def _cut(text: str, most: int, tail: bool = False) -> str:
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    return f"…{text[-(most - 1) :]}" if tail else f"{text[: most - 1]}…"


def _digits(values: Iterable[Any]) -> int:
    """Decimals that show four significant digits of a typical one."""
    sizes = sorted(abs(value) for value in values if value)
    return max(0, min(8, 3 - math.floor(math.log10(sizes[len(sizes) // 2])))) if sizes else 3


def _numbers(values: Sequence[Any], digits: int | None = None, sign: bool = False) -> list[str]:
    digits = _digits(values) if digits is None else digits
    return ["" if value is None else f"{value:{'+' if sign else ''}.{digits}f}" for value in values]


def _time(seconds: Any) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _line(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=not console.is_terminal)


def _draw(console: Console, columns: list[_Shown], heads: int = 1) -> None:
    """The table, in as many pieces as the width asks for, each of which begins with so many of the first columns."""
    first, rest = columns[:heads], columns[heads:]
    while heads > 1 and _width(console, _made([*first, rest[0]])) > console.width:
        heads -= 1
        first, rest = columns[:heads], columns[heads:]
    while rest:
        fits = len(rest)
        while fits > 1 and _width(console, _made([*first, *rest[:fits]])) > console.width:
            fits -= 1
        console.print(_made([*first, *rest[:fits]]))
        rest = rest[fits:]
        if rest:
            console.print()


def _made(columns: Sequence[_Shown]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(Text(column.header), justify="right" if column.right else "left", overflow="ellipsis")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    return table


_STYLES = {"better": "green", "worse": "red", "failed": "red", "damaged": "red"}


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(width=100_000), table).maximum
