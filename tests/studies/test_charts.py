"""Pictures and tables of a front: they open, hold every label, need nothing else, put numbers in their place."""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
import re
import struct
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from hedgerl.studies.charts import Point, front_html, front_png, front_text, measured, records
from hedgerl.studies.front import compare_fronts, non_dominated
from hedgerl.studies.look import Picture, labels
from hedgerl.studies.plane import Scale, place_labels, text_size

NASTY = '</script><b>alert("x")</b> & $\\frac{1}{0}$'
NAMES = ("risk", "cost")


def point(label: str, group: Any, risk: float, cost: float, tail: float | None = None, **more: Any) -> Point:
    values = {"risk": risk, "cost": cost, "tail": 2.0 * risk if tail is None else tail}
    low, high = ({name: each * by for name, each in values.items()} for by in (0.97, 1.03))
    return Point(label, group, values, low, high, **more)


def study(seed: int = 0) -> list[Point]:
    """Learned policies of three losses, a tuned band, baselines that crowd together, and no hedge far away."""
    rng = np.random.default_rng(seed)
    points = []
    for loss in ("abs", "mse", "cvar"):
        for w in (0.001, 0.01, 0.1, 1.0):
            for lam in (0.0001, 0.001):
                cost = 0.02 * (w / 0.1) ** 0.3 * rng.uniform(0.9, 1.1)
                risk = 0.25 + 0.7 * math.exp(-cost / 0.02) + 0.05 * rng.uniform()
                parameters = {"w": w, "lam": lam, "seed": 1}
                path = f"runs/{loss}-{w:g}-{lam:g}/policy"
                points.append(
                    point(f"{loss} {w:g} {lam:g}", "learned", risk, cost, family=loss, parameters=parameters, path=path)
                )
    points += [point(f"band {i}", "tuned band", 0.3 + 0.05 * i, 0.05 - 0.006 * i) for i in range(5)]
    points.append(point("none", "baseline", 1.0, 0.0))
    crowd = (
        "delta",
        "implied delta",
        "minimum variance",
        "min variance regressed",
        "leland",
        "whalley wilmott",
        "lazy",
    )
    points += [point(each, "baseline", 0.40 + 0.004 * i, 0.055 - 0.0005 * i) for i, each in enumerate(crowd)]
    on = non_dominated([[each.values[name] for name in NAMES] for each in points])
    return [Point(**{**vars(each), "on_front": bool(is_on)}) for each, is_on in zip(points, on, strict=True)]


def pixels(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG whose parts are whole."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, kinds = 8, []
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + data)
        kinds.append(kind)
        at += 12 + length
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    return struct.unpack(">II", png[16:24])


class Page(HTMLParser):
    """Tags with attributes, texts of the figure and of the packed script, cells of the table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.cells: list[str] = []
        self.words: list[str] = []
        self.current = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.current = tag
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.current = ""

    def handle_data(self, data: str) -> None:
        if self.current == "script":
            self.inside[str(self.tags[-1][1].get("id"))] = data
        elif self.current == "td":
            self.cells[-1] += data
        else:
            self.words.append(data)

    @property
    def figure(self) -> Any:
        return json.loads(self.inside["figure"])


def hovers(figure: Any) -> list[str]:
    """What stands under the mouse, as text."""
    said = [each for trace in figure["data"] for each in np.atleast_1d(trace.get("hovertext", []))]
    return [html.unescape(each.replace("<br>", "\n").replace("<b>", "").replace("</b>", "")) for each in said]


@pytest.mark.parametrize(("names", "corner"), [((*NAMES, "tail"), (1.1, 0.1, 2.5)), (NAMES, None)])
def test_picture_is_a_png_of_a_sensible_size(names: tuple[str, ...], corner: tuple[float, ...] | None) -> None:
    """Behaviour: whole PNG bytes, for one panel and for three with their key."""
    width, height = pixels(front_png(study(), names, reference=corner, title="A title", subject="a subject"))
    assert 1200 < width < 2400
    assert 800 < height < 2400


def test_identity_same_points_same_picture() -> None:
    """Identity: the same bytes each time, others for other points. Catches a time stamp, and a picture of nothing."""
    given = study()[::3]
    first = front_png(given, reference=(1.1, 0.1))
    assert first == front_png(given, reference=(1.1, 0.1))
    assert first != front_png(given[1:], reference=(1.1, 0.1))


def test_baselines_are_labelled_and_labels_do_not_overlap() -> None:
    """Behaviour: eight baselines, seven of which lie within a label's height. Catches labels on top of each other, out
    of the frame, or left out."""
    picture = Picture.of(study(), NAMES, (1.1, 0.1), "w", "lam")
    (panel,) = picture.panels()
    frame = (470.0, 360.0)
    everything = panel.at(picture.values(panel, range(len(picture.points))))
    placed = labels(picture, panel, everything, frame, 9.0, 8)
    assert {i for i, _, _ in placed} >= set(picture.rows("baseline"))
    assert len(placed) > len(picture.rows("baseline"))
    boxes = []
    for i, _, middle in placed:
        half, at = 0.5 * np.array(text_size(picture.short(i), 9.0)), middle * frame
        assert (at - half >= -0.5).all()
        assert (at + half <= np.array(frame) + 0.5).all()
        boxes.append((at - half, at + half))
    for i, (low, high) in enumerate(boxes):
        for other_low, other_high in boxes[:i]:
            assert (np.minimum(high, other_high) - np.maximum(low, other_low)).min() <= 0.5


def test_labels_that_must_be_placed_are_where_there_is_no_room() -> None:
    """Behaviour: twenty labels in a frame for four: firm ones all have a place, others give way."""
    anchors, sizes = np.full((20, 2), 20.0), np.full((20, 2), 18.0)
    placed = place_labels(anchors, sizes, anchors, (40.0, 40.0), 12)
    assert all(each is not None for each in placed[:12])
    assert all(each is None for each in placed[12:])


@pytest.mark.parametrize("names", [NAMES, (*NAMES, "tail"), (*NAMES, "tail", "semi_deviation")])
def test_page_needs_nothing_else(names: tuple[str, ...]) -> None:
    """Behaviour: no address in the whole page but inside the packed plotly, which is whole; no tag that fetches."""
    given = [
        Point(**{**vars(each), "values": {**each.values, "semi_deviation": each.values["risk"]}}) for each in study()
    ]
    text = front_html(given, names, reference=[3.0] * len(names), title="Front", subject="of a study")
    page = Page(text)
    assert "://" not in text
    assert "@import" not in text
    assert "url(" not in text
    for tag, attrs in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert not {"src", "href", "srcset", "action", "onload", "onclick"} & set(attrs)
    script = gzip.decompress(base64.b64decode(page.inside["plotly"])).decode()
    assert re.match(r"/\*\*\s*\* plotly\.js", script)
    assert "Plotly" in script
    assert len(text) < 2_200_000
    assert text == front_html(given, names, reference=[3.0] * len(names), title="Front", subject="of a study")


@pytest.mark.parametrize("names", [NAMES, (*NAMES, "tail")])
def test_figure_is_one_that_plotly_knows(names: tuple[str, ...]) -> None:
    """Twin: plotly's own validators take the figure. Catches a misspelt attribute, which a browser ignores silently."""
    go = pytest.importorskip("plotly.graph_objects")
    figure = Page(front_html(study(), names, reference=[2.0] * len(names))).figure
    made = go.Figure(figure)
    assert len(made.data) == len(figure["data"])
    assert {trace.type for trace in made.data} == ({"scatter"} if len(names) == 2 else {"scatter3d"})


@pytest.mark.parametrize("names", [NAMES, (*NAMES, "tail")])
def test_every_point_is_under_the_mouse_with_all_that_is_known(names: tuple[str, ...]) -> None:
    """Behaviour: label, loss, parameters, every measure with its interval, the bundle's path; once for each policy."""
    given = study()
    page = Page(front_html(given, names, reference=[3.0] * len(names)))
    said = hovers(page.figure)
    assert len(said) == len(given) + 1  # and the reference
    for each in given:
        (hover,) = [text for text in said if text.split("\n")[0] == each.label]
        assert all(f"{key}: {value:g}" in hover for key, value in each.parameters.items())
        assert each.path in hover
        assert each.family in hover
        assert f"CVaR 95 %: {each.values['tail']:.4f} [{each.low['tail']:.4f}, {each.high['tail']:.4f}]" in hover
        assert ("\non the front" in hover) is each.on_front
        assert each.label in page.cells
    groups = {trace["legendgroup"] for trace in page.figure["data"] if "legendgroup" in trace}
    assert groups >= {"learned abs", "learned mse", "learned cvar", "tuned band", "baseline"}
    shown = [trace["name"] for trace in page.figure["data"] if trace.get("showlegend", True)]
    assert len(shown) == len(set(shown))


def test_places_in_the_page_are_those_of_the_numbers() -> None:
    """Identity: ticks name the numbers under them, and points of a trace lie where the ticks' scale puts them, bars
    included. Catches an axis that is drawn logarithmic and labelled linear."""
    given = study()
    figure = Page(front_html(given, NAMES)).figure
    for axis, name in (("x", "cost"), ("y", "risk")):
        scale = Scale.of(np.array([each.values[name] for each in given]))
        ticks = figure["layout"][f"{axis}axis"]
        assert len(ticks["tickvals"]) >= 3
        np.testing.assert_allclose(scale([float(each) for each in ticks["ticktext"]]), ticks["tickvals"], atol=1e-12)
        for trace in figure["data"]:
            if trace["mode"] != "markers":
                continue
            owners = [html.unescape(each.split("</b>")[0][3:]) for each in trace["hovertext"]]
            owned = [next(each for each in given if each.label == owner) for owner in owners]
            np.testing.assert_allclose(trace[axis], scale([each.values[name] for each in owned]), atol=1e-12)
            if f"error_{axis}" in trace:
                tops = np.add(trace[axis], trace[f"error_{axis}"]["array"])
                np.testing.assert_allclose(tops, scale([each.high[name] for each in owned]), atol=1e-12)


@pytest.mark.parametrize("names", [NAMES, (*NAMES, "tail")])
def test_odd_labels_are_text(names: tuple[str, ...]) -> None:
    """Behaviour: mark-up, quotes and formulas in every text. Catches a label that ends the script or that is run."""
    given = [
        point(NASTY, "learned", 0.5, 0.02, family=NASTY, parameters={NASTY: NASTY, "w": 1, "lam": "x"}, path=NASTY),
        point(NASTY + "2", "baseline", 0.6, 0.03),
        point("日本\nzwei", "baseline", 0.4, 0.05),
        point("", "tuned band", 0.45, 0.04),
    ]
    pixels(front_png(given, names, title=NASTY, subject=NASTY))
    text = front_html(given, names, title=NASTY, subject=NASTY)
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "b" not in {tag for tag, _ in page.tags}
    assert NASTY in page.words
    assert any(hover.startswith(NASTY + "\n") for hover in hovers(page.figure))
    for trace in page.figure["data"]:
        assert "<" not in trace.get("name", "")
        assert not any("<" in each for each in trace.get("text", []))
        for hover in np.atleast_1d(trace.get("hovertext", [])):
            assert not re.search(r"<(?!/?b>|br>)", hover)
    assert "zwei" in front_text(given)


def test_far_points_do_not_squash_the_rest() -> None:
    """Behaviour: a diverged policy 1e5 away, an idle one at a cost of 1e-9, no hedge at 0. Catches an axis on which all
    others share one pixel; what is cut off is said."""
    given = [*study(), point("diverged", "learned", 1e5, 40.0, family="abs"), point("idle", "learned", 0.99, 1e-9)]
    picture = Picture.of(given, NAMES, (1.1, 0.1), "w", "lam")
    (panel,) = picture.panels()
    places = panel.at(picture.values(panel, range(len(given))))
    low, high = np.array(panel.limits[::2]), np.array(panel.limits[1::2])
    assert ((places >= low) & (places <= high)).all()
    inner = places[: len(study())]
    assert ((inner.max(axis=0) - inner.min(axis=0)) / (high - low) > 0.3).all()
    assert "diverged (Risk 1e+05)" in picture.caption()
    assert "diverged (Cost 40)" in picture.caption()
    assert "the reference" not in picture.caption().split("At the edge")[1]
    assert "the reference (Risk 500)" in Picture.of(given, NAMES, (500.0, 0.1), "w", "lam").caption()
    assert panel.scale_x(0.0) < panel.scale_x(1e-9) < panel.scale_x(0.02)


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0],
        [0.3, 0.4],
        [0.0, 0.02, 0.05],
        [0.0, 1e-9, 0.02, 0.05],
        [0.01, 0.5, 1.0],
        [-0.1, 0.2, 0.3],
        [-0.1, 0.1, 0.1, 5.0],
        [1e-12, 1.0, 1.0],
    ],
)
def test_scales_rise_and_have_ticks(values: list[float]) -> None:
    """Identity: a larger number never lies lower, below the cap strictly higher; ticks lie inside and name numbers."""
    scale = Scale.of(np.array(values))
    numbers = np.unique([*values, *np.linspace(min(values), max(values), 200)])
    places = scale(numbers)
    assert np.isfinite(places).all()
    assert (np.diff(places)[numbers[1:] <= scale.cap] > 0.0).all()
    assert (np.diff(places) >= 0.0).all()
    low, high = float(places.min()) - 0.1, float(places.max()) + 0.1
    at, words = scale.ticks(low, high)
    assert 2 <= len(at) <= 20
    assert len(set(words)) == len(words)
    assert all(low <= each <= high for each in at)
    np.testing.assert_allclose(scale([float(each.replace("−", "-")) for each in words]), at, atol=1e-9)


def test_policies_without_numbers_are_named_not_drawn() -> None:
    """Behaviour: NaN is left out of the picture with a word, and a dash in the table; nothing to draw is an error."""
    given = [*study(), point("broken", "learned", math.nan, 0.1, family="abs"), Point("empty", "baseline")]
    picture = Picture.of(given, NAMES, None, "w", "lam")
    assert len(picture.points) == len(given) - 2
    assert "Not drawn, as not finite: broken, empty." in picture.caption()
    pixels(front_png(given))
    page = Page(front_html(given))
    assert "broken" in page.cells
    assert "–" in page.cells
    with pytest.raises(ValueError, match="points must have at least one with finite risk, cost, got 2 without"):
        front_png(given[-2:])


def test_few_and_lone_points_can_be_drawn() -> None:
    """Behaviour: one group alone, one point alone, equal points. Catches limits of no width and empty groups."""
    whole = study()
    for group in ("learned", "tuned band", "baseline"):
        alone = [each for each in whole if each.group == group]
        for given in (alone, alone[:1], [alone[0]] * 3):
            if given is not alone:
                pixels(front_png(given))
            assert Page(front_html(given)).figure["data"]


def test_points_take_their_numbers_from_a_comparison() -> None:
    """Behaviour: values, intervals and the front by policy number; rows for a file hold them by name."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=200)
    pnl = np.outer([0.5, 0.3, 0.6], z)
    cost = np.repeat([[0.1], [0.2], [0.3]], 200, axis=1)
    found = compare_fronts(pnl, cost, z, {"all": [0, 1, 2]}, reference=(1.0, 1.0), n_resamples=20)
    bare = [Point(str(i), "learned", parameters={"w": i}) for i in range(3)]
    rows = records(measured(bare, found))
    assert [row["on_front"] for row in rows] == [True, True, False]
    for i, row in enumerate(rows):
        assert (row["label"], row["w"]) == (str(i), i)
        assert [row["risk"], row["cost"]] == found.values[i].tolist()
        assert [row["risk_low"], row["cost_high"]] == [found.low[i, 0], found.high[i, 1]]
    with pytest.raises(ValueError, match="points must be of the comparison's 3 policies, got 2"):
        measured(bare[:2], found)
    with pytest.raises(ValueError, match="group must be one of learned, tuned band, baseline, got 'mine'"):
        Point("a", "mine")  # type: ignore[arg-type]


def test_text_is_an_aligned_table() -> None:
    """Behaviour: a row a policy, numbers under their heads, a star for the front alone."""
    given = study()
    head, rule, *rows, _ = front_text(given, (*NAMES, "tail")).split("\n")
    assert len(rows) == len(given)
    assert [row.startswith("*") for row in rows] == [each.on_front for each in given]
    for name in ("Risk", "Cost", "CVaR 95 %"):
        end = head.index(name) + len(name)
        assert {row[end - 1] for row in rows} == {"]"}
    assert len(rule) == max(map(len, rows))
    assert "w 0.001, lam 0.0001, seed 1" in rows[0]
    for each, row in zip(given, rows, strict=True):
        assert each.label in row
        found = [float(number) for number in re.findall(r"(\d+\.\d+) \[", row)]
        np.testing.assert_allclose(found, [each.values[name] for name in (*NAMES, "tail")], rtol=1e-3)


@pytest.mark.parametrize("draw", [front_png, front_html])
def test_errors(draw: Any) -> None:
    """Behaviour: a mistake names the argument, the rule and the value."""
    with pytest.raises(ValueError, match="objectives must be among risk, .*, got 'rsk'; the nearest is 'risk'"):
        draw(study(), ("rsk", "cost"))
    with pytest.raises(ValueError, match="objectives must be 2 to 5 different ones, got risk"):
        draw(study(), ("risk",))
    with pytest.raises(ValueError, match=r"reference must have a number for each of risk, cost, got \[1.0\]"):
        draw(study(), NAMES, reference=[1.0])
