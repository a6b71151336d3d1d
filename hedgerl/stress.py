"""`hedgerl stress`: shocks that happened, applied to today's book, and the book revalued under shocks at once.

Read from the top down: what is configured, which days are replayed, how they become a market of today, roll out and
attribute, the grid, report.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

import hedgerl
from hedgerl import backtest
from hedgerl.baselines import TunedBand, solved
from hedgerl.data import DailySeries
from hedgerl.data.surface import VIX_YEARS, VOLATILITY_RANGE
from hedgerl.envs import Contracts, OptionBook, Record, Scenario, Task
from hedgerl.evaluation.attribution import Expansion, Terms, contract_terms
from hedgerl.evaluation.result import POSITION_TERMS, TERMS
from hedgerl.evaluation.rollouts import pnl_by_step, roll_out
from hedgerl.execution.funding import LINES
from hedgerl.pricing import Option, implied_volatility
from hedgerl.pricing._checks import finite, in_interval, positive, whole_number
from hedgerl.report.drawing import TEXT, WIDTH, Chart, blank, box, colour, png, style
from hedgerl.report.files import all_or_nothing
from hedgerl.report.numbers import strict
from hedgerl.sim import HistoricalMarket, History, Model

WEEK = 5  # trading days
UNHEDGED = "unhedged"
FILES = ("replays.csv", "grid.csv", "replays.png", "grid.png", "stress.json")
_VIX_RANGE = (0.01, VOLATILITY_RANGE[1])  # what the level is kept within


@dataclass
class TodayConfig:
    """Where the market stands as the shock begins."""

    spot: float = 100.0
    volatility: float | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        positive("today.spot", self.spot)
        if self.volatility is not None:
            in_interval("today.volatility", self.volatility, *_VIX_RANGE, closed=True)
        if self.rate is not None:
            finite("today.rate", self.rate)


@dataclass
class WorstConfig:
    """How many of the worst days and weeks of the series are replayed beside the named windows."""

    days: int = 5
    weeks: int = 5

    def __post_init__(self) -> None:
        whole_number("worst.days", self.days, minimum=0)
        whole_number("worst.weeks", self.weeks, minimum=0)


@dataclass
class GridConfig:
    """Moves at once: of the spot, as shares of it, and of the volatility level, as multiples."""

    spot: list[float] = field(default_factory=lambda: [-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2])
    volatility: list[float] = field(default_factory=lambda: [0.5, 1.0, 1.5, 2.0])

    def __post_init__(self) -> None:
        if not self.spot or not self.volatility:
            raise ValueError(f"grid must have moves of both, got spot = {self.spot}, volatility = {self.volatility}")
        for move in self.spot:
            if finite("grid.spot", move) <= -1.0:
                raise ValueError(f"grid.spot must be above -1, got {move}")
        for multiple in self.volatility:
            positive("grid.volatility", multiple)


@dataclass
class StressConfig:
    """Every key of conf/stress.yaml, with its type; units and reasons stand there."""

    data: Any = MISSING
    market: Any = None
    execution: Any = MISSING
    task: Any = MISSING
    today: TodayConfig = field(default_factory=TodayConfig)
    elasticity: float = 1.0
    windows: Any = None  # name -> [first day, last day]
    worst: WorstConfig = field(default_factory=WorstConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    baselines: list[Any] = field(default_factory=list)
    agents: list[Any] | None = None
    tuning: backtest.TuningConfig = field(default_factory=backtest.TuningConfig)
    reference: str = "delta"
    n_paths: int = 200
    every: int = 1
    seed: int | None = 1

    def __post_init__(self) -> None:
        in_interval("elasticity", self.elasticity, 0.0, 1.0, closed=True)
        whole_number("n_paths", self.n_paths)
        if self.seed is not None:
            whole_number("seed", self.seed, minimum=0)
        self.windows = backtest.periods("windows", self.windows)


# ---- which days ----


@dataclass(frozen=True)
class Window:
    """Days of a series whose moves are replayed."""

    name: str
    start: int  # the day at whose close the replay begins
    days: int  # trading days that follow


def span(history: History) -> tuple[int, int]:
    """The first day of a history that has a surface, and its last, which is today."""
    starts = history.starts(1, every=1)
    return int(starts[0]), int(starts[-1]) + 1


def windows(history: History, named: Mapping[str, Sequence[Any]], worst: WorstConfig) -> tuple[list[Window], list[str]]:
    """The named windows and the worst days and weeks of a history, and a line for each named one that is not in it.

    A named window holds the moves of its first day to its last. The worst days are those of the lowest returns; the
    worst weeks are five trading days each, none of which shares a day with a worse one.
    """
    dates, close = history.series.dates, history.series.close
    first, now = span(history)
    found, missing = [], []
    for name, (begin, end) in named.items():
        one = int(np.searchsorted(dates, np.datetime64(begin, "D")))
        stop = int(np.searchsorted(dates, np.datetime64(end, "D"), side="right"))
        if one - 1 < first or stop <= one or np.datetime64(end, "D") > dates[now]:
            missing.append(
                f"{name} ({begin} to {end}) is not in {history.name}, {dates[first]} to {dates[now]}: left out"
            )
        else:
            found.append(Window(str(name), one - 1, stop - one))
    for count, days, word in ((worst.days, 1, "day"), (worst.weeks, WEEK, "week")):
        starts = np.arange(first, now + 1 - days)
        moves = np.log(close[starts + days] / close[starts])
        taken = np.zeros(dates.size, dtype=bool)
        for start in starts[np.argsort(moves, kind="stable")].tolist():
            if count == 0:
                break
            if not taken[start : start + days].any():
                taken[start : start + days] = True
                found.append(Window(f"worst {word} to {dates[start + days]}", start, days))
                count -= 1
    return found, missing


# ---- a market of today ----


@dataclass(frozen=True)
class Today:
    """The market as the shock begins."""

    spot: float
    volatility: float  # the level of the surface: of the log contract over 30 days, as a VIX, per square root of a year
    rate: float  # per year, continuously compounded
    dividend: float


def today_of(history: History, config: TodayConfig, model: Model | None = None) -> Today:
    """The level of a model, or what is given, or the last day of the history.

    A model's level is that whose smile has the model's implied volatility at the forward, 30 days ahead.
    """
    day = span(history)[1]
    rate, dividend = config.rate, history.dividend
    volatility = config.volatility
    if model is not None:
        if volatility is not None or rate is not None:
            raise ValueError("today.volatility and today.rate must be null where market names a model, which has both")
        rate, dividend = model.rate, model.dividend
        volatility = _model_level(model, history)
    if rate is None:
        rate = history.series.rate[day] if history.rate == "series" and history.series.rate is not None else None
        rate = float(history.rate) if rate is None else float(rate)
    if volatility is None:
        volatility = float(history.surface.index_volatility(history.series)[day])
    return Today(config.spot, float(np.clip(volatility, *_VIX_RANGE)), rate, dividend)


def _model_level(model: Model, history: History) -> float:
    market = model.market(model.simulate(2, 1, VIX_YEARS, seed=0, backend="numpy"))
    forward = float(market.spot[0, 0]) * np.exp((model.rate - model.dividend) * VIX_YEARS)
    price = market.mark(Option(strike=forward, expiry_years=VIX_YEARS), 0).price
    implied = implied_volatility(
        price, market.spot[0], forward, VIX_YEARS, rate=model.rate, dividend=model.dividend, is_call=True
    )
    theta = np.asarray(implied[:1], dtype=np.float64) ** 2 * VIX_YEARS
    return float(np.sqrt(history.surface.shape.log_contract(theta)[0] / VIX_YEARS))


def moved_level(level: np.ndarray, today: float, elasticity: float) -> np.ndarray:
    """Today's volatility moved as a window moved its own, (days + 1,), from the first entry of `level` on:

        y_t = y_0 + (x_t - x_0) (y_0 / x_0)^elasticity.

    1: by the same ratio; 0: by the same points; 1/2: by the same change of the root, to first order. Kept within
    [0.01, 5].
    """
    moved = today + (level - level[0]) * (today / level[0]) ** elasticity
    kept: np.ndarray = np.clip(moved, *_VIX_RANGE)
    return kept


def replayed(history: History, window: Window, today: Today, n_steps: int, elasticity: float = 1.0) -> History:
    """The history up to today, brought to today's levels, and then the moves of a window; its last n_steps + 1 days
    are the replay.

    Closes, opens, highs and lows move by the window's ratios, rates by its differences, the level of the surface by
    `moved_level`; the surface's long run is the trailing mean, of today's past and the replay. After the window, and
    beyond the end of the series, everything stands still.
    """
    series = history.series
    now = span(history)[1]
    past = slice(0, now + 1)
    days = window.start + np.minimum(np.arange(1, n_steps + 1), window.days)
    still = np.arange(1, n_steps + 1) > window.days
    scale, ratio = today.spot / series.close[now], today.spot / series.close[window.start]
    close = np.append(scale * series.close[past], ratio * series.close[days])
    prices: dict[str, Any] = {"close": close}
    for name in ("open", "high", "low"):
        if (values := getattr(series, name)) is not None:
            after = np.where(still, ratio * series.close[days], ratio * values[days])
            prices[name] = np.append(scale * values[past], after)
    level = history.surface.index_volatility(series)
    before = np.clip(level[past] * (today.volatility / level[now]), *_VIX_RANGE)
    moved = moved_level(level[np.append(window.start, days)], today.volatility, elasticity)
    before[-1] = today.volatility
    rate: float | str = today.rate
    rates = None
    if history.rate == "series" and series.rate is not None:
        rate = "series"
        rates = np.append(
            series.rate[past] + (today.rate - series.rate[now]),
            today.rate + series.rate[days] - series.rate[window.start],
        )
    dates = np.append(
        series.dates[past], np.busday_offset(series.dates[now], np.arange(1, n_steps + 1), roll="backward")
    )
    made = DailySeries(window.name, dates, **prices, vix=100.0 * np.append(before, moved[1:]), rate=rates)
    surface = dataclasses.replace(history.surface, level="vix")
    return History(made, surface, rate, today.dividend, name=window.name)


# ---- roll out and attribute ----


def replay(task: Task, history: History, today: Today, seed: int | None, n_paths: int) -> Scenario:
    """The task's book in a replayed history, `n_paths` times: alike but for the clients who come."""
    start = len(history.series) - 1 - task.n_steps
    market = history.market(np.full(n_paths, start), task.n_steps, spot=today.spot)
    return task.book(market, seed)


def terms_by_step(record: Record, liability: Terms, expansion: Expansion) -> dict[str, np.ndarray]:
    """The book's P&L of each step, (n_steps, n), and its terms: "pnl", and `TERMS`, which sum to it; in currency.

    liability: the terms of a share of each contract owed, see `contract_terms`. A step runs from before its trade to
    before the next one; cost is what the other terms leave of it.
    """
    of = record.scenario
    first = int(of.trades_underlying)
    moved = np.diff(of.spot, axis=0)
    sums = {name: np.einsum("tnc,tnc->tn", of.position[:-1], liability[name]) for name in POSITION_TERMS}
    sums["delta"] = sums["delta"] + of.shares * moved
    held = record.holdings[:-1]
    for name in POSITION_TERMS:
        sums[name] = sums[name] + np.einsum("tnc,tnc->tn", held[:, :, first:], expansion.hedge_terms[name])
        if of.kept.listings:
            sums[name] = sums[name] + np.einsum("tnc,tnc->tn", record.kept[:-1], expansion.kept_terms[name])
    if first:
        sums["delta"] = sums["delta"] + held[:, :, 0] * moved
    carry = np.zeros_like(moved)
    for line in LINES:
        if line in record.flows:
            carry = carry + record.flows[line][1:]
    pnl = pnl_by_step(record)
    cost = pnl - sum(sums.values()) - carry
    sums |= {"carry": carry, "cost": cost}
    return {"pnl": pnl, **{name: sums[name] for name in TERMS}}


def replay_rows(
    config: StressConfig,
    task: Task,
    history: History,
    today: Today,
    chosen: Sequence[Window],
    policies: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, Record]]:
    """A row for each replay and policy, money per 100 of spot x size of the task; and the records of the first replay.

    P&L is from today's close to the last day of the window, or of the task where that is earlier, at mids.
    """
    rows: list[dict[str, Any]] = []
    records: dict[str, Record] = {}
    clients = isinstance(task, OptionBook) and task.arrivals > 0.0
    series, level = history.series, history.surface.index_volatility(history.series)
    now = span(history)[1]
    for window in chosen:
        made = replayed(history, window, today, task.n_steps, config.elasticity)
        own = dataclasses.replace(task, market=made)
        scenario = replay(own, made, today, config.seed, config.n_paths if clients else 1)
        days = min(window.days, task.n_steps)
        scale = 100.0 / (today.spot * task.size)
        expansion = Expansion(scenario)
        liability = contract_terms(scenario, scenario.liabilities, scenario.liability_volatility)
        end = window.start + days
        head = {
            "replay": window.name,
            "from": str(series.dates[window.start]),
            "to": str(series.dates[end]),
            "days": days,
            "spot_move": float(series.close[end] / series.close[window.start] - 1.0),
            "lowest_spot_move": float(series.close[window.start : end + 1].min() / series.close[window.start] - 1.0),
            "level_ratio": float(level[end] / level[window.start]),
            "volatility": float(made.surface.index_volatility(made.series)[now + days]),
        }
        for name, policy in policies.items():
            record = roll_out(policy, own, scenario)
            if window is chosen[0]:
                records[name] = record
            by_step = terms_by_step(record, liability, expansion)
            sums = {term: scale * values[:days].sum(axis=0) for term, values in by_step.items()}
            spread = float(sums["pnl"].std(ddof=1)) if sums["pnl"].size > 1 else None
            rows.append(
                {**head, "policy": name, **{term: float(each.mean()) for term, each in sums.items()}, "pnl_sd": spread}
            )
    return rows, records


# ---- shocks at once ----


def grid_rows(
    history: History, today: Today, grid: GridConfig, records: Mapping[str, Record], size: float
) -> list[dict[str, Any]]:
    """P&L of each policy's book after its first trade when spot and level jump at once, per 100 of spot x size.

    Marks are those of the surface with the moved level, its long run as it was but for today's place in the mean; no
    time passes, nobody trades, and rates stay.
    """
    spots = today.spot * (1.0 + np.array(grid.spot))
    rows: list[dict[str, Any]] = []
    calm = _now(history, today, 1.0, np.array([today.spot]))
    for multiple in grid.volatility:
        moved = _now(history, today, multiple, spots)
        for name, record in records.items():
            of = record.scenario
            first = int(of.trades_underlying)
            holdings = record.holdings[0].mean(axis=0)
            gained = (of.shares + (holdings[0] if first else 0.0)) * (spots - today.spot)
            for which, quantity in ((of.liabilities, of.position[0].mean(axis=0)), (of.hedges, holdings[first:])):
                gained = gained + _revalued(which, quantity, moved) - _revalued(which, quantity, calm)
            for move, amount in zip(grid.spot, gained.tolist(), strict=True):
                pnl = 100.0 / (today.spot * size) * amount
                rows.append({"policy": name, "spot_move": move, "volatility_multiple": multiple, "pnl": pnl})
    return rows


def _now(history: History, today: Today, multiple: float, spots: np.ndarray) -> HistoricalMarket:
    """Today at these spots (n,), with this multiple of its level."""
    now = span(history)[1]
    made = replayed(history, Window("now", now, 0), today, 1)
    assert made.series.vix is not None
    vix = made.series.vix.copy()
    vix[now] = 100.0 * np.clip(today.volatility * multiple, *_VIX_RANGE)
    levels = made.surface.levels(dataclasses.replace(made.series, vix=vix))

    def at(value: float) -> np.ndarray:
        return np.full((1, spots.size), value)

    return HistoricalMarket(
        surface=made.surface,
        dates=np.full((1, spots.size), made.series.dates[now]),
        spot=spots[None, :],
        variance=at(levels.short[now]),
        long_variance=at(levels.long[now]),
        rates=today.rate,
        dividend=today.dividend,
        slopes=at(0.0),
    )


def _revalued(which: Contracts, quantity: np.ndarray, market: HistoricalMarket) -> np.ndarray:
    """Value of the contracts that live today at a market's marks, (n,)."""
    value = np.zeros(market.n_paths)
    for column in np.flatnonzero(which.alive[0]).tolist():
        strike, years = float(which.strike[0, 0, column]), float(which.years_left[0, column])
        option = Option(strike=strike, expiry_years=years, is_call=bool(which.is_call[column]))
        value = value + quantity[column] * market.mark(option, 0).price
    return value


# ---- report ----


def run(config: StressConfig, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The whole of it: prints tables, writes `FILES` into the folder; the replays and the grid, a row a number."""
    task, policies, today, model = plan(config)
    history: History = task.market
    chosen, missing = windows(history, config.windows, config.worst)
    for line in missing:
        print(line, file=sys.stderr)
    if not chosen:
        raise ValueError(f"windows and worst must leave something to replay of {history.name}, got nothing")
    rows, records = replay_rows(config, task, history, today, chosen, policies)
    replays = pd.DataFrame(rows)
    grid = pd.DataFrame(grid_rows(history, today, config.grid, records, task.size))
    about = {
        "task": task.name,
        "history": history.name,
        "model": None if model is None else type(model).__name__,
        "today": dataclasses.asdict(today),
        "left_out": missing,
    }
    reference = _reference(config, list(policies))
    _write(folder, config, about, replays, grid, reference)
    print("\n\n".join([_replay_table(replays, reference), _policy_table(replays), _grid_table(grid, reference)]))
    print(f"\nP&L per 100 of spot x size of the book, at mids; {backtest.marks(history)}")
    print(f"files: {folder}")
    return replays, grid


def _reference(config: StressConfig, labels: Sequence[str]) -> str:
    """The label that is meant, as `backtest.plan` has checked it; where delta is not among them, the first hedge."""
    for label in (config.reference, config.reference.replace("_", " ")):
        if label in labels:
            return label
    return UNHEDGED if config.reference == "none" else labels[min(1, len(labels) - 1)]


def plan(config: StressConfig) -> tuple[Task, dict[str, Any], Today, Model | None]:
    """The task on its history, the policies, and today. Raises ValueError for what the configuration cannot mean."""
    models = list(backtest.markets(config.market).values())
    if len(models) > 1:
        raise ValueError(f"market must be one model, or none, got {len(models)}")
    model = models[0] if models else None
    given = backtest.BacktestConfig(
        market=config.market,
        data=config.data,
        execution=config.execution,
        task=config.task,
        every=config.every,
        baselines=config.baselines,
        agents=config.agents,
        tuning=config.tuning,
        reference=config.reference,
        seed=config.seed,
    )
    planned = backtest.plan(given)
    tasks = [task for task in planned.tasks.values() if not task.simulated]
    if not tasks or not isinstance(tasks[0].market, History):
        got = f"{tasks[0].market!r:.80}" if tasks else "none"
        raise ValueError(f"data must name the daily history whose days are replayed, got {got}")
    task = tasks[0]
    today = today_of(task.market, config.today, model)
    policies: dict[str, Any] = {UNHEDGED: solved("none", task)}
    for name, kind, parameters in planned.hedges:
        if kind == "none":
            continue
        if kind == "tuned_band" and "scale" not in parameters:
            tuning, simulated = config.tuning, next(each for each in planned.tasks.values() if each.simulated)
            policies[name] = TunedBand.fit(
                simulated, objective=tuning.objective, n_paths=tuning.n_paths, seed=tuning.seed
            )
        else:
            policies[name] = solved(kind, task, **parameters)
    return task, policies | planned.agents, today, model


def _write(
    folder: Path, config: StressConfig, about: dict[str, Any], replays: pd.DataFrame, grid: pd.DataFrame, reference: str
) -> None:
    content = {
        "command": "hedgerl stress",
        "version": hedgerl.__version__,
        "commit": backtest.commit(),
        **about,
        "config": OmegaConf.to_container(OmegaConf.structured(config), resolve=True),
        "replays": replays.to_dict(orient="records"),
        "grid": grid.to_dict(orient="records"),
    }
    with all_or_nothing(folder, FILES) as stage:
        replays.to_csv(stage / "replays.csv", index=False, float_format="%.8g", lineterminator="\n")
        grid.to_csv(stage / "grid.csv", index=False, float_format="%.8g", lineterminator="\n")
        with style():
            for chart in (_replay_chart(replays, reference), _grid_chart(grid, reference)):
                (stage / f"{chart.name}.png").write_bytes(png(chart, chart.caption))
        text = json.dumps(strict(content), indent=1, ensure_ascii=False, allow_nan=False)
        (stage / "stress.json").write_text(text + "\n", encoding="utf-8")


def _replay_table(replays: pd.DataFrame, reference: str) -> str:
    """Each replay: how the market moved, the unhedged book, and the reference with its attribution."""
    shown = ("delta", "gamma", "vega", "theta", "cost")
    head = f"{'replay':<26}{'days':>4}{'spot':>8}{'level':>7}{UNHEDGED:>10}{reference[:9]:>10}"
    head += "".join(f"{term:>7}" for term in (*shown, "rest"))
    lines = [f"replays, with the attribution of {reference}", head, "-" * len(head)]
    for _, parts in replays.groupby("replay", sort=False):
        bare, own = (parts[parts["policy"] == name].iloc[0] for name in (UNHEDGED, reference))
        line = f"{own['replay'][:25]:<26}{own['days']:>4}{own['spot_move']:>8.1%}{own['volatility']:>7.1%}"
        terms = [own[term] for term in shown]
        terms.append(own["pnl"] - sum(terms))
        lines.append(f"{line}{bare['pnl']:>10.3f}{own['pnl']:>10.3f}" + "".join(f"{term:>7.2f}" for term in terms))
    return "\n".join(lines)


def _policy_table(replays: pd.DataFrame) -> str:
    """Each policy over all replays."""
    head = f"{'policy':<36}{'mean':>10}{'worst':>10}{'cost':>9}  worst in"
    lines = [head, "-" * len(head)]
    for name, parts in replays.groupby("policy", sort=False):
        worst = parts.sort_values("pnl").iloc[0]
        line = f"{str(name)[:35]:<36}{parts['pnl'].mean():>10.3f}{worst['pnl']:>10.3f}{abs(parts['cost'].mean()):>9.3f}"
        lines.append(f"{line}  {worst['replay']}")
    return "\n".join(lines)


def _grid_table(grid: pd.DataFrame, reference: str) -> str:
    """The book when spot and volatility jump at once: unhedged, and with the reference's first trade."""
    blocks = []
    for name in dict.fromkeys((UNHEDGED, reference)):
        table = _pivoted(grid, name)
        head = f"{'volatility x':<14}" + "".join(f"{move:>+9.0%}" for move in table.columns)
        lines = [f"at once, {name}: spot by", head, "-" * len(head)]
        lines += [f"{multiple:<14g}" + "".join(f"{each:>9.3f}" for each in row) for multiple, row in table.iterrows()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _pivoted(grid: pd.DataFrame, policy: str) -> pd.DataFrame:
    own = grid[grid["policy"] == policy]
    return own.pivot_table(index="volatility_multiple", columns="spot_move", values="pnl")


_SHOWN = {"delta": "t0", "gamma": "t1", "vega": "t2", "theta": "t3", "cost": "t5", "rest": "t6"}


def _replay_chart(replays: pd.DataFrame, reference: str) -> Chart:
    """Stacked terms of the reference's P&L by replay, its sum, and the unhedged book."""
    own = replays[replays["policy"] == reference].reset_index(drop=True)
    bare = replays[replays["policy"] == UNHEDGED].reset_index(drop=True)
    parts = {term: own[term].to_numpy() for term in _SHOWN if term != "rest"}
    parts["rest"] = own["pnl"].to_numpy() - sum(parts.values())
    figure = blank(22.0 * len(own) + 92)
    left = 12.0 + 0.55 * TEXT * 26
    axes = box(figure, left, 80, WIDTH - left - 10, 22.0 * len(own))
    axes.set_ylim(-0.6, len(own) - 0.4)
    at = np.arange(len(own))[::-1].astype(float)
    up, down = np.zeros(len(own)), np.zeros(len(own))
    for term, role in _SHOWN.items():
        values = parts[term]
        start = np.where(values >= 0.0, up, down)
        axes.barh(at, values, left=start, height=0.62, color=colour(role), label=term)
        up, down = up + np.maximum(values, 0.0), down + np.minimum(values, 0.0)
    axes.plot(own["pnl"], at, "o", color=colour("ink"), markersize=4, label="sum")
    axes.plot(bare["pnl"], at, "x", color=colour("muted"), markersize=5, label=UNHEDGED)
    axes.set_yticks(at, [str(name)[:26] for name in own["replay"]], fontsize=TEXT - 2)
    axes.set_xlabel("P&L per 100 of spot x size")
    figure.legend(loc="lower left", ncols=4, fontsize=TEXT - 3, frameon=False)
    return Chart("replays", f"Replays, {reference}", "terms of the P&L, and the unhedged book", "", figure)


def _grid_chart(grid: pd.DataFrame, reference: str) -> Chart:
    """P&L by the move of the spot, a line for each volatility: unhedged dashed, the reference solid."""
    figure = blank(276.0)
    axes = box(figure, 46, 84, WIDTH - 60, 180)
    for place, multiple in enumerate(sorted(grid["volatility_multiple"].unique())):
        for name, dash in dict.fromkeys(((UNHEDGED, "--"), (reference, "-"))):
            row = _pivoted(grid, name).loc[multiple]
            label = f"x {multiple:g}" if name == reference else None
            axes.plot(100.0 * row.index.to_numpy(), row.to_numpy(), dash, color=colour(f"p{place % 8}"), label=label)
    axes.set_xlabel("spot, %")
    axes.set_ylabel("P&L")
    figure.legend(loc="lower left", ncols=3, fontsize=TEXT - 2, frameon=False, title="volatility")
    return Chart("grid", "Shocks at once", f"{reference} solid, {UNHEDGED} dashed", "", figure)


ConfigStore.instance().store(name="stress_schema", node=StressConfig)


def from_hydra(config: DictConfig, folder: Path) -> None:
    """Runs the stress from its Hydra configuration and writes into the run's `folder`."""
    run(backtest.typed(config, StressConfig), folder)
