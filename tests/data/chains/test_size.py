"""A chain file that is larger than the memory it may take."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
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
report = import_files("generic", sys.argv[1:-1], sys.argv[-1])
print(report.kept, base, peak())
"""


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
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(file), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept, base, peak = map(int, done.stdout.split())
    assert kept == 2_000_000
    assert peak < 500, f"{peak} MB, of which {base} MB before the import"
    assert len(Store(tmp_path / "store").days("SPX")) == 200
