"""Episodes on a device whose steps are captured once, as CUDA graphs, and replayed for every later batch."""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hedgerl.envs.environment import Environment
from hedgerl.envs.graphs import Graphs, Replay, tell_refusal
from hedgerl.envs.observation import Flat, Prepared
from hedgerl.envs.reward import Judge
from hedgerl.envs.scenario import Contracts, Scenario, no_slopes
from hedgerl.envs.transition import Rollout
from hedgerl.execution.ledger import Ledger

Array = Any
_GROUPS = ("hedges", "liabilities", "kept")
_NO_FACTS = (*_GROUPS, "rates", "past", "slopes", "symbols")  # told by themselves, or of no matter to a step
# of an `Environment`: what a capture depends on, and what a reset makes
_INTERFACE = ("task", "observation", "action", "reward", "moments", "learn", "record")
_OF_A_BATCH = ("_rollout", "_prepared", "_judge", "_convert", "_target", "_n_steps")


class Standing:
    """A scenario on a device, and what is observed of it, in memory of their own that others are copied into.

    What is captured reads memory, not a scenario: so each batch must come to where the first one lay. All that the host
    decides by (times, which contracts are alive, where places roll) is captured with it, and must be the same.
    """

    def __init__(self, scenario: Scenario, prepared: Prepared) -> None:
        self._facts = _facts(scenario)
        self.scenario = _copied(scenario)
        self.prepared = prepared.beside(self.scenario)
        self._filled = list(_tensors(self.scenario))  # what a capture derives from them is not among these

    def takes(self, scenario: Scenario) -> bool:
        """Whether a scenario differs in the numbers of its paths alone."""
        return _facts(scenario) == self._facts

    def fill(self, scenario: Scenario, prepared: Prepared) -> None:
        """Brings in the numbers of a scenario that it takes, and of what is observed of that."""
        for group, name, into in self._filled:
            into.copy_(getattr(_part(scenario, group), name))
        for into, new in zip(self.scenario.rates, scenario.rates, strict=True):
            if isinstance(into, Tensor):
                into.copy_(new)
        self.prepared.fill(prepared)


def _part(scenario: Scenario, group: str) -> Any:
    return getattr(scenario, group) if group else scenario


def _tensors(scenario: Scenario) -> Iterator[tuple[str, str, Tensor]]:
    """Group, name and tensor of all that a scenario has or has derived already."""
    for group in ("", *_GROUPS):
        for name, value in vars(_part(scenario, group)).items():
            if isinstance(value, Tensor):
                yield group, name, value


def _facts(scenario: Scenario) -> list[Any]:
    """Everything that a scenario is but the numbers in its tensors."""

    def fact(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.shape, value.dtype, value.device
        if isinstance(value, np.ndarray):
            return value.shape, value.dtype, value.tobytes()
        return value

    facts: list[Any] = [fact(rate) for rate in scenario.rates]
    for group in ("", *_GROUPS):
        item = _part(scenario, group)
        names = [field.name for field in dataclasses.fields(item) if field.name not in _NO_FACTS]
        facts += [(group, name, fact(getattr(item, name))) for name in names]
    return facts


def _copied(scenario: Scenario) -> Scenario:
    """The scenario with tensors of its own, and all that is known of it already."""
    own = _replaced(scenario)
    own.__dict__["rates"] = tuple(rate.clone() if isinstance(rate, Tensor) else rate for rate in scenario.rates)
    own.__dict__["past"] = None  # features of past prices are among what is observed
    for group in _GROUPS:
        contracts = _replaced(getattr(scenario, group))
        contracts.__dict__["slopes"] = no_slopes
        own.__dict__[group] = contracts
    return own


def _replaced(item: Any) -> Any:
    own: Scenario | Contracts = object.__new__(type(item))
    own.__dict__.update({name: v.clone() if isinstance(v, Tensor) else v for name, v in vars(item).items()})
    return own


class _Batch:
    """The objects of a batch of episodes that go on from step to step, its own scenario with them."""

    def __init__(self, scenario: Scenario, environment: Environment) -> None:
        self.scenario = scenario
        self.rollout: Rollout = object.__new__(Rollout)
        self.ledger: Ledger = object.__new__(Ledger)
        self.judge: Judge = object.__new__(Judge)
        self.place = {name: vars(environment)[name] for name in _OF_A_BATCH}
        self.place |= {"_rollout": self.rollout, "_judge": self.judge}

    def keep(self) -> None:
        """Takes what it holds out of the memory of graphs, which the next batch runs through again."""
        for item in (self.rollout, self.ledger, self.judge):
            vars(item).update({name: _kept(value) for name, value in vars(item).items()})


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list):
        return [_kept(each) for each in value]
    return {key: _kept(each) for key, each in value.items()} if isinstance(value, dict) else value


class _Moment:
    """How the objects of a batch stand after a step."""

    def __init__(self, environment: Environment) -> None:
        rollout = environment.rollout
        self._saved = [_saved(item) for item in (rollout, rollout.ledger, environment.judge, environment._convert)]
        self._convert = environment._convert

    def put(self, batch: _Batch) -> None:
        """Makes them those of a batch."""
        items = (batch.rollout, batch.ledger, batch.judge, self._convert)
        for item, (attributes, inner) in zip(items, self._saved, strict=True):
            own = vars(item)
            own.update(attributes)
            for name, value in inner.items():  # which the last step writes into
                own[name] = copy.copy(value)
        batch.rollout.scenario, batch.rollout.ledger, batch.judge.rollout = batch.scenario, batch.ledger, batch.rollout


def _saved(item: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    inner = {name: copy.copy(value) for name, value in vars(item).items() if isinstance(value, list | dict)}
    return dict(vars(item)), inner


class CapturedEpisodes:
    """Steps an `Environment` on a device as it does itself, but by graphs.

    The first batch is stepped as it is, so that all kernels are loaded. The second is captured, each step when it is
    first taken, and so is its beginning; of later batches these are replayed, and the environment's objects stand after
    each step as they would have. The last step, after which the reward's moments learn on the host, is always taken as
    it is. So is all of a batch that differs from the captured one in more than the numbers of its paths, of one whose
    observation is not flat or that is recorded, and what follows an action of another kind. Where something cannot be
    captured a RuntimeWarning says why, once, and nothing more is tried.

    Observations and rewards are the caller's to keep; what else the environment's objects hold is, until the last step,
    memory of graphs, in which the next batch has other numbers.
    """

    def __init__(self, environment: Environment, graphs: Graphs) -> None:
        self.environment = environment
        self.refused: str | None = None  # why nothing is captured any more
        self._graphs = graphs
        self._start_anew()

    def __getstate__(self) -> dict[str, Any]:
        """A copy captures its own."""
        return {"environment": self.environment, "graphs": self._graphs, "refused": self.refused}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["environment"], state["graphs"])  # type: ignore[misc]
        self.refused = state["refused"]

    def _start_anew(self) -> None:
        self._warm = False  # whether a whole batch has been stepped as it is
        self._interface: tuple[Any, ...] = ()
        self._standing: Standing | None = None
        self._captive: dict[str, Any] = {}  # of the environment, the objects that captured steps have come to
        self._moments: list[tuple[Replay, _Moment]] = []  # after the beginning, and after each step
        self._action: Tensor | None = None
        self._batch: _Batch | None = None  # that is replayed now
        self._graphs.anew()

    @property
    def replaying(self) -> bool:
        """Whether this batch is stepped by graphs."""
        return self._batch is not None

    def reset(self, scenario: Scenario, *, prepared: Prepared, late: bool = True) -> Any:
        """See `Environment.reset`."""
        environment = self.environment
        self._batch = None
        interface = tuple(getattr(environment, name) for name in _INTERFACE)
        if len(interface) != len(self._interface) or any(map(operator.is_not, interface, self._interface)):
            self._start_anew()
            self._interface = interface
        flat = isinstance(environment.observation, Flat) and not environment.record
        wanted = self._warm and late and flat and self.refused is None
        if wanted and (self._standing is None or self._standing.takes(scenario)):
            try:
                return self._begin(scenario, prepared)
            except RuntimeError as error:
                self._refuse(error)
        return environment.reset(scenario, prepared=prepared, late=late)

    def step(self, action: Array) -> tuple[Any, Array, bool]:
        """See `Environment.step`."""
        environment = self.environment
        if self._batch is not None and environment._rollout is not self._batch.rollout:
            self._batch = None  # somebody has reset the environment itself
        if self._batch is not None:
            step = environment.rollout.step
            if step < environment._n_steps - 1 and self._fits(action):
                try:
                    return (*self._take(step, action, self._batch), False)
                except RuntimeError as error:
                    self._refuse(error)
            else:
                self._leave()
        seen, reward, done = environment.step(action)
        self._warm |= done
        return seen, reward, done

    def _begin(self, scenario: Scenario, prepared: Prepared) -> Tensor:
        environment = self.environment
        if self._standing is None:
            self._standing = Standing(scenario, prepared)
        else:
            self._standing.fill(scenario, prepared)
        if not self._moments:
            own = self._standing
            self._capture(lambda: environment.reset(own.scenario, prepared=own.prepared, late=True))
        vars(environment).update(self._captive)
        batch = _Batch(scenario, environment)
        seen: Tensor = self._replay(0, batch)
        self._batch = batch
        return seen

    def _take(self, step: int, action: Tensor, batch: _Batch) -> tuple[Tensor, Tensor]:
        if self._action is None:
            self._action = action.clone()
        else:
            self._action.copy_(action)
        if step + 1 == len(self._moments):
            given = self._action
            vars(self.environment).update(self._captive)
            try:
                self._capture(lambda: self.environment.step(given)[:2])
            finally:
                vars(self.environment).update(batch.place)
        seen, reward = self._replay(step + 1, batch)
        return seen, reward

    def _capture(self, work: Callable[[], Any]) -> None:
        """Where it does not succeed nothing that has been captured is used any more: objects may stand half-way."""
        try:
            with torch.no_grad():
                replay = self._graphs.capture(work)
        except BaseException:
            self._leave()
            self._start_anew()
            raise
        self._captive = {name: vars(self.environment)[name] for name in _OF_A_BATCH}
        self._moments.append((replay, _Moment(self.environment)))

    def _replay(self, number: int, batch: _Batch) -> Any:
        """What it returns, copied: the next batch has other numbers in the same place."""
        replay, moment = self._moments[number]
        replay.run()
        result = replay.result
        copies = result.clone() if isinstance(result, Tensor) else tuple(each.clone() for each in result)
        moment.put(batch)  # last: what fails before it has not been taken
        vars(self.environment).update(batch.place)
        return copies

    def _fits(self, action: Array) -> bool:
        """Whether an action can be copied to where the captured one lay, and would not be changed by that."""
        convert = self.environment._convert
        assert convert is not None
        if not isinstance(action, Tensor) or (action.requires_grad and torch.is_grad_enabled()):
            return False
        if not convert.takes(action) or action.device != self.environment.scenario.spot.device:
            return False
        return self._action is None or action.dtype == self._action.dtype

    def _leave(self) -> None:
        """The rest of the batch is stepped as it is."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.keep()

    def _refuse(self, error: RuntimeError) -> None:
        self._leave()
        self._start_anew()
        self.refused = tell_refusal("steps are taken", error)
