"""One cell of a grid, as a worker does it: search its settings, train once more with the best, test."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from hedgerl import train
from hedgerl.agents.bundle import save_bundle
from hedgerl.files import write_text
from hedgerl.studies import search, space, storage, tested, trial
from hedgerl.studies.conduct import Sampling
from hedgerl.studies.search import Search
from hedgerl.studies.stopping import Stopping
from hedgerl.studies.workers import InlinePool
from hedgerl.training import checkpoint

HPO, TEST, RESULT = "hpo", "test.npz", "result.json"


def run(config: Mapping[str, Any], hpo: Mapping[str, Any], folder: str, resamples: int) -> dict[str, Any]:
    """Trains and tests the policy of one configuration; what result.json keeps of it.

    hpo: space, n_trials, iterations and seed of the search of settings before, whose trials are judged by the
    configuration's own objective on the validation paths. Whatever was interrupted in the folder goes on.
    """
    where, began = Path(folder), time.perf_counter()
    with trial.logged(where):
        parameters = _searched(config, hpo, where / HPO) if hpo["n_trials"] else {}
        content, _ = space.applied(config, None, parameters)
        content["baselines"] = ["none"]
        fitted = trial.fit(train.configured(OmegaConf.create(content)), where)
        policy = save_bundle(where / train.POLICY, fitted.module, fitted.card())
        tested.run(content, {"path": str(policy)}, str(where / TEST))
    arrays = tested.load(where / TEST)
    assert arrays is not None
    result = {
        "parameters": space.decoded(parameters),
        "iteration": fitted.best["iteration"],
        "objective": fitted.best["value"],
        "measures": tested.measured(arrays, resamples),
        "seconds": round(time.perf_counter() - began, 3),
    }
    write_text(where / RESULT, json.dumps(result, indent=1) + "\n")
    shutil.rmtree(where / checkpoint.FOLDER, ignore_errors=True)
    return result


def finished(folder: Path) -> dict[str, Any] | None:
    """What `run` has left in the folder; None where it has not come to its end."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(result, dict) and (folder / train.POLICY).is_dir() and (folder / TEST).is_file()
    return result if whole else None


def _searched(config: Mapping[str, Any], hpo: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The best settings of a short search, one trial after another."""
    shorter = {**config, "agent": {**config["agent"], "iterations": hpo["iterations"]}}
    searched = space.read(hpo["space"])
    of = Search(
        config=shorter,
        baseline=None,
        space=searched,
        objectives=trial.GOAL,
        sampling=Sampling(seed=hpo["seed"], startup=max(1, hpo["n_trials"] // 2)),
        stopping=Stopping("median", startup=2),
        window=1,
        first=[space.inside(space.present(config, searched), searched)],
    )
    with storage.exclusive(folder):
        study = search.conduct(of, folder, HPO, InlinePool(), hpo["n_trials"]).study
    if not study.best_trials:
        raise ValueError(f"no trial of the search of settings has ended well; see {folder}")
    return dict(study.best_trial.params)
