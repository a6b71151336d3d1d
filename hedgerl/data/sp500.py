"""The S&P 500, 1999-2018: the daily series that comes with the `arch` package, so that nothing is downloaded."""

from __future__ import annotations

import numpy as np

from hedgerl.data.daily import DailySeries


def sp500_series(vix: bool = False) -> DailySeries:
    """The S&P 500 (a price index, without dividends) from 4 January 1999 to 31 December 2018, 5,031 days.

    vix: from 3 January 2014 on only, 1,257 days, with the VIX that comes with `arch` too.

    >>> sp500_series(vix=True)
    DailySeries('S&P 500', 1257 days, 2014-01-03 to 2018-12-31, with vix)
    """
    from arch.data import sp500  # brings models and charts along, which take longer to load than all of this package

    frame = sp500.load()
    quoted = None
    if vix:
        from arch.data import vix as quotes

        index = quotes.load()["vix"].dropna()
        frame = frame.loc[frame.index.isin(index.index)]
        quoted = index.loc[frame.index].to_numpy(dtype=np.float64)
    prices = {field.lower(): frame[field].to_numpy(dtype=np.float64) for field in ("Close", "Open", "High", "Low")}
    return DailySeries("S&P 500", frame.index.to_numpy().astype("datetime64[D]"), **prices, vix=quoted)
