"""How a sample comes in."""

from __future__ import annotations

from typing import Any

from hedgerl.pricing.base import as_arrays

Array = Any


def sample(name: str, values: Array, *, axis: int = -1, least: int = 1) -> tuple[Any, Array]:
    """The array library and the values in float64.

    Raises ValueError unless there are `least` values along the axis, all of them finite.
    """
    xp, (array,) = as_arrays(**{name: values})
    if array.ndim == 0 or array.shape[axis] < least or 0 in array.shape:
        raise ValueError(f"{name} must have at least {least} value(s) along its axis, got shape {tuple(array.shape)}")
    array = xp.astype(array, xp.float64)
    if not bool(xp.all(xp.isfinite(array))):
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    return xp, array
