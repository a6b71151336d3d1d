"""Which array library a simulation gets, and what is said where it is not the one that was hoped for."""

from __future__ import annotations

import re
import sys
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hedgerl.sim import BlackScholes, backend


def fake(available: Any = True, answers: Any = True, driver: int = 13000, runtime: int = 13000) -> ModuleType:
    """A CuPy whose device is as described; an exception is raised in place of an answer."""

    def said(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    cupy: Any = ModuleType("cupy")
    cupy.is_available = lambda: said(available)
    cupy.arange = lambda count: said(answers) and np.arange(count)
    versions = SimpleNamespace(driverGetVersion=lambda: driver, runtimeGetVersion=lambda: runtime)
    cupy.cuda = SimpleNamespace(runtime=versions)
    return cupy


CASES = {
    "not installed": (None, "CuPy is not installed (import of cupy halted; None in sys.modules)"),
    "no device": (fake(available=False), "CuPy finds no CUDA device"),
    "no driver": (fake(available=False, driver=0), "CuPy finds no CUDA device"),
    "old driver": (
        fake(available=False, driver=12040),
        "the driver knows CUDA 12.4 at the most, CuPy needs 13.0: update the driver, or install another CuPy",
    ),
    "old driver that fails later": (
        fake(answers=RuntimeError("cudaErrorInsufficientDriver"), driver=11080, runtime=12020),
        "the driver knows CUDA 11.8 at the most, CuPy needs 12.2: update the driver, or install another CuPy",
    ),
    "broken": (
        fake(available=RuntimeError("cudaErrorUnknown: unknown error")),
        "the CUDA device does not answer (cudaErrorUnknown: unknown error)",
    ),
    "taken": (
        fake(answers=MemoryError("out of memory"), driver=13020),
        "the CUDA device does not answer (out of memory)",
    ),
}


@pytest.fixture(params=CASES)
def machine(request, monkeypatch):
    """The reason that is to be given on a machine with that CuPy."""
    module, reason = CASES[request.param]
    monkeypatch.setitem(sys.modules, "cupy", module)
    backend._cupy.cache_clear()
    backend._warn_no_gpu.cache_clear()
    yield request.param, reason
    backend._cupy.cache_clear()


def test_cupy_that_does_not_work_is_refused_with_the_reason(machine):
    """Behaviour: who asks for the GPU is told why there is none, before anything is simulated."""
    told = f"backend must be one that works here, got 'cupy': {machine[1]}"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        BlackScholes(volatility=0.2).simulate(4, 2, 0.1, seed=1, backend="cupy")


def test_auto_falls_back_to_the_cpu_and_says_so_once(machine):
    """Behaviour: a warning where CuPy is installed and cannot work, the first time; none where nobody installed it."""
    name, reason = machine
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            assert isinstance(BlackScholes(volatility=0.2).simulate(4, 2, 0.1, seed=1).spot, np.ndarray)
    said = [str(each.message) for each in told if each.category is RuntimeWarning]
    assert said == ([] if name == "not installed" else [f"{reason}: simulating on the CPU with NumPy"])
