"""What CUDA's runtime says."""

from __future__ import annotations


def memGetInfo() -> tuple[int, int]:
    """Bytes that are free, and all."""
    return 2**30, 2**31


def getDeviceCount() -> int:
    """How many devices there are."""
    return 2
