"""Policies as ONNX graphs, for programs without torch."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hedgerl
from hedgerl.agents.bundle import Card, schema
from hedgerl.agents.networks import PolicyModule
from hedgerl.agents.stepping import answered, begun, observations

OPSET = 17
METADATA = "hedgerl"


def to_onnx(module: PolicyModule, card: Card, path: str | os.PathLike[str]) -> Path:
    """Writes the policy as an ONNX graph and returns the path.

    Inputs: observation (n, d) float32, state_0, state_1, .. (n, ..). Outputs: action (n, a), new_state_0, .. of the
    same shapes. n is free. The graph's metadata has, under "hedgerl", JSON with the columns of the observation, the
    action and the values that each state begins with.

    Raises ImportError without the package `onnx`, which the extra `serve` brings.
    """
    if importlib.util.find_spec("onnx") is None:
        raise ImportError("exporting to ONNX needs the package onnx: pip install 'hedgerl[serve]'")
    import onnx

    size = len(card.observation.columns(card.task))
    state = module.initial_state(2)
    begins = [value[0].tolist() for value in state]
    names = [f"state_{index}" for index in range(len(state))]
    inputs, outputs = ["observation", *names], ["action", *(f"new_{name}" for name in names)]
    file: Any = io.BytesIO()
    was = module.training
    module.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            # The exporter by torch.export needs two packages more and ten times as long for the same graph; this one
            # warns that it is the older, and of an LSTM whose batch is not 1: its states are inputs here, as it asks.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (torch.zeros(2, size), *state),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes={name: {0: "n"} for name in (*inputs, *outputs)},
            )
    finally:
        module.train(was)
    graph = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(graph, full_check=True)
    graph.producer_name, graph.producer_version = "hedgerl", hedgerl.__version__
    entry = graph.metadata_props.add()
    entry.key = METADATA
    entry.value = json.dumps(
        {
            "columns": schema(card.observation, card.task),
            "action": {"kind": card.action.kind, "scale": card.action.scale},
            "initial_state": begins,
        },
        sort_keys=True,
    )
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_bytes(graph.SerializeToString(deterministic=True))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


class OnnxPolicy:
    """A policy that `to_onnx` wrote, through ONNX Runtime on one thread: `predict` as `Agent.predict`.

    Raises FileNotFoundError where there is no file, ValueError for a graph that is not of hedgerl.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import onnxruntime

        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no ONNX graph at {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self.session: Any = onnxruntime.InferenceSession(
                Path(path).read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            about = json.loads(self.session.get_modelmeta().custom_metadata_map[METADATA])
            begins = [np.asarray(value, np.float32) for value in about["initial_state"]]
            self.size, self.discrete = len(about["columns"]), about["action"]["kind"] == "discrete"
        except Exception as error:  # the runtime has many of its own
            raise ValueError(f"{path} is not a policy that hedgerl wrote: {error}") from error
        self.begins = begins
        self.names = [f"state_{index}" for index in range(len(begins))]

    def initial_state(self, n: int) -> tuple[np.ndarray, ...]:
        """The state of n paths at the start of an episode."""
        return tuple(np.broadcast_to(value, (n, *value.shape)).copy() for value in self.begins)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """See `Agent.predict`."""
        batch, single = observations(observation, self.size)
        before = begun(state, episode_start, batch.shape[0], self.initial_state)
        action, *after = self.session.run(None, {"observation": batch, **dict(zip(self.names, before, strict=True))})
        return answered(action, tuple(after), single, self.discrete)
