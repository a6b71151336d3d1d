"""Kernels of source code on the "device": compiled by g++, run on the memory behind the arrays, thread after thread."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cupy

_NAMES = Path(__file__).parents[1] / "kernels.hpp"
_BLOCKS, _THREADS = 3, 2  # at most: more would only run longer
_alone = threading.Lock()  # where a kernel is stands in the library, once for all callers


class RawModule:
    """Functions of CUDA C++ that uses no more than what kernels.hpp defines."""

    def __init__(self, *, code: str, options: Sequence[str] = ()) -> None:
        defined = [option for option in options if option.startswith("-D")]
        text = _NAMES.read_text(encoding="utf-8") + code
        flags = ["-std=c++14", "-O1", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-Werror", *defined]
        digest = hashlib.sha256("\0".join([text, *flags]).encode()).hexdigest()[:16]
        library = Path(tempfile.gettempdir()) / f"hedgerl-standin-{os.getuid()}-{digest}.so"
        if not library.exists():
            made = library.with_suffix(f".{os.getpid()}")
            subprocess.run(["g++", *flags, "-x", "c++", "-", "-o", str(made)], input=text, text=True, check=True)
            made.replace(library)
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> Any:
        """The kernel: called with (grid, block, arguments), NumPy's scalars and contiguous device arrays."""
        kernel, place = self._library[name], self._library["place"]
        home = cupy.cuda.Device()

        def run(grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Any]) -> None:
            if home != cupy.cuda.Device():
                raise RuntimeError("a function of a module is loaded on one device")
            sent = [_argument(each) for each in arguments]
            blocks, threads = min(grid[0], _BLOCKS), min(block[0], _THREADS)
            with _alone:
                for one in range(blocks):
                    for thread in range(threads):
                        place(one, blocks, thread, threads)
                        kernel(*sent)

        return run


def _argument(value: Any) -> Any:
    if isinstance(value, cupy.ndarray):
        if not value.flags.c_contiguous:
            raise ValueError("a kernel knows nothing of strides: the array must be contiguous")
        if value.device != cupy.cuda.Device():
            raise ValueError(f"a kernel on {cupy.cuda.Device().id} must not be given an array on {value.device.id}")
        return ctypes.c_void_p(value._host.ctypes.data)
    if not isinstance(value, np.generic):
        raise TypeError(f"the size of {value!r} is not settled: give it a dtype of NumPy")
    return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())
