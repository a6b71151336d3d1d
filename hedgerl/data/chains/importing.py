"""From vendors' files to a store, whatever their size: read and judge a chunk at a time, then settle a day at a time.

Chunks go to a folder of spilled rows, a file for each underlying and day (half an hour for ticks, year for daily
prices). Then each of these is freed of repeats, held against the day before, sorted, checked against the schema, and
written beside what the store has of other days of the same month. Memory is bounded by a chunk and one of these.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import secrets
import shutil
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hedgerl.data.chains import formats
from hedgerl.data.chains.formats import INDEX_OF, Format
from hedgerl.data.chains.reading import Options, check_header, tables
from hedgerl.data.chains.rules import DROPPED, FILE, LINE, Tally, is_stale, judged, ticks_in_order, without_repeats
from hedgerl.data.chains.schema import CHAINS, TABLES, TICKS, Table, fault, needs_pandera
from hedgerl.data.chains.schema import compute as pc
from hedgerl.data.chains.store import (
    MANIFEST,
    REPORTS,
    SPILL,
    Manifest,
    Store,
    StoredFile,
    checksum,
    exclusive,
    period,
    place,
    read_manifest,
    sorted_by,
    sweep,
)
from hedgerl.files import synced, write_text

ROWS = 50_000  # that are gathered before they are spilled
_ROW_GROUP = 65_536
Unit = tuple[str, str]  # underlying, and half an hour, day or year: what is settled at once


@dataclass(frozen=True)
class Report:
    """What an import did. `rules` is kind -> rule -> rows, meaning, examples; rows are contracts on a day."""

    format: str
    options: Mapping[str, Any]
    files: Sequence[Mapping[str, Any]]  # file, sha256, read, kept, dropped
    read: int
    kept: int
    dropped: int
    rules: Mapping[str, Mapping[str, Mapping[str, Any]]]
    days: Mapping[str, Mapping[str, Any]]  # underlying -> days kept, first, last, rows
    replaced: Mapping[str, int]  # days of the store that newer rows took the place of, and the rows they had
    unchanged: bool = False  # all files had been imported before


def import_files(
    format: str,
    files: Sequence[str | Path],
    store: str | Path,
    *,
    underlying: str | None = None,
    date: str | np.datetime64 | None = None,
    decimal: str = ".",
) -> Report:
    """Imports files of one format into a store, all or nothing, and says what became of each row.

    A day of an underlying that the files have rows of takes the place of that day in the store, so files that hold
    parts of one day belong into one call. Where all files have been imported before, with the same format and options,
    nothing is done.

    underlying : what the options are on, where the files do not say; where they do, others are left out
    date : the day of the quotes, for a format whose tables do not say it
    decimal : "." or ","

    Raises ValueError naming file, line and rule for what is refused, and OSError where the disk is full; the store is
    then what it was.
    """
    needs_pandera()
    kind, options = formats.found(format), _options(underlying, date, decimal)
    paths = _paths(files)
    folder = Path(store)
    seconds = _seconds(kind, paths)
    for number, path in enumerate(paths):
        if not path.is_file():
            raise ValueError(f"{path} must be a file, and is not there: check the path")
        if number not in seconds:
            check_header(path, kind, options)
    before = [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    sums = [checksum(path) for path in paths]
    with exclusive(folder):
        manifest = _manifest(folder)
        sweep(folder, manifest)
        said = {name: None if value is None else str(value) for name, value in asdict(options).items()}
        if _known(manifest, format, said, sums):
            told = [{"file": str(path), "sha256": each} for path, each in zip(paths, sums, strict=True)]
            return Report(format, said, told, 0, 0, 0, {}, {}, {}, unchanged=True)
        spill = folder / f"{SPILL}{secrets.token_hex(4)}"
        spill.mkdir()
        try:
            tally = Tally([str(path) for path in paths])
            units = _spilled(kind, options, paths, seconds, spill, tally)
            if before != [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]:
                raise ValueError("a file was changed while it was read: import it again")
            _refuse_unreadable(tally, seconds)
            done = _Settled(Store(folder) if (folder / MANIFEST).exists() else None, manifest, folder, kind, tally)
            new = done.files(units, spill)
            tally.close()
            report = _report(format, said, sums, tally, done)
            _commit(folder, manifest, new, report)
        except BaseException:
            sweep(folder, _manifest(folder))  # read again: the fault may have come after the new one was put in place
            raise
        shutil.rmtree(spill)
        return report


def _manifest(folder: Path) -> Manifest:
    return read_manifest(folder) if (folder / MANIFEST).exists() else Manifest()


def _options(underlying: str | None, date: str | np.datetime64 | None, decimal: str) -> Options:
    if decimal not in (".", ","):
        raise ValueError(f"decimal must be '.' or ',', got {decimal!r}")
    if underlying is not None:
        underlying = underlying.strip().lstrip("^$").upper()
        if not underlying:
            raise ValueError("underlying must be a name, got an empty one")
        underlying = INDEX_OF.get(underlying, underlying)
    if isinstance(date, str):
        day = formats.day(date.strip(), (formats.ISO,))
        if day is None:
            raise ValueError(f"date must be YYYY-MM-DD, got {date!r}")
        date = day
    return Options(underlying, date, decimal)


def _paths(files: Sequence[str | Path]) -> list[Path]:
    if not files:
        raise ValueError("files must name one file at least")
    paths = [Path(each) for each in files]
    seen = [path.resolve() for path in paths]
    for path, here in zip(paths, seen, strict=True):
        if seen.count(here) > 1:
            raise ValueError(f"files must be given once each, got {path} twice")
    return paths


def _seconds(kind: Format, paths: Sequence[Path]) -> frozenset[int]:
    """Places of the files that are read line by line with another one, which must be given, too."""
    if kind.second is None:
        return frozenset()
    wanted: dict[Path, Path] = {}
    for path in paths:
        name = kind.second(path.name)
        if name is not None:
            wanted[path.with_name(name)] = path
    for second, first in wanted.items():
        if second not in paths:
            raise ValueError(f"{first} needs {second.name} of the same folder: give both")
    places = frozenset(number for number, path in enumerate(paths) if path in wanted)
    for number, path in enumerate(paths):
        if number not in places and path not in wanted.values():
            raise ValueError(f"{path} is not a file of the format {kind.name} whose pair is given: {kind.what}")
    return places


def _known(manifest: Manifest, format: str, options: Mapping[str, Any], sums: Sequence[str]) -> bool:
    """Whether each file came in before, by the same format and options."""
    had = {
        each["sha256"]
        for one in manifest.imports
        if one["format"] == format and one["options"] == options
        for each in one["files"]
    }
    return had.issuperset(sums)


def _refuse_unreadable(tally: Tally, seconds: frozenset[int]) -> None:
    """ValueError for a file of which no row could be read: it is of another format, or empty."""
    for file, name in enumerate(tally.names):
        if file in seconds:
            continue
        if tally.read[file] == 0:
            raise ValueError(f"{name} is empty: below its header it must hold a line for each row")
        if tally.hits["unreadable", file] == tally.read[file]:
            first = next((each for each in tally.examples["unreadable"] if each["file"] == name), None)
            where = f", line {first['line']}: {first['what']}" if first else ""
            raise ValueError(f"{name}{where}; unreadable: so are all of its {tally.read[file]} rows")


# Reading


def _spilled(
    kind: Format, options: Options, paths: Sequence[Path], seconds: frozenset[int], spill: Path, tally: Tally
) -> dict[Unit, Path]:
    """Writes the rows that pass the rules of one row to a file for each unit."""
    units: dict[Unit, Path] = {}
    gathered: list[pa.Table] = []
    n = 0
    for number, path in enumerate(paths):
        if number in seconds:
            continue
        for chunk in tables(number, path, kind, options, tally):
            gathered.append(judged(kind.table, chunk, tally))
            n += gathered[-1].num_rows
            if n >= ROWS:
                _append(pa.concat_tables(gathered), TABLES[kind.table], spill, units)
                gathered, n = [], 0
    if n:
        _append(pa.concat_tables(gathered), TABLES[kind.table], spill, units)
    return units


def _append(content: pa.Table, table: Table, spill: Path, units: dict[Unit, Path]) -> None:
    when = "time" if table.name == TICKS else "quote_date"
    content = content.sort_by([("underlying", "ascending"), (when, "ascending")])
    names = pc.rank(content["underlying"], tiebreaker="min").to_numpy()
    parts = _units(content, table)
    change = np.flatnonzero((names[1:] != names[:-1]) | (parts[1:] != parts[:-1])) + 1
    for start, stop in itertools.pairwise([0, *change, content.num_rows]):
        piece = content.slice(start, stop - start)
        unit = piece["underlying"][0].as_py(), str(parts[start])
        file = units.get(unit)
        if file is None:
            folder = spill / urllib.parse.quote(unit[0], safe="")
            folder.mkdir(exist_ok=True)
            file = units[unit] = folder / f"{unit[1]}.arrows"
        # One whole stream after the other: nothing is held open, however many days there are.
        with open(file, "ab") as sink, pa.ipc.new_stream(sink, piece.schema) as writer:
            writer.write_table(piece)


def _units(content: pa.Table, table: Table) -> np.ndarray:
    """Half an hour, day or year of each row, (n,) datetime64."""
    if table.name == TICKS:
        return content["time"].to_numpy().astype("datetime64[30m]")
    days = content["quote_date"].cast(pa.int32()).to_numpy().astype("datetime64[D]")
    return days if table.name == CHAINS else days.astype("datetime64[Y]")


def _unspilled(file: Path) -> pa.Table:
    parts = []
    size = file.stat().st_size
    with open(file, "rb") as source:
        while source.tell() < size:
            with pa.ipc.open_stream(source) as reader:
                parts.append(reader.read_all())
    return pa.concat_tables(parts)


# Settling


class _Settled:
    """Brings spilled rows into the store's files, one underlying and period after the other."""

    def __init__(self, store: Store | None, manifest: Manifest, folder: Path, kind: Format, tally: Tally) -> None:
        self.store, self.manifest, self.folder, self.tally = store, manifest, folder, tally
        self.table = TABLES[kind.table]
        self.kept: dict[str, dict[str, int]] = {}  # underlying -> day -> rows
        self.replaced: Counter[str] = Counter({"days": 0, "rows": 0})
        self._before: tuple[str, np.datetime64, pa.Table] | None = None  # the last day that was kept

    def files(self, units: Mapping[Unit, Path], spill: Path) -> list[StoredFile]:
        """The new files, written and synced."""
        new = []

        def together(unit: Unit) -> tuple[str, str]:
            return unit[0], period(self.table.name, unit[1])

        for (underlying, when), group in itertools.groupby(sorted(units), key=together):
            fresh = self._fresh([(unit, units[unit]) for unit in group])
            first = next(fresh, None)
            if first is None:  # all of its rows were dropped
                continue
            new.append(self._written(underlying, when, itertools.chain([first], fresh)))
        return new

    def _fresh(self, units: Sequence[tuple[Unit, Path]]) -> Iterator[tuple[str, pa.Table]]:
        """(day, rows) of the new days, in order; a day of ticks comes in parts."""
        for (underlying, _), file in units:
            content = _unspilled(file)
            file.unlink()
            for day, rows in self._parts(content):
                if self.table.name == CHAINS and self._is_stale(underlying, np.datetime64(day), rows):
                    continue
                for number, count in zip(*np.unique(rows[FILE].to_numpy(), return_counts=True), strict=True):
                    self.tally.kept[int(number)] += int(count)
                rows = rows.drop_columns([FILE, LINE]).cast(self.table.schema)
                if self.table.name == CHAINS:
                    self._before = underlying, np.datetime64(day), rows
                days = self.kept.setdefault(underlying, {})
                days[day] = days.get(day, 0) + rows.num_rows
                yield day, rows

    def _parts(self, content: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """(day, rows) sorted and without repeats; of ticks, as there may be many, some at a time."""
        if self.table.name != TICKS:
            content = without_repeats(content, self.table.key, self.tally)
            yield from _by_day(sorted_by(content, self.table.order))
            return
        content = content.combine_chunks()
        places = ticks_in_order(content, self.tally)
        for start in range(0, places.size, _ROW_GROUP):
            rows = content.take(places[start : start + _ROW_GROUP])
            yield str(rows["quote_date"][0].as_py()), rows

    def _is_stale(self, underlying: str, day: np.datetime64, rows: pa.Table) -> bool:
        before = self._day_before(underlying, day)
        if before is None or not is_stale(rows, before[1]):
            return False
        every = np.ones(rows.num_rows, dtype=bool)
        self.tally.add("stale_day", rows, every, lambda _: f"{underlying} {day}: as on {before[0]}")
        return True

    def _day_before(self, underlying: str, day: np.datetime64) -> tuple[np.datetime64, pa.Table] | None:
        """The last day before, of these files or of the store."""
        last = self._before if self._before is not None and self._before[0] == underlying else None
        if self.store is not None:
            days = self.store.days(underlying)
            days = days[days < day]
            if days.size and (last is None or days[-1] > last[1]):
                return days[-1], self.store.day(underlying, days[-1])
        return None if last is None else (last[1], last[2])

    def _written(self, underlying: str, when: str, fresh: Iterator[tuple[str, pa.Table]]) -> StoredFile:
        folder = self.folder / place(self.table.name, underlying, when)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{secrets.token_hex(8)}.parquet"
        days: dict[str, int] = {}
        with pq.ParquetWriter(partial, self.table.schema, compression="zstd") as writer:
            waiting: list[pa.Table] = []

            def write() -> None:
                group = pa.concat_tables(waiting).combine_chunks()
                wrong = fault(self.table, group)
                if wrong is not None:
                    raise RuntimeError(f"{underlying}, {when}: {wrong}")
                writer.write_table(group, row_group_size=group.num_rows)
                waiting.clear()

            for day, rows in self._merged(self.manifest.index.get((self.table.name, underlying, when)), fresh):
                days[day] = days.get(day, 0) + rows.num_rows
                waiting.append(rows)
                if sum(each.num_rows for each in waiting) >= _ROW_GROUP:
                    write()
            if waiting:
                write()
        sum_ = checksum(partial)
        file = folder / f"{when}-{sum_[:16]}.parquet"
        synced(partial)
        os.replace(partial, file)
        synced(folder)
        path = file.relative_to(self.folder).as_posix()
        return StoredFile(path, self.table.name, underlying, when, days, file.stat().st_size, sum_)

    def _merged(self, old: StoredFile | None, fresh: Iterator[tuple[str, pa.Table]]) -> Iterator[tuple[str, pa.Table]]:
        """The days of the old file and the new ones, in order; of a day in both the new rows."""
        if old is not None and self.table.period == "D":  # the one day of the file is replaced
            self.replaced.update({"days": 1, "rows": sum(old.days.values())})
            old = None
        kept = iter(()) if old is None else _stored(self.folder / old.path)
        both = heapq.merge(
            ((day, 0, rows) for day, rows in fresh), ((day, 1, rows) for day, rows in kept), key=lambda item: item[:2]
        )
        last = ""
        for day, is_old, rows in both:
            if is_old and day == last:
                self.replaced["days"] += 1
                self.replaced["rows"] += rows.num_rows
                continue
            last = day
            yield day, rows


def _stored(file: Path) -> Iterator[tuple[str, pa.Table]]:
    """(day, rows) of a file of the store; its row groups hold whole days."""
    with pq.ParquetFile(file) as content:
        for group in range(content.num_row_groups):
            yield from _by_day(content.read_row_group(group))


def _by_day(content: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """(day, rows) of a table sorted by day."""
    days = content["quote_date"].cast(pa.int32()).to_numpy().astype("datetime64[D]")
    change = np.flatnonzero(days[1:] != days[:-1]) + 1
    for start, stop in itertools.pairwise([0, *change, content.num_rows]):
        if stop > start:
            yield str(days[start]), content.slice(start, stop - start)


# Ending


def _report(format: str, options: Mapping[str, Any], sums: Sequence[str], tally: Tally, done: _Settled) -> Report:
    files: list[dict[str, Any]] = [
        {
            "file": name,
            "sha256": sums[number],
            "read": tally.read[number],
            "kept": tally.kept[number],
            "dropped": sum(tally.hits[rule, number] for rule in DROPPED),
        }
        for number, name in enumerate(tally.names)
    ]
    read, kept, dropped = (sum(each[name] for each in files) for name in ("read", "kept", "dropped"))
    days = {
        underlying: {"days": len(rows), "first": min(rows), "last": max(rows), "rows": sum(rows.values())}
        for underlying, rows in done.kept.items()
    }
    return Report(format, options, files, read, kept, dropped, tally.rules(), days, dict(done.replaced))


def _commit(folder: Path, manifest: Manifest, new: Sequence[StoredFile], report: Report) -> None:
    """From here on the new files count, and those of the same underlying and period no more."""
    number = 1 + max((each["number"] for each in manifest.imports), default=0)
    name = f"{REPORTS}/{number}.json"
    write_text(folder / name, json.dumps(asdict(report), indent=1) + "\n")
    synced(folder / REPORTS)
    index = {**manifest.index, **{(each.table, each.underlying, each.period): each for each in new}}
    entry = {
        "number": number,
        "format": report.format,
        "options": report.options,
        "files": [{"name": Path(each["file"]).name, "sha256": each["sha256"]} for each in report.files],
        "report": name,
    }
    Manifest(tuple(index[key] for key in sorted(index)), (*manifest.imports, entry)).write(folder)
