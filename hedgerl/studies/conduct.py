"""A study from its first trial to its last: asked, handed to workers, told; the same trials however it is interrupted.

What trial k is asked to try is a function of the seed and of the results of trials 0 .. k - window, whatever the order
in which workers end: trials that end early are kept beside the study until it is their turn to be told. So any number
of workers up to `window`, of this machine or of a cluster, makes the same study, and so does one that was killed and
continued.
"""

from __future__ import annotations

import math
import os
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from hedgerl.pricing._checks import whole_number
from hedgerl.sim.noise import drawn_seed, seed_sequence
from hedgerl.studies.stopping import Reports
from hedgerl.studies.storage import OUTCOME
from hedgerl.studies.workers import Job, Outcome, Pool, epitaph

SAMPLERS = ("tpe", "nsga2", "nsga3", "random")
_LEASE = 300.0  # seconds for which a trial in a shared database is its coordinator's without a sign of life
_RENEWED = 60.0
_PATIENCE = 2.0  # seconds between looks at a shared database

# User attributes of a trial, beside its OUTCOME.
ATTEMPTS, OWNER, DIED = "attempts", "owner", "died"
ERROR, REPORTS, STOPPED, SECONDS = "error", "reports", "stopped", "seconds"
_DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Sampling:
    """How parameters are proposed.

    tpe : the first `startup` trials at random, then the tree-structured Parzen estimator over all parameters together
        (Bergstra et al. 2011; Ozaki et al. 2022 for several objectives).
    nsga2, nsga3 : genetic, generations of `population` (Deb et al. 2002; Deb & Jain 2014).
    random : without regard to results.
    """

    sampler: str = "tpe"
    seed: int = 0
    startup: int = 10
    population: int = 16

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        whole_number("startup", self.startup)
        whole_number("population", self.population, minimum=2)

    def of(self, number: int) -> BaseSampler:
        """The sampler of one trial: its random numbers depend on the seed and the trial's number alone."""
        drawn = drawn_seed(seed_sequence(self.seed, "study", number)) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if self.sampler == "tpe":
                return TPESampler(n_startup_trials=self.startup, multivariate=True, seed=drawn)
            if self.sampler == "nsga2":
                return NSGAIISampler(population_size=self.population, seed=drawn)
            if self.sampler == "nsga3":
                return NSGAIIISampler(population_size=self.population, seed=drawn)
            return RandomSampler(seed=drawn)


@dataclass
class Asked:
    """A trial that is to be tried."""

    number: int
    trial_id: int
    parameters: dict[str, Any]
    attempts: int = 0


@dataclass
class Conductor:
    """Runs a study to `n_trials` trials.

    job : what a worker is to do for a trial, given the reports of the earlier ones that it may be measured against. Its
        function returns {values, reports, stopped, ...} (hedgerl.studies.trial).
    window : trials that may be under way beside one another, see above.
    retries : times that a trial is given to another worker when one dies of it.
    shared : whether coordinators of other machines may work on the same study.
    ended : called after each trial that has ended.
    until : no trial is begun after this time (time.monotonic).
    """

    study: Study
    storage: BaseStorage  # of the study
    space: Mapping[str, BaseDistribution]
    sampling: Sampling
    pool: Pool
    job: Callable[[Asked, Sequence[Reports]], Job]
    n_trials: int
    window: int
    retries: int = 2
    shared: bool = False
    ended: Callable[[FrozenTrial], None] = lambda _: None
    until: float | None = None
    busy: float = 0.0  # seconds spent on the study itself: asking, telling, keeping
    _running: dict[int, Asked] = field(default_factory=dict)
    _waiting: list[Asked] = field(default_factory=list)
    _renewed: float = 0.0

    def run(self) -> None:
        """Until all trials have ended. Raises what the storage raises."""
        self.me = f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"
        self._recover()
        while True:
            began = time.perf_counter()
            while len(self._running) < self.pool.size and self._hand_out():
                pass
            self._renew()
            self.busy += time.perf_counter() - began
            if not self._running:
                if self._over():
                    break
                time.sleep(_PATIENCE)  # for trials of other machines
                self._recover()
                continue
            for outcome in self.pool.wait(_RENEWED / 2 if self.shared else None):
                began = time.perf_counter()
                self._ended(outcome)
                self.busy += time.perf_counter() - began
        self._tell(self.n_trials)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _over(self) -> bool:
        """Whether nothing is left that this coordinator could wait for."""
        trials = self._trials()[: self.n_trials]
        out_of_time = self.until is not None and time.monotonic() >= self.until
        if out_of_time and not self._waiting:
            return True
        return len(trials) >= self.n_trials and all(map(_known, trials)) and not self._waiting

    def _recover(self) -> None:
        """Takes over trials that nobody is working on any more."""
        held = {asked.number for asked in [*self._running.values(), *self._waiting]}
        for trial in self._trials():
            if trial.state != TrialState.RUNNING or trial.number in held or OUTCOME in trial.user_attrs:
                continue
            if self.shared and not self._abandoned(trial):
                continue
            self._set(trial._trial_id, OWNER, self._owner())
            self._waiting.append(self._asked(Trial(self._sampled(trial.number), trial._trial_id)))

    def _abandoned(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(OWNER)
        if owner is None:  # it was being asked
            begun = trial.datetime_start
            return begun is not None and time.time() - begun.timestamp() > _LEASE
        if owner["name"] == self.me:
            return True
        host, pid, started = owner["name"].split(" ")
        if host == socket.gethostname() and _started(int(pid)) != started:
            return True
        return time.time() > owner["until"]

    def _hand_out(self) -> bool:
        """Gives a worker the next trial; False where none can be begun now."""
        asked = self._waiting.pop(0) if self._waiting else self._ask()
        if asked is None:
            return False
        asked.attempts += 1
        self._set(asked.trial_id, ATTEMPTS, asked.attempts)
        earlier = [
            trial.user_attrs[OUTCOME].get(REPORTS, ())
            for trial in self._trials()[: max(0, asked.number - self.window + 1)]
            if OUTCOME in trial.user_attrs
        ]
        self.pool.submit(self.job(asked, earlier))
        self._running[asked.number] = asked
        return True

    def _ask(self) -> Asked | None:
        if self.until is not None and time.monotonic() >= self.until:
            return None
        trials = self._trials()
        queued = [trial.number for trial in trials if trial.state == TrialState.WAITING]
        number = min(queued, default=len(trials))
        if number >= self.n_trials:
            return None
        first = number - self.window + 1
        if not all(map(_known, trials[: max(0, first)])):
            return None
        self._tell(first)
        trial = self._sampled(number).ask()
        if trial.number >= self.n_trials:  # another machine was faster
            self._set(trial._trial_id, ERROR, "asked for beside the last trial")
            self.study.tell(trial.number, state=TrialState.FAIL)
            return None
        self._set(trial._trial_id, OWNER, self._owner())
        return self._asked(trial)

    def _asked(self, trial: Trial) -> Asked:
        settled, drawn_together = trial.params, self._drawn_together(trial)
        for name, distribution in self.space.items():
            if name not in settled:
                _suggest(trial, name, distribution)
            elif name not in drawn_together:  # a coordinator was killed here: the generator goes on where it was
                self.study.sampler.sample_independent(self.study, self._trials()[trial.number], name, distribution)
        return Asked(trial.number, trial._trial_id, trial.params, int(trial.user_attrs.get(ATTEMPTS, 0)))

    def _drawn_together(self, trial: Trial) -> set[str]:
        """Those settled parameters of a half-asked trial that the sampler did not draw one by one.

        Asked of genetic samplers in any case: they order the parents otherwise the first time that they choose them.
        """
        if not trial.params and not self.sampling.sampler.startswith("nsga"):
            return set()
        frozen, sampler = self._trials()[trial.number], self.sampling.of(trial.number)
        together = sampler.infer_relative_search_space(self.study, frozen)
        fixed = frozen.system_attrs.get("fixed_params", {})
        return {*fixed, *sampler.sample_relative(self.study, frozen, together)}

    def _sampled(self, number: int) -> Study:
        self.study.sampler = self.sampling.of(number)
        return self.study

    def _ended(self, outcome: Outcome) -> None:
        asked = self._running.pop(outcome.number)
        if outcome.died is not None and asked.attempts <= self.retries:
            self._set(asked.trial_id, DIED, outcome.died)
            self._waiting.insert(0, asked)
            return
        kept: dict[str, Any] = dict(outcome.value or {})
        if outcome.died is not None:
            kept[ERROR] = epitaph(asked.attempts, outcome.died)
        elif outcome.error is not None:
            kept[ERROR] = outcome.error
        elif not all(map(math.isfinite, kept["values"])):
            kept[ERROR] = f"objectives must be finite, got {kept['values']}"
        kept[SECONDS] = outcome.seconds
        self._set(asked.trial_id, OUTCOME, kept)
        self.ended(self._trials()[asked.number])

    def _tell(self, end: int) -> None:
        """Tells the study the outcomes of the first `end` trials that have one, in their order."""
        for trial in self._trials()[: max(0, end)]:
            if trial.state != TrialState.RUNNING or OUTCOME not in trial.user_attrs:
                continue
            if self.shared and trial.user_attrs[OWNER]["name"] != self.me and not self._abandoned(trial):
                continue
            outcome = trial.user_attrs[OUTCOME]
            self._sampled(trial.number)
            if ERROR in outcome:
                self.study.tell(trial.number, state=TrialState.FAIL)
            elif outcome.get(STOPPED) is not None:
                self.study.tell(trial.number, state=TrialState.PRUNED)
            else:
                self.study.tell(trial.number, list(outcome["values"]))

    def _owner(self) -> dict[str, Any]:
        return {"name": self.me, "until": time.time() + _LEASE}

    def _renew(self) -> None:
        if not self.shared or time.monotonic() - self._renewed < _RENEWED:
            return
        self._renewed = time.monotonic()
        for asked in [*self._running.values(), *self._waiting]:
            self._set(asked.trial_id, OWNER, self._owner())

    def _set(self, trial_id: int, name: str, value: Any) -> None:
        self.storage.set_trial_user_attr(trial_id, name, value)


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> None:
    """Settles a parameter."""
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    else:
        assert isinstance(distribution, FloatDistribution)
        trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _known(trial: FrozenTrial) -> bool:
    """Whether it is over: told, or to be told."""
    return trial.state in _DONE or OUTCOME in trial.user_attrs


def _started(pid: int) -> str:
    """When a process of this machine began, so that another one of the same number is told apart; "" for none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError:
            return ""
        return "running"
