"""Real market data in one shape, and the volatility surface that stands in for quotes where there are none."""

from __future__ import annotations

from hedgerl.data.daily import DailySeries, read_daily, with_vix
from hedgerl.data.sp500 import sp500_series
from hedgerl.data.ssvi import SSVI
from hedgerl.data.surface import Surface

__all__ = ["SSVI", "DailySeries", "Surface", "read_daily", "sp500_series", "with_vix"]
