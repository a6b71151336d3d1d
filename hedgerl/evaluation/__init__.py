"""Measures of a hedge: mean, deviation and tail of its P&L."""

from __future__ import annotations

from hedgerl.evaluation.metrics import Summary, cvar, summarise

__all__ = ["Summary", "cvar", "summarise"]
