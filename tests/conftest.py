"""What tests of more than one part share."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Processes that test side by side share the cores. Each with threads on all of them, small matrices take five times as
# long: the threads wait for one another. Read by the libraries of NumPy and torch when they are loaded, after this.
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

# Smiles are fitted once for all tests, and by this code: set in the first process, which those side by side inherit.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.mkdtemp(prefix="hedgerl-tests-")
    os.environ["HEDGERL_CACHE"] = CACHE


def pytest_unconfigure() -> None:
    """Takes the tests' cache away."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def cupy() -> ModuleType:
    """CuPy with a device, or its stand-in."""
    module = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not module.is_available():
        pytest.skip("CuPy finds no CUDA device")
    return module


@pytest.fixture
def script() -> Callable[[str], ModuleType]:
    """Imports scripts/<name>.py."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where its classes look for their annotations
        spec.loader.exec_module(module)
        return module

    return load
