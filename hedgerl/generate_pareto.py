"""`hedgerl generate-pareto`: a policy for each cell of a grid of reward weights, all tested on the same paths.

Read from the top down: plan, train the cells, search the tuned band's front, test the baselines, compare and draw.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from hedgerl import backtest, sweep, train
from hedgerl.envs.reward import LOSSES
from hedgerl.files import write_csv, write_text
from hedgerl.pricing._checks import nearest, non_negative, whole_number
from hedgerl.studies import cell, front, search, space, storage
from hedgerl.studies.charts import Point
from hedgerl.studies.conduct import Sampling
from hedgerl.studies.picture import Entry, write_front
from hedgerl.studies.pools import check_workers, hydra_overrides, opened_pool
from hedgerl.studies.search import Search
from hedgerl.studies.workers import Job, Outcome, Pool, run_all
from hedgerl.train import TrainConfig

__all__ = ["ParetoConfig", "from_hydra", "hydra_overrides", "plan", "run"]

RAW, NAME, DEFINITION, CELLS, BAND, TEST = "pareto_raw.csv", "pareto", "study.json", "cells", "band", "test"
COLUMNS = ("cell", "status", "agent", "loss", "w", "lam", "seed")
LATER = ("parameters", "iteration", "objective", "seconds", "policy", "error")


@dataclass
class HPOConfig:
    """The search of an agent's settings in each cell."""

    space: dict[str, Any] = field(default_factory=dict)
    n_trials: int = 4
    iterations: int = 100
    seed: int = 1

    def __post_init__(self) -> None:
        whole_number("hpo.n_trials", self.n_trials, minimum=0)
        whole_number("hpo.iterations", self.iterations)
        whole_number("hpo.seed", self.seed, minimum=0)


@dataclass
class BandSearchConfig:
    """The search of the tuned band's front."""

    space: dict[str, Any] = field(default_factory=dict)
    n_trials: int = 40
    seed: int = 1

    def __post_init__(self) -> None:
        whole_number("band.n_trials", self.n_trials, minimum=0)
        whole_number("band.seed", self.seed, minimum=0)


@dataclass
class ParetoConfig(TrainConfig):
    """Every key of conf/generate_pareto.yaml, with its type; units and reasons stand there."""

    study: str = MISSING
    loss: list[str] = field(default_factory=list)
    w: list[float] = field(default_factory=list)
    lam: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    hpo: HPOConfig = field(default_factory=HPOConfig)
    band: BandSearchConfig = field(default_factory=BandSearchConfig)
    objectives: list[str] = field(default_factory=lambda: ["risk", "cost"])
    reference: list[float] | None = None
    workers: int = 1
    devices: list[int] | None = None
    retries: int = 2
    cluster: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("loss", "w", "lam", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be a list of different values, at least one, got {list(values)}")
        for loss in self.loss:
            if loss not in LOSSES:
                raise ValueError(
                    f"loss must be among {', '.join(LOSSES)}, got {loss!r}; the nearest is {nearest(loss, LOSSES)!r}"
                )
        for name in ("w", "lam"):
            for value in getattr(self, name):
                non_negative(name, value)
        for seed in self.seeds:
            whole_number("seeds", seed, minimum=0)
        check_workers(self.workers, self.device)
        whole_number("retries", self.retries, minimum=0)


@dataclass(frozen=True)
class Cell:
    """One policy to be trained."""

    loss: str
    w: float
    lam: float
    seed: int
    config: dict[str, Any]  # as `hedgerl train` takes it

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.loss}-w{self.w:g}-lam{self.lam:g}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """What a grid needs beside its configuration, made and checked before anything is trained."""

    cells: list[Cell]
    agent: str  # for people
    base: dict[str, Any]  # the configuration that cells share
    band: Search | None
    definition: dict[str, Any]  # of all cells: the same for every call


def plan(config: ParetoConfig) -> Plan:
    """What a configuration means. Raises ValueError for what it cannot mean; nothing is simulated."""
    objectives = front.check_objectives(config.objectives, least=2)
    if config.reference is not None and len(config.reference) != len(objectives):
        raise ValueError(f"reference must have a number for each of {', '.join(objectives)}, got {config.reference}")
    if config.data:
        raise ValueError("data must be none: `hedgerl backtest agents=[...]` tests policies on history")
    base = search.trial_config(config)
    cells = []
    for loss, w, lam, seed in product(config.loss, config.w, config.lam, config.seeds):
        reward = {**base["reward"], "loss": loss, "w": w, "lam": lam}
        cells.append(Cell(loss, w, lam, seed, {**base, "reward": reward, "seed": seed}))
        search.check(cells[-1].config, None, {})
    searched = space.read(config.hpo.space) if config.hpo.n_trials else {}
    for corner in space.corners(searched):
        search.check(cells[0].config, None, corner)
    band = None
    if config.band.n_trials:
        numbers = space.read(config.band.space)
        band = Search(
            config=base,
            baseline={"name": "tuned_band"},
            space=numbers,
            objectives=objectives,
            sampling=Sampling(seed=config.band.seed),
            first=[space.inside({"baseline.scale": 1.0, "baseline.width": 0.05}, numbers)],
        )
        band.check()
    shared = {key: value for key, value in search.lasting(base).items() if key != "seed"}
    shared["reward"] = {key: value for key, value in base["reward"].items() if key not in ("loss", "w", "lam")}
    hpo = {"n_trials": config.hpo.n_trials, "iterations": config.hpo.iterations, "seed": config.hpo.seed}
    definition = {**shared, "hpo": {**hpo, "space": space.described(searched)}}
    agent = train.plan(train.configured(OmegaConf.create(base))).name
    return Plan(cells, agent, base, band, definition)


def run(config: ParetoConfig, folder: Path, command: str = "hedgerl generate-pareto") -> Path:
    """Trains what is missing of the grid, tests all of it, and returns the folder.

    `folder` holds pareto_raw.csv (a row for each cell and seed), cells/ (the trainings), band/ (the tuned band's
    study), and at the end pareto.csv, pareto.json, pareto.png and pareto.html. The same call does what is missing.

    Raises ValueError for a configuration that means nothing, and where the folder is of another one.
    """
    planned = plan(config)
    with storage.exclusive(folder):
        _same(folder, planned.definition)
        workers = min(config.workers, len(planned.cells))
        with opened_pool(config.cluster, workers, config.threads, config.devices, config.device) as pool:
            _train(config, planned, folder, pool)
            _compare(config, planned, folder, pool, command)
    return folder


def _same(folder: Path, definition: Mapping[str, Any]) -> None:
    """Notes what the folder is of. Raises ValueError where it is of something else."""
    file = folder / DEFINITION
    if not file.is_file():
        write_text(file, json.dumps(definition, indent=1) + "\n")
        return
    difference = storage.differing(json.loads(file.read_text(encoding="utf-8")), definition)
    if difference is not None:
        key, old, new = difference
        raise ValueError(
            f"the study in {folder} is of another configuration: {key} was {old}, now {new}; "
            "give this one a name of its own, study=NAME"
        )


# The cells


def _train(config: ParetoConfig, planned: Plan, folder: Path, pool: Pool) -> None:
    """Trains the cells that have not ended; the table is written again after each."""
    found = {number: cell.finished(_folder(folder, each)) for number, each in enumerate(planned.cells)}
    errors: dict[int, str] = {}
    hpo = dataclasses.asdict(config.hpo)
    jobs = [
        Job(
            number,
            "hedgerl.studies.cell:run",
            {
                "config": each.config,
                "hpo": hpo,
                "folder": str(_folder(folder, each).resolve()),
                "resamples": config.bootstrap,
            },
        )
        for number, each in enumerate(planned.cells)
        if found[number] is None
    ]
    skipped = len(planned.cells) - len(jobs)
    told = f", {skipped} of them trained already" if skipped else ""
    _say(f"{len(planned.cells)} cells of {planned.agent}{told}")
    _write_raw(planned, folder, found, errors)

    def ended(outcome: Outcome) -> None:
        each = planned.cells[outcome.number]
        if outcome.error is not None:
            errors[outcome.number] = outcome.error
            text = f"failed: {outcome.error}"
        else:
            assert outcome.value is not None
            found[outcome.number] = outcome.value
            measures = outcome.value["measures"]
            text = ", ".join(f"{name} {measures[name][0]:.4f}" for name in config.objectives)
        left = sum(row is None for row in found.values()) - len(errors)
        _say(f"{each.name} ({outcome.seconds:.0f} s): {text}; {left} left")
        _write_raw(planned, folder, found, errors)

    run_all(pool, jobs, retries=config.retries, ended=ended)
    if len(errors) == len(planned.cells):
        raise ValueError(f"every cell failed, the last one of {next(reversed(errors.values()))}; see {folder / RAW}")


def _folder(folder: Path, each: Cell) -> Path:
    return folder / CELLS / each.name


def _write_raw(
    planned: Plan, folder: Path, found: Mapping[int, Mapping[str, Any] | None], errors: Mapping[int, str]
) -> None:
    """pareto_raw.csv: every cell, with what is known of it."""
    ends = [f"{name}{end}" for name in front.OBJECTIVES for end in ("", "_low", "_high")]
    records = []
    for number, each in enumerate(planned.cells):
        result = found[number]
        record: dict[str, Any] = {
            "cell": each.name,
            "status": "finished" if result else "failed" if number in errors else "missing",
            "agent": planned.agent,
            **{name: getattr(each, name) for name in ("loss", "w", "lam", "seed")},
            "error": errors.get(number),
        }
        if result:
            for name, values in result["measures"].items():
                record |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
            record |= {name: result[name] for name in LATER if name in result}
            record["parameters"] = json.dumps(result["parameters"])
            record["policy"] = str(_folder(Path(), each) / train.POLICY)
        records.append(record)
    write_csv(folder / RAW, [*COLUMNS, *ends, *LATER], records)


# The comparison


def _compare(config: ParetoConfig, planned: Plan, folder: Path, pool: Pool, command: str) -> None:
    """Every cell beside the tuned band's front and every baseline, on the same test paths."""
    entries: list[Entry] = []
    for each in planned.cells:
        where = _folder(folder, each)
        if cell.finished(where) is not None:
            weights = {"w": each.w, "lam": each.lam, "seed": each.seed}
            bundle = str(where / train.POLICY)
            point = Point(each.name, "learned", family=each.loss, parameters=weights, path=bundle)
            entries.append((point, where / cell.TEST))
    hedges: list[tuple[Point, Mapping[str, Any], Mapping[str, Any]]] = []
    if planned.band is not None:
        _say(f"tuned band: {config.band.n_trials} trials")
        with storage.exclusive(folder / BAND):
            study = search.conduct(
                planned.band, folder / BAND, BAND, pool, config.band.n_trials, retries=config.retries
            ).study
        for trial in sorted(study.best_trials, key=lambda trial: trial.values):
            hedge = space.applied(planned.base, planned.band.baseline, trial.params)[1]
            assert hedge is not None
            parameters = {name: value for name, value in hedge.items() if name != "name"}
            point = Point(f"tuned band {trial.number}", "tuned band", parameters=parameters)
            hedges.append((point, planned.base, hedge))
    for label, name, parameters in map(backtest.hedge, config.baselines):
        point = Point(label, "baseline", parameters=parameters)
        hedges.append((point, planned.base, {"name": name, **parameters}))
    write_front(
        folder,
        NAME,
        [*entries, *sweep.tested_all(hedges, folder / TEST, pool)],
        config.objectives,
        reference=config.reference,
        resamples=config.bootstrap,
        title=f"{planned.agent} on {planned.base['task']['_target_'].rpartition('.')[2]}",
        command=command,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


ConfigStore.instance().store(name="pareto_schema", node=ParetoConfig)


def from_hydra(config: DictConfig, folder: Path) -> None:
    """Trains and compares a grid from its Hydra configuration in the run's `folder`."""
    run(
        backtest.typed(config, ParetoConfig),
        folder,
        shlex.join(["hedgerl", "generate-pareto", *HydraConfig.get().overrides.task]),
    )
