"""The cells of a chunk of lines: text, and the numbers, days and words that it stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from hedgerl.data.chains.formats import DATES, US, day
from hedgerl.data.chains.schema import compute as pc

_MISSING = ("", "nan", "NaN", "NAN", "na", "NA", "N/A", "n/a", "null", "NULL", "None", "none", ".", "-", "--", "#N/A")
_NUMBER = r"^-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"


@dataclass
class Bad:
    """The first cell of each row that cannot be read."""

    rows: np.ndarray  # (n,) bool
    told: dict[int, str] = field(default_factory=dict)

    def add(self, wrong: np.ndarray, column: str, cells: pa.Array, why: str) -> None:
        for row in np.flatnonzero(wrong & ~self.rows)[:3]:
            self.told[int(row)] = f"column {column} must be {why}, got {cells[int(row)].as_py()!r}"
        self.rows |= wrong


@dataclass(frozen=True)
class Cells:
    """A chunk of lines: of each field its cells, or what is known of it without reading."""

    label: str  # of the file
    header: Sequence[str]
    places: Mapping[str, int]  # field -> column
    known: Mapping[str, Any]  # field -> what holds for all lines
    columns: Mapping[int, pa.Array]  # column -> text
    lines: np.ndarray  # (n,) numbers of the lines
    decimal: str
    bad: Bad

    @property
    def n(self) -> int:
        return self.lines.size

    def text(self, name: str) -> pa.Array | None:
        """A field's text, empty cells null; None where the file has no such column."""
        if name in self.places:
            text = pc.utf8_trim_whitespace(self.columns[self.places[name]])
            return pc.if_else(pc.is_in(text, value_set=pa.array(_MISSING)), pa.scalar(None, pa.string()), text)
        if isinstance(self.known.get(name), str):
            return pa.repeat(pa.scalar(self.known[name], pa.string()), self.n)
        return None

    def title(self, name: str) -> str:
        return self.header[self.places[name]] if name in self.places else name

    def numbers(self, name: str) -> np.ndarray:
        """(n,) float64, NaN where empty or unreadable, or where there is no such column."""
        told = text = self.text(name)
        if text is None:
            return np.full(self.n, np.nan)
        if self.decimal == ",":
            text = pc.replace_substring(pc.replace_substring(text, ".", "?"), ",", ".")
        try:
            values = pc.cast(text, pa.float64())
        except pa.ArrowInvalid:
            fine = pc.match_substring_regex(text, _NUMBER)
            why = "a number"
            if self.decimal == "." and any(re.fullmatch(r"-?\d+,\d+", each) for each in _some(told, fine)):
                why = "a number (with a decimal comma, give --decimal ,)"
            self.bad.add(true(pc.invert(fine)), self.title(name), told, why)
            values = pc.cast(pc.if_else(fine, text, pa.scalar(None, pa.string())), pa.float64())
        numbers = values.to_numpy(zero_copy_only=False)
        self.bad.add(np.isinf(numbers), self.title(name), told, "a finite number")
        return np.asarray(numbers, dtype=np.float64)

    def days(self, name: str, text: pa.Array, dates: Sequence[str]) -> np.ndarray:
        """(n,) datetime64[D], NaT where there is none; a file repeats its days, so each writing is read once.

        Raises ValueError where they are day first.
        """
        coded = pc.dictionary_encode(text, null_encoding="encode")
        written = coded.dictionary.to_pylist()
        days = [None if cell is None else day(cell, dates) for cell in written]
        codes = coded.indices.to_numpy()
        for code, cell in enumerate(written):
            match = DATES[US].fullmatch(cell) if cell else None
            if match and US in dates and days[code] is None and 12 < int(match["m"]) <= 31 and int(match["d"]) <= 12:
                line = int(self.lines[np.flatnonzero(codes == code)[0]])
                raise ValueError(
                    f"{self.label}, line {line}, column {self.title(name)} must be a date MM/DD/YYYY, got {cell!r}: a "
                    "file with the day first would be read wrong on all days up to the 12th; write its dates YYYY-MM-DD"
                )
        known = [np.datetime64("NaT") if each is None else each for each in days]
        values: np.ndarray = np.array(known, dtype="datetime64[D]")[codes]
        return values


def looked_up(text: pa.Array, words: Mapping[str, str]) -> pa.Array:
    """The word that each text stands for, null where it is none."""
    place = pc.index_in(pc.utf8_lower(text), value_set=pa.array(list(words)))
    return pa.array(list(words.values())).take(place)


def replaced(text: pa.Array, words: Mapping[str, str]) -> pa.Array:
    """The texts, with these words for those."""
    place = pc.index_in(text, value_set=pa.array(list(words)))
    return pc.coalesce(pa.array(list(words.values())).take(place), text)


def true(mask: pa.Array) -> np.ndarray:
    """(n,) bool, False where null."""
    return pc.fill_null(mask, False).to_numpy(zero_copy_only=False).astype(bool)


def _some(text: pa.Array, fine: pa.Array) -> list[str]:
    """The first few that are not fine."""
    return text.filter(pc.fill_null(pc.invert(fine), False))[:3].to_pylist()
