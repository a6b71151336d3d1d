"""The array library a simulation runs on: NumPy on the CPU, CuPy on a CUDA device, the same code on both."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

Array = Any  # a numpy.ndarray or a cupy.ndarray, by backend

BACKENDS = ("auto", "numpy", "cupy")
DTYPES = ("float32", "float64")


@functools.cache
def _cupy() -> tuple[ModuleType | None, str]:
    """CuPy and "" where a kernel runs; else None and the reason.

    CuPy imports without a GPU and only fails at the first array, so one is made here.
    """
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        return None, f"CuPy is not installed ({error})"
    try:
        if not cupy.is_available():
            return None, _too_old(cupy) or "CuPy finds no CUDA device"
        cupy.arange(2).sum().item()
    except Exception as error:  # the CUDA runtime's errors share no base class
        return None, _too_old(cupy) or f"the CUDA device does not answer ({error})"
    return cupy, ""


def _too_old(cupy: ModuleType) -> str:
    """That the driver is too old for CuPy, where it is."""
    try:
        driver, wanted = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    except Exception:  # no driver
        return ""
    if not 0 < driver // 1000 < wanted // 1000:
        return ""
    has, wants = (f"{version // 1000}.{version % 1000 // 10}" for version in (driver, wanted))
    return f"the driver knows CUDA {has} at the most, CuPy needs {wants}: update the driver, or install another CuPy"


@functools.cache
def _warn_no_gpu(reason: str) -> None:
    warnings.warn(f"{reason}: simulating on the CPU with NumPy", RuntimeWarning, stacklevel=4)


def resolve(backend: str) -> ModuleType:
    """The array module of `backend`: "numpy", "cupy", or "auto" (CuPy where a GPU works, else NumPy).

    Raises ValueError for an unknown name, and for "cupy" where no GPU works. "auto" warns once where CuPy is
    installed but its GPU does not work.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "numpy":
        return np
    cupy, reason = _cupy()
    if cupy is not None:
        return cupy
    if backend == "cupy":
        raise ValueError(f"backend must be one that works here, got 'cupy': {reason}")
    if not reason.startswith("CuPy is not installed"):
        _warn_no_gpu(reason)
    return np


def namespace(array: Array) -> ModuleType:
    """The module that the array belongs to: numpy or cupy."""
    return np if isinstance(array, np.ndarray | np.generic) else importlib.import_module("cupy")


def is_numpy(xp: ModuleType) -> bool:
    """Whether `xp` is NumPy itself."""
    return xp is np


def to_numpy(array: Array) -> np.ndarray:
    """The array, of NumPy, CuPy or torch, on the host, without a copy where it is there already."""
    if hasattr(array, "get"):
        return array.get()
    return array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)


def to_torch(array: Array, device: Any) -> Any:
    """The array, of NumPy, CuPy or torch, as a tensor on torch's `device`; what lies there already is not copied."""
    torch = importlib.import_module("torch")
    if isinstance(array, torch.Tensor):
        return array.to(device)
    xp = namespace(array)
    whole = xp.ascontiguousarray(array)
    return torch.as_tensor(whole, device=device) if is_numpy(xp) else torch.from_dlpack(whole).to(device)


def use_device(name: str) -> None:
    """Makes "cuda:1" the device on which CuPy works in this thread from now on; "cpu" changes nothing.

    Paths are then made where torch, told the same name, learns from them.
    """
    cupy, _ = _cupy()
    if name != "cpu" and cupy is not None:
        cupy.cuda.Device(int(name.partition(":")[2] or 0)).use()


@contextmanager
def enough_memory(xp: ModuleType, n_paths: int, bytes_per_path: int) -> Iterator[None]:
    """Says how many paths would fit where a device has no memory for these. Raises MemoryError."""
    try:
        yield
    except MemoryError as error:  # CuPy's own is one
        if is_numpy(xp):
            raise
        xp.get_default_memory_pool().free_all_blocks()
        free, whole = xp.cuda.runtime.memGetInfo()
        fitting = int(0.9 * free / bytes_per_path)
        raise MemoryError(
            f"{n_paths:,} paths of {bytes_per_path:,} bytes take {n_paths * bytes_per_path / 2**30:.1f} GiB, of the "
            f"device's {whole / 2**30:.1f} GiB {free / 2**30:.1f} are free: n_paths={fitting} would fit"
        ) from error


class Workspace:
    """Scratch arrays by name, allocated once and used again for every block of paths.

    Fresh arrays of a megabyte come from the operating system page by page; touching them again and again would cost
    more than the arithmetic.
    """

    def __init__(self, xp: ModuleType, dtype: str) -> None:
        self.xp = xp
        self.dtype = np.dtype(dtype)
        self._arrays: dict[str, Array] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Array:
        """An uninitialised array of `shape`, the same memory at each call with this name."""
        size = int(np.prod(shape))
        array = self._arrays.get(name)
        if array is None or array.size < size:
            array = self._arrays[name] = self.xp.empty(size, dtype=self.dtype)
        return array[:size].reshape(shape)


THREADS = "HEDGERL_THREADS"  # environment variable: threads at most


def usable_threads() -> int:
    """The cores that this process may run on, at most HEDGERL_THREADS of them where that is set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = os.environ.get(THREADS, "")
    return min(cores, int(most)) if most.isdigit() and int(most) else cores


class _SingleThreadedBlas:
    """BLAS on one thread while anyone is inside: the limit is the whole process's, so the last one out lifts it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._users = 0
        self._limit: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._limit = _blas_controller().limit(limits=1, user_api="blas")
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._limit.restore_original_limits()


# blocks of paths are what runs in parallel, and results must not depend on the number of threads
single_threaded_blas = _SingleThreadedBlas()


@functools.cache
def _blas_controller() -> ThreadpoolController:
    return ThreadpoolController()


def run_blocks(work: Callable[[int], None], blocks: Sequence[int], threads: int) -> Iterator[int]:
    """Runs `work(block)` for every block on up to `threads` threads and yields each block when it is done."""
    if threads == 1 or len(blocks) == 1:
        for block in blocks:
            work(block)
            yield block
        return
    with ThreadPoolExecutor(max_workers=threads) as pool:
        futures = [pool.submit(work, block) for block in blocks]
        try:
            for block, future in zip(blocks, futures, strict=True):
                future.result()
                yield block
        finally:
            for future in futures:
                future.cancel()
