"""What is shown of a run while it goes on: a bar on the terminal, TensorBoard, MLflow."""

from __future__ import annotations

import importlib.util
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

from hedgerl.training.settings import TrackingConfig

_MLFLOW_RUN = "mlflow_run.json"
_ILLEGAL = re.compile(r"[^\w\-. :/]")  # in the name of a metric


def check(tracking: TrackingConfig) -> None:
    """Raises ValueError where a package that is asked for is not installed."""
    if tracking.mlflow and importlib.util.find_spec("mlflow") is None:
        raise ValueError("tracking=mlflow needs MLflow, which is not installed: pip install 'hedgerl[track]'")
    if tracking.mlflow and tracking.uri is None and importlib.util.find_spec("sqlalchemy") is None:
        raise ValueError(
            "tracking=mlflow keeps a SQLite store, which needs two packages more: pip install sqlalchemy alembic"
        )


class Board:
    """Scalars and histograms by name and iteration. A run that goes on continues its curves: what came after its
    checkpoint is dropped."""

    def __init__(self, run: Path, tracking: TrackingConfig, iteration: int, parameters: Mapping[str, Any]) -> None:
        self._writer: Any = None
        self._mlflow: Any = None
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

    def finish(self, artifacts: Mapping[str, Path]) -> None:
        """The end of a run that is complete: MLflow keeps its results."""
        if self._mlflow is not None:
            self._mlflow.finish(artifacts)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()


class _MLflow:
    """One run of MLflow for one folder, however often it is continued."""

    def __init__(self, run: Path, tracking: TrackingConfig, parameters: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        uri = f"sqlite:///{(run / 'mlflow.db').resolve()}" if tracking.uri is None else tracking.uri
        self.client = MlflowClient(tracking_uri=uri)
        known = run / _MLFLOW_RUN
        try:
            if known.is_file():
                self.run_id = str(json.loads(known.read_text())["run_id"])
                self.client.get_run(self.run_id)
                return
            found = self.client.get_experiment_by_name(tracking.experiment)
            if found is None:
                where = (run / "mlflow_artifacts").resolve().as_uri()
                experiment = self.client.create_experiment(tracking.experiment, artifact_location=where)
            else:
                experiment = found.experiment_id
            self.run_id = self.client.create_run(experiment, run_name=run.name).info.run_id
        except MlflowException as error:
            raise ValueError(f"tracking=mlflow: {str(error).partition(chr(10))[0]}") from error
        known.write_text(json.dumps({"run_id": self.run_id, "uri": uri}) + "\n")
        for name, value in _flat(parameters):
            self.client.log_param(self.run_id, name, str(value)[:500])

    def metrics(self, values: Mapping[str, float], iteration: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(_ILLEGAL.sub("_", name), value, now, iteration) for name, value in values.items()]
        if rows:
            self.client.log_batch(self.run_id, metrics=rows)

    def finish(self, artifacts: Mapping[str, Path]) -> None:
        for name, path in artifacts.items():
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), name)
            elif path.is_file():
                self.client.log_artifact(self.run_id, str(path))
        self.client.set_terminated(self.run_id)


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
