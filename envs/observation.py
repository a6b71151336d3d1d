"""What is seen: flat features for networks, and named raw arrays for whoever reckons with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from gymnasium import spaces

from hedgerl.envs.features import ESTIMATES, VOLATILITY, Estimate
from hedgerl.envs.scenario import Contracts, Scenario
from hedgerl.envs.task import OptionBook, ShortOption, Task
from hedgerl.envs.transition import Rollout
from hedgerl.execution.costs import clip, linear_cost, total
from hedgerl.pricing._checks import nearest

Array = Any

BOUND = 10.0  # features are clipped to it


class Prepared:
    """What can be observed along a scenario; `at` adds what the hedgers hold."""

    def at(self, rollout: Rollout) -> Any:
        """The observation at the rollout's step."""
        raise NotImplementedError

    def part(self, first: int, stop: int) -> Prepared:
        """The same for the paths from `first` up to `stop`."""
        raise NotImplementedError

    def beside(self, scenario: Scenario) -> Prepared:
        """The same in memory of its own, of a scenario of the same numbers."""
        raise NotImplementedError

    def fill(self, other: Prepared) -> None:
        """Takes over the numbers of another one, in place; what was derived from the scenario must follow that."""
        raise NotImplementedError


def observed_as(observation: Flat | Raw | tuple[str, ...] | str | None, task: Task) -> Flat | Raw:
    """The observation that is meant: names of features, or None for the task's own."""
    if observation is None:
        return Flat(default_features(task))
    if isinstance(observation, Flat | Raw):
        return observation
    names = (observation,) if isinstance(observation, str) else tuple(observation)
    if names[:1] == ("raw",):
        return Raw(names[1:] or tuple(RAW))
    return Flat(names)


def _known(names: Sequence[str], table: dict[str, Any], what: str) -> None:
    if not names:
        raise ValueError(f"observation must name at least one {what}, got {names!r}")
    for name in names:
        if name not in table:
            raise ValueError(
                f"observation must name known {what}s, got {name!r}; the nearest is {nearest(name, table)!r}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"observation must name each {what} once, got {tuple(names)}")


# ---- raw arrays ----


@dataclass(frozen=True)
class RawFeature:
    """A named array. Exactly one of `along` and `now` gives it."""

    per: str  # "path": (n,), "instrument": (n, k), "liability": (n, c)
    unit: str
    along: Callable[[Scenario], Array] | None = None  # (n_steps + 1, n, ..), whatever is held
    now: Callable[[Rollout], Array] | None = None  # (n, ..)


def _column(of: Scenario, values: np.ndarray) -> Array:
    """Numbers by step (n_steps + 1,) for all paths, (n_steps + 1, n)."""
    return of._array(values)[:, None] + 0.0 * of.spot


def _by_contract(of: Scenario, which: Contracts, values: np.ndarray) -> Array:
    """Numbers by step and contract (n_steps + 1, c) or (c,) for all paths, (n_steps + 1, n, c)."""
    by_step = np.broadcast_to(values, which.alive.shape) * which.alive
    return of._array(by_step)[:, None, :] + 0.0 * which.price


def _rate(of: Scenario) -> Array:
    xp = array_namespace(of.spot)
    rows = [rate + 0.0 * of.spot[0] for rate in (*of.rates, of.rates[-1])]
    return xp.stack(rows)


def _minimum_variance(of: Scenario, which: Contracts) -> Array:
    from hedgerl.envs.minimum_variance import minimum_variance_delta

    return minimum_variance_delta(of, which)


def _owed(of: Scenario, per_share: Array) -> Array:
    """The liabilities' sum of something per share, shares of the underlying counted as such."""
    return array_namespace(of.spot).sum(of.position * per_share, axis=-1) + of.shares


def _kept(per_share: Callable[[Scenario], Array]) -> Callable[[Rollout], Array]:
    """What the contracts that were kept when their place rolled add to a Greek of the book, from that of each share."""

    def now(of: Rollout) -> Array:
        kept = of.kept_sum(per_share)
        return 0.0 * of.wealth if kept is None else kept

    return now


def _cost_per_share(of: Rollout) -> Array:
    return linear_cost(of.execution.costs, of.quotes(of.step))


RAW: dict[str, RawFeature] = {
    "step": RawFeature("path", "steps", lambda s: _column(s, np.arange(s.n_steps + 1.0))),
    "time_left": RawFeature("path", "years to the end of the episode", lambda s: _column(s, s.times[-1] - s.times)),
    "step_years": RawFeature(
        "path", "years from this step to the next; 0 at the end", lambda s: _column(s, np.append(np.diff(s.times), 0.0))
    ),
    "spot": RawFeature("path", "currency a share", lambda s: s.spot),
    "volatility": RawFeature("path", "of the spot now, per square root of a year", lambda s: s.volatility),
    "rate": RawFeature("path", "per year, continuously compounded", _rate),
    "dividend": RawFeature("path", "yield per year", lambda s: s.dividend + 0.0 * s.spot),
    "cash": RawFeature("path", "currency", now=lambda r: r.ledger.cash),
    "wealth": RawFeature("path", "currency: cash and all positions at mid", now=lambda r: r.wealth),
    "liability_value": RawFeature("path", "currency", lambda s: s.liability_value),
    "liability_delta": RawFeature("path", "shares", lambda s: s.liability_delta),
    "liability_gamma": RawFeature("path", "shares per currency", lambda s: s.liability_gamma),
    "liability_vega": RawFeature("path", "currency per 1.00 of volatility", lambda s: s.liability_vega),
    "liability_theta": RawFeature("path", "currency per year", lambda s: s.liability_theta),
    "liability_bs_delta": RawFeature(
        "path",
        "shares: Black-Scholes at implied volatility",
        lambda s: _owed(s, s.black_scholes(s.liabilities, s.liability_volatility, "delta")),
    ),
    "liability_minimum_variance_delta": RawFeature(
        "path", "shares: of minimum variance", lambda s: _owed(s, _minimum_variance(s, s.liabilities))
    ),
    "liability_position": RawFeature("liability", "shares; 0 where there is none", lambda s: s.position),
    "liability_strike": RawFeature("liability", "currency a share", lambda s: s.liabilities.strike),
    "liability_years_left": RawFeature(
        "liability", "years", lambda s: _by_contract(s, s.liabilities, s.liabilities.years_left)
    ),
    "liability_is_call": RawFeature(
        "liability", "1 or 0", lambda s: _by_contract(s, s.liabilities, s.liabilities.is_call)
    ),
    "liability_volatility": RawFeature(
        "liability", "implied, per square root of a year", lambda s: s.liability_volatility
    ),
    "hedge_mid": RawFeature("instrument", "currency a share", lambda s: s.mid),
    "hedge_delta": RawFeature("instrument", "per share", lambda s: s.delta),
    "hedge_gamma": RawFeature("instrument", "per share and currency", lambda s: s.gamma),
    "hedge_vega": RawFeature("instrument", "currency a share per 1.00 of volatility", lambda s: s.vega),
    "hedge_bs_delta": RawFeature(
        "instrument",
        "per share: Black-Scholes at implied volatility",
        lambda s: s._with_underlying(1.0 + 0.0 * s.spot, s.black_scholes(s.hedges, s.hedge_volatility, "delta")),
    ),
    "hedge_minimum_variance_delta": RawFeature(
        "instrument",
        "per share: of minimum variance",
        lambda s: s._with_underlying(1.0 + 0.0 * s.spot, _minimum_variance(s, s.hedges)),
    ),
    "hedge_alive": RawFeature(
        "instrument", "1 where it can be traded", lambda s: s._array(s.alive)[:, None, :] + 0.0 * s.mid
    ),
    "hedge_strike": RawFeature(
        "instrument",
        "currency a share; 0 for the underlying",
        lambda s: s._with_underlying(0.0 * s.spot, s.hedges.strike),
    ),
    "hedge_years_left": RawFeature(
        "instrument",
        "years; 0 for the underlying",
        lambda s: s._with_underlying(0.0 * s.spot, _by_contract(s, s.hedges, s.hedges.years_left)),
    ),
    "hedge_volatility": RawFeature(
        "instrument",
        "implied, per square root of a year; 0 for the underlying",
        lambda s: s._with_underlying(0.0 * s.spot, s.hedge_volatility),
    ),
    "kept_delta": RawFeature(
        "path", "shares: of hedge options kept when their place rolled", now=_kept(lambda s: s.kept.delta)
    ),
    "kept_gamma": RawFeature("path", "shares per currency: of the same", now=_kept(lambda s: s.kept.gamma)),
    "kept_vega": RawFeature("path", "currency per 1.00 of volatility: of the same", now=_kept(lambda s: s.kept.vega)),
    "kept_bs_delta": RawFeature(
        "path", "shares: Black-Scholes at implied volatility, of the same", now=_kept(lambda s: s.kept_bs_delta)
    ),
    "kept_bs_vega": RawFeature(
        "path", "currency per 1.00 of implied volatility: of the same", now=_kept(lambda s: s.kept_bs_vega)
    ),
    "kept_minimum_variance_delta": RawFeature(
        "path", "shares: of minimum variance, of the same", now=_kept(lambda s: s.kept_minimum_variance_delta)
    ),
    "holdings": RawFeature("instrument", "shares, before the trade", now=lambda r: r.holdings),
    "cost_per_share": RawFeature("instrument", "currency, one-way, of the linear costs", now=_cost_per_share),
}


@dataclass(frozen=True)
class Raw:
    """Named float64 arrays as they stand at a step before its trade, with unit and without scaling.

    Their names and units are in `RAW`. Greeks hold the state of the variance fixed, as the marks do, unless the name
    says "bs" or "minimum_variance". Instruments come in the order of `Task.instruments`.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        _known(self.names, RAW, "raw array")

    def space(self, task: Task) -> spaces.Space[Any]:
        """The space of one environment's observations."""
        sizes = {"path": (), "instrument": (len(task.instruments),), "liability": (n_liabilities(task),)}
        return spaces.Dict({name: spaces.Box(-np.inf, np.inf, sizes[RAW[name].per], np.float64) for name in self.names})

    def prepare(self, scenario: Scenario, task: Task) -> Prepared:
        """See `Environment.prepare`."""
        return _PreparedRaw(
            self.names, {name: along(scenario) for name in self.names if (along := RAW[name].along) is not None}
        )


class _PreparedRaw(Prepared):
    def __init__(self, names: tuple[str, ...], arrays: dict[str, Array]) -> None:
        self.names = names
        self.arrays = arrays

    def at(self, rollout: Rollout) -> dict[str, Array]:
        step, seen = rollout.step, {}
        for name in self.names:
            now = RAW[name].now
            seen[name] = self.arrays[name][step] if now is None else now(rollout)
        return seen

    def part(self, first: int, stop: int) -> Prepared:
        return _PreparedRaw(self.names, {name: array[:, first:stop] for name, array in self.arrays.items()})


def n_liabilities(task: Task) -> int:
    """How many columns of liabilities a task's scenarios have."""
    if isinstance(task, OptionBook):
        return len(task.portfolio) + (task.n_steps if task.arrivals else 0)
    return int(isinstance(task, ShortOption))


# ---- flat features ----


@dataclass(frozen=True)
class Feature:
    """A feature of order one. Exactly one of `along` and `now` gives it."""

    per: str  # "path": one number, "option": one for each option that can be traded, "instrument": one for each
    formula: str
    low: float = -BOUND
    high: float = BOUND
    along: Callable[[Scenario, Task], Array] | None = None  # (n_steps + 1, n) or (n_steps + 1, n, m)
    now: Callable[[Scenario, Task], Callable[[Rollout], Array]] | None = None  # of a scenario: (n,) or (n, m)


def _root_step(of: Scenario) -> float:
    return float((of.times[-1] / of.n_steps) ** 0.5)


def _root_left(of: Scenario, which: Contracts) -> Array:
    """Root of the years left, at least a step's, (n_steps + 1, 1, c)."""
    return of._array(np.sqrt(np.maximum(which.years_left, of.times[-1] / of.n_steps)))[:, None, :]


def _log_volatility(volatility: Array) -> Array:
    """Of contracts; a place that is empty has none."""
    return array_namespace(volatility).log(clip(volatility, 1e-8, 1e8) / VOLATILITY)


def _moneyness(of: Scenario, which: Contracts) -> Array:
    xp = array_namespace(of.spot)
    alive = which.strike > 0
    ratio = of.spot[:, :, None] / xp.where(alive, which.strike, of.spot[:, :, None])
    return xp.log(ratio) / (VOLATILITY * _root_left(of, which))


def _step_return(of: Scenario, task: Task) -> Array:
    xp = array_namespace(of.spot)
    moved = xp.log(of.spot[1:] / of.spot[:-1]) / (VOLATILITY * _root_step(of))
    return xp.concat([xp.zeros_like(of.spot[:1]), moved], axis=0)


def _first(of: Scenario, values: Callable[[], Array]) -> Array:
    """What the first liability shows; 0 where a task has none."""
    return values()[:, :, 0] if of.liabilities.listings else 0.0 * of.spot


def _reach(of: Scenario) -> Array:
    """What a share's price moves by in an episode at `VOLATILITY`, (n_steps + 1, n)."""
    return of.spot * (VOLATILITY * float(of.times[-1]) ** 0.5)


def curvature(of: Scenario) -> Array:
    """dS^2 of a step at `VOLATILITY`: gamma times it is of the order of the change of a P&L, over S."""
    return of.spot * (VOLATILITY * _root_step(of))


def _roll_left(of: Scenario) -> np.ndarray:
    """Share of its time from listing to expiry that the hedge option next to expire has left, (n_steps + 1,)."""
    tenor = np.array([listing.tenor for listing in of.hedges.listings])
    left = np.where(of.hedges.alive, of.hedges.years_left / tenor, 1.0)
    nothing = ~of.hedges.alive.any(axis=1)
    return np.where(nothing, 0.0, np.clip(left.min(axis=1, initial=1.0), 0.0, 1.0))


def _net(name: str, scale: Callable[[Scenario], Array]) -> Callable[[Scenario, Task], Callable[[Rollout], Array]]:
    """The sum of a Greek over liabilities and holdings, times a scale, over the task's size."""

    def bind(of: Scenario, task: Task) -> Callable[[Rollout], Array]:
        factor = scale(of) / task.size
        owed, each = getattr(of, f"liability_{name}") * factor, getattr(of, name) * factor[:, :, None]

        def now(rollout: Rollout) -> Array:
            step = rollout.step
            value = owed[step] + total(rollout.holdings * each[step])
            kept = rollout.kept_greek(name)
            return value if kept is None else value + kept * factor[step]

        return now

    return bind


def _holdings(of: Scenario, task: Task) -> Callable[[Rollout], Array]:
    per_size = 1.0 / task.size
    return lambda rollout: rollout.holdings * per_size


def _wealth_gained(of: Scenario, task: Task) -> Callable[[Rollout], Array]:
    start = of.shares * of.spot[0] + task.execution.initial_cash
    factor = 1.0 / (task.size * _reach(of)[0])
    return lambda rollout: (rollout.wealth - start) * factor


def _cost_of(of: Scenario, task: Task) -> Callable[[Rollout], Array]:
    factor = 1e3 / of.spot
    return lambda rollout: _cost_per_share(rollout) * factor[rollout.step][:, None]


FEATURES: dict[str, Feature] = {
    "time_left": Feature("path", "(T - t) / T", 0.0, 1.0, lambda s, task: _column(s, 1.0 - s.times / s.times[-1])),
    "roll_time_left": Feature(
        "path",
        "years left of the hedge option next to expire / its tenor",
        0.0,
        1.0,
        lambda s, task: _column(s, _roll_left(s)),
    ),
    "spot_return": Feature(
        "path",
        "log(S_t / S_0) / (0.2 sqrt(T))",
        along=lambda s, task: (
            array_namespace(s.spot).log(s.spot / s.spot[:1]) / (VOLATILITY * float(s.times[-1]) ** 0.5)
        ),
    ),
    "step_return": Feature("path", "log(S_t / S_(t-1)) / (0.2 sqrt(dt)); 0 at the start", along=_step_return),
    "volatility": Feature(
        "path",
        "log(sigma_t / 0.2), sigma of the spot now",
        along=lambda s, task: array_namespace(s.spot).log(
            array_namespace(s.spot).clip(s.volatility, 1e-4, None) / VOLATILITY
        ),
    ),
    "liability_moneyness": Feature(
        "path",
        "log(S / K) / (0.2 sqrt(tau)) of the first liability, tau at least dt",
        along=lambda s, task: _first(s, lambda: _moneyness(s, s.liabilities)),
    ),
    "liability_volatility": Feature(
        "path",
        "log(implied volatility / 0.2) of the first liability",
        along=lambda s, task: _first(s, lambda: array_namespace(s.spot).log(s.liability_volatility / VOLATILITY)),
    ),
    "liability_value": Feature(
        "path",
        "(value of options owed) / (size S 0.2 sqrt(T))",
        along=lambda s, task: (s.liability_value - s.shares * s.spot) / (task.size * _reach(s)),
    ),
    "liability_delta": Feature(
        "path", "delta of all liabilities / size", along=lambda s, task: s.liability_delta / task.size
    ),
    "liability_gamma": Feature(
        "path",
        "gamma S 0.2 sqrt(dt) / size: change of delta in a usual step",
        along=lambda s, task: s.liability_gamma * curvature(s) / task.size,
    ),
    "liability_vega": Feature(
        "path",
        "vega / (size S sqrt(T))",
        along=lambda s, task: s.liability_vega / (task.size * s.spot * float(s.times[-1]) ** 0.5),
    ),
    "liability_theta": Feature(
        "path",
        "theta T / (size S 0.2 sqrt(T))",
        along=lambda s, task: s.liability_theta * float(s.times[-1]) / (task.size * _reach(s)),
    ),
    "hedge_moneyness": Feature(
        "option", "log(S / K) / (0.2 sqrt(tau)), tau at least dt", along=lambda s, task: _moneyness(s, s.hedges)
    ),
    "hedge_volatility": Feature(
        "option",
        "log(implied volatility / 0.2)",
        along=lambda s, task: _log_volatility(s.hedge_volatility),
    ),
    "hedge_time_left": Feature(
        "option",
        "years left / tenor",
        0.0,
        1.0,
        lambda s, task: _by_contract(
            s, s.hedges, s.hedges.years_left / np.array([listing.tenor for listing in s.hedges.listings])
        ),
    ),
    "hedge_price": Feature(
        "option", "mid / (S 0.2 sqrt(T))", along=lambda s, task: s.hedges.price / _reach(s)[:, :, None]
    ),
    "hedge_delta": Feature("option", "delta of a share", along=lambda s, task: s.hedges.delta),
    "hedge_gamma": Feature(
        "option", "gamma S 0.2 sqrt(dt)", along=lambda s, task: s.hedges.gamma * curvature(s)[:, :, None]
    ),
    "hedge_vega": Feature(
        "option",
        "vega / (S sqrt(T))",
        along=lambda s, task: s.hedges.vega / (s.spot * float(s.times[-1]) ** 0.5)[:, :, None],
    ),
    "holdings": Feature("instrument", "shares held / size", now=_holdings),
    "cost": Feature("instrument", "1,000 x linear cost of a share / S", now=_cost_of),
    "net_delta": Feature(
        "path", "delta of liabilities and holdings / size", now=_net("delta", lambda s: 1.0 + 0.0 * s.spot)
    ),
    "net_gamma": Feature("path", "their gamma x S 0.2 sqrt(dt) / size", now=_net("gamma", curvature)),
    "net_vega": Feature(
        "path", "their vega / (size S sqrt(T))", now=_net("vega", lambda s: 1.0 / (s.spot * float(s.times[-1]) ** 0.5))
    ),
    "pnl": Feature("path", "P&L so far / (size S_0 0.2 sqrt(T))", now=_wealth_gained),
}


def _of_prices(name: str, estimate: Estimate) -> Feature:
    low, high = (-BOUND if estimate.low is None else estimate.low), (BOUND if estimate.high is None else estimate.high)
    return Feature("path", estimate.formula, low, high, lambda s, task: estimate.along(name, s))


FEATURES |= {name: _of_prices(name, estimate) for name, estimate in ESTIMATES.items()}

_DEFAULTS: dict[str, tuple[str, ...]] = {
    "ShortOption": (
        "time_left",
        "step_return",
        "volatility",
        "liability_moneyness",
        "liability_value",
        "liability_delta",
        "liability_gamma",
        "liability_vega",
        "holdings",
        "net_delta",
        "pnl",
    ),
    "SpyOverlay": (
        "time_left",
        "roll_time_left",
        "step_return",
        "volatility",
        "hedge_moneyness",
        "hedge_delta",
        "holdings",
        "net_delta",
        "net_vega",
        "pnl",
    ),
    "OptionBook": (
        "time_left",
        "step_return",
        "volatility",
        "liability_delta",
        "liability_gamma",
        "liability_vega",
        "liability_theta",
        "hedge_time_left",
        "hedge_moneyness",
        "hedge_delta",
        "hedge_gamma",
        "hedge_vega",
        "cost",
        "holdings",
        "net_delta",
        "net_gamma",
        "net_vega",
        "pnl",
    ),
}

_HEDGE_OPTIONS = ("hedge_time_left", "hedge_moneyness", "hedge_delta", "hedge_gamma", "hedge_vega", "cost")


def default_features(task: Task) -> tuple[str, ...]:
    """The features that a task shows unless it is told otherwise.

    A short option that may be hedged with options shows what these are, too.
    """
    names = _DEFAULTS.get(task.name, _DEFAULTS["OptionBook"])
    if isinstance(task, ShortOption) and task.hedge_options:
        place = names.index("holdings")
        return names[:place] + _HEDGE_OPTIONS + names[place:-1] + ("net_gamma", "net_vega") + names[-1:]
    return names


@dataclass(frozen=True)
class Flat:
    """A flat float32 array (n, d) of features of order one, in the order of their names; see `FEATURES`.

    A feature by option or instrument takes a column for each. Everything is clipped to the feature's range.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        _known(self.names, FEATURES, "feature")

    def columns(self, task: Task) -> list[tuple[str, int]]:
        """(feature, place among the options or instruments) by index."""
        k = len(task.instruments)
        options = k - (task.instruments[:1] == ("underlying",))
        counts = {"path": 1, "option": options, "instrument": k}
        return [(name, place) for name in self.names for place in range(counts[FEATURES[name].per])]

    def space(self, task: Task) -> spaces.Space[Any]:
        """The space of one environment's observations."""
        columns = self.columns(task)
        if not columns:
            raise ValueError(f"observation must show something in {task.name}, got only {self.names}")
        for name in ESTIMATES.keys() & set(self.names) if task.simulated else ():
            ESTIMATES[name].refuse_without_past(name)
        low, high = (
            np.array([getattr(FEATURES[name], end) for name, _ in columns], np.float32) for end in ("low", "high")
        )
        return spaces.Box(low, high, dtype=np.float32)

    def table(self, task: Task) -> str:
        """The features by index, for reading."""
        instruments = task.instruments
        options = instruments[1:] if instruments[:1] == ("underlying",) else instruments
        rows = []
        for index, (name, place) in enumerate(self.columns(task)):
            feature = FEATURES[name]
            which = {"path": "", "option": options, "instrument": instruments}[feature.per]
            label = f"{name} ({which[place]})" if which else name
            rows.append(f"{index:3d}  {label:32s}  {feature.formula}  [{feature.low:g}, {feature.high:g}]")
        return "\n".join(rows)

    def prepare(self, scenario: Scenario, task: Task) -> Prepared:
        """See `Environment.prepare`."""
        xp = array_namespace(scenario.spot)
        where = device(scenario.spot)
        counts: dict[str, int] = {}
        for name, _ in self.columns(task):
            counts[name] = counts.get(name, 0) + 1
        shape = (scenario.n_steps + 1, scenario.n_paths, sum(counts.values()))
        fixed = xp.zeros(shape, dtype=xp.float32, device=where)
        first, held = 0, []
        for name, count in counts.items():
            feature, columns = FEATURES[name], slice(first, first + count)
            first += count
            if feature.along is None:
                held.append((name, columns))
                continue
            values = clip(feature.along(scenario, task), feature.low, feature.high)
            fixed[:, :, columns] = xp.astype(values[:, :, None] if values.ndim == 2 else values, xp.float32)
        return PreparedFlat(scenario, task, fixed, tuple(held))


class PreparedFlat(Prepared):
    """What `Flat` has prepared."""

    def __init__(self, scenario: Scenario, task: Task, fixed: Array, held: tuple[tuple[str, slice], ...]) -> None:
        self.scenario = scenario
        self.task = task
        self.fixed = fixed  # (n_steps + 1, n, d), 0 in the columns of what depends on the holdings
        self.held = held
        self._now: list[tuple[slice | int, Callable[[Rollout], Array]]] | None = None
        self._copy = "clone" if hasattr(fixed, "clone") else "copy"

    def at(self, rollout: Rollout) -> Array:
        if self._now is None:
            self._now = []
            for name, columns in self.held:
                bind = FEATURES[name].now
                assert bind is not None
                wide = FEATURES[name].per != "path"
                self._now.append((columns if wide else columns.start, bind(self.scenario, self.task)))
        seen = getattr(self.fixed[rollout.step], self._copy)()
        for place, now in self._now:
            seen[:, place] = clip(now(rollout), -BOUND, BOUND)
        return seen

    def part(self, first: int, stop: int) -> Prepared:
        return PreparedFlat(self.scenario.part(first, stop), self.task, self.fixed[:, first:stop], self.held)

    def beside(self, scenario: Scenario) -> Prepared:
        return PreparedFlat(scenario, self.task, self.fixed.clone(), self.held)

    def fill(self, other: Prepared) -> None:
        assert isinstance(other, PreparedFlat)
        self.fixed.copy_(other.fixed)
