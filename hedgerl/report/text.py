"""The summary that the command line prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hedgerl.evaluation.comparison import Study
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
        blocks.append(_block(label(study), marks, study.results))
        for regime, results in study.regimes.items():
            if all(result.metrics for result in results.values()):
                blocks.append(_block(f"{label(study)}: {regime}", marks, results))
    note = "P&L, risk and cost per 100 of initial spot x size of the book; a loss is positive in CVaR95."
    return "\n\n".join([*blocks, note])


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
