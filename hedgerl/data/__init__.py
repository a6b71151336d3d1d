"""Real market data in one shape: dates and closing levels."""

from __future__ import annotations

from hedgerl.data import sp500

__all__ = ["sp500"]
