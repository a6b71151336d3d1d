"""The charts of a study. Each is as wide as a telephone, and grows with the number of policies, not in density."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hedgerl.evaluation.comparison import Study
from hedgerl.evaluation.folds import WalkForward
from hedgerl.evaluation.metrics import COST_COLUMNS
from hedgerl.evaluation.result import TERMS, Result
from hedgerl.report.drawing import (
    DASHES,
    TEXT,
    WIDTH,
    Chart,
    blank,
    box,
    colour,
    policy_colour,
    policy_dash,
    style,
)
from hedgerl.report.numbers import decimals, equity, front, metric, show, traders, value
from hedgerl.sim.backend import to_numpy

ROW = 25.0  # points, of a policy in a chart of rows
LONGEST = 19  # letters of a name in a chart
OUTLYING = 4.0  # a policy that reaches so many times as far as the median one runs off the axis, and is said to

Numbers = Mapping[str, int]  # policy -> its number in the whole report, from 0


def charts(study: Study, numbers: Numbers) -> list[Chart]:
    """Every chart that the study has data for."""
    with style():
        made = [
            _distributions(study, numbers),
            _frontier(study, numbers),
            _differences(study, numbers),
            _equity(study, numbers),
            _costs(study, numbers),
            _attribution(study, numbers),
            _regimes(study, numbers),
            _folds(study, numbers),
            _example(study, numbers),
        ]
    return [chart for chart in made if chart is not None]


def short(name: str) -> str:
    """A name that fits beside a row."""
    name = " ".join(name.split())
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def named(name: str, numbers: Numbers) -> str:
    """A policy's number and name."""
    return f"{numbers[name] + 1} {short(name)}"


def _margin(labels: Sequence[str]) -> float:
    """Points that the longest label takes."""
    return 12.0 + 0.6 * TEXT * max(map(len, labels))


def _rows(axes: Any, names: Sequence[str], numbers: Numbers, *, labelled: bool = True) -> np.ndarray:
    """Lays a row for each policy, the first on top; returns their heights on the axis."""
    at = np.arange(len(names))[::-1].astype(float)
    axes.set_yticks(at, [named(name, numbers) if labelled else str(numbers[name] + 1) for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_color(policy_colour(numbers[name]))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.6, len(names) - 0.4)
    return at


def _few_ticks(axes: Any, which: str = "x", most: int = 5) -> None:
    from matplotlib.ticker import MaxNLocator

    (axes.xaxis if which == "x" else axes.yaxis).set_major_locator(MaxNLocator(most, min_n_ticks=2))


def _limits(lows: Any, highs: Any, *, include: Sequence[float] = (), outlying: float = OUTLYING) -> tuple[float, float]:
    """Limits that hold all intervals but those that reach `outlying` times as far from 0 as the median one."""
    low, high = np.asarray(lows, dtype=float), np.asarray(highs, dtype=float)
    good = np.isfinite(low) & np.isfinite(high)
    if not good.any():
        return -1.0, 1.0
    low, high = low[good], high[good]
    reach = np.maximum(np.abs(low), np.abs(high))
    kept = reach <= outlying * max(float(np.median(reach)), 1e-12)
    low, high = np.append(low[kept], include), np.append(high[kept], include)
    first, last = float(low.min()), float(high.max())
    pad = 0.04 * (last - first) or max(abs(first), 1.0) * 0.1
    return first - pad, last + pad


def _finite_pnl(result: Result) -> np.ndarray:
    pnl = result.pnl.astype(float)
    return pnl[np.isfinite(pnl)]


def _distributions(study: Study, numbers: Numbers) -> Chart | None:
    samples = {name: _finite_pnl(result) for name, result in study.results.items()}
    samples = {name: pnl for name, pnl in samples.items() if pnl.size >= 2}
    if not samples:
        return None
    names = list(samples)
    quantiles = np.array([np.quantile(samples[name], [0.003, 0.997]) for name in names])
    low, high = _limits(quantiles[:, 0], quantiles[:, 1], outlying=2.5)
    row = 34.0
    left = _margin([named(name, numbers) for name in names])
    figure = blank(len(names) * row + 64)
    axes = box(figure, left, 40, WIDTH - left - 10, len(names) * row + 18)
    at = _rows(axes, names, numbers)
    fewest, typical = min(pnl.size for pnl in samples.values()), float(np.median([p.std() for p in samples.values()]))
    bins = (high - low) / max(2.0 * typical * fewest ** (-1 / 3), 1e-12)  # a little finer than Scott (1979)
    edges = np.linspace(low, high, int(np.clip(bins, 16, 140)) + 1)
    outside = []
    for y, name in zip(at, names, strict=True):
        pnl = samples[name]
        height, _ = np.histogram(pnl, bins=edges)
        height = np.convolve(height.astype(float), [0.25, 0.5, 0.25], mode="same")
        height = 0.86 * height / max(height.max(), 1.0) if height.any() else height
        x, tall = np.repeat(edges, 2)[1:-1], y - 0.3 + np.repeat(height, 2)
        tail = -value(study.results[name], "cvar_95")
        worst = np.quantile(pnl, 0.05)
        axes.fill_between(x, y - 0.3, tall, color=policy_colour(numbers[name]), alpha=0.28, linewidth=0)
        axes.fill_between(
            x, y - 0.3, tall, where=x <= worst, color=policy_colour(numbers[name]), alpha=0.75, linewidth=0
        )
        axes.plot(x, tall, color=policy_colour(numbers[name]), linewidth=1.0)
        axes.plot([pnl.mean()] * 2, [y - 0.3, y - 0.08], color=colour("ink"), linewidth=1.6)
        if low <= tail <= high:
            axes.plot([tail], [y - 0.3], marker="^", markersize=5, color=colour("ink"), clip_on=False)
        if (pnl < low).mean() > 0.02 or (pnl > high).mean() > 0.02:
            outside.append(short(name))
            axes.text(low, y + 0.12, "◂", fontsize=TEXT, color=colour("muted"), ha="left")
            axes.text(high, y + 0.12, "▸", fontsize=TEXT, color=colour("muted"), ha="right")
    axes.set_xlim(low, high)
    axes.set_ylim(-0.5, len(names) - 0.25)
    if low < 0 < high:
        axes.axvline(0.0, color=colour("muted"), linewidth=0.8)
    _few_ticks(axes)
    axes.set_xlabel("P&L of an episode")
    caption = (
        "How often each P&L occurred. Dark: the worst 5 % of episodes. Triangle: minus CVaR 95 %. Tick: the mean. "
        "Each row is scaled to its own height."
    )
    if outside:
        caption += f" Runs off the axis: {', '.join(outside)}."
    spread = {name: float(pnl.std()) for name, pnl in samples.items()}
    narrow, wide = min(spread, key=spread.__getitem__), max(spread, key=spread.__getitem__)
    alternative = (
        f"One histogram of P&L for each of {len(names)} policies on a common axis. "
        f"The narrowest is {narrow}, the widest {wide}; the table gives the numbers."
    )
    return Chart("distributions", "Distribution of P&L", caption, alternative, figure)


def _frontier(study: Study, numbers: Numbers) -> Chart | None:
    points = {name: (value(result, "cost"), value(result, "cvar_95")) for name, result in study.results.items()}
    points = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    if not points:
        return None
    names = list(points)
    costs, risks = np.array([points[name] for name in names]).T
    logarithmic = bool(risks.min() > 0.0 and risks.max() > 2.5 * risks.min())  # no hedge at all is far above the rest
    scaled = np.log10(risks) if logarithmic else risks
    x_low, x_high = _limits(costs, costs, include=(0.0,), outlying=15.0)
    y_low, y_high = _limits(scaled, scaled, outlying=15.0)
    y_low, y_high = y_low - 0.06 * (y_high - y_low), y_high + 0.06 * (y_high - y_low)
    lines = math.ceil(len(names) / 2)
    key = lines * 16.0 + 8
    width, height = WIDTH - 62.0 - 14, 260.0
    figure = blank(height + key + 56)
    axes = box(figure, 62, key + 44, width, height)
    axes.set_xlim(x_low, x_high)
    axes.set_ylim(*(10.0**y_low, 10.0**y_high) if logarithmic else (y_low, y_high))
    if logarithmic:
        _logarithmic_ticks(axes)
    else:
        _few_ticks(axes, "y")
    _few_ticks(axes)
    axes.set_xlabel("mean cost of an episode")
    axes.set_ylabel("CVaR 95 %" + (", logarithmic" if logarithmic else ""))
    inside = {
        name: bool(x_low <= cost <= x_high and y_low <= risk <= y_high)
        for name, cost, risk in zip(names, costs, scaled, strict=True)
    }
    chosen = front(study)
    if len(chosen) > 1:
        steps_x, steps_y = np.array([points[name] for name in chosen]).T
        axes.step([*steps_x, x_high], [*steps_y, steps_y[-1]], where="post", color=colour("muted"), linewidth=1.3)
    # Disks with numbers, moved apart where they would hide one another; a line leads to the point itself.
    size = np.array([width, height])
    true = np.column_stack([(costs - x_low) / (x_high - x_low), (scaled - y_low) / (y_high - y_low)])
    true = np.clip(true, 0.0, 1.0) * size
    moved = _apart(true, 17.0, (9.0, 9.0, width - 9.0, height - 9.0))
    for name, point, disk in zip(names, true / size, moved / size, strict=True):
        tint, on_front = policy_colour(numbers[name]), name in chosen
        how = {"transform": axes.transAxes, "color": tint, "clip_on": False}
        axes.plot(*zip(point, disk, strict=True), linewidth=0.9, zorder=2, **how)
        axes.plot(*point, marker="o", markersize=3.5, zorder=3, **how)
        face = tint if on_front else colour("paper")
        axes.plot(*disk, marker="o", markersize=14.5, mfc=face, mec=tint, zorder=4, **how)
        axes.text(
            *disk,
            str(numbers[name] + 1),
            transform=axes.transAxes,
            color=colour("paper") if on_front else tint,
            fontsize=TEXT - 1,
            ha="center",
            va="center_baseline",
            zorder=5,
        )
        if not inside[name]:
            right = disk[0] > 0.6
            axes.annotate(
                "off the axes",
                disk,
                xycoords="axes fraction",
                xytext=(-10 if right else 10, 0),
                textcoords="offset points",
                color=colour("muted"),
                ha="right" if right else "left",
                va="center_baseline",
            )
    for i, name in enumerate(names):
        figure.text(
            (10 + (i // lines) * (WIDTH / 2)) / WIDTH,
            (key - 4 - (i % lines + 0.5) * 16.0) / (72 * figure.get_figheight()),
            f"{'●' if name in chosen else '○'} {named(name, numbers)}",
            color=policy_colour(numbers[name]),
            va="center",
        )
    caption = (
        "Lower is safer, further left is cheaper. Filled: no other policy is at least as good in both and better in "
        "one. The stepped line joins these."
    )
    beyond = [
        f"{short(name)} (cost {_plain(points[name][0])}, CVaR {_plain(points[name][1])})"
        for name in names
        if not inside[name]
    ]
    if beyond:
        caption += f" Drawn at the edge, as its place is off the axes: {'; '.join(beyond)}."
    alternative = (
        f"CVaR 95 % against mean cost of {len(names)} policies. Not beaten in both by any other, by rising cost: "
        f"{', '.join(chosen)}."
    )
    return Chart("risk_cost", "Risk against cost", caption, alternative, figure)


def _logarithmic_ticks(axes: Any) -> None:
    """A logarithmic axis with ticks at round numbers, written out."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_ylim()
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for steps in ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) <= 8:
            break
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _plain(number: float) -> str:
    return show(number, decimals([number], "money"))


def _apart(points: np.ndarray, distance: float, within: tuple[float, float, float, float]) -> np.ndarray:
    """The points moved until no two are closer than `distance`, near where they were and inside the box."""
    moved = points.astype(float).copy()
    n = len(moved)
    moved = moved + 1e-3 * np.column_stack(
        [np.cos(2.4 * np.arange(n)), np.sin(2.4 * np.arange(n))]
    )  # equal points must part
    low, high = np.array(within[:2]), np.array(within[2:])
    for _ in range(400):
        gap = moved[:, None] - moved[None]
        far = np.sqrt((gap**2).sum(-1)) + np.eye(n) * 1e9
        push = np.clip(distance - far, 0.0, None)
        if not push.any():
            break
        moved += 0.5 * (gap / far[..., None] * push[..., None]).sum(1)
        moved = low + abs(moved - low)  # mirrored: merely cut off, points in a corner would coincide
        moved = np.clip(high - abs(high - moved), low, high)
    return moved


def _differences(study: Study, numbers: Numbers) -> Chart | None:
    frame = study.differences
    if frame.empty or "metric" not in frame:
        return None
    panels = [name for name in ("mean", "cvar_95") if (frame["metric"] == name).any()]
    if not panels:
        return None
    names = [name for name in study.results if (frame["policy"] == name).any()]
    left = _margin([named(name, numbers) for name in names])
    figure = blank(len(names) * ROW + 74)
    width = (WIDTH - left - 10 - 16 * (len(panels) - 1)) / len(panels)
    beyond: list[str] = []
    for i, which in enumerate(panels):
        axes = box(figure, left + i * (width + 16), 28, width, len(names) * ROW + 8)
        at = _rows(axes, names, numbers)
        if i:
            axes.set_yticklabels([])
        rows = frame[frame["metric"] == which].set_index("policy")
        value_low_high = rows.reindex(names)[["difference", "low", "high"]].to_numpy(dtype=float)
        low, high = _limits(value_low_high[:, 1], value_low_high[:, 2], include=(0.0,))
        axes.axvline(0.0, color=colour("ink"), linewidth=1.0)
        for y, name, (middle, first, last) in zip(at, names, value_low_high, strict=True):
            if not math.isfinite(middle):
                continue
            tint = policy_colour(numbers[name])
            sure = first > 0.0 or last < 0.0
            axes.plot([first, last], [y, y], color=tint, linewidth=2.2)
            axes.plot([middle], [y], marker="o", markersize=6, color=tint if sure else colour("paper"), mec=tint)
            if not low <= middle <= high:
                right = middle > high
                axes.text(
                    high if right else low,
                    y,
                    f"{_plain(middle)} ▸" if right else f"◂ {_plain(middle)}",
                    color=tint,
                    va="center",
                    ha="right" if right else "left",
                    bbox={"facecolor": colour("paper"), "edgecolor": "none", "pad": 0.8},
                )
                beyond.append(name)
        axes.set_xlim(low, high)
        _few_ticks(axes, most=3)
        better = metric(which).better
        axes.set_title(
            f"{metric(which).label}\n{'right' if better == 'high' else 'left'} is better",
            fontsize=TEXT,
            color=colour("muted"),
            loc="left",
        )
    level = f"{100 * study.confidence:g} %"
    caption = (
        f"Policy minus {study.reference}, on the same episodes, with {level} bootstrap intervals. Filled: the interval "
        "leaves out zero."
    )
    if beyond:
        caption += " A number stands for a point off the axis."
    alternative = f"Differences from {study.reference} in mean P&L and CVaR 95 % with intervals, a row a policy."
    return Chart("differences", f"Difference from {short(str(study.reference))}", caption, alternative, figure)


def _equity(study: Study, numbers: Numbers) -> Chart | None:
    curves = {name: equity(result) for name, result in study.results.items()}
    known = {name: curve for name, curve in curves.items() if curve is not None}
    if not known:
        return None
    names = list(known)
    lines = math.ceil(len(names) / 2)
    key = lines * 16.0 + 10
    figure = blank(key + 356)
    upper = box(figure, 52, key + 172, WIDTH - 52 - 22, 176)
    lower = box(figure, 52, key + 26, WIDTH - 52 - 22, 128)
    wealth_limits = _limits([c.wealth.min() for c in known.values()], [c.wealth.max() for c in known.values()])
    deepest = _limits([0.0] * len(known), [c.drawdown.max() for c in known.values()])[1]
    ends = []
    for name, curve in known.items():
        how = {"color": policy_colour(numbers[name]), "linestyle": policy_dash(numbers[name]), "linewidth": 1.1}
        dates, wealth, down = _thin(curve.dates, curve.wealth, curve.drawdown)
        upper.plot(dates, wealth, **how)
        lower.plot(dates, -down, **how)
        ends.append(float(np.clip(curve.wealth[-1], *wealth_limits)))
    last = max(curve.dates[-1] for curve in known.values())
    scale = 176 / (wealth_limits[1] - wealth_limits[0])
    heights = _stacked((np.array(ends) - wealth_limits[0]) * scale, 11.0, 176.0)
    for name, height in zip(names, heights, strict=True):
        upper.annotate(
            str(numbers[name] + 1),
            (1.0, height / 176),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            color=policy_colour(numbers[name]),
            fontsize=TEXT - 1,
            va="center",
        )
    upper.set_ylim(*wealth_limits)
    lower.set_ylim(-deepest, 0.02 * deepest)
    upper.axhline(0.0, color=colour("muted"), linewidth=0.8)
    for axes, text in ((upper, "P&L so far"), (lower, "drawdown")):
        axes.set_xlim(min(curve.dates[0] for curve in known.values()), last)
        axes.set_ylabel(text)
        _date_ticks(axes)
        _few_ticks(axes, "y")
    boundaries = [each.test[0] for each in study.folds] if isinstance(study, WalkForward) else []
    for day in boundaries:
        for axes in (upper, lower):
            axes.axvline(np.datetime64(day, "s"), color=colour("muted"), linewidth=0.6, linestyle=DASHES[2], zorder=0)
    upper.tick_params(labelbottom=False)
    _key(figure, names, numbers, key, lines, {name: policy_dash(numbers[name]) for name in names})
    overlap = max(curve.overlap for curve in known.values())
    how_held = (
        f"{overlap:.3g} episodes run at once, each at 1/{overlap:.3g} of the size, so that the book is that of one."
        if overlap > 1.0
        else "One episode after another, at full size."
    )
    off = [
        f"{numbers[name] + 1} {short(name)} (lowest {_plain(float(c.wealth.min()))}, end {_plain(float(c.wealth[-1]))})"
        for name, c in known.items()
        if c.wealth.min() < wealth_limits[0] or c.wealth.max() > wealth_limits[1] or c.drawdown.max() > deepest
    ]
    caption = f"P&L added up over history, and how far it lies below its own peak. {how_held}"
    if boundaries:
        caption += " Dotted: where a fold begins, and what is fitted is fitted anew."
    if off:
        caption += f" Leaves the axes: {'; '.join(off)}."
    finals = ", ".join(f"{name} {_plain(float(curve.wealth[-1]))}" for name, curve in known.items())
    alternative = f"P&L added up over the dates of history and its drawdowns. At the end: {finals}."
    return Chart("equity", "P&L over the dates of history", caption, alternative, figure)


def _thin(*arrays: np.ndarray, most: int = 420) -> list[np.ndarray]:
    """About `most` points of each array: in every stretch the lowest and highest of the second, so no spike is lost."""
    lead = arrays[1]
    if lead.size <= most:
        return list(arrays)
    cuts = np.array_split(np.arange(lead.size), most // 2)
    keep = {0, int(lead.size - 1)}
    for cut in cuts:
        keep |= {int(cut[np.argmin(lead[cut])]), int(cut[np.argmax(lead[cut])])}
    chosen = np.array(sorted(keep))
    return [array[chosen] for array in arrays]


def _date_ticks(axes: Any) -> None:
    import matplotlib.dates

    dates: Any = matplotlib.dates  # whose classes have no types
    locator = dates.AutoDateLocator(minticks=2, maxticks={0: 6, 1: 6, 3: 6, 4: 4, 5: 4, 6: 4})
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, show_offset=False))


def _stacked(heights: np.ndarray, distance: float, top: float) -> np.ndarray:
    """Heights moved so that labels do not overlap, in the same order, from 0 up to `top` where there is room."""
    distance = min(distance, top / max(1, len(heights) - 1))
    order = np.argsort(heights, kind="stable")
    placed = np.empty(len(heights))
    last = -math.inf
    for i in order:
        last = placed[i] = max(heights[i], last + distance)
    limit = top
    for i in order[::-1]:
        placed[i] = limit = min(placed[i], limit)
        limit -= distance
    return placed


def _key(
    figure: Any, names: Sequence[str], numbers: Numbers, height: float, lines: int, dashes: Mapping[str, Any]
) -> None:
    """A key to lines: a stroke, number and name for each policy, below the chart."""
    from matplotlib.lines import Line2D

    tall = 72 * figure.get_figheight()
    for i, name in enumerate(names):
        x = 10 + (i // lines) * (WIDTH / 2)
        y = (height - 8 - (i % lines + 0.5) * 16.0) / tall
        tint = policy_colour(numbers[name])
        figure.add_artist(
            Line2D([x / WIDTH, (x + 18) / WIDTH], [y, y], color=tint, linestyle=dashes[name], linewidth=2)
        )
        figure.text((x + 23) / WIDTH, y, named(name, numbers), color=tint, va="center_baseline")


def _stack(
    study: Study,
    numbers: Numbers,
    parts: Mapping[str, Mapping[str, float]],
    kinds: Mapping[str, tuple[str, str]],
    totals: Mapping[str, float],
    axis: str,
) -> Any:
    """Bars of signed parts, to the right of zero and to the left, with a mark at their sum: a row a policy."""
    names = list(parts)
    used = [kind for kind in kinds if any(abs(parts[name].get(kind, 0.0)) > 0.0 for name in names)]
    columns = 3
    lines = math.ceil(len(used) / columns)
    key = lines * 17.0 + 6
    left = _margin([named(name, numbers) for name in names])
    figure = blank(len(names) * ROW + key + 64)
    right = 58.0
    axes = box(figure, left, key + 42, WIDTH - left - right, len(names) * ROW + 10)
    at = _rows(axes, names, numbers)
    lowest, highest = [], []
    for y, name in zip(at, names, strict=True):
        ends = [0.0, 0.0]
        for kind in used:
            amount = parts[name].get(kind, 0.0)
            side = int(amount > 0.0)
            axes.barh(y, amount, left=ends[side], height=0.62, color=colour(kinds[kind][1]), linewidth=0)
            ends[side] += amount
        lowest.append(ends[0])
        highest.append(ends[1])
        axes.plot([totals[name]], [y], marker="D", markersize=4.5, color=colour("paper"), mec=colour("ink"), zorder=4)
    low, high = min([*lowest, 0.0]), max([*highest, 0.0])
    pad = 0.03 * (high - low) or 1.0
    axes.set_xlim(low - pad if low < 0 else 0.0, high + pad)
    axes.axvline(0.0, color=colour("ink"), linewidth=0.8)
    places = decimals(totals.values(), "money")
    for y, name in zip(at, names, strict=True):
        axes.annotate(
            show(totals[name], places),
            (1.0, y),
            xycoords=("axes fraction", "data"),
            xytext=(52, 0),
            textcoords="offset points",
            ha="right",
            va="center_baseline",
        )
    _few_ticks(axes, most=4)
    axes.set_xlabel(axis)
    tall = 72 * figure.get_figheight()
    for i, kind in enumerate(used):
        x = 10 + (i % columns) * (WIDTH - 10) / columns
        y = (key - 4 - (i // columns + 0.5) * 17.0) / tall
        figure.text(x / WIDTH, y, "■", color=colour(kinds[kind][1]), va="center_baseline", fontsize=TEXT + 2)
        figure.text((x + 15) / WIDTH, y, kinds[kind][0], va="center_baseline")
    return figure


COST_KINDS = {
    "cost_commission": ("commission", "t0"),
    "cost_proportional": ("proportional", "t3"),
    "cost_spread": ("spread", "t1"),
    "cost_impact": ("impact", "t2"),
}


def _costs(study: Study, numbers: Numbers) -> Chart | None:
    totals = {name: value(result, "cost") for name, result in study.results.items()}
    totals = {name: total for name, total in totals.items() if math.isfinite(total)}
    if not totals or not any(totals.values()):
        return None
    parts = {
        name: {kind: np.nan_to_num(value(study.results[name], kind)).item() for kind in COST_COLUMNS} for name in totals
    }
    figure = _stack(study, numbers, parts, COST_KINDS, totals, "mean cost of an episode")
    cheapest = min((name for name in traders(study) if name in totals), key=totals.__getitem__, default=None)
    alternative = "Mean cost of an episode by kind, a bar a policy." + (
        f" The cheapest that trades is {cheapest}." if cheapest else ""
    )
    caption = "What trading cost, by kind; the number and the diamond are the sum."
    return Chart("costs", "Cost by kind", caption, alternative, figure)


TERM_KINDS = {term: (term, f"t{i}") for i, term in enumerate(TERMS)}


def attribution(study: Study) -> dict[str, dict[str, float]]:
    """Policy -> term -> mean P&L of an episode by that term, of the whole book; without policies that have none."""
    table = {name: result.attribution["net"].to_dict() for name, result in study.results.items()}
    return {
        name: {str(term): float(amount) if math.isfinite(amount) else 0.0 for term, amount in terms.items()}
        for name, terms in table.items()
        if any(math.isfinite(amount) for amount in terms.values())
    }


def _attribution(study: Study, numbers: Numbers) -> Chart | None:
    parts = attribution(study)
    if not parts:
        return None
    totals = {name: sum(terms.values()) for name, terms in parts.items()}
    figure = _stack(study, numbers, parts, TERM_KINDS, totals, "mean P&L of an episode")
    caption = (
        "Where the mean P&L came from: Taylor terms of liabilities and hedge together, carry, cost and what is left. "
        "The number and the diamond are the sum."
    )
    left = max(parts, key=lambda name: abs(parts[name].get("residual", 0.0)))
    alternative = (
        f"Mean P&L of an episode by Taylor term, a bar a policy; the largest residual, "
        f"{_plain(parts[left].get('residual', 0.0))}, is that of {left}."
    )
    return Chart("attribution", "Where the P&L came from", caption, alternative, figure)


def _regimes(study: Study, numbers: Numbers) -> Chart | None:
    panels = {
        regime: {name: _finite_pnl(result) for name, result in results.items() if result.metrics}
        for regime, results in study.regimes.items()
    }
    panels = {regime: samples for regime, samples in panels.items() if samples}
    if not panels:
        return None
    names = list(study.results)
    columns = 2 if len(panels) > 1 else 1
    left = _margin([named(name, numbers) for name in names])
    tall = len(names) * 20.0 + 6
    lines = math.ceil(len(panels) / columns)
    figure = blank(lines * (tall + 44) + 22)
    width = (WIDTH - left - 10 - 16 * (columns - 1)) / columns
    spans = [
        np.quantile(samples[name], [0.05, 0.95]) for samples in panels.values() for name in names if name in samples
    ]
    low, high = _limits([each[0] for each in spans], [each[1] for each in spans], include=(0.0,))
    for i, (regime, samples) in enumerate(panels.items()):
        line, column = divmod(i, columns)
        bottom = 36 + (lines - 1 - line) * (tall + 44)
        axes = box(figure, left + column * (width + 16), bottom, width, tall)
        at = _rows(axes, names, numbers)
        if column:
            axes.set_yticklabels([])
        for y, name in zip(at, names, strict=True):
            if name not in samples:
                continue
            tint = policy_colour(numbers[name])
            first, last = np.quantile(samples[name], [0.05, 0.95])
            axes.plot([first, last], [y, y], color=tint, linewidth=3.0, alpha=0.55, solid_capstyle="butt")
            axes.plot([samples[name].mean()], [y], marker="o", markersize=5, color=tint)
        axes.axvline(0.0, color=colour("ink"), linewidth=0.8)
        axes.set_xlim(low, high)
        _few_ticks(axes, most=3)
        count = max(pnl.size for pnl in samples.values())
        title = short(regime) if len(panels) == 1 else _cut(regime, 18)
        axes.set_title(f"{title}\n{count} episodes", fontsize=TEXT, color=colour("ink"), loc="left")
    caption = (
        "P&L of episodes inside each period: the dot is the mean, the bar reaches from the 5 % to the 95 % quantile."
    )
    alternative = (
        f"Mean and range of P&L for each policy in each regime: {', '.join(panels)}. The table has the numbers."
    )
    return Chart("regimes", "Regimes beside each other", caption, alternative, figure)


def _folds(study: Study, numbers: Numbers) -> Chart | None:
    if not isinstance(study, WalkForward) or study.reference not in study.results:
        return None
    names = [name for name in study.results if name != study.reference]
    folds = [each.results for each in study.folds]
    if not names or not folds:
        return None
    about, own = metric(study.measure), [value(results[study.reference], study.measure) for results in folds]
    sign = 1.0 if about.better == "high" else -1.0
    gain = np.array([[value(results[name], study.measure) for results in folds] for name in names]) - np.array(own)
    unit = float(np.nanmedian(np.abs(own))) or 1.0
    left = _margin([named(name, numbers) for name in names])
    tall = len(names) * 17.0
    figure = blank(tall + 70)
    axes = box(figure, left, 58, WIDTH - left - 10, tall)
    at = _rows(axes, names, numbers)
    axes.grid(visible=False)
    for y, row in zip(at, sign * gain / unit, strict=True):
        for place, amount in enumerate(row):
            if not math.isfinite(amount):
                continue
            side = min(0.92, math.sqrt(abs(amount)))
            axes.add_patch(_square(place, float(y), side, colour("t0" if amount > 0.0 else "t1")))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(-0.6, len(folds) - 0.4)
    axes.set_xticks(np.arange(len(folds)), [each.name for each in study.folds], rotation=90)
    axes.tick_params(axis="x", length=0)
    caption = (
        f"{about.label} of each policy and fold beside that of {study.reference}: blue is better, red is worse. The "
        f"area is the difference; a full square is {_plain(unit)} or more, the median of {study.reference} itself."
    )
    ahead = ", ".join(f"{name} {int((sign * row > 0).sum())}" for name, row in zip(names, gain, strict=True))
    alternative = (
        f"A square for each policy and each of {len(folds)} folds. Folds in which a policy is better than "
        f"{study.reference}: {ahead}. The table by fold has the numbers."
    )
    return Chart("folds", "Better or worse, fold by fold", caption, alternative, figure)


def _square(x: float, y: float, side: float, tint: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5 * side, y - 0.5 * side), side, side, facecolor=tint, linewidth=0)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def shown_in_example(study: Study, numbers: Numbers, most: int = 3) -> list[str]:
    """The policies of the example: the reference, and the safest others."""
    have = [name for name in study.results if name in study.example]
    risk = {name: value(study.results[name], "cvar_95") for name in have}
    safest = sorted((name for name in have if math.isfinite(risk[name])), key=risk.__getitem__)
    trading = set(traders(study))
    wanted = [str(study.reference), *(name for name in safest if name in trading), *safest, *have]
    wanted = [name for name in dict.fromkeys(wanted) if name in have]
    chosen: list[str] = []
    for distinct in (True, False):  # of different colours first
        for name in wanted:
            taken = [policy_colour(numbers[each]) for each in chosen if distinct]
            if name not in chosen and policy_colour(numbers[name]) not in taken and len(chosen) < most:
                chosen.append(name)
    return chosen


def _example(study: Study, numbers: Numbers) -> Chart | None:
    names = shown_in_example(study, numbers)
    if not names:
        return None
    records = {name: study.example[name] for name in names}
    of = records[names[0]].scenario
    n_steps = of.n_steps
    x: Any = np.arange(n_steps + 1)
    spot, owed = to_numpy(of.spot)[:, 0], -to_numpy(of.liability_delta)[:, 0]
    deltas = to_numpy(of.delta)[:, 0]
    used = np.sum([abs(to_numpy(record.holdings)[:, 0]).sum(axis=0) for record in records.values()], axis=0)
    options = [i for i, is_option in enumerate(of.is_option) if is_option and used[i] > 0.0][:2]
    titles = ["Spot", "Delta of the hedge, in shares", "Traded each step, in shares of delta"]
    titles += [f"Held: {short(of.instruments[i])}, in shares" for i in options]
    titles += ["P&L so far, in currency"]
    tall, gap = 84.0, 34.0
    key = 16.0 * math.ceil((len(names) + 1) / 2) + 12
    figure = blank(len(titles) * (tall + gap) + key + 26)
    panels = []
    for i, title in enumerate(titles):
        bottom = key + 36 + (len(titles) - 1 - i) * (tall + gap)
        axes = box(figure, 58, bottom, WIDTH - 58 - 12, tall)
        axes.set_title(title, fontsize=TEXT, color=colour("ink"), loc="left")
        axes.set_xlim(0, n_steps)
        _few_ticks(axes, "y", 4)
        _few_ticks(axes, "x", 6)
        if i < len(titles) - 1:
            axes.tick_params(labelbottom=False)
        panels.append(axes)
    panels[0].plot(x, spot, color=colour("ink"), linewidth=1.4)
    strikes = to_numpy(of.liabilities.strike)[:, 0] if of.liabilities.listings else np.zeros((n_steps + 1, 0))
    if strikes.shape[1] == 1:
        panels[0].plot(x[:-1], strikes[:-1, 0], color=colour("muted"), linewidth=1.0, linestyle=(0, (4, 3)))
    panels[1].step(x[:-1], owed[:-1], where="post", color=colour("ink"), linewidth=1.2, linestyle=(0, (4, 3)))
    offsets = (np.arange(len(names)) - (len(names) - 1) / 2) * 0.26
    dashes = dict(zip(names, DASHES, strict=False))
    for name, offset in zip(names, offsets, strict=True):
        record, tint, dash = records[name], policy_colour(numbers[name]), dashes[name]
        held, traded = to_numpy(record.holdings)[:, 0], to_numpy(record.trades)[:, 0]
        panels[1].step(x[:-1], (held * deltas).sum(-1)[:-1], where="post", color=tint, linestyle=dash, linewidth=1.4)
        amount = (traded * deltas[:-1]).sum(-1)
        if n_steps <= 70:
            panels[2].vlines(x[:-1] + 0.5 + offset, 0.0, amount, color=tint, linewidth=2.2)
        else:
            panels[2].plot(x[:-1], amount, color=tint, linestyle=dash, linewidth=0.9)
        for axes, instrument in zip(panels[3:-1], options, strict=True):
            axes.step(x[:-1], held[:-1, instrument], where="post", color=tint, linestyle=dash, linewidth=1.4)
        wealth = to_numpy(record.wealth)[:, 0]
        profit = wealth - float(np.ravel(to_numpy(record.initial_wealth))[0])
        panels[-1].plot(x, profit, color=tint, linestyle=dash, linewidth=1.4)
    for axes in panels[1:]:
        axes.axhline(0.0, color=colour("muted"), linewidth=0.7)
    panels[-1].set_xlabel("step")
    _key(figure, names, numbers, key, math.ceil(len(names) / 2), dashes)
    caption = (
        f"One episode, the same for all: {', '.join(short(name) for name in names)}. Dashed: the strike, and minus the "
        "liabilities' delta, which a delta hedge holds."
    )
    caption += _span(study.results[names[0]])
    finals = ", ".join(f"{name} {_plain(float(np.ravel(to_numpy(records[name].pnl))[0]))}" for name in names)
    alternative = (
        f"Spot from {_plain(float(spot[0]))} to {_plain(float(spot[-1]))} over {n_steps} steps, with the hedges and "
        f"trades of {len(names)} policies. P&L at the end: {finals}."
    )
    return Chart("example", "An episode, step by step", caption, alternative, figure)


def _span(result: Result) -> str:
    """The dates of the first episode, which is the example, where they are known."""
    if not {"start", "end"} <= set(result.episodes) or not result.n_episodes:
        return ""
    first, last = (pd.Timestamp(result.episodes[name].iloc[0]).date() for name in ("start", "end"))
    return f" From {first} to {last}."
