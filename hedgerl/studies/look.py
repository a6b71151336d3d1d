"""How every policy of a front looks, whatever draws it: colour, size, shape, its place, its words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hedgerl.report.drawing import colour, policy_colour
from hedgerl.studies.front import OBJECTIVES, attainment, check_objectives, non_dominated
from hedgerl.studies.plane import Scale, place_labels, text_size
from hedgerl.studies.points import GROUPS, Group, Point, cut, number, plain

N_SHAPES = 8
LONGEST = 26  # letters of a name in a picture
PALE = 0.28
SMALLEST, LARGEST = 4.2, 10.0  # diameters of points, in points


@dataclass(frozen=True)
class Panel:
    """Two objectives with their axes."""

    x: str
    y: str
    scale_x: Scale
    scale_y: Scale
    limits: tuple[float, float, float, float]  # low and high x, low and high y, on the scales

    def at(self, values: np.ndarray) -> np.ndarray:
        """(n, 2) places on the scales of (n, 2) numbers."""
        return np.column_stack([self.scale_x(values[:, 0]), self.scale_y(values[:, 1])])


def limits_of(points: Sequence[Point], name: str, corner: Mapping[str, float]) -> tuple[Scale, float, float]:
    """The axis of an objective that holds all points and the reference: scale, low and high place."""
    scale = Scale.of(np.array([point.values[name] for point in points] + ([corner[name]] if corner else [])))
    places = scale([point.values[name] for point in points] + ([corner[name]] if corner else []))
    low, high = float(places.min()), float(places.max())
    pad = 0.06 * (high - low) or 0.1 * max(abs(high), 1.0)
    return scale, low - pad, high + pad


def panel_of(points: Sequence[Point], x: str, y: str, corner: Mapping[str, float]) -> Panel:
    """The plane of two objectives that holds all points and the reference."""
    (scale_x, *limits_x), (scale_y, *limits_y) = (limits_of(points, name, corner) for name in (x, y))
    return Panel(x, y, scale_x, scale_y, (limits_x[0], limits_x[1], limits_y[0], limits_y[1]))


def axis_label(name: str) -> str:
    """What an axis says."""
    return f"{OBJECTIVES[name].label}, per unhedged deviation"


@dataclass(frozen=True, eq=False)
class Picture:
    """Points that can be drawn, with how each looks."""

    names: tuple[str, ...]
    points: list[Point]
    left_out: list[str]  # labels of points with a value that is not finite
    tints: dict[str, str]  # family -> colour
    sizes: dict[Any, float]  # of the parameter that sizes -> diameter, in points
    shapes: dict[Any, int]  # of the parameter that shapes -> number of the shape
    size_by: str
    shape_by: str
    best: np.ndarray  # (n,) bool, not dominated in its own group
    corner: dict[str, float]  # the reference by objective; empty: none

    @classmethod
    def of(
        cls,
        points: Iterable[Point],
        objectives: Sequence[str],
        reference: Sequence[float] | None,
        size_by: str,
        shape_by: str,
    ) -> Picture:
        names = check_objectives(objectives, least=2)
        if reference is not None and len(reference) != len(names):
            raise ValueError(f"reference must have a number for each of {', '.join(names)}, got {list(reference)!r}")
        drawn: list[Point] = []
        left_out: list[str] = []
        for each in points:
            known = all(math.isfinite(number(each.values.get(name))) for name in names)
            if known:
                drawn.append(each)
            else:
                left_out.append(each.label)
        if not drawn:
            raise ValueError(
                f"points must have at least one with finite {', '.join(names)}, got {len(left_out)} without"
            )
        learned = [each for each in drawn if each.group == "learned"]
        widths = _ranks(each.parameters.get(size_by) for each in learned)
        steps = max(len(widths) - 1, 1)
        best = np.zeros(len(drawn), dtype=bool)
        for group in GROUPS:
            rows = [i for i, each in enumerate(drawn) if each.group == group]
            if rows:
                best[rows] = non_dominated([[drawn[i].values[name] for name in names] for i in rows])
        return cls(
            names=names,
            points=drawn,
            left_out=left_out,
            tints={family: policy_colour(i) for i, family in enumerate(dict.fromkeys(each.family for each in learned))},
            sizes={key: SMALLEST + (LARGEST - SMALLEST) * i / steps for key, i in widths.items()}
            if len(widths) > 1
            else dict.fromkeys(widths, 0.5 * (SMALLEST + LARGEST)),
            shapes={key: i % N_SHAPES for key, i in _ranks(each.parameters.get(shape_by) for each in learned).items()},
            size_by=size_by,
            shape_by=shape_by,
            best=best,
            corner={} if reference is None else dict(zip(names, map(float, reference), strict=True)),
        )

    def title(self) -> str:
        """What is drawn against what."""
        first, *others = (OBJECTIVES[name].label for name in self.names)
        return f"{first} against {' and '.join(each.lower() if each.isalpha() else each for each in others)}"

    def rows(self, group: Group) -> list[int]:
        """The numbers of a group's points."""
        return [i for i, each in enumerate(self.points) if each.group == group]

    def values(self, panel: Panel, rows: Sequence[int]) -> np.ndarray:
        """(k, 2) numbers of points in a panel."""
        return np.array([[self.points[i].values[panel.x], self.points[i].values[panel.y]] for i in rows]).reshape(-1, 2)

    def panels(self) -> list[Panel]:
        """One for each pair of objectives; cost lies across where it is one of them."""
        pairs = [(b, a) if a != "cost" else (a, b) for a, b in itertools.combinations(self.names, 2)]
        return [panel_of(self.points, x, y, self.corner) for x, y in pairs]

    def staircase(self, panel: Panel) -> np.ndarray:
        """The learned policies' front in a panel, to the ends of its axes, on the scales."""
        line = attainment(self.values(panel, self.rows("learned"))) if self.rows("learned") else np.zeros((0, 2))
        if not len(line):
            return line
        line = panel.at(line)
        return np.vstack([[line[0, 0], panel.limits[3]], line, [panel.limits[1], line[-1, 1]]])

    def commanded(self, panel: Panel) -> np.ndarray:
        """The corners of what the learned policies' front commands below the reference, on the scales."""
        if not self.corner or len(self.names) > 2 or not self.rows("learned"):
            return np.zeros((0, 2))
        corner = (self.corner[panel.x], self.corner[panel.y])
        line = attainment(self.values(panel, self.rows("learned")), corner)
        return panel.at(np.vstack([line, [corner]])) if len(line) else line

    def band(self, panel: Panel) -> np.ndarray:
        """The tuned band's front as a line, on the scales: between its points other settings of it lie."""
        values = self.values(panel, self.rows("tuned band"))
        values = values[non_dominated(values)] if len(values) else values
        return panel.at(values[np.argsort(values[:, 0], kind="stable")])

    def spread(self, panel: Panel, most: int) -> list[int]:
        """Up to `most` learned policies from end to end of their front."""
        rows = [i for i in self.rows("learned") if self.best[i]]
        order = np.lexsort(self.values(panel, rows).T[::-1])
        return [
            rows[order[j]] for j in sorted({*np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)})
        ]

    def interval(self, panel: Panel, i: int) -> np.ndarray | None:
        """Low and high x, low and high y of a point, on the scales."""
        low, high = self.points[i].low, self.points[i].high
        ends = [number(side.get(name)) for name in (panel.x, panel.y) for side in (low, high)]
        if not np.isfinite(ends).all():
            return None
        return np.concatenate([panel.scale_x(ends[:2]), panel.scale_y(ends[2:])])

    def tint(self, i: int) -> str:
        """The colour of a point."""
        point = self.points[i]
        return self.tints[point.family] if point.group == "learned" else colour("ink")

    def size(self, i: int) -> float:
        """The diameter of a point, in points."""
        return self.sizes.get(self.points[i].parameters.get(self.size_by), 0.5 * (SMALLEST + LARGEST))

    def shape(self, i: int) -> int:
        """The number of a point's shape."""
        return self.shapes.get(self.points[i].parameters.get(self.shape_by), 0)

    def short(self, i: int) -> str:
        """What stands beside a point: a baseline's name, a learned policy's two parameters."""
        point = self.points[i]
        if point.group == "baseline":
            return cut(point.label, LONGEST)
        told = [
            f"{key} {plain(point.parameters[key])}" for key in (self.size_by, self.shape_by) if key in point.parameters
        ]
        return ", ".join(told) if told else cut(point.label, LONGEST)

    def caption(self) -> str:
        """How to read it."""
        panels = self.panels()
        scales = {panel.x: panel.scale_x for panel in panels} | {panel.y: panel.scale_y for panel in panels}
        learned = bool(self.rows("learned"))
        more = len(self.names) > 2
        says = [
            "Lower and further left is better.",
            "P&L after costs, and costs, over the standard deviation of the unhedged P&L on the same episodes.",
        ]
        if learned:
            says.append("Stepped line: front of the learned policies; pale: one of them is as good and better in one.")
        if self.rows("tuned band"):
            says.append("Dashed: front of the tuned band.")
        says.append("Ringed, and filled diamonds: on the front of all policies together.")
        if any(point.low for point in self.points):
            says.append("Bars: percentile bootstrap intervals.")
        if self.corner and learned and not more:
            says.append("Shaded: what the learned front commands below the reference, its hypervolume.")
        if more:
            says.append("Lines are of each panel alone; pale, ringed and filled are by all objectives together.")
        if any(scale.kind == "logarithmic" for scale in scales.values()):
            strip = "; linear from 0 to the break" if any(scale.strip for scale in scales.values()) else ""
            says.append(f"Logarithmic where numbers are far apart{strip}.")
        places = [(cut(point.label, LONGEST), point.values) for point in self.points]
        places += [("the reference", self.corner)] if self.corner else []
        beyond = [
            f"{label} ({OBJECTIVES[name].label} {values[name]:.3g})"
            for label, values in places
            for name, scale in scales.items()
            if abs(values[name]) > scale.cap
        ]
        if beyond:
            says.append(f"At the edge, as far beyond it: {', '.join(beyond)}.")
        if self.left_out:
            says.append(f"Not drawn, as not finite: {', '.join(cut(each, LONGEST) for each in self.left_out)}.")
        return " ".join(says)


def _ranks(keys: Iterable[Any]) -> dict[Any, int]:
    """Distinct keys by size, None left out: numbers first, then text."""
    distinct = [key for key in dict.fromkeys(keys) if key is not None]
    distinct.sort(key=lambda key: (isinstance(key, str), key if isinstance(key, int | float) else 0.0, str(key)))
    return {key: i for i, key in enumerate(distinct)}


def labels(
    picture: Picture, panel: Panel, everything: np.ndarray, frame: tuple[float, float], letter: float, most: int
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(number of the point, its place, centre of its label), places as shares of the frame.

    Every baseline has one, and up to `most` learned policies spread over their front. frame, letter: in one unit.
    """
    size = np.array(frame)
    low, high = np.array(panel.limits[::2]), np.array(panel.limits[1::2])
    marks = (everything - low) / (high - low) * size
    firm = picture.rows("baseline")
    soft = picture.spread(panel, most) if len(picture.names) == 2 else []
    chosen = [*firm, *soft]
    sizes = np.array([text_size(picture.short(i), letter) for i in chosen]).reshape(-1, 2)
    lines = [line for line in (picture.staircase(panel), picture.band(panel)) if len(line)]
    along = [(_dense(line) - low) / (high - low) * size for line in lines]
    placed = place_labels(marks[chosen], sizes, np.vstack([marks, *along]), frame, len(firm))
    return [
        (i, marks[i] / size, np.array(middle) / size)
        for i, middle in zip(chosen, placed, strict=True)
        if middle is not None
    ]


def _dense(line: np.ndarray, steps: int = 12) -> np.ndarray:
    """Points along a line."""
    share = np.linspace(0.0, 1.0, steps)[:, None, None]
    return (line[:-1] * (1.0 - share) + line[1:] * share).reshape(-1, 2)


def end_of_leader(
    point: np.ndarray, middle: np.ndarray, size: tuple[float, float], frame: tuple[float, float]
) -> np.ndarray:
    """The point of a label's box that is nearest to the point it belongs to, as shares of the frame."""
    half = 0.5 * np.array(size) / np.array(frame)
    return np.clip(point, middle - half, middle + half)
