"""What is shown of a run while it goes on: a bar on the terminal, TensorBoard, MLflow."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hedgerl.agents import registry
from hedgerl.training.champion import Contender
from hedgerl.training.settings import TrackingConfig

_MLFLOW_RUN = "mlflow_run.json"
_EVERY, _MOST_ROWS = 5.0, 500  # seconds from one batch of metrics to the next; rows of a batch
_ILLEGAL = re.compile(r"[^\w\-. :/]")  # in the name of a metric


def check(tracking: TrackingConfig) -> None:
    """Raises ValueError where a package that is asked for is not installed."""
    if tracking.mlflow:
        registry.check("tracking=mlflow", tracking.uri)


class Board:
    """Scalars and histograms by name and iteration. A run that goes on continues its curves: what came after its
    checkpoint is dropped."""

    def __init__(self, run: Path, tracking: TrackingConfig, iteration: int, parameters: Mapping[str, Any]) -> None:
        self._writer: Any = None
        self._mlflow: _MLflow | None = None
        if tracking.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            purge = iteration + 1 if iteration else None
            self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=purge)
        if tracking.mlflow:
            self._mlflow = _MLflow(run, tracking, parameters)

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Numbers of an iteration; TensorBoard shows NaN as a gap."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, iteration)
        if self._mlflow is not None:
            self._mlflow.metrics({name: value for name, value in values.items() if math.isfinite(value)}, iteration)

    def histograms(self, samples: Mapping[str, np.ndarray], iteration: int) -> None:
        """Distributions of an iteration."""
        if self._writer is not None:
            for name, sample in samples.items():
                finite = sample[np.isfinite(sample)]
                if finite.size:
                    self._writer.add_histogram(name, finite, iteration)

    def flush(self) -> None:
        """Sends what waits: before a checkpoint, so that a run that goes on from it has no gap."""
        if self._mlflow is not None:
            self._mlflow.flush()

    def finish(self, artifacts: Mapping[str, Path], contender: Contender | None = None) -> None:
        """The end of a run that is complete: MLflow keeps its results and registers the policy."""
        if self._mlflow is not None:
            self._mlflow.finish(artifacts, contender)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
        if self._mlflow is not None:
            self._mlflow.close()


class _MLflow:
    """One run of MLflow for one folder, however often it is continued.

    Metrics go in batches: SQLite writes to disk at each. Once training has begun, a store that fails costs metrics and
    a line, never the run.
    """

    def __init__(self, run: Path, tracking: TrackingConfig, parameters: Mapping[str, Any]) -> None:
        self._tracking = tracking
        self._rows: list[tuple[str, float, int, int]] = []  # name, value, time in ms, iteration
        self._failed = self._ended = False
        self._next = time.monotonic() + _EVERY
        self._logged: dict[str, int] | None = None  # name -> last iteration, of a run that goes on
        known = run / _MLFLOW_RUN
        before = json.loads(known.read_text()) if known.is_file() else {}
        uri = before.get("uri") if tracking.uri is None else tracking.uri
        self.store = registry.Store.open(uri, create=True)
        if before and self.store.goes_on(before["run_id"]):
            self.run_id = str(before["run_id"])
            self._logged = {}
            return
        if before:
            _say(f"tracking=mlflow: the store has no run {before['run_id']} any more; a new one begins")
        self.run_id = self.store.new_run(tracking.experiment, run.name)
        known.write_text(json.dumps({"run_id": self.run_id, "uri": self.store.uri}) + "\n")
        self.store.log(self.run_id, parameters={name: str(value)[:500] for name, value in _flat(parameters)})

    def metrics(self, values: Mapping[str, float], iteration: int) -> None:
        now = int(time.time() * 1000)
        self._rows += [(_ILLEGAL.sub("_", name), value, now, iteration) for name, value in values.items()]
        if time.monotonic() >= self._next or len(self._rows) >= _MOST_ROWS:
            self.flush()

    def flush(self) -> None:
        """Sends what there is; what cannot be sent is kept for later, which a store that is away puts off."""
        began = time.monotonic()
        if self._failed and began < self._next:
            return
        try:
            self._send()
            self._failed = False
        except Exception as error:
            if not self._failed:
                _say(f"tracking=mlflow: metrics are held back: {_line(error)}")
            self._failed = True
        took = time.monotonic() - began
        self._next = time.monotonic() + max(_EVERY, (10.0 if self._failed else 100.0) * took)

    def _send(self) -> None:
        while self._rows:
            part = self._rows[:_MOST_ROWS]
            self.store.log(self.run_id, metrics=[row for row in part if self._is_new(row[0], row[3])])
            del self._rows[: len(part)]

    def _is_new(self, name: str, iteration: int) -> bool:
        """Whether the run, before it went on, lacked this."""
        if self._logged is None:
            return True
        if name not in self._logged:
            self._logged[name] = self.store.last_step(self.run_id, name)
        return iteration > self._logged[name]

    def finish(self, artifacts: Mapping[str, Path], contender: Contender | None) -> None:
        """Nothing that fails here undoes the training, whose policy is on disk."""
        self._ended = True
        try:
            self._send()
            for name, path in artifacts.items():
                if path.is_dir():
                    self.store.patiently("log_artifacts", self.run_id, str(path), name)
                elif path.is_file():
                    self.store.patiently("log_artifact", self.run_id, str(path))
            if contender is not None and self._tracking.register:
                print(f"\nregistry: {self._registered(contender)}")
        except Exception as error:
            _say(f"tracking=mlflow: the run is not complete in MLflow: {_line(error)}")
        self._terminate("FINISHED")

    def _registered(self, contender: Contender) -> registry.Verdict:
        model = self._tracking.model or contender.model
        verdict = self.store.register(
            model, self.run_id, contender.bundle.name, contender.tags, contender.against, self._tracking.promote
        )
        told = {"registered_model": model, "version": str(verdict.version), **verdict.tags}
        self.store.log(self.run_id, tags={f"registry.{name}": value for name, value in told.items()})
        return verdict

    def close(self) -> None:
        """Of a run that has not come to its end: stopped, to be continued, or failed."""
        if self._ended:
            return
        self._ended = True
        self.flush()
        self._terminate("FAILED" if isinstance(sys.exception(), Exception) else "KILLED")

    def _terminate(self, status: str) -> None:
        with contextlib.suppress(Exception):
            self.store.patiently("set_terminated", self.run_id, status)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{key}.")
        else:
            rows.append((key, value))
    return rows


class Progress:
    """A bar on stderr where that is a terminal, and else a line at each validation."""

    def __init__(self, total: int, done: int, name: str) -> None:
        self._bar = tqdm(
            total=total, initial=done, desc=name, unit="it", disable=None, dynamic_ncols=True, smoothing=0.1
        )
        self._total = total
        self._name = name

    def step(self) -> None:
        """One iteration more."""
        self._bar.update(1)

    def validated(self, iteration: int, text: str) -> None:
        """The metric that matters."""
        if self._bar.disable:
            print(f"{self._name} {iteration}/{self._total}: {text}", file=sys.stderr, flush=True)
        else:
            self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
