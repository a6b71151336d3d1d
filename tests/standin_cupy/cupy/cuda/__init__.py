"""Devices: there is one."""

from __future__ import annotations

from cupy.cuda import runtime
from cupy.cuda.device import Device

__all__ = ["Device", "runtime"]
