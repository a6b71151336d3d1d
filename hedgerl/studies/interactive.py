"""The front of a study as a page for the browser, with plotly."""

from __future__ import annotations

import base64
import functools
import gzip
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from hedgerl.report.drawing import colour, style
from hedgerl.studies.front import OBJECTIVES
from hedgerl.studies.look import PALE, Picture, axis_label, end_of_leader, labels, limits_of
from hedgerl.studies.plane import Scale, text_size
from hedgerl.studies.points import Point, cells, number, plain, with_interval

SHAPES = ("circle", "square", "triangle-up", "triangle-down", "cross", "x", "pentagon", "hexagon")
SHAPES_3D = ("circle", "square", "diamond", "cross", "x", "circle-open", "square-open", "diamond-open")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 1rem auto; max-width: 72rem; padding: 0 1rem; color: {ink}; background: {paper};
  font: 15px/1.5 "DejaVu Sans", Verdana, system-ui, sans-serif; }}
h1 {{ font-size: 1.35rem; margin: 0; }}
.subject, .caption {{ color: {muted}; margin: 0.2rem 0; }}
.caption, table {{ font-size: 0.85rem; }}
#front {{ width: 100%; height: {height}px; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; white-space: nowrap; }}
th, td {{ padding: 0.15rem 0.7rem 0.15rem 0; text-align: left; border-bottom: 1px solid {grid}; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="subject">{subject}</p>
<div id="front" role="img" aria-label="{title}. The table below has the numbers."></div>
<p class="caption">{caption}</p>
<details><summary>Table</summary><div class="wide"><table>
<thead>{head}</thead>
<tbody>
{rows}
</tbody></table></div></details>
<script type="application/json" id="figure">{figure}</script>
<script type="text/plain" id="plotly">{plotly}</script>
<script>
(async () => {{
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  const figure = JSON.parse(document.getElementById("figure").textContent);
  await Plotly.newPlot("front", figure.data, figure.layout, {{ responsive: true, displaylogo: false }});
}})().catch((error) => {{
  document.getElementById("front").textContent = "This browser cannot draw the chart (" + error + "); see the table.";
  document.querySelector("details").open = true;
}});
</script>
</body>
</html>
"""
_FRAME = (780.0, 540.0)  # pixels of the plane in the browser, about
_LETTER = 12.0  # pixels
_CLEAR = "rgba(0,0,0,0)"


def front_html(
    points: Iterable[Point],
    objectives: Sequence[str] = ("risk", "cost"),
    *,
    reference: Sequence[float] | None = None,
    title: str | None = None,
    subject: str = "",
    size_by: str = "w",
    shape_by: str = "lam",
) -> str:
    """The front as a page that needs nothing else: what a point is, under the mouse; groups that the key turns off.

    Two objectives lie in a plane; of three or more the first three make a space that turns. plotly's script is inside,
    packed (1.9 of 4.8 MB), and is unpacked by the browser (any of 2023 or later). A table of the numbers stands below.

    Raises ValueError as `front_png`.
    """
    given = list(points)
    picture = Picture.of(given, objectives, reference, size_by, shape_by)
    with style():  # which keeps silent about letters that the font has not
        figure = _plane(picture) if len(picture.names) == 2 else _space(picture)
    head, rows = cells(given, picture.names)
    head, rows = [*head, "path"], [[*row, point.path] for row, point in zip(rows, given, strict=True)]

    def row_of(row: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

    return _PAGE.format(
        title=html.escape(picture.title() if title is None else title),
        subject=html.escape(subject),
        caption=html.escape(f"{picture.caption()} {_told(picture)}".strip()),
        head=row_of(head, "th"),
        rows="\n".join(row_of(row, "td") for row in rows),
        figure=json.dumps(figure, allow_nan=False).replace("<", "\\u003c"),
        plotly=_packed_plotly(),
        height=660,
        **{role: colour(role) for role in ("ink", "paper", "muted", "grid")},
    )


@functools.cache
def _packed_plotly() -> str:
    script = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, 9, mtime=0)).decode()


def _told(picture: Picture) -> str:
    """What size and shape of points mean."""
    text = f"Size: {picture.size_by}. " if len(picture.sizes) > 1 else ""
    if len(picture.shapes) > 1:
        signs = (f"{plain(key)} {SHAPES[shape][1]}" for key, shape in picture.shapes.items())
        text += f"Shape: {picture.shape_by} ({', '.join(signs)})."
    return text.strip()


def _hover(point: Point) -> str:
    """Everything of a point, as plotly's mark-up."""
    lines = [f"<b>{html.escape(point.label)}</b>", html.escape(", ".join(filter(None, (point.group, point.family))))]
    lines += [html.escape(f"{key}: {plain(each)}") for key, each in point.parameters.items()]
    for name in point.values:
        label = OBJECTIVES[name].label if name in OBJECTIVES else name
        lines.append(html.escape(f"{label}: {with_interval(point, name)}"))
    lines.append("on the front" if point.on_front else "not on the front")
    if point.path:
        lines.append(html.escape(point.path))
    return "<br>".join(lines)


Axes = Mapping[str, tuple[str, Scale]]  # "x", "y" and in space "z" -> objective and scale


def _series(picture: Picture, axes: Axes) -> list[dict[str, Any]]:
    """The points as traces of plotly, by group."""
    traces: list[dict[str, Any]] = []
    for family in picture.tints:
        rows = [i for i in picture.rows("learned") if picture.points[i].family == family]
        parts = [[i for i in rows if not picture.best[i]], [i for i in rows if picture.best[i]]]
        for part in parts:
            if part:
                how = {
                    "name": html.escape(family or "learned"),
                    "legendgroup": html.escape(f"learned {family}"),
                    "showlegend": part is parts[1] or not parts[1],
                    "opacity": PALE if part is parts[0] else 1.0,
                }
                traces.append({**_marks(picture, part, axes, bars=part is parts[1]), **how})
    for group in ("tuned band", "baseline"):
        rows = picture.rows(group)
        if rows:
            how = {"name": "baselines" if group == "baseline" else group, "legendgroup": group}
            traces.append({**_marks(picture, rows, axes, bars=True), **how})
    if picture.corner:
        told = "<br>".join(f"{html.escape(OBJECTIVES[name].label)}: {each:g}" for name, each in picture.corner.items())
        space = len(axes) == 3
        traces.append(
            {
                "type": "scatter3d" if space else "scatter",
                "mode": "markers",
                "name": "reference point",
                "hoverinfo": "text",
                "hovertext": f"reference point<br>{told}",
                "marker": {
                    "symbol": "cross" if space else "cross-thin",
                    "size": 6 if space else 13,
                    "color": colour("p6"),
                    "line": {"color": colour("p6"), "width": 2.2},
                },
                **{axis: scale([picture.corner[name]]).tolist() for axis, (name, scale) in axes.items()},
            }
        )
    return traces


def _marks(picture: Picture, rows: Sequence[int], axes: Axes, *, bars: bool) -> dict[str, Any]:
    """Points of one group as a trace."""
    space = len(axes) == 3
    members = [picture.points[i] for i in rows]
    group = members[0].group
    if group == "learned":
        edges = [colour("ink") if each.on_front else _CLEAR for each in members]
        faces = [picture.tint(i) for i in rows]
        sizes = [1.5 * picture.size(i) for i in rows]
        shapes = [(SHAPES_3D if space else SHAPES)[picture.shape(i)] for i in rows]
    else:
        edge = colour("ink" if group == "baseline" else "muted")
        edges = [edge] * len(rows)
        faces = [edge if each.on_front else colour("paper") for each in members]
        sizes = [9.0 if group == "baseline" else 6.5] * len(rows)
        shapes = ["diamond" if group == "baseline" else "circle"] * len(rows)
    trace: dict[str, Any] = {
        "type": "scatter3d" if space else "scatter",
        "mode": "markers",
        "hovertext": [_hover(each) for each in members],
        "hoverinfo": "text",
        "marker": {
            "size": [0.6 * each for each in sizes] if space else sizes,
            "symbol": shapes,
            "color": faces,
            "opacity": 1.0,
            "line": {"color": edges, "width": 2.0 if space else 1.5},
        },
    }
    for axis, (name, scale) in axes.items():
        place = scale([each.values[name] for each in members])
        trace[axis] = place.tolist()
        ends = [scale([number(side.get(name)) for side in (each.low, each.high)]) for each in members]
        if bars and any(np.isfinite(each).all() for each in ends):
            reach = np.nan_to_num([[at - low, high - at] for at, (low, high) in zip(place, ends, strict=True)])
            trace[f"error_{axis}"] = {
                "type": "data",
                "symmetric": False,
                "arrayminus": np.maximum(reach[:, 0], 0.0).tolist(),
                "array": np.maximum(reach[:, 1], 0.0).tolist(),
                "thickness": 1.0,
                "width": 0,
                "color": faces[0] if group == "learned" else edges[0],
            }
    return trace


def _line(points: np.ndarray, name: str, group: str, *, shown: bool = True, **line: Any) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "legendgroup": group,
        "showlegend": shown,
        "hoverinfo": "skip",
        "x": [None if math.isnan(each) else each for each in points[:, 0].tolist()],
        "y": [None if math.isnan(each) else each for each in points[:, 1].tolist()],
        "line": line,
    }


def _axis(name: str, scale: Scale, low: float, high: float) -> dict[str, Any]:
    places, numbers = scale.ticks(low, high)
    return {
        "title": {"text": axis_label(name)},
        "tickmode": "array",
        "tickvals": places,
        "ticktext": numbers,
        "range": [low, high],
        "gridcolor": colour("grid"),
        "zeroline": False,
        "linecolor": colour("muted"),
        "color": colour("muted"),
    }


def _layout() -> dict[str, Any]:
    return {
        "paper_bgcolor": colour("paper"),
        "plot_bgcolor": colour("paper"),
        "font": {"family": "DejaVu Sans, Verdana, sans-serif", "size": _LETTER, "color": colour("ink")},
        "hoverlabel": {"bgcolor": colour("paper"), "align": "left"},
        "legend": {"groupclick": "togglegroup", "tracegroupgap": 4},
        "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
        "hovermode": "closest",
    }


def _plane(picture: Picture) -> dict[str, Any]:
    """plotly's figure of two objectives."""
    (panel,) = picture.panels()
    low_x, high_x, low_y, high_y = panel.limits
    traces: list[dict[str, Any]] = []
    commanded, staircase, band = picture.commanded(panel), picture.staircase(panel), picture.band(panel)
    if len(commanded):
        area = _line(commanded, "", "front", shown=False, width=0)
        traces.append({**area, "fill": "toself", "fillcolor": "rgba(0,114,178,0.06)"})
    if len(staircase):
        traces.append(_line(staircase, "front of the learned", "front", color=colour("ink"), width=1.4))
    if len(band):
        traces.append(_line(band, "", "tuned band", shown=False, color=colour("muted"), width=2.0, dash="dash"))
    traces += _series(picture, {"x": (panel.x, panel.scale_x), "y": (panel.y, panel.scale_y)})
    everything = panel.at(picture.values(panel, range(len(picture.points))))
    low, span = np.array([low_x, low_y]), np.array([high_x - low_x, high_y - low_y])
    leaders, words = [], []
    for i, point, middle in labels(picture, panel, everything, _FRAME, _LETTER, 0):
        text = picture.short(i)
        leaders += [point, end_of_leader(point, middle, text_size(text, _LETTER), _FRAME), [math.nan, math.nan]]
        words.append((html.escape(text), (low + span * middle).tolist()))
    if words:
        traces.append(
            _line(low + span * np.array(leaders), "", "baseline", shown=False, color=colour("ink"), width=0.7)
        )
        traces.append(
            {
                "type": "scatter",
                "mode": "text",
                "name": "",
                "legendgroup": "baseline",
                "showlegend": False,
                "hoverinfo": "skip",
                "text": [text for text, _ in words],
                "x": [place[0] for _, place in words],
                "y": [place[1] for _, place in words],
            }
        )
    axes = {
        "xaxis": _axis(panel.x, panel.scale_x, low_x, high_x),
        "yaxis": _axis(panel.y, panel.scale_y, low_y, high_y),
    }
    stroke: dict[str, Any] = {
        "text": "//",
        "showarrow": False,
        "xanchor": "center",
        "yanchor": "middle",
        "bgcolor": colour("paper"),
    }
    breaks: list[dict[str, Any]] = []
    if panel.scale_x.strip:
        breaks.append({**stroke, "xref": "x", "x": -0.5 * panel.scale_x.strip, "yref": "paper", "y": 0})
    if panel.scale_y.strip:
        breaks.append({**stroke, "xref": "paper", "x": 0, "yref": "y", "y": -0.5 * panel.scale_y.strip})
    return {"data": traces, "layout": {**_layout(), **axes, "annotations": breaks}}


def _space(picture: Picture) -> dict[str, Any]:
    """plotly's figure of the first three objectives, the first upwards."""
    up, x, y = picture.names[:3]
    ends = {name: limits_of(picture.points, name, picture.corner) for name in (up, x, y)}
    axes = {axis: (name, ends[name][0]) for axis, name in (("x", x), ("y", y), ("z", up))}
    traces = _series(picture, axes)
    rows = picture.rows("baseline")
    if rows:
        words = [html.escape(picture.short(i)) for i in rows]
        places = {
            axis: scale([picture.points[i].values[name] for i in rows]).tolist() for axis, (name, scale) in axes.items()
        }
        traces.append(
            {
                "type": "scatter3d",
                "mode": "text",
                "name": "",
                "legendgroup": "baseline",
                "showlegend": False,
                "hoverinfo": "skip",
                "text": words,
                "textposition": "top center",
                "textfont": {"size": 10, "color": colour("ink")},
                **places,
            }
        )
    scene: dict[str, Any] = {"camera": {"eye": {"x": 1.7, "y": 1.5, "z": 0.7}, "center": {"x": 0, "y": 0, "z": -0.1}}}
    for axis, (name, _) in axes.items():
        short = {"title": {"text": html.escape(OBJECTIVES[name].label)}, "tickfont": {"size": 10}}
        scene[f"{axis}axis"] = {**_axis(name, *ends[name]), **short}
    return {"data": traces, "layout": {**_layout(), "scene": scene}}
