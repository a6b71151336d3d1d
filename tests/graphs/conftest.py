"""A stand-in for CUDA graphs on the CPU, and devices on which steps can be captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import array_api_compat.torch
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hedgerl.envs.graphs import CudaGraphs, Replay

FETCHES = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal")
SENDS = ("tensor", "as_tensor", "asarray", "from_numpy")
GARBAGE = {torch.float32: float("nan"), torch.float64: float("nan")}  # of other kinds 85: no flag, no index


def tensors(values: Any) -> list[torch.Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, torch.Tensor)]


class _Tape(TorchDispatchMode):
    """Notes operations on tensors, those of a backward pass included, with the memory that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[tuple[torch.Tensor, bool]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        masked = name.startswith("index") and any(each.dtype == torch.bool for each in tensors(args[1:]))
        if masked or name in FETCHES:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        result = func(*args, **kwargs)
        given = {each.untyped_storage().data_ptr() for each in tensors((args, kwargs))}
        made = [(each, each.untyped_storage().data_ptr() not in given) for each in tensors(result)]
        self.calls.append((func, args, kwargs, made))
        return result

    def forget(self) -> None:
        """Fills what was made with garbage: what is captured is not done."""
        for *_, made in self.calls:
            for each, new in made:
                if new and each.numel():
                    each.detach().fill_(GARBAGE.get(each.dtype, 1 if each.dtype == torch.bool else 85))

    def run(self) -> None:
        """Does everything again where it was done: numbers of the host are those of the first time."""
        for func, args, kwargs, made in self.calls:
            with torch.no_grad():
                result = func(*args, **kwargs)
                for (into, new), each in zip(made, tensors(result), strict=True):
                    if new:
                        into.detach().copy_(each)


class StandInGraphs:
    """Captures operations on the CPU and replays them in the same memory, as CUDA graphs do on a device.

    Refused, as there: what brings a tensor's number to the host, or an array of the host to a tensor. What is captured
    leaves garbage until it is replayed. What it cannot show: memory that torch hands out again, streams, speed.
    """

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0
        self.capturing = False
        self.fail_at: int | None = None  # the capture that does not succeed

    def capture(self, work: Callable[[], Any]) -> Replay:
        self.captures += 1
        if self.captures == self.fail_at:
            raise RuntimeError("out of memory in a graph\nmore lines")
        tape = _Tape()
        self.capturing = True
        try:
            with nothing_sent(), tape:
                result = work()
        finally:
            self.capturing = False
        tape.forget()

        def run() -> None:
            self.replays += 1
            tape.run()

        return Replay(run, result)

    def stream(self) -> Any:
        return nullcontext()

    def anew(self) -> None:
        """There is no pool of memory here."""


@contextmanager
def nothing_sent() -> Iterator[None]:
    """Raises RuntimeError where an array or a number of the host becomes a tensor."""

    def guarded(function: Any) -> Any:
        def call(values: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(values, np.ndarray | np.generic | list | tuple | bool | int | float):
                raise RuntimeError("copy from the host not permitted when stream is capturing")
            return function(values, *args, **kwargs)

        return call

    with ExitStack() as stack:
        for module in (torch, array_api_compat.torch):
            for name in SENDS:
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, guarded(getattr(module, name))))
        yield


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where captured work runs; the CPU has the stand-in."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return torch.device("cpu" if request.param == "stand-in" else "cuda:0")


@pytest.fixture
def graphs(device: torch.device) -> Any:
    """What captures there."""
    return StandInGraphs() if device.type == "cpu" else CudaGraphs(device)


@pytest.fixture
def stand_in() -> StandInGraphs:
    """The stand-in, whatever there is."""
    return StandInGraphs()
