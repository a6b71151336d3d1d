"""What a study searches, and the study itself in a folder of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from hedgerl import baselines, train
from hedgerl.studies import space, storage
from hedgerl.studies.conduct import Asked, Conductor, Sampling
from hedgerl.studies.stopping import Reports, Stopping, at_equal_budget
from hedgerl.studies.workers import Job, Pool
from hedgerl.train import TrainConfig

TRIALS = "trials"  # folder of the trials' folders

# Keys of a training that do not change what its trials do.
FREE = ("n_paths", "test_seed", "bootstrap", "baselines", "tuning", "every", "threads", "device", "name", "resume")


@dataclass(frozen=True)
class Search:
    """A search, checked: everything that makes it the search it is."""

    config: Mapping[str, Any]  # of a trial, as `hedgerl train` takes it
    baseline: Mapping[str, Any] | None  # {name: .., parameters}, to be tried in the agent's place
    space: Mapping[str, BaseDistribution]
    objectives: tuple[str, ...]
    sampling: Sampling
    stopping: Stopping = Stopping("none")
    window: int = 8
    first: Sequence[Mapping[str, Any]] = ()  # parameters to be tried first

    @property
    def definition(self) -> dict[str, Any]:
        """The same for every call that may continue the study."""
        return {
            "config": lasting(self.config),
            "baseline": dict(self.baseline) if self.baseline else None,
            "space": space.described(self.space),
            "objectives": list(self.objectives),
            "sampling": dict(vars(self.sampling)),
            "window": self.window,
            "stop": dict(vars(self.stopping)),
        }

    def job(self, folder: Path) -> Callable[[Asked, Sequence[Reports]], Job]:
        """What makes the job of a trial whose run lies below `folder`."""

        def made(asked: Asked, earlier: Sequence[Reports]) -> Job:
            config, baseline = space.applied(self.config, self.baseline, asked.parameters)
            arguments = {
                "config": {**config, "baselines": ["none"], "data": None},
                "baseline": baseline,
                "objectives": list(self.objectives),
                "folder": str(trial_folder(folder, asked.number).resolve()),
                "stopping": dict(vars(self.stopping)),
                "rivals": {str(at): rows for at, rows in at_equal_budget(earlier).items()},
            }
            return Job(asked.number, "hedgerl.studies.trial:run", arguments)

        return made

    def check(self) -> None:
        """Raises ValueError where a trial could mean nothing: tries each end of each range, simulates nothing."""
        for corner in [{}, *space.corners(self.space)]:
            check(self.config, self.baseline, corner)


@dataclass(frozen=True)
class Conducted:
    """A study that has come to its end, or its time limit."""

    study: Study
    seconds: float
    busy: float  # seconds of them for the study itself


def conduct(
    search: Search,
    folder: Path,
    name: str,
    pool: Pool,
    n_trials: int,
    *,
    address: str | None = None,
    retries: int = 2,
    timeout: float | None = None,
    ended: Callable[[Study, FrozenTrial], None] = lambda study, trial: None,
) -> Conducted:
    """Conducts the study of that name in `folder`, which nobody else may be running, up to `n_trials` trials.

    address: of the storage, see `storage.opened`. Raises ValueError where there is a study of another definition.
    """
    began = time.perf_counter()
    kept = storage.opened(address, folder)
    study = storage.study(kept, name, search.definition, search.objectives)
    for parameters in search.first[len(study.get_trials(deepcopy=False)) :]:
        study.enqueue_trial(dict(parameters))
    conductor = Conductor(
        study,
        kept,
        search.space,
        search.sampling,
        pool,
        search.job(folder),
        n_trials,
        search.window,
        retries,
        shared=address is not None,
        ended=lambda trial: ended(study, trial),
        until=None if timeout is None else time.monotonic() + timeout,
    )
    conductor.run()
    return Conducted(study, time.perf_counter() - began, conductor.busy)


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial of the study in `folder` leaves its run."""
    return folder / TRIALS / f"{number:04d}"


def trial_config(config: TrainConfig) -> dict[str, Any]:
    """The keys of `hedgerl train` of a configuration that has more."""
    whole: Any = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    return {key: whole[key] for key in TrainConfig.__dataclass_fields__}


def lasting(config: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's configuration without what may change from one call of a study to the next."""
    return {key: value for key, value in config.items() if key not in FREE}


def check(config: Mapping[str, Any], baseline: Mapping[str, Any] | None, parameters: Mapping[str, Any]) -> None:
    """Raises ValueError where a trial with these parameters could mean nothing."""
    content, hedge = space.applied(config, baseline, parameters)
    try:
        train.plan(train.configured(OmegaConf.create(content)))
        if hedge is not None:
            baselines.check(**hedge)
    except ValueError as error:
        told = "".join(f"search.space: {key} = {value}: " for key, value in parameters.items())
        raise ValueError(f"{told}{error}") from error
