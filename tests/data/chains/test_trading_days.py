"""The exchange's calendar against the days on which the S&P 500 was quoted."""

from __future__ import annotations

import numpy as np
import pytest

from hedgerl.data import sp500_series
from hedgerl.data.chains.trading_days import is_trading_day, last_trading_day, trading_days


def test_twenty_years_of_the_index():
    """Golden: the days of the series in `arch`, 1999-2018. Catches a holiday too many or too few, as after 9/11."""
    dates = sp500_series().dates
    np.testing.assert_array_equal(trading_days(dates[0], dates[-1]), dates)


@pytest.mark.parametrize(
    ("day", "is_open"),
    [
        ("2019-05-27", False),  # Memorial Day
        ("2019-07-04", False),
        ("2019-07-05", True),
        ("2019-04-19", False),  # Good Friday
        ("2021-12-31", True),  # New Year's Day falls on Saturday: not made up for
        ("2021-12-24", False),  # Christmas on Saturday
        ("2023-01-02", False),  # New Year's Day on Sunday
        ("2021-06-18", True),  # before Juneteenth was a holiday
        ("2022-06-20", False),
        ("1997-01-20", True),  # Martin Luther King's day, before 1998
        ("2012-10-30", False),  # the storm
        ("2025-01-09", False),
        ("2020-03-21", False),
    ],
)
def test_single_days(day, is_open):
    """Golden: the exchange's own announcements. Catches each rule of observance by a day of it."""
    assert is_trading_day(np.array([day], dtype="datetime64[D]"))[0] == is_open


def test_last_trading_day():
    """Behaviour: Sunday goes to Friday, the day after a holiday weekend to itself. Catches a shift by one."""
    assert last_trading_day(np.datetime64("2020-03-22")) == np.datetime64("2020-03-20")
    assert last_trading_day(np.datetime64("2019-05-27")) == np.datetime64("2019-05-24")
    assert last_trading_day(np.datetime64("2019-05-28")) == np.datetime64("2019-05-28")
