"""The front of a study as a picture, for paper; with the browser's and the terminal's beside it."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory

from hedgerl.report.drawing import TEXT, colour, style
from hedgerl.studies.interactive import front_html
from hedgerl.studies.look import PALE, Panel, Picture, axis_label, end_of_leader, labels
from hedgerl.studies.plane import text_size
from hedgerl.studies.points import GROUPS, Group, Point, cut, front_text, measured, plain, records

__all__ = ["GROUPS", "Group", "Point", "front_html", "front_png", "front_text", "measured", "records"]

SHAPES = ("o", "s", "^", "v", "P", "X", "p", "h")
SMALL = TEXT - 2.0
ROW = 15.5  # points, of the key


def front_png(
    points: Iterable[Point],
    objectives: Sequence[str] = ("risk", "cost"),
    *,
    reference: Sequence[float] | None = None,
    title: str | None = None,
    subject: str = "",
    size_by: str = "w",
    shape_by: str = "lam",
) -> bytes:
    """The front as a PNG: a panel for each pair of objectives, the first of a pair upwards, cost always across.

    size_by, shape_by: the parameters of learned policies that the size and the shape of their points show.
    title None: what is drawn against what.

    Raises ValueError for unknown objectives, fewer than two, or no point that is finite in all of them.
    """
    picture = Picture.of(points, objectives, reference, size_by, shape_by)
    with style():
        panels = picture.panels()
        single = len(panels) == 1
        wide, tall = (470.0, 360.0) if single else (330.0, 260.0)
        left, gap_x, gap_y, key = 58.0, 74.0, 54.0, 200.0
        cells = len(panels) + 1
        lines = 1 if single else math.ceil(cells / 2)
        width = left + wide + 22.0 + key if single else left + 2 * wide + gap_x + 14.0
        caption = textwrap.wrap(picture.caption(), int(width / (0.56 * SMALL)))
        under, over = 46.0 + 1.45 * SMALL * len(caption) + 8.0, 62.0 if subject else 44.0
        needed = _key_height(picture)
        height = under + max(lines * tall + (lines - 1) * gap_y, needed if single else 0.0) + over
        figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
        for i, panel in enumerate(panels):
            line, column = (0, 0) if single else divmod(i, 2)
            bottom = height - over - tall - line * (tall + gap_y)
            axes = figure.add_axes(
                ((left + column * (wide + gap_x)) / width, bottom / height, wide / width, tall / height),
                facecolor="none",
            )
            _draw(axes, picture, panel, (wide, tall), labelled=single or len(panels) <= 3)
        line, column = (0, 1) if single else divmod(len(panels), 2)
        x = left + wide + 22.0 if single else left + column * (wide + gap_x) - 20.0
        _draw_key(figure, picture, (x, height - over - line * (tall + gap_y)), (width, height))
        figure.text(
            14 / width,
            1.0 - 14 / height,
            cut(picture.title() if title is None else title, 90),
            fontsize=TEXT + 3,
            weight="bold",
            va="top",
        )
        if subject:
            text = cut(subject, int(width / (0.56 * TEXT)))
            figure.text(14 / width, 1.0 - 34 / height, text, fontsize=TEXT, color=colour("muted"), va="top")
        for i, text in enumerate(caption):
            y = (8.0 + 1.45 * SMALL * (len(caption) - i)) / height
            figure.text(14 / width, y, text, fontsize=SMALL, color=colour("muted"), va="top")
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=170, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _draw(axes: Any, picture: Picture, panel: Panel, frame: tuple[float, float], *, labelled: bool) -> None:
    low_x, high_x, low_y, high_y = panel.limits
    axes.set_xlim(low_x, high_x)
    axes.set_ylim(low_y, high_y)
    for axis, scale, name, low, high in (
        (axes.xaxis, panel.scale_x, panel.x, low_x, high_x),
        (axes.yaxis, panel.scale_y, panel.y, low_y, high_y),
    ):
        axis.set_ticks(*scale.ticks(low, high))
        axis.set_label_text(axis_label(name))
        if scale.strip:
            _draw_break(axes, axis is axes.xaxis, -0.5 * scale.strip)

    commanded, staircase, band = picture.commanded(panel), picture.staircase(panel), picture.band(panel)
    if len(commanded):
        axes.fill(*commanded.T, color=colour("p0"), alpha=0.05, linewidth=0, zorder=1)
    if len(staircase):
        axes.plot(*staircase.T, color=colour("ink"), linewidth=1.1, zorder=2.5)
    if len(band):
        axes.plot(*band.T, color=colour("muted"), linewidth=1.6, linestyle=(0, (4, 2)), zorder=2.4)
    everything = panel.at(picture.values(panel, range(len(picture.points))))
    for i, (point, (x, y)) in enumerate(zip(picture.points, everything, strict=True)):
        tint, strong = picture.tint(i), bool(picture.best[i]) or point.group == "baseline"
        ends = picture.interval(panel, i)
        if ends is not None and strong:
            bar = {"color": tint, "linewidth": 0.9, "alpha": 0.75, "zorder": 2.8, "solid_capstyle": "butt"}
            axes.plot(ends[:2], [y, y], **bar)
            axes.plot([x, x], ends[2:], **bar)
        how: dict[str, Any] = {"linestyle": "none", "clip_on": False}
        if point.group == "learned":
            edge = colour("ink") if point.on_front else "none" if not strong else colour("paper")
            axes.plot(
                [x],
                [y],
                marker=SHAPES[picture.shape(i)],
                markersize=picture.size(i),
                mfc=tint,
                mec=edge,
                mew=1.1 if point.on_front else 0.5,
                alpha=1.0 if strong else PALE,
                zorder=4.0 if strong else 2.0,
                **how,
            )
        elif point.group == "tuned band":
            axes.plot(
                [x],
                [y],
                marker="o",
                markersize=4.0,
                mfc=colour("muted") if point.on_front else colour("paper"),
                mec=colour("muted"),
                mew=1.1,
                alpha=1.0 if strong else PALE,
                zorder=3.0,
                **how,
            )
        else:
            face = colour("ink") if point.on_front else colour("paper")
            axes.plot([x], [y], marker="D", markersize=5.5, mfc=face, mec=colour("ink"), mew=1.1, zorder=3.5, **how)
    if picture.corner:
        corner = panel.at(np.array([[picture.corner[panel.x], picture.corner[panel.y]]]))[0]
        axes.plot(
            *corner, marker="+", markersize=11, mec=colour("p6"), mew=1.8, linestyle="none", clip_on=False, zorder=5
        )
    if labelled:
        _draw_labels(axes, picture, panel, everything, frame)


def _draw_break(axes: Any, across: bool, at: float) -> None:
    """Two strokes through an axis between 0 and where the logarithm begins."""
    how = {"color": colour("muted"), "clip_on": False, "linestyle": "none", "markersize": 9, "mew": 1.0, "zorder": 6}
    if across:
        where = blended_transform_factory(axes.transData, axes.transAxes)
        axes.plot([at], [0.0], marker=[(-0.7, -1.0), (-0.1, 1.0)], transform=where, **how)
        axes.plot([at], [0.0], marker=[(0.1, -1.0), (0.7, 1.0)], transform=where, **how)
    else:
        where = blended_transform_factory(axes.transAxes, axes.transData)
        axes.plot([0.0], [at], marker=[(-1.0, -0.7), (1.0, -0.1)], transform=where, **how)
        axes.plot([0.0], [at], marker=[(-1.0, 0.1), (1.0, 0.7)], transform=where, **how)


def _draw_labels(axes: Any, picture: Picture, panel: Panel, everything: np.ndarray, frame: tuple[float, float]) -> None:
    for i, point, middle in labels(picture, panel, everything, frame, SMALL, 8):
        text = picture.short(i)
        end = end_of_leader(point, middle, text_size(text, SMALL), frame)
        tint = picture.tint(i)
        axes.plot(
            *zip(point, end, strict=True), transform=axes.transAxes, color=tint, linewidth=0.6, alpha=0.7, zorder=3
        )
        axes.text(
            *middle, text, transform=axes.transAxes, fontsize=SMALL, color=tint, ha="center", va="center", zorder=7
        )


def _key(picture: Picture) -> list[tuple[str, dict[str, Any] | None, str]]:
    """Rows of the key: kind ("head", "mark", "line"), how it is drawn, words."""
    ink, muted, paper = colour("ink"), colour("muted"), colour("paper")
    rows: list[tuple[str, dict[str, Any] | None, str]] = []
    if picture.rows("learned"):
        rows.append(("head", None, "Learned policies"))
        for family, tint in picture.tints.items():
            rows.append(("mark", {"marker": "o", "markersize": 7.5, "mfc": tint, "mec": "none"}, family or "learned"))
        if len(picture.sizes) > 1:
            for key in _few(list(picture.sizes)):
                mark = {"marker": "o", "markersize": picture.sizes[key], "mfc": muted, "mec": "none"}
                rows.append(("mark", mark, f"{picture.size_by} {plain(key)}"))
        if len(picture.shapes) > 1:
            for key, shape in picture.shapes.items():
                mark = {"marker": SHAPES[shape], "markersize": 7.5, "mfc": muted, "mec": "none"}
                rows.append(("mark", mark, f"{picture.shape_by} {plain(key)}"))
        pale = {"marker": "o", "markersize": 7.5, "mfc": ink, "mec": "none", "alpha": PALE}
        rows.append(("mark", pale, "dominated among them"))
        rows.append(("line", {"color": ink, "linewidth": 1.1}, "their front"))
    rows.append(("head", None, "Classical hedges" if picture.rows("learned") else "Hedges"))
    if picture.rows("tuned band"):
        rows.append(("line", {"color": muted, "linewidth": 1.6, "linestyle": (0, (4, 2))}, "tuned band, its front"))
    if picture.rows("baseline"):
        rows.append(("mark", {"marker": "D", "markersize": 5.5, "mfc": paper, "mec": ink, "mew": 1.1}, "baseline"))
    ring = {"marker": "o", "markersize": 7.5, "mfc": paper, "mec": ink, "mew": 1.1}
    rows.append(("head", None, "All together"))
    rows.append(("mark", ring, "ringed or filled: on the front"))
    if picture.corner:
        rows.append(("mark", {"marker": "+", "markersize": 10, "mec": colour("p6"), "mew": 1.8}, "reference point"))
    return rows


def _few(keys: list[Any]) -> list[Any]:
    """The first, the middle and the last."""
    return keys if len(keys) <= 3 else [keys[0], keys[len(keys) // 2], keys[-1]]


def _key_height(picture: Picture) -> float:
    return ROW * sum(1.35 if kind == "head" else 1.0 for kind, _, _ in _key(picture))


def _draw_key(figure: Figure, picture: Picture, top_left: tuple[float, float], size: tuple[float, float]) -> None:
    (x, y), (width, height) = top_left, size
    for kind, how, words in _key(picture):
        y -= ROW * (1.35 if kind == "head" else 1.0)
        at = (y + 0.5 * ROW) / height
        if kind == "head":
            figure.text(x / width, at, words, fontsize=TEXT - 1, weight="bold", va="center_baseline")
            continue
        if kind == "line":
            figure.add_artist(Line2D([x / width, (x + 20) / width], [at, at], **(how or {})))
        else:
            figure.add_artist(Line2D([(x + 10) / width], [at], linestyle="none", **(how or {})))
        figure.text((x + 28) / width, at, cut(words, 30), fontsize=TEXT - 1, va="center_baseline")
