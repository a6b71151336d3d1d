"""The special functions that the package calls on a device, by SciPy on the CPU."""

from __future__ import annotations

import cupy
from scipy import special

erfcx = cupy.on_device(special.erfcx)
ndtr = cupy.on_device(special.ndtr)
ndtri = cupy.on_device(special.ndtri)
