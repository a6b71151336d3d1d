"""Daily series and their readers: every format that is known, and every mistake that a file can hold."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hedgerl.data import DailySeries, read_daily, sp500_series, with_vix

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "index"

YAHOO = """Date,Open,High,Low,Close,Adj Close,Volume
2008-10-14,103.5,105.0,97.0,99.8,80.1,100
2008-10-15,99.4,99.5,90.0,90.78,72.9,120
2008-10-16,90.5,94.8,86.0,94.6,76.0,130
2008-10-17,94.4,98.4,91.0,94.0,75.5,140
"""
CBOE = """DATE,OPEN,HIGH,LOW,CLOSE
10/13/2008,69.0,69.1,54.9,54.99
10/14/2008,53.6,59.9,52.0,55.13
10/15/2008,58.2,69.3,57.7,69.25
10/16/2008,70.0,81.2,66.0,67.61
10/17/2008,66.9,74.3,62.6,70.33
10/20/2008,65.0,65.0,52.4,52.97
"""
MY_OWN = "date,close\n10/14/2008,99.8\n10/15/2008,90.78\n10/16/2008,94.6\n10/17/2008,94.0\n"


def written(folder: Path, text: str, name: str = "prices.csv") -> Path:
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def panel(folder: Path, n_days: int = 8, **columns: object) -> Path:
    """A Parquet file in the format of the S&P 500 panel, its dates the index."""
    days = pd.bdate_range("2008-10-13", periods=n_days, name="date")
    frame = pd.DataFrame(
        {
            "spx_close": 100.0 + np.arange(n_days),
            "spx_open": 99.0 + np.arange(n_days),
            "spx_high": 102.0 + np.arange(n_days),
            "spx_low": 98.0 + np.arange(n_days),
            "vix_open": 60.0,
            "vix_close": 50.0 + np.arange(n_days),
            "spy_close": 10.0,
            "ust3m_pct": 0.5,
            "dff_pct": 9.0,
        }
        | columns,
        index=days,
    )
    path = folder / "panel.parquet"
    frame.to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (YAHOO, "prices.csv"),
        (YAHOO, "prices.csv.gz"),
        ("\ufeff" + YAHOO, "prices.csv"),
        (YAHOO.replace("\n", "\r\n"), "prices.csv"),
        (YAHOO.replace("2008-10-15", "2008-10-15 00:00:00-04:00"), "prices.csv"),
        (YAHOO.replace("Date,", " DATE ,").replace("Close,Adj", "CLOSE ,Adj"), "prices.csv"),
        (MY_OWN, "prices.csv"),
        (MY_OWN + "\n\n", "prices.txt"),
    ],
    ids=["yahoo", "gz", "byte order mark", "crlf", "time zone", "names", "own", "blank lines"],
)
def test_formats(tmp_path: Path, text: str, name: str) -> None:
    """Golden: the same four days, however they are written. Catches adjusted closes, which know later dividends, and
    days and months that change places."""
    series = read_daily(written(tmp_path, text, name))
    assert series.name == "prices"
    assert series.dates.dtype == "datetime64[D]"
    assert [str(day) for day in series.dates] == ["2008-10-14", "2008-10-15", "2008-10-16", "2008-10-17"]
    np.testing.assert_array_equal(series.close, [99.8, 90.78, 94.6, 94.0])
    assert series.vix is None
    assert series.rate is None
    if "Open" in text:
        assert series.open is not None
        assert series.high is not None
        assert series.low is not None
        assert (series.open[0], series.high[1], series.low[2]) == (103.5, 99.5, 86.0)


@pytest.mark.parametrize("text", [CBOE, CBOE.lower(), CBOE.replace("10/14/2008", "10/14/2008 ")])
def test_vix_file(tmp_path: Path, text: str) -> None:
    """Golden: the joined VIX is the close of its day. Catches the open, and a join by row instead of date."""
    vix = written(tmp_path, text, "vix.csv")
    assert read_daily(vix).close[2] == 69.25
    for series in (
        read_daily(written(tmp_path, YAHOO), vix=vix),
        with_vix(read_daily(written(tmp_path, YAHOO)), str(vix)),
    ):
        np.testing.assert_array_equal(series.vix, [55.13, 69.25, 67.61, 70.33])
        np.testing.assert_array_equal(series.close, [99.8, 90.78, 94.6, 94.0])


def test_vix_join_keeps_the_days_that_the_file_spans(tmp_path: Path) -> None:
    """Catches NaN at either end, and highs that keep days which closes lost."""
    lines = CBOE.splitlines()
    vix = written(tmp_path, "\n".join([lines[0], *lines[3:5]]), "vix.csv")
    series = read_daily(written(tmp_path, YAHOO), vix=vix)
    assert [str(day) for day in series.dates] == ["2008-10-15", "2008-10-16"]
    assert series.high is not None
    assert len(series) == len(series.high) == 2
    np.testing.assert_array_equal(series.vix, [69.25, 67.61])


def test_missing_vix_days_take_the_value_before(tmp_path: Path) -> None:
    """Catches a fill from the day after, which is not known yet, and one without end."""
    without = CBOE.replace("10/16/2008,70.0,81.2,66.0,67.61\n", "")
    series = read_daily(written(tmp_path, YAHOO), vix=written(tmp_path, without, "vix.csv"))
    np.testing.assert_array_equal(series.vix, [55.13, 69.25, 69.25, 70.33])
    opening = CBOE.replace("10/14/2008,53.6,59.9,52.0,55.13\n", "")  # the first day of the series
    series = read_daily(written(tmp_path, YAHOO), vix=written(tmp_path, opening, "vix.csv"))
    assert series.vix is not None
    assert series.vix[0] == 54.99

    days = np.arange("2008-10-13", "2008-11-13", dtype="datetime64[D]")
    months = DailySeries("month", days, np.full(days.size, 100.0))
    holes = "date,close\n" + "".join(f"{day},20\n" for i, day in enumerate(days) if not 10 <= i < 16)
    with pytest.raises(ValueError, match=r"vix.csv has no VIX for more than 5 days of month up to 2008-10-28: fill"):
        with_vix(months, written(tmp_path, holes, "vix.csv"))
    filled = with_vix(months, written(tmp_path, holes.replace("2008-10-22,20\n", "2008-10-22,25\n2008-10-28,20\n")))
    np.testing.assert_array_equal(filled.vix[9:16], [25.0] * 6 + [20.0])  # type: ignore[index]
    long_ago = written(tmp_path, "date,close\n2008-01-02,20\n2008-10-14,20\n2008-12-01,20\n", "vix.csv")
    with pytest.raises(ValueError, match=r"no VIX for more than 5 days of month up to 2008-10-13"):
        with_vix(months, long_ago)


def test_panel(tmp_path: Path) -> None:
    """Golden: columns of the S&P 500, not of the ETF beside it; a bond-equivalent yield made continuous; holidays take
    the value before; a day before the first value stays NaN."""
    yields = [np.nan, 4.0, np.nan, 5.0, 5.0, 5.0, 5.0, 5.0]
    series = read_daily(panel(tmp_path, ust3m_pct=yields))
    np.testing.assert_array_equal(series.close, 100.0 + np.arange(8))
    np.testing.assert_array_equal(series.vix, 50.0 + np.arange(8))
    first, last = 2 * np.log(1.02), 2 * np.log(1.025)
    np.testing.assert_allclose(series.rate, [np.nan, first, first] + [last] * 5, rtol=1e-14, atol=0)
    frame = pd.read_parquet(tmp_path / "panel.parquet").drop(columns="ust3m_pct")
    frame.to_parquet(tmp_path / "panel.parquet")
    funds = read_daily(tmp_path / "panel.parquet").rate
    np.testing.assert_allclose(funds, 365 * np.log(1 + 0.09 / 360), rtol=1e-12, atol=0)  # type: ignore[arg-type]
    frame.reset_index().to_csv(tmp_path / "panel.csv", index=False)
    np.testing.assert_array_equal(read_daily(tmp_path / "panel.csv").vix, series.vix)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"prices.csv is empty: it must hold a header and a row for each day"),
        ("Date,Close\n", r"prices.csv is empty: it must hold a header and a row for each day"),
        ("Day,Close\n2008-10-14,1\n", r"prices.csv has no column Date, only Day, Close: rename one"),
        (
            "Date,Price\n2008-10-14,1\n",
            r"prices.csv has no column Close \(or spx_close\), only Date, Price: rename one",
        ),
        (
            YAHOO.replace("99.8,", ","),
            r"prices.csv, line 2, column Close must be positive and finite, got '': correct it",
        ),
        (YAHOO.replace("94.6,", "null,"), r"line 4, column Close must be positive and finite, got 'null': correct it"),
        (YAHOO.replace("94.6,", "-94.6,"), r"line 4, column Close must be positive and finite, got '-94.6'"),
        (YAHOO.replace("94.6,", "94.6 USD,"), r"line 4, column Close must be a number, got '94.6 USD': correct it"),
        (
            YAHOO.replace("86.0", "0.0"),
            r"line 4, column Low must be positive and finite, got '0.0': correct it or drop",
        ),
        (
            YAHOO.replace("2008-10-15", "15.10.2008"),
            r"line 3, column Date must be a date YYYY-MM-DD or MM/DD/YYYY, got '15.10.2008': correct it",
        ),
        (MY_OWN.replace("10/15/2008", "15/10/2008"), r"line 3, column date must be a date .* got '15/10/2008'"),
        (YAHOO.replace("2008-10-15", ""), r"line 3, column Date must be a date"),
        (
            YAHOO.replace("2008-10-15", "2008-10-14"),
            r"lines 2 and 3, column Date must increase, got 2008-10-14 after 2008-10-14: keep one row a day",
        ),
        (
            YAHOO.replace("2008-10-14", "2008-10-20"),
            r"lines 2 and 3, column Date must increase, got 2008-10-15 after 2008-10-20: sort the rows, oldest first",
        ),
        (
            YAHOO.replace("2008-10-17", "2008-10-31"),
            r"lines 4 and 5: 2008-10-16 and 2008-10-31 are 15 calendar days apart, more than max_gap_days = 10: fill",
        ),
        (YAHOO.replace(",120", ""), r"line 3 must have 7 fields as the header has, got 6"),
        (YAHOO.replace("\n2008-10-17", "\n\n2008-10-x7"), r"line 6, column Date must be a date"),
        (
            "date,close,vix\n2008-10-14,99,0.55\n",
            r"line 2, column vix must lie in \[1, 500\] percent points, got '0.55'",
        ),
        (
            "date,close,dff_pct\n2008-10-14,99,400\n",
            r"line 2, column dff_pct must lie in \[-0.1, 1\] a year .* got '400'",
        ),
        ("date,close,vix\n2008-10-14,99,\n", r"column vix is empty throughout: fill it or drop the column"),
        (
            "date,close,vix\n" + "".join(f"2008-10-{day},99,{'20' if day == 10 else ''}\n" for day in range(10, 20)),
            r"line 8, column vix is empty for more than 5 rows: fill it or drop the column",
        ),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    """Catches bad cells that become a plausible series, and errors that do not say where."""
    with pytest.raises(ValueError, match=message) as caught:
        read_daily(written(tmp_path, text))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    """Catches tracebacks from deep inside for a path that is wrong or no text, and quiet acceptance of a wrong VIX."""
    prices = written(tmp_path, YAHOO)
    with pytest.raises(ValueError, match="nothing.csv must be a file, and is not there: check the path"):
        read_daily(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match="must be a file"):
        read_daily(prices, vix=tmp_path)
    for name in ("prices.csv", "prices.csv.gz", "prices.parquet"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00not a table")
        with pytest.raises(ValueError, match=rf"{name} cannot be read: ") as caught:
            read_daily(tmp_path / name)
        assert "\n" not in str(caught.value)
    prices = written(tmp_path, YAHOO)
    with pytest.raises(ValueError, match=r"vix.csv spans 2009-01-02 to 2009-01-02, the series prices 2008-10-14 to"):
        read_daily(prices, vix=written(tmp_path, "date,close\n2009-01-02,40\n", "vix.csv"))
    with pytest.raises(ValueError, match=r"VIX must lie in \[1, 500\] percent points, got 907.8"):
        read_daily(prices, vix=written(tmp_path, YAHOO.replace("90.78", "907.8"), "spx.csv"))
    with pytest.raises(ValueError, match=r"has no column Close \(or vix_close, vix\), only date, level"):
        read_daily(prices, vix=written(tmp_path, "date,level\n2009-01-02,40\n", "vix.csv"))
    with pytest.raises(ValueError, match=r"panel.parquet, row 3, column spx_close must be positive and finite, got"):
        read_daily(panel(tmp_path, spx_close=[1.0, 1.0, np.nan, 1.0, 1.0, 1.0, 1.0, 1.0]))


def test_a_gap_may_be_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, YAHOO.replace("2008-10-17", "2008-10-31"))
    assert len(read_daily(path, max_gap_days=15)) == 4
    with pytest.raises(ValueError, match="max_gap_days must be a whole number of at least 1, got 0"):
        read_daily(path, max_gap_days=0)


DAYS = np.array(["2008-10-14", "2008-10-15", "2008-10-16"], dtype="datetime64[D]")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dates": DAYS[[0, 2, 1]]}, "dates must increase strictly, got 2008-10-15 after 2008-10-16"),
        ({"dates": ["2008-10-14"] * 3}, "dates must be one or more datetime64 in one dimension"),
        ({"dates": DAYS[:0], "close": []}, "dates must be one or more datetime64"),
        ({"close": [1.0, 2.0]}, r"close must have a value for each of the 3 dates, got \(2,\)"),
        ({"close": [1.0, -2.0, 3.0]}, "close must be positive and finite, got -2 on 2008-10-15"),
        ({"low": [1.0, 2.0, np.nan]}, "low must be positive and finite, got nan on 2008-10-16"),
        ({"vix": [20.0, np.nan, 20.0]}, "vix must not be NaN after its first value, got nan on 2008-10-15"),
        ({"vix": [0.2, 0.2, 0.2]}, r"vix must lie in \[1, 500\] percent points, got 0.2 on 2008-10-14"),
        ({"rate": [0.01, np.inf, 0.01]}, r"rate must lie in \[-0.1, 1\] a year \(decimals, not percent\), got inf on"),
    ],
)
def test_bad_series(fields: dict[str, object], message: str) -> None:
    """Catches what a series made by hand may hold that a reader would have refused."""
    with pytest.raises(ValueError, match=message):
        DailySeries(**({"name": "x", "dates": DAYS, "close": [1.0, 2.0, 3.0]} | fields))  # type: ignore[arg-type]


def test_bundled_series() -> None:
    """Golden: first and last day of the index, and a VIX of 2018 (37.32 on 5 February) beside it."""
    series = sp500_series()
    assert (len(series), str(series.dates[0]), str(series.dates[-1])) == (5031, "1999-01-04", "2018-12-31")
    assert series.close[[0, -1]] == pytest.approx([1228.10, 2506.85], abs=0.01)
    assert series.vix is None
    quoted = sp500_series(vix=True)
    assert quoted.vix is not None
    assert quoted.vix[quoted.dates == np.datetime64("2018-02-05")] == 37.32
    assert quoted.close[-1] == series.close[-1]


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the real file shared/data/index/{name} beside the repository is absent: it may not be shipped")
    return path


def at(series: DailySeries, day: str) -> int:
    return int(np.flatnonzero(series.dates == np.datetime64(day))[0])


def test_real_panel() -> None:
    """Golden: published closes of index and VIX; the rate is below 6 % and filled over bond holidays."""
    series = read_daily(shared("panel_daily_2004_2020.parquet"))
    assert len(series) == 4280
    assert series.vix is not None
    assert series.rate is not None
    assert series.close[at(series, "2008-10-15")] == 907.84
    assert series.close[at(series, "2020-03-16")] == 2386.13
    assert series.vix[at(series, "2008-11-20")] == 80.86
    assert series.vix[at(series, "2020-03-16")] == 82.69
    assert np.isfinite(series.rate).all()
    columbus = at(series, "2008-10-13")  # a bond holiday on which stocks traded
    assert series.rate[columbus] == series.rate[columbus - 1]
    assert 0.05 < series.rate.max() < 0.06


def test_real_vendor_files() -> None:
    """Golden: two vendors' formats joined agree with the panel on 3,775 days."""
    series = read_daily(shared("spx_ohlcv_1999_2018.csv.gz"), vix=shared("vix_daily_1990_2020.csv"))
    assert (len(series), series.name) == (5031, "spx_ohlcv_1999_2018")
    assert series.vix is not None
    assert series.vix[at(series, "2008-11-20")] == 80.86
    panel = read_daily(shared("panel_daily_2004_2020.parquet"))
    _, here, there = np.intersect1d(series.dates, panel.dates, return_indices=True)
    assert here.size == 3775
    np.testing.assert_allclose(series.close[here], panel.close[there], rtol=1e-3, atol=0)
    np.testing.assert_allclose(series.vix[here], panel.vix[there], rtol=0, atol=0.02)  # type: ignore[index]
    np.testing.assert_allclose(sp500_series().close, series.close, rtol=1e-4, atol=0)
    spy = with_vix(read_daily(shared("spy_ohlcv_1993_2020_yahoo.csv")), shared("panel_daily_2004_2020.parquet"))
    np.testing.assert_array_equal(spy.vix, panel.vix)  # type: ignore[arg-type]
