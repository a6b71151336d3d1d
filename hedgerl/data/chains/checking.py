"""Whether a store is what its manifest says, and what it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hedgerl.data.chains.schema import CHAINS, TABLES, TICKS, fault, needs_pandera
from hedgerl.data.chains.store import StoredFile, checksum, place, read_manifest, sorted_by
from hedgerl.data.chains.trading_days import trading_days


@dataclass(frozen=True)
class Holding:
    """What a store has of an underlying in one table."""

    table: str
    underlying: str
    first: str
    last: str
    days: int
    rows: int
    contracts: int  # different ones
    expiries: int
    missing: tuple[str, ...]  # trading days between the first and the last
    zero_bids: float  # share of the rows
    quotes: int = 0  # ticks with a bid or an ask
    trades: int = 0  # ticks with a price
    times: tuple[str, str] = ("", "")  # of ticks: the earliest and the latest of any day, HH:MM:SS


@dataclass(frozen=True)
class Finding:
    """What a check found: no problems, where the store is whole."""

    holdings: Sequence[Holding]
    problems: Sequence[str]


@dataclass
class _Sum:
    days: list[str] = field(default_factory=list)
    rows: int = 0
    zero_bids: int = 0
    contracts: list[np.ndarray] = field(default_factory=list)
    expiries: set[int] = field(default_factory=set)
    quotes: int = 0
    trades: int = 0
    times: list[np.timedelta64] = field(default_factory=list)


def check(path: str | Path) -> Finding:
    """Reads a whole store again: checksums, schema, order, repeats, the days that the manifest names.

    Raises ValueError where the folder is no store or its manifest is damaged.
    """
    needs_pandera()
    folder = Path(path)
    problems: list[str] = []
    sums: dict[tuple[str, str], _Sum] = {}
    for file in read_manifest(folder).files:
        wrong = _file(folder, file, sums.setdefault((file.table, file.underlying), _Sum()))
        problems += [f"{folder / file.path}: {each}" for each in wrong]
    holdings = [_holding(table, underlying, each) for (table, underlying), each in sums.items() if each.days]
    return Finding(holdings, problems)


def _file(folder: Path, file: StoredFile, into: _Sum) -> Iterator[str]:
    """What is wrong with a file; its rows are added up."""
    where = folder / file.path
    if not where.is_file():
        yield "is missing"
        return
    if checksum(where) != file.sha256:
        yield f"its SHA-256 is not the manifest's, {file.sha256[:16]}...: it was changed or damaged"
        return
    if not file.path.startswith(f"{place(file.table, file.underlying, file.period)}/{file.period}-"):
        yield "lies in another folder than its underlying and period"
    table = TABLES[file.table]
    days: dict[str, int] = {}
    last = None  # of the groups before
    try:
        with pq.ParquetFile(where) as content:
            for group in range(content.num_row_groups):
                rows = content.read_row_group(group)
                wrong = fault(table, rows)
                if wrong is not None:
                    yield wrong
                    return
                yield from _order(rows, table.order, table.key)
                first = rows[table.order[0]][0].as_py()
                if last is not None and first < last:
                    yield f"is not sorted by {table.order[0]}"
                last = rows[table.order[0]][-1].as_py()
                names = set(rows["underlying"].unique().to_pylist())
                if names != {file.underlying}:
                    yield f"holds rows of {', '.join(sorted(names - {file.underlying}))}"
                counts = rows["quote_date"].value_counts().to_pylist()
                for each in counts:
                    days[str(each["values"])] = days.get(str(each["values"]), 0) + each["counts"]
                _add(rows, file.table, into)
    except (OSError, pa.ArrowException) as error:
        yield f"cannot be read: {' '.join(str(error).split())}"
        return
    if days != dict(file.days) or list(days) != sorted(days):
        yield "has other days or rows than the manifest says"
    if any(not day.startswith(file.period) for day in days):
        yield f"has days outside of {file.period}"
    into.days += list(days)


def _order(rows: pa.Table, order: Sequence[str], key: Sequence[str]) -> Iterator[str]:
    if not sorted_by(rows, order).equals(rows):
        yield f"is not sorted by {', '.join(order)}"
    if key and rows.select(key).to_pandas().duplicated().any():
        yield f"has rows of the same {', '.join(key)}"


def _add(rows: pa.Table, table: str, into: _Sum) -> None:
    into.rows += rows.num_rows
    if table == TICKS:
        quoted, traded = rows["bid"].is_valid().to_numpy() | rows["ask"].is_valid().to_numpy(), rows["price"].is_valid()
        into.quotes += int(quoted.sum())
        into.trades += int(traded.to_numpy().sum())
        times = rows["time"].to_numpy()
        clock = times - times.astype("datetime64[D]")
        into.times += [clock.min(), clock.max()]
    if table != CHAINS:
        return
    frame = rows.select(["root", "expiry", "strike", "right"]).to_pandas(date_as_object=False)
    into.contracts.append(np.unique(pd.util.hash_pandas_object(frame, index=False).to_numpy()))
    into.expiries.update(rows["expiry"].cast(pa.int32()).unique().to_pylist())
    into.zero_bids += int((rows["bid"].to_numpy() == 0).sum())


def _holding(table: str, underlying: str, each: _Sum) -> Holding:
    days = np.array(sorted(each.days), dtype="datetime64[D]")
    missing = np.setdiff1d(trading_days(days[0], days[-1]), days)
    contracts = np.unique(np.concatenate(each.contracts)).size if each.contracts else 0
    return Holding(
        *(table, underlying, str(days[0]), str(days[-1]), days.size, each.rows, contracts, len(each.expiries)),
        missing=tuple(map(str, missing)),
        zero_bids=each.zero_bids / each.rows if each.rows else 0.0,
        quotes=each.quotes,
        trades=each.trades,
        times=(_clock(min(each.times)), _clock(max(each.times))) if each.times else ("", ""),
    )


def _clock(since_midnight: np.timedelta64) -> str:
    return str(np.datetime64(0, "s") + since_midnight.astype("timedelta64[s]"))[11:]
