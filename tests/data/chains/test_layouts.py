"""The same chain in every vendor's layout is the same rows in the store."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hedgerl.data.chains import FORMATS, Store, import_files
from hedgerl.data.chains import formats as known_formats
from hedgerl.data.chains.schema import CHAINS, TABLES

ONE_DAY = ("2019-04-26",)
KEY = ["quote_date", "underlying", "root", "expiry", "strike", "right"]
# What each layout has no column for.
LACKING = {
    "generic": [],
    "historicaloptiondata": ["rho"],
    "ivolatility": ["last"],
    "cboe-quotes": ["theta", "vega", "rho"],
    "cboe-datashop": [],
    "optionsdx": ["open_interest"],
    "lean": ["underlying_price", "last", "volume", "open_interest", "iv", "delta", "gamma", "theta", "vega", "rho"],
}
NO_CLASS = ("optionsdx", "lean")  # which do not tell SPXW from SPX


def expected(chain, spot):
    frame = pd.DataFrame(
        {
            "quote_date": pd.to_datetime([q.day for q in chain]),
            "underlying": "SPX",
            "underlying_price": spot,
            "root": [q.root for q in chain],
            "expiry": pd.to_datetime([q.expiry for q in chain]),
            "strike": [q.strike for q in chain],
            "right": [q.right for q in chain],
            "style": "E",
            "bid": [q.bid for q in chain],
            "ask": [q.ask for q in chain],
            "last": [q.last for q in chain],
            "volume": [float(q.volume) for q in chain],
            "open_interest": [float(q.interest) for q in chain],
            "iv": [q.iv for q in chain],
            **{name: [getattr(q, name) for q in chain] for name in ("delta", "gamma", "theta", "vega", "rho")},
        }
    )
    return frame


def stored(store, days):
    chains = [Store(store).chain("SPX", day) for day in days]
    return pd.concat(chains, ignore_index=True)


@pytest.mark.parametrize("name", LACKING)
def test_every_layout(name, vendors, tmp_path, store):
    """Twin: seven layouts of one chain. Catches swapped bid and ask, calls' columns taken for puts', days and months
    exchanged, a Greek under another's name, prices not divided."""
    days = ONE_DAY if name == "cboe-quotes" else vendors.DAYS
    chain = vendors.quotes(days)
    if name == "lean":
        file = vendors.lean(tmp_path / "spx_2019_quote_european.zip", chain)
    else:
        file = vendors.written(tmp_path / "chain.txt", getattr(vendors, name.replace("-", "_"))(chain))
    report = import_files(name, [file], store, underlying="SPX" if name == "optionsdx" else None)
    assert (report.read, report.kept, report.dropped) == (len(chain), len(chain), 0)
    found, wanted = stored(store, days), expected(chain, vendors.SPOT)
    assert list(found.columns) == [each.name for each in TABLES[CHAINS].fields]
    for column in wanted.columns:
        if column in LACKING[name]:
            assert found[column].isna().all(), column
        elif column == "root" and name in NO_CLASS:
            assert (found[column] == "SPX").all()
        elif column in ("quote_date", "expiry"):
            np.testing.assert_array_equal(found[column].to_numpy(), wanted[column].to_numpy().astype("datetime64[ms]"))
        elif wanted[column].dtype.kind == "f":
            np.testing.assert_allclose(
                found[column].astype(float), wanted[column], rtol=1e-12, atol=0.0, err_msg=column
            )
        else:
            assert list(found[column]) == list(wanted[column]), column
    assert (found["source"] == f"{name}:{file.name}").all()


def test_every_chain_format_has_a_layout_here():
    """Catches a format that is added and never read by a test."""
    assert {name for name, each in FORMATS.items() if each.table == CHAINS} == set(LACKING)


@pytest.mark.parametrize(
    ("name", "encoding", "delimiter"),
    [
        ("chain.csv", "utf-8", ","),
        ("chain.csv", "utf-8-sig", ","),
        ("chain.csv.gz", "utf-8-sig", ","),
        ("chain.zip", "utf-8", ","),
        ("chain.csv", "utf-8", ";"),
        ("chain.csv", "utf-8", "\t"),
        ("chain.csv", "utf-8", "|"),
    ],
)
def test_encodings_and_delimiters(name, encoding, delimiter, vendors, tmp_path, store):
    """Twin: one table, however it is packed. Catches a mark that is taken for part of a name, and a delimiter that is
    not found out."""
    chain = vendors.quotes()
    file = vendors.written(tmp_path / name, vendors.generic(chain, delimiter), encoding)
    assert import_files("generic", [file], store).kept == len(chain)
    assert Store(store).chain("SPX", "2019-04-25")["vega"].eq(0.75).all()


def test_latin_1(vendors, tmp_path, store):
    """Behaviour: a name with an accent in latin-1 is read as it is meant. Catches a file refused for one sign."""
    text = vendors.generic(vendors.quotes(underlying="SOCIÉTÉ", root="SOC"))
    file = vendors.written(tmp_path / "chain.csv", text, "latin-1")
    import_files("generic", [file], store)
    assert Store(store).underlyings() == ["SOCIÉTÉ"]
    assert len(Store(store).days("SOCIÉTÉ")) == 3


def test_decimal_comma(vendors, tmp_path, store):
    """Behaviour: with decimal=',' the same numbers. Catches 12,5 read as 125."""
    chain = vendors.quotes()
    text = vendors.generic(chain, ";").replace(".", ",")
    file = vendors.written(tmp_path / "chain.csv", text)
    with pytest.raises(
        ValueError, match=r"chain.csv, line 2: column underlying_price must be a number \(with a decimal c"
    ):
        import_files("generic", [file], store)
    assert import_files("generic", [file], store, decimal=",").kept == len(chain)
    found = Store(store).chain("SPX", chain[0].day)
    np.testing.assert_allclose(found["iv"], 0.1875, rtol=0.0, atol=0.0)
    assert found["ask"].iloc[0] == chain[0].ask


@pytest.mark.parametrize(
    ("downloaded", "day"),
    [
        ("Apr 28 2019 @ 18:24 ET", "2019-04-26"),  # a Sunday
        ("Apr 26 2019 @ 16:20 ET", "2019-04-26"),
        ("Apr 29 2019 @ 09:31 ET", "2019-04-26"),  # 15 minutes late: Monday has not begun
        ("Apr 29 2019 @ 10:00 ET", "2019-04-29"),
    ],
)
def test_the_day_of_a_quote_table(downloaded, day, vendors, tmp_path, store):
    """Behaviour: the download's time says the day of the quotes. Catches Sunday's date on Friday's quotes."""
    chain = vendors.quotes((day,))
    file = vendors.written(tmp_path / "quotes.dat", vendors.cboe_quotes(chain, downloaded))
    import_files("cboe-quotes", [file], store)
    assert [str(each) for each in Store(store).days("SPX")] == [day]


def test_the_day_of_a_quote_table_as_given(vendors, tmp_path, store):
    """Behaviour: --date goes before the download's time, and is refused where each row says its day."""
    chain = vendors.quotes(ONE_DAY)
    file = vendors.written(tmp_path / "quotes.dat", vendors.cboe_quotes(chain))
    import_files("cboe-quotes", [file], store, date="2019-04-25")
    assert [str(each) for each in Store(store).days("SPX")] == ["2019-04-25"]
    plain = vendors.written(tmp_path / "chain.csv", vendors.generic(chain))
    with pytest.raises(ValueError, match="chain.csv says itself of which days its rows are"):
        import_files("generic", [plain], store, date="2019-04-25")


def test_quote_tables_of_both_classes(vendors, tmp_path, store):
    """Behaviour: SPX and SPXW of one expiry, strike and right are two contracts. Catches a key without the root, which
    would drop one of them on every third Friday."""
    chain = vendors.quotes(ONE_DAY) + vendors.quotes(ONE_DAY, root="SPX")
    file = vendors.written(tmp_path / "chain.csv", vendors.generic(chain))
    assert import_files("generic", [file], store).kept == len(chain)
    assert Store(store).chain("SPX", ONE_DAY[0])["root"].value_counts().to_dict() == {"SPX": 32, "SPXW": 32}


def test_only_the_underlying_asked_for(vendors, tmp_path, store):
    """Behaviour: rows of others are left out and counted. Catches them taken in under the wrong name."""
    chain = vendors.quotes(ONE_DAY)
    other = vendors.quotes(ONE_DAY, root="SPY", underlying="SPY")
    file = vendors.written(tmp_path / "chain.csv", vendors.generic(chain + other))
    report = import_files("generic", [file], store, underlying="spx")
    assert report.rules["dropped"]["other_underlying"]["rows"] == len(other)
    assert Store(store).underlyings() == ["SPX"]


def test_daily_prices(vendors, tmp_path, store):
    """Behaviour: an underlying's own days. Catches adjusted closes in the place of closes, and a name that is lost."""
    prices = [(day, 2900.0 + i) for i, day in enumerate(vendors.DAYS)]
    file = vendors.written(tmp_path / "spx.csv", vendors.yahoo(prices))
    with pytest.raises(ValueError, match="no column symbol or ticker or underlying; .* give --underlying NAME"):
        import_files("yahoo", [file], store)
    import_files("yahoo", [file], store, underlying="^SPX")
    vix = vendors.written(
        tmp_path / "vix.csv", "DATE,OPEN,HIGH,LOW,CLOSE\n04/26/2019,13,14,12.5,15\n01/02/2018,9,9,9,9\n"
    )
    report = import_files("cboe-vix", [vix], store)
    assert report.rules["noted"]["outside_range"]["rows"] == 1
    found = Store(store)
    assert found.underlyings() == []
    assert found.underlyings("underlyings") == ["SPX", "VIX"]
    assert list(found.prices("SPX")["close"]) == [2900.0, 2901.0, 2902.0]
    assert list(found.prices("VIX")["close"]) == [9.0, 15.0]
    assert found.prices("VIX")["volume"].isna().all()
    assert list(found.query("SELECT count(*) AS n FROM underlyings")["n"]) == [5]


@pytest.mark.parametrize(
    ("cell", "day"),
    [
        ("2019-04-26", "2019-04-26"),
        ("2019-04-26 15:45:00", "2019-04-26"),
        ("2019-04-26T00:00:00", "2019-04-26"),
        ("4/26/2019", "2019-04-26"),
        ("04/26/2019 0:00:00", "2019-04-26"),
        ("20190426", "2019-04-26"),
        ("26/04/2019", None),
        ("2019-02-29", None),
        ("26.04.2019", None),
        ("", None),
        ("2019-04", None),
    ],
)
def test_dates(cell, day):
    """Golden: what is a date and which. Catches a lenient reader that guesses."""
    found = known_formats.day(cell, (known_formats.ISO, known_formats.US, known_formats.COMPACT))
    assert (None if found is None else str(found)) == day
