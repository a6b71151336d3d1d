"""Policies on test paths, as a worker evaluates them: episodes to compare fronts by."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from hedgerl import train
from hedgerl.agents.agent import Agent
from hedgerl.agents.bundle import CARD
from hedgerl.baselines import solved
from hedgerl.evaluation import evaluate
from hedgerl.evaluation.bootstrap import resamples
from hedgerl.files import write_bytes
from hedgerl.studies import front
from hedgerl.studies.workers import Job, Pool, run_all

KEPT = ("pnl", "cost", "unhedged")


def run(config: Mapping[str, Any], policy: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Writes pnl, cost and unhedged (n,) of a policy on the test paths into `file` (.npz); returns its metrics.

    policy: {path: of a bundle}, or {name: of a baseline, parameters}. Episodes are those of `hedgerl.evaluate` with
    n_paths and seed = test_seed of the configuration.
    """
    typed = train.configured(OmegaConf.create(dict(config)))
    planned = train.plan(typed)
    if "path" in policy:
        hedge: Any = Agent.load(policy["path"])
    elif policy["name"] == "tuned_band" and "scale" not in policy:
        hedge = train.tuned(typed, planned)
    else:
        hedge = solved(task=planned.task, **policy)
    result = evaluate(hedge, planned.task, n_paths=typed.n_paths, seed=typed.test_seed)
    content = io.BytesIO()
    arrays: dict[str, Any] = {name: result.episodes[name].to_numpy(np.float64) for name in KEPT}
    np.savez_compressed(content, **arrays)
    write_bytes(Path(file), content.getvalue())
    return {"metrics": result.row()}


def job(number: int, config: Mapping[str, Any], policy: Mapping[str, Any], folder: Path) -> Job:
    """The job that `run` does, with a file in `folder` that is named after all that the numbers depend on."""
    of = {**config, "baselines": ["none"], "threads": None, "resume": None, "name": None}
    known: list[Any] = [of, dict(policy)]
    if "path" in policy:
        known.append((Path(policy["path"]) / CARD).read_text(encoding="utf-8"))
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    file = (folder / f"{digest}.npz").resolve()
    return Job(number, f"{__name__}:run", {"config": of, "policy": dict(policy), "file": str(file)})


def run_missing(pool: Pool, jobs: Sequence[Job]) -> dict[int, str]:
    """Does those whose files are not there; number -> error of those that failed."""
    left = [each for each in jobs if load(Path(each.arguments["file"])) is None]
    outcomes = run_all(pool, left)
    return {number: outcome.error for number, outcome in outcomes.items() if outcome.error is not None}


def measured(arrays: Mapping[str, np.ndarray], n_resamples: int) -> dict[str, list[float]]:
    """Every objective of one policy with its 95 % percentile interval: name -> [value, low, high]."""
    episodes = front.Episodes(arrays["pnl"][None], arrays["cost"][None], arrays["unhedged"])
    names = list(front.OBJECTIVES)
    parts = [names[first : first + front.MOST] for first in range(0, len(names), front.MOST)]

    def values(counts: np.ndarray | None) -> np.ndarray:
        return np.concatenate([episodes.measure(part, counts)[:, 0] for part in parts], axis=1)

    drawn = np.concatenate([values(counts) for _, counts in resamples(episodes.n, n_resamples, 0)])
    rows = np.vstack([values(None), np.quantile(drawn, [0.025, 0.975], axis=0)])
    return dict(zip(names, rows.T.tolist(), strict=True))


def load(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file; None where there is none or it is damaged."""
    try:
        with np.load(file) as arrays:
            return {name: arrays[name] for name in KEPT}
    except (OSError, ValueError, KeyError, EOFError):
        return None
