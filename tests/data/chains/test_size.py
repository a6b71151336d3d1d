"""Files that are larger than the memory they may take."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from hedgerl.data.chains import Store
from hedgerl.data.chains.trading_days import trading_days

# VmHWM: ru_maxrss of a child begins with what its parent had.
MEASURED = """
import re, sys
from hedgerl.data.chains import import_files

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

base = peak()
report = import_files(sys.argv[1], sys.argv[2:-1], sys.argv[-1])
print(report.kept, base, peak())
"""


def measured(name, file, store):
    """(rows kept, MB before the import, MB at most) in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, name, str(file), str(store)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Behaviour: two million rows over 200 days, days in any order, stay below 500 MB (349 MB were measured for ten
    million, of which 214 MB are libraries). Catches a step that holds the whole file: two million rows are 400 MB."""
    days = trading_days(np.datetime64("2018-01-02"), np.datetime64("2019-12-31"))[:200]
    rng = np.random.default_rng(3)
    file = tmp_path / "large.csv"
    with open(file, "w") as stream:
        stream.write(
            "underlying,underlying_last,root,type,expiration,quotedate,strike,last,bid,ask,volume,openinterest,iv\n"
        )
        rows = [
            f",{expiry},DAY,{500 + 5 * place},{{0}},{{1}},{{2}},7,11,0.2\n"
            for expiry in ("2020-03-20", "2020-06-19", "2020-09-18", "2020-12-18", "2021-01-15")
            for place in range(1_000)
        ]
        for day in rng.permutation(days):
            for right, sign in (("call", 1), ("put", -1)):
                for number, row in enumerate(rows):
                    bid = max(sign * (3000 - 500 - 5 * (number % 1_000)), 0) + 1 + int(rng.integers(9)) / 8
                    text = row.replace("DAY", str(day)).format(bid, bid, bid + 0.5)
                    stream.write(f"SPX,3000.0,SPX,{right}{text}")
    kept, base, peak = measured("generic", file, tmp_path / "store")
    assert kept == 2_000_000
    assert peak < 500, f"{peak} MB, of which {base} MB before the import"
    assert len(Store(tmp_path / "store").days("SPX")) == 200


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_day(tmp_path):
    """Behaviour: 800,000 ticks of a day take 143 MB beside the libraries, and must stay below 210; where the day is
    settled as a whole it is 272. Catches a step that holds the day."""
    n = 800_000
    rng = np.random.default_rng(1)
    time = np.datetime64("2013-10-07T09:30", "ns") + np.sort(rng.integers(0, 23_400 * 10**6, n)).astype("m8[us]")
    bid = 167.0 + np.round(np.cumsum(rng.normal(0.0, 1e-4, n)), 2)
    frame = pd.DataFrame({"time": time, "symbol": "SPY", "bid": bid, "ask": bid + 0.01})
    frame.drop_duplicates().to_parquet(tmp_path / "day.parquet")
    kept, base, peak = measured("generic-ticks", tmp_path / "day.parquet", tmp_path / "store")
    assert kept == len(frame.drop_duplicates())
    assert peak - base < 210, f"{peak} MB, of which {base} MB before the import"
