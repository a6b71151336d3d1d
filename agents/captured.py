"""The gradients of an update captured once, as a CUDA graph, and replayed on every later batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from hedgerl.envs.captured import Standing
from hedgerl.envs.graphs import Graphs, Replay, tell_refusal

if TYPE_CHECKING:
    from hedgerl.agents.deep_hedging import Found, Pool


class CapturedGradients:
    """Finds gradients as `find` does: the first time by itself, so that all kernels are loaded, then by a graph.

    A batch that differs from the captured one in more than the numbers of its paths is left to `find`. Where the graph
    cannot be captured, for want of memory, a RuntimeWarning says why, once, and `find` does the rest.
    """

    def __init__(
        self, find: Callable[[Pool, float], Found], parameters: Sequence[nn.Parameter], graphs: Graphs
    ) -> None:
        """find: leaves gradients at the parameters, for a batch and what its objective is divided by."""
        self.refused: str | None = None  # why nothing is captured any more
        self._find = find
        self._parameters = list(parameters)
        self._graphs = graphs
        self._warm = False
        self._money = 0.0
        self._standing: Standing | None = None
        self._replay: Replay | None = None
        self._gradients: list[Any] = []
        self._reader: dict[str, Any] = {}  # how what reads the actions stands after a replay

    @property
    def replaying(self) -> bool:
        """Whether there is a graph."""
        return self._replay is not None

    def forget(self) -> None:
        """Lets go of the graph and its memory; the next batch is captured anew."""
        self._standing = self._replay = None
        self._gradients, self._reader = [], {}

    def __call__(self, batch: Pool, money: float) -> Found:
        """What was found, until the next call."""
        if self.refused is not None:
            return self._find(batch, money)
        if not self._warm:
            self._warm = True
            with self._graphs.stream():
                return self._find(batch, money)
        if money != self._money:
            self.forget()
        if self._standing is not None and not self._standing.takes(batch.scenario):
            return self._find(batch, money)
        try:
            return self._replayed(batch, money)
        except RuntimeError as error:
            self.forget()
            self.refused = tell_refusal("updates are made", error)
            return self._find(batch, money)

    def _replayed(self, batch: Pool, money: float) -> Found:
        if self._standing is None:
            self._standing, self._money = Standing(batch.scenario, batch.prepared), money
        else:
            self._standing.fill(batch.scenario, batch.prepared)
        if self._replay is None:
            own = type(batch)(self._standing.scenario, self._standing.prepared)
            self._replay = self._graphs.capture(lambda: self._find(own, money))
            self._gradients = [parameter.grad for parameter in self._parameters]
            self._reader = dict(vars(self._replay.result.checked))
        self._replay.run()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        found: Found = self._replay.result
        vars(found.checked).update(self._reader)
        return found
