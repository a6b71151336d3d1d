"""Vendors' own files, from the folder that HEDGERL_DATA names; they are not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hedgerl.data.chains import Store, check, import_files

FOLDER = Path(os.environ.get("HEDGERL_DATA") or "absent")
pytestmark = pytest.mark.skipif(
    not (FOLDER / "options" / "raw").is_dir(), reason="HEDGERL_DATA names no folder with options/raw"
)
RAW, PARQUET, INDEX = FOLDER / "options" / "raw", FOLDER / "options" / "parquet", FOLDER / "index"
SAME = ["bid", "ask", "last", "volume", "open_interest", "delta", "gamma", "theta", "vega", "rho"]
KEY = ["quote_date", "root", "expiry", "strike", "right"]


@pytest.mark.parametrize(
    ("name", "file", "twin", "dropped"),
    [
        ("cboe-quotes", "cboe_spx_quotedata_20200320.dat", "spx_chain_20200320_cboe", {}),
        (
            "ivolatility",
            "ivolatility_spx_20110103_20110107.csv",
            "spx_chain_20110103_20110107_ivolatility",
            {"no_ask": 1},
        ),
        (
            "historicaloptiondata",
            "historicaloptiondata_spxw_2018_janfeb.csv",
            "spxw_chain_2018_janfeb_2expiries",
            {"no_ask": 15},
        ),
        ("generic", "spy_2021_20perday.csv", "spy_options_2021_liquid20", {"crossed": 17}),
    ],
)
def test_against_the_same_in_parquet(name, file, twin, dropped, store):
    """Twin: an independent conversion of the same files. Catches a column that is read from the wrong place, and each
    row that is lost beyond those that a rule names."""
    report = import_files(name, [RAW / file], store)
    wanted = pd.read_parquet(PARQUET / f"{twin}.parquet")
    assert report.read == len(wanted)
    assert {rule: each["rows"] for rule, each in report.rules["dropped"].items()} == dropped
    wanted = wanted[(wanted["ask"] > 0) & (wanted["bid"] <= wanted["ask"])]
    found = Store(store)
    (underlying,) = found.underlyings()
    assert underlying == wanted["underlying"].iloc[0]
    frame = pd.concat([found.chain(underlying, day) for day in found.days(underlying)])
    both = frame.merge(wanted, on=KEY, suffixes=("", "_wanted"), how="outer", indicator=True)
    assert (both["_merge"] == "both").all()
    assert (both["style"] == both["style_wanted"]).all()
    np.testing.assert_allclose(both["underlying_price"], both["underlying_price_wanted"], rtol=1e-12, atol=0.0)
    for column in SAME:
        if column in wanted:
            left, right = (both[each].to_numpy(dtype=float, na_value=np.nan) for each in (column, f"{column}_wanted"))
            np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-12, err_msg=column)  # Greeks there are float32
    known = both["iv_wanted"] > 0
    np.testing.assert_allclose(both["iv"][known], both["iv_wanted"][known], rtol=1e-6, atol=0.0)
    assert both["iv"][~known].isna().all()
    assert check(store).problems == []


def test_a_stale_holiday(store):
    """Golden: 27 May 2019, Memorial Day, 13,324 rows of the Friday before. Catches a holiday taken for a trading
    day."""
    report = import_files("generic", [RAW / "SPX_20190426.csv", RAW / "SPX_20190527.csv"], store)
    assert report.rules["dropped"]["not_a_trading_day"]["rows"] == 13_324
    assert [str(day) for day in Store(store).days("SPX")] == ["2019-04-26"]
    assert report.kept == 13_570


def test_datashop(store):
    """Golden: the micro-sample, three days of two contracts; its days come alone and together, as parts of one
    command."""
    folder = RAW / "cboe_datashop_microsample"
    days = sorted(folder.glob("test_cboe_2016*.csv"))
    report = import_files("cboe-datashop", [*days, folder / "test_cboe_spx.csv"], store)
    assert (report.read, report.kept, report.rules["dropped"]["duplicate"]["rows"]) == (12, 6, 6)
    assert list(Store(store).chain("SPX", "2016-01-05")["ask"]) == [1319.40, 0.05]


def test_daily_prices(store):
    """Golden: closes of famous days. Catches adjusted closes, and days shifted by one."""
    import_files("yahoo", [INDEX / "spx_ohlcv_1999_2018.csv.gz"], store, underlying="SPX")
    import_files("yahoo", [INDEX / "spy_ohlcv_1993_2020_yahoo.csv"], store, underlying="SPY")
    report = import_files("cboe-vix", [INDEX / "vix_daily_1990_2020.csv"], store)
    assert report.rules["noted"]["outside_range"]["rows"] == 47
    found = Store(store)
    for name, day, close in (("SPX", "2008-10-15", 907.84), ("VIX", "2008-11-20", 80.86), ("VIX", "2020-03-16", 82.69)):
        prices = found.prices(name).set_index("quote_date")["close"]
        assert round(prices[day], 2) == close
    assert len(found.prices("SPY")) == 7_033


@pytest.mark.slow
def test_fifty_eight_days(tmp_path, store):
    """Golden: 809,782 rows of 58 whole chains, of which two are stale holidays. Catches a day that is lost, and bounds
    so narrow that good quotes are dropped."""
    wanted = pd.read_parquet(PARQUET / "spx_chain_daily_20190425_20190722_cboe.parquet")
    file = tmp_path / "days.csv"
    wanted.drop(columns=["snapshot", "official_close"]).to_csv(file, index=False)
    report = import_files("generic", [file], store)
    assert report.read == len(wanted)
    dropped = {rule: each["rows"] for rule, each in report.rules["dropped"].items()}
    assert dropped.pop("not_a_trading_day") == 13_324 + 14_506
    good = wanted[~wanted["quote_date"].isin(pd.to_datetime(["2019-05-27", "2019-07-04"]))]
    assert dropped.pop("no_ask") == (good["ask"] <= 0).sum()
    assert dropped == {}
    assert len(Store(store).days("SPX")) == 56
