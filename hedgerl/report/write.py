"""A report on disk."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hedgerl.evaluation.comparison import Study
from hedgerl.evaluation.folds import WalkForward
from hedgerl.evaluation.metrics import METRICS
from hedgerl.report.charts import charts
from hedgerl.report.drawing import png, style, svg
from hedgerl.report.files import all_or_nothing
from hedgerl.report.numbers import FOLD_COLUMNS, LONG_COLUMNS, label, long_rows, strict
from hedgerl.report.page import page

MOST_EPISODES = 1000  # of a policy, for its study to be in episodes.csv
FORMAT = 1  # of results.json
NAMES = ("charts", "episodes.csv", "results.csv", "results.json", "report.html")


def write_report(
    studies: Sequence[Study],
    folder: Path,
    *,
    title: str,
    config: Any,
    seed: int | None,
    commit: str | None,
    version: str,
    command: str,
) -> Path:
    """Writes the report of `studies` into `folder` and returns the path of its page, report.html.

    report.html needs no other file. Beside it: results.json (all numbers, config, seed, commit, version), results.csv
    (a row a number: study, regime, policy, quantity, metric, value, low, high; quantity is "value", or "difference"
    from `against`; of a walk-forward also fold and p_value), charts/*.png, and episodes.csv (a row an episode, of
    studies of at most MOST_EPISODES a policy).
    The same arguments give the same bytes: nothing holds a date or a time of the run.

    A report that was there before is replaced as a whole, other files in `folder` stay, and an error leaves everything
    as it was. Raises ValueError for no studies or one without policies, OSError where the disk fails.
    """
    if not studies:
        raise ValueError("studies must hold at least one study, got none")
    for study in studies:
        if not study.results:
            raise ValueError(f"studies must hold policies, got none in {label(study)}")
    names = list(dict.fromkeys(name for study in studies for name in study.results))
    numbers = {name: i for i, name in enumerate(names)}
    run = {"title": title, "command": command, "version": version, "commit": commit, "seed": seed}
    plain_config = strict(config)
    small = [study for study in studies if max(r.n_episodes for r in study.results.values()) <= MOST_EPISODES]
    with all_or_nothing(Path(folder), NAMES) as stage:
        (stage / "charts").mkdir()
        drawn = []
        for i, study in enumerate(studies):
            made = charts(study, numbers)
            pictures = {}
            with style():
                for chart in made:
                    pictures[chart.name] = (chart, svg(chart, f"s{i + 1}-{chart.name}"))
                    file = stage / "charts" / f"{i + 1}_{_slug(study.market)}_{chart.name}.png"
                    file.write_bytes(png(chart, label(study)))
            drawn.append(pictures)
        folded = any(isinstance(study, WalkForward) for study in studies)
        frame = pd.DataFrame(long_rows(studies), columns=[*LONG_COLUMNS, *(FOLD_COLUMNS if folded else ())])
        frame.to_csv(stage / "results.csv", index=False, lineterminator="\n")
        if small:
            _episodes(small).to_csv(stage / "episodes.csv", index=False, float_format="%.8g", lineterminator="\n")
        content = {"format": FORMAT, **run, "config": plain_config, "metrics": _metrics(), "studies": _studies(studies)}
        text = json.dumps(strict(content), indent=1, ensure_ascii=False, allow_nan=False)
        (stage / "results.json").write_text(text + "\n", encoding="utf-8")
        document = page(studies, numbers, drawn, config=plain_config, files=_files(studies, small), **_for_page(run))
        (stage / "report.html").write_text(document, encoding="utf-8", errors="replace")
    return Path(folder) / "report.html"


def _for_page(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: run[name] for name in ("title", "seed", "commit", "version", "command")}


def _slug(text: str) -> str:
    """A part of a file's name."""
    plain_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain_text.lower()).strip("-")[:40] or "market"


def _metrics() -> dict[str, dict[str, str]]:
    return {name: dict(each._asdict()) for name, each in METRICS.items()}


def _studies(studies: Sequence[Study]) -> list[dict[str, Any]]:
    return [
        {
            "market": study.market,
            "task": study.task,
            "kind": study.kind,
            "marks": study.marks or ("model" if study.kind == "history" else "simulated"),
            "reference": study.reference,
            "confidence": study.confidence,
            "policies": list(study.results),
            "rows": study.rows(),
            "differences": study.difference_rows(),
            "notes": list(study.notes),
            **_folds(study),
        }
        for study in studies
    ]


def _folds(study: Study) -> dict[str, Any]:
    """What a walk-forward has beside what every study has."""
    if not isinstance(study, WalkForward):
        return {}
    return {"measure": study.measure, "folds": study.fold_rows(), "simultaneous": study.simultaneous_rows()}


def _episodes(studies: Sequence[Study]) -> pd.DataFrame:
    frames = []
    for study in studies:
        for policy, result in study.results.items():
            head = pd.DataFrame(
                {"study": label(study), "policy": policy, "episode": range(result.n_episodes)},
            )
            frames.append(pd.concat([head, result.episodes.reset_index(drop=True)], axis=1))
    return pd.concat(frames, ignore_index=True)


def _files(studies: Sequence[Study], small: Sequence[Study]) -> list[tuple[str, str]]:
    files = [
        ("results.csv", "every number of this page, a row each"),
        ("results.json", "the same for programs, with the configuration, seed, commit and version"),
        ("charts/", "the charts as PNG"),
    ]
    left = [label(study) for study in studies if study not in small]
    if small:
        files.append(("episodes.csv", "a row for each episode" + (f", without {'; '.join(left)}" if left else "")))
    if left:
        files.append(
            ("report.html", f"this page; studies of more than {MOST_EPISODES:,} episodes have no episodes.csv")
        )
    return files
