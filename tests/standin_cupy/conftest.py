"""Keeps pytest from importing the stand-in, which would then be `cupy` for every other test."""

from __future__ import annotations

collect_ignore = ["cupy", "cupyx"]
