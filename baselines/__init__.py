"""Classical hedges: each maps what a hedger sees to a target holding of the underlying."""

from __future__ import annotations

from hedgerl.baselines.delta import Delta
from hedgerl.baselines.none import NoHedge

__all__ = ["Delta", "NoHedge"]
