"""Generators of normals on the "device": NumPy's Philox, so other numbers than cuRAND's."""

from __future__ import annotations

from typing import Any

import numpy as np

import cupy


def Philox4x3210(seed: np.random.SeedSequence) -> np.random.Philox:
    """The bit generator of the same family."""
    return np.random.Philox(seed)


class Generator:
    """Draws in memory order, as cuRAND does: the last index runs fastest."""

    def __init__(self, bits: np.random.Philox) -> None:
        self._rng = np.random.Generator(bits)

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> cupy.ndarray:
        """New normals of the shape `size`, or `out` filled: a contiguous array of that dtype, as CuPy asks."""
        if out is None:
            return cupy.ndarray(self._rng.standard_normal(size, dtype=dtype))
        if not isinstance(out, cupy.ndarray) or out.dtype != dtype or not out.flags.c_contiguous:
            raise TypeError("out must be a contiguous device array of the dtype")
        out._host[...] = self._rng.standard_normal(out.shape, dtype=dtype)
        return out
