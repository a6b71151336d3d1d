"""Why a row is mended, dropped, or kept with a remark; nothing is dropped without being counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from hedgerl.data.chains.schema import CHAINS, TICKS
from hedgerl.data.chains.schema import compute as pc
from hedgerl.data.chains.trading_days import is_trading_day

EXAMPLES = 3  # of each rule, in a report
STALE_CONTRACTS = 20  # a day with fewer may well repeat the day before
TIME_GAP = 0.01  # of the underlying: options are quoted 15 minutes longer than their index
RATE, DIVIDEND = 0.08, 0.04  # a year, continuous: bounds hold for all rates and yields from 0 to here
SESSION = (34_200 * 10**9, 57_600 * 10**9)  # nanoseconds from midnight to 09:30 and 16:00
FILE, LINE = "_file", "_line"  # columns beside those of the schema, until a row is stored

DROPPED = {
    "unreadable": "a cell cannot be read, or the line has another number of cells than the header",
    "suspicious": "the vendor's own flag of a tick that is far from the market",
    "other_underlying": "another underlying than the one asked for",
    "not_a_trading_day": "the exchange was closed on the day of the quote",
    "expired": "the expiry lies before the day of the quote",
    "empty_quote": "bid or ask is empty",
    "negative_bid": "the bid is below zero",
    "no_ask": "the ask is zero or below",
    "crossed": "the bid is above the ask",
    "out_of_bounds": "the mid lies outside of what no arbitrage allows, by more than 1 % of the underlying",
    "empty_tick": "neither a bid, nor an ask, nor a trade",
    "not_positive": "a price of an underlying is zero or below",
    "duplicate": "the row comes again, the same in all columns",
    "conflict": "the contract comes again on that day, or the bar at that time, with other values: the last is kept",
    "stale_day": f"all quotes of the day, of {STALE_CONTRACTS} contracts or more, are those of the day before",
}
MENDED = {
    "no_iv": "a volatility of zero or below says that there is none: empty",
    "no_underlying_price": "an underlying's price of zero or below says that there is none: empty",
    "no_side": "a bid or an ask of zero says that there is none: empty",
    "unordered": "the time lies before that of a row above it: sorted",
    "underlying_mid": "the underlying's price is the middle of its bid and ask",
}
NOTED = {
    "zero_bid": "nobody bids: kept",
    "unchecked_bounds": "no price of the underlying, so the mid is not held against its bounds: kept",
    "one_sided": "a bid without an ask, or an ask without a bid: kept",
    "locked": "bid and ask are one: kept",
    "outside_session": "before 09:30 or after 16:00: kept",
    "same_trade": "a trade comes again in its file, the same in all columns: two may be alike, kept",
    "outside_range": "an open or a close above the high or below the low, as official files have: kept",
}
RULES: Mapping[str, Mapping[str, str]] = {"dropped": DROPPED, "mended": MENDED, "noted": NOTED}


@dataclass
class Tally:
    """What became of the rows, by rule and by file (its place in the order they were given)."""

    names: Sequence[str]  # of the files
    read: Counter[int] = field(default_factory=Counter)
    kept: Counter[int] = field(default_factory=Counter)
    hits: Counter[tuple[str, int]] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    latest: dict[tuple[int, str], int] = field(
        default_factory=dict
    )  # of a file and underlying: ticks' last time so far
    bars: set[int] = field(default_factory=set)  # files whose ticks are bars: one at a time

    def add(self, rule: str, table: pa.Table, rows: np.ndarray, told: Callable[[int], str]) -> None:
        """Counts the rows (bool) of a table with FILE and LINE; `told` says of one what is wrong."""
        places = np.flatnonzero(rows)
        if not places.size:
            return
        files, lines = table[FILE].to_numpy(), table[LINE].to_numpy()
        for file, number in zip(*np.unique(files[places], return_counts=True), strict=True):
            self.hits[rule, int(file)] += int(number)
        for place in places[:EXAMPLES]:
            self.example(rule, int(files[place]), int(lines[place]), told(int(place)))

    def example(self, rule: str, file: int, line: int, what: str) -> None:
        known = self.examples.setdefault(rule, [])
        if len(known) < EXAMPLES:
            known.append({"file": self.names[file], "line": line, "what": what})

    def total(self, rule: str) -> int:
        return sum(number for (name, _), number in self.hits.items() if name == rule)

    def close(self) -> None:
        """Raises RuntimeError where rows were lost: for each file, read = kept + dropped must hold."""
        for file, name in enumerate(self.names):
            dropped = sum(self.hits[rule, file] for rule in DROPPED)
            if self.read[file] != self.kept[file] + dropped:
                raise RuntimeError(f"{name}: {self.read[file]} rows read, {self.kept[file]} kept, {dropped} dropped")

    def rules(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Kind -> rule -> its count, meaning and examples; the rules that were met."""
        return {
            kind: {
                rule: {"rows": self.total(rule), "rule": what, "examples": self.examples.get(rule, [])}
                for rule, what in rules.items()
                if self.total(rule)
            }
            for kind, rules in RULES.items()
        }


def judged(kind: str, table: pa.Table, tally: Tally) -> pa.Table:
    """The rows that pass all rules that look at one row; a row counts under the first that it breaks."""
    return {CHAINS: _chains, TICKS: _ticks}.get(kind, _underlyings)(table, tally)


def _chains(table: pa.Table, tally: Tally) -> pa.Table:
    table = _emptied(table, "iv", "no_iv", tally)
    table = _emptied(table, "underlying_price", "no_underlying_price", tally)
    day, expiry = _days(table, "quote_date"), _days(table, "expiry")
    bid, ask, strike, spot = (_numbers(table, name) for name in ("bid", "ask", "strike", "underlying_price"))

    def contract(row: int) -> str:
        root, right = table["root"][row].as_py(), table["right"][row].as_py()
        return f"{day[row]} {root} {expiry[row]} {strike[row]:g} {right}: bid {bid[row]:g}, ask {ask[row]:g}"

    low, high = bounds(spot, strike, (expiry - day).astype(float) / 365.0, table["right"].to_numpy() == "C")
    mid, slack = 0.5 * (bid + ask), TIME_GAP * spot
    with np.errstate(invalid="ignore"):
        outside = (mid < low - slack) | (mid > high + slack)
    wrong = {
        "not_a_trading_day": ~is_trading_day(day),
        "expired": expiry < day,
        "empty_quote": np.isnan(bid) | np.isnan(ask),
        "negative_bid": bid < 0,
        "no_ask": ask <= 0,
        "crossed": bid > ask,
        "out_of_bounds": outside,
    }
    left = np.ones(table.num_rows, dtype=bool)
    for rule, rows in wrong.items():

        def told(row: int, rule: str = rule) -> str:
            more = f", must lie in [{low[row]:g}, {high[row]:g}] at {spot[row]:g}" if rule == "out_of_bounds" else ""
            return contract(row) + more

        tally.add(rule, table, left & rows, told)
        left &= ~rows
    tally.add("zero_bid", table, left & (bid == 0), contract)
    tally.add("unchecked_bounds", table, left & np.isnan(spot), contract)
    return table if left.all() else table.filter(pa.array(left))


def bounds(spot: np.ndarray, strike: np.ndarray, years: np.ndarray, call: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What an option is worth at least and at most, whatever rates in [0, RATE] and yields in [0, DIVIDEND] are.

    Call: max(S e^(-qT) - K e^(-rT), 0) with the largest q and r = 0, at most S. Put: max(K e^(-rT) - S e^(-qT), 0) with
    the largest r and q = 0, at most K. An American option is worth at least as much. (n,) each, NaN where the spot is.
    """
    years = np.maximum(years, 0.0)
    least = np.where(call, spot * np.exp(-DIVIDEND * years) - strike, strike * np.exp(-RATE * years) - spot)
    return np.maximum(least, 0.0), np.where(call, spot, np.where(np.isnan(spot), np.nan, strike))


def _underlyings(table: pa.Table, tally: Tally) -> pa.Table:
    day, close = _days(table, "quote_date"), _numbers(table, "close")
    low, high = _numbers(table, "low"), _numbers(table, "high")

    prices = np.stack([_numbers(table, name) for name in ("open", "high", "low", "close", "adj_close")])

    def told(row: int) -> str:
        told = " ".join(f"{each:g}" for each in prices[:4, row])
        return f"{table['underlying'][row].as_py()} {day[row]}: open, high, low, close {told}"

    left = np.ones(table.num_rows, dtype=bool)
    for rule, rows in {"not_a_trading_day": ~is_trading_day(day), "not_positive": (prices <= 0).any(axis=0)}.items():
        tally.add(rule, table, left & rows, told)
        left &= ~rows
    outside = (np.fmax(prices[0], close) > high) | (np.fmin(prices[0], close) < low)
    tally.add("outside_range", table, left & outside, told)
    return table if left.all() else table.filter(pa.array(left))


def _ticks(table: pa.Table, tally: Tally) -> pa.Table:
    if not table.num_rows:
        return table
    _count_unordered(table, tally)
    for side in ("bid", "ask"):
        table = _without_side(table, side, tally)
    day, times = _days(table, "quote_date"), table["time"].to_numpy()
    bid, ask, price = (_numbers(table, name) for name in ("bid", "ask", "price"))

    def told(row: int) -> str:
        name = table["underlying"][row].as_py()
        return f"{name} {times[row]}: bid {bid[row]:g}, ask {ask[row]:g}, trade {price[row]:g}"

    wrong = {
        "not_a_trading_day": ~is_trading_day(day),
        "empty_tick": np.isnan(bid) & np.isnan(ask) & np.isnan(price),
        "not_positive": (bid < 0) | (ask < 0) | (price <= 0),
        "crossed": bid > ask,
    }
    left = np.ones(table.num_rows, dtype=bool)
    for rule, rows in wrong.items():
        tally.add(rule, table, left & rows, told)
        left &= ~rows
    clock = (times - times.astype("datetime64[D]")).astype(np.int64)
    tally.add("one_sided", table, left & (np.isnan(bid) != np.isnan(ask)), told)
    tally.add("locked", table, left & (bid == ask), told)
    tally.add("outside_session", table, left & ((clock < SESSION[0]) | (clock > SESSION[1])), told)
    return table if left.all() else table.filter(pa.array(left))


def _count_unordered(table: pa.Table, tally: Tally) -> None:
    """Rows before whose time one of the same file and underlying, of this chunk or an earlier one, has a later one."""
    coded = table["underlying"].combine_chunks().dictionary_encode()
    names, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    file = int(table[FILE][0].as_py())  # a chunk is of one file
    times = table["time"].to_numpy().astype(np.int64)
    before = np.array([tally.latest.get((file, name), times.min()) for name in names])
    highest = np.maximum(pd.Series(times).groupby(codes).cummax().to_numpy(), before[codes])
    tally.add("unordered", table, times < highest, lambda row: str(table["time"][row].as_py()))
    for code, latest in pd.Series(highest).groupby(codes).max().items():
        tally.latest[file, names[code]] = int(latest)


def _without_side(table: pa.Table, side: str, tally: Tally) -> pa.Table:
    """A bid or ask of zero, and its size, is none."""
    table = _emptied(table, side, "no_side", tally, below=False)
    size = f"{side}_size"
    empty = pc.if_else(pc.is_null(table[side]), pa.scalar(None, pa.float64()), table[size])
    return table.set_column(table.schema.get_field_index(size), table.schema.field(size), empty)


def ticks_in_order(table: pa.Table, tally: Tally) -> np.ndarray:
    """Places of the rows by time, those of one time in the order of FILE and LINE, without repeats, (n_kept,).

    A quote that is said twice at a time is one. A trade may have a twin, so that those of a file are all kept, and of
    several files as many as the one that has most. A file of bars has one at a time, its last.
    """
    order = pc.sort_indices(table, [(name, "ascending") for name in ("time", FILE, LINE)]).to_numpy()
    times = table["time"].to_numpy()
    with_next = times[order[1:]] == times[order[:-1]]
    rows = order[np.append(with_next, False) | np.append(False, with_next)]
    if not rows.size:
        return order
    values = ["time", "bid", "ask", "bid_size", "ask_size", "price", "size"]
    frame = table.select([*values, FILE]).take(rows).to_pandas()
    is_bar = frame[FILE].isin(tally.bars)
    single = (is_bar | frame["price"].isna()).to_numpy()
    number = np.zeros(len(frame), dtype=np.int64)  # of a trade among its like in its file
    alike = frame.duplicated(values, keep=False).to_numpy() & ~single
    if alike.any():
        number[alike] = frame[alike].groupby([*values, FILE], dropna=False, sort=False).cumcount()
    again = frame.assign(number=number).duplicated([*values, "number"]).to_numpy()
    bars = frame[is_bar & ~again].assign(is_trade=lambda each: each["price"].notna())
    other = np.zeros(len(frame), dtype=bool)
    other[bars.index[bars.duplicated(["time", "is_trade"], keep="last")]] = True
    left = np.ones(table.num_rows, dtype=bool)
    for rule, some in (("duplicate", again), ("conflict", other), ("same_trade", (number > 0) & ~again)):
        hit = np.zeros(table.num_rows, dtype=bool)
        hit[rows[some]] = True
        tally.add(rule, table, hit, lambda row: f"{table['underlying'][row].as_py()}, {times[row]}")
        if rule in DROPPED:
            left &= ~hit
    return order[left[order]]


def without_repeats(table: pa.Table, key: Sequence[str], tally: Tally) -> pa.Table:
    """Each key once, its last row in the order of FILE and LINE."""
    frame = table.drop_columns(["source"]).to_pandas()
    if not frame.duplicated(list(key)).any():
        return table
    frame = frame.sort_values([FILE, LINE], kind="stable")
    superseded = frame.duplicated(list(key), keep="last")
    values = frame.drop(columns=[FILE, LINE])
    last = values.merge(values[~superseded], on=list(key), how="left", suffixes=("", "_kept"))
    same = np.ones(len(frame), dtype=bool)
    for name in values.columns.difference(list(key)):
        ours, kept = last[name], last[f"{name}_kept"]
        same &= ((ours == kept) | (ours.isna() & kept.isna())).to_numpy()
    order = frame.index.to_numpy()
    for rule, rows in (("duplicate", same), ("conflict", ~same)):
        hit = np.zeros(len(frame), dtype=bool)
        hit[order[superseded.to_numpy() & rows]] = True
        tally.add(rule, table, hit, lambda row: ", ".join(str(table[name][row].as_py()) for name in key))
    left = np.ones(len(frame), dtype=bool)
    left[order[superseded.to_numpy()]] = False
    return table.filter(pa.array(left))


def is_stale(day: pa.Table, before: pa.Table) -> bool:
    """Whether every contract of a day was quoted the day before, at the same bid and ask."""
    if day.num_rows < STALE_CONTRACTS or day.num_rows > before.num_rows:
        return False
    names = ["root", "expiry", "strike", "right", "bid", "ask"]
    both = day.select(names).to_pandas().merge(before.select(names).to_pandas(), on=names)
    return len(both) == day.num_rows


def _emptied(table: pa.Table, name: str, rule: str, tally: Tally, below: bool = True) -> pa.Table:
    """Zeros, and numbers below where `below`, are none."""
    values = _numbers(table, name)
    wrong = values <= 0 if below else values == 0
    if not wrong.any():
        return table
    tally.add(rule, table, wrong, lambda row: f"{name} {values[row]:g}")
    empty = pc.if_else(pa.array(wrong), pa.scalar(None, pa.float64()), table[name])
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), empty)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """(n,) float64, NaN where empty."""
    return table[name].to_numpy().astype(np.float64)


def _days(table: pa.Table, name: str) -> np.ndarray:
    """(n,) datetime64[D]."""
    return table[name].cast(pa.int32()).to_numpy().astype("datetime64[D]")
