"""Kernels of our own on a CUDA device: compiled at first use, launched on CuPy's current stream."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from hedgerl.pricing.base import TIME_FLOOR
from hedgerl.sim.backend import Array

SOURCES = Path(__file__).with_name("kernels")
KERNELS: dict[str, tuple[str, ...]] = {  # and what they include besides common.cuh
    "normals": (),
    "rough_bergomi": (),
    "heston": (),
    "curve_features": (),
    "implied": ("black_scholes.cuh",),
    "smile": ("black_scholes.cuh",),
    "heston_marks": ("black_scholes.cuh",),
}
TILE = 16  # steps that rough_bergomi.cu convolves at a time
_THREADS = 128  # a block
_BOOL = np.dtype(bool)
_REAL = {"float32": "float", "float64": "double"}

_PREAMBLE = f"""\
#define TILE {TILE}
#define KERNEL extern "C" __global__
#define DEVICE static __device__ __forceinline__
#define FIRST_THREAD (blockIdx.x * (long long)blockDim.x + threadIdx.x)
#define ALL_THREADS (gridDim.x * (long long)blockDim.x)
"""


class Stream(NamedTuple):
    """Counter-based normals: those of path i are a function of the key and of first + i."""

    key: tuple[int, int]  # 32 bits each
    first: int = 0  # number of the first path
    antithetic: bool = False  # paths 2i and 2i + 1 carry opposite noise

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As kernels take it."""
        return np.uint32(self.key[0]), np.uint32(self.key[1]), np.int64(self.first), np.int32(self.antithetic)


def source(name: str) -> str:
    """The whole text of a kernel."""
    parts = ((SOURCES / file).read_text(encoding="utf-8") for file in ("common.cuh", *KERNELS[name], f"{name}.cu"))
    return "\n".join([_PREAMBLE, *parts])


@functools.cache
def cupy() -> ModuleType:
    """CuPy, which must not be imported where nothing asks for a device; an import for each launch would cost as much
    as the launch."""
    return importlib.import_module("cupy")


@functools.cache
def _compiled(name: str, dtype: np.dtype, device: int) -> Any:
    """The kernel on the current device: a function of CuPy's modules is loaded on one."""
    module = cupy().RawModule(code=source(name), options=("--std=c++14", f"-DREAL={_REAL[dtype.name]}"))
    return module.get_function(name)


def launch(name: str, dtype: np.dtype, count: int, *arguments: Any) -> None:
    """Runs a kernel with a thread for each of `count` paths or places."""
    blocks = min(-(-count // _THREADS), 1 << 20)
    _compiled(name, dtype, cupy().cuda.Device().id)((blocks,), (_THREADS,), arguments)


def by_path(xp: Any, value: Any, dtype: np.dtype) -> tuple[Array, Any]:
    """A parameter as kernels take it: its array and whether that has one number for each path."""
    array = xp.asarray(value, dtype=dtype).reshape(-1)
    return array, np.int32(hasattr(value, "shape") and array.size > 1)


def tiles(average: np.ndarray) -> np.ndarray:
    """The lower triangular weights (n, n) of a convolution, transposed in tiles: (ceil(n / TILE), n, TILE)."""
    n = average.shape[0]
    padded = np.zeros((-(-n // TILE) * TILE, n))
    padded[:n] = average
    return np.ascontiguousarray(padded.reshape(-1, TILE, n).transpose(0, 2, 1))


class Place(NamedTuple):
    """Where arrays lie and of what kind they are: the key of what is kept for each device."""

    device: int
    dtype: np.dtype

    @classmethod
    def of(cls, array: Array) -> Place:
        """The current device, for numbers like those of an array."""
        return cls(cupy().cuda.Device().id, array.dtype)

    def sent(self, values: np.ndarray) -> Array:
        """The values there, contiguous."""
        return cupy().asarray(np.ascontiguousarray(values, dtype=self.dtype))


def launch_marks(
    name: str, spot: Array, strike: Any, is_call: Any, left: float, rate: float, dividend: float, *arguments: Any
) -> tuple[Array, ...]:
    """Price, delta, gamma, vega and theta, each (n,), by a kernel of contracts `left` years before expiry.

    spot: (n,). strike, is_call: a number, or (n,). arguments: what the kernel takes besides.
    """
    xp, kind, n_paths = cupy(), spot.dtype, spot.shape[0]
    spot = xp.ascontiguousarray(spot)
    contract = [spot]
    for value, dtype, one in ((strike, kind, kind.type), (is_call, _BOOL, np.int32)):
        by_path = hasattr(value, "shape")  # else any array serves: it is not read
        array = xp.ascontiguousarray(value, dtype=dtype) if by_path else spot
        contract += [np.int32(by_path), array, one(0 if by_path else value)]
    marks = xp.empty((5, n_paths), dtype=kind)
    terms = _terms(left, rate, dividend, kind)
    launch(name, kind, n_paths, np.int64(n_paths), *contract, *terms, *arguments, marks)
    return tuple(marks[row] for row in range(5))


@functools.lru_cache(maxsize=4096)
def _terms(left: float, rate: float, dividend: float, dtype: np.dtype) -> tuple[Any, ...]:
    """TERMS of black_scholes.cuh."""
    root = max(left, TIME_FLOOR) ** 0.5
    factors = np.exp([-dividend * left, -rate * left]).tolist()
    return tuple(dtype.type(value) for value in (left, root, (rate - dividend) * left, *factors, rate, dividend))
