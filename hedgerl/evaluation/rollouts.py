"""Policies through episodes: every one on the same scenarios, a chunk of paths at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from hedgerl.baselines.base import Policy
from hedgerl.envs.action import Action
from hedgerl.envs.gym import ENVIRONMENTS
from hedgerl.envs.observation import Raw, n_liabilities, observed_as
from hedgerl.envs.quoted import QuoteCounts
from hedgerl.envs.scenario import Scenario
from hedgerl.envs.task import TASKS, OptionBook, Task
from hedgerl.envs.transition import Record, Rollout
from hedgerl.evaluation.attribution import Expansion, attribute
from hedgerl.evaluation.bootstrap import paired_differences
from hedgerl.evaluation.comparison import LEAST_EPISODES, Comparison
from hedgerl.evaluation.metrics import measure
from hedgerl.evaluation.result import Kind, Result
from hedgerl.pricing._checks import finite, nearest, positive, whole_number
from hedgerl.risk import max_drawdown, pain_index, ulcer_index
from hedgerl.sim import QuotedHistory
from hedgerl.sim.backend import to_numpy
from hedgerl.sim.noise import drawn_seed, entropy, seed_sequence
from hedgerl.sim.quoted import Refused

DEFAULT_PATHS = 10_000
MOST_PATHS = 4096  # of a chunk
_CELLS = 1 << 20  # numbers in one array of a chunk; some sixty arrays live at a time


def evaluate(
    policy: Policy,
    task: Task | str,
    n_paths: int | None = None,
    seed: int | None = 0,
    *,
    chunk: int | None = None,
    every: int | None = None,
    target_exposure: float = 0.0,
    aversion: float = 1.0,
    name: str | None = None,
) -> Result:
    """The measures of one policy on a task: see `compare`, which takes the same and several.

    >>> from hedgerl.baselines import Delta
    >>> from hedgerl.envs import ShortOption
    >>> from hedgerl.sim import BlackScholes
    >>> result = evaluate(Delta(), ShortOption(market=BlackScholes(volatility=0.2)), n_paths=1000, seed=7)
    >>> round(result.metrics["sd"], 1), result.episodes.shape[0]
    (0.4, 1000)
    """
    label = type(policy).__name__ if name is None else name
    results, _, _ = _run({label: policy}, task, n_paths, seed, chunk, every, target_exposure, aversion)
    return results[label]


def compare(
    policies: Mapping[str, Policy],
    task: Task | str,
    n_paths: int | None = None,
    seed: int | None = 0,
    *,
    reference: str | None = "delta",
    resamples: int = 1000,
    confidence: float = 0.95,
    block: int | None = None,
    chunk: int | None = None,
    every: int | None = None,
    target_exposure: float = 0.0,
    aversion: float = 1.0,
) -> Comparison:
    """Policies on the same episodes, with bootstrap intervals of how each differs from the reference.

    Parameters
    ----------
    policies : name -> baseline or agent. A baseline names its raw observation and acts in holdings; an agent sees the
        task's observation and acts in the task's action, or in those of its `interface` where it has one.
    task : a `Task`, or the id of an environment, "hedgerl/ShortOption-v0", for its task as it is.
    n_paths : episodes to simulate; None: 10,000. On history it must be None: all windows are taken.
    seed : of the simulation and of the bootstrap; None draws one, which the results tell. Chunk i is simulated from
        a seed spawned from it; the same seed and chunk give the same bytes on any number of threads (a network's own
        arithmetic aside).
    reference : whom differences are taken against; where it is not among the policies, the first. None: no
        differences.
    resamples, confidence, block : of the bootstrap, see `paired_differences`. Episodes of history are kept together in
        blocks of (n_steps / every) x (windows without overlap)^(1/3), n_steps / every at least 1.
    chunk : paths that are held at a time; None: at most 4,096, fewer for long episodes and books of many options.
    every : on history, trading days from one window's start to the next; None: n_steps, windows without overlap. On
        quotes an episode whose contracts are not to be had is left out, and counted in the notes.
    target_exposure : net delta that hedging errors are measured against, as a share of the task's size.
    aversion : of the entropic risk, per unit of P&L.

    Money is per 100 of initial spot x size of the task. Raises ValueError for a task or reference that is not known,
    for no policies, and for arguments that do not go with the market.
    """
    results, example, plan = _run(policies, task, n_paths, seed, chunk, every, target_exposure, aversion)
    first = next(iter(results))
    base = None if reference is None else reference if reference in results else first
    if base is not None:
        cost = results[base].episodes["cost"]
        for name, result in results.items():
            results[name] = _measured(replace(result, episodes=result.episodes.assign(reference_cost=cost)))
    differences = pd.DataFrame()
    some = results[first]
    if base is not None and len(results) > 1:
        differences = paired_differences(
            results, base, n_resamples=resamples, confidence=confidence, block=block, seed=some.seed
        )
    return Comparison(
        market=some.market,
        task=some.task,
        kind=some.kind,
        results=results,
        reference=base,
        confidence=confidence,
        differences=differences,
        example=example,
        notes=() if plan.counts is None else plan.counts.notes(plan.task.market),
        marks="" if plan.counts is None else "quotes",
    )


def roll_out(policy: Policy, task: Task, scenario: Scenario) -> Record:
    """What one policy does in the episodes of a scenario, at the task's costs and limits."""
    observation, action = interface_of(policy)
    seen_as = observed_as(observation, task)
    convert = Action.of(action, task).bind(scenario, task)
    prepared = seen_as.prepare(scenario, task)
    rollout = Rollout(scenario, task.execution, record=True)
    state: Any = None
    start = np.ones(scenario.n_paths, dtype=bool)
    while not rollout.done:
        answer, state = policy.predict(prepared.at(rollout), state=state, episode_start=start, deterministic=True)
        rollout.act(convert(answer, rollout))
        start = np.zeros(scenario.n_paths, dtype=bool)
    return rollout.result()


def interface_of(policy: Policy) -> tuple[Any, Any]:
    """(observation, action) that a policy speaks, None for the task's own: raw names and holdings for a baseline."""
    if not callable(getattr(policy, "predict", None)):
        raise ValueError(f"policy must have a method predict(observation, state, ...), got {policy!r}")
    own: Any = getattr(policy, "interface", None)
    if own is not None:
        return getattr(own, "observation", None), getattr(own, "action", None)
    action = getattr(policy, "action", None)
    if isinstance(action, str | Action):
        observation: Any = getattr(policy, "observation", None)
        if isinstance(observation, tuple | list):
            observation = Raw(tuple(observation))
        return observation, action
    return None, None


def task_of(task: Task | str) -> Task:
    """The task itself, or the one of an environment's id as it is. Raises ValueError for an id that is not known."""
    if isinstance(task, Task):
        return task
    name = ENVIRONMENTS[task].task_name if task in ENVIRONMENTS else task
    if name in TASKS:
        return TASKS[name]()
    raise ValueError(
        f"task must be a Task or one of {', '.join(ENVIRONMENTS)}, got {task!r}; the nearest is "
        f"{nearest(task, ENVIRONMENTS)!r}"
    )


@dataclass(frozen=True)
class _Plan:
    """The chunks of an evaluation."""

    task: Task
    n: int
    chunk: int
    seed: int
    starts: np.ndarray | None  # days of history
    counts: QuoteCounts | None = None  # of a market of quotes, filled while scenarios are made

    def scenarios(self) -> Iterator[tuple[np.ndarray | None, Scenario]]:
        """Each chunk's starts and its scenario, without the episodes that quotes refuse."""
        for index, first in enumerate(range(0, self.n, self.chunk)):
            stop = min(first + self.chunk, self.n)
            drawn = drawn_seed(seed_sequence(self.seed, "evaluation", index))
            if self.starts is None:
                made = self.task.scenario(stop - first, drawn)
                yield None, made if isinstance(made.spot, np.ndarray) else made.mapped(to_numpy)
                continue
            starts = self.starts[first:stop]
            try:
                made = self.task.history(starts, drawn)
            except Refused as error:
                assert self.counts is not None
                self.counts.refuse(error)
                continue
            if self.counts is not None:
                self.counts.add(made)
            yield starts, made


def _plan(task: Task, n_paths: int | None, seed: int | None, chunk: int | None, every: int | None) -> _Plan:
    size = default_chunk(task) if chunk is None else whole_number("chunk", chunk)
    drawn = entropy(seed)
    if task.simulated:
        if every is not None and n_paths is None:
            raise ValueError(f"every is of history; a simulated market takes n_paths, got every = {every!r}")
        return _Plan(
            task, DEFAULT_PATHS if n_paths is None else whole_number("n_paths", n_paths, minimum=2), size, drawn, None
        )
    if n_paths is not None:
        raise ValueError(f"n_paths must be None on history, all of whose windows are taken, got {n_paths!r}; see every")
    starts = task.market.starts(task.n_steps, every=every)
    if isinstance(task.market, QuotedHistory):  # whose contracts differ by episode
        if chunk not in (None, 1):
            raise ValueError(f"chunk must be 1 on quotes, whose contracts differ by episode, got {chunk!r}")
        return _Plan(task, len(starts), 1, drawn, starts, QuoteCounts())
    return _Plan(task, len(starts), size, drawn, starts)


def default_chunk(task: Task) -> int:
    """Paths of a task that are held at a time: a power of two, at most 4,096."""
    columns = len(task.instruments) + 1
    if isinstance(task, OptionBook):
        columns += n_liabilities(task)
    fit = _CELLS // ((task.n_steps + 1) * columns)
    return min(MOST_PATHS, max(128, 1 << max(0, fit.bit_length() - 1)))


def _run(
    policies: Mapping[str, Policy],
    task: Task | str,
    n_paths: int | None,
    seed: int | None,
    chunk: int | None,
    every: int | None,
    target_exposure: float,
    aversion: float,
) -> tuple[dict[str, Result], dict[str, Record], _Plan]:
    known = task_of(task)
    if not policies:
        raise ValueError("policies must name at least one policy, got none")
    for policy in policies.values():
        interface_of(policy)  # raises for what is no policy
    finite("target_exposure", target_exposure)
    positive("aversion", aversion)
    plan = _plan(known, n_paths, seed, chunk, every)
    frames: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in policies}
    steps: dict[str, list[np.ndarray]] = {name: [] for name in policies}
    example: dict[str, Record] = {}
    taken: list[np.ndarray] = []
    for index, (starts, scenario) in enumerate(plan.scenarios()):
        if starts is not None:
            taken.append(starts)
        expansion = Expansion(scenario)
        unhedged = _unhedged(scenario, known)
        for name, policy in policies.items():
            record = roll_out(policy, known, scenario)
            columns, step_pnl = episode_columns(record, known.size, unhedged, target_exposure, expansion)
            frames[name].append(columns)
            if plan.starts is not None:
                steps[name].append(step_pnl)
            if index == 0:
                example[name] = _one_path(record, 0)
    if plan.counts is not None and plan.counts.episodes < LEAST_EPISODES:
        raise ValueError(
            f"n_steps must leave {LEAST_EPISODES} episodes of quotes, got {plan.counts.episodes} of {plan.n}: "
            f"{plan.counts.example}"
        )
    history: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    if taken:
        stride = known.n_steps if every is None else every
        overlap = max(1.0, known.n_steps / stride)
        days = np.concatenate(taken)
        history = {"every": stride, "block": max(1, round(overlap * (days.size / overlap) ** (1 / 3)))}
        dates = known.market.dates if plan.counts is not None else known.market.series.dates
        extra = {"start": pd.to_datetime(dates[days]), "end": pd.to_datetime(dates[days + known.n_steps])}
    kind: Kind = "simulated" if plan.starts is None else "history"
    results = {}
    for name, parts in frames.items():
        frame = pd.DataFrame({key: np.concatenate([part[key] for part in parts]) for key in parts[0]} | extra)
        results[name] = _measured(
            Result(
                policy=name,
                task=known.name,
                market=market_name(known.market),
                kind=kind,
                metrics={},
                episodes=frame,
                step_pnl=np.concatenate(steps[name], axis=1) if steps[name] else None,
                years=known.maturity,
                aversion=aversion,
                seed=plan.seed,
                **history,
            )
        )
    return results, example, plan


def market_name(market: Any) -> str:
    """What a market is called: its own name, as history has, or its class."""
    name = getattr(market, "name", None)
    return name if isinstance(name, str) else type(market).__name__


def episode_columns(
    record: Record,
    size: float,
    unhedged: np.ndarray,
    target_exposure: float = 0.0,
    expansion: Expansion | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns of `Result.episodes` (n,), and the P&L by step (n_steps, n), per 100 of initial spot x size.

    unhedged: P&L of no hedge on the same paths, (n,), in currency. The record's arrays must be NumPy's.
    """
    of = record.scenario
    spot = of.spot[0]
    scale = 100.0 / (spot * size)
    step_pnl = pnl_by_step(record) * scale
    wealth = np.concatenate([np.zeros((1, of.n_paths)), np.cumsum(step_pnl, axis=0)])
    traded = abs(record.trades) > 1e-9 * size
    forced = abs(record.closed) > 1e-9 * size
    value = np.einsum("tnk,tnk->n", abs(record.trades), of.mid[:-1])
    value = value + np.einsum("tnk,tnk->n", abs(record.closed), of.carried)
    trades = traded.sum(axis=(0, 2)) + forced.sum(axis=(0, 2))
    delta = of.liability_delta[:-1] + (record.holdings[:-1] * of.delta[:-1]).sum(axis=-1)
    if of.kept.listings:
        sold = abs(record.kept[-2]) * ~of.kept.settles[-1]  # at the end; before it, kept contracts only settle
        value = value + (sold * of.kept.carried[-1]).sum(axis=-1)
        trades = trades + (sold > 1e-9 * size).sum(axis=-1)
        delta = delta + (record.kept[:-1] * of.kept.delta[:-1]).sum(axis=-1)
    net = delta / size - target_exposure
    columns = {
        "pnl": record.pnl * scale,
        "unhedged": unhedged * scale,
        "premium": of.premium.sum(axis=0) * scale,
        "cost": record.total_cost * scale,
        **{f"cost_{line}": paid.sum(axis=0) * scale for line, paid in record.costs.items()},
        "turnover": value / (spot * size),
        "trades": trades.astype(np.float64),
        "win_days": (step_pnl > 0.0).mean(axis=0),
        "max_drawdown": max_drawdown(wealth),
        "ulcer": ulcer_index(wealth, relative=False),
        "pain": pain_index(wealth, relative=False),
        "hedging_error_mean": net.mean(axis=0),
        "hedging_error_square": (net * net).mean(axis=0),
    }
    terms = attribute(record, expansion)
    for side, prefix in (("net", "attribution"), ("liability", "liability"), ("hedge", "hedge")):
        columns.update({f"{prefix}_{term}": amount * scale for term, amount in terms[side].items()})
    return columns, step_pnl


def pnl_by_step(record: Record) -> np.ndarray:
    """P&L of each step (n_steps, n), in currency, as `Rollout.act` returns it: from before one trade to the next."""
    of, n_steps = record.scenario, record.scenario.n_steps
    wealth = record.wealth  # after the trades
    paid: Any = sum(record.costs.values()) if record.costs else np.zeros_like(wealth)
    chosen = paid[:-1].copy()
    rolled = record.closed[1:-1].any(axis=(1, 2))
    for step in (np.flatnonzero(rolled) + 1).tolist():  # where some of the cost is that of a roll
        quotes = Rollout(of, record.execution).quotes(step)
        chosen[step] = sum(cost.amount(record.trades[step], quotes).sum(axis=-1) for cost in record.execution.costs)
    before = wealth.copy()
    before[:-1] += chosen
    before[0] = record.initial_wealth
    assert before.shape[0] == n_steps + 1
    return np.diff(before, axis=0)


def _unhedged(scenario: Scenario, task: Task) -> np.ndarray:
    """P&L of no hedge, (n,), in currency."""
    rollout = Rollout(scenario, task.execution)
    before = rollout.wealth
    nothing = np.zeros_like(scenario.mid[0])
    while not rollout.done:
        rollout.act(nothing)
    gained: np.ndarray = rollout.wealth - before
    return gained


def _measured(result: Result) -> Result:
    return replace(result, metrics=measure(result))


def _one_path(record: Record, index: int) -> Record:
    """One episode of a record, without the memory of the others."""

    def pick(array: Any) -> Any:
        return array[:, index : index + 1].copy()

    return replace(
        record,
        scenario=record.scenario.mapped(pick),
        flows={line: pick(flow) for line, flow in record.flows.items()},
        **{name: pick(getattr(record, name)) for name in ("holdings", "trades", "closed", "kept", "cash")},
    )
