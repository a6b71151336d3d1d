"""Risk measures of samples and paths of profit and loss: pure functions of arrays, losses positive.

Samples have outcomes on their last axis, (..., n); paths are time-major, (time, ...). Arrays of NumPy, CuPy and torch
(with gradients) come back as arrays of the same library, in float64; a single sample gives an array of no dimension,
which NumPy treats as a number.
"""

from __future__ import annotations

from hedgerl.risk.dispersion import semi_deviation, sharpe_ratio, win_rate
from hedgerl.risk.drawdown import drawdown, max_drawdown, pain_index, ulcer_index
from hedgerl.risk.tail import cvar, entropic_risk, tail_weights, value_at_risk

__all__ = [
    "cvar",
    "drawdown",
    "entropic_risk",
    "max_drawdown",
    "pain_index",
    "semi_deviation",
    "sharpe_ratio",
    "tail_weights",
    "ulcer_index",
    "value_at_risk",
    "win_rate",
]
