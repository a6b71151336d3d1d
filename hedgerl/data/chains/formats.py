"""What vendors' files look like: a description each, none a program.

A format says under which names a field of the schema is found, which columns belong to the call and which to the put
where a line has both, how dates are written, and what stands outside of the table: in the lines above it or in the name
of the file.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hedgerl.data.chains.schema import CHAINS, TICKS, UNDERLYINGS
from hedgerl.data.chains.trading_days import is_trading_day, last_trading_day
from hedgerl.pricing._checks import nearest

Names = Mapping[str, tuple[str, ...]]  # field -> what it is called, as `normal` writes it, the best first

ISO, US, COMPACT, SPELLED = "YYYY-MM-DD", "MM/DD/YYYY", "YYYYMMDD", "Fri Mar 20 2020"
DATES = {  # a time of day may follow the first three
    ISO: re.compile(r"(?P<y>\d{4})-(?P<m>\d{1,2})-(?P<d>\d{1,2})(?:[T ].*)?"),
    US: re.compile(r"(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<y>\d{4})(?: .*)?"),
    COMPACT: re.compile(r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})(?: .*)?"),
    SPELLED: re.compile(r"(?:[A-Z][a-z]{2} )?(?P<b>[A-Z][a-z]{2}) (?P<d>\d{1,2}),? (?P<y>\d{4})"),
}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DELAY = datetime.time(9, 45)  # from here on a table that is 15 minutes late shows the day itself

# Classes of an index's options that have a root of their own, with the index.
INDEX_OF = {
    **{"SPXW": "SPX", "SPXPM": "SPX", "NDXP": "NDX", "RUTW": "RUT", "VIXW": "VIX", "XSPW": "XSP", "DJXW": "DJX"},
    **{"MRUTW": "MRUT", "XNDXP": "XND"},
}
EUROPEAN = frozenset({"SPX", "NDX", "RUT", "VIX", "XSP", "DJX", "MRUT", "XND", "XEO", "RUI", "MXEA", "MXEF", "NANOS"})


@dataclass(frozen=True)
class Format:
    """A vendor's layout. Headers are compared as `normal` writes them."""

    name: str
    what: str
    columns: Names
    calls: Names = field(default_factory=dict)  # where a line holds a call and a put: their own columns
    puts: Names = field(default_factory=dict)
    dates: tuple[str, ...] = (ISO, US, COMPACT)
    table: str = CHAINS
    layout: tuple[str, ...] = ()  # the columns of a file without a header
    scale: float = 1.0  # what prices are divided by
    preamble: Callable[[Sequence[str]], Mapping[str, Any]] | None = None  # what the lines above the header say
    member: Callable[[str], Mapping[str, Any] | None] | None = None  # what a name inside a zip says; None: not wanted
    fixed: Mapping[str, Any] = field(default_factory=dict)
    second: Callable[[str], str | None] | None = None  # by a file's name that of one to be read beside it, line by line
    beside: int = 0  # cells of its lines that are wanted

    @property
    def sides(self) -> tuple[tuple[Names, Mapping[str, Any]], ...]:
        """The contracts of a line: their columns, and what is known of them without reading."""
        if not self.calls:
            return ((self.columns, {}),)
        return ({**self.columns, **self.calls}, {"right": "C"}), ({**self.columns, **self.puts}, {"right": "P"})

    @property
    def required(self) -> tuple[str, ...]:
        if self.table == UNDERLYINGS:
            return "quote_date", "underlying", "close"
        if self.table == TICKS:  # and a bid and an ask, or a price
            return "time", "underlying"
        return "quote_date", "underlying", "expiry", "strike", "right", "bid", "ask"


def normal(name: str) -> str:
    """A column's name in small letters, without brackets, blanks and signs: "[C_BID]" and " C Bid" are c_bid."""
    return re.sub(r"[^a-z0-9/#]+", "_", name.lower().lstrip("\ufeff")).strip("_")


def found(name: str) -> Format:
    """The format of that name. Raises ValueError naming the nearest."""
    if name not in FORMATS:
        raise ValueError(
            f"unknown format {name!r}; did you mean {nearest(name, FORMATS)}? (known: {', '.join(FORMATS)})"
        )
    return FORMATS[name]


def day(cell: str, dates: Sequence[str]) -> np.datetime64 | None:
    """The day that a cell names in one of these ways; None where it names none."""
    for each in dates:
        if match := DATES[each].fullmatch(cell):
            part = match.groupdict()
            if "b" in part and part["b"].lower() not in MONTHS:
                return None
            month = MONTHS.index(part["b"].lower()) + 1 if "b" in part else int(part["m"])
            try:
                return np.datetime64(datetime.date(int(part["y"]), month, int(part["d"])), "D")
            except ValueError:
                return None
    return None


def _quote_table(lines: Sequence[str]) -> Mapping[str, Any]:
    """Underlying, price and day from `^SPX (..),2304.92,-104.47` and `Mar 22 2020 @ 18:24 ET,Bid,..`.

    The time is that of the download. A table that was downloaded before 09:45 in New York, or on a day without trading,
    shows the last trading day before.
    """
    said: dict[str, Any] = {}
    for line in lines:
        cells = [cell.strip() for cell in line.split(",")]
        if match := re.match(r"\^?([A-Z0-9.]+) \(", cells[0]):
            said["underlying"] = match[1]
            if len(cells) > 1:
                said["underlying_price"] = cells[1]
        if match := re.match(r"([A-Z][a-z]{2}) (\d{1,2}) (\d{4}) @ (\d{1,2}):(\d{2}) ET", cells[0]):
            downloaded = day(f"{match[1]} {match[2]} {match[3]}", (SPELLED,))
            if downloaded is not None and int(match[4]) < 24 and int(match[5]) < 60:
                early = datetime.time(int(match[4]), int(match[5])) < _DELAY
                if early and is_trading_day(np.array([downloaded]))[0]:
                    downloaded = downloaded - np.timedelta64(1, "D")
                said["quote_date"] = last_trading_day(downloaded)
    return said


def _lean_member(name: str) -> Mapping[str, Any] | None:
    """The contract of `aapl_quote_american_call_6500000_20140607.csv`; None for trades and open interest."""
    match = re.fullmatch(
        r"(?:.*/)?([a-z0-9.]+)_(quote|trade|openinterest)_(american|european)_(call|put)_(\d+)_(\d{8})\.csv",
        name.lower(),
    )
    if match is None or match[2] != "quote":
        return None
    strike = int(match[5]) / 10_000
    return {"underlying": match[1], "style": match[3], "right": match[4], "strike": repr(strike), "expiry": match[6]}


_BARS = {"second": 10**9, "minute": 60 * 10**9}  # nanoseconds from the time of a bar to its end
_LEAN_TICKS = {
    ("bar", "quote"): (
        *("time", "bid_open", "bid_high", "bid_low", "bid_close", "bid_size"),
        *("ask_open", "ask_high", "ask_low", "ask_close", "ask_size"),
    ),
    ("bar", "trade"): ("time", "open", "high", "low", "close", "volume"),
    ("tick", "quote"): ("time", "bid", "bid_size", "ask", "ask_size", "exchange", "condition", "suspicious"),
    ("tick", "trade"): ("time", "price", "size", "exchange", "condition", "suspicious"),
}


def _lean_ticks(name: str) -> Mapping[str, Any] | None:
    """Day, underlying and columns of `20131007_spy_second_quote.csv`."""
    match = re.fullmatch(r"(?:.*/)?(\d{8})_([a-z0-9.]+)_(tick|second|minute)_(quote|trade)\.csv", name.lower())
    on = day(match[1], (COMPACT,)) if match else None
    if match is None or on is None:
        return None
    said = {"quote_date": on, "underlying": match[2], "unit": 10**6}
    if match[3] == "tick":
        return {**said, "layout": _LEAN_TICKS["tick", match[4]]}
    return {**said, "layout": _LEAN_TICKS["bar", match[4]], "bar": _BARS[match[3]]}


_LOBSTER = re.compile(r"([A-Z0-9.]+)_(\d{4}-\d{2}-\d{2})_(\d+_\d+)_message_(\d+)\.csv(\.gz)?")


def _lobster_messages(name: str) -> Mapping[str, Any] | None:
    """Day and underlying of `AAPL_2012-06-21_34200000_57600000_message_10.csv`."""
    match = _LOBSTER.fullmatch(name)
    on = day(match[2], (ISO,)) if match else None
    return None if match is None or on is None else {"quote_date": on, "underlying": match[1], "unit": 10**9}


def _lobster_book(name: str) -> str | None:
    return name.replace("_message_", "_orderbook_") if _LOBSTER.fullmatch(name) else None


TICK_SYNONYMS: Names = {
    "time": (
        *("timestamp", "datetime", "date_time", "quote_datetime", "ts", "ts_event", "sip_timestamp", "time", "time_m"),
        *("quote_time", "trade_time", "epoch", "unix_time", "unixtime", "index_level_0"),
    ),
    "quote_date": ("quote_date", "date", "trade_date", "day"),
    "underlying": ("underlying", "symbol", "ticker", "sym_root", "underlying_symbol"),
    "bid": ("bid", "best_bid", "bid_price", "bidprice", "bid_px", "bid_px_00"),
    "ask": ("ask", "best_ask", "ask_price", "askprice", "ask_px", "ask_px_00", "offer", "best_offer", "ofr"),
    "bid_size": ("bid_size", "bidsize", "bidsiz", "best_bidsiz", "best_bid_size", "bid_sz", "bid_sz_00", "bid_qty"),
    "ask_size": (
        *("ask_size", "asksize", "asksiz", "best_asksiz", "best_ask_size", "ask_sz", "ask_sz_00", "ask_qty"),
        *("offer_size", "ofrsiz", "best_ofrsiz"),
    ),
    "price": ("price", "trade_price", "last_price", "last", "px"),
    "size": ("size", "trade_size", "last_size", "quantity", "qty", "volume", "shares"),
    "source": ("source",),
}
SYNONYMS: Names = {
    "quote_date": ("quote_date", "quotedate", "date", "quote_day", "trade_date", "tradedate", "datadate"),
    "underlying": ("underlying", "underlying_symbol", "underlyingsymbol", "symbol", "ticker"),
    "underlying_price": (
        *("underlying_price", "underlying_last", "underlyingprice", "underlying_close", "stock_price_close"),
        *("stock_price", "spot"),
    ),
    "root": ("root", "optionroot", "option_root", "option_symbol", "optionsymbol", "contract", "contractsymbol"),
    "expiry": (
        "expiry",
        "expiration",
        "expiration_date",
        "expirationdate",
        "expire_date",
        "option_expiration",
        "exdate",
    ),
    "strike": ("strike", "strike_price"),
    "right": ("right", "type", "option_type", "optiontype", "call/put", "call_put", "cp_flag", "put_call", "putcall"),
    "style": ("style", "exercise_style"),
    "bid": ("bid", "best_bid", "bid_price"),
    "ask": ("ask", "best_ask", "best_offer", "ask_price"),
    "last": ("last", "last_price", "lastprice", "last_sale", "close"),
    "volume": ("volume", "vol", "trade_volume"),
    "open_interest": ("open_interest", "openinterest", "open_int", "oi"),
    "iv": ("iv", "impliedvol", "implied_volatility", "implied_vol", "impliedvolatility", "impl_volatility"),
    **{greek: (greek,) for greek in ("delta", "gamma", "theta", "vega", "rho")},
    "source": ("source",),
}


def _side(names: Mapping[str, str], number: int) -> Names:
    """The columns of one side of a quote table, whose names come twice."""
    mark = "" if number == 1 else f"#{number}"
    return {name: tuple(f"{each}{mark}" for each in called.split()) for name, called in names.items()}


_TABLE_SIDE = {
    **{"last": "last_sale", "bid": "bid", "ask": "ask", "volume": "vol volume", "iv": "iv", "delta": "delta"},
    **{"gamma": "gamma", "open_interest": "open_int open_interest"},
}
_DX_SIDE = ("bid", "ask", "last", "volume", "iv", "delta", "gamma", "theta", "vega", "rho")
_LEAN = "date bid_open bid_high bid_low bid_close bid_size ask_open ask_high ask_low ask_close ask_size"

FORMATS = {
    each.name: each
    for each in (
        Format(
            "generic", "a table with a contract a line, columns by the names of the schema or their synonyms", SYNONYMS
        ),
        Format(
            "historicaloptiondata",
            "HistoricalOptionData.com: a contract a line, MM/DD/YYYY",
            {
                **SYNONYMS,
                "root": ("optionroot", "optionalias"),
                "quote_date": ("quotedate",),
                "expiry": ("expiration",),
            },
            dates=(US,),
        ),
        Format(
            "ivolatility",
            "iVolatility: a contract a line, ask before bid, MM/DD/YYYY",
            {
                **SYNONYMS,
                "quote_date": ("date",),
                "underlying": ("symbol",),
                "underlying_price": ("stock_price_for_iv", "stock_price_close"),
                "root": ("option_symbol",),
                "expiry": ("option_expiration",),
                "right": ("call/put",),
                "last": ("last",),
            },
            dates=(US,),
        ),
        Format(
            "cboe-quotes",
            "Cboe delayed quotes: two lines above the header, the call and the put of a strike in a line",
            {"expiry": ("expiration_date",), "strike": ("strike",)},
            calls={"root": ("calls",), **_side(_TABLE_SIDE, 1)},
            puts={"root": ("puts",), **_side(_TABLE_SIDE, 2)},
            dates=(US, SPELLED, ISO),
            preamble=_quote_table,
        ),
        Format(
            "cboe-datashop",
            "Cboe DataShop, option quotes with calculations: quotes of 15:45, or else of the end of the day",
            {
                **SYNONYMS,
                "quote_date": ("quote_date",),
                "underlying": ("underlying_symbol",),
                "underlying_price": ("active_underlying_price_1545", "active_underlying_price_eod"),
                "underlying_bid": ("underlying_bid_1545", "underlying_bid_eod"),
                "underlying_ask": ("underlying_ask_1545", "underlying_ask_eod"),
                "bid": ("bid_1545", "bid_eod"),
                "ask": ("ask_1545", "ask_eod"),
                "iv": ("implied_volatility_1545",),
                **{greek: (f"{greek}_1545",) for greek in ("delta", "gamma", "theta", "vega", "rho")},
            },
            dates=(US, ISO),
        ),
        Format(
            "optionsdx",
            "OptionsDX: the call and the put of a strike in a line, names in brackets",
            {
                "quote_date": ("quote_date",),
                "underlying_price": ("underlying_last",),
                "expiry": ("expire_date",),
                "strike": ("strike",),
            },
            calls={name: (f"c_{name}",) for name in _DX_SIDE},
            puts={name: (f"p_{name}",) for name in _DX_SIDE},
            dates=(ISO, US),
        ),
        Format(
            "lean",
            "QuantConnect LEAN, daily option quotes: a zip with a file for each contract, prices x 10,000",
            {"quote_date": ("date",), "bid": ("bid_close",), "ask": ("ask_close",)},
            dates=(COMPACT,),
            layout=tuple(_LEAN.split()),
            scale=10_000.0,
            member=_lean_member,
        ),
        Format(
            "generic-ticks",
            "quotes and trades of an underlying, a line each: time, bid, ask, sizes, price, size, or synonyms",
            TICK_SYNONYMS,
            table=TICKS,
        ),
        Format(
            "lean-equity",
            "QuantConnect LEAN, quotes and trades of an equity by tick, second or minute: a zip a day, prices x 10,000",
            {
                **{name: (name,) for name in ("time", "bid_size", "ask_size", "suspicious")},
                **{"bid": ("bid", "bid_close"), "ask": ("ask", "ask_close")},
                **{"price": ("price", "close"), "size": ("size", "volume")},
            },
            table=TICKS,
            scale=10_000.0,
            member=_lean_ticks,
        ),
        Format(
            "lobster",
            "LOBSTER: a message file and its order-book file, of which the first level is taken; prices x 10,000",
            {name: (name,) for name in ("time", "event", "price", "size", "bid", "bid_size", "ask", "ask_size")},
            table=TICKS,
            layout=(
                *("time", "event", "order", "size", "price", "direction"),
                *("ask", "ask_size", "bid", "bid_size"),
            ),
            scale=10_000.0,
            member=_lobster_messages,
            second=_lobster_book,
            beside=4,
        ),
        Format(
            "yahoo",
            "daily prices of an underlying: Date, Open, High, Low, Close, Adj Close, Volume",
            {
                **{"quote_date": ("date",), "underlying": ("symbol", "ticker", "underlying")},
                **{name: (name,) for name in ("open", "high", "low", "close", "adj_close", "volume")},
            },
            table=UNDERLYINGS,
        ),
        Format(
            "cboe-vix",
            "Cboe's history of the VIX: DATE, OPEN, HIGH, LOW, CLOSE",
            {"quote_date": ("date",), **{name: (name, f"vix_{name}") for name in ("open", "high", "low", "close")}},
            table=UNDERLYINGS,
            fixed={"underlying": "VIX"},
        ),
    )
}
