"""Results made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hedgerl.evaluation import Result

MakeResult = Callable[..., Result]


@pytest.fixture
def make_result() -> MakeResult:
    """A result with this P&L; every other column is 0 unless given."""

    def make(pnl: Any, policy: str = "hand", *, kind: Any = "simulated", fields: Any = None, **columns: Any) -> Result:
        x = np.asarray(pnl, dtype=np.float64)
        zero = np.zeros_like(x)
        names = ("unhedged", "premium", "cost", "turnover", "trades", "win_days", "max_drawdown", "ulcer", "pain")
        frame = pd.DataFrame({"pnl": x, **dict.fromkeys(names, zero)})
        frame = frame.assign(hedging_error_mean=zero, hedging_error_square=zero).assign(**columns)
        return Result(
            policy=policy, task="T", market="M", kind=kind, metrics={}, episodes=frame, years=1 / 12, **(fields or {})
        )

    return make
