"""The summary that the command line prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hedgerl.evaluation.comparison import Study
from hedgerl.evaluation.folds import WalkForward
from hedgerl.evaluation.result import Result
from hedgerl.report.numbers import decimals, label, metric, show, value

WIDTH = 110
NAME = 36
COLUMNS = (
    ("mean", "mean", 12),
    ("mean_se", "(s.e.)", 12),
    ("sd", "sd", 11),
    ("cvar_95", "CVaR95", 11),
    ("cost", "cost", 11),
    ("effectiveness", "effect. %", 12),
)


def table(studies: Sequence[Study]) -> str:
    """The studies as lines of at most 110 signs: a block for each market and regime, a row for each
    policy; regimes with too few episodes are left out (the report names them).

    Money is per 100 of initial spot x size; CVaR95 is the mean loss in the worst 5 % of episodes, positive for a loss;
    effect. is the share of the unhedged variance that is gone.
    """
    blocks = []
    for study in studies:
        marks = "real spots, model marks" if study.kind == "history" else "simulated"
        marks = "market quotes" if study.marks == "quotes" else marks
        blocks.append(_block(label(study), marks, study.results))
        for regime, results in study.regimes.items():
            if all(result.metrics for result in results.values()):
                blocks.append(_block(f"{label(study)}: {regime}", marks, results))
    note = "P&L, risk and cost per 100 of initial spot x size of the book; a loss is positive in CVaR95."
    return "\n\n".join([*blocks, note])


def fold_table(study: WalkForward) -> str:
    """A walk-forward as lines: of each policy the measure over all folds, in how many of them it is better than the
    reference, and the difference with its simultaneous interval and p-value; see `hedgerl.evaluation.folds`."""
    about, reference = metric(study.measure), study.reference
    sign = 1.0 if about.better == "high" else -1.0
    own = [value(each.results[str(reference)], study.measure) for each in study.folds]
    rows = {row["policy"]: row for row in study.simultaneous_rows()}
    places = decimals([value(result, study.measure) for result in study.results.values()], about.unit)
    head = f"{'policy':<{NAME}}{'value':>10}{'better in':>12}{'difference':>12}{'interval':>22}{'p':>8}"
    level = f"{100 * study.confidence:g} %"
    lines = [
        f"{about.label} over {len(study.folds)} folds, and less that of {reference}; {level} intervals and p-values "
        "hold for all rows at once",
        head,
        "-" * len(head),
    ]
    for name, result in study.results.items():
        number = show(value(result, study.measure), places, about.unit)
        cells = f"{_cut(name, NAME - 1):<{NAME}}{number:>10}"
        row = rows.get(name)
        if row is not None:
            values = [value(each.results[name], study.measure) for each in study.folds]
            ahead = sum(sign * (mine - theirs) > 0.0 for mine, theirs in zip(values, own, strict=True))
            low, middle, high = (
                show(float("nan") if row[key] is None else row[key], places, about.unit)
                for key in ("low", "difference", "high")
            )
            chance = "" if row["p_value"] is None else f"{row['p_value']:.3f}"
            cells += f"{f'{ahead} of {len(own)}':>12}{middle:>12}{f'[{low}, {high}]':>22}{chance:>8}"
        lines.append(cells.replace("−", "-"))
    return "\n".join(lines)


def _block(name: str, marks: str, results: Mapping[str, Result]) -> str:
    """One table: a row for each policy."""
    counts = {result.n_episodes for result in results.values()}
    told = f": {max(counts, default=0):,} episodes, {marks}"
    head = f"{'policy':<{NAME}}" + "".join(f"{column:>{width}}" for _, column, width in COLUMNS)
    lines = [_cut(name, WIDTH - len(told)) + told, head, "-" * len(head)]
    places = {}
    for which, _, _ in COLUMNS:
        places[which] = decimals([value(result, which) for result in results.values()], metric(which).unit)
    places["mean"] = max(places["mean"], places["mean_se"] - 1)
    places["mean_se"] = max(places["mean"], places["mean_se"] - 1)
    for policy, result in results.items():
        cells = []
        for which, _, width in COLUMNS:
            text = show(value(result, which), places[which], metric(which).unit).replace("−", "-").removesuffix(" %")
            cells.append(f"{f'({text})' if which == 'mean_se' else text:>{width}}")
        lines.append(f"{_cut(policy, NAME - 1):<{NAME}}" + "".join(cells))
    return "\n".join(lines)


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
