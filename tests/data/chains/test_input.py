"""Files that are damaged, mixed up or meant for something else: refused in one line, or counted to the last row."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedgerl import cli
from hedgerl.data.chains import Store, import_files


def refused(message, name, files, store, **options):
    """The import raises with this message and leaves no store."""
    with pytest.raises(ValueError, match=message):
        import_files(name, files, store, **options)
    assert not store.exists()


def test_formats_and_columns(vendors, tmp_path, store):
    """Behaviour: the nearest known format, the nearest column that is there. Catches errors that leave one guessing."""
    text = vendors.generic(vendors.quotes())
    file = vendors.written(tmp_path / "chain.csv", text)
    refused("unknown format 'ivolatilty'; did you mean ivolatility?", "ivolatilty", [file], store)
    other = vendors.written(tmp_path / "other.csv", text.replace("expiry", "expirey"))
    refused(
        r"other.csv, line 1 has no column expiry or .*; the nearest is 'expirey': rename it", "generic", [other], store
    )
    refused("chain.csv, line 1 has no column quotedate", "historicaloptiondata", [file], store)
    refused("chain.csv, line 1 has no column expiration_date; the nearest is 'expiry'", "cboe-quotes", [file], store)
    refused("must be a file, and is not there", "generic", [tmp_path / "absent.csv"], store)
    refused("must be given once each, got .*chain.csv twice", "generic", [file, file], store)
    refused("decimal must be '.' or ','", "generic", [file], store, decimal=";")
    refused("date must be YYYY-MM-DD, got '4/26/2019'", "cboe-quotes", [file], store, date="4/26/2019")
    dx = vendors.written(tmp_path / "dx.txt", vendors.optionsdx(vendors.quotes()))
    refused("dx.txt, line 1: the file does not say what the underlying is: give --underlying", "optionsdx", [dx], store)
    table = vendors.cboe_quotes(vendors.quotes(("2019-04-26",))).partition("\r\n")[2]
    bare = vendors.written(tmp_path / "bare.dat", table.partition("\r\n")[2])
    refused("bare.dat, line 1: nothing above .* give --date", "cboe-quotes", [bare], store)
    refused("bare.dat, line 1: the file does not say what the und", "cboe-quotes", [bare], store, date="2019-04-26")


def test_content_that_is_no_table(vendors, tmp_path, store):
    """Behaviour: empty, binary, cut short or another encoding is refused with the file's name. Catches tracebacks."""
    text = vendors.generic(vendors.quotes(strikes=200))
    packed = gzip.compress(text.encode())
    zipped = vendors.written(tmp_path / "whole.zip", text).read_bytes()
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    for name, content, message in (
        ("empty.csv", b"", "empty.csv is empty"),
        ("blank.csv", b"\n \n\n", "blank.csv is empty"),
        ("header.csv", text.partition("\n")[0].encode(), "header.csv is empty: below its header"),
        ("short.csv.gz", packed[: len(packed) // 2], "short.csv.gz cannot be read, it may be cut short"),
        ("bad.csv.gz", bytes(damaged), "bad.csv.gz cannot be read"),
        ("short.zip", zipped[: len(zipped) // 2], "short.zip cannot be read, it may be cut short"),
        ("wide.csv", text.encode("utf-16"), "wide.csv is in UTF-16: save it as UTF-8"),
        ("binary.csv", bytes(range(256)) * 20, "binary.csv is no text: it holds zero bytes"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(message, "generic", [tmp_path / name], store)
    with zipfile.ZipFile(tmp_path / "trades.zip", "w") as archive:
        archive.writestr("aapl_trade_american_call_6500000_20140607.csv", "20140606 00:00,1,2,3,4,5\n")
    refused("trades.zip holds no file of the format lean", "lean", [tmp_path / "trades.zip"], store)


def test_days_before_months(vendors, tmp_path, store):
    """Behaviour: one day above 12 gives a file away, whose days up to the 12th would be read as months. Catches half a
    file filed under wrong days."""
    text = vendors.historicaloptiondata(vendors.quotes())
    for day in vendors.DAYS:
        year, month, rest = day.split("-")
        text = text.replace(vendors.us(day), f"{rest}/{month}/{year}")
    file = vendors.written(tmp_path / "chain.csv", text)
    refused(
        "line 2, column quotedate must be a date MM/DD/YYYY, got '24/04/2019'", "historicaloptiondata", [file], store
    )


def test_mixed_dates_are_read_each_as_written(vendors, tmp_path, store):
    """Behaviour: ISO and MM/DD/YYYY in one file mean the same days. Catches a column read by its first row's way."""
    chain = vendors.quotes()
    lines = vendors.generic(chain).splitlines()
    lines[2::2] = [line.replace("2019-04-25", "04/25/2019").replace("2019-05-17", "5/17/2019") for line in lines[2::2]]
    file = vendors.written(tmp_path / "chain.csv", "\n".join(lines))
    assert import_files("generic", [file], store).kept == len(chain)
    assert [str(day) for day in Store(store).days("SPX")] == list(vendors.DAYS)


def test_a_line_with_an_open_quote(vendors, tmp_path, store):
    """Identity: it is one unreadable row. Catches a reader for which a stray quote swallows the rest of the file."""
    chain = vendors.quotes()
    lines = vendors.generic(chain).splitlines()
    lines[5] = lines[5].replace("SPX,", '"SPX,', 1)
    file = vendors.written(tmp_path / "chain.csv", "\n".join(lines))
    report = import_files("generic", [file], store)
    assert (report.read, report.kept) == (len(chain), len(chain) - 1)
    (example,) = report.rules["dropped"]["unreadable"]["examples"]
    assert (example["line"], "quote that is not closed" in example["what"]) == (6, True)


def test_rows_of_another_delimiter(vendors, tmp_path, store):
    """Behaviour: where no row fits the header the file is refused, naming its first. Catches an empty store called a
    success."""
    head, _, rest = vendors.generic(vendors.quotes()).partition("\n")
    file = vendors.written(tmp_path / "chain.csv", head + "\n" + rest.replace(",", ";"))
    refused(
        "chain.csv, line 2: must have 19 cells as the header has, got 1; unreadable: so are all",
        "generic",
        [file],
        store,
    )


def test_a_refused_file_among_good_ones(vendors, tmp_path, store):
    """Behaviour: all or nothing. Catches half an import."""
    good = vendors.written(tmp_path / "good.csv", vendors.generic(vendors.quotes()))
    bad = vendors.written(tmp_path / "bad.csv", vendors.generic(vendors.quotes()).replace("SPXW,2019", "SPXW,19"))
    refused("bad.csv, line 2: column expiry must be a date", "generic", [good, bad], store)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_damage_is_counted(data, vendors, tmp_path_factory):
    """Identity: whatever is done to a file, rows read = kept + dropped, as many as its lines are, or it is refused with
    its name. Catches crashes, and rows that vanish."""
    folder = tmp_path_factory.mktemp("fuzz")
    name = data.draw(
        st.sampled_from(["generic", "historicaloptiondata", "ivolatility", "cboe_quotes", "cboe_datashop"])
    )
    days = ("2019-04-26",) if name == "cboe_quotes" else vendors.DAYS
    lines = getattr(vendors, name)(vendors.quotes(days, strikes=3)).splitlines()
    top = 3 if name == "cboe_quotes" else 1
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(data.draw(st.integers(1, 6))):
        row = rng.randrange(top, len(lines))
        kind = data.draw(st.sampled_from(["cut", "cell", "sign", "twice", "gone", "blank", "swap", "text"]))
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
                "1,5",
                "1_000",
                "12/31/1899",
                "9999999999999999999",
                "½",
                "\x1a",
                "call",
            ]
            cells[rng.randrange(len(cells))] = rng.choice(bad)
            lines[row] = ",".join(cells)
        elif kind == "sign":
            place = rng.randrange(len(lines[row]) + 1)
            lines[row] = lines[row][:place] + rng.choice('",;\t \u2028\x0b\x85é') + lines[row][place:]
        elif kind == "twice":
            lines.insert(row, lines[row])
        elif kind == "gone" and len(lines) > top + 1:
            del lines[row]
        elif kind == "blank":
            lines.insert(row, " ")
        elif kind == "swap":
            other = rng.randrange(top, len(lines))
            lines[row], lines[other] = lines[other], lines[row]
        elif kind == "text":
            lines[row] = data.draw(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), max_size=40))
    file = folder / "chain.csv"
    file.write_bytes("\n".join(lines).encode())
    report, refusal = None, ""
    try:
        report = import_files(name.replace("_", "-"), [file], folder / "store")
    except ValueError as error:
        refusal = str(error)
    if report is None:
        assert "chain.csv" in refusal
        assert not (folder / "store").exists()
        return
    sides = 2 if name == "cboe_quotes" else 1
    written = sum(bool(line.strip()) for line in lines[top:])
    assert report.read == sides * written == report.kept + report.dropped
    assert report.dropped == sum(each["rows"] for each in report.rules["dropped"].values())
    kept = Store(folder / "store").query("SELECT count(*) AS n FROM chains")["n"][0]
    assert kept == report.kept


# The command line


def run(capsys, *arguments):
    status = cli.main(["data", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_import_and_check(vendors, tmp_path, store, capsys):
    """Behaviour: the two commands end to end, the counts on the screen and in the store's report."""
    chain = vendors.quotes()
    file = vendors.written(tmp_path / "chain.csv", vendors.generic([*chain, chain[0]]))
    status, out, err = run(capsys, "import", "--format", "generic", file, "--store", store)
    assert (status, err) == (0, "")
    assert "dropped  duplicate     1  " in out
    assert f"97 rows = 96 kept + 1 dropped; store {store}" in out
    assert '"duplicate"' in (store / "reports" / "1.json").read_text()
    status, out, _ = run(capsys, "import", "--format", "generic", file, "--store", store)
    assert (status, "imported before" in out) == (0, True)
    status, out, _ = run(capsys, "check", store)
    assert status == 0
    assert out.splitlines()[1].split()[:6] == ["chains", "SPX", "2019-04-24", "2019-04-26", "3", "96"]
    (store / Store(store).manifest.files[0].path).write_bytes(b"PAR1")
    status, out, err = run(capsys, "check", store)
    assert status == 2
    assert err.startswith("hedgerl: error: ")
    assert "its SHA-256 is not the manifest's" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imprt"], 'data: unknown command "imprt"; did you mean import?'),
        ([], "data: the following arguments are required: import | check"),
        (["import", "a.csv", "--store", "s"], "data import: the following arguments are required: --format"),
        (["import", "--format", "generik", "a.csv", "--store", "s"], "unknown format 'generik'; did you mean generic?"),
        (["import", "--format", "generic", "a.csv", "--store", "s"], "a.csv must be a file, and is not there"),
        (["check", "s"], "s is no store of option data: it has no manifest.json"),
    ],
)
def test_usage(arguments, message, capsys, tmp_path, monkeypatch):
    """Behaviour: one line and exit status 2. Catches argparse's own usage text, and tracebacks."""
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert err.startswith(f"hedgerl: error: {message}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_formats(capsys):
    """Behaviour: a user finds the formats without the manual."""
    status, out, _ = run(capsys, "import", "--help")
    assert status == 0
    assert "historicaloptiondata" in out
    assert "cboe-vix" in out


@pytest.mark.parametrize("quoted", [False, True], ids=["plain", "with quotes"])
def test_parquet(vendors, tmp_path, store, quoted):
    """Twin: a Parquet file, with dates as times and names in categories, is read as its CSV twin is, text that needs
    quotes included; a row that cannot be kept is told with the line that it would have."""
    chain = vendors.quotes()
    twin = vendors.written(tmp_path / "twin.csv", vendors.generic([*chain, replace(chain[0], bid=9.0, ask=8.0)]))
    frame = pd.read_csv(twin, parse_dates=["quote_date", "expiry"]).astype({"root": "category", "right": "category"})
    if quoted:
        frame["comment"] = 'a, "b"'
    frame.to_parquet(tmp_path / "chain.parquet", row_group_size=17)
    report = import_files("generic", [tmp_path / "chain.parquet"], store)
    import_files("generic", [twin], tmp_path / "other")
    assert (report.read, report.kept) == (len(chain) + 1, len(chain))
    assert report.rules["dropped"]["crossed"]["examples"][0]["line"] == len(chain) + 2
    for day in vendors.DAYS:
        mine, others = (
            Store(folder).chain("SPX", day).drop(columns="source") for folder in (store, tmp_path / "other")
        )
        pd.testing.assert_frame_equal(mine, others)


def test_parquet_that_cannot_be_read(vendors, tmp_path, store):
    """Behaviour: cut short, empty, or with columns that are no table: refused with the file's name."""
    frame = pd.read_csv(io.StringIO(vendors.generic(vendors.quotes())))
    whole = tmp_path / "whole.parquet"
    frame.to_parquet(whole)
    short = tmp_path / "short.parquet"
    short.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refused("short.parquet cannot be read", "generic", [short], store)
    frame.iloc[:0].to_parquet(tmp_path / "empty.parquet")
    refused("empty.parquet is empty: below its header", "generic", [tmp_path / "empty.parquet"], store)
    nested = frame.assign(more=[[1, 2]] * len(frame))
    nested.to_parquet(tmp_path / "nested.parquet")
    refused("nested.parquet cannot be read", "generic", [tmp_path / "nested.parquet"], store)
