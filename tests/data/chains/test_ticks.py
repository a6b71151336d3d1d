"""Quotes and trades of an underlying: what each layout becomes, which rows are kept, and the store that they make."""

from __future__ import annotations

import errno
import gzip
import os
import random
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedgerl import cli
from hedgerl.data.chains import FORMATS, Store, check, import_files, importing
from hedgerl.data.chains.schema import TABLES, TICKS
from hedgerl.data.estimators import two_scales

DAY = "2013-10-07"
VALUES = ["bid", "ask", "bid_size", "ask_size", "price", "size"]
FOLDER = Path(os.environ.get("HEDGERL_DATA") or "absent")


def brought(vendors, tmp_path, store, rows, name="ticks.csv", day=DAY):
    return import_files("generic-ticks", [vendors.written(tmp_path / name, vendors.generic_ticks(rows, day))], store)


def counts(report, kind="dropped"):
    return {rule: each["rows"] for rule, each in report.rules.get(kind, {}).items()}


def frame_of(rows, day=DAY):
    time = np.datetime64(day, "ns") + np.array([t.at for t in rows]).astype("timedelta64[ns]")
    return pd.DataFrame({"time": time, **{name: [getattr(t, name) for t in rows] for name in VALUES}}).astype(
        dict.fromkeys(VALUES, float)
    )


# Layouts


@pytest.mark.parametrize("name", ["generic-ticks", "lobster", "tick", "second", "minute"])
def test_every_layout(name, vendors, tmp_path, store):
    """Twin: five layouts of one hour. Catches bid and ask or price and size exchanged, prices not divided, a bar known
    at its beginning (its close would be seen a second too early), an order's price taken for a trade's."""
    rows = vendors.ticks()
    if name == "generic-ticks":
        report = brought(vendors, tmp_path, store, rows)
    elif name == "lobster":
        report = import_files("lobster", vendors.lobster(tmp_path, rows), store)
    else:
        report = import_files("lean-equity", vendors.lean_equity(tmp_path, rows, name), store)
    assert report.dropped == 0
    found, wanted = Store(store).ticks("SPY", DAY), frame_of(rows)
    assert list(found.columns) == [each.name for each in TABLES[TICKS].fields]
    assert (found["quote_date"] == DAY).all()
    if name in ("generic-ticks", "lobster"):
        pd.testing.assert_frame_equal(found[["time", *VALUES]], wanted)
    else:  # a quote and a trade are rows of their own
        quotes, trades = found[found["bid"].notna()], found[found["price"].notna()]
        assert len(found) == len(quotes) + len(trades) == report.kept
        for part, columns in ((quotes, VALUES[:4]), (trades, VALUES[4:])):
            twin = wanted.dropna(subset=columns[:1])[["time", *columns]]
            pd.testing.assert_frame_equal(part[["time", *columns]].reset_index(drop=True), twin.reset_index(drop=True))
    assert found["source"].str.startswith(report.format).all()


def test_every_tick_format_has_a_layout_here():
    """Catches a format that is added and never read by a test."""
    assert {name for name, each in FORMATS.items() if each.table == TICKS} == {
        "generic-ticks",
        "lean-equity",
        "lobster",
    }


@pytest.mark.parametrize(
    "cell",
    [
        "2013-10-07 09:30:00.123456789",
        "2013-10-07T09:30:00.123456789",
        "2013-10-07T13:30:00.123456789Z",
        "2013-10-07 15:30:00.123456789+02:00",
        "2013-10-07 08:30:00.123456789-0500",
        "10/07/2013 9:30:00.123456789",
        "20131007 09:30:00.123456789",
        "1381152600.123456789",
        "1381152600123.456789",
        "1381152600123456.789",
        "1381152600123456789",
    ],
)
def test_times(cell, vendors, tmp_path, store):
    """Golden: 13:30 UTC is 9:30 in New York in October. Catches a zone left out, an epoch of another unit, and
    nanoseconds that are rounded away by a float."""
    text = f"timestamp,symbol,bid,ask\n{cell},SPY,167.1,167.2\n"
    import_files("generic-ticks", [vendors.written(tmp_path / "ticks.csv", text)], store)
    assert list(Store(store).ticks("SPY", DAY)["time"]) == [pd.Timestamp("2013-10-07 09:30:00.123456789")]


def test_winter_and_summer_time(vendors, tmp_path, store):
    """Golden: 14:30 UTC opens the exchange on Friday 8 March 2013, 13:30 on Monday 11 March. Catches a fixed offset."""
    text = "ts_event,symbol,price,size\n1362753000,SPY,155,1\n1363008600000,SPY,155,1\n"
    import_files("generic-ticks", [vendors.written(tmp_path / "ticks.csv", text)], store)
    for day in ("2013-03-08", "2013-03-11"):
        assert list(Store(store).ticks("SPY", day)["time"]) == [pd.Timestamp(f"{day} 09:30")]


@pytest.mark.parametrize("date", ["2013-10-07", "10/7/2013", "20131007", "2013-10-07 00:00:00"])
def test_a_date_beside_a_time(date, vendors, tmp_path, store):
    """Behaviour: two columns are one time; --date says the day of a file that has none, and is refused where the file
    has. Catches all rows at midnight."""
    file = vendors.written(
        tmp_path / "a.csv", f"date;time;ticker;bid;ofr;bidsiz;ofrsiz\n{date};9:30:01.5;SPY;1;2;3;4\n"
    )
    import_files("generic-ticks", [file], store)
    bare = vendors.written(tmp_path / "b.csv", "time_m,sym_root,best_bid,best_ask\n9:30:01.5,SPY,1,2\n")
    import_files("generic-ticks", [bare], tmp_path / "other", date="2013-10-07")
    for folder in (store, tmp_path / "other"):
        (row,) = Store(folder).ticks("SPY", DAY).itertuples()
        assert (row.time, row.bid, row.ask) == (pd.Timestamp("2013-10-07 09:30:01.5"), 1.0, 2.0)
    with pytest.raises(ValueError, match="a.csv says itself of which days its rows are"):
        import_files("generic-ticks", [file], tmp_path / "third", date="2013-10-07")
    for cell in (f"{DAY} 9:30", "1381152600"):
        whole = vendors.written(tmp_path / "c.csv", f"time,symbol,price\n{cell},SPY,1\n")
        with pytest.raises(ValueError, match=f"c.csv, line 2: column time must be a time of day, .* got '{cell}'"):
            import_files("generic-ticks", [whole], tmp_path / "third", date="2013-10-08")
    with pytest.raises(ValueError, match=r"b.csv, line 2: column time_m must be a date and time.*got '9:30:01.5'"):
        import_files("generic-ticks", [bare], tmp_path / "third")


@pytest.mark.parametrize("zone", [None, "America/New_York", "UTC"])
def test_parquet(zone, vendors, tmp_path, store):
    """Twin: timestamps of Parquet, with or without a zone, are those of the text. Catches times cut to their day."""
    rows = vendors.ticks()
    frame = frame_of(rows).assign(symbol="SPY")
    if zone:
        frame["time"] = frame["time"].dt.tz_localize("America/New_York").dt.tz_convert(zone)
    frame.to_parquet(tmp_path / "ticks.parquet", row_group_size=7)
    import_files("generic-ticks", [tmp_path / "ticks.parquet"], store)
    pd.testing.assert_frame_equal(Store(store).ticks("SPY", DAY)[["time", *VALUES]], frame_of(rows))


# Rules


@pytest.mark.parametrize(
    ("kind", "rule", "change"),
    [
        ("dropped", "crossed", {"bid": 168.0}),
        ("dropped", "not_positive", {"bid": -1.0}),
        ("dropped", "not_positive", {"ask": -1.0, "bid": None}),
        ("dropped", "not_positive", {"price": 0.0, "size": 1}),
        ("dropped", "empty_tick", {"bid": None, "ask": None}),
        ("dropped", "unreadable", {"bid": "much"}),
        ("dropped", "unreadable", {"ask": "inf"}),
        ("dropped", "unreadable", {"ask_size": -1}),
        ("noted", "one_sided", {"bid": None}),
        ("noted", "locked", {"bid": 167.5, "ask": 167.5}),
        ("noted", "outside_session", {"at": 57_600 * 10**9 + 1}),
        ("noted", "outside_session", {"at": 34_200 * 10**9 - 1}),
    ],
)
def test_one_row(kind, rule, change, vendors, tmp_path, store):
    """Behaviour: a row that breaks one rule is counted there, with its file and line, and only what is dropped is
    missing. Catches a rule that takes others' rows, and the session's ends on the wrong side."""
    rows = [*vendors.ticks(5), vendors.Tick(57_600 * 10**9, 167.0, 167.01), vendors.Tick(34_200 * 10**9, 167.0, 167.01)]
    rows[1] = replace(rows[1], **change)
    report = brought(vendors, tmp_path, store, rows)
    assert counts(report) == ({rule: 1} if kind == "dropped" else {})
    assert counts(report, "noted") == ({rule: 1} if kind == "noted" else {})
    assert (report.read, report.kept) == (7, 6 if kind == "dropped" else 7)
    (example,) = report.rules[kind][rule]["examples"]
    assert (example["file"], example["line"]) == (str(tmp_path / "ticks.csv"), 3)
    assert len(Store(store).ticks("SPY", DAY)) == report.kept


def test_a_side_of_zero(vendors, tmp_path, store):
    """Behaviour: vendors write 0 where nobody quotes: the side and its size are empty, the other stays; LOBSTER writes
    9,999,999,999. Catches a mid of half the ask, and a stale quote in the place of an empty book."""
    brought(vendors, tmp_path, store, [replace(vendors.ticks(1)[0], bid=0.0)])
    message, book = vendors.lobster(tmp_path, vendors.ticks(2))
    first, second = book.read_text().splitlines()
    book.write_text(f"{first}\n9999999999,0,{second.split(',', 2)[2]}\n")
    report = import_files("lobster", [message, book], tmp_path / "other")
    assert (counts(report, "mended"), counts(report, "noted")) == ({"no_side": 1}, {"one_sided": 1})
    frame = Store(store).ticks("SPY", DAY)
    assert frame[["bid", "bid_size"]].isna().all(axis=None)
    assert list(frame["ask"]) == [167.01]
    assert list(Store(tmp_path / "other").ticks("SPY", DAY)["ask"].isna()) == [False, True]


def test_days_without_trading(vendors, tmp_path, store):
    """Behaviour: a Sunday's and a holiday's ticks are dropped, other days kept. Catches test data of exchanges."""
    text = vendors.generic_ticks(vendors.ticks(2))
    text += "".join(
        vendors.generic_ticks(vendors.ticks(3), day).partition("\n")[2] for day in ("2013-10-06", "2013-09-02")
    )
    report = import_files("generic-ticks", [vendors.written(tmp_path / "ticks.csv", text)], store)
    assert counts(report) == {"not_a_trading_day": 6}
    assert [str(day) for day in Store(store).days("SPY", TICKS)] == [DAY]


@pytest.mark.parametrize("lines", [50_000, 3])
def test_out_of_order(lines, vendors, tmp_path, store, monkeypatch):
    """Twin: shuffled and sorted are one store, also where a chunk ends between; counted are the rows after a later one.
    Two underlyings one below the other are in order. Catches a count that forgets the chunk before."""
    monkeypatch.setattr("hedgerl.data.chains.reading.LINES", lines)
    rows = vendors.ticks(20)
    moved = [*rows[:5], *rows[8:12], *rows[5:8], *rows[12:]]
    report = brought(vendors, tmp_path, store, moved)
    assert counts(report, "mended") == {"unordered": 3}
    pd.testing.assert_frame_equal(Store(store).ticks("SPY", DAY)[["time", *VALUES]], frame_of(rows))
    text = vendors.generic_ticks(rows)
    both = vendors.written(tmp_path / "both.csv", text + text.partition("\n")[2].replace("SPY", "QQQ"))
    assert counts(import_files("generic-ticks", [both], tmp_path / "other"), "mended") == {}


def test_repeats(vendors, tmp_path, store):
    """Behaviour: counted by hand. A quote said twice at a time is one; trades alike in a file are two trades; the same
    file under another name adds nothing, and a file with three of them one. Catches volume lost, or counted twice."""
    quote, trade = vendors.ticks(2)[1], vendors.ticks(1)[0]
    texts = [vendors.generic_ticks(rows) for rows in ([trade, trade, quote, quote], [trade, trade, trade, quote])]
    files = [vendors.written(tmp_path / f"{number}.csv", text) for number, text in enumerate(texts)]
    report = import_files("generic-ticks", files, store)
    assert counts(report) == {"duplicate": 2 + 1 + 1}
    assert counts(report, "noted") == {"same_trade": 2}
    assert [each["kept"] for each in report.files] == [3, 1]
    assert Store(store).ticks("SPY", DAY)["size"].sum() == 300.0


def test_rows_of_one_time_stay_in_order(vendors, tmp_path, store):
    """Identity: files and lines decide, not the values. Catches a last quote of a time that is not the last written."""
    rows = [replace(vendors.ticks(1)[0], bid=bid, price=None, size=None) for bid in (166.9, 166.5, 166.7, 166.4)]
    brought(vendors, tmp_path, store, rows)
    assert list(Store(store).ticks("SPY", DAY)["bid"]) == [166.9, 166.5, 166.7, 166.4]
    assert check(store).problems == []


def test_bars_come_once(vendors, tmp_path, store):
    """Behaviour: a bar that comes again is a repeat, trade or not, and one with other values takes its place. Catches
    a second whose volume counts twice."""
    files = vendors.lean_equity(tmp_path, vendors.ticks(4), "second")
    with zipfile.ZipFile(files[1]) as archive:
        (name,) = archive.namelist()
        lines = archive.read(name).decode().splitlines()
    with zipfile.ZipFile(files[1], "w") as archive:
        archive.writestr(name, "\n".join([lines[0], lines[0], lines[1], lines[1].rpartition(",")[0] + ",777"]))
    report = import_files("lean-equity", files, store)
    assert counts(report) == {"duplicate": 1, "conflict": 1}
    assert list(Store(store).ticks("SPY", DAY)["size"].dropna()) == [100.0, 777.0]


def test_suspicious_ticks(vendors, tmp_path, store):
    """Behaviour: the vendor's own flag counts. Catches prints far from the market among the trades."""
    files = vendors.lean_equity(tmp_path, vendors.ticks(4), "tick")
    with zipfile.ZipFile(files[1], "a") as archive:
        archive.writestr("20131008_spy_Trade_Tick.csv", "other")
        archive.writestr("x/20131008_spy_tick_trade.csv", "34200000.5,100,100,D,1,1\n34200001.5,1674100,100,D,1,0\n")
    report = import_files("lean-equity", files, store)
    assert counts(report) == {"suspicious": 1}
    assert list(Store(store).ticks("SPY", "2013-10-08")["price"]) == [167.41]


# What is refused


def refused(message, name, files, store, **options):
    with pytest.raises(ValueError, match=message):
        import_files(name, files, store, **options)
    assert not store.exists()


def test_refusals(vendors, tmp_path, store):
    """Behaviour: file, line, column and what to do. Catches tracebacks, half a pair, and a store made for nothing."""
    text = vendors.generic_ticks(vendors.ticks(3))
    file = vendors.written(tmp_path / "ticks.csv", text)
    refused("unknown format 'lobstr'; did you mean lobster?", "lobstr", [file], store)
    for old, new, message in (
        ("timestamp", "tmestamp", "bad.csv, line 1 has no column timestamp or .*; the nearest is 'tmestamp'"),
        ("ask,", "aks,", "bad.csv, line 1 has no column ask or .*: rename it"),
        ("symbol", "code", "bad.csv, line 1 has no column underlying or symbol.* or give --underlying NAME"),
        (DAY, "27/10/2013", "bad.csv, line 2, column timestamp must be a date MM/DD/YYYY, got '27/10/2013'"),
        (f"{DAY} ", "", "bad.csv, line 2: column timestamp must be a date and time, or a time since 1970"),
    ):
        refused(message, "generic-ticks", [vendors.written(tmp_path / "bad.csv", text.replace(old, new))], store)
    for number in ("20131007093000", "34200", "34200000", "9999999999999999999999"):  # of none of the units
        bad = vendors.written(tmp_path / "bad.csv", f"timestamp,symbol,price\n{number},SPY,1\n")
        refused(f"bad.csv, line 2: column timestamp must be .*got '{number}'", "generic-ticks", [bad], store)
    message, book = vendors.lobster(tmp_path, vendors.ticks(5))
    refused("message_2.csv needs SPY_.*_orderbook_2.csv of the same folder: give both", "lobster", [message], store)
    refused("orderbook_2.csv is not a file of the format lobster whose pair is given", "lobster", [book], store)
    refused("ticks.csv is not a file of the format lobster", "lobster", [file, message, book], store)
    book.write_text(book.read_text().rpartition("\n16")[0])
    refused("message_2.csv goes on at line 5, where .*orderbook_2.csv ends", "lobster", [message, book], store)
    refused("ticks.csv is not a file of the format lean-equity", "lean-equity", [file], store)
    plain = vendors.written(tmp_path / "20131007_quote.zip", text)
    refused("20131007_quote.zip holds no file of the format lean-equity", "lean-equity", [plain], store)
    lean = vendors.lean_equity(tmp_path, vendors.ticks(3), "second")
    refused("spy_second_quote.csv says itself of which days", "lean-equity", lean, store, date="2013-10-07")


def test_lobster_packed_and_broken(vendors, tmp_path, store):
    """Twin: gz is the same; a line that is cut in either file spoils its own row. Catches cells that slide from one
    file's columns into the other's."""
    message, book = vendors.lobster(tmp_path, vendors.ticks(6))
    lines = message.read_text().splitlines()
    message.write_text("\n".join([lines[0], lines[1] + ",9", lines[2], "34320.0,9,1,1,1,1", *lines[4:]]))
    levels = book.read_text().splitlines()
    book.write_text("\n".join([*levels[:2], levels[2][:12], *levels[3:]]))
    report = import_files("lobster", [message, book], store)
    assert (counts(report), report.kept) == ({"unreadable": 3}, 3)
    packed = [tmp_path / f"{each.name}.gz" for each in (message, book)]
    for source, file in zip((message, book), packed, strict=True):
        file.write_bytes(gzip.compress(source.read_bytes()))
    import_files("lobster", packed, tmp_path / "other")
    mine, others = (Store(each).ticks("SPY", DAY).drop(columns="source") for each in (store, tmp_path / "other"))
    pd.testing.assert_frame_equal(mine, others)


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_damage_is_counted(data, vendors, tmp_path_factory):
    """Identity: whatever is done to a file, rows read = kept + dropped, as many as its lines are, or it is refused with
    its name; what is kept is sorted and whole. Catches crashes, and rows that vanish."""
    folder = tmp_path_factory.mktemp("fuzz")
    name = data.draw(st.sampled_from(["generic-ticks", "lobster", "tick", "second"]))
    rows = vendors.ticks(12)
    if name == "generic-ticks":
        files, top = [vendors.written(folder / "ticks.csv", vendors.generic_ticks(rows))], 1
    elif name == "lobster":
        files, top = vendors.lobster(folder, rows), 0
    else:
        files, top = [], 0
        for each in vendors.lean_equity(folder, rows, name):
            with zipfile.ZipFile(each) as archive:
                archive.extractall(folder)
        files = sorted(folder.glob("*.csv"))
    hurt = data.draw(st.sampled_from(files))
    lines = hurt.read_text().splitlines()
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(data.draw(st.integers(1, 6))):
        row = rng.randrange(top, len(lines))
        kind = data.draw(st.sampled_from(["cut", "cell", "sign", "twice", "blank", "swap", "text"]))
        if kind == "cut":
            lines[row] = lines[row][: rng.randrange(len(lines[row]) + 1)]
        elif kind == "cell":
            cells = lines[row].split(",")
            bad = [
                "",
                "nan",
                "1e999",
                "-1",
                "0",
                "1_000",
                "99999999999999999999",
                "½",
                "\x1a",
                "86400000",
                "2013-02-30 9:00",
            ]
            cells[rng.randrange(len(cells))] = rng.choice(bad)
            lines[row] = ",".join(cells)
        elif kind == "sign":
            place = rng.randrange(len(lines[row]) + 1)
            lines[row] = lines[row][:place] + rng.choice('",;\t \u2028\x0b\x85é') + lines[row][place:]
        elif kind == "twice" and name != "lobster":
            lines.insert(row, lines[row])
        elif kind == "blank" and name != "lobster":
            lines.insert(row, " ")
        elif kind == "swap":
            other = rng.randrange(top, len(lines))
            lines[row], lines[other] = lines[other], lines[row]
        elif kind == "text":
            text = data.draw(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), max_size=40))
            lines[row] = text if text.strip() else "x"
    hurt.write_bytes("\n".join(lines).encode())
    report, refusal = None, ""
    try:
        report = import_files("lean-equity" if name in ("tick", "second") else name, files, folder / "store")
    except ValueError as error:
        refusal = str(error)
    if report is None:
        assert any(each.name in refusal for each in files)
        assert not (folder / "store").exists()
        return
    read = files[:1] if name == "lobster" else files
    written = sum(bool(line.strip()) for each in read for line in each.read_text().split("\n")[top:])
    assert report.read == report.kept + report.dropped
    assert report.read == written
    assert report.dropped == sum(counts(report).values())
    assert Store(folder / "store").query("SELECT count(*) AS n FROM ticks")["n"][0] == report.kept
    assert check(folder / "store").problems == []


# The store


def test_a_file_a_day(vendors, tmp_path, store):
    """Golden: the layout that docs/data.md promises; a day again takes the place of that day alone, the same files
    change nothing, and chains stand beside. Catches a month of ticks rewritten for a day, and lost neighbours."""
    rows = vendors.ticks()
    files = [
        vendors.written(tmp_path / f"{day}.csv", vendors.generic_ticks(rows, day))
        for day in (DAY, "2013-10-09", "2014-01-02")
    ]
    import_files("generic-ticks", files, store)
    names = [each.path.rpartition("-")[0] for each in Store(store).manifest.files]
    assert names == [
        "ticks/underlying=SPY/year=2013/2013-10-07",
        "ticks/underlying=SPY/year=2013/2013-10-09",
        "ticks/underlying=SPY/year=2014/2014-01-02",
    ]
    with pq.ParquetFile(store / Store(store).manifest.files[0].path) as file:
        assert file.schema_arrow.remove_metadata().equals(TABLES[TICKS].schema)
    before = {path: path.read_bytes() for path in store.rglob("*.*") if path.is_file()}
    assert import_files("generic-ticks", files, store).unchanged
    assert {path: path.read_bytes() for path in store.rglob("*.*") if path.is_file()} == before
    report = brought(vendors, tmp_path, store, rows[:7], "newer.csv")
    assert report.replaced == {"days": 1, "rows": len(rows)}
    import_files("generic", [vendors.written(tmp_path / "chain.csv", vendors.generic(vendors.quotes()))], store)
    found = Store(store)
    assert [len(found.ticks("SPY", day)) for day in found.days("SPY", TICKS)] == [7, len(rows), len(rows)]
    assert (found.underlyings(), found.underlyings(TICKS)) == (["SPX"], ["SPY"])
    query = "SELECT count(*) AS n, count(price) AS trades, max(time) AS last FROM ticks WHERE quote_date = '2013-10-07'"
    assert found.query(query).to_dict("records") == [{"n": 7, "trades": 3, "last": pd.Timestamp(f"{DAY} 09:36")}]
    with pytest.raises(ValueError, match="no ticks of SPY on 2013-10-08; the nearest day is 2013-10-0[79]"):
        found.ticks("SPY", "2013-10-08")
    with pytest.raises(ValueError, match="has no ticks of 'SPX' .it has: SPY."):
        found.ticks("SPX", DAY)
    assert check(store).problems == []


def test_parts_of_a_day_join(vendors, tmp_path, store, monkeypatch):
    """Twin: a day read in small chunks, settled by the half hour and written in many groups is the day. Catches parts
    that replace one another, and groups out of order."""
    rows = vendors.ticks(300)
    brought(vendors, tmp_path, tmp_path / "other", rows)
    monkeypatch.setattr("hedgerl.data.chains.reading.LINES", 17)
    monkeypatch.setattr(importing, "ROWS", 40)
    monkeypatch.setattr(importing, "_ROW_GROUP", 32)
    mixed = list(rows)
    random.Random(5).shuffle(mixed)
    report = brought(vendors, tmp_path, store, mixed)
    assert report.days["SPY"] == {"days": 1, "first": DAY, "last": DAY, "rows": 300}
    mine, others = (Store(each).ticks("SPY", DAY) for each in (store, tmp_path / "other"))
    pd.testing.assert_frame_equal(mine, others)
    with pq.ParquetFile(store / Store(store).manifest.files[0].path) as file:
        assert file.num_row_groups >= 5
    assert check(store).problems == []


def test_a_full_disk(vendors, tmp_path, store, monkeypatch):
    """Behaviour: wherever writing fails the store is what it was. Catches a manifest that names half a file."""
    brought(vendors, tmp_path, store, vendors.ticks(9))
    before = {path: path.read_bytes() for path in store.rglob("*.*") if path.is_file()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place, name in (
        (importing.pa.ipc, "new_stream"),
        (importing.pq.ParquetWriter, "write_table"),
        (importing, "synced"),
        (importing.Manifest, "write"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(OSError, match="No space left"):
                brought(vendors, tmp_path, store, vendors.ticks(11), "b.csv")
        assert {path: path.read_bytes() for path in store.rglob("*.*") if path.is_file()} == before, name


def test_check(vendors, tmp_path, store, capsys):
    """Golden: counted by hand; then a bit, and rows out of order under a right checksum. Catches a check that passes
    over ticks."""
    brought(vendors, tmp_path, store, vendors.ticks(10))
    brought(vendors, tmp_path, store, vendors.ticks(10, start=36_000), "b.csv", "2013-10-09")
    (held,) = check(store).holdings
    assert (held.table, held.days, held.rows, held.quotes, held.trades) == (TICKS, 2, 20, 20, 8)
    assert (held.missing, held.times) == (("2013-10-08",), ("09:30:00", "10:09:00"))
    assert cli.main(["data", "check", str(store)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["SPY", "20", "8", "09:30:00", "10:09:00"]
    manifest = (store / "manifest.json").read_text()
    entry = Store(store).manifest.files[0]
    file = store / entry.path
    rows = pq.ParquetFile(file).read()
    crossed = rows.set_column(3, rows.schema.field("bid"), [rows["ask"].to_numpy() + 1.0])
    for wrong, problem in (
        (rows.take(list(range(9, -1, -1))), "is not sorted by time"),
        (crossed, "breaks bid <= ask"),
    ):
        pq.write_table(wrong, file, row_group_size=1)
        (store / "manifest.json").write_text(manifest.replace(entry.sha256, importing.checksum(file)))
        assert problem in check(store).problems[0]
    file.write_bytes(b"PAR1")
    assert any("SHA-256" in each for each in check(store).problems)


# Use


def quoted_day(n, volatility, noise, seed):
    """Bid and ask (n + 1,) about a Brownian log price with normal noise on it, and the variance of its path."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0.0, volatility / np.sqrt(252 * n), n)
    mid = 167.0 * np.exp(np.append(0.0, steps.cumsum()) + rng.normal(0.0, noise, n + 1))
    return mid - 0.005, mid + 0.005, float((steps**2).sum())


def test_variance_and_noise_of_a_stored_day(tmp_path, store):
    """Statistical: two scales on the mids of a stored day of 23,400 seconds find the variance of the path within 4
    standard errors of Zhang, Mykland & Ait-Sahalia (2005), theorem 4, and the noise within 4 of its own, where [Y, Y]
    is far off. Catches mids out of order or rounded, seconds lost, a bid taken for an ask."""
    n, noise = 23_400, 1e-4
    bid, ask, true = quoted_day(n, 0.2, noise, seed=11)
    time = np.datetime64(f"{DAY}T09:30", "ns") + np.arange(n + 1) * np.timedelta64(10**9, "ns")
    frame = pd.DataFrame({"timestamp": time, "bid": bid, "ask": ask})
    frame.sample(frac=1.0, random_state=1).to_parquet(tmp_path / "day.parquet")
    report = import_files("generic-ticks", [tmp_path / "day.parquet"], store, underlying="SPY")
    assert (report.kept, counts(report, "noted")) == (n + 1, {})
    day = Store(store).ticks("SPY", DAY)
    mid = (0.5 * (day["bid"] + day["ask"])).to_numpy()
    found = two_scales(mid)
    # At K = c n^(2/3) its variance is n^(-1/3) (8 noise^4 / c^2 + 4 c <X, X>^2 / 3); that of [Y, Y] is 12 n noise^4.
    c = found.subgrids / n ** (2 / 3)
    error = np.sqrt((8 * noise**4 / c**2 + c * 4 / 3 * true**2) * n ** (-1 / 3))
    assert abs(found.integrated_variance - true) < 4 * error
    assert error < 0.1 * true
    np.testing.assert_allclose(found.noise_variance, noise**2 + true / (2 * n), rtol=4 * np.sqrt(3 / n), atol=0.0)
    assert (np.diff(np.log(mid)) ** 2).sum() > 3 * true


@pytest.mark.skipif(not (FOLDER / "quotes").is_dir(), reason="HEDGERL_DATA names no folder with quotes")
def test_spy_by_the_second(store):
    """Golden: two days of SPY, all rows kept, and the volatility of their mids: 8.4 % and 11.7 % a year, as five-minute
    returns say, too. Catches pre-market quotes in the session, and prices not divided."""
    report = import_files("lean-equity", sorted((FOLDER / "quotes").glob("spy_second_*.zip")), store)
    assert (report.read, report.kept) == (96_299, 96_299)
    found = Store(store)
    for day, volatility in (("2013-10-07", 0.0844), ("2013-10-08", 0.1171)):
        ticks = found.ticks("SPY", day).dropna(subset=["bid", "ask"])
        clock = ticks["time"] - pd.Timestamp(day)
        mid = (0.5 * (ticks["bid"] + ticks["ask"]))[clock.between("09:30:00", "16:00:00")].to_numpy()
        assert len(mid) > 22_000
        scales = two_scales(mid)
        np.testing.assert_allclose(np.sqrt(252 * scales.integrated_variance), volatility, rtol=0.0, atol=1e-4)
        five_minutes = np.sqrt(252 * (np.diff(np.log(mid[::300])) ** 2).sum())
        assert abs(five_minutes / volatility - 1) < 0.25  # three standard errors of 75 squares
        assert 0.1e-4 < np.sqrt(scales.noise_variance) < 0.5e-4  # half a cent of spread is 0.3e-4
        np.testing.assert_allclose((ticks["ask"] - ticks["bid"]).median(), 0.01, rtol=0.0, atol=1e-9)


@pytest.mark.skipif(not (FOLDER / "lob" / "lobster").is_dir(), reason="HEDGERL_DATA names no folder with lob/lobster")
def test_lobster_sample(store):
    """Golden: 49 seconds of AAPL; 159 executions, the first quote 585.33 to 585.94. Catches levels exchanged."""
    report = import_files("lobster", sorted((FOLDER / "lob" / "lobster").glob("AAPL*")), store)
    assert (report.read, counts(report), counts(report, "noted")) == (999, {"duplicate": 37}, {"same_trade": 3})
    frame = Store(store).ticks("AAPL", "2012-06-21")
    assert (frame["bid"][0], frame["ask"][0], int(frame["price"].notna().sum())) == (585.33, 585.94, 159)
    assert (frame["bid"] < frame["ask"]).all()
