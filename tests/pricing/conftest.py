"""Array libraries to compare NumPy with, and reading of golden files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Golden = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def golden() -> Golden:
    """Reads golden/<name>.csv: numbers as float, words as str; lines that start with # state the source."""

    def read(name: str) -> list[dict[str, Any]]:
        text = (Path(__file__).parent / "golden" / f"{name}.csv").read_text(encoding="utf-8")
        rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
        return [{key: _number(value) for key, value in row.items()} for row in rows]

    return read


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


class Twin:
    """An array library beside NumPy: `send` makes its array, `fetch` brings one back."""

    def __init__(self, name: str) -> None:
        self.name = name

    def send(self, array: Any) -> Any:
        if self.name == "torch":
            return pytest.importorskip("torch").from_numpy(np.ascontiguousarray(array))
        return pytest.importorskip("cupy").asarray(array)

    def fetch(self, array: Any) -> Any:
        if self.name == "torch":
            assert str(type(array)).find("Tensor") > 0
            return array.numpy()
        return array.get()


@pytest.fixture(params=["torch", pytest.param("cupy", marks=pytest.mark.gpu)])
def twin(request: pytest.FixtureRequest) -> Twin:
    if request.param == "cupy":
        request.getfixturevalue("cupy")  # skips where there is none
    return Twin(request.param)
