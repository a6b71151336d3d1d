"""Where things lie in a picture: axes on which 0 stands beside a logarithm, labels that keep apart."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import MaxNLocator

FAR = 20.0  # times the median: what is beyond is drawn at the edge
NEAR = 0.01  # of the median: what is below lies in the strip beside 0


@dataclass(frozen=True)
class Scale:
    """How numbers lie along an axis; every kind of picture draws on it."""

    kind: Literal["linear", "logarithmic", "two-sided"]
    unit: float = 1.0  # logarithmic: the number at place 0; two-sided: nearly linear below it
    strip: float = 0.0  # logarithmic: width of the linear part between 0 and the unit, in decades
    cap: float = math.inf  # what is beyond lies at it

    @classmethod
    def of(cls, values: np.ndarray) -> Scale:
        """Logarithmic where positive numbers are far apart, linear below the unit where some are 0 or next to it."""
        size = np.abs(values[values != 0.0])
        if not size.size or size.max() <= 2.5 * size.min():
            return cls("linear")
        middle = float(np.median(size))
        cap = FAR * middle if size.max() > FAR * middle else math.inf
        if (values < 0.0).any():
            return cls("two-sided", middle, cap=cap) if size.max() > 8.0 * middle else cls("linear")
        unit = float(size[size >= NEAR * middle].min())
        decades = math.log10(min(float(size.max()), cap) / unit)
        return cls("logarithmic", unit, 0.13 * decades if (values < unit).any() else 0.0, cap)

    def __call__(self, values: Any) -> np.ndarray:
        x = np.clip(np.asarray(values, dtype=float), -self.cap, self.cap)
        if self.kind == "linear":
            return x
        if self.kind == "two-sided":
            return np.arcsinh(x / self.unit)
        if self.strip:
            above = np.log10(np.maximum(x, self.unit) / self.unit)
            return np.where(x >= self.unit, above, self.strip * np.maximum(x / self.unit - 1.0, -1.5))
        return np.log10(np.maximum(x / self.unit, 1e-6))  # an interval may reach down to 0

    def ticks(self, low: float, high: float) -> tuple[list[float], list[str]]:
        """Places between two places on the axis, and the numbers there."""
        if self.kind == "linear":
            numbers = [float(each) for each in MaxNLocator(6, min_n_ticks=2).tick_values(low, high)]
            numbers = [0.0 if abs(each) < 1e-12 * (high - low) else each for each in numbers]
        else:
            least = 0.3 * self.unit if self.kind == "two-sided" else self.unit * (1 - 1e-9) if self.strip else 0.0
            for steps in ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
                numbers = [float(f"{step}e{decade}") for decade in range(-12, 13) for step in steps]
                numbers = [each for each in numbers if least <= each <= self.cap and low <= self(each) <= high]
                if len(numbers) <= 8:
                    break
            if self.kind == "two-sided":
                numbers = [*(-each for each in reversed(numbers)), 0.0, *numbers]
            elif self.strip:
                numbers = [0.0, *numbers]
        kept = [each for each in numbers if low <= self(each) <= high]
        return [float(self(each)) for each in kept], [f"{each:g}".replace("-", "−") for each in kept]


def text_size(text: str, size: float) -> tuple[float, float]:
    """Width and height of a line of text, in the unit of its size."""
    font = FontProperties(family="DejaVu Sans", size=size)
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return float(width), 1.25 * size


_DIRECTIONS = [
    (math.cos(angle), math.sin(angle)) for angle in np.deg2rad([0, 180, 45, 135, 315, 225, 90, 270, 22, 158, 338, 202])
]
_REACHES = (7.0, 11.0, 16.0, 23.0, 32.0, 44.0, 58.0, 75.0, 95.0, 120.0)


def place_labels(
    anchors: np.ndarray, sizes: np.ndarray, marks: np.ndarray, within: tuple[float, float], firm: int
) -> list[tuple[float, float] | None]:
    """Centres of labels beside their anchors, clear of each other, of marks and of the frame, near where they belong.

    anchors: (k, 2), sizes: (k, 2), width and height, marks: (n, 2), all in points from the lower left of a frame of
    the size `within`. The first `firm` labels are always placed, at the least bad place; others only where they are
    clear: None.
    """
    boxes: list[np.ndarray] = []  # left, bottom, right, top
    lines: list[np.ndarray] = []  # leaders of labels so far
    out: list[tuple[float, float] | None] = []
    for i, (anchor, size) in enumerate(zip(anchors, sizes, strict=True)):
        best: tuple[float, np.ndarray, np.ndarray] | None = None
        for reach, (dx, dy) in itertools.product(_REACHES, _DIRECTIONS):
            middle = anchor + np.array([dx * reach, dy * reach])
            middle = middle + 0.5 * size * np.array([np.sign(round(dx, 1)), np.sign(round(dy, 1)) * (abs(dy) > 0.1)])
            box = np.concatenate([middle - 0.5 * size, middle + 0.5 * size])
            over = np.clip(-box[:2], 0.0, None).sum() + np.clip(box[2:] - within, 0.0, None).sum()
            overlap = sum(
                float(np.prod(np.clip(np.minimum(box[2:], b[2:]) - np.maximum(box[:2], b[:2]) + 1.0, 0.0, None)))
                for b in boxes
            )
            hidden = ((marks > box[:2] - 3.0) & (marks < box[2:] + 3.0)).all(axis=1).sum()
            along = anchor + np.linspace(0.0, 1.0, 12)[:, None] * (np.clip(anchor, box[:2], box[2:]) - anchor)
            through = sum(bool(((along > b[:2]) & (along < b[2:])).all(axis=1).any()) for b in boxes)
            through += sum(bool(((line > box[:2]) & (line < box[2:])).all(axis=1).any()) for line in lines)
            cost = 40.0 * over + 20.0 * overlap + 25.0 * hidden + 60.0 * through + reach
            if best is None or cost < best[0]:
                best = (cost, box, along)
            if best[0] < reach:
                break
        assert best is not None
        cost, box, along = best
        if i >= firm and cost >= 25.0:
            out.append(None)
            continue
        boxes.append(box)
        lines.append(along)
        out.append((float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2))
    return out
