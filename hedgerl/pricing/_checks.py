"""Checks of parameters: each raises ValueError naming the field, the rule and the value."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np

_DAY = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")  # NumPy takes eight digits for a year


def finite(name: str, value: Any) -> float:
    """The value as a float; ValueError unless it is a finite real number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """The value as a float; ValueError unless it is finite and above zero."""
    if finite(name, value) <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return float(value)


def non_negative(name: str, value: Any) -> float:
    """The value as a float; ValueError unless it is finite and at least zero."""
    if finite(name, value) < 0:
        raise ValueError(f"{name} must not be negative, got {value!r}")
    return float(value)


def in_interval(name: str, value: Any, low: float, high: float, *, closed: bool = False) -> float:
    """The value as a float; ValueError unless it lies in (low, high), or in [low, high] where `closed`."""
    number = finite(name, value)
    inside = low <= number <= high if closed else low < number < high
    if not inside:
        interval = f"[{low:g}, {high:g}]" if closed else f"({low:g}, {high:g})"
        raise ValueError(f"{name} must lie in {interval}, got {value!r}")
    return number


def whole_number(name: str, value: Any, *, minimum: int = 1) -> int:
    """The value as an int; ValueError unless it is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
    return int(value)


def day(name: str, value: Any) -> np.datetime64:
    """The value as a day; ValueError unless it is a date or text YYYY-MM-DD, of which the end may be left out."""
    try:
        found = np.datetime64("NaT" if isinstance(value, str) and not _DAY.fullmatch(value) else value, "D")
    except (TypeError, ValueError):
        found = np.datetime64("NaT")
    if np.isnat(found):
        raise ValueError(f"{name} must be a date or YYYY-MM-DD, got {value!r}")
    return found


def nearest(name: Any, known: Iterable[str]) -> str:
    """The known name most like a mistaken one, for an error to offer; `known` must not be empty."""
    return difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.0)[0]
