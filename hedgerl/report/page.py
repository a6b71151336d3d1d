"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from hedgerl.evaluation.comparison import Study
from hedgerl.evaluation.folds import WalkForward
from hedgerl.evaluation.metrics import METRICS
from hedgerl.evaluation.result import TERMS, Result
from hedgerl.report.assets import SCRIPT, STYLE
from hedgerl.report.charts import Numbers, attribution
from hedgerl.report.drawing import N_POLICY_COLOURS
from hedgerl.report.numbers import DASH, best, decimals, front, label, metric, show, traders, value

SUMMARY = (
    *("mean", "sd", "cvar_95", "cvar_99", "max_drawdown", "cost", "cost_to_reference", "turnover", "effectiveness"),
    *("win_rate", "sharpe"),
)
COMPARED = ("mean", "sd", "cvar_95", "cvar_99", "max_drawdown", "cost", "turnover", "effectiveness")
REGIME = ("mean", "sd", "cvar_95")
# What the project set out to reach: name -> (metric, is reached, in words). Shown as measured, also where missed.
TARGETS: dict[str, tuple[str, Callable[[float], bool], str]] = {
    "Sharpe ratio": ("sharpe", lambda x: x > 1.5, "above 1.5"),
    "Cost to reference": ("cost_to_reference", lambda x: x < 0.5, "under 50 %"),
    "Drawdown to premium": ("drawdown_to_premium", lambda x: x < 0.1, "under 10 %"),
    "Winning days": ("win_rate_days", lambda x: x > 0.65, "over 65 %"),
}
MODEL_MARKS = (
    "Option prices on this history are model marks, not market quotes: spot prices are real, while premiums, Greeks "
    "and option trades are priced by a model. Results with options as hedges depend on that model most."
)
OVERLAP = (
    "Episodes overlap in time, so that there is less to learn from them than their number says. Standard errors and "
    "intervals keep neighbouring episodes together in blocks."
)
NO_CURVE = (
    "There is no equity curve: simulated episodes are independent draws, and their order means nothing. Drawdowns here "
    "are those within an episode, in the mean."
)


def page(
    studies: Sequence[Study],
    numbers: Numbers,
    drawn: Sequence[Mapping[str, tuple[Any, str]]],
    *,
    title: str,
    config: Any,
    seed: int | None,
    commit: str | None,
    version: str,
    command: str,
    files: Sequence[tuple[str, str]],
) -> str:
    """The whole document. drawn: for each study, name of a chart -> (Chart, its SVG element)."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        "<header>",
        f"<h1>{escape(title)}</h1>",
        _introduction(studies, files),
        _facts(seed, commit, version, command),
        _contents(studies),
        "</header><main>",
        _overview(studies, numbers),
        *(_section(i, study, numbers, drawn[i]) for i, study in enumerate(studies)),
        _glossary(),
        '<h2 id="config">Configuration</h2>',
        "<p>What this run was asked to do; the same configuration, seed and version give the same bytes.</p>",
        f"<details><summary>Show the configuration</summary>"
        f'<pre tabindex="0" aria-label="Configuration as JSON">{escape(_json(config))}</pre></details>',
        f"</main><footer><p>hedgerl {escape(version)}</p></footer><script>{SCRIPT}</script></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _json(config: Any) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False)


def _introduction(studies: Sequence[Study], files: Sequence[tuple[str, str]]) -> str:
    policies = {name for study in studies for name in study.results}
    counted = f"{len(policies)} {'policy' if len(policies) == 1 else 'policies'}"
    markets = f"{len(studies)} {'market' if len(studies) == 1 else 'markets'}"
    listed = "".join(f"<li><code>{escape(name)}</code>: {escape(what)}</li>" for name, what in files)
    return (
        f"<p>This report compares {counted} for hedging an option book, in {markets}. In each market all policies face "
        "the same episodes and pay the same costs.</p>"
        "<p><strong>How to read it.</strong> Profit and loss (P&amp;L) is the hedger’s, after all costs, for one "
        "episode; profit is positive. Money is per 100 of initial spot times the size of the book. Risks (VaR, CVaR, "
        "deviation, drawdown) and costs are positive numbers, and lower is better. ± is one standard error. ★ marks "
        "the best of a column; for cost and turnover, among policies that trade. A difference counts where its "
        "interval leaves out zero: then it is marked better or worse. Each policy keeps its number and colour. "
        "A click on a column’s head sorts its table; the glossary at the end explains every measure.</p>"
        f"<details><summary>Files beside this page</summary><ul>{listed}</ul></details>"
    )


def _facts(seed: int | None, commit: str | None, version: str, command: str) -> str:
    facts = {
        "Command": command,
        "Version": f"hedgerl {version}",
        "Commit": commit or "not known (not run from a checkout)",
        "Seed": "none given" if seed is None else str(seed),
    }
    return (
        '<dl class="facts">'
        + "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
        + "</dl>"
    )


def _contents(studies: Sequence[Study]) -> str:
    links = [("overview", "Overview")] if len(studies) > 1 else []
    links += [(f"study-{i + 1}", label(study)) for i, study in enumerate(studies)]
    links += [("glossary", "Glossary"), ("config", "Configuration")]
    items = "".join(f'<li><a href="#{to}">{escape(text)}</a></li>' for to, text in links)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def policy_head(name: str, numbers: Numbers) -> str:
    """The head of a policy's row."""
    number = numbers[name]
    return (
        f'<th scope="row" data-v="{number}">'
        f'<span class="number" style="background:var(--p{number % N_POLICY_COLOURS})">{number + 1}</span>'
        f"{escape(name)}</th>"
    )


def _scroll(caption: str, head: str, rows: Sequence[str], *, sortable: bool = True) -> str:
    """A table in a box of its own, which scrolls where the page is narrow."""
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(caption)}"><table{kind}>'
        f"<caption>{escape(caption)}</caption><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _head(name: str) -> str:
    about = metric(name)
    sense = {"low": "; lower is better", "high": "; higher is better", "none": ""}[about.better]
    return f'<th scope="col"><abbr title="{escape(about.meaning + sense)}">{escape(about.label)}</abbr></th>'


def _cells(
    results: Mapping[str, Result], names: Sequence[str], eligible: Sequence[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """Heads of the metrics that are known, and the cells of each policy."""
    heads: list[str] = []
    cells: dict[str, list[str]] = {name: [] for name in results}
    for name in names:
        column = {policy: value(result, name) for policy, result in results.items()}
        if not any(math.isfinite(number) for number in column.values()):
            continue
        about = metric(name)
        places = decimals(column.values(), about.unit)
        errors = {policy: value(result, "mean_se") for policy, result in results.items()}
        if name == "mean" and any(math.isfinite(error) for error in errors.values()):
            places = max(places, min(5, decimals(errors.values(), "money") - 1))
        tops = best(column, about.better, eligible if name in ("cost", "turnover", "cost_to_reference") else None)
        heads.append(_head(name))
        for policy, number in column.items():
            text = show(number, places, about.unit)
            if name == "mean" and math.isfinite(errors[policy]):
                text += f' <span class="se">± {show(errors[policy], places)}</span>'
            kind = ' class="best"' if policy in tops else ""
            spoken = ' title="best of the column"' if policy in tops else ""
            cells[policy].append(f'<td{kind}{spoken} data-v="{_sort_key(number)}">{text}</td>')
    return heads, cells


def _sort_key(number: float) -> str:
    return f"{number:.10g}" if math.isfinite(number) else ""


def _row(name: str, numbers: Numbers, cells: Sequence[str], reference: str | None) -> str:
    kind = ' class="reference"' if name == reference else ""
    return f"<tr{kind}>{policy_head(name, numbers)}{''.join(cells)}</tr>"


def _overview(studies: Sequence[Study], numbers: Numbers) -> str:
    """CVaR and cost of every policy in every market."""
    if len(studies) < 2:
        return ""
    names = sorted({name for study in studies for name in study.results}, key=numbers.__getitem__)
    first = '<tr><th scope="col" rowspan="2">Policy</th>' + "".join(
        f'<th scope="colgroup" colspan="2" class="group">{escape(label(study))}</th>' for study in studies
    )
    heads = '<th scope="col" class="group">CVaR 95 %</th><th scope="col">Cost</th>' * len(studies)
    rows = []
    for name in names:
        cells = []
        for study in studies:
            for which, kind in (("cvar_95", "first "), ("cost", "")):
                column = {policy: value(result, which) for policy, result in study.results.items()}
                tops = best(column, "low", traders(study) if which == "cost" else None)
                number = column.get(name, math.nan)
                shown = kind + "best" * (name in tops)
                cells.append(f'<td class="{shown}">{show(number, decimals(column.values(), "money"))}</td>')
        rows.append(f"<tr>{policy_head(name, numbers)}{''.join(cells)}</tr>")
    table = _scroll("CVaR 95 % and mean cost in every market", f"{first}</tr><tr>{heads}</tr>", rows, sortable=False)
    return f'<h2 id="overview">Overview</h2>{table}'


def _section(index: int, study: Study, numbers: Numbers, drawn: Mapping[str, tuple[Any, str]]) -> str:
    counts = sorted({result.n_episodes for result in study.results.values()})
    episodes = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
    years = {result.years for result in study.results.values()}
    length = f" of {show(years.pop(), 3)} years" if len(years) == 1 else ""
    kind = {"history": f"real history, {'market quotes' if study.marks == 'quotes' else 'model marks'}"}
    notes = [MODEL_MARKS] if study.kind == "history" and study.marks != "quotes" else []
    notes += [OVERLAP] if any(_overlaps(result) for result in study.results.values()) else []
    notes += [note for note in study.notes if note]
    notes += [f"{name}: {result.note}" for name, result in study.results.items() if result.note]
    parts = [
        f'<section aria-labelledby="study-{index + 1}"><h2 id="study-{index + 1}">{escape(label(study))}</h2>',
        f"<p>{kind.get(study.kind, 'simulated')}; {episodes} episodes{length}.</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        _findings(study),
        _summary(study, numbers),
        _differences(study, numbers),
        '<div class="charts">'
        + "".join(
            f"<figure><h3>{escape(chart.title)}</h3>{svg}<figcaption>{escape(chart.caption)}</figcaption></figure>"
            for chart, svg in drawn.values()
        )
        + "</div>",
        f"<p>{NO_CURVE}</p>" if study.kind == "simulated" else "",
        _regimes(study, numbers),
        *((_folds(study, numbers), _simultaneous(study, numbers)) if isinstance(study, WalkForward) else ()),
        _attribution(study, numbers),
        _targets(study, numbers),
        _everything(study, numbers),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _overlaps(result: Result) -> bool:
    return result.every is not None and result.step_pnl is not None and result.every < result.step_pnl.shape[0]


def _findings(study: Study) -> str:
    """What the tables say, in sentences that are true of any results."""
    risk = {name: value(result, "cvar_95") for name, result in study.results.items()}
    safest = sorted(best(risk, "low"))
    sentences = []
    if safest:
        places = decimals(risk.values(), "money")
        sentences.append(f"Lowest CVaR 95 %: {' and '.join(safest)} ({show(risk[safest[0]], places)}).")
    kept = front(study)
    if len(study.results) > 1 and kept:
        everyone = len(kept) == len(study.results)
        sentences.append(
            "No policy is beaten in both risk and cost by another."
            if everyone
            else f"Not beaten in both risk and cost by any other: {', '.join(kept)}."
        )
    verdicts: dict[bool, list[str]] = {True: [], False: []}
    for row in study.difference_rows():
        low, high = row["low"], row["high"]
        if row["metric"] == "cvar_95" and low is not None and high is not None and (low > 0 or high < 0):
            verdicts[high < 0].append(row["policy"])
    if not study.differences.empty:
        for lower, names in verdicts.items():
            word = "lower" if lower else "higher"
            listed = ", ".join(names) or "no policy"
            sentences.append(
                f"CVaR 95 % {word} than that of {study.reference}, with the interval leaving out zero: {listed}."
            )
    return f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in sentences)}</ul>" if sentences else ""


def _summary(study: Study, numbers: Numbers) -> str:
    heads, cells = _cells(study.results, SUMMARY, traders(study))
    if not heads:
        return "<p>There are too few episodes to measure.</p>"
    head = f'<tr><th scope="col">Policy</th>{"".join(heads)}</tr>'
    rows = [_row(name, numbers, row, study.reference) for name, row in cells.items()]
    shaded = f" The shaded row is the reference, {study.reference}." if study.reference in study.results else ""
    return f"<h3>Summary</h3>{_scroll(f'Measures of each policy over all episodes.{shaded}', head, rows)}"


def _differences(study: Study, numbers: Numbers) -> str:
    rows = study.difference_rows()
    if not rows:
        return ""
    found = {(row["policy"], row["metric"]): row for row in rows}
    names = [name for name in study.results if any(policy == name for policy, _ in found)]
    shown = [name for name in COMPARED if any((policy, name) in found for policy in names)]
    columns: dict[str, list[str]] = {name: [] for name in names}
    for which in shown:
        about = metric(which)
        here = [found.get((policy, which)) for policy in names]
        places = decimals([_number(row, "difference") for row in here], about.unit)
        for policy, row in zip(names, here, strict=True):
            middle, low, high = (_number(row, key) for key in ("difference", "low", "high"))
            text = show(middle, places, about.unit)
            if middle > 0:
                text = f"+{text}"
            if math.isfinite(low) and math.isfinite(high):
                word = ""
                if (low > 0 or high < 0) and about.better != "none":
                    good = (low > 0) == (about.better == "high")
                    word = f' <span class="{"good" if good else "bad"}">{"better" if good else "worse"}</span>'
                unit = "" if about.unit != "share" else " %"
                ends = [show(each, places, about.unit).removesuffix(" %") for each in (low, high)]
                text += f'{word}<span class="interval">[{ends[0]}, {ends[1]}]{unit}</span>'
            columns[policy].append(f'<td data-v="{_sort_key(middle)}">{text}</td>')
    level = f"{100 * study.confidence:g} %"
    caption = f"Policy minus {study.reference} on the same episodes, with {level} bootstrap intervals"
    head = f'<tr><th scope="col">Policy</th>{"".join(_head(name) for name in shown)}</tr>'
    body = [_row(name, numbers, cells, None) for name, cells in columns.items()]
    return f"<h3>Differences from {escape(str(study.reference))}</h3>{_scroll(caption, head, body)}"


def _number(row: Mapping[str, Any] | None, key: str) -> float:
    found = None if row is None else row.get(key)
    return math.nan if found is None else float(found)


def _regimes(study: Study, numbers: Numbers) -> str:
    if not study.regimes:
        return ""
    notes = [
        next((result.note for result in results.values() if result.note), f"{regime}: too few episodes to measure")
        for regime, results in study.regimes.items()
        if not any(result.metrics for result in results.values())
    ]
    measured = {name: results for name, results in study.regimes.items() if any(r.metrics for r in results.values())}
    said = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    if not measured:
        return f"<h3>Regimes</h3>{said}"
    top = "".join(
        f'<th scope="colgroup" colspan="{len(REGIME)}" class="group">{escape(name)} '
        f'<span class="se">({max(r.n_episodes for r in results.values()):,} episodes)</span></th>'
        for name, results in measured.items()
    )
    heads = "".join(_head(name) for _ in measured for name in REGIME)
    rows = []
    for policy in study.results:
        cells = []
        for results in measured.values():
            for i, which in enumerate(REGIME):
                column = {name: value(result, which) for name, result in results.items()}
                number = column.get(policy, math.nan)
                kind = ("first " if i == 0 else "") + ("best" * (policy in best(column, metric(which).better)))
                places = decimals(column.values(), metric(which).unit)
                cells.append(f'<td class="{kind}">{show(number, places, metric(which).unit)}</td>')
        rows.append(_row(policy, numbers, cells, study.reference))
    head = f'<tr><th scope="col" rowspan="2">Policy</th>{top}</tr><tr>{heads}</tr>'
    table = _scroll(
        "Mean, deviation and tail of the P&L of episodes that lie inside each period; with few episodes CVaR is little "
        "more than the worst one",
        head,
        rows,
        sortable=False,
    )
    return f"<h3>Regimes</h3>{said}{table}"


def _folds(study: WalkForward, numbers: Numbers) -> str:
    """The measure of each policy in each fold, and the windows."""
    about = metric(study.measure)
    columns = [{name: value(result, study.measure) for name, result in each.results.items()} for each in study.folds]
    places = decimals([number for column in columns for number in column.values()], about.unit)
    whole = {name: value(result, study.measure) for name, result in study.results.items()}
    rows = []
    for policy in study.results:
        cells = [
            f'<td class="{"best" if policy in best(column, about.better) else ""}" '
            f'data-v="{_sort_key(column[policy])}">{show(column[policy], places, about.unit)}</td>'
            for column in [*columns, whole]
        ]
        rows.append(_row(policy, numbers, cells, study.reference))
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in (*(each.name for each in study.folds), "all"))
    caption = f"{about.label} in each test window, by the month in which it begins, and over all of them"
    table = _scroll(caption, f'<tr><th scope="col">Policy</th>{heads}</tr>', rows)
    windows = []
    for row in study.fold_rows():
        days = (f"{row[key][0]} to {row[key][1]}" for key in ("train", "test"))
        fitted = "; ".join(f"{name}: {_fitted(found)}" for name, found in row["fitted"].items()) or "nothing"
        told = "".join(f"<td>{escape(text)}</td>" for text in (*days, str(row["episodes"]), fitted))
        windows.append(f'<tr><th scope="row">{escape(row["fold"])}</th>{told}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Fold", "Fitted on", "Tested on", "Episodes", "Fitted"))
    listed = _scroll("The windows, and what was fitted", f"<tr>{head}</tr>", windows, sortable=False)
    return f"<h3>Folds</h3>{table}<details><summary>Windows</summary>{listed}</details>"


def _fitted(found: Mapping[str, Any]) -> str:
    """What was fitted, in a few words: plain numbers; of weights that there are some."""
    numbers = {name: each for name, each in found.items() if isinstance(each, int | float)}
    return ", ".join(f"{name} {each:.3g}" for name, each in numbers.items()) or "weights"


def _simultaneous(study: WalkForward, numbers: Numbers) -> str:
    """Which policies differ from the reference, as many as were tried."""
    rows = study.simultaneous_rows()
    if not rows:
        return ""
    about = metric(study.measure)
    places = decimals([_number(row, "difference") for row in rows], about.unit)
    lines = []
    for row in rows:
        middle, low, high = (_number(row, key) for key in ("difference", "low", "high"))
        chance = _number(row, "p_value")
        text = f"[{show(low, places, about.unit)}, {show(high, places, about.unit)}]"
        word = ""
        if chance < 1.0 - study.confidence:
            word = "better" if (middle > 0) == (about.better == "high") else "worse"
        cells = [
            f'<td data-v="{_sort_key(middle)}">{show(middle, places, about.unit)}</td>',
            f"<td>{text}</td>",
            f'<td data-v="{_sort_key(chance)}">{show(chance, 3, "number")}</td>',
            f'<td><span class="{"good" if word == "better" else "bad"}">{word}</span></td>' if word else "<td></td>",
        ]
        lines.append(_row(row["policy"], numbers, cells, None))
    heads = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("Difference", "Interval", "p-value", f"{100 * study.confidence:g} %")
    )
    caption = (
        f"{about.label} less that of {study.reference}; intervals hold for all rows at once, and p-values count how "
        "many policies were tried (Romano & Wolf 2005)"
    )
    table = _scroll(caption, f'<tr><th scope="col">Policy</th>{heads}</tr>', lines)
    return f"<h3>Told apart from {escape(str(study.reference))}, as many as were tried</h3>{table}"


def _attribution(study: Study, numbers: Numbers) -> str:
    parts = attribution(study)
    if not parts:
        return ""
    used = [term for term in TERMS if any(terms.get(term, 0.0) for terms in parts.values())]
    if not used:
        return ""
    sums = {name: sum(terms.values()) for name, terms in parts.items()}
    places = decimals([amount for terms in parts.values() for amount in terms.values()], "money")
    rows = []
    for name, terms in parts.items():
        numbers_shown = [*(terms.get(term, 0.0) for term in used), sums[name]]
        cells = [f'<td data-v="{_sort_key(number)}">{show(number, places)}</td>' for number in numbers_shown]
        rows.append(_row(name, numbers, cells, study.reference))
    heads = "".join(f'<th scope="col">{escape(term)}</th>' for term in (*used, "sum"))
    table = _scroll(
        "Mean P&L of an episode by Taylor term of liabilities and hedge together; the sum is the mean P&L",
        f'<tr><th scope="col">Policy</th>{heads}</tr>',
        rows,
    )
    return f"<details><summary>Attribution in numbers</summary>{table}</details>"


def _targets(study: Study, numbers: Numbers) -> str:
    rows = []
    for name, result in study.results.items():
        cells = []
        for which, reached, _ in TARGETS.values():
            number, unit = value(result, which), metric(which).unit
            word = ""
            if math.isfinite(number):
                word = ' <span class="good">met</span>' if reached(number) else ' <span class="bad">missed</span>'
            text = show(number, 1 if unit == "share" else 2, unit)
            cells.append(f'<td data-v="{_sort_key(number)}">{text}{word}</td>')
        rows.append(_row(name, numbers, cells, study.reference))
    heads = "".join(
        f'<th scope="col"><abbr title="{escape(metric(which).meaning)}">{name}</abbr> {words}</th>'
        for name, (which, _, words) in TARGETS.items()
    )
    table = _scroll(
        "The project’s targets as measured here, also where they are missed",
        f'<tr><th scope="col">Policy</th>{heads}</tr>',
        rows,
    )
    return f"<details><summary>Targets</summary>{table}</details>"


def _everything(study: Study, numbers: Numbers) -> str:
    names = dict.fromkeys(name for result in study.results.values() for name in result.metrics)
    heads, cells = _cells(study.results, list(names), traders(study))
    if not heads:
        return ""
    head = f'<tr><th scope="col">Policy</th>{"".join(heads)}</tr>'
    rows = [_row(name, numbers, row, study.reference) for name, row in cells.items()]
    return f"<details><summary>All measures</summary>{_scroll('Every measure of each policy', head, rows)}</details>"


def _glossary() -> str:
    units = {
        "money": "per 100 of initial spot × size of the book",
        "share": "share, shown in per cent",
        "number": "number",
    }
    senses = {"low": "lower is better", "high": "higher is better", "none": ""}
    own = {
        "Episode": "one run of the task from the first trade to the last step, where all positions are closed",
        "Interval": "range in which the middle part of resampled differences lies; the same resamples for all policies",
        "Front": "policies that no other policy is at least as good as in both risk and cost, and better in one",
        "Model marks": "option prices by a model where there are no quotes",
        "Signs": "profit is positive in P&L; losses are positive in VaR, CVaR and drawdowns; costs are positive",
        DASH: "not defined, or too few episodes",
    }
    items = [(name, escape(text)) for name, text in own.items()]
    for about in METRICS.values():
        tail = "; ".join(part for part in (units[about.unit], senses[about.better]) if part)
        items.append((about.label, f"{escape(about.meaning)} ({escape(tail)})"))
    body = "".join(f"<dt>{escape(name)}</dt><dd>{text}.</dd>" for name, text in items)
    return (
        f'<h2 id="glossary">Glossary</h2><details open><summary>Measures, units and signs</summary>'
        f'<dl class="glossary">{body}</dl></details>'
    )
