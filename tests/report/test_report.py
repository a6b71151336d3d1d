"""The report: structure of the page, agreement of its files, what happens where things go wrong."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hedgerl.evaluation.comparison import Study
from hedgerl.evaluation.metrics import METRICS
from hedgerl.report import table, write_report
from hedgerl.report.charts import _apart, _stacked
from hedgerl.report.drawing import COLOURS
from hedgerl.report.files import all_or_nothing
from hedgerl.report.numbers import best, decimals, equity, front, show, strict

_SPEC = importlib.util.spec_from_file_location("report_studies", Path(__file__).with_name("studies.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
studies = importlib.util.module_from_spec(_SPEC)
sys.modules["report_studies"] = studies
_SPEC.loader.exec_module(studies)

NASTY = '<script>alert("x")</script> & $\\frac{1}{0}$ <b id="s1-costs-title">'
VOID = {"meta", "br", "link", "img", "input", "hr", "use", "path", "wbr"}


def write(folder, *given: Study, **more) -> Path:
    settings = {
        "title": "Backtest",
        "config": {"n_paths": 200, "market": {"sigma": 0.2}},
        "seed": 1,
        "commit": "abc123",
        "version": "0.1.0",
        "command": "hedgerl backtest",
    }
    return write_report(given, folder, **(settings | more))


class Page(HTMLParser):
    """What a page holds: tags with attributes, the text of scripts, whether tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == name]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A report of a simulated and a historical market."""
    folder = tmp_path_factory.mktemp("report") / "run"
    given = (studies.study(4), studies.study(4, "history", n=60, market="S&P 500"))
    return write(folder, *given), given


def test_page_needs_nothing_else(whole):
    """Catches a script, style sheet, font or picture from outside, and a link that leads nowhere."""
    text = whole[0].read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.tags:
        assert not {"src", "srcset", "action", "poster", "onload", "onclick"} & set(attrs)
        for name in ("href", "xlink:href"):
            if attrs.get(name) is not None:
                assert attrs[name].startswith("#")
                assert attrs[name][1:] in ids
    for target in re.findall(r"url\(([^)]*)\)", text):
        assert target.strip("#") in ids
    assert "@import" not in text
    assert "://" not in text.replace("http://www.w3.org/", "")
    assert not page.all("link")
    assert not page.all("img")


def test_page_can_be_read_by_everybody(whole):
    """Catches a chart without words, a table without heads, and a page that a phone shows at the size of a desk's."""
    page = Page(whole[0].read_text(encoding="utf-8"))
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert page.all("html")[0]["lang"] == "en"
    assert any(attrs.get("name") == "viewport" for attrs in page.all("meta"))
    for attrs in page.all("svg"):
        assert attrs["role"] == "img"
        assert set(attrs["aria-labelledby"].split()) <= ids
    assert len(page.all("svg")) == len(page.all("figure")) == 6 + 8
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(attrs.get("scope") in ("col", "row", "colgroup") for attrs in page.all("th"))
    style = next(text for text in page.words if "prefers-color-scheme" in text)
    assert "@media print" in style


def test_page_says_what_it_must(whole):
    words = " ".join(Page(whole[0].read_text(encoding="utf-8")).words)
    assert "model marks, not market quotes" in words
    assert "Black-Scholes at 21-day realised volatility." in words
    assert "There is no equity curve" in words
    assert "1987 crash: no episode lies between" in words
    assert all(about.label in words for about in METRICS.values())
    assert all(text in words for text in ("abc123", "hedgerl 0.1.0", "hedgerl backtest", '"sigma": 0.2'))
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:|nan\b|\binf\b|None\b", words) is None


def test_numbers_of_the_files_agree(whole):
    """Catches a file made from other numbers than those of the studies, and a number lost on the way."""
    path, given = whole
    content = json.loads(
        path.with_name("results.json").read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name)
    )
    assert (content["seed"], content["commit"], content["version"]) == (1, "abc123", "0.1.0")
    assert content["config"] == {"n_paths": 200, "market": {"sigma": 0.2}}
    frame = pd.read_csv(path.with_name("results.csv"), keep_default_na=False, na_values=[""])
    for study, told in zip(given, content["studies"], strict=True):
        rows = {row["policy"]: row for row in told["rows"] if row["regime"] == "all"}
        mine = frame[(frame["market"] == study.market) & (frame["regime"] == "all")]
        for policy, result in study.results.items():
            values = mine[(mine["policy"] == policy) & (mine["quantity"] == "value")].set_index("metric")["value"]
            assert values["episodes"] == result.n_episodes
            for name, number in result.metrics.items():
                np.testing.assert_allclose(values[name], number, rtol=1e-12)
                assert rows[policy][name] == (number if math.isfinite(number) else None)
        differences = mine[mine["quantity"] == "difference"]
        assert len(differences) == len(study.differences) == len(told["differences"])
        np.testing.assert_allclose(differences["low"], study.differences["low"], rtol=1e-12)
        assert set(differences["against"]) == {"delta"}
    regimes = {row["regime"] for row in content["studies"][1]["rows"]}
    assert regimes == {"all", "2000 fall", "2003 quiet", "1987 crash"}
    episodes = pd.read_csv(path.with_name("episodes.csv"), keep_default_na=False, na_values=[""])
    assert len(episodes) == 4 * (200 + 60)
    charts = {file.name for file in path.with_name("charts").iterdir()}
    assert len(charts) == 6 + 8
    assert "2_s-p-500_equity.png" in charts
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in path.with_name("charts").iterdir())
    assert {each.name for each in path.parent.iterdir()} == {
        *("charts", "episodes.csv", "report.html", "results.csv", "results.json")
    }


def test_same_run_same_bytes(whole, tmp_path):
    """Catches dates, random ids and a user's own plotting settings in the files."""
    import matplotlib

    path, given = whole
    with matplotlib.rc_context({"font.size": 30.0, "svg.hashsalt": None, "axes.facecolor": "red"}):
        again = write(tmp_path / "again", *given)
        assert matplotlib.rcParams["font.size"] == 30.0  # and are left alone
    files = sorted(file.relative_to(path.parent) for file in path.parent.rglob("*") if file.is_file())
    for file in files:
        assert (again.parent / file).read_bytes() == (path.parent / file).read_bytes(), file


@pytest.mark.parametrize("kind", ["simulated", "history"])
@pytest.mark.parametrize("count", [1, 15])
def test_one_policy_and_many(count, kind, tmp_path):
    """Catches quantiles, fronts and colours that need two policies, or no more than the palette has."""
    given = studies.study(count, kind, n=40)
    path = write(tmp_path, given)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert path.stat().st_size < 3e6
    rows = json.loads(path.with_name("results.json").read_text())["studies"][0]["rows"]
    assert len({row["policy"] for row in rows}) == count
    blocks = 2 if kind == "history" else 1  # history has one regime with enough episodes
    assert len(table([given]).splitlines()) == blocks * (count + 4) + 1


def test_names_are_only_text(tmp_path):
    """Catches a name that becomes markup, a formula, another chart's id, or a folder."""
    names = (NASTY, "../../delta", "名前 🎲 " + "very long " * 20, "new\nline")
    given = studies.study(4, "history", n=30, market=NASTY, names=names)
    path = write(tmp_path / "run", given, title=NASTY, command=NASTY, config={NASTY: NASTY})
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.all("script")) == 1
    assert not page.all("b")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert NASTY in page.words
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
    assert json.loads(path.with_name("results.json").read_text())["studies"][0]["policies"] == list(names)


def test_undefined_numbers(tmp_path):
    """Catches NaN in a file or on the page, and one that is taken for the best."""
    given = studies.study(3)
    results = dict(given.results)
    results["none"] = replace(
        results["none"], metrics={**results["none"].metrics, "cvar_95": math.nan, "sharpe": math.inf}
    )
    results["empty"] = replace(results["delta"], metrics={}, note="too few episodes")
    frame = given.differences.copy()
    frame.loc[frame["metric"] == "cvar_95", ["difference", "low", "high"]] = math.nan
    path = write(tmp_path, replace(given, results=results, differences=frame), config={"x": math.nan, "y": Path("z")})
    content = json.loads(path.with_name("results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["config"] == {"x": None, "y": "z"}
    assert content["studies"][0]["rows"][0]["cvar_95"] is None
    words = " ".join(Page(path.read_text(encoding="utf-8")).words)
    assert "nan" not in words.split()
    assert "empty: too few episodes" in words


def test_nothing_is_left_of_a_failed_report(tmp_path, monkeypatch):
    """Catches half a report on a full disk, a folder that it leaves, and an older report that it harms."""

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device", str(self))

    given = studies.study(2, n=30)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "a" / "b", given)
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "mine.txt").write_text("kept")
    path = write(tmp_path, given)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path, given, seed=2)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert write(tmp_path, given, seed=2) == path
    assert json.loads((tmp_path / "results.json").read_text())["seed"] == 2
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert not list(tmp_path.glob(".report-*"))


@pytest.mark.parametrize("fails_at", range(4))
def test_renames_are_taken_back(fails_at, tmp_path, monkeypatch):
    """Catches a mixture of two reports where a rename fails between others."""
    (tmp_path / "a").write_text("old a")
    (tmp_path / "b").write_text("old b")
    rename, calls = Path.rename, []

    def fragile(self, target):
        calls.append(self)
        if len(calls) == fails_at + 1:
            raise OSError("rename")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fragile)

    def replace_both():
        with all_or_nothing(tmp_path, ("a", "b", "c")) as stage:
            (stage / "a").write_text("new a")
            (stage / "c").write_text("new c")

    with pytest.raises(OSError, match="rename"):
        replace_both()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a": "old a", "b": "old b"}


def test_stale_files_go(tmp_path):
    """Catches charts and episodes of an older report beside a newer one."""
    write(tmp_path, studies.study(2, n=30), studies.study(2, n=30, market="other"))
    path = write(tmp_path, studies.study(2, n=1001))
    assert not (tmp_path / "episodes.csv").exists()
    assert len(list((tmp_path / "charts").iterdir())) == 6
    assert "more than 1,000 episodes" in path.read_text(encoding="utf-8")


def test_errors_name_the_studies(tmp_path):
    with pytest.raises(ValueError, match="studies must hold at least one study"):
        write(tmp_path)
    with pytest.raises(ValueError, match="none in there, ShortOption"):
        write(tmp_path, Study(market="there", task="ShortOption", kind="simulated", results={}))
    assert list(tmp_path.iterdir()) == []


def test_front_is_not_dominated():
    """Identity, against the definition checked pair by pair."""
    given = studies.study(8, n=300)
    points = {name: (each.metrics["cost"], each.metrics["cvar_95"]) for name, each in given.results.items()}
    beaten = {
        name
        for name, (c, r) in points.items()
        for oc, other in points.values()
        if oc <= c and other <= r and (oc, other) != (c, r)
    }
    assert set(front(given)) == set(points) - beaten
    costs = [points[name][0] for name in front(given)]
    assert costs == sorted(costs)


@pytest.mark.parametrize("overlap", [False, True])
def test_equity_ends_at_the_sum(overlap):
    """Identity: the curve ends at the P&L of all episodes over the number at once, its fall is the metric's."""
    given = studies.study(2, "history", n=50, overlap=overlap).results["delta"]
    curve = equity(given)
    assert curve is not None
    np.testing.assert_allclose(curve.wealth[-1], given.pnl.sum() / curve.overlap, rtol=1e-9)
    np.testing.assert_allclose(curve.drawdown.max(), given.metrics["max_drawdown"], rtol=1e-12)
    assert curve.overlap == (21 / 5 if overlap else 1.0)
    assert (np.diff(curve.dates) > np.timedelta64(0, "s")).all()
    assert curve.dates[0] == given.episodes["start"].iloc[0]
    assert curve.dates[-1] == given.episodes["end"].iloc[-1]


def test_table_fits_a_terminal():
    names = ("none", "a name that is far too long for a column of the table", *studies.NAMES[1:5])
    text = table([studies.study(6, names=names), studies.study(3, "history", n=40, market="S&P 500 " + "x" * 200)])
    assert max(map(len, text.splitlines())) <= 110
    for word in ("mean", "(s.e.)", "sd", "CVaR95", "cost", "effect. %", "model marks"):
        assert word in text
    assert "nan" not in text


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_can_be_seen(scheme):
    """Contrast by WCAG 2.2: 4.5 for text (1.4.3), 3 for what is drawn beside it (1.4.11), on dark and light."""

    def luminance(text: str) -> float:
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    paper = luminance(COLOURS["paper"][scheme])
    for role, pair in COLOURS.items():
        light, dark = sorted([luminance(pair[scheme]), paper], reverse=True)
        ratio = (light + 0.05) / (dark + 0.05)
        if role in ("ink", "muted"):
            assert ratio > 4.5, role
        if role[0] == "p" and role != "paper":
            assert ratio > 3.8, role
        if role[0] == "t":
            assert ratio > 2.4, role


def test_numbers_as_text():
    assert show(-0.00004, 2) == "0.00"
    assert show(-1.25, 1) == "−1.2"
    assert show(0.123, 1, "share") == "12.3 %"
    assert show(math.nan, 2) == "–"
    assert decimals([0.031, 0.04, math.nan], "money") == 4
    assert decimals([1234.0], "money") == 0
    assert best({"a": 1.0, "b": 2.0, "c": math.nan}, "low") == {"a"}
    assert best({"a": 1.0, "b": 1.0}, "low") == set()
    assert strict({1: (np.float32(2.0), {3}, np.array([math.inf]))}) == {"1": [2.0, [3], [None]]}


def test_labels_part():
    """Limit: points that coincide end up apart and inside; labels keep their order and distance."""
    moved = _apart(np.zeros((8, 2)), 10.0, (0.0, 0.0, 100.0, 100.0))
    gaps = np.linalg.norm(moved[:, None] - moved[None], axis=-1) + 1e3 * np.eye(8)
    assert gaps.min() > 9.0
    assert moved.min() >= 0.0
    placed = _stacked(np.array([50.0, 50.0, 49.0, 100.0]), 11.0, 100.0)
    assert np.diff(np.sort(placed)).min() >= 10.999
    assert placed[2] == placed.min()
