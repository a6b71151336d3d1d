"""What tests of studies share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _jobs(monkeypatch):
    """Makes jobs.py importable, in workers too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
