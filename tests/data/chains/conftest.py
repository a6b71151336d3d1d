"""What the tests of option chains share: vendors' layouts, and a store in a folder of the test's own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def vendors() -> ModuleType:
    """The module vendors.py beside this file: pytest does not put the tests' folders on the path."""
    spec = importlib.util.spec_from_file_location("chain_vendors", Path(__file__).with_name("vendors.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chain_vendors"] = module  # where its dataclass looks for its annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a test's store will be; nothing is there yet."""
    return tmp_path / "store"
