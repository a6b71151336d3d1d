"""A tested policy against the champion of MLflow's registry: the same task, the same objective, the same paths."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hedgerl
from hedgerl.agents.agent import Agent, load_bundle
from hedgerl.agents.bundle import CARD
from hedgerl.agents.registry import Difference
from hedgerl.agents.settings import NotSaved, described
from hedgerl.envs import Task
from hedgerl.evaluation import evaluate
from hedgerl.training.fixed_paths import Goal, linear_terms, paired_intervals

CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Contender:
    """A saved policy and what its test found."""

    bundle: Path
    task: Task
    market: str  # for people
    objective: Goal
    pnl: np.ndarray  # (n_paths,) of the test, per 100 of initial spot x size
    seed: int  # of the test
    resamples: int
    linear: np.ndarray | None = None  # (n_paths,), as `Goal` needs it

    @property
    def model(self) -> str:
        """The name of its registered model: hedgerl-short_option."""
        return "hedgerl-" + re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.task.name).lower()

    @property
    def tags(self) -> dict[str, str]:
        """Of its version."""
        card = self._card
        return {
            "objective": repr(self.objective(self.pnl, self.linear)),
            "objective_name": self.objective.name,
            "objective_parameter": repr(self.objective.level),
            "market": self.market,
            "seed": str(card["seed"]),
            "commit": str(card["commit"]),
            "hedgerl": hedgerl.__version__,
            "sha256": str(card["sha256"]["weights"]),
            "run": str(self.bundle.parent.resolve()),
        }

    def against(self, version: int, folder: Path) -> Difference:
        """How far it is from the champion, a bundle in `folder`, on the paths of its test.

        Raises ValueError where the champion cannot be loaded, or is of another task or objective.
        """
        try:
            champion = load_bundle(folder)
        except (ValueError, OSError) as error:
            raise ValueError(f"it cannot be loaded: {error}") from error
        self._check(champion)
        label = f"version {version}"
        n_paths, linear = self.pnl.size, None
        pnl = {"": self.pnl, label: evaluate(champion, self.task, n_paths=n_paths, seed=self.seed).pnl}
        if self.linear is not None:
            terms = linear_terms({label: champion}, self.task, self.objective, n_paths, self.seed)
            linear = {"": self.linear, **(terms or {})}
        row = paired_intervals(self.objective, pnl, "", self.resamples, CONFIDENCE, self.seed, linear)[label]
        return Difference(self.objective.label, row["difference"], row["low"], row["high"])

    def _check(self, champion: Agent) -> None:
        own, its = described(self.task), described(champion.task)
        if isinstance(champion.task.market, NotSaved):
            raise ValueError(f"its market ({champion.task.market.name}) is not saved with it")
        changed = [name for name in own if name != "backend" and own[name] != its.get(name)]
        if changed:
            raise ValueError(f"its task is another, in {', '.join(changed)}")
        known = champion.card.metrics.get("objective", {})
        if (known.get("name"), known.get("parameter")) != (self.objective.name, self.objective.level):
            name, parameter = known.get("name", "not known"), known.get("parameter")
            told = name if parameter is None else f"{name} {parameter:g}"
            raise ValueError(f"its objective is {told}, this one's {self.objective.name} {self.objective.level:g}")
        if self.objective.name == "reward" and _reward(champion.card.training) != _reward(self._card["training"]):
            raise ValueError("its objective is another reward")

    @property
    def _card(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.bundle / CARD).read_text(encoding="utf-8"))
        return content


def _reward(training: Mapping[str, Any]) -> Any:
    """The keys of conf/reward that a policy was trained with."""
    return training.get("config", {}).get("reward")
