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
    """Finds gradients as `find` does: the first time by that itself, so that all kernels are loaded, then by a graph.

    A batch that differs from the captured one in more than the numbers of its paths is left to `find`. Where the graph
    cannot be captured, for want of memory, a RuntimeWarning says why, once, and `find` does the rest. Nor can it where
    somebody still holds numbers with gradients to the parameters, as of `DeepHedging.pnl`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], graphs: Graphs) -> None:
        self.refused: str | None = None  # why nothing is captured any more
        self._parameters = list(parameters)
        self._graphs = graphs
        self._warm = False
        self._gradients: list[Any] = []
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        """A copy captures its own."""
        return {"parameters": self._parameters, "graphs": self._graphs, "refused": self.refused}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["parameters"], state["graphs"])  # type: ignore[misc]
        self.refused = state["refused"]

    @property
    def replaying(self) -> bool:
        """Whether there is a graph."""
        return self._replay is not None

    def forget(self) -> None:
        """Lets go of the graph and its memory, gradients included; the next batch is captured anew."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=False):  # there may be none
            if parameter.grad is gradient:
                parameter.grad = None
        self._money = 0.0
        self._standing: Standing | None = None
        self._replay: Replay | None = None
        self._gradients = []
        self._reader: dict[str, Any] = {}  # how what reads the actions stands after a replay
        self._graphs.anew()

    def __call__(self, find: Callable[[Pool, float], Found], batch: Pool, money: float) -> Found:
        """What `find`, which leaves gradients at the parameters, would find; it holds until the next call.

        money: what the batch's objective is divided by.
        """
        if self.refused is not None:
            return find(batch, money)
        if not self._warm:
            self._warm = True
            with self._graphs.stream():
                return find(batch, money)
        if money != self._money and self._replay is not None:
            self.forget()
        if self._replay is None:
            try:
                self._capture(find, batch, money)
            except RuntimeError as error:
                self.refused = tell_refusal("updates are made", error)
            if self._replay is None:  # not within the handler, whose traceback holds on to the memory of the capture
                return find(batch, money)
        else:
            assert self._standing is not None
            if not self._standing.takes(batch.scenario):
                return find(batch, money)
            self._standing.fill(batch.scenario, batch.prepared)
        return self._replayed()

    def _capture(self, find: Callable[[Pool, float], Found], batch: Pool, money: float) -> None:
        """Leaves nothing behind where it does not succeed."""
        try:
            standing = Standing(batch.scenario, batch.prepared)
            own = type(batch)(standing.scenario, standing.prepared)
            replay = self._graphs.capture(lambda: find(own, money))
        except BaseException:
            self.forget()
            raise
        self._standing, self._money, self._replay = standing, money, replay
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._reader = dict(vars(replay.result.checked))

    def _replayed(self) -> Found:
        assert self._replay is not None
        self._replay.run()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        found: Found = self._replay.result
        vars(found.checked).update(self._reader)
        return found
