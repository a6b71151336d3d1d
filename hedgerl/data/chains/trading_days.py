"""The days on which the exchanges of New York and Chicago are open, by their rules; from 1986 on."""

from __future__ import annotations

import datetime
import functools

import numpy as np

_SPECIAL = (  # closed for a storm, a death or an attack
    *("1994-04-27", "2001-09-11", "2001-09-12", "2001-09-13", "2001-09-14", "2004-06-11", "2007-01-02"),
    *("2012-10-29", "2012-10-30", "2018-12-05", "2025-01-09"),
)
_YEARS = (1971, 2100)


def is_trading_day(days: np.ndarray) -> np.ndarray:
    """Whether the exchange is open on each day, (n,) datetime64[D] -> (n,) bool. Half days are open."""
    return np.is_busday(days, holidays=_holidays())


def last_trading_day(day: np.datetime64) -> np.datetime64:
    """The day itself, or the last one before it on which the exchange was open."""
    return np.busday_offset(day, 0, roll="backward", holidays=_holidays())


def trading_days(first: np.datetime64, last: np.datetime64) -> np.ndarray:
    """All trading days from the first to the last, both included, (n,) datetime64[D]."""
    days = np.arange(first, last + np.timedelta64(1, "D"))
    return days[is_trading_day(days)]


@functools.cache
def _holidays() -> np.ndarray:
    days = [datetime.date.fromisoformat(each) for each in _SPECIAL]
    for year in range(_YEARS[0], _YEARS[1] + 1):
        new_year = datetime.date(year, 1, 1)
        # On a Saturday it is not made up for: the Friday before is the last of the books' year.
        days += [new_year] if new_year.weekday() == 5 else [_observed(new_year)]
        days += [_monday(year, 2, 3), _monday(year, 5, -1), _monday(year, 9, 1)]
        days += [_easter(year) - datetime.timedelta(2)]
        days += [_observed(datetime.date(year, 7, 4)), _observed(datetime.date(year, 12, 25))]
        november = datetime.date(year, 11, 1)
        days += [november + datetime.timedelta((3 - november.weekday()) % 7 + 21)]  # the fourth Thursday
        if year >= 1998:
            days += [_monday(year, 1, 3)]
        if year >= 2022:
            days += [_observed(datetime.date(year, 6, 19))]
    return np.array(sorted(days), dtype="datetime64[D]")


def _observed(day: datetime.date) -> datetime.date:
    """Saturday's holiday is kept on Friday, Sunday's on Monday."""
    return day + datetime.timedelta({5: -1, 6: 1}.get(day.weekday(), 0))


def _monday(year: int, month: int, number: int) -> datetime.date:
    """The first (1), second, .. or last (-1) Monday of a month."""
    if number < 0:
        return _monday(year, month + 1, 1) - datetime.timedelta(7)
    first = datetime.date(year, month, 1)
    return first + datetime.timedelta(-first.weekday() % 7 + 7 * (number - 1))


def _easter(year: int) -> datetime.date:
    """Easter Sunday, Gregorian (Meeus, Astronomical Algorithms, 2nd ed., ch. 8)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    h = (19 * a + b - d - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    i, k = divmod(c, 4)
    x = (32 + 2 * e + 2 * i - h - k) % 7
    month, day = divmod(h + x - 7 * ((a + 11 * h + 22 * x) // 451) + 114, 31)
    return datetime.date(year, month, day + 1)
