"""What an import leaves behind: once, again, after newer files, after a crash, and on a full disk."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from hedgerl.data.chains import Store, check, import_files, importing
from hedgerl.data.chains.schema import TABLES
from hedgerl.data.chains.store import checksum


def brought(vendors, tmp_path, store, chain, name="chain.csv"):
    return import_files("generic", [vendors.written(tmp_path / name, vendors.generic(chain))], store)


def content(folder: Path) -> dict[str, bytes]:
    """All files of a store but its lock, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def valid(folder: Path) -> dict[str, bytes]:
    """The manifest and the files that it names."""
    names = [each.path for each in Store(folder).manifest.files]
    return {name: (folder / name).read_bytes() for name in ["manifest.json", *names]}


def test_files(vendors, tmp_path, store):
    """Golden: the layout that docs/data.md promises: a file a month, typed, sorted, hive folders. Catches a change of
    it that old stores would not survive."""
    brought(vendors, tmp_path, store, list(reversed(vendors.quotes((*vendors.DAYS, "2019-05-01", "2018-12-31")))))
    files = [each.path for each in Store(store).manifest.files]
    assert [name.rpartition("-")[0] for name in files] == [
        "chains/underlying=SPX/year=2018/2018-12",
        "chains/underlying=SPX/year=2019/2019-04",
        "chains/underlying=SPX/year=2019/2019-05",
    ]
    for name in files:
        with pq.ParquetFile(store / name) as file:
            assert file.schema_arrow.remove_metadata().equals(TABLES["chains"].schema)
            frame = file.read().to_pandas()
        order = ["quote_date", "expiry", "strike", "right", "root"]
        pd.testing.assert_frame_equal(frame, frame.sort_values(order, ignore_index=True))
    assert check(store).problems == []


def test_the_same_again_changes_nothing(vendors, tmp_path, store):
    """Identity: not a byte, also under another name, and packed differently only if the content differs. Catches days
    that are written twice, and a manifest that grows."""
    chain = vendors.quotes()
    brought(vendors, tmp_path, store, chain)
    before = content(store)
    report = brought(vendors, tmp_path, store, chain, "renamed.csv")
    assert report.unchanged
    assert content(store) == before


def test_two_stores_of_the_same_files_are_equal(vendors, tmp_path):
    """Identity: names and bytes depend on the content alone. Catches a clock or a random name in the data."""
    for name in ("one", "two"):
        brought(vendors, tmp_path, tmp_path / name, vendors.quotes())
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_new_days_join_and_newer_days_replace(vendors, tmp_path, store):
    """Behaviour: a newer file takes the place of its days, whole, and of no others. Catches a month that loses its
    other days, and rows of two versions side by side."""
    chain = vendors.quotes()
    brought(vendors, tmp_path, store, [q for q in chain if q.day != vendors.DAYS[1]])
    middle = [q for q in chain if q.day == vendors.DAYS[1]]
    report = brought(vendors, tmp_path, store, middle, "middle.csv")
    assert report.replaced == {"days": 0, "rows": 0}
    assert [str(day) for day in Store(store).days("SPX")] == list(vendors.DAYS)
    newer = vendors.moved(middle[:10], 0.5)
    report = brought(vendors, tmp_path, store, newer, "newer.csv")
    assert report.replaced == {"days": 1, "rows": len(middle)}
    found = Store(store)
    assert list(found.chain("SPX", vendors.DAYS[1])["bid"]) == [q.bid for q in newer]
    for day in (vendors.DAYS[0], vendors.DAYS[2]):
        assert list(found.chain("SPX", day)["bid"]) == [q.bid for q in chain if q.day == day]
    assert check(store).problems == []


def test_files_that_the_manifest_does_not_name_go_with_the_next_import(vendors, tmp_path, store):
    """Behaviour: what newer files replaced, and what a crash left, is removed; files of the user's are not. Catches a
    store that grows with each import, and one that deletes what it did not write."""
    brought(vendors, tmp_path, store, vendors.quotes())
    folder = next((store / "chains" / "underlying=SPX").glob("year=*"))
    (folder / ".0123456789abcdef.parquet").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    (store / ".import-dead").mkdir()
    (store / ".import-dead" / "2019-04-24.arrows").write_bytes(b"half")
    brought(vendors, tmp_path, store, vendors.moved(vendors.quotes(), 0.5), "b.csv")
    assert sum(name.endswith(".parquet") for name in content(store)) == 2  # the newest, and the one it replaced
    brought(vendors, tmp_path, store, vendors.quotes(("2019-05-01",)), "c.csv")
    left = content(store)
    assert {name for name in left if name.startswith("chains")} == {
        *(each.path for each in Store(store).manifest.files),
        str((folder / "notes.txt").relative_to(store)),
    }
    assert not list(store.glob(".import-*"))


def test_two_imports_at_once(vendors, tmp_path, store):
    """Behaviour: the second is refused in one line. Catches two manifests that each forget the other's files."""
    brought(vendors, tmp_path, store, vendors.quotes())
    with FileLock(store / ".lock"), pytest.raises(ValueError, match="another import into .*store is running"):
        brought(vendors, tmp_path, store, vendors.quotes(("2019-05-01",)), "b.csv")


def test_a_folder_of_something_else(vendors, tmp_path):
    """Behaviour: a folder that is no store is left alone. Catches files of the user's among the data."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"home must be a store or empty, and holds thesis.tex"):
        brought(vendors, tmp_path, folder, vendors.quotes())
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_an_underlying_of_any_name_stays_in_the_store(vendors, tmp_path, store):
    """Behaviour: a name with slashes is a folder's name, not a path. Catches a file that is written elsewhere."""
    chain = [replace(q, underlying="../../BRK/B", root="BRK") for q in vendors.quotes()]
    brought(vendors, tmp_path, store, chain)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain.csv", "store"]
    assert len(Store(store).chain("../../BRK/B", vendors.DAYS[0])) == 32
    assert check(store).problems == []


# Crashes


def test_a_full_disk(vendors, tmp_path, store, monkeypatch):
    """Behaviour: wherever writing fails the store is what it was, and nothing is left over. Catches a manifest that
    names half a file."""
    brought(vendors, tmp_path, store, vendors.quotes())
    before = content(store)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place, name in (
        (importing.pa.ipc, "new_stream"),
        (importing.pq.ParquetWriter, "write_table"),
        (importing, "synced"),
        (importing, "write_text"),
        (importing.Manifest, "write"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(OSError, match="No space left"):
                brought(vendors, tmp_path, store, vendors.moved(vendors.quotes(), 1.0), "b.csv")
        assert content(store) == before, name
    assert brought(vendors, tmp_path, store, vendors.moved(vendors.quotes(), 1.0), "b.csv").kept == 96


def test_a_real_limit_on_file_sizes(vendors, tmp_path, store):
    """Behaviour: the kernel refuses to write; the new store is not there afterwards. Catches what a patched write
    hides."""
    file = vendors.written(tmp_path / "chain.csv", vendors.generic(vendors.quotes(strikes=400)))

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "hedgerl.cli",
            "data",
            "import",
            "--format",
            "generic",
            str(file),
            "--store",
            str(store),
        ],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert not store.exists()


KILLED = """
import os, shutil, signal, sys
from hedgerl.data.chains import import_files, importing, store
import pandera.pandas  # loaded once, not in each child

file, folder, trials = sys.argv[1:]
step = stop = 0

def counted(call):
    def wrapped(*arguments, **named):
        global step
        step += 1
        if step == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return wrapped

copied = shutil.copytree
os.replace = counted(os.replace)
store.synced = importing.synced = counted(importing.synced)
importing.pq.ParquetWriter.write_table = counted(importing.pq.ParquetWriter.write_table)
importing.pa.ipc.new_stream = counted(importing.pa.ipc.new_stream)
importing.write_text = counted(importing.write_text)
importing.shutil.rmtree = counted(importing.shutil.rmtree)
while True:
    stop += 1
    trial = os.path.join(trials, str(stop))
    copied(folder, trial)
    child = os.fork()  # nothing of Arrow has run here, so that no thread is lost
    if child == 0:
        import_files("generic", [file], trial)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""


@pytest.mark.slow
def test_killed_at_every_step(vendors, tmp_path, store):
    """Behaviour: kill -9 before each write, sync and rename of an import leaves the old store or the new one, whole;
    the next import ends as if nothing had been. Catches an order of steps in which the manifest runs ahead of the
    data."""
    brought(vendors, tmp_path, store, vendors.quotes(vendors.DAYS[:2]))
    old = valid(store)
    newer = vendors.moved(vendors.quotes((vendors.DAYS[1], "2019-05-01")), 1.0)
    file = vendors.written(tmp_path / "newer.csv", vendors.generic(newer))
    wanted = tmp_path / "wanted"
    brought(vendors, tmp_path, wanted, vendors.quotes(vendors.DAYS[:2]))
    import_files("generic", [file], wanted)
    new = valid(wanted)
    trials = tmp_path / "trials"
    trials.mkdir()
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    done = subprocess.run(
        [sys.executable, str(script), str(file), str(store), str(trials)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [valid(trial) for trial in sorted(trials.iterdir(), key=lambda path: int(path.name))]
    assert found == [old] * found.count(old) + [new] * found.count(new)
    assert found.count(old) >= 8
    assert found.count(new) >= 2  # killed between the manifest and the end, and not killed
    for trial in trials.iterdir():
        assert check(trial).problems == []
        import_files("generic", [file], trial)
        assert valid(trial) == new
        assert not list(trial.glob(".import-*"))


@pytest.mark.slow
def test_killed_at_any_moment(vendors, tmp_path, store):
    """Behaviour: as above, by the clock. Catches what lies between the steps above."""
    file = vendors.written(tmp_path / "chain.csv", vendors.generic(vendors.quotes(strikes=1500)))
    command = [sys.executable, "-m", "hedgerl.cli", "data", "import", "--format", "generic", str(file)]
    started = time.monotonic()
    subprocess.run([*command, "--store", str(tmp_path / "whole")], check=True, capture_output=True)
    took = time.monotonic() - started
    for share in (0.6, 0.75, 0.85, 0.95):
        process = subprocess.Popen(
            [*command, "--store", str(store)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(share * took)
        process.kill()
        process.wait()
        if (store / "manifest.json").exists():
            assert check(store).problems == []
    subprocess.run([*command, "--store", str(store)], check=True, capture_output=True)
    assert valid(store) == valid(tmp_path / "whole")


# Checking and reading


@pytest.fixture
def whole(vendors, tmp_path, store) -> Path:
    brought(vendors, tmp_path, store, vendors.quotes((vendors.DAYS[0], vendors.DAYS[2], "2019-05-01")))
    return store


def test_check_says_what_a_store_holds(whole):
    """Golden: counted by hand. Catches gaps that are not seen and contracts counted once a day."""
    (held,) = check(whole).holdings
    assert (held.underlying, held.days, held.rows, held.contracts, held.expiries) == ("SPX", 3, 96, 32, 2)
    assert held.missing == ("2019-04-25", "2019-04-29", "2019-04-30")
    assert held.zero_bids == 0.0


def test_check_finds_damage(whole):
    """Behaviour: one bit, a missing file, another manifest. Catches a check that trusts what it should read."""
    name = Store(whole).manifest.files[0].path
    good = (whole / name).read_bytes()
    for bad in (good[:-1], good[:500] + bytes([good[500] ^ 1]) + good[501:], good + b"\0"):
        (whole / name).write_bytes(bad)
        (problem,) = check(whole).problems
        assert "SHA-256" in problem
    (whole / name).unlink()
    (problem,) = check(whole).problems
    assert problem.endswith("is missing")
    (whole / name).write_bytes(good)
    manifest = json.loads((whole / "manifest.json").read_text())
    manifest["files"][0]["days"][next(iter(manifest["files"][0]["days"]))] += 1
    (whole / "manifest.json").write_text(json.dumps(manifest))
    (problem,) = check(whole).problems
    assert "has other days or rows than the manifest says" in problem
    (whole / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest.json cannot be read"):
        check(whole)


def test_check_finds_rows_that_break_the_schema(whole):
    """Behaviour: a file with the right checksum and a wrong row. Catches a schema that is written and never applied."""
    manifest = json.loads((whole / "manifest.json").read_text())
    entry = manifest["files"][0]
    table = pq.ParquetFile(whole / entry["path"]).read()
    schema, place = table.schema, table.schema.get_field_index("ask")
    wrong = table.set_column(place, schema.field(place), [np.where(np.arange(table.num_rows) == 3, 0.0, table["ask"])])
    pq.write_table(wrong, whole / entry["path"])
    entry["sha256"] = checksum(whole / entry["path"])
    (whole / "manifest.json").write_text(json.dumps(manifest))
    assert "breaks" in check(whole).problems[0]


def test_reading(whole, vendors):
    """Behaviour: types, days as text or dates, and what is said of days and names that are not there."""
    found = Store(whole)
    frame = found.chain("SPX", pd.Timestamp(vendors.DAYS[0]))
    assert str(frame["expiry"].dtype) == "datetime64[ms]"
    assert str(frame["volume"].dtype) == "Int64"
    assert frame["bid"].dtype == np.float64
    assert len(found.chain("SPX", "2019-04-24")) == len(found.chain("SPX", np.datetime64("2019-04-24"))) == 32
    with pytest.raises(ValueError, match="no quotes of SPX on 2019-04-25; the nearest day is 2019-04-2[46]"):
        found.chain("SPX", "2019-04-25")
    with pytest.raises(ValueError, match="has no options on 'SPY' .it has: SPX."):
        found.chain("SPY", "2019-04-25")
    with pytest.raises(ValueError, match="has no daily prices of 'SPX' .it has: none."):
        found.prices("SPX")
    with pytest.raises(ValueError, match="is no store of option data: it has no manifest.json"):
        Store(whole.parent)


def test_queries(whole, monkeypatch):
    """Behaviour: DuckDB sees the valid files, an empty table too, and says what it does not take; without it the extra
    is named. Catches queries that count files which were replaced."""
    found = Store(whole)
    assert found.query("SELECT count(*) AS n, count(DISTINCT quote_date) AS days FROM chains").to_dict("records") == [
        {"n": 96, "days": 3}
    ]
    assert found.query("SELECT * FROM underlyings").empty
    with pytest.raises(ValueError, match="DuckDB: .*nothing"):
        found.query("SELECT nothing FROM chains")
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ValueError, match=r"pip install 'hedgerl\[data\]'"):
        found.query("SELECT 1")


def test_an_open_store_sees_what_comes(whole, vendors, tmp_path):
    """Behaviour: no need to open it again. Catches a manifest that is kept for ever, and files that are gone."""
    found = Store(whole)
    assert len(found.days("SPX")) == 3
    for number, day in enumerate(("2019-05-02", "2019-05-03")):
        brought(vendors, tmp_path, whole, vendors.moved(vendors.quotes((day,)), float(number)), f"{day}.csv")
        assert len(found.chain("SPX", day)) == 32
        assert len(found.chain("SPX", vendors.DAYS[0])) == 32


def test_pandera_is_named_where_it_is_missing(vendors, tmp_path, store, monkeypatch):
    """Behaviour: the extra is named before anything is read. Catches a traceback of an import."""
    monkeypatch.setitem(sys.modules, "pandera", None)
    with pytest.raises(ValueError, match=r"pip install 'hedgerl\[data\]'"):
        brought(vendors, tmp_path, store, vendors.quotes())
    assert os.listdir(tmp_path) == ["chain.csv"]
