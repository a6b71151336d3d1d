"""CUDA graphs: work on a device that is captured once and replayed, without Python, on what its tensors then hold."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch


class Replay(NamedTuple):
    """Work that has been captured."""

    run: Callable[[], object]  # does it again, in place
    result: Any  # what it returned: tensors that hold something only once it has run


class Graphs(Protocol):
    """What captures. Work that is captured is not done; what it fetches from a device, or sends there, is an error."""

    def capture(self, work: Callable[[], Any]) -> Replay:
        """Captures what `work` does. Raises RuntimeError where that cannot be."""
        ...

    def stream(self) -> AbstractContextManager[Any]:
        """Where work is captured, and is to be warmed up where it keeps to a stream, as gradients do."""
        ...

    def anew(self) -> None:
        """What has been captured will not be replayed any more; later captures share no memory with it."""
        ...


class CudaGraphs:
    """Graphs of one device that share their memory, and so must be replayed in the order in which they were captured.

    What a graph allocates stays where it is as long as the graph and whoever holds it live; what is let go of between
    two captures is used again by the later ones.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.anew()

    def __reduce__(self) -> tuple[Any, ...]:
        return CudaGraphs, (self.device,)

    def anew(self) -> None:
        """See `Graphs.anew`. A pool cannot be used again once the last of its graphs is gone."""
        with torch.cuda.device(self.device):
            self._pool = torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], Any]) -> Replay:
        """See `Graphs.capture`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            before = torch.cuda.current_stream()
            try:
                # other threads may go on with their own work meanwhile
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    result = work()
            finally:
                torch.cuda.set_stream(before)  # torch stays on the other one where the end of a capture raises
        return Replay(graph.replay, result)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """See `Graphs.stream`. Each of the two streams waits for what the other has been given."""
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)


def graphs_for(device: torch.device | None, capture: bool | Graphs | None) -> Graphs | None:
    """What captures on a device; None: nothing does.

    capture: whether to; None: where it is a CUDA device. Raises ValueError for True elsewhere.
    """
    if not isinstance(capture, bool | None):
        return capture
    on_cuda = device is not None and device.type == "cuda"
    if capture and not on_cuda:
        raise ValueError(f"capture must be False or None without a CUDA device, got True and device={device}")
    return CudaGraphs(device) if device is not None and on_cuda and capture is not False else None


def tell_refusal(what: str, error: RuntimeError) -> str:
    """The reason why something cannot be captured, in a line, of which a RuntimeWarning has told."""
    reason = str(error).partition("\n")[0]
    warnings.warn(f"{what} one kernel at a time, as they could not be captured: {reason}", RuntimeWarning, stacklevel=4)
    return reason
