"""Quotes and trades of an underlying from the cells of their lines."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from hedgerl.data.chains.cells import Cells
from hedgerl.data.chains.formats import Format
from hedgerl.data.chains.schema import compute as pc
from hedgerl.data.chains.times import since_midnight, written

PRICES, SIZES = ("bid", "ask", "price"), ("bid_size", "ask_size", "size")
_NOBODY = 9_999_999_999  # LOBSTER's price of a level that nobody quotes, negative for a bid
_TRADES = (4.0, 5.0, 6.0)  # LOBSTER's events: of a visible order, of a hidden one, and of an auction
_HALT = 7.0


def tick_rows(cells: Cells, kind: Format) -> tuple[dict[str, pa.Array], np.ndarray]:
    """Field -> values, and (n,) bool of the rows that the vendor itself calls suspicious."""
    bad, content = cells.bad, {}
    text = cells.text("time")
    if "unit" in cells.known:
        times = since_midnight(text, cells.known["quote_date"], cells.known["unit"])
        why = "a time since midnight"
    else:
        times = written(cells, kind.dates)
        why = "a date and time, or a time since 1970 (s, ms, us or ns)"
        if "quote_date" in cells.known:
            why = "a time of day, as --date says the day"
    bad.add(np.isnat(times), cells.title("time"), text, why)
    # What a bar says of its end is not known before: its last quote or trade may be of its last moment.
    times = times + np.timedelta64(cells.known.get("bar", 0), "ns")
    content["time"] = pa.array(times, pa.timestamp("ns"))
    content["quote_date"] = pa.array(times.astype("datetime64[D]"), pa.date32())
    values = {name: cells.numbers(name) for name in (*PRICES, *SIZES)}
    if "event" in cells.places:
        _by_event(cells, values)
    for name in SIZES:
        bad.add(values[name] < 0, cells.title(name), cells.text(name), "no negative number")
    for name in PRICES:
        values[name] = values[name] / kind.scale
    for name, each in values.items():
        content[name] = pa.array(each, mask=np.isnan(each))
    flag = cells.text("suspicious")
    flagged = np.zeros(cells.n, bool) if flag is None else pc.fill_null(pc.equal(flag, "1"), False).to_numpy(False)
    return content, flagged


def _by_event(cells: Cells, values: dict[str, np.ndarray]) -> None:
    """Price and size of LOBSTER's events are those of a trade where the event is one; else they are of an order."""
    events = cells.numbers("event")
    cells.bad.add(~np.isin(events, (1, 2, 3, *_TRADES, _HALT)), cells.title("event"), cells.text("event"), "1 to 7")
    order = ~np.isin(events, _TRADES)
    for name in ("price", "size"):
        values[name] = np.where(order, np.nan, values[name])
    for side in ("bid", "ask"):
        values[side] = np.where(np.abs(values[side]) == _NOBODY, 0.0, values[side])
