"""`hedgerl train`: from a configuration to a saved policy, with the numbers that it is worth.

Read from the top down: plan, learn (validate, checkpoint), choose, test, save and report.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import math
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf

import hedgerl
from hedgerl import backtest
from hedgerl.agents.agent import Agent
from hedgerl.agents.bundle import Card, save_bundle
from hedgerl.agents.curriculum import Curriculum
from hedgerl.agents.marks import GreekMarks
from hedgerl.agents.networks import PolicyModule, build
from hedgerl.baselines import SOLVED, TunedBand, check, solved
from hedgerl.envs import Action, Environment, Flat, Reward, Task
from hedgerl.evaluation import Study, compare
from hedgerl.files import write_text
from hedgerl.pricing._checks import positive, whole_number
from hedgerl.report import table, write_report
from hedgerl.sim.backend import use_device
from hedgerl.sim.noise import drawn_seed, entropy, seed_sequence
from hedgerl.training import board, checkpoint, learners
from hedgerl.training.champion import Contender
from hedgerl.training.fixed_paths import Acting, FixedPaths, Goal, Score, linear_terms, paired_intervals
from hedgerl.training.settings import (
    AGENTS,
    DEVICES,
    CurriculumConfig,
    DeepHedgingConfig,
    ObjectiveConfig,
    RewardConfig,
    SACConfig,
    TrackingConfig,
    ValidationConfig,
)

CONFIG, RUN, POLICY = "config.yaml", "run.json", "policy"
LABELS = {"ppo_lstm": "PPO-LSTM", "deep_hedging": "deep hedging"}
OBJECTIVE_OF_LOSS = {
    "abs": "cvar",  # of single steps, it says nothing of an episode
    "mse": "quadratic",
    "cvar": "cvar",
    "mean_std": "mean_std",
    "entropic": "entropic",
}
SHOWN = ("mean", "sd", "cvar_95", "cvar_99", "entropic", "cost", "effectiveness")  # metrics of a card


class Diverged(ValueError):
    """Training went out of bounds; the message names the iteration and what is left."""


@dataclass
class BandConfig:
    """How the tuned band is found."""

    n_paths: int = 5000
    seed: int = 20240229

    def __post_init__(self) -> None:
        whole_number("tuning.n_paths", self.n_paths, minimum=100)
        whole_number("tuning.seed", self.seed, minimum=0)


@dataclass
class TrainConfig:
    """Every key of conf/train.yaml, with its type; units and reasons stand there."""

    market: Any = MISSING
    data: Any = None
    execution: Any = MISSING
    task: Any = MISSING
    agent: Any = MISSING
    reward: RewardConfig = field(default_factory=RewardConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    observation: list[str] | None = None
    action: Any = None
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    baselines: list[Any] = field(default_factory=list)
    tuning: BandConfig = field(default_factory=BandConfig)
    n_paths: int = 20_000
    test_seed: int = 20240302
    every: int = 5
    bootstrap: int = 1000
    checkpoint: int = 20
    divergence: float = 100.0
    threads: int | None = None
    device: str = "cpu"
    name: str | None = None
    resume: str | None = None
    seed: int | None = 12345

    def __post_init__(self) -> None:
        whole_number("n_paths", self.n_paths, minimum=2)
        whole_number("test_seed", self.test_seed, minimum=0)
        whole_number("every", self.every)
        whole_number("bootstrap", self.bootstrap, minimum=100)
        whole_number("checkpoint", self.checkpoint)
        if positive("divergence", self.divergence) <= 1.0:
            raise ValueError(f"divergence must be above 1, got {self.divergence!r}")
        if self.threads is not None:
            whole_number("threads", self.threads)
        if not DEVICES.fullmatch(str(self.device)):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:NUMBER, got {self.device!r}")
        entropy(self.seed)
        seeds = {"validation.seed": self.validation.seed, "test_seed": self.test_seed, "tuning.seed": self.tuning.seed}
        if len(set(seeds.values())) < len(seeds):
            told = ", ".join(f"{name} = {value}" for name, value in seeds.items())
            raise ValueError(f"validation, test and tuning must have seeds of their own, got {told}")


@dataclass(frozen=True)
class Plan:
    """What a run needs beside its configuration, made and checked before anything is simulated."""

    name: str  # of the policy
    task: Task
    stages: tuple[Task, ...]  # of the curriculum, the task itself last
    curriculum: Curriculum
    label: str  # of the market
    history: dict[str, Task]  # label -> the task on history, at most one
    reward: Reward
    observation: Any
    action: Any
    objective: Goal
    hedges: list[tuple[str, str, dict[str, Any]]]
    seed: int
    device: str

    def setting(self, config: TrainConfig, stage: int) -> learners.Setting:
        """What a learner of that stage is told."""
        money = self.objective.in_money(self.task)
        return learners.Setting(
            task=self.stages[stage],
            whole=self.task,
            observation=self.observation,
            action=self.action,
            reward=self.reward,
            objective=(money.name, money.level),
            seed=drawn_seed(seed_sequence(self.seed, "training", stage)),
            stage=stage,
            iterations=config.agent.iterations,
            device=self.device,
        )


def plan(config: TrainConfig) -> Plan:
    """What a configuration means. Raises ValueError for what it cannot mean; nothing is simulated."""
    agent = config.agent
    if type(agent) is not AGENTS.get(getattr(agent, "name", "")):
        raise ValueError(f"agent must name one of conf/agent ({', '.join(AGENTS)}), got {agent!r:.200}")
    markets = backtest.markets(config.market)
    if len(markets) != 1:
        raise ValueError(f"market must name one model to train in, got {', '.join(markets) or 'none'}")
    ((label, market),) = markets.items()
    make = backtest.maker(config.task, config.execution)
    task = make(market=market)
    curriculum = config.curriculum.made()
    stages = tuple(curriculum.task(task, stage) for stage in range(curriculum.stages + 1))
    history = backtest.history(config.data, make, config.every)
    reward = Reward(**dataclasses.asdict(config.reward))
    objective = _goal(config, reward, task)
    observation, action = _interface(config, task, reward)
    hedges = [backtest.hedge(entry) for entry in config.baselines]
    algorithm = agent.algorithm.upper() if isinstance(agent, SACConfig) else LABELS.get(agent.name, agent.name)
    policy = str(config.name or algorithm)
    labels = [policy, *(each for each, _, _ in hedges)]
    if len(set(labels)) < len(labels):
        raise ValueError(f"name and baselines must have labels of their own, got {', '.join(labels)}")
    if not hedges:
        raise ValueError("baselines must name at least one hedge, got none")
    for _, kind, parameters in hedges:
        if kind == SOLVED and history:
            raise ValueError(f"baselines must not name {kind} with data: it is solved for one market")
        if kind != "tuned_band" or "scale" in parameters:
            check(kind, **parameters)
    board.check(config.tracking)
    return Plan(
        policy,
        task,
        stages,
        curriculum,
        label,
        history,
        reward,
        observation,
        action,
        objective,
        hedges,
        entropy(config.seed),
        usable_device(config.device),
    )


def usable_device(name: str) -> str:
    """What torch is told for `device`; auto is the first GPU, or where there is none the CPU, which it says once.

    Raises ValueError for a GPU that is not there.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        if not found:
            _warn_no_gpu()
        return "cuda" if found else "cpu"
    if name != "cpu" and int(name.partition(":")[2] or 0) >= found:
        there = f"{found} GPUs, the first being cuda:0" if found else "no GPU"
        raise ValueError(f"device must be one that is there, torch finds {there}; got {name!r}")
    return name


@functools.cache
def _warn_no_gpu() -> None:
    warnings.warn("torch finds no GPU: training on the CPU", RuntimeWarning, stacklevel=4)


def _goal(config: TrainConfig, reward: Reward, task: Task) -> Goal:
    """What policies are judged by."""
    name = config.objective.name
    if name == "reward":
        if config.objective.parameter is not None:
            raise ValueError(
                f"objective.parameter must be null where objective.name is reward, got {config.objective.parameter!r}"
            )
        return Goal.of_reward(reward, task)
    return Goal(OBJECTIVE_OF_LOSS[reward.loss] if name == "auto" else name, _parameter(config, reward))


def _parameter(config: TrainConfig, reward: Reward) -> float | None:
    """Of the objective: its own, or else the reward's where both are the same measure."""
    if config.objective.parameter is not None or config.objective.name != "auto":
        return config.objective.parameter
    if reward.loss == "cvar":
        return reward.alpha
    if reward.loss == "mean_std":
        return reward.aversion("mean_std")
    if reward.loss == "entropic":  # from a millionth of the notional to a hundredth
        if reward.scale is not None:
            raise ValueError(
                f"objective must be given with its parameter where reward.scale is, got scale = {float(reward.scale)}"
            )
        return reward.aversion("entropic") * 1e4
    return None


def _interface(config: TrainConfig, task: Task, reward: Reward) -> tuple[Any, Any]:
    """(observation, action) of the environment; checked."""
    if isinstance(config.agent, DeepHedgingConfig):
        for key in ("observation", "action"):
            if getattr(config, key) is not None:
                raise ValueError(
                    f"{key} must be null for deep_hedging, which chooses its own, got {getattr(config, key)}"
                )
        return None, None
    observation = tuple(config.observation) if config.observation else None
    if observation is not None and observation[0] == "raw":
        raise ValueError("observation must be of flat features for a network, got raw")
    action: Any = config.action
    if isinstance(action, Mapping):
        unknown = sorted(set(action) - {"kind", "scale"})
        if unknown or "kind" not in action:
            raise ValueError(f"action must be a name or a mapping of kind and scale, got {dict(action)}")
        action = Action(**action)
    environment = Environment(task, observation, action, reward)
    assert isinstance(environment.observation, Flat)
    kind = environment.action.kind
    if kind == "holdings":
        raise ValueError("action must have bounds for a learner, got 'holdings'")
    if kind == "discrete" and isinstance(config.agent, SACConfig):
        raise ValueError(f"action must be continuous for {config.agent.algorithm}, got 'discrete'")
    return environment.observation, environment.action


# The run


@dataclass
class Progress:
    """Where a run is: what a checkpoint keeps beside the learner."""

    iteration: int = 0  # finished
    best: dict[str, Any] | None = None  # value, iteration, kind, config and weights of the best policy
    history: list[dict[str, float]] = field(default_factory=list)  # of validation
    baselines: dict[str, float] = field(default_factory=dict)  # objective on the validation paths
    band: dict[str, Any] | None = None  # the tuned band's numbers


def run(config: TrainConfig, folder: Path, command: str = "hedgerl train", resume: bool = False) -> Path:
    """Trains, tests and reports; returns the folder of the saved policy.

    `folder` becomes the run: config.yaml and run.json (what it is), checkpoints/, tensorboard/, validation.csv, and at
    the end policy/ (the bundle), results.json, results.csv, report.html and charts/. With `resume` it is one already,
    and goes on from its last checkpoint.

    Raises ValueError for a configuration that means nothing, Diverged where training goes out of bounds.
    """
    return _finish(fit(config, folder, command, resume))


def fit(
    config: TrainConfig, folder: Path, command: str = "hedgerl train", resume: bool = False, watch: Watch | None = None
) -> Fitted:
    """Trains into `folder` as `run` does, and stops before the test.

    `watch` sees each validation and may end the training there. Raises as `run` does.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    planned = plan(config)
    use_device(planned.device)
    learner = learners.make(config.agent, planned.setting(config, 0))  # raises what it must before paths are drawn
    content, digest = _kept(config, planned)
    saved: dict[str, Any] | None = None
    if resume:
        saved = checkpoint.load(folder)
        if saved["config"] != digest:
            raise ValueError(
                f"resume needs the configuration that the run began with, but {folder / CONFIG} has changed"
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        told = {"command": command, "version": hedgerl.__version__, "commit": backtest.commit(), "seed": planned.seed}
        write_text(folder / RUN, json.dumps(told, indent=1) + "\n")
        write_text(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(content)))
    return _learn(config, planned, learner, folder, digest, saved, content, watch)


def resumable(config: TrainConfig, folder: Path) -> bool:
    """Whether the folder is a run of this configuration that has a checkpoint to go on from."""
    if not ((folder / CONFIG).is_file() and (folder / RUN).is_file()):
        return False
    try:
        saved = checkpoint.load(folder)
    except ValueError:
        return False
    return bool(saved["config"] == _kept(config, plan(config))[1])


def _kept(config: TrainConfig, planned: Plan) -> tuple[dict[str, Any], str]:
    """(content of config.yaml, the digest of all in it that numbers depend on)."""
    content: Any = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    content["seed"] = planned.seed
    agent = {key: value for key, value in content["agent"].items() if key != "capture"}
    return content, hashlib.sha256(json.dumps({**content, "agent": agent}, sort_keys=True).encode()).hexdigest()


Watch = Callable[[Progress, Score], bool | None]  # after a validation: True ends the training


@dataclass(frozen=True)
class Fitted:
    """A training that has ended: the policy that was best on the validation paths, not tested yet."""

    config: TrainConfig
    content: dict[str, Any]  # the configuration as it is kept
    folder: Path
    plan: Plan
    module: PolicyModule
    interface: Any
    progress: Progress
    paths: FixedPaths
    hedges: dict[str, Any]
    board: board.Board

    @property
    def best(self) -> dict[str, Any]:
        """The best validation: value, iteration, kind, config and weights."""
        assert self.progress.best is not None
        return self.progress.best

    def card(self) -> Card:
        """What is known of the policy without a test; it is judged on the validation paths once more."""
        score = self.paths.score(Acting(self.module, self.interface))
        told = json.loads((self.folder / RUN).read_text())
        return Card(
            task=self.plan.task,
            observation=self.interface.observation,
            action=self.interface.action,
            name=self.plan.name,
            observed=score.observed,
            marks=GreekMarks.of_task(self.plan.task),
            training={
                "command": told["command"],
                "iterations": self.config.agent.iterations,
                "best_iteration": self.best["iteration"],
                "validation": self.best["value"],
                "config": self.content,
            },
            seed=self.plan.seed,
            commit=told["commit"],
        )


def _learn(
    config: TrainConfig,
    planned: Plan,
    learner: learners.Learner,
    folder: Path,
    digest: str,
    saved: Mapping[str, Any] | None,
    content: dict[str, Any],
    watch: Watch | None,
) -> Fitted:
    """All iterations, from the beginning or from a checkpoint."""
    total = config.agent.iterations
    progress = Progress()
    stage = 0
    if saved is not None:
        progress = Progress(**{item.name: saved["progress"][item.name] for item in dataclasses.fields(Progress)})
        stage = saved["stage"]
        if stage:
            learner = learners.make(config.agent, planned.setting(config, stage))
    n_paths = config.validation.n_paths
    _say(f"{planned.name} on {planned.task.name}, {planned.label}: {n_paths:,} validation paths")
    paths = FixedPaths(planned.task, n_paths, config.validation.seed, planned.objective)
    hedges = _hedges(config, planned, progress)
    if not progress.baselines:
        progress.baselines = {name: paths.score(policy).value for name, policy in hedges.items()}
    shown = board.Board(folder, config.tracking, progress.iteration, content)
    trainer = _Trainer(config, planned, folder, digest, paths, progress, shown)
    if saved is not None:
        learner.restore(saved["learner"], position=True)
        checkpoint.set_random_state(saved["random"])
    else:
        trainer.validate(learner)
        trainer.save(learner, stage)
    bar = board.Progress(total, progress.iteration, planned.name)
    try:
        ended = False
        with _stop_between() as stop:
            while progress.iteration < total and not ended:
                wanted = planned.curriculum.stage(progress.iteration, total)
                if wanted != stage:
                    carried = learner.state()
                    learner = learners.make(config.agent, planned.setting(config, wanted))
                    learner.restore(carried, position=False)
                    stage = wanted
                trainer.iterate(learner, stage)
                bar.step()
                done = progress.iteration
                if done % config.validation.every == 0 or done == total:
                    text, score = trainer.validate(learner)
                    bar.validated(done, text)
                    ended = watch is not None and bool(watch(progress, score))
                if done % config.checkpoint == 0 or done == total or stop:
                    trainer.save(learner, stage)
                if stop:
                    raise KeyboardInterrupt(*stop)
    except KeyboardInterrupt:
        bar.close()
        shown.close()
        last = checkpoint.found(folder)
        if last:
            _say(f"checkpoint: {_short(last[-1])}; continue with: {_resume_command(folder)}")
        raise
    except BaseException:
        shown.close()
        raise
    finally:
        bar.close()
    assert progress.best is not None
    module = build(progress.best["kind"], progress.best["config"])
    module.load_state_dict(progress.best["weights"])
    module.eval().requires_grad_(False)
    return Fitted(config, content, folder, planned, module, learner.interface, progress, paths, hedges, shown)


class _Trainer:
    """One iteration, one validation, one checkpoint."""

    def __init__(
        self,
        config: TrainConfig,
        planned: Plan,
        folder: Path,
        digest: str,
        paths: FixedPaths,
        progress: Progress,
        shown: board.Board,
    ) -> None:
        self.config, self.planned, self.folder, self.digest = config, planned, folder, digest
        self.paths, self.progress, self.board = paths, progress, shown
        worst = max(progress.baselines.values())
        first = progress.history[0]["value"] if progress.history else worst
        self.bound = config.divergence * max(abs(worst), abs(first))

    def iterate(self, learner: learners.Learner, stage: int) -> None:
        """Raises Diverged where a loss or a weight is no number any more."""
        number = self.progress.iteration + 1
        began = time.perf_counter()
        try:
            scalars, histograms = learner.iterate(self.progress.iteration)
        except (ValueError, RuntimeError, ArithmeticError) as error:
            bad = learner.finite()
            if bad is None and not isinstance(error, ArithmeticError) and "nan" not in str(error).lower():
                raise
            what = f"{bad} is no longer finite" if bad else " ".join(str(error).split())
            raise self._diverged(number, what) from error
        for name, value in scalars.items():
            if name.startswith("train/") and name.endswith(("loss", "objective")) and not math.isfinite(value):
                raise self._diverged(number, f"{name} is {value}")
        bad = learner.finite()
        if bad is not None:
            raise self._diverged(number, f"{bad} is no longer finite")
        self.progress.iteration = number
        seconds = time.perf_counter() - began
        self.board.scalars({**scalars, "time/seconds": seconds, "curriculum/stage": float(stage)}, number)
        self.board.histograms(histograms, number)

    def validate(self, learner: learners.Learner) -> tuple[str, Score]:
        """Judges the policy on the fixed paths, keeps it where it is the best; what to show of it, and the score."""
        progress, goal = self.progress, self.planned.objective
        module = learner.module()
        score = self.paths.score(Acting(module, learner.interface), self.planned.reward, learner.moments)
        number = progress.iteration
        if not math.isfinite(score.value) or (progress.history and score.value > self.bound):
            raise self._diverged(number, f"{goal.label} on the validation paths is {score.value:.6g}")
        if not progress.history:
            self.bound = max(self.bound, self.config.divergence * abs(score.value))
        progress.history.append({"iteration": number, "value": score.value, "cost": score.cost})
        if progress.best is None or score.value < progress.best["value"]:
            progress.best = {
                "value": score.value,
                "iteration": number,
                "kind": module.kind,
                "config": checkpoint.plain(copy.deepcopy(module.config)),
                "weights": {name: value.detach().cpu().clone() for name, value in module.state_dict().items()},
            }
        scalars = {
            "validation/objective": score.value,
            "validation/best": progress.best["value"],
            "validation/mean_pnl": float(score.pnl.mean()),
            "validation/sd_pnl": float(score.pnl.std()),
            "validation/cost": score.cost,
        }
        scalars |= {f"validation/term/{name}": value for name, value in score.terms.items()}
        for name, value in progress.baselines.items():
            scalars[f"baseline/{name}"] = value
        self.board.scalars(scalars, number)
        samples = {f"validation/action/{i}": score.actions[:, i] for i in range(score.actions.shape[1])}
        self.board.histograms({**samples, "validation/pnl": score.pnl}, number)
        rows = [f"{int(row['iteration'])},{row['value']!r},{row['cost']!r}" for row in progress.history]
        write_text(self.folder / "validation.csv", "\n".join(["iteration,objective,cost", *rows]) + "\n")
        bar = min(progress.baselines, key=lambda name: progress.baselines[name])
        best, known = progress.best["value"], progress.baselines[bar]
        return f"{goal.label} {score.value:.4g} (best {best:.4g}; {bar} {known:.4g})", score

    def save(self, learner: learners.Learner, stage: int) -> None:
        """Writes a checkpoint; the learner's and all generators' states are those between two iterations."""
        self.board.flush()
        content = {
            "config": self.digest,
            "stage": stage,
            "learner": learner.state(),
            "random": checkpoint.random_state(),
            "progress": {item.name: getattr(self.progress, item.name) for item in dataclasses.fields(Progress)},
        }
        checkpoint.save(self.folder, self.progress.iteration, content)

    def _diverged(self, number: int, what: str) -> Diverged:
        last = checkpoint.found(self.folder)
        kept = f"; the last good checkpoint is {_short(last[-1])}" if last else ""
        return Diverged(f"training stopped at iteration {number}: {what}{kept}")


def tuned(config: TrainConfig, planned: Plan) -> TunedBand:
    """The band of the least objective, on paths of its own."""
    return TunedBand.fit(
        planned.task,
        objective=planned.objective.in_money(planned.task).for_band(planned.task.n_steps),
        n_paths=config.tuning.n_paths,
        seed=config.tuning.seed,
    )


def _hedges(config: TrainConfig, planned: Plan, progress: Progress) -> dict[str, Any]:
    """The baselines, the tuned band fitted or as it was fitted before."""
    policies: dict[str, Any] = {}
    for name, kind, parameters in planned.hedges:
        if kind != "tuned_band" or "scale" in parameters:
            policies[name] = solved(kind, planned.task, **parameters)
            continue
        if progress.band is None:
            _say(f"{name}: tuning on {config.tuning.n_paths:,} paths")
            progress.band = tuned(config, planned).to_dict()
        policies[name] = TunedBand.from_dict(progress.band)
    return policies


# The end of a run


def _finish(fitted: Fitted) -> Path:
    """Tests the fitted policy on paths of their own, prints, reports and saves."""
    config, planned, folder = fitted.config, fitted.plan, fitted.folder
    told = json.loads((folder / RUN).read_text())
    card = fitted.card()
    policies = {planned.name: Agent(fitted.module, card), **fitted.hedges}
    _say(f"testing on {config.n_paths:,} paths that were never used before")
    studies = [
        compare(
            policies,
            planned.task,
            n_paths=config.n_paths,
            seed=config.test_seed,
            reference=planned.name,
            resamples=config.bootstrap,
        ).study(market=planned.label, notes=(_note(fitted),))
    ]
    for label, task in planned.history.items():
        studies.append(
            compare(
                policies,
                task,
                seed=config.test_seed,
                every=config.every,
                reference=planned.name,
                resamples=config.bootstrap,
            ).study(market=label, notes=(backtest.marks(task.market),))
        )
    linear = linear_terms(policies, planned.task, planned.objective, config.n_paths, config.test_seed)
    metrics = _metrics(fitted, studies[0], linear)
    print(table(studies))
    print(_against(planned, metrics))
    report = write_report(
        studies,
        folder,
        title=f"{planned.name} trained on {planned.task.name}",
        config=fitted.content,
        seed=planned.seed,
        commit=told["commit"],
        version=told["version"],
        command=told["command"],
    )
    policy = save_bundle(folder / POLICY, fitted.module, dataclasses.replace(card, metrics=metrics))
    fitted.board.scalars({"test/objective": metrics["objective"]["test"]}, config.agent.iterations)
    pnl = studies[0].results[planned.name].pnl
    contender = Contender(
        policy,
        planned.task,
        planned.label,
        planned.objective,
        pnl,
        config.test_seed,
        config.bootstrap,
        None if linear is None else linear[planned.name],
    )
    fitted.board.finish({POLICY: policy, "report": report, "results": folder / "results.json"}, contender)
    fitted.board.close()
    print(f"\npolicy: {_short(policy)}\nreport: {_short(report)}")
    return policy


def _note(fitted: Fitted) -> str:
    return (
        f"{fitted.plan.name}: the weights of iteration {fitted.best['iteration']} of {fitted.config.agent.iterations}, "
        f"the best by {fitted.plan.objective.label} on {fitted.config.validation.n_paths:,} validation paths; "
        "these test paths were used once."
    )


def _metrics(fitted: Fitted, study: Study, linear: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
    """What the card tells: the objective and some measures on the test paths, with paired intervals; linear: of each
    policy, see `Goal`."""
    config, planned = fitted.config, fitted.plan
    goal, name = planned.objective, planned.name
    pnl = {label: result.pnl for label, result in study.results.items()}
    intervals = paired_intervals(goal, pnl, name, config.bootstrap, study.confidence, config.test_seed, linear)
    against: dict[str, Any] = {label: {"objective": interval} for label, interval in intervals.items()}
    for row in study.differences.to_dict(orient="records"):
        if row["metric"] in SHOWN and row["policy"] in against:
            against[row["policy"]][row["metric"]] = {  # turned: of this policy less the baseline
                "value": row["value"],
                "difference": -row["difference"],
                "low": -row["high"],
                "high": -row["low"],
            }
    own = study.results[name].metrics
    return {
        "objective": {
            "name": goal.name,
            "parameter": goal.level,
            "label": goal.label,
            "test": goal(pnl[name], None if linear is None else linear[name]),
            "validation": fitted.best["value"],
            "unit": goal.money,
        },
        "market": planned.label,
        "n_paths": config.n_paths,
        "test_seed": config.test_seed,
        "confidence": study.confidence,
        "test": {key: own[key] for key in SHOWN},
        "against": against,
    }


def _against(planned: Plan, metrics: Mapping[str, Any]) -> str:
    """The objective of the policy beside every baseline's, as lines."""
    goal = planned.objective
    confidence = f"{100 * metrics['confidence']:.0f} %"
    digits = ".4f" if goal.reward is None else ".5g"  # its weights decide how large it is
    lines = [
        f"\n{goal.label} on the test paths, less is better: {planned.name} {metrics['objective']['test']:{digits}}",
        f"{'against':<36}{'objective':>12}{'difference':>12}{f'{confidence} interval':>24}",
    ]
    for label, row in metrics["against"].items():
        each = row["objective"]
        interval = f"[{each['low']:+{digits}}, {each['high']:+{digits}}]"
        verdict = "better" if each["high"] < 0.0 else "worse" if each["low"] > 0.0 else "not told apart"
        values = f"{each['value']:>12{digits}}{each['difference']:>+12{digits}}"
        lines.append(f"{label[:35]:<36}{values}{interval:>24}  {verdict}")
    return "\n".join(lines)


# Small parts


@contextmanager
def _stop_between() -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM fill, for a stop between two iterations; the second one stops at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt(number)
        asked.append(number)
        _say("\nstopping after this iteration (once more: at once)")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _short(path: Path) -> str:
    """As it is reached from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _resume_command(folder: Path) -> str:
    return shlex.join(["hedgerl", "train", f"resume={_short(folder)}"])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# Configuration

_STORE = ConfigStore.instance()
_STORE.store(name="train_schema", node=TrainConfig)
for _name, _kind in AGENTS.items():
    _STORE.store(name=f"{_name}_schema", node=_kind)


def configured(content: Any) -> TrainConfig:
    """The configuration that config.yaml holds. Raises ValueError for another content."""
    kind = AGENTS.get(str(OmegaConf.select(content, "agent.name")))
    if kind is None:
        raise ValueError("config.yaml must hold the configuration of a run, with an agent of conf/agent")
    schema = OmegaConf.structured(TrainConfig)
    schema.agent = OmegaConf.structured(kind)
    typed = OmegaConf.to_object(OmegaConf.merge(schema, content))
    assert isinstance(typed, TrainConfig)
    return typed


def resumed_folder(arguments: list[str], keys: list[str]) -> Path | None:
    """The folder of `resume=FOLDER` among the keys of a command line; None where nothing is to be continued.

    Raises ValueError for a folder that is no run, or a finished one, and for other keys beside it.
    """
    flags = [item for item in arguments if item not in keys]
    parsed = OverridesParser.create().parse_overrides(keys)
    named = [each for each in parsed if each.get_key_element().lstrip("+") == "resume" and each.value() is not None]
    if not named:
        return None
    others = [str(each.input_line) for each in parsed if each not in named] + flags
    if others or len(named) > 1:
        raise ValueError(f"resume goes with no other key: a run continues as it began, got {' '.join(others)}")
    folder = Path(str(named[0].value()))
    for name in (CONFIG, RUN):
        if not (folder / name).is_file():
            raise ValueError(f"resume must name the folder of a run, got {folder}, which has no {name}")
    if (folder / POLICY).exists():
        raise ValueError(f"resume must name a run that has not ended, got {folder}; its policy is {folder / POLICY}")
    if not checkpoint.found(folder):
        raise ValueError(f"resume must name the folder of a run, got {folder}, which has no checkpoint")
    return folder


def hydra_overrides(arguments: list[str], keys: list[str]) -> list[str]:
    """The arguments, with the run's own folder for Hydra where a run is continued."""
    folder = resumed_folder(arguments, keys)
    if folder is None:
        return arguments
    where = str(folder.resolve()).replace("\\", "\\\\").replace('"', '\\"')
    return [*arguments, f'hydra.run.dir="{where}"', "hydra.output_subdir=null", "hydra/job_logging=disabled"]


def from_hydra(config: DictConfig, folder: Path) -> None:
    """Trains from a Hydra configuration into the run's `folder`, or goes on with the run that it names."""
    if config.resume is not None:
        content = OmegaConf.load(folder / CONFIG)
        run(configured(content), folder, resume=True)
        return
    typed = backtest.typed(config, TrainConfig)
    overrides = list(HydraConfig.get().overrides.task)
    run(typed, folder, shlex.join(["hedgerl", "train", *overrides]))
