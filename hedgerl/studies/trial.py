"""One trial of a study, as a worker does it: a baseline or a trained policy, judged on the validation paths."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from hedgerl import train
from hedgerl.agents.bundle import save_bundle
from hedgerl.baselines import NoHedge, solved
from hedgerl.files import write_text
from hedgerl.studies import front
from hedgerl.studies.stopping import Stopping
from hedgerl.training import checkpoint
from hedgerl.training.fixed_paths import Acting, FixedPaths, Goal, Score

LOG, REPORTS = "log.txt", "reports.json"
GOAL = ("goal",)  # objectives of a study that is judged by what its trials themselves are trained for


def run(
    config: Mapping[str, Any],
    baseline: Mapping[str, Any] | None,
    objectives: Sequence[str],
    folder: str,
    stopping: Mapping[str, Any],
    rivals: Mapping[str, Sequence[Sequence[float]]],
) -> dict[str, Any]:
    """Tries one configuration; what the study is told: values, reports, stopped, iteration.

    config: as conf/training.yaml. baseline: {name: .., parameters}, to be tried in the place of the agent. rivals: what
    earlier trials had reached, by iteration (as text). A trained policy is left in `folder`, which a trial that was
    interrupted continues from its checkpoint.
    """
    typed = train.configured(OmegaConf.create(dict(config)))
    if baseline is None:
        with logged(Path(folder)):
            return _trained(typed, objectives, Path(folder), Stopping(**stopping), rivals)
    planned = train.plan(typed)
    paths = _Known.of(planned, typed)
    score = paths.fixed.score(solved(task=planned.task, **baseline))
    return {"values": paths.measured(score, objectives), "reports": []}


def _trained(
    config: train.TrainConfig,
    objectives: Sequence[str],
    folder: Path,
    stopping: Stopping,
    rivals: Mapping[str, Sequence[Sequence[float]]],
) -> dict[str, Any]:
    """Trains, reports each validation, and stops where it is hopeless."""
    paths = None if tuple(objectives) == GOAL else _Known.of(train.plan(config), config)
    total = config.agent.iterations
    reports: list[tuple[int, list[float]]] = []
    stopped: int | None = None

    def watch(progress: train.Progress, score: Score) -> bool:
        nonlocal stopped
        if not reports and (folder / REPORTS).is_file():  # it goes on from a checkpoint
            reports.extend(
                (int(iteration), list(values))
                for iteration, values in json.loads((folder / REPORTS).read_text())
                if iteration < progress.iteration
            )
        assert progress.best is not None
        if paths is None:
            values = [progress.best["value"]]
        elif not reports or progress.best["iteration"] == progress.iteration:
            values = paths.measured(score, objectives)
        else:
            values = reports[-1][1]
        reports.append((progress.iteration, values))
        write_text(folder / REPORTS, json.dumps(reports))
        others = rivals.get(str(progress.iteration), ())
        if stopping.hopeless(values, others, progress.iteration / total):
            stopped = progress.iteration
        return stopped is not None

    fitted = fit(config, folder, watch)
    if paths is None:
        values = [fitted.best["value"]]
    else:
        score = fitted.paths.score(Acting(fitted.module, fitted.interface))
        values = paths.measured(score, objectives)
    told: dict[str, Any] = {"values": values, "reports": reports, "iteration": fitted.best["iteration"]}
    if stopped is not None:
        told["stopped"] = stopped
    elif paths is not None:  # else its settings are all that is wanted
        save_bundle(folder / train.POLICY, fitted.module, fitted.card())
    shutil.rmtree(folder / checkpoint.FOLDER, ignore_errors=True)
    return told


def fit(config: train.TrainConfig, folder: Path, watch: train.Watch | None = None) -> train.Fitted:
    """A training that goes on from its checkpoint where one of the same configuration is there."""
    command = f"hedgerl train, by a study in {folder}"
    if train.resumable(config, folder):
        return train.fit(config, folder, command, resume=True, watch=watch)
    for name in (checkpoint.FOLDER, REPORTS):
        there = folder / name
        shutil.rmtree(there) if there.is_dir() else there.unlink(missing_ok=True)
    return train.fit(config, folder, command, watch=watch)


class _Known:
    """The validation paths of a task, and what not hedging does on them; those of the last task are kept."""

    _last: tuple[str, _Known] | None = None

    def __init__(self, planned: train.Plan, config: train.TrainConfig) -> None:
        self.fixed = FixedPaths(planned.task, config.validation.n_paths, config.validation.seed, Goal("variance"))
        self.unhedged = self.fixed.score(NoHedge()).pnl

    @classmethod
    def of(cls, planned: train.Plan, config: train.TrainConfig) -> _Known:
        key = repr((planned.task, config.validation))
        if cls._last is None or cls._last[0] != key:
            cls._last = None  # frees its memory before the next is made
            cls._last = key, cls(planned, config)
        return cls._last[1]

    def measured(self, score: Score, objectives: Sequence[str]) -> list[float]:
        """The objectives of a policy on these paths."""
        costs = np.full_like(score.pnl, score.cost)
        return [float(value) for value in front.measure(score.pnl[None], costs[None], self.unhedged, objectives)[0]]


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Whatever is said within goes to the end of the folder's log."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOG, "a", encoding="utf-8", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        try:
            yield
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            raise
