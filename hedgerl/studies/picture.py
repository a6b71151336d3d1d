"""A tested front in a folder: its table, its numbers, its pictures, and what it comes to in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hedgerl.files import write_bytes, write_csv, write_text
from hedgerl.report.numbers import strict
from hedgerl.studies import front, tested
from hedgerl.studies.charts import GROUPS, Point, front_html, front_png, front_text, measured, records
from hedgerl.studies.front import FrontComparison

Entry = tuple[Point, Path]  # a policy, and the file of its tested episodes


def write_front(
    folder: Path,
    name: str,
    entries: Sequence[Entry],
    objectives: Sequence[str],
    *,
    reference: Sequence[float] | None,
    resamples: int,
    title: str,
    command: str,
) -> FrontComparison:
    """Writes NAME.csv, NAME.json, NAME.png and NAME.html into the folder, and prints the table and the verdict.

    reference: corner of the hypervolume, in units of the unhedged deviation; None: a tenth beyond the worst of the
    hedges that others are compared with, on each axis.
    """
    arrays = [tested.load(file) for _, file in entries]
    for (point, file), each in zip(entries, arrays, strict=True):
        if each is None:
            raise ValueError(f"{point.label} has no tested episodes: {file} is not there or damaged")
    pnl, cost = (np.stack([each[key] for each in arrays if each is not None]) for key in ("pnl", "cost"))
    unhedged = next(each["unhedged"] for each in arrays if each is not None)
    axes = (
        list(objectives)
        if len(objectives) > 1
        else [*objectives, *(["cost"] if "cost" not in objectives else ["risk"])]
    )
    groups = {group: [i for i, (point, _) in enumerate(entries) if point.group == group] for group in GROUPS}
    if reference is None or len(reference) != len(axes):
        values = front.measure(pnl, cost, unhedged, axes)
        known = np.flatnonzero(np.isfinite(values).all(axis=1)).tolist()
        compared = [i for i in known if i in groups["baseline"]] or known
        reference = [float(each + 0.1 * abs(each)) for each in values[compared].max(axis=0)]
    comparison = front.compare_fronts(
        pnl,
        cost,
        unhedged,
        {group: members for group, members in groups.items() if members},
        axes,
        reference=reference,
        n_resamples=resamples,
    )
    points = measured([point for point, _ in entries], comparison)
    rows = records(points)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(folder / f"{name}.csv", columns, rows)
    content = {"title": title, "command": command, "labels": [point.label for point in points], **comparison.to_dict()}
    write_text(folder / f"{name}.json", json.dumps(strict(content), indent=1, allow_nan=False) + "\n")
    write_bytes(folder / f"{name}.png", front_png(points, axes, reference=reference, title=title))
    write_text(folder / f"{name}.html", front_html(points, axes, reference=reference, title=title))
    print(front_text(points, axes))
    print(verdict(comparison, points))
    print(f"\nfront: {folder / name}.html, .png, .csv, .json")
    return comparison


def verdict(comparison: FrontComparison, points: Sequence[Point]) -> str:
    """The hypervolumes, and where every policy stands that is not of the first group."""
    corner = ", ".join(
        f"{front.OBJECTIVES[name].label} {value:.3g}"
        for name, value in zip(comparison.objectives, comparison.reference, strict=True)
    )
    confidence = f"{100 * comparison.confidence:.0f} %"
    lines = [f"\nhypervolume up to {corner} (more is better), with {confidence} intervals over the test paths:"]
    for name, each in comparison.hypervolume.items():
        lines.append(f"  {name:<12} {each.value:.4f} [{each.low:.4f}, {each.high:.4f}]")
    first = next(iter(comparison.groups))
    for name, each in comparison.difference.items():
        lines.append(f"  {first} less {name}: {each.value:+.4f} [{each.low:+.4f}, {each.high:+.4f}]")
    by_verdict: dict[str, list[str]] = {}
    for number, standing in comparison.standing.items():
        by_verdict.setdefault(standing.verdict, []).append(points[number].label)
    words = {
        "dominated": f"behind the front of {first}",
        "on": "beside it: neither beaten nor beating",
        "ahead": "ahead of some of it",
        "undefined": "without numbers",
    }
    for key, text in words.items():
        if key in by_verdict:
            lines.append(f"{len(by_verdict[key])} {text}: {', '.join(by_verdict[key])}")
    return "\n".join(lines)
