"""Devices: there are two."""

from __future__ import annotations

from cupy.cuda import runtime
from cupy.cuda.device import Device

__all__ = ["Device", "runtime"]
