"""A saved policy at work: loaded by name or path, acting in an environment or on a desk's numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch

import hedgerl.model_files
from hedgerl.agents import registry
from hedgerl.agents.bundle import Card, Interface, read_bundle, save_bundle
from hedgerl.agents.desk import View, view
from hedgerl.agents.networks import PolicyModule
from hedgerl.agents.stepping import answered, begun, observations
from hedgerl.envs.task import Task
from hedgerl.envs.transition import Rollout
from hedgerl.pricing._checks import non_negative, whole_number
from hedgerl.sim import BlackScholes

State = tuple[np.ndarray, ...]
Source = Literal["policy", "fallback"]

_SLACK, _LEAST_SLACK = 0.1, 0.05  # of the width of the range seen in training; in units of the feature
_MOST_HELD = 3.0  # of an action in holdings, in sizes of the task


@dataclass(frozen=True)
class Recommendation:
    """What to trade now. Positive is buy; shares of the underlying, contracts of options by name.

    `source` is "fallback" where the trade is the delta hedge's because the policy cannot be relied on, and `reason`
    says why. `state` goes into the next call.
    """

    shares: float
    contracts: dict[str, float]
    target_shares: float  # after the trade; of an overlay, the shares that are protected
    target_contracts: dict[str, float]
    delta_shares: float  # the delta hedge's trade
    delta_contracts: dict[str, float]
    net_delta: float  # of liabilities and holdings after the trade, in shares
    net_delta_before: float
    cost: float  # of the trade, currency
    delta_cost: float  # of the delta hedge's
    source: Source
    reason: str
    observation: dict[str, float] = field(repr=False)  # what the policy saw
    state: State = field(repr=False)


class Agent:
    """A policy and its card: `predict` as stable-baselines3, `hedge` for a desk.

    >>> from hedgerl.agents.networks import FeedForwardActor
    >>> from hedgerl.envs import ShortOption
    >>> from hedgerl.sim import BlackScholes
    >>> task = ShortOption(market=BlackScholes(volatility=0.2))
    >>> agent = Agent(FeedForwardActor(observation_size=11, action_size=1), {"task": task})
    >>> action, state = agent.predict(np.zeros(11))
    >>> action.shape
    (1,)
    """

    def __init__(self, module: PolicyModule, card: Card | Mapping[str, Any]) -> None:
        self.module = module.eval()
        self.card = Card.of(card, module)
        self._size = len(self.card.observation.columns(self.card.task))
        self._discrete = self.card.action.kind == "discrete"

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> Self:
        """The policy of a name that ships with the package (`hedgerl.model_files.names()`), in a folder, or in MLflow.

        A text without a separator is a name where one is shipped under it, else a folder; models:/NAME@ALIAS and
        models:/NAME/VERSION are of MLflow's registry, see `hedgerl.agents.registry`. Nothing in a bundle is run.
        Raises ValueError for a name that is none, with the nearest that is, for a folder that is not a whole and
        fitting bundle, and for what the registry does not have; FileNotFoundError for a path where there is nothing.
        """
        if not isinstance(name_or_path, str | os.PathLike):
            raise ValueError(f"name_or_path must be a name or a path, got {name_or_path!r:.80}")
        text = os.fspath(name_or_path)
        if not text or "\0" in text:
            raise ValueError(f"name_or_path must be a name or a path, got {text!r:.80}")
        if registry.is_registered(text):
            with registry.bundle(text) as folder:
                return cls(*read_bundle(folder))
        path = Path(text)
        if isinstance(name_or_path, str) and path.name == text and text not in (".", ".."):
            if text in hedgerl.model_files.names() or not path.exists():
                path = hedgerl.model_files.path(text)
        return cls(*read_bundle(path))

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the policy as a bundle, see `save_bundle`."""
        return save_bundle(folder, self.module, self.card)

    @property
    def interface(self) -> Interface:
        """What it is shown and how its answers are read, for `hedgerl.evaluate` and the environments."""
        return self.card.interface

    @property
    def task(self) -> Task:
        """What it was trained on."""
        return self.card.task

    def initial_state(self, n: int) -> State:
        """The state of n paths at the start of an episode; () for a policy without memory."""
        return tuple(value.numpy(force=True) for value in self.module.initial_state(n))

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, State]:
        """The action for one observation (d,) or a batch (n, d), and the state to hand back with the next.

        state: a tuple of arrays (n, ..), also for one observation (n = 1); None: the start of an episode.
        episode_start: (n,) or one flag; where True the state begins anew. The policy has no noise: `deterministic`
        changes nothing.

        Raises ValueError for an observation or a state of another shape, for NaN or infinity in either direction.
        """
        batch, single = observations(observation, self._size)
        return answered(*self._act(batch, state, episode_start), single, self._discrete)

    def _act(self, batch: np.ndarray, state: Any, episode_start: Any) -> tuple[np.ndarray, State]:
        """The network's own answer, unchecked."""
        before = begun(state, episode_start, batch.shape[0], self.initial_state)
        with torch.inference_mode():
            action, *after = self.module(torch.from_numpy(batch), *map(torch.from_numpy, before))
        return action.numpy(), tuple(value.numpy() for value in after)

    def hedge(
        self,
        market_state: Mapping[str, Any],
        positions: Mapping[str, Any],
        state: Any = None,
        *,
        round_shares: float = 1.0,
        round_contracts: float = 1.0,
    ) -> Recommendation:
        """What to trade now, with the delta hedge's trade beside it.

        The policy sees what it saw in training, computed by the same code, at its task's size: a book of 500 shares'
        worth is hedged as one of 1 is, times 500. Options are marked by Black-Scholes at the implied volatility given,
        with the Greeks that the market of training has there where the card knows them (`Card.marks`). A policy with
        memory must be called at every step with the `state` of the call before; None begins an episode.

        market_state, a mapping of
            spot        of the underlying, currency a share
            volatility  of the spot now (realised, short-term), per square root of a year
            strike, years_left, is_call, and implied_volatility or option_price (per share)
                        of the option; is_call is the task's own where left out. Where a task has several options, under
                        options: {name: {these}}
            delta, gamma, vega, theta
                        of a share of it, where a desk has better ones
            rate, dividend
                        per year, continuously compounded; 0 where left out
            time_left   years to the end of the hedge; left out for a short option: until it expires
            previous_spot, pnl, initial_spot
                        a step ago; gained since the start, in currency; at the start. Needed after the first step by
                        policies that see them (the initial_spot of a short option follows from its strike)
            closes, opens, highs, lows
                        of the last trading days, oldest first, the last close now, for policies that see estimates of
                        past prices (`hedgerl.envs.features`)
            cost        half-spread of a share of the underlying, currency; left out: the task's costs
        positions, a mapping of
            shares      held of the underlying; of an overlay, those that are protected
            contracts   of 100 shares: of a short option the option itself, negative as sold, and of other options those
                        held. A number where the task has one option, else {name: number}, "short option" the one sold
            book        of an OptionBook: [{contracts, strike, years_left, ..}], what is owed, negative where sold
        round_shares, round_contracts : trades are multiples of these; 0: not rounded.

        It falls back to the delta hedge, and says so,
        - where the policy's output is not finite, or out of its range: the space of its action; for holdings, and for
          what its trades lead to, 3 times the size or the limit of the task;
        - where the book is of another kind: a put for a call, an option held, more time left than in training;
        - where a feature cannot be told, is at its clip of 10, or off the range seen in training (`Card.observed`) by
          more than a tenth of that range, at least 0.05.

        Raises ValueError naming a field that is missing, not known or not possible.
        """
        lots = non_negative("round_shares", round_shares), non_negative("round_contracts", round_contracts)
        columns = self.card.observation.columns(self.task)
        seen = view(self.task, market_state, positions, frozenset(name for name, _ in columns), self.card.marks)
        shown = seen.observation(self.card.observation)
        reasons = [*seen.reasons, *self._strange(shown, seen.unknown)]
        delta_target = seen.delta_target()
        target = delta_target
        after: State = () if state is None else tuple(state)
        if not reasons:
            raw, after = self._act(*observations(shown, self._size)[:1], state, None)
            reasons = self._impossible(raw, seen)
            if not reasons:
                action = answered(raw, after, False, self._discrete)[0]
                convert = self.card.action.bind(seen.rollout.scenario, seen.task)
                target = seen.rollout.feasible(convert(action, seen.rollout))
            else:
                after = () if state is None else tuple(state)
        source: Source = "fallback" if reasons else "policy"
        if not reasons:
            flat = self.card.marks is None and not isinstance(self.task.market, BlackScholes)
            reasons = ["the policy's own" + (", shown Greeks by Black-Scholes" if flat else "")]
        return _recommendation(seen, target, delta_target, lots, source, reasons, after, columns, shown)

    def _strange(self, shown: np.ndarray, unknown: frozenset[str]) -> list[str]:
        """Which features are off what the policy knows, but for those that are known to be missing."""
        values = shown[0].astype(np.float64)
        space: Any = self.card.observation.space(self.task)
        columns = self.card.observation.columns(self.task)
        labels = [f"{name}[{place}]" if place else name for name, place in columns]
        if not np.isfinite(values).all():
            bad = [i for i in np.flatnonzero(~np.isfinite(values)) if columns[i][0] not in unknown]
            return [f"{labels[i]} is not finite" for i in bad]
        clipped = (space.high > 1.0) & (abs(values) >= space.high - 1e-6)
        reasons = [f"{labels[i]} is at its clip of {values[i]:g}" for i in np.flatnonzero(clipped)]
        if self.card.observed is not None:
            low, high = (np.array(end) for end in self.card.observed)
            slack = np.maximum(_SLACK * (high - low), _LEAST_SLACK)
            for i in np.flatnonzero(((values < low - slack) | (values > high + slack)) & ~clipped):
                reasons.append(f"{labels[i]} = {values[i]:.4g} is off what training saw, {low[i]:.4g} to {high[i]:.4g}")
        return reasons

    def _impossible(self, raw: np.ndarray, seen: View) -> list[str]:
        if not np.isfinite(raw).all():
            return ["the policy's output is not finite"]
        if self._discrete:
            return []
        space: Any = self.card.action.space(self.task)
        low, high = space.low, space.high
        if self.card.action.kind in ("holdings", "trade"):  # a trade beyond the limit is a wish that the limit cuts
            of = seen.rollout
            limit = self.task.execution.limits.holding
            most = np.maximum(_MOST_HELD * self.task.size, 0.0 if limit is None else limit * of.scenario.multiplier)
            low, high = -most, most
            if self.card.action.kind == "trade":
                raw = of.holdings + raw * self.card.action._scale(of.scenario, self.task)
        if ((raw < low - 1e-6) | (raw > high + 1e-6)).any():
            return [f"the policy asks for {raw[0].tolist()}, out of its range of {low.tolist()} to {high.tolist()}"]
        return []

    def observed(self, n_paths: int = 1024, seed: int | None = 0) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The least and the largest value (d,) of each feature while it hedges its task, for `Card.observed`."""
        task = self.task
        scenario = task.scenario(whole_number("n_paths", n_paths), seed)
        prepared = self.card.observation.prepare(scenario, task)
        convert = self.card.action.bind(scenario, task)
        rollout, state = Rollout(scenario, task.execution), None
        low, high = np.full(self._size, np.inf), np.full(self._size, -np.inf)
        while not rollout.done:
            shown: Any = prepared.at(rollout)
            action, state = self.predict(shown, state)
            low, high = np.minimum(low, shown.min(axis=0)), np.maximum(high, shown.max(axis=0))
            rollout.act(convert(action, rollout))
        return tuple(low.tolist()), tuple(high.tolist())

    def with_card(self, **changes: Any) -> Agent:
        """The same policy with some of its card's fields changed."""
        return Agent(self.module, replace(self.card, **changes))

    def to_onnx(self, path: str | os.PathLike[str]) -> Path:
        """Writes the policy as an ONNX graph, see `hedgerl.agents.onnx_export`."""
        from hedgerl.agents.onnx_export import to_onnx

        return to_onnx(self.module, self.card, path)

    def to_sb3_zip(self, path: str | os.PathLike[str]) -> Path:
        """Writes the policy as a model of stable-baselines3 or sb3-contrib, see `hedgerl.agents.sb3_export`."""
        from hedgerl.agents.sb3_export import to_sb3_zip

        return to_sb3_zip(self.module, self.card, path)

    def __repr__(self) -> str:
        label = self.card.name or "unnamed"
        return f"Agent({label!r}, {self.module.kind} of {self.task.name})"


def load_bundle(folder: str | os.PathLike[str]) -> Agent:
    """The agent of a bundle in a folder. Raises as `Agent.load`."""
    return Agent(*read_bundle(folder))


def _recommendation(
    seen: View,
    target: np.ndarray,
    delta_target: np.ndarray,
    lots: tuple[float, float],
    source: Source,
    reasons: list[str],
    state: State,
    columns: list[tuple[str, int]],
    shown: np.ndarray,
) -> Recommendation:
    """In the desk's units, rounded."""
    rollout, task = seen.rollout, seen.task
    of, step, names = rollout.scenario, rollout.step, task.instruments
    multiplier = of.multiplier
    lot = np.where(of.is_option > 0, lots[1], lots[0])
    held = rollout.holdings[0] / seen.scale / multiplier

    def trade(wanted: np.ndarray) -> np.ndarray:
        exact: np.ndarray = wanted[0] / seen.scale / multiplier - held
        return np.where(lot > 0, np.round(exact / np.where(lot > 0, lot, 1.0)) * lot, exact) + 0.0

    own, by_delta = trade(target), trade(delta_target)
    after = held + own

    def options(values: np.ndarray) -> dict[str, float]:
        return {name: float(value) for name, value in zip(names, values, strict=True) if name != "underlying"}

    def shares(values: np.ndarray) -> float:
        return float(values[0]) if of.trades_underlying else 0.0

    def net(contracts: np.ndarray) -> float:
        return float(of.liability_delta[step, 0] / seen.scale + (contracts * multiplier * of.delta[step, 0]).sum())

    return Recommendation(
        shares=shares(own),
        contracts=options(own),
        target_shares=shares(after) if of.trades_underlying else float(of.shares / seen.scale),
        target_contracts=options(after),
        delta_shares=shares(by_delta),
        delta_contracts=options(by_delta),
        net_delta=net(after),
        net_delta_before=net(held),
        cost=seen.cost(own * multiplier),
        delta_cost=seen.cost(by_delta * multiplier),
        source=source,
        reason="; ".join(reasons),
        observation={
            f"{name}[{place}]" if place else name: float(value)
            for (name, place), value in zip(columns, shown[0], strict=True)
        },
        state=state,
    )
