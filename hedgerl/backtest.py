"""`hedgerl backtest`: hedges side by side on the same episodes, of simulated markets and of history.

Read from the top down: what is traded, which hedges, roll out and measure, report.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hydra.utils
import numpy as np
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

import hedgerl
from hedgerl import model_files
from hedgerl.baselines import Objective, TunedBand, check, solved
from hedgerl.envs import Execution, Task
from hedgerl.evaluation import Study, compare
from hedgerl.pricing._checks import whole_number
from hedgerl.report import table, write_report
from hedgerl.sim import History, Model, QuotedHistory

if TYPE_CHECKING:
    from hedgerl.agents.agent import Agent

Config = TypeVar("Config")

LABELS = {"BlackScholes": "Black-Scholes", "RoughBergomi": "rough Bergomi"}  # of models, where not the class's name


@dataclass
class TuningConfig:
    """How the tuned band's two numbers are found."""

    objective: str = "cvar"
    n_paths: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number("tuning.n_paths", self.n_paths, minimum=100)
        whole_number("tuning.seed", self.seed, minimum=0)
        Objective(self.objective)  # raises for one that is not known


@dataclass
class BacktestConfig:
    """Every key of conf/backtest.yaml, with its type; units and reasons stand there."""

    market: Any = MISSING
    data: Any = None
    execution: Any = MISSING
    task: Any = MISSING
    n_paths: int = 20_000
    every: int = 5
    baselines: list[Any] = field(default_factory=list)
    agents: list[Any] | None = None
    tuning: TuningConfig = field(default_factory=TuningConfig)
    reference: str = "delta"
    regimes: Any = None  # name -> [first day, last day]
    bootstrap: int = 1000
    seed: int | None = 1

    def __post_init__(self) -> None:
        whole_number("n_paths", self.n_paths, minimum=2)
        whole_number("every", self.every)
        whole_number("bootstrap", self.bootstrap, minimum=100)
        if self.seed is not None:
            whole_number("seed", self.seed, minimum=0)
        self.regimes = periods("regimes", self.regimes)


def periods(key: str, given: Any) -> dict[str, list[Any]]:
    """The periods {name: [first day, last day]} of a key, none for None. Raises ValueError naming the key."""
    if not isinstance(given, Mapping | None):
        raise ValueError(f"{key} must be null or {{name: [first day, last day]}}, got {given!r}")
    checked = dict(given or {})
    for name, period in checked.items():
        if not isinstance(period, list) or len(period) != 2:
            raise ValueError(f"{key} must each be [first day, last day], got {name} = {period}")
        try:
            first, last = (np.datetime64(day, "D") for day in period)
        except (TypeError, ValueError):
            raise ValueError(f"{key} must hold days as YYYY-MM-DD, got {name} = {period}") from None
        if not first <= last:
            raise ValueError(f"{key} must not end before they start, got {name} = {period}")
    return checked


@dataclass(frozen=True)
class Plan:
    """What a run needs beside its configuration, made and checked before anything slow begins."""

    tasks: dict[str, Task]  # label -> the task in that market, history last
    hedges: list[tuple[str, str, dict[str, Any]]]  # (label, name, parameters)
    agents: dict[str, Agent] = field(default_factory=dict)  # label -> saved policy


def plan(config: BacktestConfig) -> Plan:
    """The tasks and hedges that a configuration names. Raises ValueError for what it cannot mean."""
    make = maker(config.task, config.execution)
    tasks = {label: make(market=market) for label, market in markets(config.market).items()}
    tasks |= history(config.data, make, config.every)
    if not tasks:
        raise ValueError("market and data must name at least one market between them, got none")
    hedges = [hedge(entry) for entry in config.baselines]
    if all(isinstance(task.market, QuotedHistory) for task in tasks.values()):
        fitted = [label for label, name, parameters in hedges if _is_fitted(name, parameters)]
        hedges = [entry for entry in hedges if entry[0] not in fitted]
        if fitted:
            _say(f"{', '.join(fitted)}: left out, as its numbers come from a simulated market and market is none")
    labels = [label for label, _, _ in hedges]
    agents: dict[str, Agent] = {}
    first = next(iter(tasks.values()))
    for entry in (_shipped(first) if hedges else []) if config.agents is None else config.agents:
        label, agent = _agent(entry, [*labels, *agents])
        for task in tasks.values():
            _check_task(label, agent, task)
        agents[label] = agent
    labels += agents
    if len(set(labels)) < len(labels):
        raise ValueError(f"baselines must have labels of their own, got {', '.join(labels)}")
    if not labels:
        raise ValueError("baselines must name at least one hedge, got none")
    reference = _reference(config, labels)
    if reference not in labels and reference != "delta":
        raise ValueError(f"reference must be the label of one of the baselines ({', '.join(labels)}), got {reference}")
    for _, name, parameters in hedges:
        if _is_fitted(name, parameters):
            if not any(task.simulated for task in tasks.values()):
                raise ValueError(
                    "baselines must not name tuned_band on history alone, which would fit it to its own test"
                )
        else:
            check(name, **parameters)
    return Plan(tasks, hedges, agents)


def _is_fitted(name: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a baseline's numbers are found in a simulated market first."""
    return name == "tuned_band" and "scale" not in parameters


def maker(task: Any, execution: Any) -> Callable[..., Task]:
    """What makes the configured task, at the configured costs, given a market."""
    costs = hydra.utils.instantiate(execution, _convert_="all")
    if not isinstance(costs, Execution):
        raise ValueError(f"execution must name one of conf/execution, got {execution}")
    if "_target_" not in (task or ()):
        raise ValueError(f"task must name one of conf/task, got {task}")
    return partial(hydra.utils.instantiate(task, _partial_=True, _convert_="all"), execution=costs)


def history(data: Any, make: Callable[..., Task], every: int) -> dict[str, Task]:
    """Label -> the task that `make` makes on that history; empty where `data` names none."""
    if not data:
        return {}
    series = hydra.utils.instantiate(data, _convert_="all")
    if not isinstance(series, History | QuotedHistory):
        raise ValueError(f"data must name one of conf/data, got {data}")
    task = make(market=series)
    series.starts(task.n_steps, every=every)  # raises where the series is too short
    return {str(series.name): task}


def markets(config: Any) -> dict[str, Model]:
    """Label -> model: one, or a mapping of several."""
    if not config:
        return {}
    entries = [config] if "_target_" in config else list(config.values())
    models = {}
    for entry in entries:
        if not isinstance(entry, Mapping | DictConfig) or "_target_" not in entry:
            raise ValueError(f"market must name a model of conf/market, or several, got {config}")
        model = hydra.utils.instantiate(entry, _convert_="all")
        name = type(model).__name__
        models[f"simulated {LABELS.get(name, name)}"] = model
    return models


def hedge(entry: Any) -> tuple[str, str, dict[str, Any]]:
    """(label, name, parameters) of an entry of `baselines`."""
    if isinstance(entry, str):
        return entry.replace("_", " "), entry, {}
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise ValueError(f"baselines must be names, or mappings with a name, got {entry!r}")
    parameters = {str(key): value for key, value in entry.items() if key not in ("name", "label")}
    return str(entry.get("label", entry["name"])).replace("_", " "), str(entry["name"]), parameters


def _agent(entry: Any, taken: Collection[str]) -> tuple[str, Agent]:
    """(label, policy) of an entry of `agents`: a name of model_files, a bundle's path, or {path: .., label: ..}."""
    from hedgerl.agents.agent import Agent  # brings torch, which a backtest without agents need not wait for

    given, label = entry, None
    if isinstance(entry, Mapping):
        unknown = sorted(set(entry) - {"path", "label"})
        if unknown or "path" not in entry:
            raise ValueError(f"agents must be names or paths, or mappings of path and label, got {dict(entry)}")
        given, label = entry["path"], entry.get("label")
    if not isinstance(given, str):
        raise ValueError(f"agents must be names of saved policies, or paths to them, got {given!r}")
    agent = Agent.load(given)
    if label is None:
        label = agent.card.name or Path(given).name
        if label in taken:
            label = f"{label} ({given})"
    if label in taken:
        raise ValueError(f"agents must have labels of their own, got {label} twice; see {{path: .., label: ..}}")
    return str(label), agent


def _shipped(task: Task) -> list[str]:
    """Names of the policies of model_files that were trained for this book: in whatever market, at whatever cost."""
    if not model_files.names():
        return []
    from hedgerl.agents.agent import Agent

    free = {"market", "execution", "perturb", "backend", "substeps"}
    fields = [item.name for item in dataclasses.fields(task) if item.name not in free]

    def fits(trained: Task) -> bool:
        return type(trained) is type(task) and all(getattr(trained, name) == getattr(task, name) for name in fields)

    return [name for name in model_files.names() if fits(Agent.load(name).task)]


def _check_task(label: str, agent: Agent, task: Task) -> None:
    """Raises ValueError where a policy was trained for another kind of task."""
    if agent.task.name != task.name:
        raise ValueError(f"agents: {label} was trained for the task {agent.task.name}, this backtest is of {task.name}")
    if agent.task.instruments != task.instruments:
        raise ValueError(
            f"agents: {label} was trained to trade {', '.join(agent.task.instruments)}, "
            f"this task trades {', '.join(task.instruments)}"
        )
    if agent.task.size != task.size:
        raise ValueError(
            f"agents: {label} was trained for a book of {agent.task.size:g} shares, this task's is {task.size:g}"
        )


def _reference(config: BacktestConfig, labels: Collection[str]) -> str:
    """The label that is meant: as it is given, or with the underscores of a baseline's name as spaces."""
    return config.reference if config.reference in labels else config.reference.replace("_", " ")


def study(config: BacktestConfig, label: str, task: Task, policies: Mapping[str, Any]) -> Study:
    """Every policy on the same episodes of one market."""
    reference = _reference(config, policies)
    comparison = compare(
        policies,
        task,
        n_paths=config.n_paths if task.simulated else None,
        seed=config.seed,
        every=config.every,
        reference=reference if reference in policies else None,
        resamples=config.bootstrap,
    )
    if task.simulated:
        return comparison.study(market=label)
    regimes = {name: (first, last) for name, (first, last) in config.regimes.items()}
    if isinstance(task.market, QuotedHistory):  # of months, not decades: only what it may have episodes in
        dates = task.market.dates
        regimes = {
            name: (first, last)
            for name, (first, last) in regimes.items()
            if np.datetime64(first, "D") < dates[-1] and np.datetime64(last, "D") > dates[0]
        }
        return comparison.study(market=label, regimes=regimes)
    return comparison.study(market=label, notes=(marks(task.market),), regimes=regimes)


def marks(history: History) -> str:
    """What a report must say of the option prices of history."""
    level = history.surface.level
    if level == "auto":
        level = "ewma" if history.series.vix is None else "vix"
    driver = "the VIX" if level == "vix" else f"{history.surface.span_days}-day trailing volatility ({level})"
    return (
        f"Model marks: options are priced on a volatility surface driven by {driver}, as known at each close; "
        "they are not market quotes."
    )


def run(config: BacktestConfig, folder: Path) -> list[Study]:
    """The whole backtest: prints the table and writes the report into `folder`."""
    planned = plan(config)
    studies: list[Study] = []
    tuned: TunedBand | None = None
    for label, task in planned.tasks.items():
        _say(f"{label}: {', '.join([*planned.agents, *(name for name, _, _ in planned.hedges)])}")
        policies: dict[str, Any] = dict(planned.agents)
        for name, kind, parameters in planned.hedges:
            if _is_fitted(kind, parameters):
                policies[name] = _tuned(config, task) if task.simulated else tuned
                tuned = tuned or policies[name]  # history takes the numbers of the first market
            else:
                policies[name] = solved(kind, task, **parameters)
        studies.append(study(config, label, task, policies))
    print(table(studies))
    report = write_report(
        studies,
        folder,
        title=f"Backtest of {next(iter(planned.tasks.values())).name}",
        config=OmegaConf.to_container(OmegaConf.structured(config), resolve=True),
        seed=config.seed,
        commit=commit(),
        version=hedgerl.__version__,
        command="hedgerl backtest",
    )
    print(f"\nreport: {report}")
    return studies


def _tuned(config: BacktestConfig, task: Task) -> TunedBand:
    tuning = config.tuning
    return TunedBand.fit(task, objective=tuning.objective, n_paths=tuning.n_paths, seed=tuning.seed)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def commit() -> str | None:
    """The git commit of the checkout that this file lies in; None where it was installed from a wheel."""
    package = Path(hedgerl.__file__).parent
    if not (package.parent / "pyproject.toml").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(package), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def typed(config: DictConfig, kind: type[Config]) -> Config:
    """What a command's Hydra configuration holds, with its types. Raises ValueError for a key that was not given."""
    for key in sorted(OmegaConf.missing_keys(config)):
        raise ValueError(f"{key} must be given")
    content = OmegaConf.to_object(config)
    assert isinstance(content, kind)
    return content


ConfigStore.instance().store(name="backtest_schema", node=BacktestConfig)


def from_hydra(config: DictConfig, folder: Path) -> None:
    """Runs one backtest from its Hydra configuration and writes into the run's `folder`."""
    run(typed(config, BacktestConfig), folder)
