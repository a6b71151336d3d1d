"""From a vendor's file to typed tables: the file is read a few thousand lines at a time, each line knows its number."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from hedgerl.data.chains.cells import Bad, Cells, looked_up, replaced, true
from hedgerl.data.chains.formats import EUROPEAN, INDEX_OF, SYNONYMS, Format, Names, normal
from hedgerl.data.chains.rules import FILE, LINE, Tally
from hedgerl.data.chains.schema import CHAINS, TABLES, TICKS
from hedgerl.data.chains.schema import compute as pc
from hedgerl.data.chains.tick_rows import tick_rows
from hedgerl.pricing._checks import nearest

LINES = 50_000  # of a chunk: 15 columns of text of them are 50 MB
_HEADER_LINES = 12  # among which the header must be
_DELIMITERS = (",", ";", "\t", "|")
_SYMBOL = r"^\^?(?P<root>[A-Z][A-Z0-9./]*?) *(?:\d{6}[CP]\d{8})?$"  # a root alone, or OCC's 21 signs, blanks or not
_RIGHTS = {"c": "C", "call": "C", "calls": "C", "p": "P", "put": "P", "puts": "P"}
_STYLES = {"e": "E", "european": "E", "a": "A", "american": "A"}
_SCALED = ("bid", "ask", "last", "underlying_price")


@dataclass(frozen=True)
class Options:
    """What the user says of the files: the underlying, the day of the quotes, and the sign of the decimals."""

    underlying: str | None = None
    date: np.datetime64 | None = None
    decimal: str = "."


@dataclass(frozen=True)
class _Plan:
    """How the lines of one file, or of one member of a zip, become rows."""

    file: int
    label: str  # the file, and the member where it is a zip
    delimiter: str
    header: tuple[str, ...]  # as written
    first: int  # number of the first line after the header
    sides: tuple[Mapping[str, int], ...]  # of each contract of a line: field -> place of its column
    known: tuple[Mapping[str, Any], ...]  # of each: field -> what holds for all lines
    named: str  # the source of each row


def tables(place: int, path: Path, kind: Format, options: Options, tally: Tally) -> Iterator[pa.Table]:
    """The typed rows of a file, a table a chunk, with FILE and LINE; what cannot be read is counted in the tally.

    Raises ValueError naming the file (and line) where it is no such file: a column is missing, it is cut short (gz,
    zip), it is no text, dates are of another order.
    """
    some = False
    with _told(path):
        for label, said, stream in _streams(path, kind):
            some = True
            yield from _rows(place, label, path.name, said, stream, kind, options, tally)
    if not some:
        raise ValueError(f"{path} holds no file of the format {kind.name}: {kind.what}")


def check_header(path: Path, kind: Format, options: Options) -> None:
    """Raises ValueError where a file is empty, or has not the format's columns."""
    with _told(path):
        for label, said, stream in _streams(path, kind):
            _plan(0, label, path.name, said, stream, kind, options)
            return
    raise ValueError(f"{path} holds no file of the format {kind.name}: {kind.what}")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, csv.Error, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be read, it may be cut short: {' '.join(str(error).split())}") from error
    except RuntimeError as error:
        if "encrypted" not in str(error):
            raise
        raise ValueError(f"{path} cannot be read: it is encrypted") from error


def _streams(path: Path, kind: Format) -> Iterator[tuple[str, Mapping[str, Any], Iterable[str]]]:
    """(label, what the name says, lines) of the file, or of each file in a zip that is wanted."""
    second = kind.second(path.name) if kind.second else None
    if second is None:
        yield from _own(path, kind)
        return
    plain = replace(kind, member=None)
    for label, said, stream in _own(path, kind):
        with _told(path.with_name(second)):
            for other, _, beside in _own(path.with_name(second), plain):
                yield label, said, _joined(label, stream, other, beside, kind)


def _joined(label: str, first: Iterable[str], other: str, second: Iterable[str], kind: Format) -> Iterator[str]:
    """Lines of two files, one beside the other: a whole one of the first, and the cells of the second that are wanted.

    Where one of them has not its number of cells they are not joined, so that the line is told to be unreadable.
    """
    for number, (line, beside) in enumerate(itertools.zip_longest(first, second), 1):
        if line is None or beside is None:
            longer, shorter = (other, label) if line is None else (label, other)
            raise ValueError(
                f"{longer} goes on at line {number}, where {shorter} ends: they belong together by the line"
            )
        cells = beside.rstrip("\r\n").split(",")[: kind.beside]
        if line.count(",") == len(kind.layout) - kind.beside - 1 and len(cells) == kind.beside:
            line = ",".join([line.rstrip("\r\n"), *cells]) + "\n"
        yield line


def _own(path: Path, kind: Format) -> Iterator[tuple[str, Mapping[str, Any], TextIO]]:
    with open(path, "rb") as raw:
        start = raw.read(4)
    if start == b"PAR1":
        with io.BufferedReader(_Written(path, times=kind.table == TICKS)) as content:
            yield str(path), _of_name(kind, path.name), _text(content, path)
    elif start[:2] == b"\x1f\x8b":
        with gzip.open(path, "rb") as content:
            yield str(path), _of_name(kind, path.name), _text(content, path)
    elif start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename
                if member.is_dir() or name.startswith("__MACOSX") or Path(name).name.startswith("."):
                    continue
                said = kind.member(name) if kind.member else {}
                if said is not None:
                    with archive.open(member) as content:
                        yield f"{path}:{name}", said, _text(content, path)
    else:
        with open(path, "rb") as content:
            yield str(path), _of_name(kind, path.name), _text(content, path)


class _Written(io.RawIOBase):
    """A Parquet file as the text of a CSV file; a row is a line, the first after the header line 2.

    times : timestamps are written to the nanosecond, else as days
    """

    def __init__(self, path: Path, times: bool) -> None:
        super().__init__()
        self._path, self._times = path, times
        self._parts = self._text_of_batches()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._parts, b"")
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def _text_of_batches(self) -> Iterator[bytes]:
        try:
            with pq.ParquetFile(self._path) as content:
                some = False
                for batch in content.iter_batches(LINES):
                    yield self._text_of(batch, header=not some)
                    some = True
                if not some:
                    yield ",".join(content.schema_arrow.names).encode() + b"\n"
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self._path} cannot be read: {' '.join(str(error).split())}") from error

    def _text_of(self, batch: pa.RecordBatch, header: bool) -> bytes:
        columns = {
            name: column.cast(pa.date32(), safe=False)
            if pa.types.is_timestamp(column.type) and not self._times
            else column
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        try:  # without quotes lines are split four times as fast
            return _csv(pa.table(columns), header, "none")
        except pa.ArrowInvalid:
            return _csv(pa.table(columns), header, "needed")


def _csv(content: pa.Table, header: bool, quotes: Literal["none", "needed"]) -> bytes:
    out = pa.BufferOutputStream()
    pacsv.write_csv(content, out, pacsv.WriteOptions(include_header=header, quoting_style=quotes))
    return bytes(out.getvalue().to_pybytes())


def _of_name(kind: Format, name: str) -> Mapping[str, Any]:
    said = kind.member(name) if kind.member else {}
    if said is None:
        raise ValueError(f"{name} is not a file of the format {kind.name}: {kind.what}")
    return said


def _text(content: Any, path: Path) -> TextIO:
    """UTF-8, with or without its mark; what is no UTF-8 is kept apart and taken as latin-1 by the line."""
    buffered = io.BufferedReader(content, 1 << 16)
    start = buffered.peek(1 << 16)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{path} is in UTF-16: save it as UTF-8")
    if b"\0" in start:
        raise ValueError(f"{path} is no text: it holds zero bytes")
    return io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape")


def _lines(stream: Iterable[str]) -> Iterator[str]:
    for line in stream:
        yield line if line.isascii() else _latin(line)


def _latin(line: str) -> str:
    if not any("\udc80" <= each <= "\udcff" for each in line):
        return line
    return line.encode("utf-8", "surrogateescape").decode("latin-1")


def _cells(line: str, delimiter: str) -> list[str] | None:
    """The cells of one line; None where a quote is opened and not closed, which would swallow the lines after it."""
    line = line.rstrip("\r\n")
    if '"' not in line:
        return line.split(delimiter)
    if line.count('"') % 2:
        return None
    return next(csv.reader((line,), delimiter=delimiter, skipinitialspace=True))


# The header


def _plan(
    file: int, label: str, name: str, said: Mapping[str, Any], stream: Iterable[str], kind: Format, options: Options
) -> tuple[_Plan, Iterator[str]]:
    """The plan, and the lines below the header."""
    known = {**kind.fixed, **said}
    below: Iterator[str] = _lines(stream)
    header: Sequence[str] = known.pop("layout", kind.layout)
    delimiter, first = ",", 1
    if not header:
        top = list(itertools.islice(below, _HEADER_LINES))
        if not any(line.strip() for line in top):
            raise ValueError(f"{label} is empty: it must hold a header and a line for each row")
        number, delimiter, header = _header(top, kind)
        first = number + 2
        if kind.preamble:
            known |= kind.preamble(top[:number])
        below = itertools.chain(top[number + 1 :], below)
    if options.date is not None:
        of_times = kind.table == TICKS and not _placed(header, {"quote_date": kind.columns.get("quote_date", ())})
        if "quote_date" in said or ("quote_date" in kind.columns and not of_times):
            raise ValueError(f"{label} says itself of which days its rows are: leave --date out")
        known["quote_date"] = options.date
    asked = options.underlying
    places: list[Mapping[str, int]] = []
    facts: list[Mapping[str, Any]] = []
    for names, own in kind.sides:
        side = _placed(header, names)
        side = {name: column for name, column in side.items() if name not in known}
        fact = {**known, **own}
        if asked is not None and "underlying" not in side and "underlying" not in fact:
            fact["underlying"] = asked
        # Columns first: a file of another format lacks them, and what its first lines do not say is beside the point.
        for wanted in sorted(kind.required, key=lambda each: each not in names):
            if wanted not in side and wanted not in fact:
                raise ValueError(_missing(label, first - 1, wanted, names.get(wanted, ()), header))
        if kind.table == TICKS and (unsaid := _unsaid(side)):
            raise ValueError(_missing(label, first - 1, unsaid, names[unsaid], header))
        places.append(side)
        facts.append(fact)
    named = f"{kind.name}:{name}"
    return _Plan(file, label, delimiter, tuple(header), first, tuple(places), tuple(facts), named), below


def _unsaid(side: Collection[str]) -> str | None:
    """The column that a file of ticks lacks: the other one of bid and ask, or a price where it has neither."""
    if ("bid" in side) != ("ask" in side):
        return "ask" if "bid" in side else "bid"
    return None if "bid" in side or "price" in side else "price"


def _header(top: Sequence[str], kind: Format) -> tuple[int, str, list[str]]:
    """(place, delimiter, names) of the line that has most of the format's columns."""
    best: tuple[int, int, str, list[str]] = (-1, 0, ",", [])
    for number, line in enumerate(top):
        for delimiter in _DELIMITERS:
            cells = [cell.strip() for cell in _cells(line, delimiter) or []]
            score = sum(len(_placed(cells, names)) for names, _ in kind.sides)
            if score > best[0] and any(cells):
                best = score, number, delimiter, cells
    return best[1:]


def _placed(header: Sequence[str], names: Names) -> dict[str, int]:
    """Field -> place of its column; a name that comes again is name#2."""
    columns: dict[str, int] = {}
    for place, name in enumerate(map(normal, header)):
        columns.setdefault(name if name not in columns else f"{name}#2", place)
    places = {}
    for wanted, called in names.items():
        for each in called:
            if each in columns:
                places[wanted] = columns[each]
                break
    return places


def _missing(label: str, line: int, wanted: str, called: Sequence[str], header: Sequence[str]) -> str:
    where = f"{label}, line {line}"
    if wanted == "underlying" and not called:
        return f"{where}: the file does not say what the underlying is: give --underlying NAME"
    if wanted == "quote_date" and not called:
        return f"{where}: nothing above the header says of which day the quotes are: give --date YYYY-MM-DD"
    meant = _placed(header, {wanted: SYNONYMS.get(wanted, ())})  # what other vendors call it
    near = header[meant[wanted]] if meant else nearest(called[0], header)
    hint = {"underlying": ", or give --underlying NAME", "quote_date": ", or give --date YYYY-MM-DD"}.get(wanted, "")
    return f"{where} has no column {' or '.join(called[:3])}; the nearest is {near!r}: rename it{hint}"


# The rows


def _rows(
    file: int,
    label: str,
    name: str,
    said: Mapping[str, Any],
    stream: Iterable[str],
    kind: Format,
    options: Options,
    tally: Tally,
) -> Iterator[pa.Table]:
    plan, below = _plan(file, label, name, said, stream, kind, options)
    width, n_sides = len(plan.header), len(plan.sides)
    wanted = sorted({column for side in plan.sides for column in side.values()})
    numbered = enumerate(below, plan.first)
    while chunk := list(itertools.islice(numbered, LINES)):
        lines = [(number, line) for number, line in chunk if not line.isspace()]
        tally.read[file] += n_sides * len(lines)
        quoted = any('"' in line for _, line in lines)
        good: list[Any] = []
        places: list[int] = []
        for number, line in lines:
            cells = _cells(line, plan.delimiter) if quoted else line
            got = 0 if cells is None else len(cells) if quoted else line.count(plan.delimiter) + 1
            if got == width:
                good.append(cells)
                places.append(number)
                continue
            tally.hits["unreadable", file] += n_sides
            told = "a quote that is not closed" if cells is None else str(got)
            tally.example("unreadable", file, number, f"must have {width} cells as the header has, got {told}")
        if not good:
            continue
        if quoted:
            columns = {column: pa.array([row[column] for row in good], pa.string()) for column in wanted}
        else:
            columns = _split("".join(good), width, wanted, plan.delimiter)
        for side, known in zip(plan.sides, plan.known, strict=True):
            bad = Bad(np.zeros(len(places), dtype=bool))
            lines_of = np.array(places)
            cells_of = Cells(label, plan.header, side, known, columns, lines_of, options.decimal, bad)
            yield _typed(plan, cells_of, known, kind, options, tally)


def _split(text: str, width: int, wanted: Sequence[int], delimiter: str) -> dict[int, pa.Array]:
    """The cells by column of lines without quotes that all have `width` cells. str.split would take half the time."""
    names = [str(column) for column in range(width)]
    table = pacsv.read_csv(
        pa.BufferReader(text.encode()),
        pacsv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) * 4 + 1024),
        pacsv.ParseOptions(delimiter=delimiter, quote_char=False, ignore_empty_lines=False),
        pacsv.ConvertOptions(
            include_columns=[names[each] for each in wanted], column_types=dict.fromkeys(names, pa.string())
        ),
    )
    return {column: table[names[column]].combine_chunks() for column in wanted}


def _typed(
    plan: _Plan, cells: Cells, known: Mapping[str, Any], kind: Format, options: Options, tally: Tally
) -> pa.Table:
    n, table, bad = cells.n, TABLES[kind.table], cells.bad
    flagged = np.zeros(n, dtype=bool)
    if kind.table == TICKS:
        content, flagged = tick_rows(cells, kind)
        if "bar" in known:
            tally.bars.add(plan.file)
    else:
        content = _content(cells, known, kind)
    both = _middle(cells, content, kind)
    _words(kind, content, cells)
    source = cells.text("source")
    content["source"] = pa.repeat(pa.scalar(plan.named), n) if source is None else source.fill_null(plan.named)
    content[FILE] = pa.array(np.full(n, plan.file, dtype=np.int32))
    content[LINE] = pa.array(cells.lines.astype(np.int64))
    good = pa.table(
        [content[each] for each in (*table.schema.names, FILE, LINE)], names=[*table.schema.names, FILE, LINE]
    )
    tally.add("unreadable", good, bad.rows, lambda row: bad.told[row] if row in bad.told else "see the rows before")
    tally.add("underlying_mid", good, both & ~bad.rows, lambda row: f"{good['underlying_price'][row].as_py():g}")
    tally.add("suspicious", good, flagged & ~bad.rows, lambda row: str(good["time"][row].as_py()))
    left = ~bad.rows & ~flagged
    good = good if left.all() else good.filter(pa.array(left))
    if options.underlying is not None:
        other = good["underlying"].to_numpy() != options.underlying
        tally.add("other_underlying", good, other, lambda row: str(good["underlying"][row].as_py()))
        good = good.filter(pa.array(~other)) if other.any() else good
    return good.cast(raw_schema(kind.table))


def _content(cells: Cells, known: Mapping[str, Any], kind: Format) -> dict[str, pa.Array]:
    """Dates and numbers of option quotes and daily prices."""
    content: dict[str, pa.Array] = {}
    n, bad = cells.n, cells.bad
    for each in TABLES[kind.table].fields:
        text, title = cells.text(each.name), cells.title(each.name)
        if isinstance(known.get(each.name), np.datetime64):
            content[each.name] = pa.repeat(pa.scalar(known[each.name].item(), pa.date32()), n)
        elif each.kind == "date" and text is not None:
            days = cells.days(each.name, text, kind.dates)
            bad.add(np.isnat(days), title, text, f"a date {' or '.join(kind.dates)}")
            content[each.name] = pa.array(days, pa.date32())
        elif each.kind in ("number", "count"):
            if text is None:
                content[each.name] = pa.nulls(n, TABLES[kind.table].schema.field(each.name).type)
                continue
            values = cells.numbers(each.name) / (kind.scale if each.name in _SCALED else 1.0)
            if each.name in ("strike", "close"):
                bad.add(~(values > 0), title, text, "a positive number")
            if each.name == "last" or each.kind == "count":
                bad.add(values < 0, title, text, "no negative number")
            if each.kind == "count":
                bad.add(~np.isnan(values) & (values != np.floor(values)), title, text, "a whole number")
                bad.add(values >= 2.0**53, title, text, "below 2^53")
            empty = np.isnan(values)
            whole = np.where(empty | bad.rows, 0.0, values)
            content[each.name] = (
                pa.array(values, mask=empty)
                if each.kind == "number"
                else pa.array(whole.astype(np.int64), mask=empty | bad.rows)
            )
    return content


def _middle(cells: Cells, content: dict[str, pa.Array], kind: Format) -> np.ndarray:
    """The underlying's price is the middle of its bid and ask where there are both: (n,) bool."""
    if kind.table != CHAINS or not {"underlying_bid", "underlying_ask"} <= set(cells.places):
        return np.zeros(cells.n, dtype=bool)
    low, high = (cells.numbers(name) / kind.scale for name in ("underlying_bid", "underlying_ask"))
    with np.errstate(invalid="ignore"):
        both: np.ndarray = (low > 0) & (high >= low)
    content["underlying_price"] = pc.if_else(pa.array(both), pa.array(0.5 * (low + high)), content["underlying_price"])
    return both


def raw_schema(table: str) -> pa.Schema:
    """The columns of a table, any of them empty, with FILE and LINE."""
    fields = [each.with_nullable(True) for each in TABLES[table].schema]
    return pa.schema([*fields, pa.field(FILE, pa.int32()), pa.field(LINE, pa.int64())])


def _words(kind: Format, content: dict[str, pa.Array], cells: Cells) -> None:
    """Underlying, and of an option root, right and style, from their texts."""
    bad = cells.bad
    text = cells.text("underlying")
    upper = pc.utf8_upper(text)
    named = pc.utf8_trim_whitespace(pc.utf8_ltrim(upper, "^$"))
    nameless = true(pc.or_(pc.is_null(named), pc.equal(pc.fill_null(named, ""), "")))
    bad.add(nameless, cells.title("underlying"), text, "a name")
    content["underlying"] = replaced(named, INDEX_OF)
    if kind.table != CHAINS:
        return
    symbols = cells.text("root")
    if symbols is None:
        content["root"] = named
    else:
        upper = pc.utf8_upper(symbols)
        found = pc.struct_field(pc.extract_regex(upper, _SYMBOL), "root")
        bad.add(true(pc.is_null(found)), cells.title("root"), symbols, "a root or an OCC symbol")
        content["root"] = found
    right = cells.text("right")
    content["right"] = looked_up(right, _RIGHTS)
    bad.add(true(pc.is_null(content["right"])), cells.title("right"), right, "call or put")
    style = cells.text("style")
    by_class = pc.if_else(pc.is_in(content["underlying"], value_set=pa.array(sorted(EUROPEAN))), "E", "A")
    if style is None:
        content["style"] = by_class
    else:
        read = looked_up(style, _STYLES)
        unknown = true(pc.and_(pc.is_null(read), pc.is_valid(style)))
        bad.add(unknown, cells.title("style"), style, "European or American")
        content["style"] = pc.coalesce(read, by_class)
