"""Vocabulary of the pricing layer: a contract, the Greeks of a contract, and how inputs become arrays.

Everything here takes Python numbers or arrays of NumPy, torch or CuPy. Arrays of one call come from one
library; they broadcast, keep their device, and the widest floating dtype among them is the dtype of the
answer. Python numbers never widen an array: with float32 spots, `strike=100.1` is a float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

Array = Any

SPOT_FLOOR = 1e-6  # currency; also the floor of the strike
TIME_FLOOR = 1e-6  # years, half a minute
VARIANCE_FLOOR = 1e-8  # per year, a volatility of one basis point
D_CAP = 10.0  # |d1| and |d2|; the normal density there is 8e-23


@dataclass(frozen=True)
class Option:
    """A European option, or one option a path.

    `expiry_years` is the moment of expiry on the clock of the paths (not the time that is left). Each field
    is a number or an array (n_paths,); `is_call` is a bool or an array of them.
    """

    strike: Array
    expiry_years: Array
    is_call: Array = True


@dataclass(frozen=True)
class Greeks:
    """Price and sensitivities per share, each of the broadcast shape of the inputs.

    delta = dV/dS, gamma = d2V/dS2, vega = dV/dvolatility per 1.00 of volatility, theta = dV/dt per calendar
    year (negative for a long at-the-money option), rho = dV/drate per 1.00, vanna = d2V/dS dvolatility, volga
    = d2V/dvolatility2. The last three are None where a model does not give them.
    """

    price: Array
    delta: Array
    gamma: Array
    vega: Array
    theta: Array
    rho: Array = None
    vanna: Array = None
    volga: Array = None


def is_numpy(xp: Any) -> bool:
    """Whether the namespace is NumPy's, where blocks of cache size pay."""
    return bool(array_api_compat.is_numpy_namespace(xp))


def as_arrays(**values: Any) -> tuple[Any, list[Array]]:
    """The common namespace of the values, and the values as arrays of one floating dtype and one device.

    Integers become floats (float64 where nothing else speaks for another dtype), half precision becomes
    float32.
    Raises TypeError for arrays of two libraries or for what is not a number.
    """
    foreign = [
        v
        for v in values.values()
        if array_api_compat.is_array_api_obj(v) and not isinstance(v, (np.ndarray, np.generic))
    ]
    plain = [np.asarray(v) if isinstance(v, (list, tuple)) else v for v in values.values()]
    if foreign:
        xp = array_api_compat.array_namespace(*foreign, *[v for v in plain if isinstance(v, np.ndarray)])
        device: Any = array_api_compat.device(foreign[0])
        plain = [v.item() if isinstance(v, np.generic) else v for v in plain]
        typed: list[Any] = foreign
    else:
        xp, device = array_api_compat.array_namespace(np.empty(0)), "cpu"
        typed = [v for v in plain if isinstance(v, (np.ndarray, np.generic))]
    floating = [v.dtype for v in typed if xp.isdtype(v.dtype, "real floating")]
    dtype = xp.result_type(*floating) if floating else xp.float64
    if xp.finfo(dtype).bits < 32:
        dtype = xp.float32
    if is_numpy(xp):
        try:
            return xp, [np.asarray(v, dtype=dtype) for v in plain]
        except (TypeError, ValueError) as error:
            raise TypeError(f"{', '.join(values)} must be numbers or arrays of numbers") from error
    return xp, [
        xp.astype(v, dtype) if array_api_compat.is_array_api_obj(v) else xp.asarray(v, dtype=dtype, device=device)
        for v in plain
    ]


def at_least(xp: Any, x: Array, floor: float) -> Array:
    """max(x, floor), elementwise."""
    return xp.maximum(x, xp.asarray(floor, dtype=x.dtype, device=array_api_compat.device(x)))


def as_signs(xp: Any, is_call: Any, like: Array) -> Array:
    """+1 for calls and -1 for puts, in the dtype and on the device of `like`.

    Raises ValueError unless `is_call` is a bool or an array of bool: a 0/1 integer is more often a mistaken
    argument.
    """
    if isinstance(is_call, (bool, np.bool_)):
        return xp.asarray(1.0 if is_call else -1.0, dtype=like.dtype, device=array_api_compat.device(like))
    if isinstance(is_call, (list, tuple)):
        is_call = np.asarray(is_call)
    if str(getattr(is_call, "dtype", "")).rpartition(".")[2] != "bool":
        raise ValueError(f"is_call must be a bool or an array of bool, got {is_call!r}")
    flags = xp.asarray(is_call, device=array_api_compat.device(like))
    return xp.astype(flags, like.dtype) * 2 - 1


def check(xp: Any, name: str, value: Array, rule: str = "finite") -> None:
    """ValueError unless every element is finite and, as `rule` says, positive or non-negative."""
    if value.size == 0 if is_numpy(xp) else 0 in value.shape:
        return
    low, high = _bounds(xp, value)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name} must be finite, got {low if not np.isfinite(low) else high}")
    if (rule == "non-negative" and low < 0) or (rule == "positive" and low <= 0):
        raise ValueError(f"{name} must be {rule}, got {low}")


def check_inside(xp: Any, name: str, value: Array, low: float, high: float, *, closed: bool = False) -> None:
    """ValueError unless every element lies in (low, high), or in [low, high] where `closed`."""
    if 0 in value.shape:
        return
    least, most = _bounds(xp, value)
    inside = (low <= least and most <= high) if closed else (low < least and most < high)
    if not inside:
        interval = f"[{low:g}, {high:g}]" if closed else f"({low:g}, {high:g})"
        raise ValueError(f"{name} must lie in {interval}, got {least if not low < least else most}")


def _bounds(xp: Any, value: Array) -> tuple[float, float]:
    """The least and the largest element; NaN comes through both. torch warns where a gradient would be lost."""
    value = value.detach() if hasattr(value, "detach") else value
    return float(xp.min(value)), float(xp.max(value))


def blocks(arrays: list[Array], size: int) -> Iterator[tuple[slice, list[Array]]]:
    """Pieces of `size` elements of flattened NumPy arrays of one broadcast shape; numbers stay whole."""
    shape = np.broadcast_shapes(*[a.shape for a in arrays])
    count = int(np.prod(shape))
    flat = [a.reshape(()) if a.size == 1 else np.broadcast_to(a, shape).reshape(-1) for a in arrays]
    for start in range(0, count, size):
        piece = slice(start, min(start + size, count))
        yield piece, [a if a.ndim == 0 else a[piece] for a in flat]


def in_blocks(function: Callable[..., tuple[Array, ...]], arrays: list[Array], size: int) -> tuple[Array, ...]:
    """`function(*arrays)` for NumPy arrays, a cache-sized block at a time, in the broadcast shape."""
    shape = np.broadcast_shapes(*[a.shape for a in arrays])
    count = int(np.prod(shape))
    if count <= size:
        outs = function(*arrays)
        return tuple(np.broadcast_to(o, shape).copy() if np.shape(o) != shape else o for o in outs)
    results: list[Array] = []
    for piece, parts in blocks(arrays, size):
        values = function(*parts)
        if not results:
            results = [np.empty(count, dtype=value.dtype) for value in values]
        for result, value in zip(results, values, strict=True):
            result[piece] = value
    return tuple(result.reshape(shape) for result in results)
