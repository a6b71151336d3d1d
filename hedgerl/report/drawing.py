"""Figures without global state: the colours of light and dark pages, and the ways to SVG and PNG bytes."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # loaded where something is drawn: every worker of a study would wait for it
    from matplotlib.figure import Figure

WIDTH = 360.0  # of every chart, in points: a phone shows them nearly one to one, so that 11 points stay legible
TEXT = 11.0  # points

# Role -> (light, dark). A figure is drawn in the light colours; on the page each becomes a variable of the style sheet,
# so that the same picture follows the reader's colour scheme. Policies are told apart by number and place as well:
# no more than about eight colours can be, least of all by everybody.
COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#12161b"),
    "ink": ("#1b1f24", "#e6edf3"),
    "muted": ("#57606a", "#9aa5b1"),
    "grid": ("#d8dee4", "#30363d"),
    "p0": ("#0072b2", "#58b4f0"),
    "p1": ("#d55e00", "#ff8a3d"),
    "p2": ("#00825f", "#2fd0a0"),
    "p3": ("#a8327a", "#f08cc8"),
    "p4": ("#7a5c00", "#d9b93b"),
    "p5": ("#5b4fc4", "#a79bff"),
    "p6": ("#c1272d", "#ff7b7b"),
    "p7": ("#4d6b78", "#9fb8c4"),
    "t0": ("#4477aa", "#6699cc"),
    "t1": ("#cc4455", "#ee6677"),
    "t2": ("#228833", "#44aa55"),
    "t3": ("#b8a52e", "#ddcc55"),
    "t4": ("#4fa8cc", "#88ddee"),
    "t5": ("#882255", "#cc6699"),
    "t6": ("#8a8f94", "#b4bac0"),
    "t7": ("#995511", "#e0a060"),
    "t8": ("#332288", "#9988dd"),
}
N_POLICY_COLOURS = sum(role.startswith("p") and role[1:].isdigit() for role in COLOURS)
_ROLE = {light: role for role, (light, _) in COLOURS.items()}
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hedgerl",
    "font.family": "DejaVu Sans",  # the font that comes with Matplotlib: PNGs are the same everywhere
    "font.size": TEXT,
    "text.parse_math": False,  # names are text, whatever signs they have
    "axes.edgecolor": COLOURS["muted"][0],
    "axes.labelcolor": COLOURS["muted"][0],
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.labelsize": TEXT,
    "grid.color": COLOURS["grid"][0],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["muted"][0],
    "ytick.color": COLOURS["muted"][0],
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "text.color": COLOURS["ink"][0],
    "path.simplify": True,
    "path.simplify_threshold": 0.5,
}


@contextmanager
def style() -> Iterator[None]:
    """The settings under which charts are made and saved, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in another script: boxes in the PNG
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


@dataclass(frozen=True, eq=False)
class Chart:
    """A figure with the words that go with it."""

    name: str  # of the file
    title: str
    caption: str  # how to read it
    alternative: str  # what a reader who cannot see it should know
    figure: Figure


def colour(role: str) -> str:
    """The colour to draw in."""
    return COLOURS[role][0]


def policy_colour(index: int) -> str:
    """The colour of the policy of this number, counted from 0."""
    return colour(f"p{index % N_POLICY_COLOURS}")


def policy_dash(index: int) -> Any:
    """The line style of the policy of this number."""
    return DASHES[(index // N_POLICY_COLOURS) % len(DASHES)]


def blank(height: float) -> Figure:
    """An empty figure of the common width and this height, in points."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH / 72, height / 72), facecolor="none")


def box(figure: Figure, left: float, bottom: float, width: float, height: float, **more: Any) -> Any:
    """Axes at a place in points, from the figure's lower left corner."""
    total_width, total_height = WIDTH, 72 * figure.get_figheight()
    return figure.add_axes(
        (left / total_width, bottom / total_height, width / total_width, height / total_height),
        facecolor="none",
        **more,
    )


def png(chart: Chart, subject: str) -> bytes:
    """The chart as a PNG on white, under its title."""
    figure = chart.figure
    height = 72 * figure.get_figheight()
    title = figure.text(0.02, 1.0 + 26 / height, chart.title, fontsize=TEXT + 2, weight="bold", va="bottom")
    under = figure.text(0.02, 1.0 + 10 / height, subject, fontsize=TEXT - 1, color=colour("muted"), va="bottom")
    out = io.BytesIO()
    figure.savefig(
        out, format="png", dpi=170, facecolor="white", bbox_inches="tight", pad_inches=0.12, metadata={"Software": None}
    )
    title.remove()
    under.remove()
    return out.getvalue()


def svg(chart: Chart, prefix: str) -> str:
    """The chart as an inline SVG element: colours from the style sheet, text as text, ids that begin with `prefix`."""
    out = io.StringIO()
    chart.figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))

    def tag(match: re.Match[str]) -> str:
        found = match[0].replace("xlink:href", "href")
        found = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", found)
        found = found.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
        found = re.sub(r"-?\d+\.\d{2,}", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), found)
        found = re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{_ROLE[m[0]]})" if m[0] in _ROLE else m[0], found)
        found = re.sub(r"font: ([0-9.]+px)[^;\"]*", r"font-size: \1", found)
        return re.sub(r"font: (bold|700) ([0-9.]+px)[^;\"]*", r"font-weight: 600; font-size: \2", found)

    text = re.sub(r"<[^>]+>", tag, text)
    height = 72 * chart.figure.get_figheight()
    head = (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-labelledby="{prefix}-title {prefix}-what">'
        f'<title id="{prefix}-title">{html.escape(chart.title)}</title>'
        f'<desc id="{prefix}-what">{html.escape(chart.alternative)}</desc>'
    )
    body = re.sub(r"^<svg[^>]*>", "", text)
    return head + re.sub(r"\s*\n\s*", "\n", body).strip()
