"""What is dropped, mended or remarked on, and that nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hedgerl.data.chains import Store, import_files
from hedgerl.data.chains.rules import RULES, bounds
from hedgerl.pricing import black_scholes

DAY = ("2019-04-26",)


def brought(vendors, tmp_path, store, chain, name="chain.csv"):
    file = vendors.written(tmp_path / name, vendors.generic(chain))
    return import_files("generic", [file], store)


def counts(report):
    return {rule: each["rows"] for rule, each in report.rules["dropped"].items()}


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("not_a_trading_day", {"day": "2019-05-27", "expiry": "2019-06-21"}),
        ("expired", {"expiry": "2019-04-25"}),
        ("empty_quote", {"bid": ""}),
        ("empty_quote", {"ask": "nan"}),
        ("negative_bid", {"bid": -0.5}),
        ("no_ask", {"bid": 0.0, "ask": 0.0}),
        ("no_ask", {"ask": -1.0}),
        ("crossed", {"bid": 23.0, "ask": 22.5}),
        ("out_of_bounds", {"strike": 1000.0}),  # a call far in the money at the price of one at the money
        ("out_of_bounds", {"bid": 5000.0, "ask": 5001.0}),
        ("unreadable", {"bid": "twelve"}),
        ("unreadable", {"expiry": "soon"}),
        ("unreadable", {"strike": -5.0}),
        ("unreadable", {"strike": ""}),
        ("unreadable", {"volume": 1.5}),
        ("unreadable", {"interest": -1}),
        ("unreadable", {"iv": "inf"}),
        ("unreadable", {"right": "X"}),
        ("unreadable", {"root": "SPXW 190517"}),
        ("unreadable", {"underlying": ""}),
    ],
)
def test_one_bad_row(rule, change, vendors, tmp_path, store):
    """Behaviour: a row that breaks one rule is counted there, with its file and line; the others are kept. Catches a
    rule that drops too much, one that is never met, and a line number that is off by one."""
    chain = vendors.quotes(DAY)
    chain[6] = replace(chain[6], **change)  # a call at the money, on line 8
    report = brought(vendors, tmp_path, store, chain)
    assert counts(report) == {rule: 1}
    assert (report.read, report.kept, report.dropped) == (len(chain), len(chain) - 1, 1)
    (example,) = report.rules["dropped"][rule]["examples"]
    assert (example["file"], example["line"]) == (str(tmp_path / "chain.csv"), 8)
    assert example["what"]


def test_an_example_names_column_and_value(vendors, tmp_path, store):
    """Behaviour: file, line, column and value of what cannot be read. Catches a message that cannot be acted on."""
    chain = vendors.quotes(DAY)
    chain[3] = replace(chain[3], ask="1,234.5x".replace(",", ""))
    report = brought(vendors, tmp_path, store, chain)
    assert report.rules["dropped"]["unreadable"]["examples"] == [
        {"file": str(tmp_path / "chain.csv"), "line": 5, "what": "column ask must be a number, got '1234.5x'"}
    ]


def test_a_row_counts_once(vendors, tmp_path, store):
    """Identity: a row that breaks four rules is counted under the first. Catches rows that are dropped twice."""
    chain = vendors.quotes(DAY)
    chain[0] = replace(chain[0], expiry="2019-04-01", bid=5.0, ask=-1.0)
    assert counts(brought(vendors, tmp_path, store, chain)) == {"expired": 1}


def test_mended_and_noted(vendors, tmp_path, store):
    """Behaviour: zero volatilities are empty, zero bids are kept; both are counted. Catches a volatility of zero taken
    for a market's."""
    chain = vendors.quotes(DAY)
    chain[0] = replace(chain[0], iv=0.0)
    chain[1] = replace(chain[1], iv=-1.0)
    chain[2] = replace(chain[2], strike=3400.0, bid=0.0, ask=0.5)
    report = brought(vendors, tmp_path, store, chain)
    assert report.dropped == 0
    assert {rule: each["rows"] for rule, each in report.rules["mended"].items()} == {"no_iv": 2}
    assert {rule: each["rows"] for rule, each in report.rules["noted"].items()} == {"zero_bid": 1}
    found = Store(store).chain("SPX", DAY[0])
    assert found["iv"].isna().sum() == 2
    assert (found["bid"] == 0).sum() == 1


def test_no_price_of_the_underlying(vendors, tmp_path, store):
    """Behaviour: bounds that cannot be checked are said to be so. Catches rows dropped for a comparison with
    nothing."""
    text = vendors.generic(vendors.quotes(DAY)).replace(f",{vendors.SPOT},SPXW", ",0,SPXW")
    report = import_files("generic", [vendors.written(tmp_path / "chain.csv", text)], store)
    assert report.kept == report.read == report.rules["noted"]["unchecked_bounds"]["rows"]
    assert report.rules["mended"]["no_underlying_price"]["rows"] == report.read


def test_repeats(vendors, tmp_path, store):
    """Behaviour: the same row again is a duplicate, other values a conflict of which the last is kept, across files
    too. Catches a chain with a contract twice, and the first kept for the last."""
    chain = vendors.quotes(DAY)
    first = vendors.written(tmp_path / "a.csv", vendors.generic(chain + [chain[4]]))
    second = vendors.written(
        tmp_path / "b.csv",
        vendors.generic([chain[5], replace(chain[7], bid=30.0, ask=31.0), replace(chain[7], iv=0.25)]),
    )
    report = import_files("generic", [first, second], store)
    assert counts(report) == {"duplicate": 2, "conflict": 2}
    assert report.kept == len(chain)
    found = Store(store).chain("SPX", DAY[0])
    (row,) = found[found["iv"] == 0.25].to_dict("records")
    assert (row["strike"], row["right"], row["bid"]) == (chain[7].strike, chain[7].right, chain[7].bid)
    lines = {(Path(each["file"]).name, each["line"]) for each in report.rules["dropped"]["conflict"]["examples"]}
    assert lines == {("a.csv", 9), ("b.csv", 3)}


def test_a_hundred_thousand_duplicates(vendors, tmp_path, store):
    """Identity: one row stays of 100,000, the others are counted. Catches a join that multiplies repeats."""
    chain = vendors.quotes(DAY)
    report = brought(vendors, tmp_path, store, chain + [chain[0]] * 100_000)
    assert counts(report) == {"duplicate": 100_000}
    assert (report.read, report.kept) == (100_000 + len(chain), len(chain))


@pytest.mark.parametrize("together", [True, False])
def test_a_stale_day(together, vendors, tmp_path, store):
    """Behaviour: a day with all quotes of the day before is dropped, whether both come at once or the first is in the
    store; one quote that moved is enough to keep it. Catches holidays that a vendor fills with the day before."""
    chain = vendors.quotes()
    first = [q for q in chain if q.day == vendors.DAYS[0]]
    stale = [replace(q, day=vendors.DAYS[1]) for q in first if q.strike != 2950.0]  # some contracts left off
    if together:
        report = brought(vendors, tmp_path, store, first + stale)
    else:
        brought(vendors, tmp_path, store, first)
        report = brought(vendors, tmp_path, store, stale, "second.csv")
    assert counts(report) == {"stale_day": len(stale)}
    assert [str(day) for day in Store(store).days("SPX")] == [vendors.DAYS[0]]
    moved = [replace(stale[0], ask=stale[0].ask + 0.05), *stale[1:]]
    assert counts(brought(vendors, tmp_path, store, moved, "third.csv")) == {}
    assert len(Store(store).days("SPX")) == 2


def test_few_contracts_are_no_stale_day(vendors, tmp_path, store):
    """Behaviour: two far options may well be quoted the same twice. Catches thin underlyings that lose days."""
    few = [replace(q, bid=0.0, ask=0.05, strike=4000.0, right="C") for q in vendors.quotes(DAY)[:1]]
    report = brought(vendors, tmp_path, store, [replace(q, day="2019-04-25") for q in few] + few)
    assert (report.kept, report.dropped) == (2, 0)


def test_bounds_hold_for_black_scholes():
    """Identity: no price of Black-Scholes at any rate and yield of the range lies outside. Catches a bound with a sign
    wrong, which would drop good quotes of long options."""
    rng = np.random.default_rng(7)
    n = 20_000
    strike, years = rng.uniform(20.0, 400.0, n), rng.uniform(0.0027, 3.0, n)
    rate, dividend, vol = rng.uniform(0.0, 0.08, n), rng.uniform(0.0, 0.04, n), rng.uniform(0.05, 1.5, n)
    for right in ("call", "put"):
        call = np.full(n, right == "call")
        price = black_scholes(100.0, strike, years, vol, rate=rate, dividend=dividend, is_call=right == "call").price
        low, high = bounds(np.full(n, 100.0), strike, years, call)
        assert (price >= low - 1e-9).all()
        assert (price <= high + 1e-9).all()


def test_every_rule_is_documented():
    """Catches a rule that drops rows and is not in docs/data.md."""
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    for rules in RULES.values():
        for rule in rules:
            assert f"`{rule}`" in text, rule
