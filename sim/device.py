"""Kernels of our own on a CUDA device: compiled at first use, launched on CuPy's current stream."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hedgerl.sim.backend import Array

SOURCES = Path(__file__).with_name("kernels")
KERNELS = ("normals", "rough_bergomi", "heston")
TILE = 16  # steps that rough_bergomi.cu convolves at a time
_THREADS = 128  # a block
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
    parts = ((SOURCES / file).read_text(encoding="utf-8") for file in ("common.cuh", f"{name}.cu"))
    return "\n".join([_PREAMBLE, *parts])


@functools.cache
def _compiled(name: str, dtype: str) -> Any:
    cupy = importlib.import_module("cupy")
    module = cupy.RawModule(code=source(name), options=("--std=c++14", f"-DREAL={_REAL[dtype]}"))
    return module.get_function(name)


def launch(name: str, dtype: np.dtype, count: int, *arguments: Any) -> None:
    """Runs a kernel with a thread for each of `count` paths or places."""
    blocks = min(-(-count // _THREADS), 1 << 20)
    _compiled(name, dtype.name)((blocks,), (_THREADS,), arguments)


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
