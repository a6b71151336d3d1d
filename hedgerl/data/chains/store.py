"""A store on disk: Parquet files, and a manifest that says which of them count.

    STORE/manifest.json                                    what is valid, with the SHA-256 of each file
    STORE/chains/underlying=SPX/year=2019/2019-04-<sum>.parquet
    STORE/underlyings/underlying=VIX/year=2019/2019-<sum>.parquet
    STORE/ticks/underlying=SPY/year=2019/2019-04-24-<sum>.parquet
    STORE/reports/<number>.json                            what each import read, kept and dropped

A file never changes. An import writes new ones and then puts a new manifest in the old one's place, in one step: before
it the store is what it was, after it what it will be. Files that the manifest does not name are left over; the next
import removes them.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shutil
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from hedgerl.data.chains.schema import CHAINS, TABLES, TICKS, UNDERLYINGS, to_pandas
from hedgerl.data.chains.schema import compute as pc
from hedgerl.files import synced, write_bytes
from hedgerl.pricing._checks import day

MANIFEST, LOCK, REPORTS, SPILL = "manifest.json", ".lock", "reports", ".import-"
_SIGNS = {"D": 10, "M": 7, "Y": 4}  # of YYYY-MM-DD, that name a period
_KIND, _VERSION = "hedgerl option store", 1
_OURS = re.compile(
    rf"({'|'.join(TABLES)})/underlying=[^/]+/year=\d{{4}}/(\d{{4}}(-\d{{2}}){{0,2}}-[0-9a-f]{{16}}|\.[0-9a-f]{{16}})\.parquet"
    r"|reports/\d+\.json|reports/\.\d+\.json\.partial|\.manifest\.json\.partial"
)


@dataclass(frozen=True)
class StoredFile:
    """A Parquet file of a store: its place, its days with their rows, and its checksum."""

    path: str  # below the store
    table: str
    underlying: str
    period: str  # 2019-04-24, 2019-04 or 2019
    days: Mapping[str, int]  # YYYY-MM-DD -> rows
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Which files of a store are valid, and which files of vendors they came from."""

    files: tuple[StoredFile, ...] = ()
    imports: tuple[Mapping[str, Any], ...] = ()  # format, options, and name and SHA-256 of each file, oldest first
    index: Mapping[tuple[str, str, str], StoredFile] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {(each.table, each.underlying, each.period): each for each in self.files})

    def write(self, folder: Path) -> None:
        content = {
            "kind": _KIND,
            "version": _VERSION,
            "files": [asdict(each) for each in self.files],
            "imports": [dict(each) for each in self.imports],
        }
        write_bytes(folder / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())
        synced(folder)


def read_manifest(folder: Path) -> Manifest:
    """Raises ValueError where the folder is no store, or its manifest is damaged or of another version."""
    file = folder / MANIFEST
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["kind"] != _KIND:
            raise ValueError("it is another program's")
        if content["version"] != _VERSION:
            raise ValueError(f"it is of version {content['version']}, this program reads {_VERSION}")
        return Manifest(tuple(StoredFile(**each) for each in content["files"]), tuple(content["imports"]))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} is no store of option data: it has no {MANIFEST}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


class Store:
    """The option chains, daily prices and ticks in a folder that `hedgerl data import` wrote.

    What was imported since is seen at the next call. Raises ValueError where the folder is no store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._read: tuple[tuple[int, int, int], Manifest] | None = None
        self.manifest  # noqa: B018  - read now, so that a wrong path is told here

    @property
    def manifest(self) -> Manifest:
        try:
            at = (self.path / MANIFEST).stat()
        except OSError:
            return read_manifest(self.path)
        mark = at.st_mtime_ns, at.st_size, at.st_ino
        if self._read is None or self._read[0] != mark:
            self._read = mark, read_manifest(self.path)
        return self._read[1]

    def underlyings(self, table: str = CHAINS) -> list[str]:
        """The names that the table has rows of, sorted."""
        return sorted({each.underlying for each in self.manifest.files if each.table == table})

    def optioned(self, underlying: str | None = None) -> str:
        """The name given, or the one that there are options on. Raises ValueError where there are none, or several."""
        known = self.underlyings()
        if underlying is None and len(known) != 1:
            raise ValueError(f"underlying must be one of those in {self.path}: {', '.join(known) or 'none'}")
        return known[0] if underlying is None else underlying

    def days(self, underlying: str, table: str = CHAINS) -> np.ndarray:
        """The days that are stored, (n_days,) datetime64[D], increasing; none for an unknown name."""
        files = [each for each in self.manifest.files if (each.table, each.underlying) == (table, underlying)]
        return np.array(sorted(day for each in files for day in each.days), dtype="datetime64[D]")

    def chain(self, underlying: str, date: Any) -> pd.DataFrame:
        """All quotes of a day, columns as in docs/data.md, sorted by expiry, strike, right and root.

        `date` is a date or text YYYY-MM-DD. Raises ValueError naming the nearest day stored where it is not.
        """
        return to_pandas(self.day(underlying, day("date", date)))

    def ticks(self, underlying: str, date: Any) -> pd.DataFrame:
        """All quotes and trades of an underlying on a day, by time, which is New York's clock.

        Raises ValueError naming the nearest day stored where it is not.
        """
        return to_pandas(self.day(underlying, day("date", date), TICKS))

    def day(self, underlying: str, day: np.datetime64, table: str = CHAINS) -> pa.Table:
        """A day of `chain` or `ticks`, in Arrow."""
        file = self.manifest.index.get((table, underlying, period(table, str(day))))
        if file is None or str(day) not in file.days:
            on, quotes = ("options on", "quotes") if table == CHAINS else (f"{table} of", table)
            days = self.days(underlying, table)
            if not days.size:
                known = ", ".join(self.underlyings(table)) or "none"
                raise ValueError(f"{self.path} has no {on} {underlying!r} (it has: {known})")
            near = days[np.abs(days - day).argmin()]
            raise ValueError(f"{self.path} has no {quotes} of {underlying} on {day}; the nearest day is {near}")
        with pq.ParquetFile(self.path / file.path) as content:
            groups = [content.read_row_group(group) for group in self._groups(content, day)]
        return pa.concat_tables(groups).filter(pc.field("quote_date") == pa.scalar(day.item(), pa.date32()))

    @staticmethod
    def _groups(content: pq.ParquetFile, day: np.datetime64) -> Iterator[int]:
        """The row groups that may have rows of a day."""
        place = content.schema_arrow.get_field_index("quote_date")
        for group in range(content.num_row_groups):
            bounds = content.metadata.row_group(group).column(place).statistics
            if bounds is None or bounds.min <= day.item() <= bounds.max:
                yield group

    def prices(self, underlying: str) -> pd.DataFrame:
        """Daily prices of an underlying, oldest first. Raises ValueError where there are none."""
        files = [each for each in self.manifest.files if (each.table, each.underlying) == (UNDERLYINGS, underlying)]
        if not files:
            known = ", ".join(self.underlyings(UNDERLYINGS)) or "none"
            raise ValueError(f"{self.path} has no daily prices of {underlying!r} (it has: {known})")
        files.sort(key=lambda each: each.period)
        return to_pandas(pa.concat_tables(pq.ParquetFile(self.path / each.path).read() for each in files))

    def query(self, sql: str) -> pd.DataFrame:
        """The answer of DuckDB to a query over the tables `chains`, `underlyings` and `ticks`.

        Raises ValueError where DuckDB is not installed, and for a query that it refuses.
        """
        try:
            duckdb = importlib.import_module("duckdb")
        except ImportError:
            raise ValueError("query needs DuckDB, which is not installed: pip install 'hedgerl[data]'") from None
        with duckdb.connect() as connection:
            for name, table in TABLES.items():
                files = [str(self.path / each.path) for each in self.manifest.files if each.table == name]
                if files:
                    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
                    connection.execute(
                        f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{listed}], hive_partitioning = false)"
                    )
                else:
                    connection.register(name, table.schema.empty_table())
            try:
                return connection.execute(sql).df()
            except duckdb.Error as error:
                raise ValueError(f"DuckDB: {' '.join(str(error).split())}") from error


# Writing


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Nobody else imports into this store; a folder made for it goes again where nothing was written.

    Raises ValueError where somebody does, and where the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} must be a folder, and is a file")
    fresh = not folder.exists()
    if not (folder / MANIFEST).exists() and not fresh:
        foreign = sorted(each.name for each in folder.iterdir() if not _known(each.name))
        if foreign:
            raise ValueError(f"{folder} must be a store or empty, and holds {foreign[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another import into {folder} is running: wait for it or stop it") from None
    try:
        yield
    finally:
        if fresh and not (folder / MANIFEST).exists():
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _known(name: str) -> bool:
    return name in (LOCK, *TABLES, REPORTS, f".{MANIFEST}.partial") or name.startswith(SPILL)


def sweep(folder: Path, manifest: Manifest) -> None:
    """Removes what an import that was stopped, or a newer one, has left over. Files that are not ours stay."""
    for spill in folder.glob(f"{SPILL}*"):
        shutil.rmtree(spill)
    valid = {each.path for each in manifest.files} | {each["report"] for each in manifest.imports}
    for top in (*TABLES, REPORTS):
        for file in sorted((folder / top).rglob("*"), reverse=True):
            name = file.relative_to(folder).as_posix()
            if file.is_file() and name not in valid and _OURS.fullmatch(name):
                file.unlink()
            elif file.is_dir() and not any(file.iterdir()):
                file.rmdir()
    (folder / f".{MANIFEST}.partial").unlink(missing_ok=True)


def period(table: str, day: str) -> str:
    """The period of a table's files that a day (YYYY-MM-DD, more may follow) lies in: 2019-04-24, 2019-04 or 2019."""
    return day[: _SIGNS[TABLES[table].period]]


def place(table: str, underlying: str, period: str) -> str:
    """The folder of a file, below the store; the name is quoted so that it can hold any sign."""
    return f"{table}/underlying={urllib.parse.quote(underlying, safe='')}/year={period[:4]}"


def checksum(file: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def sorted_by(content: pa.Table, order: Sequence[str]) -> pa.Table:
    """The rows in the order of these columns."""
    return content.sort_by([(name, "ascending") for name in order])
