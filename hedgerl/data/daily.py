"""Daily market data: one frozen series, and readers of the files that vendors hand out."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import gzip
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hedgerl.pricing._checks import whole_number

FILL_DAYS = 5  # rows that a missing VIX or rate is carried forward at most
MAX_GAP_DAYS = 10  # calendar days between rows; the S&P 500 was shut for 7 in September 2001
VIX_RANGE = (1.0, 500.0)  # percent points; as decimals a VIX would be below
RATE_RANGE = (-0.1, 1.0)  # decimals per year; in percent a rate would soon be above

_COLUMNS = {  # field -> what it is called, first found first taken; any case
    "dates": ("date",),
    "close": ("close", "spx_close"),
    "open": ("open", "spx_open"),
    "high": ("high", "spx_high"),
    "low": ("low", "spx_low"),
    "vix": ("vix_close", "vix"),
    "rate": ("ust3m_pct", "dff_pct"),
}
_MISSING = ("", "nan", "na", "n/a", "null", "none", ".")
_SLASHED = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})")


@dataclass(frozen=True, eq=False)
class DailySeries:
    """A market's trading days, oldest first.

    Prices are in the vendor's unit, positive, and without dividends (a price index, or a split-adjusted close). `vix`
    and `rate` may be NaN before their first value only. Only dates, closes, VIX and rates are used by
    `hedgerl.sim.History`; highs and lows are not held against opens and closes, as official VIX files have closes
    outside.

    Raises ValueError naming the field, the rule, the value and its date.
    """

    name: str
    dates: np.ndarray  # (n_days,) datetime64[D], strictly increasing
    close: np.ndarray  # (n_days,)
    open: np.ndarray | None = None  # (n_days,)
    high: np.ndarray | None = None  # (n_days,)
    low: np.ndarray | None = None  # (n_days,)
    vix: np.ndarray | None = None  # (n_days,) percent points as quoted, at the close
    rate: np.ndarray | None = None  # (n_days,) per year, decimal, continuously compounded, known at the close

    def __post_init__(self) -> None:
        dates = np.asarray(self.dates)
        if dates.ndim != 1 or dates.dtype.kind != "M" or not dates.size or np.isnat(dates).any():
            raise ValueError(f"dates must be one or more datetime64 in one dimension, got {self.dates!r}")
        dates = dates.astype("datetime64[D]")
        for row in np.flatnonzero(np.diff(dates) <= np.timedelta64(0))[:1]:
            raise ValueError(f"dates must increase strictly, got {dates[row + 1]} after {dates[row]}")
        object.__setattr__(self, "dates", dates)
        for field in ("close", "open", "high", "low", "vix", "rate"):
            if (given := getattr(self, field)) is None and field != "close":
                continue
            values = np.asarray(given, dtype=np.float64)
            if values.shape != dates.shape:
                raise ValueError(f"{field} must have a value for each of the {dates.size} dates, got {values.shape}")
            for row, rule in _broken(field, values):
                raise ValueError(f"{field} {rule}, got {values[row]:g} on {dates[row]}")
            object.__setattr__(self, field, values)

    def __len__(self) -> int:
        return int(self.dates.size)

    def __repr__(self) -> str:
        given = "".join(f", with {field}" for field in ("vix", "rate") if getattr(self, field) is not None)
        return f"DailySeries({self.name!r}, {len(self)} days, {self.dates[0]} to {self.dates[-1]}{given})"


def read_daily(path: str | Path, vix: str | Path | None = None, *, max_gap_days: int = MAX_GAP_DAYS) -> DailySeries:
    """The series in a CSV (also .gz) or Parquet file, named after the file.

    Columns are known by their names, in any case: `Date`, and `Close` or `spx_close`, are needed; `Open`, `High`, `Low`
    (or `spx_open`, ..), a VIX in percent points as `vix_close` or `vix`, and a rate in percent as `ust3m_pct` (a bond-
    equivalent yield y: 2 log(1 + y / 200)) or else `dff_pct` (fed funds, actual/360: 365 log(1 + y / 36,000)) are taken
    where they are. That covers Yahoo's files (`Adj Close` is left alone: it knows later dividends), Cboe's VIX file
    (whose close is the VIX), panels with many markets, and a user's own table. Dates are YYYY-MM-DD, whatever follows,
    or MM/DD/YYYY; in Parquet they may be the index. Days on which VIX or rate is empty (bond holidays) take the value
    before, for up to 5 rows; before their first value they are NaN.

    Parameters
    ----------
    vix : a file to take the VIX from instead, see `with_vix`
    max_gap_days : the most calendar days between two rows

    Raises ValueError naming the file, its line (in Parquet: its row) and column, and what to do about it: for a
    missing, unreadable or empty file, a missing column, dates that cannot be parsed or do not increase, gaps, and
    prices that are empty, no number, or not positive.
    """
    whole_number("max_gap_days", max_gap_days)
    table = _Table(Path(path))
    dates = table.dates()
    for row in np.flatnonzero(np.diff(dates) > np.timedelta64(max_gap_days))[:1]:
        days = (dates[row + 1] - dates[row]).astype(int)
        raise ValueError(
            f"{table.where(row, row + 1)}: {dates[row]} and {dates[row + 1]} are {days} calendar days apart, more than "
            f"max_gap_days = {max_gap_days}: fill or cut the file, or allow the gap"
        )
    prices = {field: table.numbers(field) for field in ("close", "open", "high", "low")}
    if prices["close"] is None:
        raise ValueError(f"{table.file} has no column Close (or spx_close), only {', '.join(table.header)}: rename one")
    filled = {field: None if field == "vix" and vix is not None else table.numbers(field) for field in ("vix", "rate")}
    series = DailySeries(Path(path).name.split(".")[0], dates, **prices, **filled)  # type: ignore[arg-type]
    return series if vix is None else with_vix(series, vix)


def with_vix(series: DailySeries, path: str | Path) -> DailySeries:
    """The series on the days that a VIX file spans, with its VIX.

    The file is any that `read_daily` reads: its VIX column, or else its closes. Days before its first and after its
    last are dropped from the series, days of the file that the series does not have are ignored. A day of the series
    that the file lacks takes the VIX before, for up to 5 rows.

    Raises ValueError as `read_daily`, where the two share no day, and where more than 5 days in a row are missing.
    """
    table = _Table(Path(path))
    dates = table.dates()
    values = table.numbers("vix")
    if values is None and (values := table.numbers("close")) is None:
        raise ValueError(
            f"{table.file} has no column Close (or vix_close, vix), only {', '.join(table.header)}: rename one"
        )
    known = np.isfinite(values)
    dates, values = dates[known], values[known]
    inside = (series.dates >= dates[0]) & (series.dates <= dates[-1])
    if not inside.any():
        raise ValueError(
            f"{table.file} spans {dates[0]} to {dates[-1]}, the series {series.name} {series.dates[0]} to "
            f"{series.dates[-1]}: give a VIX of the same days"
        )
    days = series.dates[inside]
    latest = np.searchsorted(dates, days, side="right") - 1
    joined = np.where(dates[latest] == days, values[latest], np.nan)
    for row in np.flatnonzero((joined < VIX_RANGE[0]) | (joined > VIX_RANGE[1]))[:1]:
        raise ValueError(
            f"{table.file}, {days[row]}: VIX must lie in [{VIX_RANGE[0]:g}, {VIX_RANGE[1]:g}] percent points, got "
            f"{joined[row]:g}"
        )
    if np.isnan(joined[0]) and days[0] - dates[latest[0]] <= np.timedelta64(MAX_GAP_DAYS):
        joined[0] = values[latest[0]]
    joined, stale = _filled(joined)
    if np.isnan(joined[0]):
        stale = 0
    if stale is not None:
        raise ValueError(
            f"{table.file} has no VIX for more than {FILL_DAYS} days of {series.name} up to {days[stale]}: fill it in"
        )
    cut = {
        item.name: None if (value := getattr(series, item.name)) is None else value[inside]
        for item in dataclasses.fields(series)
        if item.name not in ("name", "vix")
    }
    return DailySeries(series.name, **cut, vix=joined)  # type: ignore[arg-type]


def _broken(field: str, values: np.ndarray) -> Iterator[tuple[int, str]]:
    """The first row that breaks the field's rule, with the rule; nothing where there is none."""
    if field in ("vix", "rate"):
        low, high = VIX_RANGE if field == "vix" else RATE_RANGE
        unit = "percent points" if field == "vix" else "a year (decimals, not percent)"
        known = np.isfinite(values)
        late = np.isnan(values) & np.logical_or.accumulate(known)
        wrong, rule = (
            ~known & ~np.isnan(values) | (values < low) | (values > high),
            f"must lie in [{low:g}, {high:g}] {unit}",
        )
        if late.any():
            yield int(late.argmax()), "must not be NaN after its first value"
    else:
        wrong, rule = ~(np.isfinite(values) & (values > 0)), "must be positive and finite"
    if wrong.any():
        yield int(wrong.argmax()), rule


def _filled(values: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Values with NaN after the first carried forward, and the first row left without a value, or None."""
    latest = np.maximum.accumulate(np.where(np.isfinite(values), np.arange(values.size), -1))
    stale = (latest >= 0) & (np.arange(values.size) - latest > FILL_DAYS)
    return np.where(latest < 0, np.nan, values[latest]), int(stale.argmax()) if stale.any() else None


class _Table:
    """A file's cells by column, with the place of each row in the file."""

    def __init__(self, path: Path) -> None:
        self.file = str(path)
        self._unit = "line"
        if not path.is_file():
            raise ValueError(f"{self.file} must be a file, and is not there: check the path")
        try:
            if path.suffix.lower() in (".parquet", ".pq"):
                self._read_parquet(path)
            else:
                self._read_csv(path)
        except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
            raise ValueError(f"{self.file} cannot be read: {_one_line(error)}") from error
        if not len(self._places):
            raise ValueError(f"{self.file} is empty: it must hold a header and a row for each day")
        self._by_name = {name.strip().lower(): place for place, name in reversed(list(enumerate(self.header)))}

    def _read_csv(self, path: Path) -> None:
        opened = gzip.open if path.suffix.lower() == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows: list[list[str]] = []
            places: list[int] = []
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if rows and len(row) != len(rows[0]):
                    raise ValueError(
                        f"{self.file}, line {reader.line_num} must have {len(rows[0])} fields as the header has, got "
                        f"{len(row)}: correct it"
                    )
                rows.append(row)
                places.append(reader.line_num)
        self.header = [name.strip() for name in rows[0]] if rows else []
        self._places = places[1:]
        self._cells: list[Any] = [list(column) for column in zip(*rows[1:], strict=True)]

    def _read_parquet(self, path: Path) -> None:
        self._unit = "row"
        try:
            frame = pd.read_parquet(path)
        except ValueError as error:  # pyarrow.lib.ArrowInvalid
            raise ValueError(f"{self.file} cannot be read: {_one_line(error)}") from error
        frame = frame.reset_index() if frame.index.names != [None] else frame
        self.header = [str(name) for name in frame.columns]
        self._places = list(range(1, len(frame) + 1))
        self._cells = [frame[name] for name in frame.columns]

    def where(self, *rows: int) -> str:
        """The file and the lines of rows."""
        places = " and ".join(str(self._places[row]) for row in rows)
        return f"{self.file}, {self._unit}{'s' if len(rows) > 1 else ''} {places}"

    def dates(self) -> np.ndarray:
        """The dates, (n_days,) datetime64[D], strictly increasing."""
        place = self._find("dates")
        if place is None:
            raise ValueError(f"{self.file} has no column Date, only {', '.join(self.header)}: rename one")
        cells, name = self._cells[place], self.header[place]
        if isinstance(cells, pd.Series) and pd.api.types.is_datetime64_any_dtype(cells.dtype):
            dates = cells.dt.tz_localize(None).to_numpy().astype("datetime64[D]")
        else:
            dates = np.array([_date(cell) for cell in cells], dtype="datetime64[D]")
        for row in np.flatnonzero(np.isnat(dates))[:1]:
            raise ValueError(
                f"{self.where(row)}, column {name} must be a date YYYY-MM-DD or MM/DD/YYYY, got {cells[row]!r}: "
                "correct it"
            )
        for row in np.flatnonzero(np.diff(dates) <= np.timedelta64(0))[:1]:
            what = "sort the rows, oldest first" if dates[row] != dates[row + 1] else "keep one row a day"
            raise ValueError(
                f"{self.where(row, row + 1)}, column {name} must increase, got {dates[row + 1]} after {dates[row]}: "
                f"{what}"
            )
        return dates

    def numbers(self, field: str) -> np.ndarray | None:
        """A field's column, (n_days,) float64, as `DailySeries` wants it; None where the file has none."""
        place = self._find(field)
        if place is None:
            return None
        cells, name = self._cells[place], self.header[place]
        values = np.array([_number(cell) for cell in cells])
        for row in np.flatnonzero(np.isinf(values))[:1]:
            raise ValueError(f"{self.where(row)}, column {name} must be a number, got {cells[row]!r}: correct it")
        if field in ("vix", "rate"):
            values, stale = _filled(values)
            if stale is not None:
                raise ValueError(
                    f"{self.where(stale)}, column {name} is empty for more than {FILL_DAYS} rows: fill it or drop the "
                    "column"
                )
            if np.isnan(values).all():
                raise ValueError(f"{self.file}, column {name} is empty throughout: fill it or drop the column")
        if field == "rate":
            per_year = values / 100.0
            with np.errstate(invalid="ignore"):
                is_yield = name.lower() == "ust3m_pct"
                values = 2.0 * np.log1p(per_year / 2.0) if is_yield else 365.0 * np.log1p(per_year / 360.0)
        for row, rule in _broken(field, values):
            what = "correct it" if field == "close" else "correct it or drop the column"
            raise ValueError(f"{self.where(row)}, column {name} {rule}, got {cells[row]!r}: {what}")
        return values

    def _find(self, field: str) -> int | None:
        return next((self._by_name[name] for name in _COLUMNS[field] if name in self._by_name), None)


def _date(cell: Any) -> np.datetime64:
    """A day from text or a date, NaT where it is none."""
    text = str(cell).strip()
    try:
        if match := _SLASHED.fullmatch(text):
            month, day, year = (int(part) for part in match.groups())
            return np.datetime64(datetime.date(year, month, day), "D")
        if len(text) > 10 and text[10].isdigit():
            return np.datetime64("NaT", "D")
        return np.datetime64(datetime.date.fromisoformat(text[:10]) if "-" in text else "NaT", "D")
    except ValueError:
        return np.datetime64("NaT", "D")


def _number(cell: Any) -> float:
    """A number; NaN where the cell is empty, infinity where it holds something else."""
    if isinstance(cell, str):
        if cell.strip().lower() in _MISSING:
            return math.nan
        try:
            return float(cell)
        except ValueError:
            return math.inf
    return math.nan if cell is None or cell is pd.NA else float(cell)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
