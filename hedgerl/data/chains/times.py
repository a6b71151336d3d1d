"""Times of ticks as vendors write them, to the nanosecond on the clock of New York."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from hedgerl.data.chains.cells import Cells
from hedgerl.data.chains.schema import compute as pc

DAY = 86_400 * 10**9  # nanoseconds
_ZONE = "America/New_York"
_DECIMAL = r"^(?P<whole>\d{1,18}|[1-8]\d{18})(?:\.(?P<part>\d{1,9})\d*)?$"
_EPOCH = r"^\d{9,19}(\.\d+)?$"
_CLOCK = (
    r"^(?:(?P<date>\d[0-9/-]*)[T ] *)?(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)"
    r"(?::(?P<second>[0-5]\d)(?:\.(?P<part>\d{1,9})\d*)?)? ?(?P<zone>[Zz]|[+-]\d{2}(?::?\d{2})?)?$"
)
_FIRST, _LAST = 315_532_800, 4_102_444_800  # 1980 and 2100, seconds since 1970: an epoch outside is something else
NONE = np.datetime64("NaT", "ns")


def since_midnight(text: pa.Array, day: np.datetime64, unit: int) -> np.ndarray:
    """(n,) datetime64[ns] of decimals since midnight of a day, `unit` nanoseconds each; NaT where there is none."""
    count, fine = _nanoseconds(text, unit)
    fine &= count < DAY
    times = day.astype("datetime64[ns]") + np.where(fine, count, 0).astype("timedelta64[ns]")
    return np.where(fine, times, NONE)


def written(cells: Cells, dates: tuple[str, ...]) -> np.ndarray:
    """(n,) datetime64[ns] of the field `time`, NaT where there is none.

    Numbers count from 1970 in UTC, in seconds, milli-, micro- or nanoseconds, which their size tells: the numbers of
    1980 to 2100 in a unit are none of another. Texts are a date and a time, or a time beside the field `quote_date`;
    where they say how far they are from UTC they are taken to New York, else they are its clock. Where the user gave
    the day, a time that brings its own is none.

    Raises ValueError where dates are day first.
    """
    text = cells.text("time")
    assert text is not None
    number = pc.fill_null(pc.match_substring_regex(text, _EPOCH), False).to_numpy(zero_copy_only=False)
    times = np.full(cells.n, NONE)
    if number.any() and "quote_date" not in cells.known:
        times[number] = _since_1970(text.filter(pa.array(number)))
    if not number.all():
        times[~number] = _clock(cells, text, dates)[~number]
    return times


def _since_1970(text: pa.Array) -> np.ndarray:
    whole = _nanoseconds(text, 1)[0]
    times = np.full(len(text), NONE)
    for unit in (1, 10**3, 10**6, 10**9):
        rows = (whole >= _FIRST * (10**9 // unit)) & (whole < _LAST * (10**9 // unit))
        if rows.any():
            times[rows] = _from_utc(_nanoseconds(text.filter(pa.array(rows)), unit)[0])
    return times


def _clock(cells: Cells, text: pa.Array, dates: tuple[str, ...]) -> np.ndarray:
    part = pc.extract_regex(text, _CLOCK)
    fine = pc.is_valid(part).to_numpy(zero_copy_only=False)

    def of(name: str) -> pa.Array:
        return pc.fill_null(pc.struct_field(part, name), "")

    on = of("date")
    beside = cells.text("quote_date")
    if "quote_date" in cells.known:
        fine &= pc.equal(on, "").to_numpy(zero_copy_only=False)
        beside = pa.repeat(pa.scalar(str(cells.known["quote_date"])), cells.n)
    if beside is not None:
        on = pc.if_else(pc.equal(on, ""), beside, on)
        column = "quote_date" if "quote_date" in cells.places else "time"
    else:
        column = "time"
    days = cells.days(column, pc.if_else(pa.array(fine), on, pa.scalar(None, pa.string())), dates)
    fine &= ~np.isnat(days)
    count = (_whole(of("hour")) * 60 + _whole(of("minute"))) * 60 + _whole(of("second"))
    count = count * 10**9 + _whole(pc.utf8_rpad(of("part"), 9, "0"))
    times = np.where(fine, days, np.datetime64("NaT")).astype("datetime64[ns]") + count.astype("timedelta64[ns]")
    zones = pc.dictionary_encode(of("zone"))
    offsets = [_offset(each) for each in zones.dictionary.to_pylist()]
    if any(each is not None for each in offsets):
        codes = zones.indices.to_numpy()
        away = np.array([each is not None for each in offsets])[codes] & fine
        minutes = np.array([each or 0 for each in offsets])[codes].astype("timedelta64[m]")
        times[away] = _from_utc((times - minutes)[away].astype(np.int64))
    return times


def _offset(zone: str) -> int | None:
    """Minutes that a clock is before UTC's; None where that is not said."""
    if not zone:
        return None
    if zone in "Zz":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return (-1 if zone[0] == "-" else 1) * (60 * int(digits[:2]) + int(digits[2:]))


def _nanoseconds(text: pa.Array, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """Decimal numbers times `unit`, (n,) int64 without rounding through floats, and (n,) bool where they are ones."""
    part = pc.extract_regex(text, _DECIMAL)
    fine = pc.is_valid(part).to_numpy(zero_copy_only=False)
    whole = _whole(pc.fill_null(pc.struct_field(part, "whole"), ""))
    rest = _whole(pc.utf8_rpad(pc.fill_null(pc.struct_field(part, "part"), ""), 9, "0"))
    fine &= whole <= (2**63 - 1) // unit - 1
    return np.where(fine, whole, 0) * unit + rest * unit // 10**9, fine


def _whole(text: pa.Array) -> np.ndarray:
    """(n,) int64, 0 for nothing."""
    digits = pc.if_else(pc.equal(text, ""), pa.scalar("0"), text)
    values: np.ndarray = pc.cast(digits, pa.int64()).to_numpy(zero_copy_only=False)
    return values


def _from_utc(nanoseconds: np.ndarray) -> np.ndarray:
    at = pd.DatetimeIndex(nanoseconds.astype("datetime64[ns]"), tz="UTC")
    clock: np.ndarray = at.tz_convert(_ZONE).tz_localize(None).to_numpy().astype("datetime64[ns]")
    return clock
