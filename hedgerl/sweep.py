"""`hedgerl sweep`: an Optuna study of an agent or a baseline, from a search space to a tested front.

Read from the top down: plan, conduct the trials, test the front against the baselines, draw.
"""

from __future__ import annotations

import csv
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hedgerl import backtest, baselines, train
from hedgerl.files import write_csv
from hedgerl.pricing._checks import non_negative, whole_number
from hedgerl.studies import conduct, front, search, space, stopping, storage, tested
from hedgerl.studies.charts import Group, Point
from hedgerl.studies.conduct import Sampling
from hedgerl.studies.picture import Entry, write_front
from hedgerl.studies.pools import check_workers, hydra_overrides, opened_pool
from hedgerl.studies.search import Conducted, Search
from hedgerl.studies.stopping import Stopping
from hedgerl.studies.workers import Pool
from hedgerl.train import TrainConfig

__all__ = ["SweepConfig", "from_hydra", "hydra_overrides", "plan", "run"]

TRIALS, FRONT, TEST = "trials.csv", "front", "test"
STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "not ended"}


@dataclass
class SearchConfig:
    """conf/search: what is searched, and in what."""

    name: str = MISSING
    baseline: str | None = None
    space: dict[str, Any] = field(default_factory=dict)


@dataclass
class StopConfig:
    """The fields of `hedgerl.studies.stopping.Stopping`."""

    rule: str = "front"
    startup: int = 5
    warmup: float = 0.25
    margin: float = 0.1

    def made(self) -> Stopping:
        """The rule itself, checked."""
        return Stopping(self.rule, self.startup, self.warmup, self.margin)


@dataclass
class SweepConfig(TrainConfig):
    """Every key of conf/sweep.yaml, with its type; units and reasons stand there."""

    search: SearchConfig = field(default_factory=SearchConfig)
    study: str = MISSING
    objectives: list[str] = field(default_factory=lambda: ["risk", "cost"])
    n_trials: int = 40
    sampler: str = "tpe"
    startup: int = 10
    population: int = 16
    window: int = 8
    stop: StopConfig = field(default_factory=StopConfig)
    warm_start: list[str] = field(default_factory=list)
    workers: int = 1
    devices: list[int] | None = None
    retries: int = 2
    timeout: float | None = None
    storage: str | None = None
    cluster: str | None = None
    reference: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("n_trials", self.n_trials)
        whole_number("window", self.window)
        check_workers(self.workers, self.device)
        whole_number("retries", self.retries, minimum=0)
        if self.workers > self.window:
            raise ValueError(f"workers must be at most window = {self.window}, got {self.workers}")
        if self.timeout is not None:
            non_negative("timeout", self.timeout)


def plan(config: SweepConfig) -> Search:
    """What a configuration means. Raises ValueError for what it cannot mean; nothing is simulated."""
    objectives = front.check_objectives(config.objectives)
    if config.reference is not None and len(config.reference) != len(objectives):
        raise ValueError(f"reference must have a number for each of {', '.join(objectives)}, got {config.reference}")
    stop = config.stop.made()
    stopping.check(stop, objectives)
    if config.seed is None:
        raise ValueError("seed must be a number for a study, which the same command continues, got null")
    searched = space.read(config.search.space)
    content = search.trial_config(config)
    name = config.search.baseline
    if name is None:
        baseline, known = None, space.present(content, searched)
    else:
        baseline, made = {"name": name}, baselines.baseline(name)
        known = {key: getattr(made, key.removeprefix(space.BASELINE), None) for key in searched}
    default = space.inside(known, searched)  # so that a study is never worse than what it began from
    found = Search(
        config=content,
        baseline=baseline,
        space=searched,
        objectives=objectives,
        sampling=Sampling(config.sampler, config.seed, config.startup, config.population),
        stopping=stop,
        window=config.window,
        first=[*([default] if default else []), *warm_start(config.warm_start, searched, objectives)],
    )
    found.check()
    return found


def warm_start(
    folders: Sequence[str], searched: Mapping[str, BaseDistribution], objectives: Sequence[str]
) -> list[dict[str, Any]]:
    """Parameters on the fronts of earlier studies, as far as the space has them; they are tried afresh."""
    found: list[dict[str, Any]] = []
    for folder in folders:
        file = Path(folder) / TRIALS
        if not file.is_file():
            raise ValueError(f"warm_start must name folders of studies, got {folder}, which has no {TRIALS}")
        with open(file, newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row.get("state") == TrialState.COMPLETE.name]
        names = [name for name in objectives if rows and name in rows[0]]
        if not names:
            raise ValueError(f"warm_start must name studies of the objectives {', '.join(objectives)}, got {folder}")
        values = np.array([[float(row[name]) for name in names] for row in rows])
        for row, best in zip(rows, front.non_dominated(values), strict=True):
            given = {key: json.loads(row[key]) for key in searched if row.get(key)}
            inside = space.inside(given, searched) if best else {}
            if inside and inside not in found:
                found.append(inside)
    return found


# The study


def run(config: SweepConfig, folder: Path, command: str = "hedgerl sweep") -> Path:
    """Conducts the study in `folder`, tests its front, and returns the folder.

    `folder` holds journal.log (the study, where `storage` is null), trials.csv, trials/ (a run for each policy that was
    trained), and at the end front.csv, front.json, front.png, front.html. The same call continues a study.

    Raises ValueError for a configuration that means nothing and for a study of another definition, before any trial.
    """
    planned = plan(config)
    with (
        storage.exclusive(folder),
        opened_pool(config.cluster, config.workers, config.threads, config.devices, config.device) as pool,
    ):

        def ended(study: Study, trial: FrozenTrial) -> None:
            _say(_told(trial, planned, config.n_trials))
            _write_trials(study, planned, folder)

        conducted = search.conduct(
            planned,
            folder,
            config.study,
            pool,
            config.n_trials,
            address=config.storage,
            retries=config.retries,
            timeout=config.timeout,
            ended=ended,
        )
        _write_trials(conducted.study, planned, folder)
        print(_summary(conducted, planned))
        if conducted.study.best_trials:
            _test(config, planned, conducted.study, folder, pool, command)
    return folder


def _told(trial: FrozenTrial, planned: Search, total: int) -> str:
    """How a trial went, in a line."""
    outcome = trial.user_attrs[storage.OUTCOME]
    if conduct.ERROR in outcome:
        text = f"failed: {outcome[conduct.ERROR]}"
    else:
        pairs = zip(planned.objectives, outcome["values"], strict=True)
        text = ", ".join(f"{name} {value:.4g}" for name, value in pairs)
        if outcome.get(conduct.STOPPED) is not None:
            text = f"stopped as hopeless after {outcome[conduct.STOPPED]} iterations: {text}"
    tried = space.decoded(trial.params).items()
    settings = ", ".join(
        f"{key.rpartition('.')[2]}={f'{value:.4g}' if isinstance(value, float) else value}" for key, value in tried
    )
    return f"trial {trial.number} of {total} ({outcome[conduct.SECONDS]:.1f} s): {text}  [{settings}]"


def rows(study: Study, planned: Search) -> list[dict[str, Any]]:
    """A record for each trial; parameters as JSON."""
    table = []
    for trial in study.get_trials(deepcopy=False):
        outcome = trial.user_attrs.get(storage.OUTCOME, {})
        failed, stopped = conduct.ERROR in outcome, outcome.get(conduct.STOPPED) is not None
        state = trial.state.name
        if trial.state == TrialState.RUNNING and outcome:  # it has ended, its turn to be told has not come
            state = "FAIL" if failed else "PRUNED" if stopped else "COMPLETE"
        values = () if failed else outcome.get("values", ())
        trained = outcome and not failed and not stopped and planned.baseline is None
        table.append(
            {
                "trial": trial.number,
                "state": state,
                **dict(zip(planned.objectives, values, strict=False)),
                **{key: json.dumps(value) for key, value in space.decoded(trial.params).items()},
                "iteration": outcome.get("iteration"),
                "stopped": outcome.get(conduct.STOPPED),
                "seconds": round(outcome[conduct.SECONDS], 3) if conduct.SECONDS in outcome else None,
                "attempts": trial.user_attrs.get(conduct.ATTEMPTS),
                "policy": str(_policy(Path(), trial.number)) if trained else None,
                "error": outcome.get(conduct.ERROR, trial.user_attrs.get(conduct.ERROR)),
            }
        )
    return table


def _policy(folder: Path, number: int) -> Path:
    return search.trial_folder(folder, number) / train.POLICY


def _write_trials(study: Study, planned: Search, folder: Path) -> None:
    columns = ["trial", "state", *planned.objectives, *planned.space]
    columns += ["iteration", "stopped", "seconds", "attempts", "policy", "error"]
    write_csv(folder / TRIALS, columns, rows(study, planned))


def _summary(conducted: Conducted, planned: Search) -> str:
    states = [row["state"] for row in rows(conducted.study, planned)]
    told = ", ".join(f"{states.count(name)} {words}" for name, words in STATES.items() if name in states)
    return f"{len(states)} trials ({told}) in {conducted.seconds:.0f} s, {conducted.busy:.1f} s for the study itself"


# The front


def _test(config: SweepConfig, planned: Search, study: Study, folder: Path, pool: Pool, command: str) -> None:
    """The policies on the study's front and the baselines, on paths that no trial has seen."""
    name = config.search.baseline
    group: Group = "learned" if name is None else "tuned band" if name == "tuned_band" else "baseline"
    tried: list[tuple[Point, Mapping[str, Any], Mapping[str, Any]]] = []
    for trial in sorted(study.best_trials, key=lambda trial: trial.values):
        of, hedge = space.applied(planned.config, planned.baseline, trial.params)
        bundle = str(_policy(folder, trial.number)) if hedge is None else ""
        point = Point(
            f"trial {trial.number}", group, family=config.search.name, parameters=_named(trial.params), path=bundle
        )
        tried.append((point, of, hedge if hedge is not None else {"path": bundle}))
    for label, kind, parameters in map(backtest.hedge, config.baselines):
        point = Point(label, "baseline", parameters=parameters)
        tried.append((point, planned.config, {"name": kind, **parameters}))
    entries = tested_all(tried, folder / TEST, pool)
    write_front(
        folder,
        FRONT,
        entries,
        planned.objectives,
        reference=config.reference,
        resamples=config.bootstrap,
        title=f"{config.search.name.replace('_', ' ')} on {planned.config['task']['_target_'].rpartition('.')[2]}",
        command=command,
    )


def tested_all(
    tried: Sequence[tuple[Point, Mapping[str, Any], Mapping[str, Any]]], folder: Path, pool: Pool
) -> list[Entry]:
    """Tests policies, each given with a configuration and what `tested.run` takes; what was tested before is kept."""
    jobs = [tested.job(number, of, policy, folder) for number, (_, of, policy) in enumerate(tried)]
    _say(f"testing {len(jobs)} hedges on paths that were never used before")
    for number, error in tested.run_missing(pool, jobs).items():
        raise ValueError(f"{tried[number][0].label} cannot be tested: {error}")
    return [(point, Path(job.arguments["file"])) for (point, _, _), job in zip(tried, jobs, strict=True)]


def _named(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by the last part of their keys."""
    return {key.rpartition(".")[2]: value for key, value in space.decoded(parameters).items()}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


ConfigStore.instance().store(name="sweep_schema", node=SweepConfig)


def from_hydra(config: DictConfig, folder: Path) -> None:
    """Conducts a study from its Hydra configuration in the run's `folder`."""
    run(
        backtest.typed(config, SweepConfig), folder, shlex.join(["hedgerl", "sweep", *HydraConfig.get().overrides.task])
    )
