"""Parameter studies: many runs as jobs of a pool, and what they find as fronts of risk against cost."""

from __future__ import annotations
