"""`hedgerl walk-forward`: hedges fitted on a window of history and tested on the next, again and again.

Read from the top down: the windows and who hedges, a fold (fit, test, keep), all folds, pool and report.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf

import hedgerl
from hedgerl import backtest
from hedgerl.backtest import BacktestConfig
from hedgerl.baselines import SOLVED, Policy, TunedBand, baseline
from hedgerl.data import DailySeries
from hedgerl.envs import Task
from hedgerl.evaluation import METRICS, Result, compare, cut_regimes, measure, paired_differences
from hedgerl.evaluation.folds import Fold, FoldResults, WalkForward, pooled, simultaneous, split
from hedgerl.files import write_bytes, write_text
from hedgerl.pricing._checks import positive, whole_number
from hedgerl.report import fold_table, table, write_report
from hedgerl.sim import History
from hedgerl.sim.history import optional_day
from hedgerl.sim.noise import drawn_seed, entropy, seed_sequence
from hedgerl.studies.workers import InlinePool, Job, LocalPool, Outcome, Pool, run_all
from hedgerl.train import CONFIG  # which stores the schemas of conf/agent, too
from hedgerl.training.fixed_paths import Acting, Goal
from hedgerl.training.learners import network_arguments
from hedgerl.training.resampled import resampled, window
from hedgerl.training.settings import DeepHedgingConfig, ObjectiveConfig

RUN, FOLDS = "walk.json", "folds"
SOURCES = ("resampled", "history")
OBJECTIVES = ("cvar", "mean_std", "entropic", "variance")


@dataclass
class TrainingConfig:
    """The paths that fits meet."""

    source: str = "resampled"
    days: int = 40_000
    widen: float = 1.5
    start: str | None = "auto"
    start_rate: float = 0.2
    validation_paths: int = 4096
    validate_every: int = 25

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"training.source must be one of {', '.join(SOURCES)}, got {self.source!r}")
        whole_number("training.days", self.days, minimum=1000)
        if positive("training.widen", self.widen) < 1.0:
            raise ValueError(f"training.widen must be at least 1, got {self.widen!r}")
        positive("training.start_rate", self.start_rate)
        whole_number("training.validation_paths", self.validation_paths, minimum=2)
        whole_number("training.validate_every", self.validate_every)


@dataclass
class WalkForwardConfig:
    """Every key of conf/walk_forward.yaml, with its type; units and reasons stand there."""

    data: Any = MISSING
    execution: Any = MISSING
    task: Any = MISSING
    refit: Any = None
    name: str = "deep hedging, refitted"
    train_months: int = 60
    test_months: int = 12
    expanding: bool = False
    embargo_days: int = 5
    first_test: str | None = None
    every: int = 5
    baselines: list[Any] = field(default_factory=list)
    agents: list[Any] | None = None
    objective: ObjectiveConfig = field(default_factory=lambda: ObjectiveConfig("cvar"))
    training: TrainingConfig = field(default_factory=TrainingConfig)
    reference: str = "delta"
    measure: str = "cvar_95"
    regimes: Any = None
    bootstrap: int = 1000
    workers: int = 1
    resume: str | None = None
    seed: int | None = 1

    def __post_init__(self) -> None:
        whole_number("workers", self.workers)
        entropy(self.seed)
        if self.measure not in METRICS:
            raise ValueError(f"measure must be one of {', '.join(METRICS)}, got {self.measure!r}")
        if self.objective.name not in OBJECTIVES:
            raise ValueError(f"objective.name must be one of {', '.join(OBJECTIVES)}, got {self.objective.name!r}")
        if METRICS[self.measure].better == "none":
            raise ValueError(f"measure must be one that can be better or worse, got {self.measure!r}")


@dataclass(frozen=True)
class Plan:
    """What a run needs beside its configuration, made and checked before anything slow begins."""

    task: Task  # on the whole history
    folds: tuple[Fold, ...]
    hedges: tuple[tuple[str, str, dict[str, Any]], ...]  # (label, name, parameters)
    agents: dict[str, Any]  # label -> saved policy, a hedgerl.agents.agent.Agent
    learner: DeepHedgingConfig | None  # of the network that is trained in each fold
    start: Any  # Agent whose network each training begins from; None: a fresh one
    goal: Goal
    reference: str
    seed: int

    @property
    def history(self) -> History:
        """The whole history."""
        history = self.task.market
        assert isinstance(history, History)
        return history

    def fitted(self, config: WalkForwardConfig) -> list[str]:
        """Labels of what is fitted in each fold."""
        labels = [label for label, name, parameters in self.hedges if _is_refitted(name, parameters)]
        return [*([] if self.learner is None else [config.name]), *labels]


def plan(config: WalkForwardConfig) -> Plan:
    """What a configuration means. Raises ValueError for what it cannot mean; nothing is fitted."""
    if not config.data:
        raise ValueError("data must name a daily series to walk through, got none")
    hedges = [backtest.hedge(entry) for entry in config.baselines]
    learner = _learner(config.refit)
    for _, name, _ in hedges:
        if name == SOLVED:
            raise ValueError(f"baselines must not name {SOLVED} on history: it is solved for a model")
    standing: list[Any] = []  # a band that is to be fitted may be checked with any numbers
    for label, name, parameters in hedges:
        numbers = {"scale": 1.0} if name == "tuned_band" else {}
        standing.append({"name": name, "label": label, **numbers, **parameters})
    among = [label for label, _, _ in hedges]
    if learner is not None and config.name in among:
        raise ValueError(f"name must be a label of its own, got {config.name!r}, which is one of the baselines")
    own = learner is not None and config.reference == config.name
    checked = backtest.plan(
        BacktestConfig(
            market=None,
            data=config.data,
            execution=config.execution,
            task=config.task,
            every=config.every,
            baselines=standing,
            agents=config.agents,
            reference="delta" if own else config.reference,
            regimes=config.regimes,
            bootstrap=config.bootstrap,
            seed=config.seed,
        )
    )
    if learner is not None and config.name in checked.agents:
        raise ValueError(f"name must be a label of its own, got {config.name!r}, which is one of the agents")
    (task,) = checked.tasks.values()
    if not isinstance(task.market, History):
        raise ValueError(f"data must name a daily series to walk through, got {config.data!r:.80}")
    labels = [*([config.name] if learner else []), *checked.agents, *among]
    reference = config.reference if config.reference in labels else config.reference.replace("_", " ")
    first, stop = window(task.market)
    folds = split(
        task.market.series.dates,
        (first, stop - 1),
        task.n_steps,
        every=config.every,
        train_months=config.train_months,
        test_months=config.test_months,
        embargo_days=config.embargo_days,
        first_test=optional_day("first_test", config.first_test),
        expanding=config.expanding,
    )
    return Plan(
        task,
        tuple(folds),
        tuple(hedges),
        dict(checked.agents),
        learner,
        None if learner is None else _start(config.training.start, learner, task, checked.agents),
        _goal(config.objective, task),
        reference if reference in labels else labels[0],
        entropy(config.seed),
    )


def _is_refitted(name: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a baseline is fitted in each fold: a tuned band that is not given its numbers."""
    return name == "tuned_band" and not {"scale", "width"}.intersection(parameters)


def _learner(refit: Any) -> DeepHedgingConfig | None:
    """The network's training; None where `refit` names none. Raises ValueError for another learner."""
    if isinstance(refit, DeepHedgingConfig):
        return refit
    if refit:
        raise ValueError(f"refit must be deep_hedging or none, got {refit!r:.80}")
    return None


def _start(start: str | None, learner: DeepHedgingConfig, task: Task, agents: Mapping[str, Any]) -> Any:
    """The saved policy that trainings begin from; None for fresh networks.

    "auto": the first of the run's own policies that can be, where there is one; it must have been trained on simulated
    paths, as a network that has seen history may have seen the tests. Raises ValueError for one that cannot be.
    """
    if start is None:
        return None
    from hedgerl.agents.agent import Agent
    from hedgerl.agents.hedge_network import HedgeNetwork

    wanted = HedgeNetwork.for_task(task, **network_arguments(learner)).config
    named = list(agents.values()) if start == "auto" else [Agent.load(start)]
    for agent in named:
        if agent.task.simulated and isinstance(agent.module, HedgeNetwork) and agent.module.config == wanted:
            return agent
    if start != "auto":
        raise ValueError(
            f"training.start must be a policy with the network of refit, trained on simulated paths, got {start}"
        )
    return None


def _goal(objective: ObjectiveConfig, task: Task) -> Goal:
    """What fits minimise, of P&L in currency: windows of history start at 100."""
    goal = Goal(objective.name, objective.parameter)
    return Goal(goal.name, goal.level / task.size) if goal.name == "entropic" else goal


# A fold


def cut(history: History, first: int, last: int) -> History:
    """The history as it was known at the close of day `last`, with windows from day `first` on: indices into it."""
    series, days = history.series, slice(0, last + 1)
    arrays = {item.name: getattr(series, item.name) for item in dataclasses.fields(DailySeries)}
    known: dict[str, Any] = {name: each[days] for name, each in arrays.items() if isinstance(each, np.ndarray)}
    return dataclasses.replace(
        history, series=dataclasses.replace(series, **known), start=str(series.dates[first]), end=None
    )


def fit(config: WalkForwardConfig, planned: Plan, fold: Fold) -> dict[str, Policy]:
    """What is fitted to the fold's training window, by label: from the days up to its last one alone."""
    seed = drawn_seed(seed_sequence(planned.seed, "fold", fold.starts[0]))
    past = cut(planned.history, *fold.train)
    source = past
    if config.training.source == "resampled":
        source = resampled(past, config.training.days, seed, widen=config.training.widen)
    task = dataclasses.replace(planned.task, market=source)
    policies: dict[str, Policy] = {}
    with one_thread():
        if planned.learner is not None:
            policies[config.name] = _trained(config, planned, task, seed)
        for label, name, parameters in planned.hedges:
            if _is_refitted(name, parameters):
                own = dataclasses.replace(planned.task, market=past)
                scenario = own.history(past.starts(own.n_steps, every=1))
                policies[label] = TunedBand.fit(own, objective=planned.goal.for_band(), scenario=scenario, **parameters)
    return policies


def _trained(config: WalkForwardConfig, planned: Plan, task: Task, seed: int) -> Acting:
    import torch

    from hedgerl.agents.deep_hedging import DeepHedging

    agent, start, training = planned.learner, planned.start, config.training
    assert agent is not None
    network = network_arguments(agent) if start is None else copy.deepcopy(start.module).train().requires_grad_(True)
    learner = DeepHedging(
        task,
        network,
        planned.goal.name,
        parameter=planned.goal.level,
        learning_rate=agent.learning_rate * (1.0 if start is None else training.start_rate),
        batch_paths=agent.batch_paths,
        pool_batches=agent.pool_batches,
        epochs=agent.epochs,
        validation_paths=training.validation_paths,
        validate_every=training.validate_every,
        clip=agent.clip,
        seed=seed,
    )
    if start is not None:  # the first iteration would fit the normaliser anew, and the network were another
        with torch.no_grad():
            learner.criterion.start(*learner.outcome(task.scenario(agent.batch_paths, seed)))
        state = learner.state_dict()
        state["progress"]["_started"] = True
        learner.load_state_dict(state)
    policy = learner.learn(agent.iterations).policy
    return Acting(policy, policy.interface)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: another number gives other last digits, and folds may run side by side."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tested(config: WalkForwardConfig, planned: Plan, fold: Fold, policies: Mapping[str, Policy]) -> dict[str, Result]:
    """Every policy on the fold's test episodes."""
    n_steps = planned.task.n_steps
    future = cut(planned.history, fold.starts[0], fold.starts[-1] + n_steps)
    task = dataclasses.replace(planned.task, market=future)
    everyone: dict[str, Policy] = {label: each for label, each in policies.items() if label == config.name}
    everyone |= planned.agents
    for label, name, parameters in planned.hedges:
        everyone[label] = policies[label] if label in policies else baseline(name, **parameters)
    with one_thread():
        results = dict(compare(everyone, task, seed=planned.seed, every=config.every, reference=None).results)
    cost = results[planned.reference].episodes["cost"]
    for name, result in results.items():
        paid = dataclasses.replace(result, episodes=result.episodes.assign(reference_cost=cost))
        results[name] = dataclasses.replace(paid, metrics=measure(paid))
    return results


def described(policy: Policy) -> dict[str, Any]:
    """What a fit has found, as JSON knows it: a band's numbers; of a network, that its weights are these."""
    if isinstance(policy, TunedBand):
        return policy.to_dict()
    assert isinstance(policy, Acting)
    return {"weights_sha256": _sum_of(policy.module)}


def _sum_of(module: Any) -> str:
    """SHA-256 of a network's weights."""
    sha = hashlib.sha256()
    for name, weights in sorted(module.state_dict().items()):
        sha.update(name.encode() + np.ascontiguousarray(weights.cpu().numpy()).tobytes())
    return sha.hexdigest()


def run_fold(content: Mapping[str, Any], folder: str, number: int) -> dict[str, Any]:
    """Fits and tests one fold and keeps it in the folder: the work of a process. content: as `kept` made it."""
    config = configured(content)
    planned = plan(config)
    fold = planned.folds[number]
    policies = fit(config, planned, fold)
    results = tested(config, planned, fold, policies)
    fitted = {label: described(policy) for label, policy in policies.items()}
    write_bytes(_file(Path(folder), fold), _packed(results, fitted, digest(content, planned)))
    return {"fold": fold.name}


def _file(folder: Path, fold: Fold) -> Path:
    return folder / FOLDS / f"{fold.name}.npz"


_HEAD = "head"
_DAYS = ("start", "end")


def _packed(results: Mapping[str, Result], fitted: Mapping[str, Any], signature: str) -> bytes:
    """A fold as bytes: numbers as they are, all else as JSON."""
    arrays: dict[str, np.ndarray] = {}
    heads = []
    for number, (label, result) in enumerate(results.items()):
        frame, steps = result.episodes, result.step_pnl
        columns = [name for name in frame if name not in _DAYS]
        assert steps is not None
        arrays[f"episodes_{number}"] = frame[columns].to_numpy(dtype=np.float64)
        arrays[f"steps_{number}"] = steps
        for name in _DAYS:
            arrays[f"{name}_{number}"] = frame[name].to_numpy("datetime64[D]").astype(np.int64)
        skipped = ("episodes", "step_pnl", "metrics")
        told = {item.name: getattr(result, item.name) for item in dataclasses.fields(result)}
        heads.append(
            {"label": label, "columns": columns} | {name: each for name, each in told.items() if name not in skipped}
        )
    head = {"digest": signature, "fitted": fitted, "results": heads}
    arrays[_HEAD] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def _unpacked(content: bytes) -> tuple[dict[str, Result], dict[str, Any], str]:
    """(results, fitted, digest) of a fold."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        head = json.loads(arrays[_HEAD].tobytes())
        results = {}
        for number, told in enumerate(head["results"]):
            frame = pd.DataFrame(arrays[f"episodes_{number}"], columns=told.pop("columns"))
            for name in _DAYS:
                frame[name] = pd.to_datetime(arrays[f"{name}_{number}"].astype("datetime64[D]"))
            label = told.pop("label")
            result = Result(**told, metrics={}, episodes=frame, step_pnl=arrays[f"steps_{number}"])
            results[label] = dataclasses.replace(result, metrics=measure(result))
    return results, head["fitted"], head["digest"]


# All folds


def run(config: WalkForwardConfig, folder: Path, command: str = "hedgerl walk-forward") -> WalkForward:
    """Fits and tests every fold, prints the tables and writes the report into `folder`.

    `folder` becomes the run: config.yaml and walk.json (what it is), folds/ (a file for each fold that has ended), and
    at the end the report. Where it is a run of this configuration already, folds that are there are not done again,
    and the report has the same bytes as that of a run that was left alone.

    Raises ValueError for a configuration that means nothing, and for a folder with another run.
    """
    planned = plan(config)
    content = kept(config, planned)
    signature = digest(content, planned)
    told = _begun(folder, content, planned, command)
    missing = [number for number, fold in enumerate(planned.folds) if not _is_done(_file(folder, fold), signature)]
    _say(_announced(config, planned, len(missing)))
    began = time.perf_counter()

    def ended(outcome: Outcome) -> None:
        fold = planned.folds[outcome.number]
        if outcome.error is not None:
            raise ValueError(f"fold {fold.name} failed: {outcome.error}")
        _say(f"fold {fold.name}: {outcome.seconds:.1f} s, {time.perf_counter() - began:.0f} s in all")

    jobs = [
        Job(number, "hedgerl.walk_forward:run_fold", {"content": content, "folder": str(folder), "number": number})
        for number in missing
    ]
    pool: Pool = InlinePool() if config.workers == 1 else LocalPool(config.workers, threads=1)
    try:
        run_all(pool, jobs, ended=ended)
    except KeyboardInterrupt:
        _say(f"continue with: {shlex.join(['hedgerl', 'walk-forward', f'resume={folder}'])}")
        raise
    finally:
        pool.close()
    study = gathered(config, planned, folder)
    print(table([study]))
    print(f"\n{fold_table(study)}")
    report = write_report(
        [study],
        folder,
        title=f"Walk-forward of {planned.task.name}",
        config=content,
        seed=planned.seed,
        commit=told["commit"],
        version=told["version"],
        command=told["command"],
    )
    print(f"\nreport: {report}")
    return study


def _begun(folder: Path, content: Mapping[str, Any], planned: Plan, command: str) -> dict[str, Any]:
    """What is known of the run; written down where it is new. ValueError where the folder has another run."""
    file = folder / RUN
    signature = digest(content, planned)
    if file.is_file():
        told: dict[str, Any] = json.loads(file.read_text())
        if told.get("digest") != signature:
            raise ValueError(
                f"{folder} holds a run of another configuration, other data or another version: choose another folder"
            )
        return told
    told = {
        "command": command,
        "version": hedgerl.__version__,
        "commit": backtest.commit(),
        "seed": planned.seed,
        "digest": signature,
    }
    write_text(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(dict(content))))
    write_text(file, json.dumps(told, indent=1) + "\n")
    return told


def _is_done(file: Path, signature: str) -> bool:
    if not file.is_file():
        return False
    with np.load(file, allow_pickle=False) as arrays:
        return bool(json.loads(arrays[_HEAD].tobytes())["digest"] == signature)


def kept(config: WalkForwardConfig, planned: Plan) -> dict[str, Any]:
    """The configuration as it is kept: without what changes no number."""
    content: Any = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    del content["workers"], content["resume"]
    content["seed"] = planned.seed
    return content


def digest(content: Mapping[str, Any], planned: Plan) -> str:
    """What a fold depends on: the configuration, saved policies, the days of the series, this package's version."""
    saved = [*planned.agents.items(), *([] if planned.start is None else [("start", planned.start)])]
    sums = [(label, _sum_of(agent.module)) for label, agent in saved]
    sha = hashlib.sha256(json.dumps([content, sums, hedgerl.__version__], sort_keys=True).encode())
    for item in dataclasses.fields(DailySeries):
        value = getattr(planned.history.series, item.name)
        if isinstance(value, np.ndarray):
            sha.update(item.name.encode() + np.ascontiguousarray(value).tobytes())
    return sha.hexdigest()


def _announced(config: WalkForwardConfig, planned: Plan, missing: int) -> str:
    folds, fitted = planned.folds, planned.fitted(config)
    dates = planned.history.series.dates
    what = f"{', '.join(fitted)} fitted in each" if fitted else "nothing is fitted"
    done = f", {len(folds) - missing} of them done before" if missing < len(folds) else ""
    episodes = sum(len(fold.starts) for fold in folds)
    first, last = dates[folds[0].starts[0]], dates[folds[-1].starts[-1] + planned.task.n_steps]
    return f"{planned.history.name}: {len(folds)} folds{done}, {episodes} test episodes, {first} to {last}; {what}"


# The end of a run


def gathered(config: WalkForwardConfig, planned: Plan, folder: Path) -> WalkForward:
    """The study of all folds that the folder holds, pooled."""
    dates = planned.history.series.dates
    folds = []
    for fold in planned.folds:
        results, fitted, _ = _unpacked(_file(folder, fold).read_bytes())
        train = tuple(str(dates[day]) for day in fold.train)
        test = str(dates[fold.starts[0]]), str(dates[fold.starts[-1] + planned.task.n_steps])
        folds.append(FoldResults(fold.name, (train[0], train[1]), test, results, fitted))
    results = pooled([each.results for each in folds])
    resamples, seed = config.bootstrap, planned.seed
    return WalkForward(
        market=str(planned.history.name),
        task=planned.task.name,
        kind="history",
        results=results,
        reference=planned.reference,
        differences=paired_differences(results, planned.reference, n_resamples=resamples, seed=seed),
        notes=(backtest.marks(planned.history), *_notes(config, planned)),
        regimes=cut_regimes(results, config.regimes or {}),
        folds=tuple(folds),
        measure=config.measure,
        simultaneous=simultaneous(results, planned.reference, config.measure, n_resamples=resamples, seed=seed),
    )


def _notes(config: WalkForwardConfig, planned: Plan) -> Iterator[str]:
    """What the report must say of how its numbers were made."""
    grows = "all days before" if config.expanding else f"{config.train_months} months"
    yield (
        f"Walk-forward: in each of {len(planned.folds)} folds of {config.test_months} months, fits saw {grows} up to "
        f"{config.embargo_days} trading days before the first test episode, and nothing later. An episode belongs to "
        "the fold in which it starts."
    )
    fitted = planned.fitted(config)
    if fitted:
        yield f"Fitted anew in each fold: {', '.join(fitted)}. All other hedges are the same throughout."
    for simulated, what in (
        (True, "trained before, on simulated paths, so that no day of this history was seen"),
        (False, "trained before, on history, days of these tests perhaps among it"),
    ):
        names = [name for name, agent in planned.agents.items() if agent.task.simulated is simulated]
        if names:
            yield f"{', '.join(names)}: {what}."


# Configuration

ConfigStore.instance().store(name="walk_forward_schema", node=WalkForwardConfig)


def configured(content: Mapping[str, Any]) -> WalkForwardConfig:
    """The configuration that `kept` wrote. Raises ValueError for another content."""
    schema = OmegaConf.structured(WalkForwardConfig)
    if content.get("refit"):
        schema.refit = OmegaConf.structured(DeepHedgingConfig)
    typed = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(dict(content))))
    assert isinstance(typed, WalkForwardConfig)
    return typed


def hydra_overrides(arguments: list[str], keys: list[str]) -> list[str]:
    """The arguments as Hydra takes them: with the run's own folder where a run is continued.

    Raises ValueError for a folder that is no run, and for other keys beside it.
    """
    parsed = OverridesParser.create().parse_overrides(keys)
    named = [each for each in parsed if each.get_key_element().lstrip("+") == "resume" and each.value() is not None]
    if not named:
        return arguments
    others = [str(each.input_line) for each in parsed if each not in named and each.get_key_element() != "workers"]
    flags = [item for item in arguments if item not in keys]
    if others or flags or len(named) > 1:
        raise ValueError(f"resume goes with workers alone: a run continues as it began, got {' '.join(others + flags)}")
    folder = Path(str(named[0].value()))
    for name in (CONFIG, RUN):
        if not (folder / name).is_file():
            raise ValueError(f"resume must name the folder of a run, got {folder}, which has no {name}")
    where = str(folder.resolve()).replace("\\", "\\\\").replace('"', '\\"')
    return [*arguments, f'hydra.run.dir="{where}"', "hydra.output_subdir=null", "hydra/job_logging=disabled"]


def from_hydra(config: DictConfig, folder: Path) -> None:
    """Runs one walk-forward from its Hydra configuration into the run's `folder`, or goes on with the one named."""
    if config.resume is not None:
        content: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
        run(dataclasses.replace(configured(content), workers=config.workers), folder)
        return
    typed = backtest.typed(config, WalkForwardConfig)
    run(typed, folder, shlex.join(["hedgerl", "walk-forward", *HydraConfig.get().overrides.task]))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
