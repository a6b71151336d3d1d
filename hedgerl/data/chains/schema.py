"""The tables of a store: option quotes, and daily prices and ticks of what the options are on."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

compute: Any = importlib.import_module("pyarrow.compute")  # its functions are made when it is loaded, unseen by types

CHAINS, UNDERLYINGS, TICKS = "chains", "underlyings", "ticks"
_KINDS = {
    "date": pa.date32(),
    "time": pa.timestamp("ns"),
    "text": pa.string(),
    "number": pa.float64(),
    "count": pa.int64(),
}
_PANDAS = {pa.int64(): pd.Int64Dtype(), pa.string(): pd.StringDtype("pyarrow")}  # date32 becomes datetime64[ms]


@dataclass(frozen=True)
class Field:
    """A column: `kind` is date, time, text, number or count; the rule is a bound that every value meets."""

    name: str
    kind: str
    what: str
    nullable: bool = False
    least: float | None = None
    above: float | None = None
    among: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Columns, the ones that tell rows of a day apart (none: rows may be alike), and by what a file is cut.

    period : a day (D), a month (M) or a year (Y)
    """

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    order: tuple[str, ...]
    period: str

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(each.name, _KINDS[each.kind], each.nullable) for each in self.fields])

    def kind(self, name: str) -> str:
        return next(each.kind for each in self.fields if each.name == name)


_GREEK = "by the vendor's model and in the vendor's unit"
TABLES = {
    CHAINS: Table(
        CHAINS,
        (
            Field("quote_date", "date", "day of the quote"),
            Field("underlying", "text", "what the option is on: SPX, SPY"),
            Field("underlying_price", "number", "at the time of the quotes, or the close", True, above=0.0),
            Field("root", "text", "class of the contract: SPX settles in the morning, SPXW in the afternoon"),
            Field("expiry", "date", "last day"),
            Field("strike", "number", "", above=0.0),
            Field("right", "text", "C or P", among=("C", "P")),
            Field("style", "text", "E or A: European or American", among=("E", "A")),
            Field("bid", "number", "0 where nobody bids", least=0.0),
            Field("ask", "number", "not below the bid", above=0.0),
            Field("last", "number", "last trade", True, least=0.0),
            Field("volume", "count", "contracts of the day", True, least=0.0),
            Field("open_interest", "count", "contracts", True, least=0.0),
            Field("iv", "number", "implied volatility of the vendor, a year, decimal", True, above=0.0),
            Field("delta", "number", _GREEK, True),
            Field("gamma", "number", _GREEK, True),
            Field("theta", "number", _GREEK, True),
            Field("vega", "number", _GREEK, True),
            Field("rho", "number", _GREEK, True),
            Field("source", "text", "format and file"),
        ),
        key=("quote_date", "underlying", "root", "expiry", "strike", "right"),
        order=("quote_date", "expiry", "strike", "right", "root"),
        period="M",
    ),
    UNDERLYINGS: Table(
        UNDERLYINGS,
        (
            Field("quote_date", "date", "trading day"),
            Field("underlying", "text", "SPX, SPY, VIX"),
            Field("open", "number", "", True, above=0.0),
            Field("high", "number", "", True, above=0.0),
            Field("low", "number", "", True, above=0.0),
            Field("close", "number", "without dividends", above=0.0),
            Field("adj_close", "number", "knows later dividends: no price of its day", True, above=0.0),
            Field("volume", "count", "", True, least=0.0),
            Field("source", "text", "format and file"),
        ),
        key=("quote_date", "underlying"),
        order=("quote_date",),
        period="Y",
    ),
    TICKS: Table(
        TICKS,
        (
            Field("quote_date", "date", "day of the time"),
            Field("underlying", "text", "SPY"),
            Field("time", "time", "clock of New York; from then on the row is known"),
            Field("bid", "number", "empty where nobody bids, or the row is a trade", True, above=0.0),
            Field("ask", "number", "not below the bid", True, above=0.0),
            Field("bid_size", "number", "shares", True, least=0.0),
            Field("ask_size", "number", "shares", True, least=0.0),
            Field("price", "number", "of a trade", True, above=0.0),
            Field("size", "number", "shares traded", True, least=0.0),
            Field("source", "text", "format and file"),
        ),
        key=(),
        order=("time",),
        period="D",
    ),
}


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Dates as datetime64[ms], times as datetime64[ns], counts as nullable Int64, text as pandas strings."""
    return table.to_pandas(date_as_object=False, types_mapper=_PANDAS.get)


def needs_pandera() -> None:
    """Raises ValueError naming the extra where pandera is not installed."""
    if importlib.util.find_spec("pandera") is None:
        raise ValueError(
            "the schema of a store is checked by pandera, which is not installed: pip install 'hedgerl[data]'"
        )


def fault(table: Table, content: pa.Table) -> str | None:
    """What in a table's content breaks its schema, as pandera finds it; None where nothing does."""
    import pandera.errors

    if not content.schema.equals(table.schema):
        return f"columns must be {_told(table.schema)}, got {_told(content.schema)}"
    try:
        _pandera(table.name).validate(to_pandas(content), lazy=True)
    except pandera.errors.SchemaErrors as error:
        first: dict[str, Any] = error.failure_cases.iloc[0].to_dict()
        return (
            f"column {first['column']} breaks {first['check']}, got {first['failure_case']!r} in row {first['index']}"
        )
    return None


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{each.name} {each.type}" for each in schema)


@functools.cache
def _pandera(name: str) -> Any:
    import pandera.pandas as pandera

    dtypes: dict[str, Any] = {"date": "datetime64[ms]", "time": "datetime64[ns]", "text": _PANDAS[pa.string()]}
    dtypes |= {"number": "float64", "count": "Int64"}
    columns = {}
    for each in TABLES[name].fields:
        checks = [pandera.Check(lambda values: ~np.isinf(values), error="finite")] if each.kind == "number" else []
        checks += [pandera.Check.ge(each.least)] if each.least is not None else []
        checks += [pandera.Check.gt(each.above)] if each.above is not None else []
        checks += [pandera.Check.isin(each.among)] if each.among else []
        columns[each.name] = pandera.Column(dtypes[each.kind], checks, nullable=each.nullable)
    wide = None
    if name == CHAINS:
        wide = [
            pandera.Check(lambda frame: frame["bid"] <= frame["ask"], error="bid <= ask"),
            pandera.Check(lambda frame: frame["expiry"] >= frame["quote_date"], error="expiry >= quote_date"),
        ]
    if name == TICKS:
        wide = [
            pandera.Check(lambda frame: ~(frame["bid"] > frame["ask"]), error="bid <= ask"),
            pandera.Check(
                lambda frame: frame["time"].dt.normalize() == frame["quote_date"], error="quote_date is the day of time"
            ),
            pandera.Check(
                lambda frame: frame[["bid", "ask", "price"]].notna().any(axis=1), error="a bid, an ask or a price"
            ),
        ]
    return pandera.DataFrameSchema(columns, checks=wide, strict=True, ordered=True)
